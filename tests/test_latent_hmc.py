"""Hamiltonian Monte Carlo on the latents: exact, with a reference and a step size of each record's
own.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests import kernels, oracles
from vaefill.model.samplers import base, latent_hmc
from vaefill.model.samplers.hamiltonian import GaussianSplit

pytestmark = pytest.mark.slow

FALSE_ALARM = 1e-6  # of each of three comparisons
CONFIG = latent_hmc.Config(num_leapfrog_steps=4)
X = np.array([0.5, -1.0, 1.2, -0.3, 2.0, 0.8])
OBSERVED = np.array([True, False, True, False, False, True])


def with_step_size(size: float):
    """A skewed reference in the wrong place too: no more than any other does it change the
    distribution.
    """
    factor = np.array([[0.9, 0.0], [0.5, 0.6]])
    split = GaussianSplit(np.array([0.3, -0.2]), factor, np.linalg.inv(factor))

    def prepare(rows, state):
        of_rows = (tf.constant(new, tf.float32) + 0.0 * old for new, old in zip(split, state.split))
        return state._replace(
            step_size=size * tf.ones_like(state.step_size), split=GaussianSplit(*of_rows)
        )

    return prepare


def movement(variant: str, step_size: float) -> kernels.Movement:
    oracle = kernels.plane(variant)
    kernel = latent_hmc.build(oracle.vae, CONFIG)
    return kernels.movement(oracle, kernel, FALSE_ALARM, prepare=with_step_size(step_size))


@pytest.mark.parametrize("variant", ["easy", "valley"])
def test_conserves_exact_draws(variant):
    """At a step so large that much is rejected.

    A CDF that moved by 0.03, twice the bound, would be seen.
    """
    found = movement(variant, 0.8)
    assert found.conserved, found
    assert found.moved > 0.5


def test_without_rejections_it_does_not(monkeypatch):
    def always(uniform_numbers, log_ratio):
        return base.Decision(
            tf.ones_like(log_ratio, tf.bool),
            tf.ones_like(log_ratio),
            tf.zeros_like(log_ratio, tf.int32),
        )

    monkeypatch.setattr(base, "accept", always)
    assert not movement("valley", 0.8).conserved


def test_reference_has_the_draws_mean_and_a_normal_targets_covariance():
    """The covariance exactly, whatever the sampling error of the draws."""
    rng = np.random.default_rng(0)
    mean, covariance = (
        np.array([1.0, -2.0, 3.0]),
        np.array([[1.0, 0.5, 0.0], [0.5, 0.4, 0.1], [0.0, 0.1, 0.2]]),
    )
    draws = rng.multivariate_normal(mean, covariance, (2, 4000))
    gradients = (mean - draws) @ np.linalg.inv(covariance)
    split = latent_hmc.fit_split(tf.constant(draws), tf.constant(gradients))
    centre, factor, inverse = (tensor.numpy() for tensor in split)
    assert centre.dtype == factor.dtype == inverse.dtype == np.float32
    np.testing.assert_allclose(centre, draws.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(factor @ inverse, np.stack([np.eye(3)] * 2), atol=1e-5)
    # What is left is the five prior draws' share of 4,000.
    np.testing.assert_allclose(
        factor @ factor.transpose(0, 2, 1), np.stack([covariance] * 2), atol=0.02
    )


def test_reference_of_a_constant_target_is_finite():
    for tensor in latent_hmc.fit_split(tf.zeros([1, 10, 2]), tf.zeros([1, 10, 2])):
        assert np.isfinite(tensor).all()


def test_a_record_without_numbers_leaves_the_others_their_reference():
    draws = np.random.default_rng(0).normal(size=(3, 40, 2))
    broken = draws.copy()
    broken[0, 3, 1], broken[1, :, 0] = np.nan, 1e25 * np.arange(40)
    alone, among = (
        latent_hmc.fit_split(tf.constant(each), tf.constant(-each)) for each in (draws, broken)
    )
    for clean, found in zip(alone, among):
        np.testing.assert_array_equal(found[2], clean[2])
        assert np.isfinite(found).all()


def test_of_a_normal_target_that_is_its_reference_nothing_is_rejected():
    """The rotation is exact, however long: no step of leapfrog would be."""
    oracle = oracles.LinearGaussian()
    posterior = oracle.latent_posterior(X, OBSERVED)
    factor = np.linalg.cholesky(posterior.covariance)
    exact = GaussianSplit(posterior.mean, factor, np.linalg.inv(factor))
    rows = kernels.rows_of(X, OBSERVED, 32, seed=7)
    start = latent_hmc.init(oracle.vae, rows, base.everywhere(rows, 0), tf.zeros([32, 2]))
    of_rows = (tf.constant(new, tf.float32) + 0.0 * old for new, old in zip(exact, start.split))
    start = start._replace(split=GaussianSplit(*of_rows), step_size=tf.fill([32], 1.5))
    _, info = kernels.sweeps(latent_hmc.build(oracle.vae, CONFIG), rows, start, 1)
    np.testing.assert_allclose(info.acceptance, 1, atol=1e-3)


@pytest.fixture(scope="module")
def warm() -> latent_hmc.State:
    """Two records of 64 chains, 128 rows, after warm-up: one with three values observed, one with
    none.
    """
    oracle, config = (
        oracles.LinearGaussian(),
        latent_hmc.Config(
            num_chains=64,
            num_warmup=60,
            slots=128,
        ),
    )
    kernel = latent_hmc.build(oracle.vae, config)
    rows = kernels.rows_of(X, OBSERVED, 128, seed=4, rows_per_record=64)
    rows = rows._replace(observed=rows.observed & (tf.range(128) < 64)[:, None])
    start = kernel.init(rows, base.everywhere(rows, 0), tf.zeros([128, 2]))
    return kernels.program(lambda state: kernel.adapt(rows, range(1, 61), state))(start)


def test_warm_up_finds_each_records_own_reference(warm):
    """That of a normal target, to the prior's share."""
    factor = warm.split.factor
    metric = tf.matmul(factor, factor, transpose_b=True).numpy()
    np.testing.assert_allclose(
        metric[0], oracles.LinearGaussian().latent_posterior(X, OBSERVED).covariance, atol=0.02
    )
    np.testing.assert_allclose(metric[-1], np.eye(2), atol=0.05)


def test_chains_of_a_record_share_what_warm_up_learns(warm):
    for learnt in (*warm.split, warm.step_size):
        learnt = learnt.numpy()
        for record in (learnt[:64], learnt[64:]):
            assert (record == record[:1]).all()
    assert not np.array_equal(warm.split.factor[0], warm.split.factor[64])


def test_a_warm_up_of_a_few_sweeps_or_none_works():
    oracle = oracles.LinearGaussian()
    for num_sweeps in (0, 1, 5):
        kernel = latent_hmc.build(
            oracle.vae,
            latent_hmc.Config(num_chains=2, num_warmup=num_sweeps),
        )
        rows = kernels.rows_of(X, OBSERVED, 32, seed=5, rows_per_record=2)
        state = kernel.init(rows, base.everywhere(rows, 0), tf.zeros([32, 2]))
        warm_up = functools.partial(kernel.adapt, rows, range(1, 1 + num_sweeps))
        state = kernels.program(warm_up)(state)
        assert np.isfinite(state.z).all() and (state.step_size > 0).numpy().all()


def test_a_trajectory_that_leaves_the_numbers_is_rejected_and_counted():
    oracle = kernels.plane("easy")
    kernel = latent_hmc.build(oracle.vae, CONFIG)
    rows = kernels.rows_of(oracle.x, oracle.observed, 32, seed=6)
    start = with_step_size(1e30)(
        rows, kernel.init(rows, base.everywhere(rows, 0), tf.zeros([32, 2]))
    )
    state, info = kernels.sweeps(kernel, rows, start, 1)
    np.testing.assert_array_equal(state.z, 0)
    assert (info.acceptance == 0).numpy().all() and (info.non_finite == 1).numpy().any()
