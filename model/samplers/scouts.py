"""Scouts: climbs from draws of the prior to peaks of p(z | x_obs), to tell what the chains have not seen.

R-hat compares chains with each other: of a mode that none of them visited it knows nothing. Scouts are many, cheap
and start far apart. Each is a draw of the prior, a few sweeps of pseudo-Gibbs, since the encoder knows where to look,
and a climb by gradients, in the metric that the chains have learnt. They say where peaks are and how high; what that
means for the chains is for `stopping` to say.
"""

from typing import NamedTuple

import tensorflow as tf

from vaefill.model.counter_random import Purpose
from vaefill.model.samplers import base, hamiltonian, pseudo_gibbs
from vaefill.model.vae import VAE

_FIRST_SWEEP = 600_000  # beyond those of any chain
_GIBBS_SWEEPS = 2
_CLIMBS = 8


class Scouts(NamedTuple):
    """Where the scouts of each row ended: S of them."""

    z: tf.Tensor  # [N, S, K]
    log_target: tf.Tensor  # [N, S] log p(z) p(x_obs | z) there, without the prior's constant, nats


def none(num_rows: int, latent_size: int) -> Scouts:
    """No scouts."""
    return Scouts(tf.zeros([num_rows, 0, latent_size]), tf.zeros([num_rows, 0]))


def passes(num_rounds: int) -> int:
    """Network passes of a row."""
    return num_rounds * (_GIBBS_SWEEPS + _CLIMBS + 2)


def explore(vae: VAE, rows: base.Rows, factor: tf.Tensor, num_rounds: int) -> Scouts:
    """Sends `num_rounds` scouts from every row.

    Args:
        factor: [N, K, K], of a matrix factor factor' near the covariance of p(z | x_obs).
    """
    num_rows, latent_size = rows.observed.shape[0], vae.latent_size
    z = tf.TensorArray(tf.float32, num_rounds, element_shape=[num_rows, latent_size])
    log_target = tf.TensorArray(tf.float32, num_rounds, element_shape=[num_rows])
    for number in tf.range(num_rounds):
        point = _climb(vae, rows, factor, _start(vae, rows, _FIRST_SWEEP + number * (_GIBBS_SWEEPS + 1)))
        z, log_target = z.write(number, point.z), log_target.write(number, hamiltonian.log_target(point))
    return Scouts(tf.transpose(z.stack(), [1, 0, 2]), tf.transpose(log_target.stack()))


def _start(vae: VAE, rows: base.Rows, first: tf.Tensor) -> tf.Tensor:
    """A draw of the prior after some sweeps of pseudo-Gibbs, which use sweeps `first` and after: [N, K]."""
    zeros = tf.zeros([rows.observed.shape[0], vae.latent_size])
    z = base.draw_latent(rows, base.everywhere(rows, first), Purpose.START_LATENT, zeros, tf.ones_like(zeros))
    state = pseudo_gibbs.init(vae, rows, base.everywhere(rows, first), z)
    for sweep in tf.range(first + 1, first + 1 + _GIBBS_SWEEPS):
        state, _ = pseudo_gibbs.step(vae, rows, base.everywhere(rows, sweep), state)
    return state.z


def _climb(vae: VAE, rows: base.Rows, factor: tf.Tensor, z: tf.Tensor) -> hamiltonian.Point:
    """Newton's steps with the chains' covariance in place of the inverse Hessian, shorter where they do not lead up."""
    point, size = hamiltonian.evaluate(vae, rows, z), tf.fill([z.shape[0]], 0.5)
    for _ in tf.range(_CLIMBS):
        new = hamiltonian.evaluate(vae, rows, _upwards(factor, point.z, point.gradient, size))
        better = hamiltonian.log_target(new) > hamiltonian.log_target(point)  # not if it is not a number
        point = base.choose(better, new, point)
        size = tf.where(better, tf.minimum(2.0 * size, 1.0), 0.25 * size)
    return point


@tf.function(jit_compile=True)
def _upwards(factor: tf.Tensor, z: tf.Tensor, gradient: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    step = tf.linalg.matvec(factor, tf.linalg.matvec(factor, gradient - z, transpose_a=True))
    return z + size[:, tf.newaxis] * step
