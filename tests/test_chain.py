"""The chain driver: which draws are kept, what is averaged."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from model.counter_random import Streams
from model.sampling import base, chain
from tests import oracles


class State(NamedTuple):
    x: tf.Tensor
    z: tf.Tensor
    outputs: tf.Tensor


class Info(NamedTuple):
    acceptance: tf.Tensor


@pytest.mark.parametrize(
    ("num_warmup", "num_sweeps", "num_draws", "expected"),
    [(0, 10, 1, (10,)), (5, 25, 2, (15, 25)), (2, 9, 3, (4, 6, 9)), (0, 4, 4, (1, 2, 3, 4))],
)
def test_draws_are_spread_evenly_and_end_with_the_last_sweep(num_warmup, num_sweeps, num_draws, expected):
    assert chain.schedule(num_warmup, num_sweeps, num_draws).draw_sweeps == expected


def test_what_is_kept_comes_from_the_sweeps_after_warm_up():
    """A kernel that counts: its state after sweep s is s, so averages and traces are known."""
    oracle, num_rows = oracles.TinyBernoulli(), 3
    ones = tf.ones([num_rows, 4])

    def step(rows, sweep, state):
        value = tf.cast(sweep, tf.float32)
        return State(value * ones, value * ones[:, :1], state.outputs), Info(value * ones[:, 0])

    kernel = base.Kernel(init=lambda rows: State(0 * ones, 0 * ones[:, :1], 0 * ones), step=step)
    streams = Streams(tf.zeros([num_rows, 2], tf.uint32), tf.zeros([num_rows], tf.uint32))
    rows = base.Rows(streams, ones, tf.constant([[True, True, False, False]] * num_rows))
    plan = chain.schedule(num_warmup=3, num_sweeps=9, num_draws=2)
    result = tf.function(lambda: chain.run(oracle.vae, kernel, rows, plan))()
    np.testing.assert_array_equal(result.draws[:, 0, 0], [6, 9])
    np.testing.assert_array_equal(result.z[:, 1, 0], [4, 5, 6, 7, 8, 9])
    np.testing.assert_allclose(result.acceptance, 6.5)
    np.testing.assert_allclose(result.mean, 0.5)  # outputs of 0: probability 1/2
    np.testing.assert_allclose(result.second_moment, 0.5)
    np.testing.assert_allclose(result.log_likelihood, 2 * np.log(0.5), rtol=1e-6)  # two observed values
