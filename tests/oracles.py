"""Models whose answers are known, and bounds for statistical tests."""

import itertools
import math

import numpy as np
import tensorflow as tf

from model.likelihoods import Bernoulli
from model.vae import VAE

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


def hoeffding(num_draws: int, num_events: int, false_alarm: float) -> float:
    """What the frequencies of `num_events` events may differ from their probabilities in `num_draws`
    independent draws, with all of them inside but for a probability of `false_alarm` (Hoeffding 1963)."""
    return math.sqrt(math.log(2 * num_events / false_alarm) / (2 * num_draws))


class TinyBernoulli:
    """A Bernoulli VAE with one latent and few pixels, for which everything follows by quadrature.

    Args:
        num_values: D, at most 10.
        encoder_slope: of the encoder's mean in the number of ones; its standard deviation is 0.7.
    """

    def __init__(self, num_values: int = 4, encoder_slope: float = 1.0):
        self._weight = np.linspace(1.0, 2.5, num_values)
        self._bias = np.linspace(-0.5, 0.8, num_values)
        self._slope = encoder_slope
        self.num_values = num_values
        self.vae = VAE(self._encoder, self._decoder, Bernoulli(), (1, num_values, 1), 1)

    def _encoder(self, x):
        loc = self._slope * (tf.reduce_mean(x, axis=-1, keepdims=True) - 0.5)
        raw_scale = math.log(math.expm1(0.7)) * tf.ones_like(loc)
        return tf.concat([loc, raw_scale], axis=-1)

    def _decoder(self, z):
        return z * tf.constant(self._weight, tf.float32) + tf.constant(self._bias, tf.float32)

    def completions(self, x: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """All completions of a record [D]: [2^m, D]."""
        missing = np.flatnonzero(~observed)
        states = np.repeat(np.where(observed, x, 0)[None].astype(np.float64), 2 ** len(missing), axis=0)
        states[:, missing] = list(itertools.product((0, 1), repeat=len(missing)))
        return states

    def pseudo_gibbs_stationary(self, x: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """The stationary distribution of pseudo-Gibbs over `completions`: [2^m].

        P(x' | x) = integral of q(z | x) p(x'_mis | z) dz, by Gauss-Hermite quadrature; then powers of P.
        """
        states = self.completions(x, observed)
        loc = self._slope * (states.mean(axis=1) - 0.5)
        z = loc[:, None] + 0.7001 * _NODES  # the VAE adds 1e-4 to the scale
        logits = z[..., None] * self._weight + self._bias
        log_one, log_zero = -np.logaddexp(0, -logits), -np.logaddexp(0, logits)
        log_prob = np.where(states.astype(bool)[:, None, None, :], log_one, log_zero)  # [x', x, node, D]
        conditional = np.exp(np.where(observed, 0, log_prob).sum(axis=-1))
        transition = (conditional * _WEIGHTS / _WEIGHTS.sum()).sum(axis=-1).T  # [x, x']
        return np.linalg.matrix_power(transition, 200)[0]
