"""Metropolis-within-Gibbs: Mattei & Frellsen (2018), arXiv:1802.04826, Algorithm 1 and eq. 15.

    1. z' ~ q(z | x_obs, x_mis)
    2. accept z' with probability min(1, rho),
       rho = p(x, z') q(z | x) / (p(x, z) q(z' | x)),  x = (x_obs, x_mis), p(x, z) = p(x | z) p(z)
    3. x_mis ~ p(x_mis | z), accepted or not

It leaves p(x_mis, z | x_obs) unchanged whatever the encoder. It can stick: where the posterior has
separate modes, or q is far from it over all values at once, nothing is accepted.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal

from vaefill.model.config import SamplerConfig
from vaefill.model.counter_random import Purpose
from vaefill.model.lazy import tf
from vaefill.model.samplers import base, pseudo_gibbs
from vaefill.model.samplers.pseudo_gibbs import State, init

if TYPE_CHECKING:
    from vaefill.model.vae import VAE


class Config(SamplerConfig):
    """Nothing of its own to set."""

    name: Literal["metropolis_within_gibbs"] = "metropolis_within_gibbs"


def step(vae: VAE, rows: base.Rows, sweep: tf.Tensor, state: State) -> tuple[State, base.Info]:
    """One sweep: z by Metropolis-Hastings with the encoder as proposal, then x_mis.

    Args:
        vae: the model.
        rows: of N rows.
        sweep: [N] int32, the number of each row's sweep.
        state: of N rows.
    """
    posterior = vae.encode(state.x)
    loc = posterior.loc
    scale = posterior.stddev()
    z = base.draw_latent(rows, sweep, Purpose.LATENT, loc, scale)
    outputs = vae.decoder(z)
    # Of x that is complete, where a mask, which follows from x alone, says nothing more of z
    everything = tf.ones_like(rows.observed)

    def log_weight(z: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        """log p(x, z) / q(z | x): [N]."""
        log_lik = base.log_likelihood(vae.likelihood, outputs, state.x, everything)
        log_joint = log_lik + vae.prior.log_prob(z)
        return log_joint - base.normal_log_prob(z, loc, scale)

    # log p(x | z) of the current z too is new: x_mis has changed since.
    log_ratio = log_weight(z, outputs) - log_weight(state.z, state.outputs)
    decision = base.accept(base.draw_uniform(rows, sweep, Purpose.ACCEPT), log_ratio)
    z, outputs = base.choose(decision.accepted, (z, outputs), (state.z, state.outputs))
    x = base.draw_values(vae, rows, sweep, Purpose.VALUES, outputs)
    return State(x, z, outputs), base.Info.of_chain(decision.probability, decision.non_finite)


def build(vae: VAE, config: Config) -> base.Kernel:
    """The kernel for a VAE."""
    del config  # nothing to set
    return base.Kernel(
        start=functools.partial(pseudo_gibbs.start, vae),
        init=functools.partial(init, vae),
        step=functools.partial(step, vae),
    )
