"""Pseudo-Gibbs sampling: Rezende, Mohamed & Wierstra (2014), App. F, eq. 41-44.

    1. z     ~ q(z | x_obs, x_mis)
    2. x_mis ~ p(x_mis | z)

Step 1 uses the encoder's approximation in place of p(z | x), so the stationary distribution is
p(x_mis, z | x_obs) only where the approximation is exact; their Proposition F.1 bounds the error by
how far it is from that. Every proposal is taken: there is nothing to reject.
"""

from typing import NamedTuple

import tensorflow as tf

from model.counter_random import Draw
from model.sampling import base
from model.vae import VAE


class State(NamedTuple):
    x: tf.Tensor  # [N, D] completion; observed entries never change
    z: tf.Tensor  # [N, K] latent
    outputs: tf.Tensor  # [N, D * outputs_per_value] decoder outputs at z


class Info(NamedTuple):
    acceptance: tf.Tensor  # [N] probability that the proposal was accepted: 1


def init(vae: VAE, rows: base.Rows) -> State:
    """Starts every chain from its own draw of the model."""
    return State(*base.start(vae, rows))


def step(vae: VAE, rows: base.Rows, sweep: tf.Tensor, state: State) -> tuple[State, Info]:
    """One sweep: z, then x_mis."""
    posterior = vae.encode(state.x)
    z = base.draw_latent(rows, sweep, Draw.LATENT, posterior.loc, posterior.stddev())
    outputs = vae.decoder(z)
    x = base.draw_values(vae, rows, sweep, Draw.VALUES, outputs)
    return State(x, z, outputs), Info(acceptance=tf.ones([z.shape[0]]))


def build(vae: VAE) -> base.Kernel:
    """The kernel for a VAE."""
    return base.Kernel(init=lambda rows: init(vae, rows), step=lambda rows, sweep, state: step(vae, rows, sweep, state))
