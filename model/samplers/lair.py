"""Latent-adaptive importance resampling: Simkus & Gutmann (2023), arXiv:2308.09078.

A chain is a group of K + R rows: K particles, and R rows that replenish it from the prior.

    1. components q_k = q(z | x_obs, x_mis^k), k = 1..K, and R times p(z)
    2. one z_j from each of the K + R components
    3. w_j = p(x_obs | z_j) p(z_j) / ((sum_k q_k(z_j) + R p(z_j)) / (K + R))
    4. K latents resampled by w; x_mis^k ~ p(x_mis | z^k)

The result comes from the z_j of all sweeps and groups, with their weights as they are; particles of a group
interact, so they are not draws of a chain. Consistent, not invariant; the mean of w estimates p(x_obs).
"""

import math
from typing import NamedTuple

import tensorflow as tf

from vaefill.model.config import SamplerConfig
from vaefill.model.counter_random import Purpose
from vaefill.model.samplers import base
from vaefill.model.vae import VAE


class State(NamedTuple):
    x: tf.Tensor  # [N, D] completions after resampling; of the R replenishing rows unused
    z: tf.Tensor  # [N, K] the proposals z_j, before resampling
    outputs: tf.Tensor  # [N, D * outputs_per_value] decoder outputs at z
    log_likelihood: tf.Tensor  # [N] log p(x_obs | z)


def init(vae: VAE, rows: base.Rows, sweep: tf.Tensor, z: tf.Tensor) -> State:
    """Particles at the latents z: x_mis ~ p(x_mis | z)."""
    outputs = vae.decoder(z)
    log_lik = base.log_likelihood(vae.likelihood, outputs, rows.x_observed, rows.observed)
    return State(base.draw_values(vae, rows, sweep, Purpose.VALUES, outputs), z, outputs, log_lik)


def _components(vae: VAE, x: tf.Tensor, size: int, num_replenishing: int) -> tuple[tf.Tensor, tf.Tensor]:
    """loc and scale of every row's component, [N, K]: the encoder's, or the prior's in the last rows of a group."""
    posterior = vae.encode(x)
    replenishing = (tf.range(x.shape[0]) % size >= size - num_replenishing)[:, tf.newaxis]
    return tf.where(replenishing, 0.0, posterior.loc), tf.where(replenishing, 1.0, posterior.stddev())


@tf.function(jit_compile=True)
def _mixture_log_prob(z: tf.Tensor, loc: tf.Tensor, scale: tf.Tensor, size: int) -> tf.Tensor:
    """log of the mean over a group's components at each of its z, [N]; constants as in `base.normal_log_prob`."""
    z, loc, scale = (base.grouped(tensor, size) for tensor in (z, loc, scale))
    each = base.normal_log_prob(z[:, :, tf.newaxis], loc[:, tf.newaxis], scale[:, tf.newaxis])  # [G, z, component]
    return base.ungrouped(tf.reduce_logsumexp(each, axis=2)) - math.log(size)


def step(
    vae: VAE, size: int, num_replenishing: int, rows: base.Rows, sweep: tf.Tensor, state: State
) -> tuple[State, base.Info]:
    """One sweep of every group of `size` rows."""
    loc, scale = _components(vae, state.x, size, num_replenishing)
    z = base.draw_latent(rows, sweep, Purpose.LATENT, loc, scale)
    outputs = vae.decoder(z)
    log_lik = base.log_likelihood(vae.likelihood, outputs, rows.x_observed, rows.observed)
    log_weight = log_lik + base.standard_normal_log_prob(z) - _mixture_log_prob(z, loc, scale, size)
    info = base.Info.of_weights(log_weight)
    chosen = base.resample(base.draw_uniform(rows, sweep, Purpose.RESAMPLE), info.log_weight, size)
    x = base.draw_values(vae, rows, sweep, Purpose.VALUES, tf.gather(outputs, chosen))
    return State(x, z, outputs, log_lik), info


def build(vae: VAE, config: SamplerConfig) -> base.Kernel:
    """The kernel for a VAE: chains of `config.num_particles` rows, `config.num_replenishing` of them from the prior."""
    size, num_replenishing = config.num_particles, config.num_replenishing
    return base.Kernel(
        init=lambda rows, sweep, z: init(vae, rows, sweep, z),
        step=lambda rows, sweep, state: step(vae, size, num_replenishing, rows, sweep, state),
        rows_per_chain=size,
        draws=base.SampleKind.WEIGHTED,
    )
