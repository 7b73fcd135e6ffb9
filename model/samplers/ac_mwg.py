"""Adaptive collapsed Metropolis-within-Gibbs: Simkus & Gutmann (2023), arXiv:2308.09078.

A chain keeps the encoder's components q(z | x_obs, x_mis) of its own past completions, its history, of
which the first `available` can be chosen.

    1. a component k uniform among those available
    2. z' ~ (1 - e) q_k(z) + e p(z)
    3. accept z' with probability min(1, rho), from which the missing values are integrated out:
       rho = p(x_obs | z') p(z') q~(z) / (p(x_obs | z) p(z) q~(z')), q~ the mixture of step 2
    4. in warm-up: on acceptance all of the history becomes available (what came since the last one
       depends on the current z); x_mis ~ p(x_mis | z), and its component joins the history

A history that grows makes it adaptive: exact only in the limit. It is frozen after warm-up, and from
then on a sweep leaves p(z | x_obs) unchanged and needs no encoder.
"""

from typing import NamedTuple

import tensorflow as tf

from vaefill.model.config import SamplerConfig
from vaefill.model.counter_random import Purpose
from vaefill.model.samplers import base
from vaefill.model.vae import VAE


class State(NamedTuple):
    z: tf.Tensor  # [N, K] latent
    outputs: tf.Tensor  # [N, D * outputs_per_value] decoder outputs at z
    log_likelihood: tf.Tensor  # [N] log p(x_obs | z)
    loc: tf.Tensor  # [N, H, K] of the components in the history
    scale: tf.Tensor  # [N, H, K]
    available: tf.Tensor  # [N] int32, components that can be chosen, at least 1


def _component(vae: VAE, rows: base.Rows, sweep: tf.Tensor, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """x_mis ~ p(x_mis | z), and the encoder's loc and scale there."""
    posterior = vae.encode(base.draw_values(vae, rows, sweep, Purpose.VALUES, outputs))
    return posterior.loc, posterior.stddev()


def init(vae: VAE, history_size: int, rows: base.Rows, sweep: tf.Tensor, z: tf.Tensor) -> State:
    """A state at the latents z, with a history of one component."""
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


def step(
    vae: VAE, prior_fraction: float, rows: base.Rows, sweep: tf.Tensor, state: State
) -> tuple[State, base.Info, tf.Tensor]:
    """Steps 1 to 3, with the history as it is. Returns state, info and whether z' was accepted, [N] bool."""
    which = base.draw_uniform(rows, sweep, Purpose.COMPONENT) * tf.cast(state.available, tf.float32)
    which = tf.minimum(tf.cast(which, tf.int32), state.available - 1)
    proposal = base.DefensiveNormal(
        tf.gather(state.loc, which, batch_dims=1), tf.gather(state.scale, which, batch_dims=1), prior_fraction
    )
    z = proposal.draw(rows, sweep)
    outputs = vae.decoder(z)
    log_lik = base.log_likelihood(vae.likelihood, outputs, rows.x_observed, rows.observed)

    def log_weight(z, log_lik):
        return log_lik + base.standard_normal_log_prob(z) - proposal.log_prob(z)

    decision = base.accept(
        base.draw_uniform(rows, sweep, Purpose.ACCEPT),
        log_weight(z, log_lik) - log_weight(state.z, state.log_likelihood),
    )
    current = (state.z, state.outputs, state.log_likelihood)
    z, outputs, log_lik = base.choose(decision.accepted, (z, outputs, log_lik), current)
    info = base.Info.of_chain(decision.probability, decision.non_finite)
    return state._replace(z=z, outputs=outputs, log_likelihood=log_lik), info, decision.accepted


def warm_up(vae: VAE, prior_fraction: float, rows: base.Rows, first: int, state: State, num_sweeps: int) -> State:
    """Sweeps that let the history grow, step 4."""
    for size in tf.range(1, num_sweeps + 1):
        sweep = base.everywhere(rows, first + size - 1)
        state, _, accepted = step(vae, prior_fraction, rows, sweep, state)
        loc, scale = _component(vae, rows, sweep, state.outputs)
        here = tf.reshape(tf.range(state.loc.shape[1]) == size, [1, -1, 1])
        state = state._replace(
            available=tf.where(accepted, size, state.available),
            loc=tf.where(here, loc[:, tf.newaxis], state.loc),
            scale=tf.where(here, scale[:, tf.newaxis], state.scale),
        )
    return state


def build(vae: VAE, config: SamplerConfig) -> base.Kernel:
    """The kernel for a VAE; `config.num_warmup` is the length of the history."""
    return base.Kernel(
        init=lambda rows, sweep, z: init(vae, config.num_warmup + 1, rows, sweep, z),
        adapt=lambda rows, first, state, num_sweeps: warm_up(
            vae, config.prior_fraction, rows, first, state, num_sweeps
        ),
        step=lambda rows, sweep, state: step(vae, config.prior_fraction, rows, sweep, state)[:2],
    )
