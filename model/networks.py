"""Encoders and decoders: Keras networks between values [N, D] and latents [N, K].

An encoder maps x [N, D] to [N, 2 K], the location and the unconstrained scale of q(z | x); a decoder
maps z [N, K] to [N, D * outputs_per_value], the parameters of the likelihood. Any pair of callables of
these shapes makes a VAE (`model.vae`).
"""

import keras

from model.config import ModelConfig


def _dense_stack(name: str, inputs: int, hidden: tuple[int, ...], outputs: int, activation: str, seed: int):
    def initializer(layer):
        return keras.initializers.GlorotUniform(seed=seed + layer)

    layers = [
        keras.layers.Dense(width, activation=activation, kernel_initializer=initializer(i), name=f"hidden_{i}")
        for i, width in enumerate(hidden)
    ]
    layers.append(keras.layers.Dense(outputs, kernel_initializer=initializer(len(hidden)), name="outputs"))
    return keras.Sequential([keras.Input((inputs,)), *layers], name=name)


def mlp(config: ModelConfig, num_values: int, outputs_per_value: int, seed: int):
    """Fully connected encoder and decoder, the decoder's widths the encoder's in reverse.

    Args:
        config: the architecture.
        num_values: D, values of a record.
        outputs_per_value: what the likelihood needs of the decoder.
        seed: of the initial weights.

    Returns:
        (encoder, decoder), two `keras.Sequential`.
    """
    encoder = _dense_stack(
        "encoder", num_values, config.hidden, 2 * config.latent_size, config.activation, 1_000 * seed
    )
    decoder = _dense_stack(
        "decoder",
        config.latent_size,
        config.hidden[::-1],
        num_values * outputs_per_value,
        config.activation,
        1_000 * seed + 500,
    )
    return encoder, decoder


ARCHITECTURES = {"mlp": mlp}
