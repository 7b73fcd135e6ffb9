"""The chain driver: starts the chains of a sampler, runs them, and averages what a record's result needs.

Two device programs, both at one shape [N, ...] with N the slots: `begin`, all that comes before the first
kept sweep, and `advance`, a block of kept sweeps. Every row has its own clock, so that the records in the
slots need not have begun together.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from vaefill.model.likelihoods import Likelihood
from vaefill.model.samplers import pseudo_gibbs, scouts
from vaefill.model.samplers.base import Kernel, Rows, log_likelihood
from vaefill.model.vae import VAE


class Moments(NamedTuple):
    """Averages over kept sweeps, weighted by the draws' weights."""

    log_total: tf.Tensor  # [N] log of the sum of weights
    mean: tf.Tensor  # [N, D] E[m(z)], with m and v the conditional mean and variance of the values given z
    variance: tf.Tensor  # [N, D] E[v(z)] + Var[m(z)]
    acceptance: tf.Tensor  # [N] sum of acceptance probabilities
    non_finite: tf.Tensor  # [N] int32, ratios and weights that were not finite


class Chains(NamedTuple):
    """All that belongs to the rows and moves with them."""

    rows: Rows
    state: Any
    moments: Moments
    scouts: scouts.Scouts


class Trace(NamedTuple):
    """A block of B sweeps."""

    z: tf.Tensor  # [B, N, K]
    log_likelihood: tf.Tensor  # [B, N] log p(x_obs | z), nats
    log_weight: tf.Tensor  # [B, N]


class Schedule(NamedTuple):
    """The sweeps of a chain, numbered from 0: a start by pseudo-Gibbs, warm-up, and those that are kept."""

    num_start: int
    num_warmup: int
    max_kept: int

    @property
    def first_kept(self) -> int:
        """The number of the first kept sweep; sweep `num_start + 1` is the initial state's."""
        return self.num_start + self.num_warmup + 2


def begin(vae: VAE, kernel: Kernel, rows: Rows, schedule: Schedule) -> Chains:
    """Starts every chain by itself, warms it up, and lets the sampler adapt."""
    z = pseudo_gibbs.start(vae, rows, schedule.num_start)
    first = schedule.num_start + 1
    state = kernel.init(rows, tf.fill([z.shape[0]], first), z)
    state = _warm_up(kernel, rows, first + 1, state, schedule.num_warmup)
    num_rows, num_values = rows.observed.shape
    nothing = tf.zeros([num_rows])
    moments = Moments(
        tf.fill([num_rows], float("-inf")),
        tf.zeros([num_rows, num_values]),
        tf.zeros([num_rows, num_values]),
        nothing,
        tf.zeros([num_rows], tf.int32),
    )
    found = scouts.none(*z.shape) if kernel.scout is None else kernel.scout(rows, state)
    return Chains(rows, state, moments, found)


def _warm_up(kernel: Kernel, rows: Rows, first: int, state: Any, num_sweeps: int) -> Any:
    """The sampler's own warm-up, or where it has none sweeps that are not kept."""
    if kernel.adapt is not None:
        return kernel.adapt(rows, first, state, num_sweeps)
    for sweep in tf.range(first, first + num_sweeps):
        state, _ = kernel.step(rows, tf.fill([rows.observed.shape[0]], sweep), state)
    return state


def advance(
    vae: VAE, kernel: Kernel, chains: Chains, kept: tf.Tensor, schedule: Schedule, num_sweeps: int
) -> tuple[Chains, Trace]:
    """A block of kept sweeps; what comes after `schedule.max_kept` is not averaged.

    Args:
        kept: [N] int32, sweeps that each row has kept before.
        num_sweeps: B.
    """
    rows, state, moments, _ = chains
    if vae.likelihood.binary:  # x^2 is x: the variance follows from the mean, and meanwhile would only be copied
        moments = moments._replace(variance=())
    num_rows, latent_size = state.z.shape
    z = tf.TensorArray(tf.float32, num_sweeps, element_shape=[num_rows, latent_size])
    log_lik = tf.TensorArray(tf.float32, num_sweeps, element_shape=[num_rows])
    log_weight = tf.TensorArray(tf.float32, num_sweeps, element_shape=[num_rows])
    for index in tf.range(num_sweeps):
        clock = kept + index
        state, info = kernel.step(rows, schedule.first_kept + clock, state)
        active = clock < schedule.max_kept
        log_weight_now = tf.where(active, info.log_weight, float("-inf"))
        moments = _average(vae.likelihood, moments, kernel.outputs(state), log_weight_now)
        moments = moments._replace(
            acceptance=moments.acceptance + tf.where(active, info.acceptance, 0.0),
            non_finite=moments.non_finite + tf.where(active, info.non_finite, 0),
        )
        z = z.write(index, state.z)
        log_lik = log_lik.write(index, _log_likelihood(vae, kernel, rows, state))
        log_weight = log_weight.write(index, info.log_weight)
    if vae.likelihood.binary:
        moments = moments._replace(variance=moments.mean * (1.0 - moments.mean))
    return chains._replace(state=state, moments=moments), Trace(z.stack(), log_lik.stack(), log_weight.stack())


def as_one_program() -> bool | None:
    """Whether `advance` is to be compiled as a whole: on a GPU; on a CPU other libraries' products beat XLA's."""
    return True if tf.config.list_physical_devices("GPU") else None


def _log_likelihood(vae: VAE, kernel: Kernel, rows: Rows, state: Any) -> tf.Tensor:
    """log p(x_obs | z), computed where the state does not know it."""
    known = getattr(state, "log_likelihood", None)
    if known is not None:
        return known
    return log_likelihood(vae.likelihood, kernel.outputs(state), rows.x_observed, rows.observed)


@tf.function(jit_compile=True)
def _average(likelihood: Likelihood, moments: Moments, outputs: tf.Tensor, log_weight: tf.Tensor) -> Moments:
    """Takes a sweep's conditional moments in; they vary less than its draws would (Rao-Blackwell).

    By the weighted form of the recurrence of West (1979), which keeps its digits where the mean is large.
    """
    log_total = tf.reduce_logsumexp(tf.stack([moments.log_total, log_weight]), axis=0)
    share = tf.where(log_weight > float("-inf"), tf.exp(log_weight - log_total), 0.0)[:, tf.newaxis]
    mean, variance = likelihood.moments(outputs)
    change = mean - moments.mean
    moments = moments._replace(log_total=log_total, mean=moments.mean + share * change)
    if likelihood.binary:
        return moments
    return moments._replace(variance=(1.0 - share) * (moments.variance + share * tf.square(change)) + share * variance)


def select(running: Any, fresh: Any, source: tf.Tensor) -> Any:
    """Rows from two sets of chains: row i is running[source[i]], or from N on fresh[source[i] - N]."""
    return tf.nest.map_structure(lambda old, new: tf.gather(tf.concat([old, new], axis=0), source), running, fresh)
