"""The prior p(z) of the latents: standard normal, or a flow that is learnt with the networks.

An encoder's q(z | x), averaged over data, is never quite a standard normal, and the bound pays for
the difference in every record; a learnt prior follows it (Tomczak & Welling 2018, arXiv:1705.07120;
a flow for it: Chen et al. 2017, arXiv:1611.02731, sec. 3.2). Samplers of p(z | x_obs) ask a prior
for its density, the gradient of that, and draws.

Densities leave out K/2 log(2 pi), as everywhere among latents.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import keras
import tensorflow as tf

from vaefill.model.config import ModelConfig
from vaefill.model.networks import dense_stack

_NUM_COUPLINGS = 4
_WIDTHS_PER_LATENT = 4  # of a conditioner's hidden layer
_LARGEST_LOG_SCALE = 2.0  # of a coupling: no weights can make a density that is no number


class Prior(Protocol):
    """A distribution of latents."""

    def log_prob(self, z: tf.Tensor) -> tf.Tensor:
        """log p(z) + K/2 log(2 pi) of z [..., K]: [...], nats."""

    def score(self, z: tf.Tensor) -> tf.Tensor:
        """The gradient of `log_prob` by z: [N, K] -> [N, K]."""

    def draw(self, noise: tf.Tensor) -> tf.Tensor:
        """z ~ p(z) made of standard normal noise: [..., K] -> [..., K]."""


class StandardNormal:
    """N(0, I)."""

    def log_prob(self, z: tf.Tensor) -> tf.Tensor:
        """See `Prior`."""
        return -0.5 * tf.reduce_sum(tf.square(z), axis=-1)

    def score(self, z: tf.Tensor) -> tf.Tensor:
        """See `Prior`."""
        return -z

    def draw(self, noise: tf.Tensor) -> tf.Tensor:
        """See `Prior`."""
        return noise


STANDARD_NORMAL = StandardNormal()


@dataclasses.dataclass(frozen=True)
class Flow:
    """Affine couplings, after which latents are standard normal (Dinh et al. 2017, Real NVP,
    arXiv:1605.08803, sec. 3).

    A coupling scales and shifts the second half of its inputs by what its conditioner makes of the
    first, and the halves change places: cheap both ways. Fresh conditioners make N(0, I).

    Attributes:
        conditioners: of each coupling, [N, K // 2] -> [N, 2 (K - K // 2)], and of every second one
            with the halves' sizes exchanged: raw logarithms of scales, and shifts.
    """

    conditioners: tuple[Callable[[tf.Tensor], tf.Tensor], ...]

    def noise(self, z: tf.Tensor) -> tf.Tensor:
        """The standard normal noise that `draw` makes z of: [..., K] -> [..., K]."""
        return self._noise(z)[0]

    def _noise(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The noise, and the logarithm of its volume per volume of z: [..., K] and [...]."""
        log_det = tf.zeros(tf.shape(z)[:-1])
        first = z.shape[-1] // 2
        for conditioner in self.conditioners:
            fixed, moved = z[..., :first], z[..., first:]
            log_scale, shift = _affine(conditioner, fixed)
            z = tf.concat([moved * tf.exp(log_scale) + shift, fixed], axis=-1)
            log_det += tf.reduce_sum(log_scale, axis=-1)
            first = z.shape[-1] - first
        return z, log_det

    def log_prob(self, z: tf.Tensor) -> tf.Tensor:
        """See `Prior`."""
        noise, log_det = self._noise(z)
        return STANDARD_NORMAL.log_prob(noise) + log_det

    def score(self, z: tf.Tensor) -> tf.Tensor:
        """See `Prior`."""
        with tf.GradientTape() as tape:
            tape.watch(z)
            log_prob = self.log_prob(z)
        return tape.gradient(log_prob, z)

    def draw(self, noise: tf.Tensor) -> tf.Tensor:
        """See `Prior`."""
        z, size = noise, noise.shape[-1]
        first = size - size // 2 if len(self.conditioners) % 2 else size // 2
        for conditioner in reversed(self.conditioners):
            moved, fixed = z[..., :first], z[..., first:]
            log_scale, shift = _affine(conditioner, fixed)
            z = tf.concat([fixed, (moved - shift) * tf.exp(-log_scale)], axis=-1)
            first = size - first
        return z


def _affine(
    conditioner: Callable[[tf.Tensor], tf.Tensor], fixed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The logarithm of the scale, and the shift."""
    rows = tf.reshape(fixed, [-1, fixed.shape[-1]])
    raw, shift = tf.split(conditioner(rows), 2, axis=-1)
    log_scale = _LARGEST_LOG_SCALE * tf.tanh(raw / _LARGEST_LOG_SCALE)
    shape = tf.concat([tf.shape(fixed)[:-1], [raw.shape[-1]]], axis=0)
    return tf.reshape(log_scale, shape), tf.reshape(shift, shape)


def build(config: ModelConfig, seed: int) -> Prior:
    """The prior of a configuration; a learnt one is N(0, I) to begin with.

    Args:
        config: `prior`, `activation`, and the latents' number K.
        seed: of the initial weights.
    """
    if config.prior == "standard_normal":
        return STANDARD_NORMAL
    size = config.latent_size
    conditioners = []
    for index in range(_NUM_COUPLINGS):
        first = size // 2 if index % 2 == 0 else size - size // 2
        sizes = (first, _WIDTHS_PER_LATENT * size, 2 * (size - first))
        conditioners.append(
            dense_stack(
                f"prior_{index}",
                sizes,
                config.activation,
                1_000 * seed + 900 + 10 * index,
                ends_in_zeros=True,
            )
        )
    return Flow(tuple(conditioners))


def networks(prior: Prior) -> tuple[keras.Model, ...]:
    """The networks of a prior that learns, in order."""
    return prior.conditioners if isinstance(prior, Flow) else ()
