"""Importance resampling from the encoder: Mattei & Frellsen (2019), arXiv:1812.02633, sec. 3.

    1. z ~ (1 - e) q(z | x_obs, fill) + e p(z)
    2. weight w = p(x_obs | z) p(z) / ((1 - e) q(z | x_obs, fill) + e p(z))
    3. imputations from all z of a record, resampled by weight, x_mis ~ p(x_mis | z)

`fill` is the completion where the chain starts, a draw of a few sweeps of pseudo-Gibbs, and stays.
The prior's share e bounds the weights by max p(x_obs | z) / e: without it a q that is too narrow
gives them infinite variance. Consistent in the number of draws; the mean of the weights estimates
p(x_obs).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from vaefill.model.config import SamplerConfig
from vaefill.model.counter_random import Purpose
from vaefill.model.lazy import tf
from vaefill.model.samplers import base, pseudo_gibbs

if TYPE_CHECKING:
    from vaefill.model.vae import VAE


class Config(SamplerConfig):
    """Settings of importance resampling."""

    name: Literal["importance_resampling"] = "importance_resampling"
    prior_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05,
        description="the prior's share e of the proposal",
    )


class State(NamedTuple):
    z: tf.Tensor  # [N, K] latent
    outputs: tf.Tensor  # [N, D * outputs_per_value] decoder outputs at z
    log_likelihood: tf.Tensor  # [N] log p(x_obs | z)
    loc: tf.Tensor  # [N, K] of the proposal
    scale: tf.Tensor  # [N, K]


def init(vae: VAE, rows: base.Rows, sweep: tf.Tensor, z: tf.Tensor) -> State:
    """A state that fixes each chain's proposal at a completion x_mis ~ p(x_mis | z).

    Args:
        vae: the model.
        rows: of N rows.
        sweep: [N] int32, the number of this draw.
        z: [N, K] latents.
    """
    outputs = vae.decoder(z)
    posterior = vae.encode(base.draw_values(vae, rows, sweep, Purpose.VALUES, outputs))
    log_lik = base.log_likelihood(vae.likelihood, outputs, rows.x_observed, rows.observed)
    return State(z, outputs, log_lik, posterior.loc, posterior.stddev())


def step(
    vae: VAE,
    prior_fraction: float,
    rows: base.Rows,
    sweep: tf.Tensor,
    state: State,
) -> tuple[State, base.Info]:
    """One weighted draw a row; it does not depend on the one before.

    Args:
        vae: the model.
        prior_fraction: the prior's share of the proposal, 0 to 1.
        rows: of N rows.
        sweep: [N] int32, the number of each row's sweep.
        state: of N rows.
    """
    proposal = base.DefensiveNormal(vae.prior, state.loc, state.scale, prior_fraction)
    z = proposal.draw(rows, sweep)
    outputs = vae.decoder(z)
    log_lik = base.log_likelihood(vae.likelihood, outputs, rows.x_observed, rows.observed)
    log_weight = log_lik + vae.prior.log_prob(z) - proposal.log_prob(z)
    return State(z, outputs, log_lik, state.loc, state.scale), base.Info.of_weights(log_weight)


def build(vae: VAE, config: Config) -> base.Kernel:
    """The kernel for a VAE."""
    return base.Kernel(
        start=functools.partial(pseudo_gibbs.start, vae),
        init=functools.partial(init, vae),
        step=functools.partial(step, vae, config.prior_fraction),
        draws=base.SampleKind.WEIGHTED,
    )
