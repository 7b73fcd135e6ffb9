"""What samplers share: the rows they work on, the kernel they provide, draws, decisions."""

from __future__ import annotations

import dataclasses
import enum
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from vaefill.model.counter_random import Purpose, Streams, normal, uniform
from vaefill.model.lazy import fused, module, tf

if TYPE_CHECKING:
    from vaefill.model.compiled import RestrictedDecoder
    from vaefill.model.likelihoods import Likelihood
    from vaefill.model.priors import Prior
    from vaefill.model.vae import VAE

_COMPILED = module("vaefill.model.compiled")
_PRIORS = module("vaefill.model.priors")


class Rows(NamedTuple):
    """N rows of the device batch: `rows_per_chain` a chain, a record's chains side by side."""

    streams: Streams
    x_observed: tf.Tensor  # [N, D] values on the model's scale; anything where missing
    observed: tf.Tensor  # [N, D] bool, True = observed


def rows_of_records(
    keys: tf.Tensor,
    x: tf.Tensor,
    observed: tf.Tensor,
    rows_per_record: int,
) -> Rows:
    """Records to their rows, numbered within the record.

    Args:
        keys: [R, 2] uint32, of R records.
        x: [R, D] values on the model's scale.
        observed: [R, D] bool.
        rows_per_record: rows of a record.

    Returns:
        R * rows_per_record rows.
    """
    keys = tf.repeat(keys, rows_per_record, axis=0)
    x = tf.repeat(x, rows_per_record, axis=0)
    observed = tf.repeat(observed, rows_per_record, axis=0)
    chains = tf.cast(tf.range(keys.shape[0]) % rows_per_record, tf.uint32)
    return Rows(Streams(keys, chains), x, observed)


class State(Protocol):
    """What the chain driver reads of a sampler's state; a sampler may keep more.

    Every tensor has a leading dimension of N, so that a record can move to other rows. A state
    that has a field `log_likelihood`, log p(x_obs | z) in nats [N], spares the driver its
    computation. Where it has no field `outputs` the kernel says how they are found.
    """

    z: tf.Tensor  # [N, K] latent
    outputs: tf.Tensor  # [N, D * outputs_per_value] decoder outputs at z


class Info(NamedTuple):
    """What a sweep did."""

    acceptance: tf.Tensor  # [N] probability that the proposal was accepted, NaN: nothing proposed
    log_weight: tf.Tensor  # [N] log importance weight of the state's z as a draw from p(z | x_obs)
    non_finite: tf.Tensor  # [N] int32, ratios (rejected) and weights (now 0) that were not finite

    @classmethod
    def of_chain(cls, acceptance: tf.Tensor, non_finite: tf.Tensor | None = None) -> Info:
        """A sweep of a Markov chain, whose draws all weigh the same."""
        non_finite = tf.zeros_like(acceptance, tf.int32) if non_finite is None else non_finite
        return cls(acceptance, tf.zeros_like(acceptance), non_finite)

    @classmethod
    def of_weights(cls, log_weight: tf.Tensor) -> Info:
        """A sweep of weighted draws, to which nothing was proposed."""
        bad = ~tf.math.is_finite(log_weight)
        return cls(
            acceptance=tf.fill(log_weight.shape, float("nan")),
            log_weight=tf.where(bad, float("-inf"), log_weight),
            non_finite=tf.cast(bad, tf.int32),
        )


class Decision(NamedTuple):
    """Which proposals a Metropolis-Hastings step has accepted, and with what probability."""

    accepted: tf.Tensor  # [N] bool
    probability: tf.Tensor  # [N]
    non_finite: tf.Tensor  # [N] int32


class SampleKind(enum.Enum):
    """What the z of successive sweeps are, and so what is diagnosed."""

    CHAIN = "chain"  # of a Markov chain: R-hat and ESS between chains
    WEIGHTED = "weighted"  # new weighted draws every sweep: ESS of weights over rows and sweeps
    POPULATION = "population"  # weighted particles that move: ESS of weights over rows


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A sampler of p(z | x_obs), as pure functions of N rows.

    Sweeps number the draws of each row, and no number is used twice under one purpose: `Schedule`
    hands them out. A `sweep` is [N] int32, a number for each row; `sweeps` is a Python range for
    all rows.

    Attributes:
        init: (rows, sweep, z) -> the state at the latents z [N, K].
        step: (rows, sweep, state) -> (state, info), one sweep of every row.
        start: (rows, sweeps) -> the first latents z [N, K], by a network pass a sweep; None: draws
            of the prior.
        adapt: (rows, sweeps, state) -> the state after warm-up; None: plain steps.
        passes: network passes of a row in a sweep.
        warm_up_passes: of a row in all of warm-up and for its scouts; None: `passes` a sweep.
        draws: what the z of successive sweeps are.
        outputs: state -> decoder outputs of all values [N, D * outputs_per_value].
        scout: (rows, sweeps, state after warm-up) -> `scouts.Scouts`, where those of each row
            ended, if it sends any.
        uses_restricted_decoder: whether it reads `restricted_decoder`, so that records of which
            one part alone is observed are cheaper.
    """

    init: Callable[[Rows, tf.Tensor, tf.Tensor], Any]
    step: Callable[[Rows, tf.Tensor, Any], tuple[Any, Info]]
    start: Callable[[Rows, range], tf.Tensor] | None = None
    adapt: Callable[[Rows, range, Any], Any] | None = None
    passes: int = 1
    warm_up_passes: int | None = None
    draws: SampleKind = SampleKind.CHAIN
    outputs: Callable[[Any], tf.Tensor] = operator.attrgetter("outputs")
    scout: Callable[[Rows, range, Any], Any] | None = None
    uses_restricted_decoder: bool = False


def restricted_decoder(vae: VAE) -> RestrictedDecoder:
    """The decoder of the values that are observed, as far as the VAE was restricted to them.

    See `vaefill.model.compiled.restricted_decoder`.
    """
    return _COMPILED.restricted_decoder(vae)


def everywhere(rows: Rows, sweep: int | tf.Tensor) -> tf.Tensor:
    """One sweep number for all rows: [N] int32."""
    return tf.fill([rows.observed.shape[0]], tf.cast(sweep, tf.int32))


def draw_prior(vae: VAE, rows: Rows, sweep: tf.Tensor) -> tf.Tensor:
    """z ~ p(z), where a row starts: [N, K]."""
    return vae.prior.draw(draw_noise(rows, sweep, Purpose.START_LATENT, vae.latent_size))


def draw_values(
    vae: VAE,
    rows: Rows,
    sweep: tf.Tensor,
    purpose: Purpose,
    outputs: tf.Tensor,
) -> tf.Tensor:
    """x_mis ~ p(x_mis | z), with a model of masks p(x_mis | z, s), beside the observed values, from
    the decoder's outputs at z: [N, D].
    """
    return _draw_values(vae.likelihood, rows, sweep, tf.constant(purpose), outputs)


def draw_latent(
    rows: Rows,
    sweep: tf.Tensor,
    purpose: Purpose,
    loc: tf.Tensor,
    scale: tf.Tensor,
) -> tf.Tensor:
    """z ~ N(loc, diag(scale^2)): [N, K]."""
    return _draw_latent(rows.streams, sweep, tf.constant(purpose), loc, scale)


def draw_noise(rows: Rows, sweep: tf.Tensor, purpose: Purpose, size: int) -> tf.Tensor:
    """Standard normal numbers: [N, size]."""
    zeros = tf.zeros([rows.observed.shape[0], size])
    return draw_latent(rows, sweep, purpose, zeros, tf.ones_like(zeros))


def draw_uniform(rows: Rows, sweep: tf.Tensor, purpose: Purpose) -> tf.Tensor:
    """One uniform number a row: [N]."""
    return _draw_uniform(rows.streams, sweep, tf.constant(purpose))


# As separate operations the random numbers alone would cost as much as the network. What they are
# for is a tensor, so that each function is compiled once.


@fused
def _draw_values(
    likelihood: Likelihood, rows: Rows, sweep: tf.Tensor, purpose: tf.Tensor, outputs: tf.Tensor
) -> tf.Tensor:
    x = likelihood.sample(outputs, uniform(rows.streams, sweep, purpose, rows.observed.shape[1]))
    return tf.where(rows.observed, rows.x_observed, x)


@fused
def _draw_latent(
    streams: Streams,
    sweep: tf.Tensor,
    purpose: tf.Tensor,
    loc: tf.Tensor,
    scale: tf.Tensor,
) -> tf.Tensor:
    return loc + scale * normal(streams, sweep, purpose, loc.shape[1])


@fused
def _draw_uniform(streams: Streams, sweep: tf.Tensor, purpose: tf.Tensor) -> tf.Tensor:
    return uniform(streams, sweep, purpose, 1)[:, 0]


@fused
def log_likelihood(
    likelihood: Likelihood,
    outputs: tf.Tensor,
    x: tf.Tensor,
    observed: tf.Tensor,
) -> tf.Tensor:
    """log p(x_obs | z), or with a model of masks log p(x_obs, s | z).

    Args:
        likelihood: of the values.
        outputs: [N, D * outputs_per_value] decoder outputs at z.
        x: [N, D] on the model's scale; anything where missing.
        observed: [N, D] bool.

    Returns:
        [N] nats.
    """
    return likelihood.log_prob_observed(outputs, x, observed)


@fused
def log_likelihood_gradient(
    likelihood: Likelihood,
    outputs: tf.Tensor,
    x: tf.Tensor,
    observed: tf.Tensor,
) -> tf.Tensor:
    """The gradient of `log_likelihood` by the decoder's outputs, of their shape."""
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        value = likelihood.log_prob_observed(outputs, x, observed)
    return tape.gradient(value, outputs)


def standard_normal_log_prob(z: tf.Tensor) -> tf.Tensor:
    """log N(z; 0, I) without its constant, over the last axis."""
    return _PRIORS.STANDARD_NORMAL.log_prob(z)


def normal_log_prob(z: tf.Tensor, loc: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """log N(z; loc, diag(scale^2)) without the constant, as in `standard_normal_log_prob`."""
    return tf.reduce_sum(-0.5 * tf.square((z - loc) / scale) - tf.math.log(scale), axis=-1)


def accept(uniform_numbers: tf.Tensor, log_ratio: tf.Tensor) -> Decision:
    """Metropolis and Hastings: accepts with probability min(1, exp(log_ratio)).

    Args:
        uniform_numbers: [N] in (0, 1).
        log_ratio: [N]; what is not finite rejects, and is counted.
    """
    bad = ~tf.math.is_finite(log_ratio)
    log_probability = tf.where(bad, float("-inf"), tf.minimum(log_ratio, 0.0))
    accepted = tf.math.log(uniform_numbers) < log_probability
    return Decision(accepted, tf.exp(log_probability), tf.cast(bad, tf.int32))


@fused  # of large tensors
def choose(accepted: tf.Tensor, proposed: Any, current: Any) -> Any:
    """Rows of `proposed` where accepted [N], of `current` elsewhere: structures of [N, ...]."""

    def one(new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.reshape(accepted, [-1] + [1] * (new.shape.rank - 1)), new, old)

    return tf.nest.map_structure(one, proposed, current)


class DefensiveNormal(NamedTuple):
    """(1 - e) N(loc, diag(scale^2)) + e p(z): the prior's share e bounds the weights."""

    prior: Prior
    loc: tf.Tensor  # [N, K]
    scale: tf.Tensor  # [N, K]
    prior_fraction: float

    def draw(self, rows: Rows, sweep: tf.Tensor) -> tf.Tensor:
        """One draw a row: [N, K]."""
        of_prior = draw_uniform(rows, sweep, Purpose.DEFENSIVE) < self.prior_fraction
        noise = draw_noise(rows, sweep, Purpose.LATENT, self.loc.shape[1])
        z = self.loc + self.scale * noise
        return tf.where(of_prior[:, tf.newaxis], self.prior.draw(noise), z)

    def log_prob(self, z: tf.Tensor) -> tf.Tensor:
        """[N], without the constant that `standard_normal_log_prob` leaves out too."""
        normal_part = math.log1p(-self.prior_fraction) + normal_log_prob(z, self.loc, self.scale)
        prior_part = math.log(self.prior_fraction) + self.prior.log_prob(z)
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


def resample_systematically(
    uniform_numbers: tf.Tensor,
    log_weight: tf.Tensor,
    size: int,
) -> tf.Tensor:
    """As `resample`, at equidistant quantiles from one uniform number a group, its first row's.

    Rows of equal weight stay where they are.
    """
    # float32 would round some to the next row.
    first = tf.cast(grouped(uniform_numbers, size)[:, :1], tf.float64)
    quantiles = (tf.range(size, dtype=tf.float64) + first) / size
    return _at_quantile(quantiles, grouped(log_weight, size))


def _at_quantile(quantiles: tf.Tensor, log_weight: tf.Tensor) -> tf.Tensor:
    """Where cumulative weights of each group [G, S] reach the quantiles [G, S]: rows [G S]."""
    num_groups, size = log_weight.shape
    # Of weights that are all 0 every row is as good.
    some = tf.reduce_any(log_weight > -math.inf, axis=1, keepdims=True)
    log_weight = tf.where(some, log_weight, 0.0)
    cumulative = tf.cumsum(tf.nn.softmax(tf.cast(log_weight, tf.float64)), axis=1)
    targets = tf.cast(quantiles, tf.float64) * cumulative[:, -1:]
    # As many are passed as cumulative weights lie at or below the target.
    is_passed = cumulative[:, tf.newaxis] <= targets[:, :, tf.newaxis]
    passed = tf.reduce_sum(tf.cast(is_passed, tf.int32), axis=2)
    first_rows = size * tf.range(num_groups)[:, tf.newaxis]
    return tf.reshape(tf.minimum(passed, size - 1) + first_rows, [-1])


def grouped(tensor: tf.Tensor, size: int) -> tf.Tensor:
    """[N, ...] -> [N / size, size, ...]: the rows of a chain or of a record together."""
    return tf.reshape(tensor, [-1, size, *tensor.shape[1:]])


def ungrouped(tensor: tf.Tensor) -> tf.Tensor:
    """[G, S, ...] -> [G S, ...]."""
    return tf.reshape(tensor, [-1, *tensor.shape[2:]])
