"""The variational autoencoder: prior, encode, decode.

p(z) = N(0, I) or a learnt density, p(x | z) = prod_d p(x_d | z), and the encoder's q(z | x) =
N(loc(x), diag(scale(x)^2)), an approximation of p(z | x) (Kingma & Welling 2014; Rezende et al.
2014).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import cast

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from vaefill.model import priors
from vaefill.model.config import ModelConfig
from vaefill.model.likelihoods import LIKELIHOODS, Likelihood
from vaefill.model.networks import architecture
from vaefill.model.priors import Prior
from vaefill.model.self_masking import SelfMasking, SelfMaskingBernoulli
from vaefill.model.standardization import Standardization

_SMALLEST_SCALE = 1e-4  # keeps log q finite for a latent that the encoder is sure of


@dataclasses.dataclass(frozen=True)
class VAE:
    """A VAE of any encoder, decoder and likelihood that fit.

    Attributes:
        encoder: x [N, D] -> [N, 2 K].
        decoder: z [N, K] -> [N, likelihood.num_outputs(D)], of the type that the likelihood takes.
        likelihood: decoder outputs -> distribution of x.
        data_shape: (H, W, C) with H W C = D.
        latent_size: K.
        prior: p(z).
    """

    encoder: Callable[[tf.Tensor], tf.Tensor]
    decoder: Callable[[tf.Tensor], tf.Tensor]
    likelihood: Likelihood
    data_shape: tuple[int, int, int]
    latent_size: int
    prior: Prior = priors.STANDARD_NORMAL

    @property
    def num_values(self) -> int:
        """D, the values of a record."""
        return math.prod(self.data_shape)

    def encode(self, x: tf.Tensor) -> tfd.MultivariateNormalDiag:
        """q(z | x) for x [N, D]: batch shape [N], event shape [K]."""
        loc, raw_scale = tf.split(self.encoder(x), 2, axis=-1)
        return tfd.MultivariateNormalDiag(loc, tf.nn.softplus(raw_scale) + _SMALLEST_SCALE)

    def decode(self, z: tf.Tensor) -> tfd.Distribution:
        """p(x | z) for z [N, K]: batch shape [N], event shape [D]."""
        return self.likelihood.distribution(self.decoder(z))

    def log_likelihood(
        self, z: tf.Tensor, x: tf.Tensor, observed: tf.Tensor | None = None
    ) -> tf.Tensor:
        """log p(x | z) of x [N, D], or where it is said what is observed [N, D] log p(x_obs | z),
        with a model of masks log p(x_obs, s | z): [N], nats.
        """
        return _log_prob(self.likelihood, self.decoder(z), x, observed)


# Fused it takes a quarter of the time of the separate operations.
@tf.function(jit_compile=True, reduce_retracing=True, autograph=False)
def _log_prob(
    likelihood: Likelihood, outputs: tf.Tensor, x: tf.Tensor, observed: tf.Tensor | None
) -> tf.Tensor:
    if observed is None:
        return likelihood.log_prob(outputs, x, tf.ones_like(x, tf.bool))
    return likelihood.log_prob_observed(outputs, x, observed)


def build(
    config: ModelConfig,
    data_shape: tuple[int, int, int],
    seed: int = 0,
    standardization: Standardization | None = None,
) -> VAE:
    """A VAE of a configured architecture with fresh weights.

    Args:
        config: the architecture and likelihood.
        data_shape: (H, W, C).
        seed: of the initial weights; the same seed gives the same weights.
        standardization: of the D = H W C values, if the data are real ones.
    """
    likelihood = LIKELIHOODS[config.likelihood]()
    if config.missingness != "ignorable":  # of values that are binary
        per_value = config.missingness == "self_masking_per_value"
        likelihood = SelfMaskingBernoulli(SelfMasking(math.prod(data_shape) if per_value else 1))
    likelihood.standardization = standardization
    num_outputs = likelihood.num_outputs(math.prod(data_shape))
    encoder, decoder = architecture(config.architecture)(config, data_shape, num_outputs, seed)
    prior = priors.build(config, seed)
    return VAE(encoder, decoder, likelihood, data_shape, config.latent_size, prior)


def gap_encoder(
    config: ModelConfig, data_shape: tuple[int, int, int], seed: int = 0
) -> keras.Model:
    """An encoder of records that lack values, [N, 2 D] -> [N, 2 K], with fresh weights: it sees
    twice as many channels, values and whether they are observed (`objectives.encoder_inputs`).

    Args: as for `build`.
    """
    height, width, channels = data_shape
    doubled = (height, width, 2 * channels)
    make = architecture(config.architecture)
    return make(config, doubled, math.prod(doubled), seed)[0]


def keras_networks(vae: VAE) -> tuple[keras.layers.Layer, ...]:
    """The encoder, the decoder, those of a learnt prior, and a model of masks if there is one, of a
    VAE whose networks are of Keras, as `build` makes them.
    """
    encoder, decoder = cast(keras.Model, vae.encoder), cast(keras.Model, vae.decoder)
    missingness = vae.likelihood.missingness
    of_masks = [missingness] if isinstance(missingness, SelfMasking) else []
    return encoder, decoder, *priors.networks(vae.prior), *of_masks
