"""Metropolis-within-Gibbs: Mattei & Frellsen (2018), arXiv:1802.04826, Algorithm 1 and eq. 15.

    1. z' ~ q(z | x_obs, x_mis)
    2. accept z' with probability min(1, rho),
       rho = p(x, z') q(z | x) / (p(x, z) q(z' | x)),  x = (x_obs, x_mis), p(x, z) = p(x | z) p(z)
    3. x_mis ~ p(x_mis | z), accepted or not

It leaves p(x_mis, z | x_obs) unchanged whatever the encoder. It can stick: where the posterior has
separate modes, or q is far from it over all values at once, nothing is accepted.
"""

import tensorflow as tf

from vaefill.model.config import SamplerConfig
from vaefill.model.counter_random import Purpose
from vaefill.model.samplers import base
from vaefill.model.samplers.pseudo_gibbs import State, init
from vaefill.model.vae import VAE


def step(vae: VAE, rows: base.Rows, sweep: tf.Tensor, state: State) -> tuple[State, base.Info]:
    """One sweep: z by Metropolis-Hastings with the encoder as proposal, then x_mis."""
    posterior = vae.encode(state.x)
    loc, scale = posterior.loc, posterior.stddev()
    z = base.draw_latent(rows, sweep, Purpose.LATENT, loc, scale)
    outputs = vae.decoder(z)
    everything = tf.ones_like(rows.observed)

    def log_target_over_proposal(z, outputs):
        log_joint = base.log_likelihood(vae.likelihood, outputs, state.x, everything) + base.standard_normal_log_prob(z)
        return log_joint - base.normal_log_prob(z, loc, scale)

    # log p(x | z) of the current z too is new: x_mis has changed since.
    log_ratio = log_target_over_proposal(z, outputs) - log_target_over_proposal(state.z, state.outputs)
    decision = base.accept(base.draw_uniform(rows, sweep, Purpose.ACCEPT), log_ratio)
    z, outputs = base.choose(decision.accepted, (z, outputs), (state.z, state.outputs))
    x = base.draw_values(vae, rows, sweep, Purpose.VALUES, outputs)
    return State(x, z, outputs), base.Info.of_chain(decision.probability, decision.non_finite)


def build(vae: VAE, config: SamplerConfig) -> base.Kernel:
    """The kernel for a VAE."""
    del config  # nothing to set
    return base.Kernel(
        init=lambda rows, sweep, z: init(vae, rows, sweep, z),
        step=lambda rows, sweep, state: step(vae, rows, sweep, state),
    )
