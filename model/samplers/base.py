"""What every sampler shares: the rows it works on, the kernel it provides, and where chains start."""

import enum
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from vaefill.model.counter_random import Purpose, Streams, normal, uniform
from vaefill.model.likelihoods import Likelihood
from vaefill.model.vae import VAE


class Rows(NamedTuple):
    """The rows of the device batch: `rows_per_chain` rows a chain, the chains of a record one after another."""

    streams: Streams
    x_observed: tf.Tensor  # [N, D] values on the model's scale; anything where missing
    observed: tf.Tensor  # [N, D] bool, True = observed


def rows_of_records(keys: tf.Tensor, x: tf.Tensor, observed: tf.Tensor, rows_per_record: int) -> Rows:
    """Records [R, ...] to their rows [R * rows_per_record, ...], numbered within the record."""
    keys, x, observed = (tf.repeat(tensor, rows_per_record, axis=0) for tensor in (keys, x, observed))
    chains = tf.cast(tf.range(keys.shape[0]) % rows_per_record, tf.uint32)
    return Rows(Streams(keys, chains), x, observed)


class State(Protocol):
    """What the chain driver reads of a sampler's state; a sampler may keep more.

    Every tensor has a leading dimension of N, so that a record can move to other rows. A state that has a field
    `log_likelihood`, log p(x_obs | z) in nats [N], spares the driver its computation. Where it has no field `outputs`
    the kernel says how they are found.
    """

    z: tf.Tensor  # [N, K] latent
    outputs: tf.Tensor  # [N, D * outputs_per_value] decoder outputs at z


class Info(NamedTuple):
    """What a sweep did."""

    acceptance: tf.Tensor  # [N] probability that the proposal was accepted, NaN if nothing was proposed
    log_weight: tf.Tensor  # [N] log of the importance weight of the state's z as a draw from p(z | x_obs)
    non_finite: tf.Tensor  # [N] int32, log ratios or weights that were not finite: a rejection, a weight of 0

    @classmethod
    def of_chain(cls, acceptance: tf.Tensor, non_finite: tf.Tensor | None = None) -> "Info":
        """A sweep of a Markov chain, whose draws all weigh the same."""
        non_finite = tf.zeros_like(acceptance, tf.int32) if non_finite is None else non_finite
        return cls(acceptance, tf.zeros_like(acceptance), non_finite)

    @classmethod
    def of_weights(cls, log_weight: tf.Tensor) -> "Info":
        """A sweep of weighted draws."""
        bad = ~tf.math.is_finite(log_weight)
        return cls(
            tf.fill(log_weight.shape, float("nan")), tf.where(bad, float("-inf"), log_weight), tf.cast(bad, tf.int32)
        )


class Decision(NamedTuple):
    """Of Metropolis and Hastings."""

    accepted: tf.Tensor  # [N] bool
    probability: tf.Tensor  # [N]
    non_finite: tf.Tensor  # [N] int32


class SampleKind(enum.Enum):
    """What the z of successive sweeps are, and so what is diagnosed."""

    CHAIN = "chain"  # of a Markov chain: R-hat and ESS between chains
    WEIGHTED = "weighted"  # new weighted draws every sweep: ESS of the weights over rows and sweeps
    POPULATION = "population"  # weighted particles that move: ESS of the weights over rows


class Kernel(NamedTuple):
    """A sampler, as pure functions of rows. Sweeps [N] number the draws of each row and are never used twice."""

    init: Callable[[Rows, tf.Tensor, tf.Tensor], Any]  # rows, sweep, z -> state at the latents z [N, K]
    step: Callable[[Rows, tf.Tensor, Any], tuple[Any, Info]]  # rows, sweep, state -> state, info
    adapt: Callable[[Rows, int, Any, int], Any] | None = None  # rows, first sweep, state, number of sweeps -> state
    passes: int = 1  # network passes of a row in a sweep
    warm_up_passes: int | None = None  # of a row in all of warm-up, if they are not `passes` a sweep
    rows_per_chain: int = 1
    draws: SampleKind = SampleKind.CHAIN
    outputs: Callable[[Any], tf.Tensor] = operator.attrgetter("outputs")  # state -> decoder outputs of all values
    scout: Callable[[Rows, Any], Any] | None = None  # rows, state after warm-up -> `scouts.Scouts`
    uses_restricted_decoder: bool = False  # so that records of which one part is observed are cheaper


def everywhere(rows: Rows, sweep) -> tf.Tensor:
    """One sweep number for all rows: [N] int32."""
    return tf.fill([rows.observed.shape[0]], tf.cast(sweep, tf.int32))


def draw_values(vae: VAE, rows: Rows, sweep: tf.Tensor, purpose: Purpose, outputs: tf.Tensor) -> tf.Tensor:
    """x_mis ~ p(x_mis | z) beside the observed values, from the decoder's outputs at z: [N, D]."""
    return _draw_values(vae.likelihood, rows, sweep, tf.constant(purpose), outputs)


def draw_latent(rows: Rows, sweep: tf.Tensor, purpose: Purpose, loc: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """z ~ N(loc, diag(scale^2)): [N, K]."""
    return _draw_latent(rows.streams, sweep, tf.constant(purpose), loc, scale)


def draw_uniform(rows: Rows, sweep: tf.Tensor, purpose: Purpose) -> tf.Tensor:
    """One uniform number a row: [N]."""
    return _draw_uniform(rows.streams, sweep, tf.constant(purpose))


# Fused clusters: as separate operations the random numbers alone cost as much as the network. What they
# are for is a tensor, so that each is compiled once.


@tf.function(jit_compile=True)
def _draw_values(likelihood: Likelihood, rows: Rows, sweep, draw, outputs):
    x = likelihood.sample(outputs, uniform(rows.streams, sweep, draw, rows.observed.shape[1]))
    return tf.where(rows.observed, rows.x_observed, x)


@tf.function(jit_compile=True)
def _draw_latent(streams: Streams, sweep, draw, loc, scale):
    return loc + scale * normal(streams, sweep, draw, loc.shape[1])


@tf.function(jit_compile=True)
def _draw_uniform(streams: Streams, sweep, draw):
    return uniform(streams, sweep, draw, 1)[:, 0]


@tf.function(jit_compile=True)
def log_likelihood(likelihood: Likelihood, outputs: tf.Tensor, x: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """log p of the chosen entries of x given z, from the decoder's outputs at z: [N], nats."""
    return likelihood.log_prob(outputs, x, chosen)


@tf.function(jit_compile=True)
def log_likelihood_gradient(likelihood: Likelihood, outputs: tf.Tensor, x: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """The gradient of `log_likelihood` by the decoder's outputs: as `outputs`."""
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        value = likelihood.log_prob(outputs, x, chosen)
    return tape.gradient(value, outputs)


def standard_normal_log_prob(z: tf.Tensor) -> tf.Tensor:
    """log N(z; 0, I) without its constant, over the last axis."""
    return -0.5 * tf.reduce_sum(tf.square(z), axis=-1)


def normal_log_prob(z: tf.Tensor, loc: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """log N(z; loc, diag(scale^2)) without the constant that `standard_normal_log_prob` leaves out too."""
    return tf.reduce_sum(-0.5 * tf.square((z - loc) / scale) - tf.math.log(scale), axis=-1)


def accept(uniform_numbers: tf.Tensor, log_ratio: tf.Tensor) -> Decision:
    """Accepts with probability min(1, exp(log_ratio)), [N]. What is not finite rejects, and is counted."""
    bad = ~tf.math.is_finite(log_ratio)
    log_probability = tf.where(bad, float("-inf"), tf.minimum(log_ratio, 0.0))
    accepted = tf.math.log(uniform_numbers) < log_probability
    return Decision(accepted, tf.exp(log_probability), tf.cast(bad, tf.int32))


@tf.function(jit_compile=True)  # of large tensors: fused as above
def choose(accepted: tf.Tensor, proposed: Any, current: Any) -> Any:
    """Rows of `proposed` where accepted [N], of `current` elsewhere; any structure of [N, ...] tensors."""

    def one(new, old):
        return tf.where(tf.reshape(accepted, [-1] + [1] * (new.shape.rank - 1)), new, old)

    return tf.nest.map_structure(one, proposed, current)


class DefensiveNormal(NamedTuple):
    """(1 - e) N(loc, diag(scale^2)) + e N(0, I): a proposal whose weights are bounded by the prior's share e."""

    loc: tf.Tensor  # [N, K]
    scale: tf.Tensor  # [N, K]
    prior_fraction: float

    def draw(self, rows: Rows, sweep: tf.Tensor) -> tf.Tensor:
        """One draw a row: [N, K]."""
        of_prior = (draw_uniform(rows, sweep, Purpose.DEFENSIVE) < self.prior_fraction)[:, tf.newaxis]
        loc, scale = tf.where(of_prior, 0.0, self.loc), tf.where(of_prior, 1.0, self.scale)
        return draw_latent(rows, sweep, Purpose.LATENT, loc, scale)

    def log_prob(self, z: tf.Tensor) -> tf.Tensor:
        """[N], without the constant that `standard_normal_log_prob` leaves out too."""
        normal_part = math.log1p(-self.prior_fraction) + normal_log_prob(z, self.loc, self.scale)
        prior_part = math.log(self.prior_fraction) + standard_normal_log_prob(z)
        return tf.reduce_logsumexp(tf.stack([normal_part, prior_part]), axis=0)


def resample(uniform_numbers: tf.Tensor, log_weight: tf.Tensor, size: int) -> tf.Tensor:
    """For every row one row of its group, with replacement, by weight (multinomial resampling).

    Args:
        uniform_numbers: [N], one a row.
        log_weight: [N].
        size: rows of a group.

    Returns:
        [N] int32, indices of rows.
    """
    return _at_quantile(grouped(uniform_numbers, size), grouped(log_weight, size))


def resample_systematically(uniform_numbers: tf.Tensor, log_weight: tf.Tensor, size: int) -> tf.Tensor:
    """As `resample`, at equidistant quantiles from one uniform number a group, that of its first row.

    Rows of equal weight stay where they are.
    """
    first = tf.cast(grouped(uniform_numbers, size)[:, :1], tf.float64)  # float32 would round some to the next row
    return _at_quantile((tf.range(size, dtype=tf.float64) + first) / size, grouped(log_weight, size))


def _at_quantile(quantiles: tf.Tensor, log_weight: tf.Tensor) -> tf.Tensor:
    """Where the cumulative weights of each group [G, S] reach the quantiles [G, S]: row indices [G S]."""
    num_groups, size = log_weight.shape
    # Of weights that are all 0 every row is as good.
    log_weight = tf.where(tf.reduce_any(log_weight > -math.inf, axis=1, keepdims=True), log_weight, 0.0)
    cumulative = tf.cumsum(tf.nn.softmax(tf.cast(log_weight, tf.float64)), axis=1)
    targets = tf.cast(quantiles, tf.float64) * cumulative[:, -1:]
    # As many are passed as cumulative weights lie at or below the target.
    passed = tf.reduce_sum(tf.cast(cumulative[:, tf.newaxis] <= targets[:, :, tf.newaxis], tf.int32), axis=2)
    return tf.reshape(tf.minimum(passed, size - 1) + size * tf.range(num_groups)[:, tf.newaxis], [-1])


def grouped(tensor: tf.Tensor, size: int) -> tf.Tensor:
    """[N, ...] -> [N / size, size, ...]: the rows of a chain or of a record together."""
    return tf.reshape(tensor, [-1, size, *tensor.shape[1:]])


def ungrouped(tensor: tf.Tensor) -> tf.Tensor:
    """[G, S, ...] -> [G S, ...]."""
    return tf.reshape(tensor, [-1, *tensor.shape[2:]])
