"""The chain driver: how sweeps are numbered, which are kept, what is averaged."""

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from tests import kernels, oracles
from vaefill.model import samplers
from vaefill.model.counter_random import MAX_SWEEPS
from vaefill.model.engine import chain, stopping
from vaefill.model.samplers import SAMPLERS, base, scouts

pytestmark = pytest.mark.slow

NUM_ROWS = 4
SCHEDULE = chain.Schedule(num_start=2, num_warmup=3, max_kept=12)
X, OBSERVED = np.ones(4), np.array([True, True, False, False])
INF = float("inf")


class State(NamedTuple):
    z: tf.Tensor
    outputs: tf.Tensor
    warm: tf.Tensor  # [N] sweeps of warm-up


def counting(weights: bool = False, adapts: bool = False) -> base.Kernel:
    """A kernel of which everything is known: after sweep s, z is s and the logits are s / 10."""

    def at(sweep, warm):
        value = tf.cast(sweep, tf.float32)[:, tf.newaxis]
        return State(value, 0.1 * value * tf.ones([1, 4]), warm)

    def step(rows, sweep, state):
        value = tf.cast(sweep, tf.float32)
        log_weight = (
            tf.where(sweep % 2 == 0, tf.math.log(value), -INF) if weights else tf.zeros_like(value)
        )
        return at(sweep, state.warm), base.Info(value, log_weight, sweep)

    def adapt(rows, sweeps, state):
        return at(base.everywhere(rows, sweeps[-1]), tf.fill([NUM_ROWS], 100 + len(sweeps)))

    def init(rows, sweep, z):
        return at(sweep, tf.zeros([NUM_ROWS], tf.int32))

    return base.Kernel(init, step, adapt=adapt if adapts else None)


@pytest.fixture(scope="module")
def model():
    return oracles.TinyBernoulli().vae


@pytest.fixture(scope="module")
def rows():
    return kernels.rows_of(X, OBSERVED, NUM_ROWS, seed=1)


@pytest.fixture(scope="module", params=[False, True], ids=["chain", "weighted"])
def blocks(model, rows, request):
    """Two blocks of ten sweeps, of which twelve are kept; rows 2 and 3 are five sweeps ahead."""
    kernel = counting(weights=request.param)
    chains = chain.begin(model, kernel, rows, SCHEDULE)
    advance = kernels.program(
        lambda chains, kept: chain.advance(model, kernel, chains, kept, SCHEDULE, 10)
    )
    kept, traces = np.array([0, 0, 5, 5], np.int32), []
    for _ in range(2):
        chains, trace = advance(chains, tf.constant(kept))
        kept = np.minimum(kept + 10, SCHEDULE.max_kept).astype(np.int32)
        traces.append(trace)
    return request.param, chains, traces


@pytest.mark.parametrize("plan", [SCHEDULE, chain.Schedule(0, 0, 4), chain.Schedule(9, 0, 99)])
def test_ranges_of_sweep_numbers_follow_each_other(plan):
    ranges = [plan.start, plan.initial, plan.warmup, plan.kept, plan.scouted]
    assert ranges[0].start == 0 and ranges[-1].stop == MAX_SWEEPS
    assert all(one.stop == next_one.start for one, next_one in zip(ranges, ranges[1:]))
    assert len(plan.start) == 1 + plan.num_start and len(plan.warmup) == plan.num_warmup
    assert len(plan.kept) >= plan.max_kept + stopping.BLOCK  # a block goes on after the last one


def test_no_schedule_is_longer_than_the_numbers_for_it():
    longest = chain.Schedule((1 << 18) - 1, (1 << 18) - 1, 1)
    assert len(longest.kept) > stopping.BLOCK
    with pytest.raises(ValueError, match="a chain has fewer than 524288 sweeps, got 524288"):
        dataclasses.replace(longest, max_kept=2)


def test_chains_use_the_numbers_of_their_schedule(model, rows):
    """Start: 0 to 2; the initial state: 3; warm-up: 4 to 6; kept: from 7."""
    assert SCHEDULE.kept.start == 7
    begun = kernels.program(lambda: chain.begin(model, counting(), rows, SCHEDULE))()
    np.testing.assert_array_equal(begun.state.z, 6)
    adapted = kernels.program(lambda: chain.begin(model, counting(adapts=True), rows, SCHEDULE))()
    np.testing.assert_array_equal(adapted.state.z, 6)
    np.testing.assert_array_equal(adapted.state.warm, 103)


def test_the_trace_has_every_kept_sweep_by_each_rows_clock(blocks):
    _, _, (first, second) = blocks
    np.testing.assert_array_equal(first.z[:, 0, 0], np.arange(7, 17))
    np.testing.assert_array_equal(first.z[:, 2, 0], np.arange(12, 22))
    np.testing.assert_array_equal(second.z[:2, 1, 0], [17, 18])
    probability = 1 / (1 + np.exp(-0.1 * np.arange(7, 17)))
    # Two observed ones
    np.testing.assert_allclose(first.log_likelihood[:, 0], 2 * np.log(probability), rtol=1e-5)


def test_moments_are_of_the_kept_sweeps_by_weight(model, blocks):
    """Sweeps 7 to 18: of rows 2 and 3, 12 to 18.

    E[v] + Var[m] of a binary value is p (1 - p) of its mean p.
    """
    weighted, chains, _ = blocks
    for row, sweeps in [(0, np.arange(7, 19)), (2, np.arange(12, 19))]:
        weights = np.where(sweeps % 2 == 0, sweeps, 0) if weighted else np.ones(len(sweeps))
        probability = 1 / (1 + np.exp(-0.1 * sweeps))
        mean = weights @ probability / weights.sum()
        np.testing.assert_allclose(chains.moments.log_total[row], np.log(weights.sum()), rtol=1e-5)
        np.testing.assert_allclose(chains.moments.mean[row], mean, rtol=1e-5)
        variance = chain.variance_of(model.likelihood, chains.moments)[row]
        assert variance.shape == (4,)
        np.testing.assert_allclose(variance, mean * (1 - mean), rtol=1e-4)
        np.testing.assert_allclose(chains.moments.acceptance[row], sweeps.sum())
        np.testing.assert_array_equal(chains.moments.non_finite[row], sweeps.sum())


def test_variance_keeps_its_digits_far_from_zero(rows):
    """Values of 10,000 with a standard deviation of 0.5 given z, and of 1 between sweeps."""
    vae = oracles.LinearGaussian().vae

    def step(rows, sweep, state):
        sign = tf.cast(1 - 2 * (sweep % 2), tf.float32)[:, tf.newaxis]
        return state._replace(outputs=1e4 + sign * tf.ones([1, 4])), base.Info.of_chain(
            tf.ones([NUM_ROWS])
        )

    zeros = tf.zeros([NUM_ROWS])
    moments = chain.Moments(
        zeros - INF,
        tf.zeros([NUM_ROWS, 4]),
        tf.zeros([NUM_ROWS, 4]),
        zeros,
        tf.zeros([4], tf.int32),
    )
    state = State(tf.zeros([NUM_ROWS, 2]), tf.zeros([NUM_ROWS, 4]), tf.zeros([NUM_ROWS], tf.int32))
    kept = tf.zeros([NUM_ROWS], tf.int32)
    kernel = dataclasses.replace(counting(), step=step)
    plan = dataclasses.replace(SCHEDULE, max_kept=400)
    chains = chain.Chains(rows, state, moments, scouts.none(*state.z.shape))
    chains, _ = kernels.program(lambda chains: chain.advance(vae, kernel, chains, kept, plan, 400))(
        chains
    )
    np.testing.assert_allclose(chains.moments.mean, 1e4, rtol=1e-6)
    np.testing.assert_allclose(chains.moments.variance, 1.25, rtol=1e-3)


def test_select():
    running = (tf.constant([0, 1, 2]), tf.constant([[0.0], [1.0], [2.0]]))
    fresh = tf.nest.map_structure(lambda tensor: tensor + 10, running)
    first, second = chain.select(running, fresh, tf.constant([-1, 2, -3]))
    np.testing.assert_array_equal(first, [0, 12, 2])
    np.testing.assert_array_equal(second, [[0], [12], [2]])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_block_compiles_as_one_program(model, name):
    """As it does on a GPU; to the same numbers but for the order of sums."""
    config = kernels.config_of(name, num_start=1, num_warmup=6, num_particles=4)
    kernel, schedule = samplers.build(model, config), chain.Schedule(1, 6, 10)
    rows = kernels.rows_of(X, OBSERVED, 2 * config.rows_per_record, 1, config.rows_per_record)
    chains = chain.begin(model, kernel, rows, schedule)

    def advance(chains):
        return chain.advance(model, kernel, chains, base.everywhere(rows, 0), schedule, 2)

    traces = [kernels.program(advance, jit_compile=whole)(chains)[1] for whole in (None, True)]
    np.testing.assert_allclose(*(trace.z for trace in traces), rtol=1e-4, atol=1e-5)
