"""The chain driver: starts the chains of a sampler, runs them, and averages what a record's result
needs.

Two device programs, both at one shape [N, ...] with N the slots: `begin`, all that comes before the
first kept sweep, and `advance`, a block of kept sweeps. Every row has its own clock, so that the
records in the slots need not have begun together.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vaefill.model.config import SamplerConfig
from vaefill.model.counter_random import MAX_SWEEPS
from vaefill.model.lazy import loops
from vaefill.model.likelihoods import Likelihood
from vaefill.model.samplers import scouts
from vaefill.model.samplers.base import Kernel, Rows, draw_prior, everywhere, log_likelihood
from vaefill.model.vae import VAE


class Moments(NamedTuple):
    """Averages over kept sweeps, weighted by the draws' weights."""

    log_total: tf.Tensor  # [N] log of the sum of weights
    # [N, D] E[m(z)], with m and v the conditional mean and variance of the values given z
    mean: tf.Tensor
    # [N, D] E[v(z)] + Var[m(z)]; of binary values [N, 0], for it follows from their mean
    variance: tf.Tensor
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
    log_prior: tf.Tensor  # [B, N] log p(z) without its constant, nats
    log_weight: tf.Tensor  # [B, N]


_MOST_SWEEPS = 1 << 19  # of a chain
_FIRST_SCOUTED = 600_000  # fixed, so that what scouts draw does not depend on the chains' lengths


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The numbers of all sweeps of a row, as ranges of which each begins where the last one ends.

    So no number is used twice under one purpose. What is drawn of finished chains, imputations and
    evidence, has purposes of its own and counts from 0.

    Attributes:
        num_start: sweeps of the start after a draw of the prior.
        num_warmup: sweeps of warm-up.
        max_kept: kept sweeps at most.
    """

    num_start: int
    num_warmup: int
    max_kept: int

    def __post_init__(self) -> None:
        num = self.num_start + self.num_warmup + self.max_kept
        if num >= _MOST_SWEEPS:
            raise ValueError(f"a chain has fewer than {_MOST_SWEEPS} sweeps, got {num}")

    @classmethod
    def of(cls, config: SamplerConfig) -> "Schedule":
        """That of a sampler's configuration."""
        return cls(config.num_start, config.num_warmup, config.max_kept)

    @property
    def start(self) -> range:
        """The draw of the prior, and the sweeps that lead from it to the first latents."""
        return range(self.num_start + 1)

    @property
    def initial(self) -> range:
        """The state at the first latents: one number."""
        return range(self.start.stop, self.start.stop + 1)

    @property
    def warmup(self) -> range:
        """Sweeps that are not kept."""
        return range(self.initial.stop, self.initial.stop + self.num_warmup)

    @property
    def kept(self) -> range:
        """Sweeps that are kept, in all blocks: the last may go on for a few that are not."""
        return range(self.warmup.stop, _FIRST_SCOUTED)

    @property
    def scouted(self) -> range:
        """What scouts draw."""
        return range(_FIRST_SCOUTED, MAX_SWEEPS)


def num_passes(kernel: Kernel, schedule: Schedule, num_kept: np.ndarray) -> np.ndarray:
    """Network passes of a row: those of its start, its initial state, warm-up, and kept sweeps.

    Args:
        kernel: the sampler.
        schedule: of its chains.
        num_kept: [n] kept sweeps of each of n rows.

    Returns:
        [n] integers.
    """
    start = 0 if kernel.start is None else len(schedule.start)
    warm_up = kernel.warm_up_passes
    if warm_up is None:
        warm_up = schedule.num_warmup * kernel.passes
    return start + len(schedule.initial) + warm_up + num_kept * kernel.passes


def begin(vae: VAE, kernel: Kernel, rows: Rows, schedule: Schedule) -> Chains:
    """Starts every chain by itself, warms it up, and lets the sampler adapt."""
    if kernel.start is None:
        z = draw_prior(vae, rows, everywhere(rows, schedule.start.start))
    else:
        z = kernel.start(rows, schedule.start)
    state = kernel.init(rows, everywhere(rows, schedule.initial.start), z)
    state = _warm_up(kernel, rows, schedule.warmup, state)
    found = scouts.none(*z.shape)
    if kernel.scout is not None:
        found = kernel.scout(rows, schedule.scouted, state)
    return Chains(rows, state, _no_moments(rows, vae.likelihood), found)


def _no_moments(rows: Rows, likelihood: Likelihood) -> Moments:
    """Of no sweep."""
    num_rows, num_values = rows.observed.shape
    return Moments(
        log_total=tf.fill([num_rows], float("-inf")),
        mean=tf.zeros([num_rows, num_values]),
        variance=tf.zeros([num_rows, 0 if likelihood.binary else num_values]),
        acceptance=tf.zeros([num_rows]),
        non_finite=tf.zeros([num_rows], tf.int32),
    )


@loops
def _warm_up(kernel: Kernel, rows: Rows, sweeps: range, state: Any) -> Any:
    """The sampler's own warm-up, or where it has none sweeps that are not kept."""
    if kernel.adapt is not None:
        return kernel.adapt(rows, sweeps, state)
    for sweep in tf.range(sweeps.start, sweeps.stop):
        state, _ = kernel.step(rows, everywhere(rows, sweep), state)
    return state


@loops
def advance(
    vae: VAE, kernel: Kernel, chains: Chains, kept: tf.Tensor, schedule: Schedule, num_sweeps: int
) -> tuple[Chains, Trace]:
    """A block of kept sweeps; what comes after `schedule.max_kept` is not averaged.

    Args:
        kept: [N] int32, sweeps that each row has kept before.
        num_sweeps: B.
    """
    rows, state, moments, _ = chains
    num_rows, latent_size = state.z.shape
    z = tf.TensorArray(tf.float32, num_sweeps, element_shape=[num_rows, latent_size])
    log_lik = tf.TensorArray(tf.float32, num_sweeps, element_shape=[num_rows])
    log_prior = tf.TensorArray(tf.float32, num_sweeps, element_shape=[num_rows])
    log_weight = tf.TensorArray(tf.float32, num_sweeps, element_shape=[num_rows])
    for index in tf.range(num_sweeps):
        clock = kept + index
        state, info = kernel.step(rows, schedule.kept.start + clock, state)
        active = clock < schedule.max_kept
        log_weight_now = tf.where(active, info.log_weight, float("-inf"))
        moments = _average(vae.likelihood, moments, kernel.outputs(state), log_weight_now)
        moments = moments._replace(
            acceptance=moments.acceptance + tf.where(active, info.acceptance, 0.0),
            non_finite=moments.non_finite + tf.where(active, info.non_finite, 0),
        )
        z = z.write(index, state.z)
        log_lik = log_lik.write(index, _log_likelihood(vae, kernel, rows, state))
        log_prior = log_prior.write(index, vae.prior.log_prob(state.z))
        log_weight = log_weight.write(index, info.log_weight)
    return chains._replace(state=state, moments=moments), Trace(
        z.stack(), log_lik.stack(), log_prior.stack(), log_weight.stack()
    )


def as_one_program() -> bool | None:
    """Whether `advance` is to be compiled as a whole: on a GPU; on a CPU other libraries' products
    beat XLA's.
    """
    return True if tf.config.list_physical_devices("GPU") else None


def _log_likelihood(vae: VAE, kernel: Kernel, rows: Rows, state: Any) -> tf.Tensor:
    """log p(x_obs | z), computed where the state does not know it."""
    known = getattr(state, "log_likelihood", None)
    if known is not None:
        return known
    return log_likelihood(vae.likelihood, kernel.outputs(state), rows.x_observed, rows.observed)


@tf.function(jit_compile=True, autograph=False)
def _average(
    likelihood: Likelihood, moments: Moments, outputs: tf.Tensor, log_weight: tf.Tensor
) -> Moments:
    """Takes a sweep's conditional moments in; they vary less than its draws would (Rao-Blackwell).

    By the weighted form of the recurrence of West (1979), which keeps its digits where the mean is
    large.
    """
    log_total = tf.reduce_logsumexp(tf.stack([moments.log_total, log_weight]), axis=0)
    share = tf.where(log_weight > float("-inf"), tf.exp(log_weight - log_total), 0.0)[:, tf.newaxis]
    mean, variance = likelihood.moments(outputs)
    change = mean - moments.mean
    moments = moments._replace(log_total=log_total, mean=moments.mean + share * change)
    if likelihood.binary:
        return moments
    return moments._replace(
        variance=(1.0 - share) * (moments.variance + share * tf.square(change)) + share * variance
    )


def variance_of(likelihood: Likelihood, moments: Moments) -> Any:
    """E[v(z)] + Var[m(z)] of every row: [N, D]. Of binary values, where x^2 is x, by the mean."""
    return moments.mean * (1.0 - moments.mean) if likelihood.binary else moments.variance


# One pass over large tensors, which together take most of the memory
@tf.function(jit_compile=True, autograph=False)
def select(running: Any, fresh: Any, source: tf.Tensor) -> Any:
    """Rows from two sets of chains: row i is fresh[source[i]], or running[i] where source[i] is
    negative.
    """
    is_fresh = source >= 0
    place = tf.maximum(source, 0)

    def one(old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        chosen = tf.reshape(is_fresh, [-1] + [1] * (old.shape.rank - 1))
        return tf.where(chosen, tf.gather(new, place), old)

    return tf.nest.map_structure(one, running, fresh)
