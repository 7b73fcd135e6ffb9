"""Latent-adaptive importance resampling: Simkus & Gutmann (2023), arXiv:2308.09078.

A chain is a group of K + R rows: K particles, and R rows that replenish it from the prior.

    1. components q_k = q(z | x_obs, x_mis^k), k = 1..K, and R times p(z)
    2. one z_j from each of the K + R components
    3. w_j = p(x_obs | z_j) p(z_j) / ((sum_k q_k(z_j) + R p(z_j)) / (K + R))
    4. K latents resampled by w; x_mis^k ~ p(x_mis | z^k)

The result comes from the z_j of all sweeps and groups, with their weights as they are; particles of
a group interact, so they are not draws of a chain. Consistent, not invariant; the mean of w
estimates p(x_obs).
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self

import pydantic
from pydantic import Field

from vaefill.model.config import Positive, SamplerConfig
from vaefill.model.counter_random import Purpose
from vaefill.model.lazy import fused, tf
from vaefill.model.samplers import base, pseudo_gibbs

if TYPE_CHECKING:
    from vaefill.model.vae import VAE


class Config(SamplerConfig):
    """Settings of LAIR."""

    name: Literal["lair"] = "lair"
    num_particles: Annotated[int, Field(ge=2, le=1024)] = Field(
        8,
        description="rows of a chain, K + R",
    )
    num_replenishing: Positive = Field(1, description="R, those of them drawn from the prior")

    @property
    def rows_per_chain(self) -> int:
        """A row a particle."""
        return self.num_particles

    @pydantic.model_validator(mode="after")
    def _has_particles(self) -> Self:
        most = self.num_particles - 1
        if self.num_replenishing > most:
            raise ValueError(
                f"num_replenishing must be at most num_particles - 1 = {most}, "
                f"got {self.num_replenishing}; there must be a row left that is not from the prior"
            )
        return self


class State(NamedTuple):
    x: tf.Tensor  # [N, D] completions after resampling; of the R replenishing rows unused
    z: tf.Tensor  # [N, K] the proposals z_j, before resampling
    outputs: tf.Tensor  # [N, D * outputs_per_value] decoder outputs at z
    log_likelihood: tf.Tensor  # [N] log p(x_obs | z)


def init(vae: VAE, rows: base.Rows, sweep: tf.Tensor, z: tf.Tensor) -> State:
    """Particles at given latents, with x_mis ~ p(x_mis | z).

    Args:
        vae: the model.
        rows: of N rows.
        sweep: [N] int32, the number of this draw.
        z: [N, K] latents.
    """
    outputs = vae.decoder(z)
    log_lik = base.log_likelihood(vae.likelihood, outputs, rows.x_observed, rows.observed)
    return State(base.draw_values(vae, rows, sweep, Purpose.VALUES, outputs), z, outputs, log_lik)


def _propose(
    vae: VAE,
    rows: base.Rows,
    sweep: tf.Tensor,
    x: tf.Tensor,
    is_prior: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Steps 1 and 2: z [N, K] of each row's component, and loc and scale [N, K] of those that are
    not the prior.
    """
    posterior = vae.encode(x)
    loc, scale = posterior.loc, posterior.stddev()
    noise = base.draw_noise(rows, sweep, Purpose.LATENT, vae.latent_size)
    z = tf.where(is_prior[:, tf.newaxis], vae.prior.draw(noise), loc + scale * noise)
    return z, loc, scale


@fused
def _mixture_log_prob(
    z: tf.Tensor,
    loc: tf.Tensor,
    scale: tf.Tensor,
    log_prior: tf.Tensor,
    is_prior: tf.Tensor,
    size: int,
) -> tf.Tensor:
    """log of the mean density of a group's components at each of its z: [N].

    Without the constant that `base.standard_normal_log_prob` leaves out too.
    """
    z = base.grouped(z, size)[:, :, tf.newaxis]
    loc = base.grouped(loc, size)[:, tf.newaxis]
    scale = base.grouped(scale, size)[:, tf.newaxis]
    each = base.normal_log_prob(z, loc, scale)  # [G, z, component]
    each = tf.where(
        base.grouped(is_prior, size)[:, tf.newaxis],
        base.grouped(log_prior, size)[:, :, tf.newaxis],
        each,
    )
    return base.ungrouped(tf.reduce_logsumexp(each, axis=2)) - math.log(size)


def step(
    vae: VAE, size: int, num_replenishing: int, rows: base.Rows, sweep: tf.Tensor, state: State
) -> tuple[State, base.Info]:
    """One sweep of every group, steps 1 to 4.

    Args:
        vae: the model.
        size: rows of a group, K + R.
        num_replenishing: R, the last of them.
        rows: of N rows.
        sweep: [N] int32, the number of each row's sweep.
        state: of N rows.
    """
    is_prior = tf.range(state.x.shape[0]) % size >= size - num_replenishing
    z, loc, scale = _propose(vae, rows, sweep, state.x, is_prior)
    outputs = vae.decoder(z)
    log_lik = base.log_likelihood(vae.likelihood, outputs, rows.x_observed, rows.observed)
    log_prior = vae.prior.log_prob(z)
    log_q = _mixture_log_prob(z, loc, scale, log_prior, is_prior, size)
    info = base.Info.of_weights(log_lik + log_prior - log_q)
    chosen = base.resample(base.draw_uniform(rows, sweep, Purpose.RESAMPLE), info.log_weight, size)
    x = base.draw_values(vae, rows, sweep, Purpose.VALUES, tf.gather(outputs, chosen))
    return State(x, z, outputs, log_lik), info


def build(vae: VAE, config: Config) -> base.Kernel:
    """The kernel for a VAE."""
    return base.Kernel(
        start=functools.partial(pseudo_gibbs.start, vae),
        init=functools.partial(init, vae),
        step=functools.partial(step, vae, config.num_particles, config.num_replenishing),
        draws=base.SampleKind.WEIGHTED,
    )
