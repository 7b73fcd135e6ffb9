"""Architectures: pairs of Keras networks between values [N, D] and latents [N, K].

A new architecture is a function as `Architecture` describes it, an entry in `ARCHITECTURES`, and
its name in `vaefill.model.config.ModelConfig.architecture`. A VAE needs no architecture: any pair
of callables of these shapes makes one (`vaefill.model.vae`).
"""

import math
from typing import Protocol

import keras

from vaefill.model.config import ModelConfig


class Architecture(Protocol):
    """What `ARCHITECTURES` holds: a function that makes an encoder and a decoder."""

    def __call__(
        self, config: ModelConfig, data_shape: tuple[int, int, int], num_outputs: int, seed: int
    ) -> tuple[keras.Model, keras.Model]:
        """Makes both networks with fresh weights.

        They have their weights at once (`built`), and every layer with weights has a name of its
        own, the same in every process: the model directory holds weights by these names.

        Args:
            config: the settings of the architecture.
            data_shape: (H, W, C) of a record; networks see it flat, D = H W C, rows first and
                channels last.
            num_outputs: what the likelihood reads of the decoder; parameter by parameter, each of D
                values.
            seed: of the initial weights; the same seed gives the same weights.

        Returns:
            (encoder, decoder): x [N, D] -> [N, 2 K], the location and the unconstrained scale of
            q(z | x), and z [N, K] -> [N, num_outputs]. They are called with `training=True` in
            training, and else without.
        """


def mlp(
    config: ModelConfig, data_shape: tuple[int, int, int], num_outputs: int, seed: int
) -> tuple[keras.Sequential, keras.Sequential]:
    """Fully connected networks, the decoder's widths the encoder's in reverse.

    Args:
        config: `hidden` and `activation`, and the latents' number K.
        data_shape: (H, W, C) of a record, of which only the product D matters.
        num_outputs: what the likelihood reads of the decoder.
        seed: of the initial weights.

    Returns:
        (encoder, decoder): [N, D] -> [N, 2 K], and [N, K] -> [N, num_outputs].
    """
    sizes = (math.prod(data_shape), *config.hidden, 2 * config.latent_size)
    encoder = _dense_stack("encoder", sizes, config.activation, 1_000 * seed)
    sizes = (config.latent_size, *config.hidden[::-1], num_outputs)
    decoder = _dense_stack("decoder", sizes, config.activation, 1_000 * seed + 500)
    return encoder, decoder


def _dense_stack(name: str, sizes: tuple[int, ...], activation: str, seed: int) -> keras.Sequential:
    """Dense layers between values of these sizes, the last without an activation."""
    layers = [keras.Input((sizes[0],))]
    last = len(sizes) - 2
    for i, width in enumerate(sizes[1:]):
        layer = keras.layers.Dense(
            width,
            activation=None if i == last else activation,
            kernel_initializer=keras.initializers.GlorotUniform(seed=seed + i),
            name="outputs" if i == last else f"hidden_{i}",
        )
        layers.append(layer)
    return keras.Sequential(layers, name=name)


ARCHITECTURES: dict[str, Architecture] = {"mlp": mlp}
