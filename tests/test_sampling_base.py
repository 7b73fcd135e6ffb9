"""What samplers share: acceptance, mixtures as proposals, resampling."""

import math

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tests import kernels, oracles
from vaefill.model import priors
from vaefill.model.samplers import base

FALSE_ALARM = 1e-6
NAN, INF = float("nan"), float("inf")


def test_accept():
    log_ratio = tf.constant([0.0, 5.0, -1.0, -1.0, -INF, NAN, INF])
    numbers = tf.constant([0.999, 0.999, 0.36, 0.37, 1e-7, 1e-7, 1e-7])
    found = base.accept(numbers, log_ratio)
    np.testing.assert_array_equal(found.accepted, [True, True, True, False, False, False, False])
    np.testing.assert_allclose(
        found.probability, [1, 1, math.exp(-1), math.exp(-1), 0, 0, 0], rtol=1e-6
    )
    np.testing.assert_array_equal(found.non_finite, [0, 0, 0, 0, 1, 1, 1])


def test_choose_takes_rows_of_any_shape():
    proposed = (tf.ones([3]), tf.ones([3, 2]), tf.ones([3, 2, 2]))
    found = base.choose(
        tf.constant([True, False, True]), proposed, tf.nest.map_structure(tf.zeros_like, proposed)
    )
    for each in found:
        np.testing.assert_array_equal(
            each[:, ...].numpy().reshape(3, -1).all(axis=1), [True, False, True]
        )


def test_weights_that_are_not_finite_are_none_and_counted():
    info = base.Info.of_weights(tf.constant([0.5, NAN, INF, -INF]))
    np.testing.assert_array_equal(info.log_weight, [np.float32(0.5), -INF, -INF, -INF])
    np.testing.assert_array_equal(info.non_finite, [0, 1, 1, 1])


def test_normal_densities_leave_out_the_same_constant():
    z, loc, scale = (tf.constant([values]) for values in ([0.3, -1.0], [1.0, 0.5], [0.2, 3.0]))
    constant = math.log(2 * math.pi)
    expected = scipy.stats.norm.logpdf(z, loc, scale).sum(axis=1) + constant
    np.testing.assert_allclose(base.normal_log_prob(z, loc, scale), expected, rtol=1e-5)
    np.testing.assert_allclose(
        base.standard_normal_log_prob(z),
        scipy.stats.norm.logpdf(z).sum(axis=1) + constant,
        rtol=1e-5,
    )


# The prior's share


@pytest.fixture(scope="module")
def defensive() -> base.DefensiveNormal:
    """20,000 rows of one mixture."""
    loc = tf.constant([[2.0, -1.0]]) + tf.zeros([20_000, 1])
    return base.DefensiveNormal(
        priors.STANDARD_NORMAL, loc, tf.constant([[0.5, 0.1]]) + tf.zeros([20_000, 1]), 0.3
    )


def mixture(z: np.ndarray, function: str) -> np.ndarray:
    normal_part, prior = scipy.stats.norm([2.0, -1.0], [0.5, 0.1]), scipy.stats.norm()
    return getattr(normal_part, function)(z), getattr(prior, function)(z)


def test_draws_of_a_mixture(defensive):
    """The CDF of both coordinates within 0.019 of the mixture's."""
    rows = kernels.rows_of(np.zeros(3), np.ones(3, bool), 20_000, seed=1)
    z = defensive.draw(rows, base.everywhere(rows, 5)).numpy()
    for k in range(2):

        def cdf(values, k=k):
            normal_part, prior = mixture(np.tile(values[:, None], 2), "cdf")
            return 0.7 * normal_part[:, k] + 0.3 * prior[:, k]

        assert oracles.ks_distance_to(z[:, k], cdf) < oracles.dkwm(len(z), FALSE_ALARM)
    # Of the normal part: both or, of the prior, either
    near = np.abs(z - [2.0, -1.0]) < 5 * np.array([0.5, 0.1])
    assert abs((~near[:, 1]).mean() - 0.3 * (1 - 0.242)) < 0.03  # P(|z + 1| < 0.5) is 0.242


def test_density_of_a_mixture(defensive):
    z = np.random.default_rng(2).normal(size=(20_000, 2)).astype(np.float32) * 2
    normal_part, prior = (each.prod(axis=1) for each in mixture(z.astype(np.float64), "pdf"))
    expected = np.log(0.7 * normal_part + 0.3 * prior) + math.log(2 * math.pi)
    np.testing.assert_allclose(defensive.log_prob(tf.constant(z)), expected, rtol=1e-4, atol=1e-4)


# Resampling


@pytest.mark.parametrize("resample", [base.resample, base.resample_systematically])
def test_resampling_takes_by_weight_and_from_the_own_group(resample):
    """How often each of 5 rows of 8,000 groups is taken: within 4 % of its expectation, 6 standard
    errors or more.
    """
    weights = np.array([0.1, 0.0, 0.4, 0.3, 0.2])
    log_weight = tf.constant(np.tile(np.log(np.maximum(weights, 1e-300)), 8000), tf.float32)
    log_weight = tf.where(log_weight < -500, -INF, log_weight) + 7.0  # weights of any sum
    uniform = tf.constant(np.random.default_rng(3).random(40_000), tf.float32)
    chosen = resample(uniform, log_weight, 5).numpy().reshape(8000, 5)
    np.testing.assert_array_equal(chosen // 5, np.arange(8000)[:, None] + np.zeros(5, int))
    counts = np.stack([np.bincount(each, minlength=5) for each in chosen % 5])
    np.testing.assert_allclose(counts.mean(axis=0), 5 * weights, rtol=0.04)
    if resample is base.resample_systematically:
        assert (np.abs(counts - 5 * weights) <= 1).all()


@pytest.mark.parametrize("first", [2.0**-24, 0.5, 1 - 2.0**-24])
def test_systematic_resampling_leaves_equal_weights_where_they_are(first):
    for size in (2, 7, 100, 1000):
        chosen = base.resample_systematically(
            tf.fill([2 * size], first), tf.fill([2 * size], -3.0), size
        )
        np.testing.assert_array_equal(chosen, np.arange(2 * size))


@pytest.mark.parametrize("resample", [base.resample, base.resample_systematically])
def test_of_weights_that_are_all_zero_every_row_is_as_good(resample):
    chosen = resample(tf.constant([0.1, 0.3, 0.6, 0.9]), tf.fill([4], -INF), 4).numpy()
    np.testing.assert_array_equal(chosen, [0, 1, 2, 3])


@pytest.mark.parametrize("resample", [base.resample, base.resample_systematically])
def test_resampling_is_the_same_for_a_group_alone(resample):
    rng = np.random.default_rng(4)
    uniform, log_weight = (tf.constant(rng.random(48), tf.float32) for _ in range(2))
    together = resample(uniform, 5 * log_weight, 8).numpy()
    for first in range(0, 48, 8):
        alone = resample(uniform[first : first + 8], 5 * log_weight[first : first + 8], 8).numpy()
        np.testing.assert_array_equal(together[first : first + 8], alone + first)
