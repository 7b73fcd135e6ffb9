"""Hamiltonian moves on the latents, with the missing values integrated out.

The target is p(z) p(x_obs | z)^beta: a density in K dimensions with a gradient, of which the decoder and
the likelihood are all that is needed (Neal 2011, "MCMC using Hamiltonian dynamics", sec. 5.2 and 5.3).
"""

from typing import NamedTuple

import tensorflow as tf

from model.counter_random import Draw
from model.sampling import base
from model.vae import VAE


class Point(NamedTuple):
    """A latent and all that was computed there, so that nothing is computed twice."""

    z: tf.Tensor  # [N, K]
    outputs: tf.Tensor  # [N, D * outputs_per_value] decoder outputs at z
    log_likelihood: tf.Tensor  # [N] log p(x_obs | z), nats
    gradient: tf.Tensor  # [N, K] of log_likelihood by z


def evaluate(vae: VAE, rows: base.Rows, z: tf.Tensor) -> Point:
    """Forward and backward through the decoder: one network pass."""
    with tf.GradientTape() as tape:
        tape.watch(z)
        outputs = vae.decoder(z)
        log_likelihood = base.log_likelihood(vae.likelihood, outputs, rows.x_observed, rows.observed)
    return Point(z, outputs, log_likelihood, tape.gradient(log_likelihood, z))


def move(
    vae: VAE,
    rows: base.Rows,
    sweep: tf.Tensor,
    point: Point,
    factor: tf.Tensor,
    step_size: tf.Tensor,
    num_steps: int,
    beta: tf.Tensor | float = 1.0,
) -> tuple[Point, base.Decision]:
    """One trajectory of leapfrog steps and its acceptance; leaves the target unchanged.

    The dynamics run in u with z = factor u and standard normal momenta, which is the same as the metric
    (factor factor')^-1. Every trajectory has its own step size, within a fifth of `step_size`, since at a
    fixed length some direction could come back to where it started.

    Args:
        point: where the chains are.
        factor: [N, K, K], or [N, K] for a diagonal one.
        step_size: [N] in units of u.
        num_steps: leapfrog steps; so many network passes.
        beta: [N] or a number, the power of the likelihood.
    """
    momentum = start = base.draw_latent(rows, sweep, Draw.MOMENTUM, tf.zeros_like(point.z), tf.ones_like(point.z))
    jitter = 0.8 + 0.4 * base.draw_uniform(rows, sweep, Draw.JITTER)
    half_step = (0.5 * step_size * jitter)[:, tf.newaxis]
    beta = beta * tf.ones_like(step_size)

    def force(at):
        return _times(factor, beta[:, tf.newaxis] * at.gradient - at.z, transpose=True)

    new, momentum = point, momentum + half_step * force(point)
    for _ in tf.range(num_steps):
        new = evaluate(vae, rows, new.z + 2.0 * half_step * _times(factor, momentum))
        momentum += 2.0 * half_step * force(new)
    momentum -= half_step * force(new)  # the last one was half a step too long
    log_ratio = log_target(new, beta) - log_target(point, beta)
    log_ratio += base.standard_normal_log_prob(momentum) - base.standard_normal_log_prob(start)
    decision = base.accept(base.draw_uniform(rows, sweep, Draw.ACCEPT), log_ratio)
    return base.choose(decision.accepted, new, point), decision


def log_target(point: Point, beta: tf.Tensor | float = 1.0) -> tf.Tensor:
    """log p(z) p(x_obs | z)^beta without the prior's constant: [N]."""
    return beta * point.log_likelihood + base.standard_normal_log_prob(point.z)


def _times(factor: tf.Tensor, vector: tf.Tensor, transpose: bool = False) -> tf.Tensor:
    """factor v or factor' v, row by row: [N, K]."""
    if factor.shape.rank == 2:
        return factor * vector
    return tf.linalg.matvec(factor, vector, transpose_a=transpose)
