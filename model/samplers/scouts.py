"""Scouts: climbs from draws of the prior to peaks of p(z | x_obs), for modes that no chain saw.

R-hat compares chains with each other: of a mode that none of them visited it knows nothing. Scouts
are many, cheap and start far apart. Each is a draw of the prior, a few sweeps of pseudo-Gibbs,
since the encoder knows where to look, and a climb by gradients, in the metric that the chains have
learnt. They say where peaks are and how high; what that means for the chains is for `stopping` to
say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vaefill.model.lazy import fused, loops, tf
from vaefill.model.samplers import base, hamiltonian, pseudo_gibbs

if TYPE_CHECKING:
    from vaefill.model.priors import Prior
    from vaefill.model.vae import VAE

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


@loops
def explore(vae: VAE, rows: base.Rows, sweeps: range, factor: tf.Tensor, num_rounds: int) -> Scouts:
    """Sends `num_rounds` scouts from every row.

    Args:
        vae: the model.
        rows: of N rows.
        sweeps: numbers for all rows, of which a round takes three, the first first.
        factor: [N, K, K], of a matrix factor factor' near the covariance of p(z | x_obs).
        num_rounds: scouts of a row.
    """
    num_rows, latent_size = rows.observed.shape[0], vae.latent_size
    z = tf.TensorArray(tf.float32, num_rounds, element_shape=[num_rows, latent_size])
    log_target = tf.TensorArray(tf.float32, num_rounds, element_shape=[num_rows])
    for number in tf.range(num_rounds):
        first = sweeps.start + number * (_GIBBS_SWEEPS + 1)
        point = _climb(vae, rows, factor, _start(vae, rows, first))
        z = z.write(number, point.z)
        log_target = log_target.write(number, hamiltonian.log_target(vae.prior, point))
    return Scouts(tf.transpose(z.stack(), [1, 0, 2]), tf.transpose(log_target.stack()))


@loops
def _start(vae: VAE, rows: base.Rows, first: tf.Tensor) -> tf.Tensor:
    """A draw of the prior, sweep `first`, after some sweeps of pseudo-Gibbs, the next: [N, K]."""
    sweep = base.everywhere(rows, first)
    state = pseudo_gibbs.init(vae, rows, sweep, base.draw_prior(vae, rows, sweep))
    for sweep in tf.range(first + 1, first + 1 + _GIBBS_SWEEPS):
        state, _ = pseudo_gibbs.step(vae, rows, base.everywhere(rows, sweep), state)
    return state.z


@loops
def _climb(vae: VAE, rows: base.Rows, factor: tf.Tensor, z: tf.Tensor) -> hamiltonian.Point:
    """Newton's steps, the chains' covariance for the inverse Hessian, shorter if not upwards."""
    point = hamiltonian.evaluate(vae, rows, z)
    size = tf.fill([z.shape[0]], 0.5)
    for _ in tf.range(_CLIMBS):
        uphill = _upwards(vae.prior, factor, point.z, point.gradient, size)
        new = hamiltonian.evaluate(vae, rows, uphill)
        # NaN is not better
        better = hamiltonian.log_target(vae.prior, new) > hamiltonian.log_target(vae.prior, point)
        point = base.choose(better, new, point)
        size = tf.where(better, tf.minimum(2.0 * size, 1.0), 0.25 * size)
    return point


@fused
def _upwards(
    prior: Prior, factor: tf.Tensor, z: tf.Tensor, gradient: tf.Tensor, size: tf.Tensor
) -> tf.Tensor:
    slope = gradient + prior.score(z)
    step = tf.linalg.matvec(factor, tf.linalg.matvec(factor, slope, transpose_a=True))
    return z + size[:, tf.newaxis] * step
