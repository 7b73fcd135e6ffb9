"""Adaptive collapsed Metropolis-within-Gibbs: exact once its history is frozen."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests import kernels
from vaefill.model.samplers import ac_mwg, base

pytestmark = pytest.mark.slow

FALSE_ALARM = 1e-6  # of each of three comparisons
HISTORY = 8
CONFIG = ac_mwg.Config(num_warmup=HISTORY - 1, prior_fraction=0.3)


def with_foreign_history(oracle, rows, state: ac_mwg.State) -> ac_mwg.State:
    """A history that knows nothing of the current z: encodings of independent draws of the
    model.
    """
    rng = np.random.default_rng(9)
    num_rows = rows.observed.shape[0]
    z = rng.normal(size=(num_rows * HISTORY, 2))
    x = oracle.draw_missing(z, oracle.x, oracle.observed, rng)
    loc, scale = oracle.encoder_moments(x)
    loc = tf.constant(loc.reshape(num_rows, HISTORY, 2), tf.float32)
    scale = tf.constant(scale, tf.float32) + tf.zeros_like(loc)
    return state._replace(loc=loc, scale=scale, available=tf.fill([num_rows], HISTORY))


def movement(variant: str) -> kernels.Movement:
    oracle = kernels.plane(variant)
    kernel = ac_mwg.build(oracle.vae, CONFIG)
    prepare = functools.partial(with_foreign_history, oracle)
    return kernels.movement(oracle, kernel, FALSE_ALARM, prepare=prepare)


@pytest.mark.parametrize("variant", ["easy", "valley"])
def test_conserves_exact_draws_with_a_frozen_history(variant):
    """A CDF that moved by 0.03, twice the bound, would be seen."""
    found = movement(variant)
    assert found.conserved, found
    assert found.moved > 0.3


def test_without_the_prior_in_its_density_it_does_not(monkeypatch):
    """It draws from the mixture, and weighs as if it drew from the encoder's part alone."""
    alone = lambda self, z: base.normal_log_prob(z, self.loc, self.scale)  # noqa: E731
    monkeypatch.setattr(base.DefensiveNormal, "log_prob", alone)
    assert not movement("valley").conserved


def test_the_history_grows_in_warm_up_and_is_frozen_after():
    oracle, num_rows = kernels.plane("valley"), 256
    kernel = ac_mwg.build(oracle.vae, CONFIG)
    rows = kernels.rows_of(oracle.x, oracle.observed, num_rows, seed=2)
    start = kernel.init(rows, base.everywhere(rows, 0), tf.zeros([num_rows, 2]))
    tf.debugging.assert_equal(start.available, 1)
    warm = kernels.program(
        lambda state: kernel.adapt(rows, range(1, 1 + CONFIG.num_warmup), state)
    )(
        start,
    )
    available = warm.available.numpy()
    # On acceptance at sweep n, the components of the initial state and of sweeps 1 to n - 1.
    assert available.min() >= 1 and available.max() == CONFIG.num_warmup and len(set(available)) > 3
    assert (warm.scale[:, 1:].numpy() < 1).all()  # every place is filled
    tf.debugging.assert_equal(warm.loc[:, 0], start.loc[:, 0])
    later, _ = kernels.sweeps(kernel, rows, warm, 2)
    for name in ("loc", "scale", "available"):
        tf.debugging.assert_equal(getattr(later, name), getattr(warm, name))


def test_only_available_components_are_chosen():
    """What the second component is matters to a chain just when it is available."""
    oracle, num_rows = kernels.plane("valley"), 256
    rows = kernels.rows_of(oracle.x, oracle.observed, num_rows, seed=3)
    kernel = ac_mwg.build(oracle.vae, ac_mwg.Config(num_warmup=1))
    start = kernel.init(rows, base.everywhere(rows, 0), tf.zeros([num_rows, 2]))
    start = start._replace(available=tf.where(tf.range(num_rows) < 128, 1, 2))
    loc = tf.constant([[[0.0, 0.0], [1.0, 0.0]]])
    step = kernels.program(lambda state: kernel.step(rows, base.everywhere(rows, 1), state)[0].z)
    with_it, without = (
        step(start._replace(loc=start.loc + shift)).numpy() for shift in (loc, 0 * loc)
    )
    np.testing.assert_array_equal(with_it[:128], without[:128])
    assert not np.array_equal(with_it[128:], without[128:])
