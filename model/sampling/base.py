"""What every sampler shares: the rows it works on, the kernel it provides, and where chains start."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from model.counter_random import Draw, Streams, normal, uniform
from model.vae import VAE


class Rows(NamedTuple):
    """The rows of the device batch, one chain of one record each."""

    streams: Streams
    x_observed: tf.Tensor  # [N, D] values on the model's scale; anything where missing
    observed: tf.Tensor  # [N, D] bool, True = observed


class State(Protocol):
    """What the chain driver reads of a sampler's state; a sampler may keep more."""

    x: tf.Tensor  # [N, D] completion; observed entries never change
    z: tf.Tensor  # [N, K] latent
    outputs: tf.Tensor  # [N, D * outputs_per_value] decoder outputs at z


class Kernel(NamedTuple):
    """A sampler as two pure functions."""

    init: Callable[[Rows], Any]  # rows -> state
    step: Callable[[Rows, tf.Tensor, Any], tuple[Any, Any]]  # rows, sweep, state -> state, info


def draw_values(vae: VAE, rows: Rows, sweep: tf.Tensor, draw: Draw, outputs: tf.Tensor) -> tf.Tensor:
    """x_mis ~ p(x_mis | z) beside the observed values, from the decoder's outputs at z: [N, D].

    One fused cluster, since as separate operations the generator alone costs as much as the network.
    """

    @tf.function(jit_compile=True)
    def fused(streams, x_observed, observed, sweep, outputs):
        x = vae.likelihood.sample(outputs, uniform(streams, sweep, draw, x_observed.shape[1]))
        return tf.where(observed, x_observed, x)

    return fused(rows.streams, rows.x_observed, rows.observed, sweep, outputs)


def draw_latent(rows: Rows, sweep: tf.Tensor, draw: Draw, loc: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """z ~ N(loc, diag(scale^2)): [N, K]."""

    @tf.function(jit_compile=True)
    def fused(streams, sweep, loc, scale):
        return loc + scale * normal(streams, sweep, draw, loc.shape[1])

    return fused(rows.streams, sweep, loc, scale)


def start(vae: VAE, rows: Rows) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """A draw of the model for each chain, z ~ p(z), x_mis ~ p(x_mis | z), so that chains start dispersed.

    Returns:
        (x [N, D], z [N, K], decoder outputs at z).
    """
    sweep = tf.constant(0)
    zeros = tf.zeros([rows.observed.shape[0], vae.latent_size])
    z = draw_latent(rows, sweep, Draw.START_LATENT, zeros, tf.ones_like(zeros))
    outputs = vae.decoder(z)
    return draw_values(vae, rows, sweep, Draw.START_VALUES, outputs), z, outputs
