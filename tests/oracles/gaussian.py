"""A linear-Gaussian VAE, where every answer is in closed form."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from tests.oracles.scale import raw_scale
from vaefill.model.likelihoods import HomogeneousLikelihood
from vaefill.model.vae import VAE

tfd = tfp.distributions


class FixedGaussian(HomogeneousLikelihood):
    """x_d ~ N(output_d, stddev^2): the likelihood of `LinearGaussian`, of the protocol
    `likelihoods.Likelihood`.
    """

    name = "fixed_gaussian"
    outputs_per_value = 1
    dtype, unit, binary = np.float32, 1.0, False

    def __init__(self, stddev: float):
        self._stddev = stddev

    def distribution(self, outputs):
        return tfd.Independent(tfd.Normal(outputs, self._stddev), reinterpreted_batch_ndims=1)

    def log_prob(self, outputs, x, chosen):
        each = tfd.Normal(outputs, self._stddev).log_prob(x)
        return tf.reduce_sum(tf.where(chosen, each, 0.0), axis=-1)

    def sample(self, outputs, uniform):
        return outputs + self._stddev * tf.math.ndtri(uniform)

    def moments(self, outputs):
        return outputs, tf.fill(tf.shape(outputs), self._stddev**2)

    def from_data(self, values, uniform=None):
        return np.asarray(values, np.float32)

    def to_data(self, x):
        return x


class Gaussian(NamedTuple):
    """N(mean [n], covariance [n, n])."""

    mean: np.ndarray
    covariance: np.ndarray

    def log_prob(self, values: np.ndarray) -> float:
        """Of values [n], nats."""
        return float(scipy.stats.multivariate_normal(self.mean, self.covariance).logpdf(values))

    def cdf(self, dimension: int) -> Callable[[np.ndarray], np.ndarray]:
        """That of one coordinate."""
        return scipy.stats.norm(
            self.mean[dimension], math.sqrt(self.covariance[dimension, dimension])
        ).cdf


class LinearGaussian:
    """p(z) = N(0, I_2), p(x | z) = N(W z + b, 0.5^2 I_6): every conditional is Gaussian, in closed
    form.

    The columns of W are orthogonal, so that p(z | x) of a complete x has a diagonal covariance and
    a diagonal encoder can be exact; p(z | x_obs) has not.

    Args:
        shift: added to the mean of the exact encoder, in its standard deviations; 0 is exact.
        width: factor of its standard deviation; 1 is exact.
    """

    num_values = 6
    latent_size = 2
    stddev = 0.5

    def __init__(self, shift: float = 0.0, width: float = 1.0):
        self._weight = np.array(
            [[1.0, 0.8, 0.6, 1.0, -0.4, 0.2], [0.4, -0.6, 0.8, 0.2, 1.0, -1.0]]
        ).T
        self._bias = np.linspace(-1.0, 1.5, self.num_values)
        exact_scale = 1 / np.sqrt(1 + (self._weight**2).sum(axis=0) / self.stddev**2)
        # E[z | x] = gain (x - b)
        self._gain = exact_scale[:, None] ** 2 * self._weight.T / self.stddev**2
        self._shift, self._scale = shift * exact_scale, width * exact_scale
        likelihood = FixedGaussian(self.stddev)
        self.vae = VAE(
            self._encoder, self._decoder, likelihood, (1, self.num_values, 1), self.latent_size
        )

    def _encoder(self, x):
        loc = (x - tf.constant(self._bias, tf.float32)) @ tf.constant(self._gain.T, tf.float32)
        loc += tf.constant(self._shift, tf.float32)
        return tf.concat(
            [loc, tf.constant(raw_scale(self._scale), tf.float32) + tf.zeros_like(loc)], axis=-1
        )

    def _decoder(self, z):
        return z @ tf.constant(self._weight.T, tf.float32) + tf.constant(self._bias, tf.float32)

    def _values(self, latent: Gaussian, chosen: np.ndarray) -> Gaussian:
        """The chosen values, of z ~ latent."""
        weight = self._weight[chosen]
        noise = self.stddev**2 * np.eye(len(weight))
        return Gaussian(
            weight @ latent.mean + self._bias[chosen], weight @ latent.covariance @ weight.T + noise
        )

    def latent_posterior(self, x: np.ndarray, observed: np.ndarray) -> Gaussian:
        """p(z | x_obs)."""
        weight = self._weight[observed]
        covariance = np.linalg.inv(np.eye(self.latent_size) + weight.T @ weight / self.stddev**2)
        return Gaussian(
            covariance @ weight.T @ (x - self._bias)[observed] / self.stddev**2, covariance
        )

    def draw_latents(
        self, x: np.ndarray, observed: np.ndarray, num: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Independent draws of p(z | x_obs): [num, 2]."""
        posterior = self.latent_posterior(x, observed)
        return (
            posterior.mean
            + rng.normal(size=(num, self.latent_size)) @ np.linalg.cholesky(posterior.covariance).T
        )

    def draw_missing(
        self, z: np.ndarray, x: np.ndarray, observed: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """x_mis ~ p(x_mis | z) for each of z [S, 2], beside x_obs: [S, 6]."""
        values = z @ self._weight.T + self._bias
        return np.where(observed, x, values + self.stddev * rng.normal(size=values.shape))

    def log_likelihood(self, z: np.ndarray, x: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """log p of the chosen [6] entries of each of x [N, 6] given each of z [S, 2]: [S, N]."""
        values = (z @ self._weight.T + self._bias)[:, np.newaxis, chosen]
        return scipy.stats.norm.logpdf(x[:, chosen], values, self.stddev).sum(axis=-1)

    def missing_posterior(self, x: np.ndarray, observed: np.ndarray) -> Gaussian:
        """p(x_mis | x_obs)."""
        return self._values(self.latent_posterior(x, observed), ~observed)

    def log_prob_observed(self, x: np.ndarray, observed: np.ndarray) -> float:
        """log p(x_obs), nats."""
        prior = Gaussian(np.zeros(self.latent_size), np.eye(self.latent_size))
        return self._values(prior, observed).log_prob(x[observed])

    def log_prob_missing(self, x: np.ndarray, observed: np.ndarray) -> float:
        """log p(x_mis | x_obs) of a complete x, nats."""
        return self.missing_posterior(x, observed).log_prob(x[~observed])

    def pseudo_gibbs_latent(self, x: np.ndarray, observed: np.ndarray) -> Gaussian:
        """The stationary distribution of z in pseudo-Gibbs: p(z | x_obs) if the encoder is exact.

        z' = F z + c + noise, a vector autoregression: its mean is (I - F)^-1 c, and its covariance
        C solves the discrete Lyapunov equation C = F C F' + Q.
        """
        gain = self._gain[:, ~observed]
        step = gain @ self._weight[~observed]
        constant = self._shift + self._gain[:, observed] @ (x - self._bias)[observed]
        noise = np.diag(self._scale**2) + self.stddev**2 * gain @ gain.T
        mean = np.linalg.solve(np.eye(self.latent_size) - step, constant)
        return Gaussian(mean, scipy.linalg.solve_discrete_lyapunov(step, noise))

    def pseudo_gibbs_missing(self, x: np.ndarray, observed: np.ndarray) -> Gaussian:
        """The stationary distribution of x_mis in pseudo-Gibbs."""
        return self._values(self.pseudo_gibbs_latent(x, observed), ~observed)
