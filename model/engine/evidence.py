"""log p(x_obs) and log p(x) by importance sampling from a normal approximation of the latents'
posterior.

With a model of masks s it is log p(x_obs, s): what is missing counts too, by the probability that
it is. Of a complete record that is log p(x) and the probability that nothing is missing.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vaefill.model import pareto
from vaefill.model.counter_random import normal, uniform
from vaefill.model.lazy import loops
from vaefill.model.samplers.base import Rows, everywhere, log_likelihood, standard_normal_log_prob
from vaefill.model.vae import VAE

_PRIOR_FRACTION = 0.05  # bounds the weights: no region of the prior is left out
# Of the standard deviations: an importance proposal should be wider than its target
_INFLATION = 1.1


class Estimate(NamedTuple):
    """log of the mean of importance weights."""

    log_mean: float  # nats
    error: float  # its standard error, nats
    pareto_k: float  # of the weights; see `pareto.shape_of_weights`


CERTAIN = Estimate(0.0, 0.0, math.nan)  # that nothing is observed, where masks are ignorable


@loops
def log_weights(
    vae: VAE,
    rows: Rows,
    rows_per_record: int,
    loc: tf.Tensor,
    factor: tf.Tensor,
    num_draws: int,
    purposes: tf.Tensor,
) -> tf.Tensor:
    """log of p(x_obs | z) p(z) / q(z) of draws z ~ q, q = .95 N(loc, 1.21 factor factor') + .05 p.

    Args:
        rows: N = R * rows_per_record rows; `observed` says which values are meant.
        loc: [N, K].
        factor: [N, K, K] lower triangular.
        num_draws: at least so many for each record, spread over its rows.
        purposes: [2], the `Purpose` of the normal and of the uniform numbers, used for nothing
            else.

    Returns:
        [R, S] nats, of independent draws; the first of every row are the same however many there
        are.
    """
    factor = _INFLATION * factor
    log_det = tf.reduce_sum(tf.math.log(tf.linalg.diag_part(factor)), axis=1)
    per_row = -(-num_draws // rows_per_record)
    found = tf.TensorArray(tf.float32, per_row, element_shape=[loc.shape[0]])
    for index in tf.range(per_row):
        sweep = everywhere(rows, index)
        noise = normal(rows.streams, sweep, purposes[0], vae.latent_size)
        of_prior = uniform(rows.streams, sweep, purposes[1], 1) < _PRIOR_FRACTION
        of_normal = loc + tf.linalg.matvec(factor, noise)
        z = tf.where(of_prior, vae.prior.draw(noise), of_normal)
        log_prior = vae.prior.log_prob(z)
        whitened = tf.linalg.triangular_solve(factor, (z - loc)[..., tf.newaxis])[..., 0]
        log_proposal = tf.reduce_logsumexp(
            tf.stack(
                [
                    math.log1p(-_PRIOR_FRACTION) + standard_normal_log_prob(whitened) - log_det,
                    math.log(_PRIOR_FRACTION) + log_prior,
                ]
            ),
            axis=0,
        )
        log_joint = log_likelihood(vae.likelihood, vae.decoder(z), rows.x_observed, rows.observed)
        log_weight = log_joint + log_prior - log_proposal
        # What is not a number is no evidence.
        found = found.write(
            index, tf.where(tf.math.is_finite(log_weight), log_weight, float("-inf"))
        )
    return tf.reshape(tf.transpose(found.stack()), [-1, rows_per_record * per_row])


def estimate(log_weight: np.ndarray) -> Estimate:
    """What the weights [S] of one record say.

    Their mean is without bias; its logarithm is too low by about half of the weights' relative
    variance over the number of draws (Burda et al. 2016, arXiv:1509.00519, sec. 3). Its standard
    error is the root of that relative variance over the number of draws, by the delta method.
    """
    log_weight = log_weight.astype(np.float64)
    largest = log_weight.max()
    if largest == -math.inf:
        return Estimate(-math.inf, math.inf, math.nan)
    weights = np.exp(log_weight - largest)
    mean = weights.mean()
    error = weights.std(ddof=1) / mean / math.sqrt(len(weights))
    return Estimate(
        float(largest + math.log(mean)), float(error), pareto.shape_of_weights(log_weight)
    )


def difference(complete: Estimate, observed: Estimate) -> Estimate:
    """log p(x_mis | x_obs) = log p(x) - log p(x_obs), of weights that are independent, as good as
    the worse of them.
    """
    return Estimate(
        complete.log_mean - observed.log_mean,
        math.hypot(complete.error, observed.error),
        float(np.fmax(complete.pareto_k, observed.pareto_k)),
    )
