"""Pseudo-Gibbs sampling: Rezende, Mohamed & Wierstra (2014), App. F, eq. 41-44.

    1. z     ~ q(z | x_obs, x_mis)
    2. x_mis ~ p(x_mis | z)

Step 1 uses the encoder's approximation in place of p(z | x), so the stationary distribution is
p(x_mis, z | x_obs) only where the approximation is exact; their Proposition F.1 bounds the error by
how far it is from that. Every proposal is taken: there is nothing to reject.

Every other sampler starts from a few sweeps of this one.
"""

from typing import NamedTuple

import tensorflow as tf

from vaefill.model.config import SamplerConfig
from vaefill.model.counter_random import Purpose
from vaefill.model.samplers import base
from vaefill.model.vae import VAE


class State(NamedTuple):
    x: tf.Tensor  # [N, D] completion; observed entries never change
    z: tf.Tensor  # [N, K] latent
    outputs: tf.Tensor  # [N, D * outputs_per_value] decoder outputs at z


def init(vae: VAE, rows: base.Rows, sweep: tf.Tensor, z: tf.Tensor) -> State:
    """A state at the latents z: x_mis ~ p(x_mis | z)."""
    outputs = vae.decoder(z)
    return State(base.draw_values(vae, rows, sweep, Purpose.VALUES, outputs), z, outputs)


def step(vae: VAE, rows: base.Rows, sweep: tf.Tensor, state: State) -> tuple[State, base.Info]:
    """One sweep: z, then x_mis."""
    posterior = vae.encode(state.x)
    z = base.draw_latent(rows, sweep, Purpose.LATENT, posterior.loc, posterior.stddev())
    outputs = vae.decoder(z)
    x = base.draw_values(vae, rows, sweep, Purpose.VALUES, outputs)
    return State(x, z, outputs), base.Info.of_chain(tf.ones([z.shape[0]]))


def start(vae: VAE, rows: base.Rows, num_sweeps: int) -> tf.Tensor:
    """Where every chain of every sampler starts: [N, K] latents.

    Each row is a draw of the model, z ~ p(z), x_mis ~ p(x_mis | z), so that chains start dispersed; then
    some sweeps of pseudo-Gibbs bring it near the data at little cost. Uses sweeps 0 to `num_sweeps`.
    """
    zeros = tf.zeros([rows.observed.shape[0], vae.latent_size])
    z = base.draw_latent(rows, base.everywhere(rows, 0), Purpose.START_LATENT, zeros, tf.ones_like(zeros))
    state = init(vae, rows, base.everywhere(rows, 0), z)
    for sweep in tf.range(1, num_sweeps + 1):
        state, _ = step(vae, rows, base.everywhere(rows, sweep), state)
    return state.z


def build(vae: VAE, config: SamplerConfig) -> base.Kernel:
    """The kernel for a VAE."""
    del config  # nothing to set
    return base.Kernel(
        init=lambda rows, sweep, z: init(vae, rows, sweep, z),
        step=lambda rows, sweep, state: step(vae, rows, sweep, state),
    )
