"""What the latents of a model stand for: which of them it uses, and what it decodes from them.

What is decoded are means of p(x | z) on the model's scale, of binary values the probability of a 1.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vaefill.model.vae import VAE

ACTIVE = 0.01  # of the variance of a latent's mean over records (Burda et al. 2016, sec. 5.2)


class AggregatedPosterior(NamedTuple):
    """The mean of q(z | x) over records (Makhzani et al. 2015), latent by latent.

    Attributes:
        activity: [K] variance over records of the encoder's mean.
        mean: [K] of the latent.
        stddev: [K] of the latent: of what the encoder's mean varies and of what it leaves open.
    """

    activity: np.ndarray
    mean: np.ndarray
    stddev: np.ndarray

    @property
    def active(self) -> np.ndarray:
        """Latents whose mean depends on the record: [K] bool."""
        return self.activity > ACTIVE

    @property
    def by_activity(self) -> np.ndarray:
        """The indices of all latents, the most active first: [K]."""
        return np.argsort(-self.activity, kind="stable")


def aggregated_posterior(vae: VAE, inputs: Iterable[tf.Tensor]) -> AggregatedPosterior:
    """The aggregated posterior of records.

    Args:
        vae: the model.
        inputs: batches of records [n, D], on the model's scale; at least one record in all.
    """
    means, variances = [], []
    for x in inputs:
        posterior = vae.encode(x)
        means.append(posterior.mean().numpy())
        variances.append(posterior.variance().numpy())
    mean, variance = (np.concatenate(parts).astype(np.float64) for parts in (means, variances))
    activity = mean.var(axis=0)
    return AggregatedPosterior(
        activity, mean.mean(axis=0), np.sqrt(activity + variance.mean(axis=0))
    )


def samples(vae: VAE, num: int, seed: tf.Tensor) -> np.ndarray:
    """Draws of the prior, decoded.

    Args:
        vae: the model.
        num: N.
        seed: [2] integers, for the stateless generator.

    Returns:
        [N, D] float32.
    """
    noise = tf.random.stateless_normal([num, vae.latent_size], seed)
    return _decoded(vae, vae.prior.draw(noise))


def reconstructions(vae: VAE, x: tf.Tensor) -> np.ndarray:
    """Records x [N, D] decoded from the encoder's mean: [N, D] float32."""
    return _decoded(vae, vae.encode(x).mean())


def traversal(vae: VAE, x: tf.Tensor, latent: int, places: np.ndarray) -> np.ndarray:
    """A record decoded from the encoder's mean, with one latent changed.

    Args:
        vae: the model.
        x: [1, D].
        latent: index of the latent.
        places: [T] values that it takes.

    Returns:
        [T, D] float32.
    """
    z = np.repeat(vae.encode(x).mean().numpy(), len(places), axis=0)
    z[:, latent] = places
    return _decoded(vae, tf.constant(z))


def _decoded(vae: VAE, z: tf.Tensor) -> np.ndarray:
    return vae.decode(z).mean().numpy()
