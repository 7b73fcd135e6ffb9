"""Adaptive collapsed Metropolis-within-Gibbs: Simkus & Gutmann (2023), arXiv:2308.09078.

A chain keeps the encoder's components q(z | x_obs, x_mis) of its own past completions, its history,
of which the first `available` can be chosen.

    1. a component k uniform among those available
    2. z' ~ (1 - e) q_k(z) + e p(z)
    3. accept z' with probability min(1, rho), from which the missing values are integrated out:
       rho = p(x_obs | z') p(z') q~(z) / (p(x_obs | z) p(z) q~(z')), q~ the mixture of step 2
    4. in warm-up: on acceptance all of the history becomes available (what came since the last one
       depends on the current z); x_mis ~ p(x_mis | z), and its component joins the history

A history that grows makes it adaptive: exact only in the limit. It is frozen after warm-up, and
from then on a sweep leaves p(z | x_obs) unchanged and needs no encoder.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from vaefill.model.config import SamplerConfig
from vaefill.model.counter_random import Purpose
from vaefill.model.lazy import loops, tf
from vaefill.model.samplers import base, pseudo_gibbs

if TYPE_CHECKING:
    from vaefill.model.vae import VAE


class Config(SamplerConfig):
    """Settings of AC-MWG; the history has room for `num_warmup` sweeps and the initial state."""

    name: Literal["ac_mwg"] = "ac_mwg"
    prior_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05,
        description="the prior's share e of the proposal",
    )


class State(NamedTuple):
    z: tf.Tensor  # [N, K] latent
    outputs: tf.Tensor  # [N, D * outputs_per_value] decoder outputs at z
    log_likelihood: tf.Tensor  # [N] log p(x_obs | z)
    loc: tf.Tensor  # [N, H, K] of the components in the history
    scale: tf.Tensor  # [N, H, K]
    available: tf.Tensor  # [N] int32, components that can be chosen, at least 1


def _component(
    vae: VAE,
    rows: base.Rows,
    sweep: tf.Tensor,
    outputs: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The encoder's loc and scale, [N, K], at x_mis ~ p(x_mis | z), from decoder outputs at z."""
    posterior = vae.encode(base.draw_values(vae, rows, sweep, Purpose.VALUES, outputs))
    return posterior.loc, posterior.stddev()


def init(vae: VAE, history_size: int, rows: base.Rows, sweep: tf.Tensor, z: tf.Tensor) -> State:
    """A state at given latents, with a history of one component.

    Args:
        vae: the model.
        history_size: H, components that there will be room for.
        rows: of N rows.
        sweep: [N] int32, the number of this draw.
        z: [N, K] latents.
    """
    outputs = vae.decoder(z)
    loc, scale = _component(vae, rows, sweep, outputs)
    unused = [(0, 0), (0, history_size - 1), (0, 0)]
    return State(
        z,
        outputs,
        base.log_likelihood(vae.likelihood, outputs, rows.x_observed, rows.observed),
        loc=tf.pad(loc[:, tf.newaxis], unused),
        scale=tf.pad(scale[:, tf.newaxis], unused, constant_values=1.0),
        available=tf.ones([z.shape[0]], tf.int32),
    )


def _propose(
    vae: VAE,
    prior_fraction: float,
    rows: base.Rows,
    sweep: tf.Tensor,
    state: State,
) -> base.DefensiveNormal:
    """Step 1, and the proposal with that component."""
    which = base.draw_uniform(rows, sweep, Purpose.COMPONENT) * tf.cast(state.available, tf.float32)
    which = tf.minimum(tf.cast(which, tf.int32), state.available - 1)
    loc = tf.gather(state.loc, which, batch_dims=1)
    scale = tf.gather(state.scale, which, batch_dims=1)
    return base.DefensiveNormal(vae.prior, loc, scale, prior_fraction)


def _move(
    vae: VAE, prior_fraction: float, rows: base.Rows, sweep: tf.Tensor, state: State
) -> tuple[State, base.Decision]:
    """Steps 1 to 3, with the history as it is."""
    proposal = _propose(vae, prior_fraction, rows, sweep, state)
    z = proposal.draw(rows, sweep)
    outputs = vae.decoder(z)
    log_lik = base.log_likelihood(vae.likelihood, outputs, rows.x_observed, rows.observed)

    def log_weight(z: tf.Tensor, log_lik: tf.Tensor) -> tf.Tensor:
        """log p(x_obs | z) p(z) / q~(z): [N]."""
        return log_lik + vae.prior.log_prob(z) - proposal.log_prob(z)

    log_ratio = log_weight(z, log_lik) - log_weight(state.z, state.log_likelihood)
    decision = base.accept(base.draw_uniform(rows, sweep, Purpose.ACCEPT), log_ratio)
    current = (state.z, state.outputs, state.log_likelihood)
    z, outputs, log_lik = base.choose(decision.accepted, (z, outputs, log_lik), current)
    return state._replace(z=z, outputs=outputs, log_likelihood=log_lik), decision


def step(
    vae: VAE,
    prior_fraction: float,
    rows: base.Rows,
    sweep: tf.Tensor,
    state: State,
) -> tuple[State, base.Info]:
    """One sweep with a frozen history, steps 1 to 3.

    Args:
        vae: the model.
        prior_fraction: the prior's share of the proposal, 0 to 1.
        rows: of N rows.
        sweep: [N] int32, the number of each row's sweep.
        state: of N rows.
    """
    state, decision = _move(vae, prior_fraction, rows, sweep, state)
    return state, base.Info.of_chain(decision.probability, decision.non_finite)


@loops
def warm_up(vae: VAE, prior_fraction: float, rows: base.Rows, sweeps: range, state: State) -> State:
    """Sweeps that let the history grow, steps 1 to 4.

    Args:
        vae: the model.
        prior_fraction: the prior's share of the proposal, 0 to 1.
        rows: of N rows.
        sweeps: numbers for all rows, fewer than there is room for in the history.
        state: of N rows, as `init` leaves it.
    """
    for size in tf.range(1, len(sweeps) + 1):
        sweep = base.everywhere(rows, sweeps.start + size - 1)
        state, decision = _move(vae, prior_fraction, rows, sweep, state)
        loc, scale = _component(vae, rows, sweep, state.outputs)
        here = tf.reshape(tf.range(state.loc.shape[1]) == size, [1, -1, 1])
        state = state._replace(
            available=tf.where(decision.accepted, size, state.available),
            loc=tf.where(here, loc[:, tf.newaxis], state.loc),
            scale=tf.where(here, scale[:, tf.newaxis], state.scale),
        )
    return state


def build(vae: VAE, config: Config) -> base.Kernel:
    """The kernel for a VAE."""
    return base.Kernel(
        start=functools.partial(pseudo_gibbs.start, vae),
        init=functools.partial(init, vae, config.num_warmup + 1),
        adapt=functools.partial(warm_up, vae, config.prior_fraction),
        step=functools.partial(step, vae, config.prior_fraction),
    )
