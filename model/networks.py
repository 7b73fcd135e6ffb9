"""Encoders and decoders: Keras networks between values [N, D] and latents [N, K].

An encoder maps x [N, D] to [N, 2 K], the location and the unconstrained scale of q(z | x); a decoder
maps z [N, K] to [N, D * outputs_per_value], the parameters of the likelihood. Any pair of callables of
these shapes makes a VAE (`model.vae`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vaefill.model.config import ModelConfig

_NARROW = 64  # products with so few inputs or outputs cost nothing, and are those whose rounding shows


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


def for_inference(network: Callable, precision: str) -> Callable:
    """A network with its weights as they are now, at the least cost.

    Of a stack of Dense layers the products are left to the library, in `precision` where they are wide, and what
    is element-wise between two of them is fused, forward and backward. Any other network is returned as it is.

    Args:
        network: [N, inputs] -> [N, outputs].
        precision: `float32`, `tensorfloat32` or `bfloat16`: of wide products, their factors and, of bfloat16, their
            results, forward and backward. Sums within a product, biases and activation functions are computed in
            float32 in any case.

    Returns:
        A function of the same shapes and types, float32 to float32, with a gradient by its argument.
    """
    if not isinstance(network, keras.Sequential) or not all(_is_plain(layer) for layer in network.layers):
        return network
    rounded = [precision == "bfloat16" and min(layer.kernel.shape) > _NARROW for layer in network.layers]
    types = [tf.bfloat16 if each else tf.float32 for each in rounded]
    layers = []
    for layer, dtype, result in zip(network.layers, types, [*types[1:], tf.float32]):
        kernel, bias = tf.cast(tf.constant(layer.kernel.numpy()), dtype), tf.constant(layer.bias.numpy())
        layers.append(Layer(kernel, tf.transpose(kernel), bias, _FUSED.get(layer.activation, layer.activation), result))
    return Stack(layers)


class Layer(NamedTuple):
    """A Dense layer whose weights do not change."""

    kernel: tf.Tensor  # [inputs, outputs]
    transposed: tf.Tensor  # [outputs, inputs]
    bias: tf.Tensor | None  # [outputs]; None: the products are the layer's outputs
    activation: Callable
    result: tf.DType  # that of the next layer's kernel; of the last, float32

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        """[N, inputs] -> [N, outputs]."""
        if values.dtype != self.kernel.dtype:
            values = _cast(values, self.kernel.dtype)
        product = _multiply(values, self.kernel, self.transposed)
        if self.bias is None:
            return product
        return _activate(self.activation, product, self.bias, self.result)

    def only(self, outputs: np.ndarray) -> "Layer":
        """The layer that makes some of the outputs, and has no others."""
        kernel = tf.gather(self.kernel, outputs, axis=1)
        bias = None if self.bias is None else tf.gather(self.bias, outputs)
        return Layer(kernel, tf.transpose(kernel), bias, self.activation, self.result)


class Stack:
    """Layers one after another: [N, inputs] -> [N, outputs]."""

    def __init__(self, layers: Sequence[Layer]):
        self._layers = tuple(layers)

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        """What the last layer makes of what the others make of the values."""
        for layer in self._layers:
            values = layer(values)
        return values

    def split(self) -> tuple["Stack", Layer]:
        """All layers but the last, and the last."""
        return Stack(self._layers[:-1]), self._layers[-1]

    def without_bias(self) -> tuple["Stack", tf.Tensor | None]:
        """The stack without its last bias, whose outputs are of the last product's type, and that bias [outputs].

        A stack that does not end in a sum stays as it is.
        """
        first, last = self._layers[:-1], self._layers[-1]
        if last.activation is not keras.activations.linear:
            return self, None
        return Stack([*first, last._replace(bias=None)]), last.bias


def _is_plain(layer: keras.layers.Layer) -> bool:
    return type(layer) is keras.layers.Dense and layer.built and layer.use_bias


def _multiply(values: tf.Tensor, kernel: tf.Tensor, transposed: tf.Tensor) -> tf.Tensor:
    """values kernel; backward with a copy that lies the right way: in float32 the product is a sixth faster."""

    @tf.custom_gradient
    def of_values(values):
        return tf.matmul(values, kernel), lambda upstream: tf.matmul(upstream, transposed)

    return of_values(values)


def _activate(activation: Callable, product: tf.Tensor, bias: tf.Tensor, result: tf.DType) -> tf.Tensor:
    """activation(product + bias) in the type `result`; backward it is computed again, not kept."""

    @tf.custom_gradient
    def of_product(product):
        return _activated(activation, product, bias, result), lambda upstream: _activated_gradient(
            activation, product, bias, upstream
        )

    return of_product(product)


# Fused clusters: as separate operations what lies between two products takes up to three times as long.


@tf.function(jit_compile=True)
def _cast(values, dtype):
    return tf.cast(values, dtype)


@tf.function(jit_compile=True)
def _activated(activation, product, bias, result):
    return tf.cast(activation(tf.cast(product, tf.float32) + bias), result)


@tf.function(jit_compile=True)
def _activated_gradient(activation, product, bias, upstream):
    values = tf.cast(product, tf.float32) + bias
    with tf.GradientTape() as tape:
        tape.watch(values)
        activated = activation(values)
    return tf.cast(tape.gradient(activated, values, tf.cast(upstream, tf.float32)), product.dtype)


def _silu(values: tf.Tensor) -> tf.Tensor:
    """values sigmoid(values), within 1e-7 of the larger of 1 and |values|; in half the time of TensorFlow's own."""
    return values * (0.5 + 0.5 * tf.tanh(0.5 * values))


_FUSED = {keras.activations.silu: _silu}  # activations that have a faster form for a fused cluster
