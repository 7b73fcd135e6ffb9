"""Importance resampling from the encoder: Mattei & Frellsen (2019), arXiv:1812.02633, sec. 3.

    1. z ~ (1 - e) q(z | x_obs, fill) + e p(z)
    2. weight w = p(x_obs | z) p(z) / ((1 - e) q(z | x_obs, fill) + e p(z))
    3. imputations from all z of a record, resampled by weight, x_mis ~ p(x_mis | z)

`fill` is the completion where the chain starts, a draw of a few sweeps of pseudo-Gibbs, and stays. The
prior's share e bounds the weights by max p(x_obs | z) / e: without it a q that is too narrow gives them
infinite variance. Consistent in the number of draws; the mean of the weights estimates p(x_obs).
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
    loc: tf.Tensor  # [N, K] of the proposal
    scale: tf.Tensor  # [N, K]


def init(vae: VAE, rows: base.Rows, sweep: tf.Tensor, z: tf.Tensor) -> State:
    """Fixes each chain's proposal at a completion drawn from the latents z."""
    outputs = vae.decoder(z)
    posterior = vae.encode(base.draw_values(vae, rows, sweep, Purpose.VALUES, outputs))
    log_lik = base.log_likelihood(vae.likelihood, outputs, rows.x_observed, rows.observed)
    return State(z, outputs, log_lik, posterior.loc, posterior.stddev())


def step(vae: VAE, prior_fraction: float, rows: base.Rows, sweep: tf.Tensor, state: State) -> tuple[State, base.Info]:
    """One weighted draw a row; it does not depend on the one before."""
    proposal = base.DefensiveNormal(state.loc, state.scale, prior_fraction)
    z = proposal.draw(rows, sweep)
    outputs = vae.decoder(z)
    log_lik = base.log_likelihood(vae.likelihood, outputs, rows.x_observed, rows.observed)
    log_weight = log_lik + base.standard_normal_log_prob(z) - proposal.log_prob(z)
    return State(z, outputs, log_lik, state.loc, state.scale), base.Info.of_weights(log_weight)


def build(vae: VAE, config: SamplerConfig) -> base.Kernel:
    """The kernel for a VAE."""
    return base.Kernel(
        init=lambda rows, sweep, z: init(vae, rows, sweep, z),
        step=lambda rows, sweep, state: step(vae, config.prior_fraction, rows, sweep, state),
        draws=base.SampleKind.WEIGHTED,
    )
