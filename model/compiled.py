"""A VAE compiled for sampling: its weights as they are now, at the least cost a network pass.

`compile_vae` is the one entry. Whatever it cannot improve works as it is: a VAE of two Python
functions goes through every sampler too. What it does, where it can:

- Networks of Keras are frozen in inference mode: their weights become constants, and no sweep reads
  a variable.
- Of stacks of Dense layers the products are left to the library, in the precision asked for where
  they are wide; what is element-wise between two of them is fused, forward and backward.
- The decoder's last bias is left to the likelihood (`ShiftedLikelihood`), which adds it within its
  own fused cluster.
- For p(x_obs | z) the outputs of values that are never observed are not computed
  (`CompiledVAE.restrict_to`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from vaefill.model.likelihoods import Likelihood
from vaefill.model.priors import Flow
from vaefill.model.self_masking import SelfMaskingBernoulli
from vaefill.model.vae import VAE

Network = Callable[[tf.Tensor], tf.Tensor]
_Gradient = Callable[[tf.Tensor], tf.Tensor]  # by outputs -> by inputs

_NARROW = 64  # products with so few inputs or outputs cost nothing; their rounding is what shows


class RestrictedDecoder(NamedTuple):
    """A decoder in two parts, for samplers that need p(x_S | z) of some values S and no more."""

    values: np.ndarray  # [S] the values S, indices among all D
    features: Network  # z [N, K] -> [N, F] that outputs are made from
    outputs: Network  # features -> outputs of the values S, for `likelihood`
    all_outputs: Network  # features -> outputs of all D values
    likelihood: Likelihood  # of the values S


@dataclasses.dataclass(frozen=True)
class CompiledVAE(VAE):
    """What `compile_vae` makes of a VAE; for samplers it is one.

    Attributes:
        restricted: the decoder of some values, if `restrict_to` made this VAE; see
            `restricted_decoder`.
    """

    restricted: RestrictedDecoder | None = None

    @property
    def supports_restriction(self) -> bool:
        """Whether the decoder can make some outputs without the others, and p(x_obs | z) takes no
        more: with a model of masks missing values say something of z too.
        """
        return isinstance(self.decoder, FrozenMLP) and self.likelihood.missingness is None

    def restrict_to(self, values: np.ndarray) -> "CompiledVAE":
        """This VAE with its restricted decoder that of some values; all else stays.

        Args:
            values: [S] indices among the `num_values`, ascending.

        Raises:
            ValueError: the decoder makes all outputs or none, or all are needed; see
                `supports_restriction`.
        """
        if not isinstance(self.decoder, FrozenMLP):
            raise ValueError("a decoder can be restricted if it is a stack of Dense layers")
        if self.likelihood.missingness is not None:
            raise ValueError("with a model of masks a decoder cannot be restricted")
        features, last = self.decoder.split()
        likelihood, outputs = self.likelihood.restrict(values, self.num_values)
        # mypy does not see that a NamedTuple may be callable.
        some, every = cast(Network, last.only(outputs)), cast(Network, last)
        restricted = RestrictedDecoder(values, features, some, every, likelihood)
        return dataclasses.replace(self, restricted=restricted)


def restricted_decoder(vae: VAE) -> RestrictedDecoder:
    """The decoder that `restrict_to` gave a VAE, or else that of all its values.

    The features of the latter are the outputs themselves.
    """
    if isinstance(vae, CompiledVAE) and vae.restricted is not None:
        return vae.restricted
    values = np.arange(vae.num_values)
    return RestrictedDecoder(values, vae.decoder, tf.identity, tf.identity, vae.likelihood)


def compile_vae(vae: VAE, precision: str) -> CompiledVAE:
    """A VAE with its weights as they are now, for many network passes.

    Its decoder and its likelihood go together: where the decoder was a stack of Dense layers, its
    outputs are without the last bias, and of the type of the last product.

    Args:
        vae: of any encoder and decoder; what is not a network of Keras stays as it is.
        precision: `float32`, `tensorfloat32` or `bfloat16`: of wide products in stacks of Dense
            layers, their factors and, of bfloat16, their results, forward and backward. Sums within
            a product, biases and activation functions are computed in float32 in any case. Whether
            a GPU rounds float32 factors is one setting of the process, and this sets it.

    Returns:
        A VAE for all samplers, float32 to float32 but for the decoder's outputs, with gradients by
        x and z.

    Raises:
        ValueError: a network of Keras has no weights yet.
    """
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tensorfloat32")
    encoder = _freeze(vae.encoder, precision)
    decoder = _freeze(vae.decoder, precision)
    likelihood = vae.likelihood
    if isinstance(likelihood, SelfMaskingBernoulli):
        likelihood = likelihood.frozen()
    if isinstance(decoder, FrozenMLP):
        decoder, bias = decoder.without_bias()
        if bias is not None:
            likelihood = ShiftedLikelihood(likelihood, bias)
    prior = vae.prior
    if isinstance(prior, Flow):
        prior = Flow(tuple(_freeze(each, "float32") for each in prior.conditioners))
    return CompiledVAE(encoder, decoder, likelihood, vae.data_shape, vae.latent_size, prior)


def _freeze(network: Network, precision: str) -> Network:
    """The same function with constant weights; what is not of Keras stays as it is."""
    if not isinstance(network, keras.Layer):
        return network
    if not network.built:
        name = network.name
        raise ValueError(f"network {name!r} has no weights yet: give it a keras.Input, or call it")
    if isinstance(network, keras.Sequential) and all(_is_plain(layer) for layer in network.layers):
        return _frozen_mlp(network, precision)
    constants = [(variable, tf.constant(variable.numpy())) for variable in network.variables]

    def frozen(values: tf.Tensor) -> tf.Tensor:
        with keras.StatelessScope(state_mapping=constants):
            return network(values, training=False)

    return frozen


def _is_plain(layer: keras.Layer) -> bool:
    return type(layer) is keras.layers.Dense and layer.use_bias


def _frozen_mlp(network: keras.Sequential, precision: str) -> "FrozenMLP":
    wide = [min(layer.kernel.shape) > _NARROW for layer in network.layers]
    types = [tf.bfloat16 if precision == "bfloat16" and each else tf.float32 for each in wide]
    layers = []
    for layer, dtype, result in zip(network.layers, types, [*types[1:], tf.float32]):
        kernel = tf.cast(tf.constant(layer.kernel.numpy()), dtype)
        bias = tf.constant(layer.bias.numpy())
        activation = _FUSED.get(layer.activation, layer.activation)
        layers.append(FrozenDense(kernel, tf.transpose(kernel), bias, activation, result))
    return FrozenMLP(layers)


class FrozenDense(NamedTuple):
    """A Dense layer whose weights do not change."""

    kernel: tf.Tensor  # [inputs, outputs]
    transposed: tf.Tensor  # [outputs, inputs]
    bias: tf.Tensor | None  # [outputs]; None: the products are the layer's outputs
    activation: Network
    result: tf.DType  # that of the next layer's kernel; of the last, float32

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        """[N, inputs] -> [N, outputs]."""
        if values.dtype != self.kernel.dtype:
            values = _cast(values, self.kernel.dtype)
        product = _multiply(values, self.kernel, self.transposed)
        if self.bias is None:
            return product
        return _activate(self.activation, product, self.bias, self.result)

    def only(self, outputs: np.ndarray) -> "FrozenDense":
        """The layer that makes some of the outputs, given their indices, and has no others."""
        kernel = tf.gather(self.kernel, outputs, axis=1)
        bias = None if self.bias is None else tf.gather(self.bias, outputs)
        return FrozenDense(kernel, tf.transpose(kernel), bias, self.activation, self.result)


class FrozenMLP:
    """Dense layers one after another whose weights do not change: [N, inputs] -> [N, outputs]."""

    def __init__(self, layers: Sequence[FrozenDense]):
        self._layers = tuple(layers)

    def __call__(self, values: tf.Tensor) -> tf.Tensor:
        """What the last layer makes of what the others make of the values."""
        for layer in self._layers:
            values = layer(values)
        return values

    @property
    def kernels(self) -> tuple[tf.Tensor, ...]:
        """What each layer multiplies by: [inputs, outputs] each."""
        return tuple(layer.kernel for layer in self._layers)

    def split(self) -> tuple["FrozenMLP", FrozenDense]:
        """All layers but the last, and the last."""
        return FrozenMLP(self._layers[:-1]), self._layers[-1]

    def without_bias(self) -> tuple["FrozenMLP", tf.Tensor | None]:
        """The stack without its last bias, and that bias [outputs].

        The outputs of the former are of the last product's type. A stack that does not end in a sum
        stays as it is, and the bias is None.
        """
        first, last = self._layers[:-1], self._layers[-1]
        if last.activation is not keras.activations.linear:
            return self, None
        return FrozenMLP([*first, last._replace(bias=None)]), last.bias


def _multiply(values: tf.Tensor, kernel: tf.Tensor, transposed: tf.Tensor) -> tf.Tensor:
    """values kernel; backward with a copy that lies the right way: a sixth faster in float32."""

    @tf.custom_gradient
    def of_values(values: tf.Tensor) -> tuple[tf.Tensor, _Gradient]:
        return tf.matmul(values, kernel), lambda upstream: tf.matmul(upstream, transposed)

    return of_values(values)


def _activate(
    activation: Network, product: tf.Tensor, bias: tf.Tensor, result: tf.DType
) -> tf.Tensor:
    """activation(product + bias) in the type `result`; backward it is computed again, not kept."""

    @tf.custom_gradient
    def of_product(product: tf.Tensor) -> tuple[tf.Tensor, _Gradient]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return _activated_gradient(activation, product, bias, upstream)

        return _activated(activation, product, bias, result), gradient

    return of_product(product)


# Fused clusters: as separate operations what lies between two products takes up to three times as
# long.


@tf.function(jit_compile=True, autograph=False)
def _cast(values: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(values, dtype)


@tf.function(jit_compile=True, autograph=False)
def _activated(
    activation: Network, product: tf.Tensor, bias: tf.Tensor, result: tf.DType
) -> tf.Tensor:
    return tf.cast(activation(tf.cast(product, tf.float32) + bias), result)


@tf.function(jit_compile=True, autograph=False)
def _activated_gradient(
    activation: Network, product: tf.Tensor, bias: tf.Tensor, upstream: tf.Tensor
) -> tf.Tensor:
    values = tf.cast(product, tf.float32) + bias
    with tf.GradientTape() as tape:
        tape.watch(values)
        activated = activation(values)
    return tf.cast(tape.gradient(activated, values, tf.cast(upstream, tf.float32)), product.dtype)


def _silu(values: tf.Tensor) -> tf.Tensor:
    """values sigmoid(values), within 1e-7 of the larger of 1 and |values|.

    It takes half of the time of TensorFlow's own.
    """
    return values * (0.5 + 0.5 * tf.tanh(0.5 * values))


_FUSED = {keras.activations.silu: _silu}  # activations that have a faster form for a fused cluster


class ShiftedLikelihood:
    """A likelihood of decoder outputs that lack the bias of the decoder's last layer.

    Adding it is then fused with whatever reads them, instead of a pass over all outputs of its own.
    Outputs are of any floating type.

    Args:
        likelihood: of outputs with their bias.
        bias: [num_outputs] float32.
    """

    def __init__(self, likelihood: Likelihood, bias: tf.Tensor):
        self._likelihood = likelihood
        self._bias = bias
        self.name = likelihood.name
        self.dtype = likelihood.dtype
        self.unit = likelihood.unit
        self.binary = likelihood.binary
        self.standardization = likelihood.standardization
        self.missingness = likelihood.missingness
        self.num_outputs = likelihood.num_outputs
        self.from_data = likelihood.from_data
        self.to_data = likelihood.to_data

    def _whole(self, outputs: tf.Tensor) -> tf.Tensor:
        return tf.cast(outputs, tf.float32) + self._bias

    def restrict(self, values: np.ndarray, num_values: int) -> tuple[Likelihood, np.ndarray]:
        """As the protocol says; the bias is restricted too."""
        likelihood, outputs = self._likelihood.restrict(values, num_values)
        return ShiftedLikelihood(likelihood, tf.gather(self._bias, outputs)), outputs

    def distribution(self, outputs: tf.Tensor) -> tfd.Distribution:
        """p(x | z), event shape [D]."""
        return self._likelihood.distribution(self._whole(outputs))

    def log_prob(self, outputs: tf.Tensor, x: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        """log p of the chosen entries of x: [...], in nats."""
        return self._likelihood.log_prob(self._whole(outputs), x, chosen)

    def log_prob_observed(self, outputs: tf.Tensor, x: tf.Tensor, observed: tf.Tensor) -> tf.Tensor:
        """log p(x_obs | z), or with a model of masks log p(x_obs, s | z): [...], in nats."""
        return self._likelihood.log_prob_observed(self._whole(outputs), x, observed)

    def sample(self, outputs: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Draws missing values by inversion from uniform numbers in (0, 1): [..., D]."""
        return self._likelihood.sample(self._whole(outputs), uniform)

    def moments(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and variance of each value given z, if it is missing: two tensors [..., D]."""
        return self._likelihood.moments(self._whole(outputs))
