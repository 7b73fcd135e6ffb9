"""What every sampler shares: the rows it works on, the kernel it provides, and where chains start."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from model.counter_random import Draw, Streams, normal, uniform
from model.likelihoods import Likelihood
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
    """x_mis ~ p(x_mis | z) beside the observed values, from the decoder's outputs at z: [N, D]."""
    return _draw_values(vae.likelihood, rows, sweep, tf.constant(draw), outputs)


def draw_latent(rows: Rows, sweep: tf.Tensor, draw: Draw, loc: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """z ~ N(loc, diag(scale^2)): [N, K]."""
    return _draw_latent(rows.streams, sweep, tf.constant(draw), loc, scale)


# Fused clusters: as separate operations the random numbers alone cost as much as the network. What they
# are for is a tensor, so that each is compiled once.


@tf.function(jit_compile=True)
def _draw_values(likelihood: Likelihood, rows: Rows, sweep, draw, outputs):
    x = likelihood.sample(outputs, uniform(rows.streams, sweep, draw, rows.observed.shape[1]))
    return tf.where(rows.observed, rows.x_observed, x)


@tf.function(jit_compile=True)
def _draw_latent(streams: Streams, sweep, draw, loc, scale):
    return loc + scale * normal(streams, sweep, draw, loc.shape[1])


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
