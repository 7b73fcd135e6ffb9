"""VAEs whose p(z | x_obs) is a mixture of normal distributions, of known weights, in any number of
latents.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tests.oracles.gaussian import FixedGaussian
from vaefill.model.vae import VAE

NUM_MISSING = 6  # values that tell the modes apart
_STDDEV = 0.1  # of all values given z
_SHARPNESS = 2.0
_MOST_MODES = 4


class Mixture(NamedTuple):
    """Of M normal distributions with the same diagonal covariance, in coordinates `rotation` z."""

    weights: np.ndarray  # [M]
    means: np.ndarray  # [M, K]
    scale: np.ndarray  # [K], all below 1, the prior's
    rotation: np.ndarray  # [K, K], orthogonal
    directions: np.ndarray  # [NUM_MISSING, K] of what the missing values are functions of
    offsets: np.ndarray  # [NUM_MISSING]


def draw_mixture(
    num_modes: int, latent_size: int, separation: float, rng: np.random.Generator
) -> Mixture:
    """Modes in a plane, about `separation` of their standard deviations apart, of weights from 0.05
    to 0.9.

    The other latents are as sure as they happen to be, from a third to nineteen twentieths of the
    prior's width, and all are rotated, so that no latent alone knows of the modes.
    """
    weights = 0.05 + (1 - 0.05 * num_modes) * rng.dirichlet(np.ones(num_modes))
    scale = rng.uniform(0.33, 0.95, latent_size)
    scale[:2] = rng.uniform(0.2, 0.35)
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(num_modes) / num_modes
    radius = 0.5 * separation * scale[0] / np.sin(np.pi / num_modes)
    means = np.zeros((num_modes, latent_size))
    means[:, :2] = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    means[:, 2:] = rng.normal(scale=0.3, size=latent_size - 2)
    directions = np.zeros((NUM_MISSING, latent_size))
    turns = np.pi * np.arange(NUM_MISSING) / NUM_MISSING
    directions[:, :2] = np.stack([np.cos(turns), np.sin(turns)], axis=1) / scale[0]
    offsets = directions @ (means.mean(axis=0) + rng.normal(scale=0.2 * radius, size=latent_size))
    rotation = np.linalg.qr(rng.normal(size=(latent_size, latent_size)))[0]
    return Mixture(weights, means, scale, rotation, directions, offsets)


class Modes:
    """x_0 ~ N(o(z), 0.1^2), with o such that p(z | x_0 = 0) is a mixture; the other values,
    missing, are tanh of z.

    With r the mixture's density over the prior's, o(z)^2 / (2 0.1^2) = log max r + 1 - log r(z).
    The encoder knows the mode that a complete x comes from, and the width of the modes: q(z | x) is
    close to p(z | x), and pseudo-Gibbs seldom leaves a mode.

    Its parameters are variables, so that one compiled sampler serves many mixtures: see `set`.
    """

    num_values = 1 + NUM_MISSING
    x = np.zeros(num_values)
    observed = np.arange(num_values) < 1

    def __init__(self, latent_size: int):
        self.latent_size, num = latent_size, _MOST_MODES
        shapes = [(num,), (num, latent_size), (latent_size,), (latent_size, latent_size)]
        shapes += [(NUM_MISSING, latent_size), (NUM_MISSING,)]
        self._parameters = [tf.Variable(tf.zeros(shape)) for shape in shapes]
        self._most = tf.Variable(0.0)
        self._codes = tf.Variable(tf.zeros([num, NUM_MISSING]))  # the missing values at each mode
        self.vae = VAE(
            self._encoder,
            self._decoder,
            FixedGaussian(_STDDEV),
            (1, self.num_values, 1),
            latent_size,
        )

    def set(self, mixture: Mixture) -> None:
        """Makes p(z | x_obs) this mixture."""
        self.mixture = mixture
        unused = _MOST_MODES - len(mixture.weights)
        weights = np.pad(mixture.weights, (0, unused))
        means = np.concatenate([mixture.means, np.repeat(mixture.means[:1], unused, axis=0)])
        for variable, value in zip(self._parameters, (weights, means, *mixture[2:])):
            variable.assign(value)
        self._codes.assign(
            np.tanh(_SHARPNESS / 4 * (means @ mixture.directions.T - mixture.offsets))
        )
        at_modes = tf.constant(means @ mixture.rotation, tf.float32)  # rotation' mean, as rows
        self._most.assign(tf.reduce_max(self._log_ratio(at_modes)) + 1.0)

    def _log_ratio(self, z):
        weights, means, scale, rotation = self._parameters[:4]
        turned = tf.matmul(z, rotation, transpose_b=True)
        far = tf.reduce_sum(tf.square((turned[:, tf.newaxis] - means) / scale), axis=-1)
        log_weights = tf.math.log(tf.maximum(weights, 1e-30))
        mixture = tf.reduce_logsumexp(log_weights - 0.5 * far, axis=1) - tf.reduce_sum(
            tf.math.log(scale)
        )
        return mixture + 0.5 * tf.reduce_sum(tf.square(z), axis=1)

    def _decoder(self, z):
        *_, rotation, directions, offsets = self._parameters
        first = _STDDEV * tf.sqrt(tf.maximum(2.0 * (self._most - self._log_ratio(z)), 1e-3))
        turned = tf.matmul(z, rotation, transpose_b=True)
        rest = tf.tanh(_SHARPNESS / 4 * (tf.matmul(turned, directions, transpose_b=True) - offsets))
        return tf.concat([first[:, tf.newaxis], rest], axis=1)

    def _encoder(self, x):
        weights, means, scale, rotation = self._parameters[:4]
        far = tf.reduce_sum(tf.square((x[:, tf.newaxis, 1:] - self._codes) / 0.3), axis=-1)
        loc = tf.matmul(tf.nn.softmax(tf.math.log(tf.maximum(weights, 1e-30)) - 0.5 * far), means)
        width = tf.sqrt(tf.matmul(tf.square(scale)[tf.newaxis], tf.square(rotation)))[0]
        raw = tf.math.log(tf.math.expm1(width - 1e-4))
        return tf.concat([tf.matmul(loc, rotation), tf.broadcast_to(raw, tf.shape(loc))], axis=1)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the missing values given x_obs, each [NUM_MISSING], by
        Gauss-Hermite rules.
        """
        mixture = self.mixture
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        width = np.sqrt((mixture.directions**2) @ mixture.scale**2)
        places = (mixture.means @ mixture.directions.T - mixture.offsets)[..., None] + width[
            :, None
        ] * nodes
        values, weights = np.tanh(_SHARPNESS / 4 * places), weights / weights.sum()
        mean = mixture.weights @ (values @ weights)
        square = mixture.weights @ (values**2 @ weights)
        return mean, np.sqrt(square - mean**2 + _STDDEV**2)
