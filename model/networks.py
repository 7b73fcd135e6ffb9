"""Architectures: pairs of Keras networks between values [N, D] and latents [N, K].

A new architecture is a function as `Architecture` describes it: here, with an entry in
`_ARCHITECTURES` and its name in `config.BUILT_IN_ARCHITECTURES`, or in any installed package, as an
entry point of the group `vaefill.architectures`. A VAE needs no architecture: any pair of callables
of these shapes makes one (`vaefill.model.vae`).
"""

import math
from importlib.metadata import entry_points
from typing import Protocol

import keras

from vaefill.model.config import ARCHITECTURES_GROUP, ModelConfig
from vaefill.model.errors import ModelError


class Architecture(Protocol):
    """A function that makes an encoder and a decoder."""

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
    encoder = dense_stack("encoder", sizes, config.activation, 1_000 * seed)
    sizes = (config.latent_size, *config.hidden[::-1], num_outputs)
    decoder = dense_stack("decoder", sizes, config.activation, 1_000 * seed + 500)
    return encoder, decoder


def dense_stack(
    name: str, sizes: tuple[int, ...], activation: str, seed: int, ends_in_zeros: bool = False
) -> keras.Sequential:
    """Dense layers between values of these sizes, the last without an activation.

    Args:
        name: of the network.
        sizes: of the inputs, of each layer's outputs.
        activation: of all layers but the last.
        seed: of the initial kernels, and so many of the integers from it on as there are layers.
        ends_in_zeros: whether the outputs are zero to begin with.
    """
    layers = [keras.Input((sizes[0],))]
    last = len(sizes) - 2
    for i, width in enumerate(sizes[1:]):
        layer = keras.layers.Dense(
            width,
            activation=None if i == last else activation,
            kernel_initializer="zeros"
            if i == last and ends_in_zeros
            else keras.initializers.GlorotUniform(seed=seed + i),
            name="outputs" if i == last else f"hidden_{i}",
        )
        layers.append(layer)
    return keras.Sequential(layers, name=name)


def conv_resnet(
    config: ModelConfig, data_shape: tuple[int, int, int], num_outputs: int, seed: int
) -> tuple[keras.Model, keras.Model]:
    """Convolutional networks with residual blocks (He et al. 2016, with activations first), for
    images of any size.

    The encoder has a level for each of `hidden`, so many channels at half the height and width of
    the level before, rounded up, the first at half of the image's, and a block a level; the decoder
    goes the same way back. At the image's own size there is no convolution: what it would cost goes
    further at a quarter of the places, each of which makes four (Shi et al. 2016, sub-pixel
    convolution, arXiv:1609.05158). A block begins as the identity: its last kernel is zero.

    Args:
        config: `hidden`, channels by level, `activation`, and the latents' number K.
        data_shape: (H, W, C) of a record.
        num_outputs: P H W C, of P parameters a value.
        seed: of the initial weights.

    Returns:
        (encoder, decoder): [N, D] -> [N, 2 K], and [N, K] -> [N, num_outputs].
    """
    sides = [data_shape[:2]]
    for _ in config.hidden:
        sides.append((-(-sides[-1][0] // 2), -(-sides[-1][1] // 2)))

    layers = _Convolutions(config.activation, 1_000 * seed)
    inputs = keras.Input((math.prod(data_shape),))
    x = layers.convolution(keras.layers.Reshape(data_shape)(inputs), config.hidden[0], 4, strides=2)
    x = layers.block(x)
    for num_channels in config.hidden[1:]:
        x = layers.block(layers.convolution(layers.activated(x), num_channels, strides=2))
    x = keras.layers.Flatten()(layers.activated(x))
    encoder = keras.Model(inputs, layers.dense(x, 2 * config.latent_size), name="encoder")

    layers = _Convolutions(config.activation, 1_000 * seed + 500)
    inputs = keras.Input((config.latent_size,))
    x = layers.dense(inputs, math.prod(sides[-1]) * config.hidden[-1])
    x = layers.block(keras.layers.Reshape((*sides[-1], config.hidden[-1]))(x))
    for level in reversed(range(1, len(config.hidden))):
        x = layers.block(layers.doubled(x, config.hidden[level - 1], sides[level]))
    x = layers.doubled(x, num_outputs // math.prod(sides[0]), sides[0])
    x = keras.layers.Reshape((math.prod(sides[0]), -1, data_shape[2]))(x)
    x = keras.layers.Flatten()(keras.layers.Permute((2, 1, 3))(x))  # parameter by parameter
    return encoder, keras.Model(inputs, x, name="decoder")


class _Convolutions:
    """The layers of a convolutional network, with weights by a seed and names by their order."""

    def __init__(self, activation: str, seed: int):
        self._activation, self._seed, self._num = activation, seed, 0

    def activated(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.layers.Activation(self._activation)(x)

    def convolution(
        self,
        x: keras.KerasTensor,
        num_channels: int,
        size: int = 3,
        strides: int = 1,
        is_zero: bool = False,
    ) -> keras.KerasTensor:
        return keras.layers.Conv2D(
            num_channels,
            size,
            strides,
            padding="same",
            kernel_initializer="zeros" if is_zero else self._initializer(),
            name=self._name("convolution"),
        )(x)

    def dense(self, x: keras.KerasTensor, width: int) -> keras.KerasTensor:
        return keras.layers.Dense(
            width, kernel_initializer=self._initializer(), name=self._name("dense")
        )(x)

    def block(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """A residual block of as many channels as there are."""
        num_channels = x.shape[-1]
        inner = self.convolution(self.activated(x), num_channels)
        inner = self.convolution(self.activated(inner), num_channels, is_zero=True)
        return keras.layers.Add()([x, inner])

    def doubled(
        self, x: keras.KerasTensor, num_channels: int, side: tuple[int, int]
    ) -> keras.KerasTensor:
        """So many channels at twice the height and width, cropped to `side`."""
        height, width = x.shape[1:3]
        x = self.convolution(self.activated(x), 4 * num_channels)
        x = keras.layers.Reshape((height, width, 2, 2, num_channels))(x)
        x = keras.layers.Permute((1, 3, 2, 4, 5))(x)
        x = keras.layers.Reshape((2 * height, 2 * width, num_channels))(x)
        excess = (2 * height - side[0], 2 * width - side[1])
        return keras.layers.Cropping2D(((0, excess[0]), (0, excess[1])))(x)

    def _name(self, kind: str) -> str:
        self._num += 1
        return f"{kind}_{self._num}"

    def _initializer(self) -> keras.Initializer:
        return keras.initializers.GlorotUniform(seed=self._seed + self._num)


_ARCHITECTURES: dict[str, Architecture] = {"mlp": mlp, "conv_resnet": conv_resnet}


def architecture(name: str) -> Architecture:
    """The architecture of a name that `ModelConfig` has checked.

    Raises:
        ModelError: the package that brings it has not got it.
    """
    if name in _ARCHITECTURES:
        return _ARCHITECTURES[name]
    (found, *_) = entry_points(group=ARCHITECTURES_GROUP, name=name)
    try:
        return found.load()
    except (ImportError, AttributeError) as error:
        raise ModelError(
            f"model.architecture {name}: {found.value} is not there: {error}"
        ) from None
