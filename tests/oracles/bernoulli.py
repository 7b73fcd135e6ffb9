"""Bernoulli VAEs so small that every answer follows by quadrature over z."""

import abc
import copy
import dataclasses
import itertools
from collections.abc import Callable
from typing import Self

import numpy as np
import tensorflow as tf

from tests.oracles.scale import raw_scale
from vaefill.model.likelihoods import Bernoulli
from vaefill.model.self_masking import SelfMasking, SelfMaskingBernoulli
from vaefill.model.vae import VAE


class _BernoulliOracle(abc.ABC):
    """A Bernoulli VAE with at most two latents and ten pixels: everything follows by quadrature
    over z.

    The nodes are 0.05 apart within 6 standard deviations of the prior. What is integrated is smooth
    and vanishes at the ends, so the trapezoidal rule converges fast: half the step moves log
    p(x_obs) and p(x_mis | x_obs) of the records below by less than 1e-7.

    Masks say nothing of values, but in what `self_masking` makes: there x_obs stands for x_obs and
    the mask.
    """

    _STEP = 0.05
    _AXIS = _STEP * np.arange(-120, 121)

    def __init__(self, num_values: int, latent_size: int):
        self.num_values = num_values
        self._nodes = np.stack(np.meshgrid(*[self._AXIS] * latent_size, indexing="ij"), axis=-1)
        self._nodes = self._nodes.reshape(-1, latent_size)
        log_prior = -0.5 * (self._nodes**2).sum(axis=1)
        self._log_prior = log_prior - np.log(np.exp(log_prior).sum())
        self._node_logits = self.logits(self._nodes)
        self.vae = VAE(self._encoder, self._decoder, Bernoulli(), (1, num_values, 1), latent_size)
        self._rates: np.ndarray | None = None

    def self_masking(self, rates) -> Self:
        """The same values, missing with these probabilities [2, D] where they are 0 and 1."""
        masking = SelfMasking(self.num_values)
        masking.set_weights([np.log(rates) - np.log1p(-np.asarray(rates))])
        other = copy.copy(self)
        other._rates = np.asarray(rates, np.float64)
        other.vae = dataclasses.replace(self.vae, likelihood=SelfMaskingBernoulli(masking))
        return other

    def log_prob_mask(self, x: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """log p(mask [D] | x) of each of complete x [N, D]: [N], 0 if masks say nothing."""
        if self._rates is None:
            return np.zeros(len(x))
        rate = np.where(x > 0.5, self._rates[1], self._rates[0])
        return np.log(np.where(observed, 1 - rate, rate)).sum(axis=1)

    @abc.abstractmethod
    def logits(self, z: np.ndarray) -> np.ndarray:
        """The decoder in float64: z [S, K] -> [S, D]."""

    @abc.abstractmethod
    def _decoder(self, z: tf.Tensor) -> tf.Tensor:
        """The same in float32: z [S, K] -> [S, D]."""

    @abc.abstractmethod
    def _encoder(self, x: tf.Tensor) -> tf.Tensor:
        """Location and raw scale of q(z | x): x [N, D] -> [N, 2 K]."""

    @abc.abstractmethod
    def encoder_moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean [N, K] and standard deviation [K] of q(z | x) for binary x [N, D]."""

    def completions(self, x: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """All completions of a record, the last missing value changing fastest: [2^m, D]."""
        missing = np.flatnonzero(~observed)
        states = np.repeat(
            np.where(observed, x, 0)[None].astype(np.float64), 2 ** len(missing), axis=0
        )
        states[:, missing] = list(itertools.product((0, 1), repeat=len(missing)))
        return states

    def log_likelihood(self, z: np.ndarray, x: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """log p of the chosen [D] entries of each of x [N, D] given each of z [S, K]: [S, N]."""
        return _log_bernoulli(self.logits(z)[:, chosen], x[:, chosen])

    def log_likelihood_observed(self, z: np.ndarray, x: np.ndarray, observed) -> np.ndarray:
        """log p(x_obs | z) of a record given each of z [S, K]: [S]."""
        return self._log_observed(self.logits(z), x, observed)

    def _log_observed(self, logits: np.ndarray, x: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """The same by the decoder's outputs [S, D]."""
        of_values = _log_bernoulli(logits[:, observed], x[None, observed])[:, 0]
        if self._rates is None:
            return of_values
        one = _sigmoid(logits[:, ~observed])
        is_missing = (1 - one) * self._rates[0, ~observed] + one * self._rates[1, ~observed]
        rate = np.where(x > 0.5, self._rates[1], self._rates[0])[observed]
        return of_values + np.log1p(-rate).sum() + np.log(is_missing).sum(axis=1)

    def _log_joint(self, x: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """log of p(z, x_obs) times the cell of each node."""
        return self._log_prior + self._log_observed(self._node_logits, x, observed)

    def log_prob_observed(self, x: np.ndarray, observed: np.ndarray) -> float:
        """log p(x_obs), nats."""
        return float(np.log(np.exp(self._log_joint(x, observed)).sum()))

    def log_prob_missing(self, x: np.ndarray, observed: np.ndarray) -> float:
        """log p(x_mis | x_obs) of a complete x, nats."""
        everything = np.ones_like(observed)
        log_odds = self.log_prob_mask(x[None], observed) - self.log_prob_mask(x[None], everything)
        complete = self.log_prob_observed(x, everything) + float(log_odds[0])
        return complete - self.log_prob_observed(x, observed)

    def latent_posterior(
        self, x: np.ndarray, observed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """p(z | x_obs) on the nodes: their places [G, K] and probabilities [G]."""
        joint = np.exp(self._log_joint(x, observed))
        return self._nodes, joint / joint.sum()

    def latent_cdf(
        self, x: np.ndarray, observed: np.ndarray, dimension: int
    ) -> Callable[[np.ndarray], np.ndarray]:
        """The CDF of one latent given x_obs, to 5e-4: uniform in the cell of a node."""
        nodes, posterior = self.latent_posterior(x, observed)
        index = np.rint((nodes[:, dimension] - self._AXIS[0]) / self._STEP).astype(int)
        cumulative = np.concatenate([[0], np.cumsum(np.bincount(index, posterior))])
        edges = np.append(self._AXIS, self._AXIS[-1] + self._STEP) - self._STEP / 2
        return lambda values: np.interp(values, edges, cumulative)

    def draw_latents(
        self, x: np.ndarray, observed: np.ndarray, num: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Independent draws of p(z | x_obs): [num, K].

        A node by its probability and a uniform place in its cell, accepted by how dense p(z |
        x_obs) is there against the node: without that they would be wider than p(z | x_obs) by the
        variance of a place in a cell.
        """
        nodes, posterior = self.latent_posterior(x, observed)
        cumulative = np.cumsum(posterior)
        found = np.empty((0, nodes.shape[1]))
        while len(found) < num:
            chosen = nodes[np.searchsorted(cumulative, cumulative[-1] * rng.random(2 * num + 100))]
            moved = chosen + self._STEP * (rng.random(chosen.shape) - 0.5)
            density = [
                self.log_likelihood_observed(z, x, observed) - 0.5 * (z**2).sum(axis=1)
                for z in (moved, chosen)
            ]
            ratio = np.exp(density[0] - density[1])
            found = np.concatenate([found, moved[rng.random(len(ratio)) * ratio.max() < ratio]])
        return found[:num]

    def draw_missing(
        self, z: np.ndarray, x: np.ndarray, observed: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """x_mis ~ p(x_mis | z) for each of z [S, K], beside x_obs: [S, D]."""
        logits = self.logits(z)
        if self._rates is not None:
            logits = logits + np.log(self._rates[1] / self._rates[0])
        return np.where(observed, x, rng.random(logits.shape) < _sigmoid(logits)).astype(np.float64)

    def rao_blackwell(
        self, z: np.ndarray, x: np.ndarray, observed: np.ndarray, weights: np.ndarray | None = None
    ) -> np.ndarray:
        """p(x_mis | z) over `completions`, averaged over draws z [S, K] by weights [S], of any sum:
        [2^m].
        """
        conditional = self._conditional(z, self.completions(x, observed), observed)
        return np.average(conditional, axis=0, weights=weights)

    def _conditional(self, z: np.ndarray, states: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """p(x_mis | z) of `completions` [2^m, D] given each of z [S, K]: [S, 2^m]."""
        found = np.exp(self.log_likelihood(z, states, ~observed))
        if self._rates is None:
            return found
        found *= np.exp(self.log_prob_mask(states, observed))
        return found / found.sum(axis=1, keepdims=True)

    def missing_posterior(self, x: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """p(x_mis | x_obs) over `completions`: [2^m]."""
        nodes, posterior = self.latent_posterior(x, observed)
        return self.rao_blackwell(nodes, x, observed, posterior)

    def pseudo_gibbs_stationary(self, x: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """The stationary distribution of pseudo-Gibbs over `completions`: [2^m].

        P(x' | x) = integral of q(z | x) p(x'_mis | z) dz, by quadrature; then pi = pi P, sum of
        pi = 1.
        """
        states = self.completions(x, observed)
        loc, scale = self.encoder_moments(states)
        conditional = self._conditional(self._nodes, states, observed)
        proposal = np.exp(-0.5 * (((self._nodes[:, None] - loc) / scale) ** 2).sum(axis=-1))
        transition = (proposal / proposal.sum(axis=0)).T @ conditional  # [x, x']
        ones = np.ones_like(transition)
        return np.linalg.solve((np.eye(len(states)) - transition + ones).T, ones[0])


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))


def _log_bernoulli(logits: np.ndarray, x: np.ndarray) -> np.ndarray:
    """log p of each of x [N, d] under each of logits [S, d]: [S, N]."""
    return logits @ x.T - np.logaddexp(0, logits).sum(axis=1, keepdims=True)


class TinyBernoulli(_BernoulliOracle):
    """One latent, a linear decoder and an encoder of any slope.

    Args:
        num_values: D, at most 10.
        encoder_slope: of the encoder's mean in the number of ones; its standard deviation is 0.7.
    """

    def __init__(self, num_values: int = 4, encoder_slope: float = 1.0):
        self._weight = np.linspace(1.0, 2.5, num_values)
        self._bias = np.linspace(-0.5, 0.8, num_values)
        self._slope = encoder_slope
        super().__init__(num_values, 1)

    def logits(self, z):
        return z * self._weight + self._bias

    def _decoder(self, z):
        return z * tf.constant(self._weight, tf.float32) + tf.constant(self._bias, tf.float32)

    def encoder_moments(self, x):
        return self._slope * (x.mean(axis=1, keepdims=True) - 0.5), np.array([0.7])

    def _encoder(self, x):
        loc = self._slope * (tf.reduce_mean(x, axis=-1, keepdims=True) - 0.5)
        return tf.concat([loc, float(raw_scale(0.7)) * tf.ones_like(loc)], axis=-1)


class PlaneBernoulli(_BernoulliOracle):
    """Two latents and eight pixels: logits = tanh(z V + c) U + b. See `easy` and `valley`.

    The encoder is the best one with a single standard deviation a latent: its mean is E[z | x],
    tabulated, and its variance that of p(z | x) averaged over p(x). Gaussian and of one width, it
    is near p(z | x) and not equal to it.

    Attributes:
        x, observed: [8], the record that the variant is made for.
    """

    def __init__(self, first, first_bias, second, second_bias, x, observed):
        self._layers = [
            np.asarray(each, np.float64) for each in (first, first_bias, second, second_bias)
        ]
        self.x, self.observed = np.asarray(x, np.float64), np.asarray(observed, bool)
        super().__init__(len(self.x), 2)
        # Of a row of `completions` of nothing observed
        self._code = 2.0 ** np.arange(len(self.x))[::-1]
        self._loc, self._scale = self._fit_encoder()

    @classmethod
    def easy(cls) -> "PlaneBernoulli":
        """A posterior with one mode, x_mis and z loosely coupled: every sampler moves freely.

        Metropolis-within-Gibbs accepts 82 % of its proposals; pseudo-Gibbs ends within a JSD of
        0.00085.
        """
        first = [[0.8, 0.5, -0.3], [-0.3, 0.7, 0.9]]
        second = [
            [2.0, -1.5, 1.0, 0.5, 1.8, -1.0, 0.5, 1.2],
            [-0.5, 1.0, 1.5, -2.0, 0.8, 1.5, -1.2, 0.4],
            [1.0, 0.6, -1.8, 0.9, -0.5, 1.2, 1.6, -1.4],
        ]
        bias = [0.2, -0.4, 0.5, 0.0, -0.3, 0.6, -0.1, 0.3]
        return cls(
            first, [0.1, -0.2, 0.3], second, bias, [1, 0, 1, 0, 1, 0, 1, 0], np.arange(8) < 3
        )

    @classmethod
    def valley(cls) -> "PlaneBernoulli":
        """A posterior with two modes: z_1 about 1.6, of weight 0.876, and about -1.7.

        Pixels 0 and 1, observed to be on, say that |z_1| is large. Pixels 2 to 6 switch together at
        z_1 = 0.2, so that a complete x tells the modes apart, and q(z | x) seldom leaves the mode
        of x. With x_mis integrated out the barrier is low, 3 nats from the smaller mode. Measured:

        - Metropolis-within-Gibbs accepts 80 % and sticks. From exact draws, 500 chains of 3,000
          sweeps left the smaller mode once in 9,900 sweeps and the larger once in 63,000. From the
          prior, 48 % of 500 chains were in the larger mode after 3,000 sweeps, and p(x_mis | x_obs)
          was off by a JSD of 0.106.
        - Pseudo-Gibbs crosses (from the larger mode once in 1,600 sweeps) into wrong weights: a JSD
          of 0.290 at its stationary distribution, by quadrature; it relaxes in 1,300 sweeps.
        - HMC on p(z | x_obs), 12 steps of 0.16 to 0.24, leaves the smaller mode once in 26
          trajectories.
        """
        first = [[2.0, 2.0, 6.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
        second = [
            [3.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [-1.5, -1.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 5.0, 5.0, 5.0, 5.0, 5.0, 0.0],
            [0.0, 1.0, 0.5, -0.5, 0.5, -0.5, 0.3, -1.5],
        ]
        bias = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.2]
        return cls(first, [-2.4, 2.4, -1.2, 0.0], second, bias, np.ones(8), np.arange(8) < 2)

    def logits(self, z):
        first, first_bias, second, second_bias = self._layers
        return np.tanh(z @ first + first_bias) @ second + second_bias

    def _decoder(self, z):
        first, first_bias, second, second_bias = [
            tf.constant(each, tf.float32) for each in self._layers
        ]
        return tf.tanh(z @ first + first_bias) @ second + second_bias

    def _fit_encoder(self) -> tuple[np.ndarray, np.ndarray]:
        log_zeros = self._log_prior - np.logaddexp(0, self._node_logits).sum(axis=1)
        powers = np.concatenate(
            [np.ones_like(self._nodes[:, :1]), self._nodes, self._nodes**2], axis=1
        )
        every_x = self.completions(self.x, np.zeros(self.num_values, bool))
        moments = np.array([np.exp(log_zeros + self._node_logits @ x) @ powers for x in every_x])
        probability = moments[:, :1]
        mean, square = np.split(moments[:, 1:] / probability, 2, axis=1)
        return mean, np.sqrt((probability * (square - mean**2)).sum(axis=0))

    def encoder_moments(self, x):
        return self._loc[(x @ self._code).astype(int)], self._scale

    def _encoder(self, x):
        code = tf.linalg.matvec(tf.round(x), tf.constant(self._code, tf.float32))
        loc = tf.gather(tf.constant(self._loc, tf.float32), tf.cast(code, tf.int32))
        return tf.concat(
            [loc, tf.constant(raw_scale(self._scale), tf.float32) + tf.zeros_like(loc)], axis=-1
        )
