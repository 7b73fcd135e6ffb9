"""Annealed sequential Monte Carlo: Neal (2001); Del Moral, Doucet & Jasra (2006).

A chain is a group of particles that moves from the prior to p(z | x_obs) through
p(z) p(x_obs | z)^beta. A sweep:

    1. the largest beta up to 1 at which the new weights keep an effective size of half of the group
    2. resample systematically by the weights p(x_obs | z)^(increase of beta); their mean is a
       factor of the group's estimate of p(x_obs)
    3. move every particle by Hamiltonian dynamics at the new beta

The estimate is without bias for betas fixed beforehand; as they and the moves adapt to the
particles it is consistent in their number. At beta = 1 sweeps are moves alone. Crosses valleys that
chains do not. Groups are independent, and the result weighs them by their estimates of p(x_obs).
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from vaefill.model.config import Positive, SamplerConfig
from vaefill.model.counter_random import Purpose
from vaefill.model.lazy import fused, loops, tf
from vaefill.model.samplers import base, hamiltonian

if TYPE_CHECKING:
    from vaefill.model.vae import VAE

_ACCEPTANCE = 0.8
_EFFECTIVE_FRACTION = 0.5
_BISECTIONS = 24  # halvings of the interval in which beta lies: as fine as float32


class Config(SamplerConfig):
    """Settings of annealed SMC."""

    name: Literal["annealed_smc"] = "annealed_smc"
    num_start: Literal[0] = Field(0, description="none: particles start from the prior")
    num_particles: Annotated[int, Field(ge=4, le=1024)] = Field(
        8, description="rows of a chain; a hundred or more are wanted"
    )
    num_leapfrog_steps: Positive = Field(4, description="gradients of a sweep")

    @property
    def rows_per_chain(self) -> int:
        """A row a particle."""
        return self.num_particles


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


def init(vae: VAE, rows: base.Rows, sweep: tf.Tensor, z: tf.Tensor) -> State:
    """Particles at draws of the prior, with beta = 0.

    Args:
        vae: the model.
        rows: of N rows.
        sweep: not used, nothing is drawn.
        z: [N, K] draws of the prior.
    """
    del sweep
    num_rows = z.shape[0]
    return State(
        *hamiltonian.evaluate(vae, rows, z),
        beta=tf.zeros([num_rows]),
        log_evidence=tf.zeros([num_rows]),
        centre=tf.zeros_like(z),
        scale=tf.ones_like(z),
        step_size=tf.fill([num_rows], 0.5),
    )


def _effective_fraction(log_weight: tf.Tensor) -> tf.Tensor:
    """ESS of weights [G, S] over S: [G]."""
    total = tf.reduce_logsumexp(log_weight, 1)
    squares = tf.reduce_logsumexp(2.0 * log_weight, 1)
    return tf.exp(2.0 * total - squares) / log_weight.shape[1]


@fused
@loops
def _increase(log_likelihood: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
    """By how much beta can grow: [G], for log_likelihood [G, S] and beta [G]."""
    low, high = tf.zeros_like(beta), 1.0 - beta
    whole = _effective_fraction(high[:, tf.newaxis] * log_likelihood) >= _EFFECTIVE_FRACTION
    for _ in tf.range(_BISECTIONS):  # unrolled it takes XLA minutes inside a larger program
        middle = 0.5 * (low + high)
        enough = _effective_fraction(middle[:, tf.newaxis] * log_likelihood) >= _EFFECTIVE_FRACTION
        low, high = tf.where(enough, middle, low), tf.where(enough, high, middle)
    return tf.where(whole, 1.0 - beta, low)


def _to_rows(of_groups: tf.Tensor, size: int) -> tf.Tensor:
    """[G, ...] -> [G * size, ...]."""
    return base.ungrouped(tf.repeat(of_groups[:, tf.newaxis], size, axis=1))


def _temper(size: int, rows: base.Rows, sweep: tf.Tensor, state: State) -> State:
    """Steps 1 and 2: the next beta, and the particles resampled for it."""
    log_lik = state.log_likelihood
    log_lik = tf.where(tf.math.is_finite(log_lik), log_lik, log_lik.dtype.min)
    log_lik = base.grouped(log_lik, size)
    beta = base.grouped(state.beta, size)[:, 0]
    increase = _increase(log_lik, beta)
    log_weight = increase[:, tf.newaxis] * log_lik
    factor = _to_rows(tf.reduce_logsumexp(log_weight, 1) - math.log(size), size)
    chosen = base.resample_systematically(
        base.draw_uniform(rows, sweep, Purpose.RESAMPLE), base.ungrouped(log_weight), size
    )
    # A beta within rounding of 1 is 1.
    beta = tf.where(beta + increase > 1.0 - 1e-6, 1.0, beta + increase)
    point = tf.nest.map_structure(lambda tensor: tf.gather(tensor, chosen), state.point)
    return state._replace(
        **point._asdict(),
        beta=_to_rows(beta, size),
        log_evidence=state.log_evidence + factor,
    )


def _fit_reference(size: int, state: State) -> State:
    """The reference of the moves, fitted to each group's particles."""
    particles = base.grouped(state.z, size)
    centre = tf.reduce_mean(particles, axis=1)
    scale = tf.maximum(tf.math.reduce_std(particles, axis=1), 1e-3)
    return state._replace(centre=_to_rows(centre, size), scale=_to_rows(scale, size))


def _move(
    vae: VAE,
    num_steps: int,
    rows: base.Rows,
    sweep: tf.Tensor,
    state: State,
) -> tuple[State, base.Decision]:
    """Step 3."""
    split = hamiltonian.GaussianSplit(state.centre, state.scale, 1.0 / state.scale)
    point, decision = hamiltonian.move(
        vae,
        rows,
        sweep,
        state.point,
        split,
        state.step_size,
        num_steps,
        state.beta,
    )
    return state._replace(**point._asdict()), decision


def _adapt_step_size(size: int, acceptance: tf.Tensor, state: State) -> State:
    """A longer step where more of a group's moves [N] were accepted than should be."""
    mean = tf.reduce_mean(base.grouped(acceptance, size), axis=1)
    factor = _to_rows(tf.exp(0.5 * (mean - _ACCEPTANCE)), size)
    return state._replace(step_size=state.step_size * factor)


def step(
    vae: VAE, size: int, num_steps: int, rows: base.Rows, sweep: tf.Tensor, state: State
) -> tuple[State, base.Info]:
    """One sweep of every group, without adaptation.

    Args:
        vae: the model.
        size: particles of a group.
        num_steps: steps of a trajectory, a network pass each.
        rows: of N rows.
        sweep: [N] int32, the number of each row's sweep.
        state: of N rows.
    """
    state = _temper(size, rows, sweep, state)
    state, decision = _move(vae, num_steps, rows, sweep, state)
    log_weight = tf.where(state.beta == 1.0, state.log_evidence, -math.inf)
    return state, base.Info(decision.probability, log_weight, decision.non_finite)


@loops
def warm_up(
    vae: VAE,
    size: int,
    num_steps: int,
    rows: base.Rows,
    sweeps: range,
    state: State,
) -> State:
    """The way from the prior, while reference and step size adapt to each group.

    A group that arrives early goes on moving at beta = 1.

    Args:
        vae: the model.
        size: particles of a group.
        num_steps: steps of a trajectory, a network pass each.
        rows: of N rows.
        sweeps: numbers for all rows.
        state: of N rows, as `init` leaves it.
    """
    for number in tf.range(sweeps.start, sweeps.stop):
        sweep = base.everywhere(rows, number)
        state = _fit_reference(size, _temper(size, rows, sweep, state))
        state, decision = _move(vae, num_steps, rows, sweep, state)
        state = _adapt_step_size(size, decision.probability, state)
    return state


def build(vae: VAE, config: Config) -> base.Kernel:
    """The kernel for a VAE."""
    size = config.num_particles
    num_steps = config.num_leapfrog_steps
    return base.Kernel(
        init=functools.partial(init, vae),
        adapt=functools.partial(warm_up, vae, size, num_steps),
        step=functools.partial(step, vae, size, num_steps),
        passes=num_steps,
        draws=base.SampleKind.POPULATION,
        outputs=lambda state: base.restricted_decoder(vae).all_outputs(state.features),
        uses_restricted_decoder=True,
    )
