"""log p(x_obs) and log p(x) by importance sampling from a normal approximation of the latents' posterior."""

import math

import tensorflow as tf

from model.counter_random import Draw, normal, uniform
from model.sampling.base import Rows, everywhere, log_likelihood, standard_normal_log_prob
from model.vae import VAE

_PRIOR_FRACTION = 0.05  # bounds the weights: no region of the prior is left out
_INFLATION = 1.1  # of the standard deviations: an importance proposal should be wider than its target


def log_evidence(
    vae: VAE,
    rows: Rows,
    rows_per_record: int,
    loc: tf.Tensor,
    factor: tf.Tensor,
    num_draws: int,
    purposes: tuple[Draw, Draw],
) -> tf.Tensor:
    """log of the mean of p(x_obs | z) p(z) / q(z) over z ~ q, q = .95 N(loc, 1.21 factor factor') + .05 p.

    The mean is without bias; its logarithm is too low by about half of the weights' relative variance over
    the number of draws (Burda et al. 2016, arXiv:1509.00519, sec. 3).

    Args:
        rows: N = R * rows_per_record rows; `observed` says which values are meant.
        loc: [N, K].
        factor: [N, K, K] lower triangular.
        num_draws: at least so many for each record, spread over its rows.
        purposes: what the normal and the uniform numbers are for, used for nothing else.

    Returns:
        [R] nats.
    """
    factor = _INFLATION * factor
    log_det = tf.reduce_sum(tf.math.log(tf.linalg.diag_part(factor)), axis=1)
    per_row = -(-num_draws // rows_per_record)
    total = tf.fill([loc.shape[0]], float("-inf"))
    for index in tf.range(per_row):
        sweep = everywhere(rows, index)
        noise = normal(rows.streams, sweep, purposes[0], vae.latent_size)
        of_prior = uniform(rows.streams, sweep, purposes[1], 1) < _PRIOR_FRACTION
        z = tf.where(of_prior, noise, loc + tf.linalg.matvec(factor, noise))
        whitened = tf.linalg.triangular_solve(factor, (z - loc)[..., tf.newaxis])[..., 0]
        log_proposal = tf.reduce_logsumexp(
            tf.stack(
                [
                    math.log1p(-_PRIOR_FRACTION) + standard_normal_log_prob(whitened) - log_det,
                    math.log(_PRIOR_FRACTION) + standard_normal_log_prob(z),
                ]
            ),
            axis=0,
        )
        log_joint = log_likelihood(vae.likelihood, vae.decoder(z), rows.x_observed, rows.observed)
        log_weight = log_joint + standard_normal_log_prob(z) - log_proposal
        # What is not a number is no evidence.
        log_weight = tf.where(tf.math.is_nan(log_weight), float("-inf"), log_weight)
        total = tf.reduce_logsumexp(tf.stack([total, log_weight]), axis=0)
    of_record = tf.reduce_logsumexp(tf.reshape(total, [-1, rows_per_record]), axis=1)
    return of_record - math.log(per_row * rows_per_record)
