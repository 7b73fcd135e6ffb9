"""Hamiltonian moves on the latents, with the missing values integrated out.

The target is p(z) p(x_obs | z)^beta: a density in K dimensions with a gradient, of which the
decoder and the likelihood are all that is needed (Neal 2011, "MCMC using Hamiltonian dynamics",
sec. 5.2 and 5.3).

The Hamiltonian is split (Shahbaba, Lan, Johnson & Neal 2014, "Split Hamiltonian Monte Carlo",
sec. 3.1): that of a normal distribution close to the target, whose dynamics are a rotation, is
solved exactly, and only the rest of the force is stepped through. The closer to normal the target
is, the longer a step can be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vaefill.model.counter_random import Purpose
from vaefill.model.lazy import fused, loops, tf
from vaefill.model.samplers import base

if TYPE_CHECKING:
    from vaefill.model.priors import Prior
    from vaefill.model.vae import VAE


class GaussianSplit(NamedTuple):
    """The normal distribution N(centre, factor factor') whose dynamics are exact.

    In u = inverse (z - centre) it is standard, and so are the momenta.
    """

    centre: tf.Tensor  # [N, K]
    factor: tf.Tensor  # [N, K, K], or [N, K] of a diagonal one
    inverse: tf.Tensor  # of `factor`, of its shape


class Point(NamedTuple):
    """A latent and all that was computed there, so that nothing is computed twice."""

    z: tf.Tensor  # [N, K]
    features: tf.Tensor  # [N, F] what decoder outputs at z are made from, by the restricted decoder
    log_likelihood: tf.Tensor  # [N] log p(x_obs | z), nats
    gradient: tf.Tensor  # [N, K] of log_likelihood by z


class _Seen(NamedTuple):
    """The S values that the restricted decoder is of."""

    x: tf.Tensor  # [N, S]
    observed: tf.Tensor  # [N, S] bool


def _restrict(vae: VAE, rows: base.Rows) -> _Seen:
    values = base.restricted_decoder(vae).values
    if len(values) == rows.observed.shape[1]:
        return _Seen(rows.x_observed, rows.observed)
    return _Seen(
        tf.gather(rows.x_observed, values, axis=1), tf.gather(rows.observed, values, axis=1)
    )


def evaluate(vae: VAE, rows: base.Rows, z: tf.Tensor) -> Point:
    """The point at z: forward and backward through the decoder, one network pass."""
    seen = _restrict(vae, rows)
    features, outputs, gradient = _forward_and_backward(vae, seen, z)
    log_likelihood = base.log_likelihood(base.restricted_decoder(vae).likelihood, outputs, *seen)
    return Point(z, features, log_likelihood, gradient)


def _forward_and_backward(
    vae: VAE, seen: _Seen, z: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Features and outputs seen at z, and the gradient [N, K] of log p(x_obs | z).

    The value of that only the ends of a path need.
    """
    decoder = base.restricted_decoder(vae)
    with tf.GradientTape() as tape:
        tape.watch(z)
        features = decoder.features(z)
        outputs = decoder.outputs(features)
    by_outputs = base.log_likelihood_gradient(decoder.likelihood, outputs, *seen)
    return features, outputs, tape.gradient(outputs, z, by_outputs)


@loops
def move(
    vae: VAE,
    rows: base.Rows,
    sweep: tf.Tensor,
    point: Point,
    split: GaussianSplit,
    step_size: tf.Tensor,
    num_steps: int,
    beta: tf.Tensor | float = 1.0,
) -> tuple[Point, base.Decision]:
    """One trajectory and its acceptance; leaves the target unchanged, whatever the reference.

    A step is half a kick by what the target's force has beyond the reference's, a rotation in (u,
    momentum), and half a kick. Every trajectory has its own step size, within a fifth of
    `step_size`, since at a fixed length some direction could come back to where it started.

    Args:
        point: where the chains are.
        split: with its reference, fixed before the trajectory, and the same for its whole length.
        step_size: [N], in units of time in which a period of the reference is 2 pi.
        num_steps: steps; so many network passes.
        beta: [N] or a number, the power of the likelihood.
    """
    momentum = start = base.draw_noise(rows, sweep, Purpose.MOMENTUM, vae.latent_size)
    time = step_size * (0.8 + 0.4 * base.draw_uniform(rows, sweep, Purpose.JITTER))
    beta = beta * tf.ones_like(step_size)
    seen, half, z, gradient = _restrict(vae, rows), 0.5 * time, point.z, point.gradient
    u = _whiten(split, z)
    prior = vae.prior
    z, u, momentum = _kick_and_rotate(prior, split, half, time, beta, z, gradient, u, momentum)
    # The second half of a step's kick and the first half of the next one's
    for _ in tf.range(num_steps - 1):
        gradient = _forward_and_backward(vae, seen, z)[2]
        z, u, momentum = _kick_and_rotate(prior, split, time, time, beta, z, gradient, u, momentum)
    features, outputs, gradient = _forward_and_backward(vae, seen, z)
    momentum = _kick(prior, split, half, beta, z, gradient, u, momentum)
    log_likelihood = base.log_likelihood(base.restricted_decoder(vae).likelihood, outputs, *seen)
    new = Point(z, features, log_likelihood, gradient)
    log_ratio = log_target(prior, new, beta) - log_target(prior, point, beta)
    log_ratio += base.standard_normal_log_prob(momentum) - base.standard_normal_log_prob(start)
    decision = base.accept(base.draw_uniform(rows, sweep, Purpose.ACCEPT), log_ratio)
    return base.choose(decision.accepted, new, point), decision


def log_target(prior: Prior, point: Point, beta: tf.Tensor | float = 1.0) -> tf.Tensor:
    """log p(z) p(x_obs | z)^beta without the prior's constant: [N]."""
    return beta * point.log_likelihood + prior.log_prob(point.z)


# There are many small operations between two passes through the network.


@fused
def _whiten(split: GaussianSplit, z: tf.Tensor) -> tf.Tensor:
    return _times(split.inverse, z - split.centre)


@fused
def _kick(
    prior: Prior,
    split: GaussianSplit,
    time: tf.Tensor,
    beta: tf.Tensor,
    z: tf.Tensor,
    gradient: tf.Tensor,
    u: tf.Tensor,
    momentum: tf.Tensor,
) -> tf.Tensor:
    """The momentum after `time` [N] of what the target's force has beyond the reference's."""
    of_target = beta[:, tf.newaxis] * gradient + prior.score(z)
    force = _times(split.factor, of_target, transpose=True)
    return momentum + time[:, tf.newaxis] * (force + u)


@fused
def _kick_and_rotate(
    prior: Prior,
    split: GaussianSplit,
    kick_time: tf.Tensor,
    time: tf.Tensor,
    beta: tf.Tensor,
    z: tf.Tensor,
    gradient: tf.Tensor,
    u: tf.Tensor,
    momentum: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """z, u and momentum after a kick of `kick_time` [N] and `time` [N] of the reference's own
    dynamics.
    """
    momentum = _kick(prior, split, kick_time, beta, z, gradient, u, momentum)
    cos, sin = tf.cos(time)[:, tf.newaxis], tf.sin(time)[:, tf.newaxis]
    u, momentum = u * cos + momentum * sin, momentum * cos - u * sin
    return split.centre + _times(split.factor, u), u, momentum


def _times(factor: tf.Tensor, vector: tf.Tensor, transpose: bool = False) -> tf.Tensor:
    """factor v or factor' v, row by row: [N, K]."""
    if factor.shape.rank == 2:
        return factor * vector
    if transpose:
        return tf.reduce_sum(factor * vector[:, :, tf.newaxis], axis=1)
    return tf.reduce_sum(factor * vector[:, tf.newaxis], axis=2)
