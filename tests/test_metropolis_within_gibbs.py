"""Metropolis-within-Gibbs leaves p(x_mis, z | x_obs) unchanged, whatever the encoder."""

import pytest
import tensorflow as tf

from tests import kernels
from vaefill.model.samplers import base, metropolis_within_gibbs

pytestmark = pytest.mark.slow

FALSE_ALARM = 1e-6  # of each of three comparisons


def kernel(oracle) -> base.Kernel:
    return metropolis_within_gibbs.build(oracle.vae, metropolis_within_gibbs.Config())


@pytest.mark.parametrize("variant", ["easy", "valley"])
def test_conserves_exact_draws(variant):
    """A CDF that moved by 0.03, twice the bound, would be seen; `init` draws x_mis given z,
    exactly.
    """
    oracle = kernels.plane(variant)
    found = kernels.movement(oracle, kernel(oracle), FALSE_ALARM)
    assert found.conserved, found
    assert found.moved > 0.5


def test_without_the_proposal_in_its_ratio_it_does_not(monkeypatch):
    monkeypatch.setattr(base, "normal_log_prob", lambda z, loc, scale: tf.zeros([z.shape[0]]))
    oracle = kernels.plane("easy")
    assert not kernels.movement(oracle, kernel(oracle), FALSE_ALARM).conserved


def test_observed_values_never_change_and_rejections_keep_z():
    oracle = kernels.plane("valley")
    rows = kernels.rows_of(oracle.x, oracle.observed, 512, seed=1)
    start = kernel(oracle).init(rows, base.everywhere(rows, 0), 3.0 * tf.ones([512, 2]))
    state, info = kernels.sweeps(kernel(oracle), rows, start, 1)
    tf.debugging.assert_equal(state.x[:, :2], rows.x_observed[:, :2])
    stayed = tf.reduce_all(state.z == start.z, axis=1)
    assert 0 < tf.reduce_sum(tf.cast(stayed, tf.int32)) < 512
    tf.debugging.assert_near(
        tf.where(stayed[:, None], state.outputs, oracle.vae.decoder(state.z)), state.outputs
    )
    assert not info.non_finite.numpy().any()
