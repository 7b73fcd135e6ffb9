"""Annealed sequential Monte Carlo: Neal (2001); Del Moral, Doucet & Jasra (2006).

A chain is a group of particles that moves from the prior to p(z | x_obs) through p(z) p(x_obs | z)^beta.
A sweep:

    1. the largest beta up to 1 at which the new weights keep an effective size of half of the group
    2. resample systematically by the weights p(x_obs | z)^(increase of beta); their mean is a factor of the
       group's estimate of p(x_obs)
    3. move every particle by Hamiltonian dynamics at the new beta

The estimate is without bias for betas fixed beforehand; as they and the moves adapt to the particles it is
consistent in their number. At beta = 1 sweeps are moves alone. Crosses valleys that chains do not. Groups are
independent, and the result weighs them by their estimates of p(x_obs).
"""

import math
from typing import NamedTuple

import tensorflow as tf

from vaefill.model.compiled import restricted_decoder
from vaefill.model.config import SamplerConfig
from vaefill.model.counter_random import Purpose
from vaefill.model.samplers import base, hamiltonian
from vaefill.model.vae import VAE

_ACCEPTANCE = 0.8
_EFFECTIVE_FRACTION = 0.5
_BISECTIONS = 24  # halvings of the interval in which beta lies: as fine as float32


class State(NamedTuple):
    z: tf.Tensor  # [N, K] latent
    features: tf.Tensor  # [N, F] what decoder outputs at z are made from, by the restricted decoder
    log_likelihood: tf.Tensor  # [N]
    gradient: tf.Tensor  # [N, K] of log p(x_obs | z)
    beta: tf.Tensor  # [N], the same in a group
    log_evidence: tf.Tensor  # [N] estimate of log p(x_obs) up to beta, the same in a group
    centre: tf.Tensor  # [N, K] mean of the group's particles
    scale: tf.Tensor  # [N, K] their standard deviation
    step_size: tf.Tensor  # [N], the same in a group

    @property
    def point(self) -> hamiltonian.Point:
        """What the dynamics read and write."""
        return hamiltonian.Point(*self[:4])


def init(vae: VAE, rows: base.Rows) -> State:
    """Particles from the prior: wherever chains of other samplers start, these start at beta = 0."""
    num_rows = rows.observed.shape[0]
    zeros, ones = tf.zeros([num_rows, vae.latent_size]), tf.ones([num_rows, vae.latent_size])
    z = base.draw_latent(rows, base.everywhere(rows, 0), Purpose.START_LATENT, zeros, ones)
    nothing = tf.zeros([num_rows])
    return State(*hamiltonian.evaluate(vae, rows, z), nothing, nothing, zeros, ones, tf.fill([num_rows], 0.5))


def _effective_fraction(log_weight: tf.Tensor) -> tf.Tensor:
    """ESS of weights [G, S] over S: [G]."""
    total, squares = tf.reduce_logsumexp(log_weight, 1), tf.reduce_logsumexp(2.0 * log_weight, 1)
    return tf.exp(2.0 * total - squares) / log_weight.shape[1]


@tf.function(jit_compile=True)
def _increase(log_likelihood: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
    """By how much beta can grow: [G], for log_likelihood [G, S] and beta [G]."""
    low, high = tf.zeros_like(beta), 1.0 - beta
    whole = _effective_fraction(high[:, tf.newaxis] * log_likelihood) >= _EFFECTIVE_FRACTION
    for _ in tf.range(_BISECTIONS):  # unrolled it takes XLA minutes to compile inside a larger program
        middle = 0.5 * (low + high)
        enough = _effective_fraction(middle[:, tf.newaxis] * log_likelihood) >= _EFFECTIVE_FRACTION
        low, high = tf.where(enough, middle, low), tf.where(enough, high, middle)
    return tf.where(whole, 1.0 - beta, low)


def step(
    vae: VAE, size: int, num_steps: int, adapt: bool, rows: base.Rows, sweep: tf.Tensor, state: State
) -> tuple[State, base.Info]:
    """One sweep of every group of `size` particles; `adapt` tunes reference and step size to the group."""

    def to_rows(of_groups):
        return base.ungrouped(tf.repeat(of_groups[:, tf.newaxis], size, axis=1))

    log_lik = tf.where(tf.math.is_finite(state.log_likelihood), state.log_likelihood, state.log_likelihood.dtype.min)
    log_lik, beta = base.grouped(log_lik, size), base.grouped(state.beta, size)[:, 0]
    increase = _increase(log_lik, beta)
    log_weight = increase[:, tf.newaxis] * log_lik
    log_evidence = state.log_evidence + to_rows(tf.reduce_logsumexp(log_weight, 1) - math.log(size))
    chosen = base.resample_systematically(
        base.draw_uniform(rows, sweep, Purpose.RESAMPLE), base.ungrouped(log_weight), size
    )
    # A beta within rounding of 1 is 1.
    beta = to_rows(tf.where(beta + increase > 1.0 - 1e-6, 1.0, beta + increase))
    point = tf.nest.map_structure(lambda tensor: tf.gather(tensor, chosen), state.point)

    centre, scale, step_size = state.centre, state.scale, state.step_size
    if adapt:
        particles = base.grouped(point.z, size)
        centre = to_rows(tf.reduce_mean(particles, axis=1))
        scale = to_rows(tf.maximum(tf.math.reduce_std(particles, axis=1), 1e-3))
    split = hamiltonian.GaussianSplit(centre, scale, 1.0 / scale)
    point, decision = hamiltonian.move(vae, rows, sweep, point, split, step_size, num_steps, beta)
    if adapt:
        acceptance = tf.reduce_mean(base.grouped(decision.probability, size), axis=1)
        step_size = step_size * to_rows(tf.exp(0.5 * (acceptance - _ACCEPTANCE)))
    arrived = beta == 1.0
    info = base.Info(decision.probability, tf.where(arrived, log_evidence, -math.inf), decision.non_finite)
    return State(*point, beta, log_evidence, centre, scale, step_size), info


def warm_up(vae: VAE, config: SamplerConfig, rows: base.Rows, first: int, state: State, num_sweeps: int) -> State:
    """The way from the prior; a group that arrives early goes on moving at beta = 1."""
    for sweep in tf.range(first, first + num_sweeps):
        state, _ = step(
            vae, config.num_particles, config.num_leapfrog_steps, True, rows, base.everywhere(rows, sweep), state
        )
    return state


def build(vae: VAE, config: SamplerConfig) -> base.Kernel:
    """The kernel for a VAE: chains of `config.num_particles` rows."""
    return base.Kernel(
        init=lambda rows, sweep, z: init(vae, rows),
        adapt=lambda rows, first, state, num_sweeps: warm_up(vae, config, rows, first, state, num_sweeps),
        step=lambda rows, sweep, state: step(
            vae, config.num_particles, config.num_leapfrog_steps, False, rows, sweep, state
        ),
        passes=config.num_leapfrog_steps,
        rows_per_chain=config.num_particles,
        draws=base.SampleKind.POPULATION,
        outputs=lambda state: restricted_decoder(vae).all_outputs(state.features),
        uses_restricted_decoder=True,
    )
