"""Pseudo-Gibbs sampling: Rezende, Mohamed & Wierstra (2014), App. F, eq. 41-44.

    1. z     ~ q(z | x_obs, x_mis)
    2. x_mis ~ p(x_mis | z)

Step 1 uses the encoder's approximation in place of p(z | x), so the stationary distribution is
p(x_mis, z | x_obs) only where the approximation is exact; their Proposition F.1 bounds the error by
how far it is from that. Every proposal is taken: there is nothing to reject.

Most other samplers start from a few sweeps of this one.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal, NamedTuple

from vaefill.model.config import SamplerConfig
from vaefill.model.counter_random import Purpose
from vaefill.model.lazy import loops, tf
from vaefill.model.samplers import base

if TYPE_CHECKING:
    from vaefill.model.vae import VAE


class Config(SamplerConfig):
    """Nothing of its own to set."""

    name: Literal["pseudo_gibbs"] = "pseudo_gibbs"


class State(NamedTuple):
    x: tf.Tensor  # [N, D] completion; observed entries never change
    z: tf.Tensor  # [N, K] latent
    outputs: tf.Tensor  # [N, D * outputs_per_value] decoder outputs at z


def init(vae: VAE, rows: base.Rows, sweep: tf.Tensor, z: tf.Tensor) -> State:
    """A state at given latents, with x_mis ~ p(x_mis | z).

    Args:
        vae: the model.
        rows: of N rows.
        sweep: [N] int32, the number of this draw.
        z: [N, K] latents.
    """
    outputs = vae.decoder(z)
    return State(base.draw_values(vae, rows, sweep, Purpose.VALUES, outputs), z, outputs)


def step(vae: VAE, rows: base.Rows, sweep: tf.Tensor, state: State) -> tuple[State, base.Info]:
    """One sweep: z, then x_mis.

    Args:
        vae: the model.
        rows: of N rows.
        sweep: [N] int32, the number of each row's sweep.
        state: of N rows.
    """
    posterior = vae.encode(state.x)
    z = base.draw_latent(rows, sweep, Purpose.LATENT, posterior.loc, posterior.stddev())
    outputs = vae.decoder(z)
    x = base.draw_values(vae, rows, sweep, Purpose.VALUES, outputs)
    return State(x, z, outputs), base.Info.of_chain(tf.ones([z.shape[0]]))


@loops
def start(vae: VAE, rows: base.Rows, sweeps: range) -> tf.Tensor:
    """Where the chains of most samplers start: dispersed, and near the data at little cost.

    Each row is a draw of the model, z ~ p(z), x_mis ~ p(x_mis | z), which takes the first of the
    sweeps; the others are pseudo-Gibbs.

    Args:
        vae: the model.
        rows: of N rows.
        sweeps: numbers for all rows, at least one.

    Returns:
        [N, K] latents.
    """
    first = base.everywhere(rows, sweeps.start)
    state = init(vae, rows, first, base.draw_prior(vae, rows, first))
    for sweep in tf.range(sweeps.start + 1, sweeps.stop):
        state, _ = step(vae, rows, base.everywhere(rows, sweep), state)
    return state.z


def build(vae: VAE, config: Config) -> base.Kernel:
    """The kernel for a VAE."""
    del config  # nothing to set
    return base.Kernel(
        start=functools.partial(start, vae),
        init=functools.partial(init, vae),
        step=functools.partial(step, vae),
    )
