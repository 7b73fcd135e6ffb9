"""The variational autoencoder: prior, encode, decode.

p(z) = N(0, I), p(x | z) = prod_d p(x_d | z), and the encoder's q(z | x) = N(loc(x), diag(scale(x)^2)),
an approximation of p(z | x) (Kingma & Welling 2014; Rezende et al. 2014).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vaefill.model.config import ModelConfig
from vaefill.model.likelihoods import LIKELIHOODS, Likelihood, Shifted
from vaefill.model.networks import ARCHITECTURES, Stack, for_inference

tfd = tfp.distributions

_SMALLEST_SCALE = 1e-4  # keeps log q finite for a latent that the encoder is sure of


class View(NamedTuple):
    """The decoder where no values but some can be observed: for p(x_obs | z) the outputs of the others are not needed.

    A VAE that has all values in view has the outputs themselves for features.
    """

    values: np.ndarray  # [S] those that are in view, of D
    features: Callable[[tf.Tensor], tf.Tensor]  # z [N, K] -> what outputs are made from
    seen: Callable[[tf.Tensor], tf.Tensor]  # features -> outputs of the values in view, [N, S * outputs_per_value]
    outputs: Callable[[tf.Tensor], tf.Tensor]  # features -> outputs of all values, [N, D * outputs_per_value]
    likelihood: Likelihood  # of the outputs of the values in view


@dataclasses.dataclass(frozen=True)
class VAE:
    """A VAE of any encoder, decoder and likelihood that fit.

    Attributes:
        encoder: x [N, D] -> [N, 2 K].
        decoder: z [N, K] -> [N, D * likelihood.outputs_per_value], of the type that the likelihood takes.
        likelihood: decoder outputs -> distribution of x.
        data_shape: (H, W, C) with H W C = D.
        latent_size: K.
        view: for samplers that need p(x_obs | z) alone.
    """

    encoder: Callable[[tf.Tensor], tf.Tensor]
    decoder: Callable[[tf.Tensor], tf.Tensor]
    likelihood: Likelihood
    data_shape: tuple[int, int, int]
    latent_size: int
    restricted: View | None = None

    @property
    def view(self) -> View:
        """Of all values, but for a VAE made by `looking_at`."""
        if self.restricted is not None:
            return self.restricted
        return View(np.arange(self.num_values), self.decoder, tf.identity, tf.identity, self.likelihood)

    @property
    def can_look(self) -> bool:
        """Whether the decoder can make some outputs without the others, for `looking_at`."""
        return isinstance(self.decoder, Stack)

    def looking_at(self, values: np.ndarray) -> "VAE":
        """This VAE with some values [S] in view, of `num_values`."""
        features, last = self.decoder.split()
        outputs = (np.arange(self.likelihood.outputs_per_value)[:, np.newaxis] * self.num_values + values).ravel()
        likelihood = self.likelihood.only(outputs) if isinstance(self.likelihood, Shifted) else self.likelihood
        return dataclasses.replace(self, restricted=View(values, features, last.only(outputs), last, likelihood))

    @property
    def num_values(self) -> int:
        """D, the values of a record."""
        return math.prod(self.data_shape)

    @property
    def prior(self) -> tfd.Distribution:
        """p(z), event shape [K]."""
        return tfd.MultivariateNormalDiag(loc=tf.zeros(self.latent_size))

    def encode(self, x: tf.Tensor) -> tfd.MultivariateNormalDiag:
        """q(z | x) for x [N, D]: batch shape [N], event shape [K]."""
        loc, raw_scale = tf.split(self.encoder(x), 2, axis=-1)
        return tfd.MultivariateNormalDiag(loc, tf.nn.softplus(raw_scale) + _SMALLEST_SCALE)

    def decode(self, z: tf.Tensor) -> tfd.Distribution:
        """p(x | z) for z [N, K]: batch shape [N], event shape [D]."""
        return self.likelihood.distribution(self.decoder(z))

    def log_likelihood(self, z: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """log p(x | z) of complete x [N, D]: [N], nats."""
        return _log_prob(self.likelihood, self.decoder(z), x)

    def for_inference(self, precision: str) -> "VAE":
        """This VAE with its weights as they are now, for many passes; `networks.for_inference` says how.

        A decoder that ends in a sum leaves its last bias to the likelihood: its outputs are without it, and of the type
        of its last product.

        Args:
            precision: see `sampler.precision`. Whether a GPU rounds float32 factors is one setting of the process,
                and this sets it.
        """
        tf.config.experimental.enable_tensor_float_32_execution(precision == "tensorfloat32")
        encoder, decoder = (for_inference(network, precision) for network in (self.encoder, self.decoder))
        likelihood, bias = self.likelihood, None
        if isinstance(decoder, Stack):
            decoder, bias = decoder.without_bias()
        if bias is not None:
            likelihood = Shifted(likelihood, bias)
        return dataclasses.replace(self, encoder=encoder, decoder=decoder, likelihood=likelihood, restricted=None)


@tf.function(jit_compile=True, reduce_retracing=True)  # a quarter of the time of the separate operations
def _log_prob(likelihood: Likelihood, outputs: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    return likelihood.log_prob(outputs, x, tf.ones_like(x, tf.bool))


def build(config: ModelConfig, data_shape: tuple[int, int, int], seed: int = 0) -> VAE:
    """A VAE of a configured architecture with fresh weights.

    Args:
        config: the architecture and likelihood.
        data_shape: (H, W, C).
        seed: of the initial weights; the same seed gives the same weights.
    """
    likelihood = LIKELIHOODS[config.likelihood]()
    encoder, decoder = ARCHITECTURES[config.architecture](
        config, math.prod(data_shape), likelihood.outputs_per_value, seed
    )
    return VAE(encoder, decoder, likelihood, tuple(data_shape), config.latent_size)
