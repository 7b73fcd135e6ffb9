"""VAEs of real and of grey values with one latent: every answer follows by quadrature over z."""

import abc

import numpy as np
import scipy.special
import scipy.stats
import tensorflow as tf

from tests.oracles.scale import raw_scale
from vaefill.model.likelihoods import DiscretizedLogisticMixture, Gaussian, Likelihood
from vaefill.model.vae import VAE


class _Curve(abc.ABC):
    """Four values, each output of the decoder of the form b + s tanh(v z + c).

    The nodes are 0.01 apart within 8 standard deviations of the prior. The encoder is the linear
    regression of z on E[x | z], with a standard deviation of 0.5: a wrong one.

    Attributes:
        x, observed: [4], a record of which the first value is observed.
    """

    num_values = 4
    _NODES = 0.01 * np.arange(-800, 801)

    def __init__(self, likelihood: Likelihood, bias, slope, first: float):
        """Takes [P, 4] of the outputs, parameter by parameter, and the first value on the model's
        scale.
        """
        self._bias, self._slope = (np.ravel(each).astype(np.float64) for each in (bias, slope))
        self._speed = np.linspace(0.7, 1.3, len(self._bias))
        self._shift = 0.3 * np.cos(np.arange(len(self._bias)))
        self.x, self.observed = np.array([first, 0, 0, 0]), np.arange(4) < 1
        prior = scipy.stats.norm.pdf(self._NODES)
        self._prior = prior / prior.sum()
        self._outputs = self._bias + self._slope * np.tanh(
            self._NODES[:, np.newaxis] * self._speed + self._shift
        )
        mean = self._moments()[0]
        self._centre = self._prior @ mean
        centred = (mean - self._centre) * np.sqrt(self._prior)[:, np.newaxis]
        self._gain = np.linalg.lstsq(centred, self._NODES * np.sqrt(self._prior), rcond=1e-2)[0]
        self.vae = VAE(self._encoder, self._decoder, likelihood, (1, 4, 1), 1)

    def _decoder(self, z):
        bias, slope, speed, shift = (
            tf.constant(each, tf.float32)
            for each in (self._bias, self._slope, self._speed, self._shift)
        )
        return bias + slope * tf.tanh(z * speed + shift)

    def _encoder(self, x):
        loc = (x - tf.constant(self._centre, tf.float32)) @ tf.constant(
            self._gain[:, np.newaxis], tf.float32
        )
        return tf.concat([loc, float(raw_scale(0.5)) * tf.ones_like(loc)], axis=-1)

    @abc.abstractmethod
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the values at the nodes: [G, 4]."""

    @abc.abstractmethod
    def _below(self, values: np.ndarray, dimension: int) -> tuple[np.ndarray, np.ndarray]:
        """P(x < value) and P(x <= value) of one dimension at the nodes, for values [n]: [n, G]."""

    @abc.abstractmethod
    def _log_first(self) -> np.ndarray:
        """log p of the first value at the nodes, up to a constant: [G]."""

    @property
    def _posterior(self) -> np.ndarray:
        joint = self._prior * np.exp(self._log_first())
        return joint / joint.sum()

    def missing_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean [3] and covariance [3, 3] of the missing values given the first."""
        posterior, (mean, variance) = self._posterior, (each[:, 1:] for each in self._moments())
        centre = posterior @ mean
        between = ((mean - centre) * posterior[:, np.newaxis]).T @ (mean - centre)
        return centre, between + np.diag(posterior @ variance)

    def missing_cdf(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """P(x < value) and P(x <= value) given the first value, for values [n, 3] of the missing:
        [n, 3].
        """
        found = np.empty((2, *values.shape))
        for dimension in range(3):
            places, where = np.unique(values[:, dimension], return_inverse=True)
            # Linear between: 1e-6
            grid = places if len(places) < 500 else np.linspace(places[0], places[-1], 2000)
            for side, each in enumerate(self._below(grid, dimension + 1)):
                cumulative = each @ self._posterior
                found[side, :, dimension] = np.interp(values[:, dimension], grid, cumulative)
        return tuple(found)


class CurveGaussian(_Curve):
    """Real values with a likelihood of `vaefill.model.likelihoods.Gaussian`, of which the scale
    depends on z too.
    """

    def __init__(self):
        loc, raw = [0.1, 0.5, -0.4, 0.0], [0.0, -0.8, -0.9, -0.6]
        slope = [[0.7, 1.0, -0.8, 1.2], [0.2, 0.5, -0.5, 0.3]]
        super().__init__(Gaussian(), [loc, raw], slope, 0.45)

    def _loc_scale(self):
        loc, raw = np.split(self._outputs, 2, axis=1)
        return loc, np.logaddexp(0, raw) + 1e-3

    def _moments(self):
        loc, scale = self._loc_scale()
        return loc, scale**2

    def _below(self, values, dimension):
        loc, scale = (each[:, dimension] for each in self._loc_scale())
        found = scipy.special.ndtr((values[:, np.newaxis] - loc) / scale)
        return found, found

    def _log_first(self):
        loc, scale = (each[:, 0] for each in self._loc_scale())
        return scipy.stats.norm.logpdf(self.x[0], loc, scale)


class CurveGrey(_Curve):
    """256 levels with a likelihood of `DiscretizedLogisticMixture` of two components."""

    def __init__(self):
        logits = [[0.3, 0.5, 0.0, -0.4], [0.0, 0.0, 0.0, 0.0]]
        locs = [[0.15, 0.15, 0.2, 0.1], [-0.15, -0.15, -0.1, -0.2]]  # from 1/3 and 2/3
        raw = [[0.5, -0.6, -0.4, -0.7], [0.8, -0.5, -0.8, -0.6]]
        slope = [
            [1.0, -1.0, 0.8, 0.5],
            [0.0, 0.0, 0.0, 0.0],
            [0.2, 0.3, -0.3, 0.35],
            [0.25, 0.3, -0.25, 0.3],
            [0.1, 0.3, -0.3, 0.2],
            [0.2, -0.2, 0.3, 0.1],
        ]
        super().__init__(DiscretizedLogisticMixture(2), logits + locs + raw, slope, 140 / 255)

    def _cdf(self, level: np.ndarray) -> np.ndarray:
        """P(x <= level) at the nodes for integers [n] up to 254: [n, G, 4]."""
        logits, locs, raw = np.split(self._outputs.reshape(-1, 6, 4), 3, axis=1)
        weights = scipy.special.softmax(logits, axis=1)
        locs = locs + np.array([[1 / 3], [2 / 3]])
        scales = np.logaddexp(0, raw) / 8 + np.exp(-7) / 2
        bound = (np.asarray(level)[:, np.newaxis, np.newaxis, np.newaxis] + 0.5) / 255
        return (weights * scipy.special.expit((bound - locs) / scales)).sum(axis=2)

    def _masses(self) -> np.ndarray:
        """[256, G, 4]"""
        if not hasattr(self, "_known"):
            cumulative = self._cdf(np.arange(255))
            zero, one = np.zeros_like(cumulative[:1]), np.ones_like(cumulative[:1])
            self._known = np.diff(np.concatenate([zero, cumulative, one]), axis=0)
        return self._known

    def _moments(self):
        level = np.arange(256) / 255
        mean = np.einsum("l,lgd->gd", level, self._masses())
        return mean, np.einsum("l,lgd->gd", level**2, self._masses()) - mean**2

    def _below(self, values, dimension):
        upto = np.cumsum(self._masses()[:, :, dimension], axis=0)
        level = np.rint(values * 255).astype(int)
        return upto[level] - self._masses()[level, :, dimension], upto[level]

    def _log_first(self):
        return np.log(self._masses()[140, :, 0])
