"""Every likelihood: its log_prob, moments and draws agree with its distribution."""

import numpy as np
import pytest
import tensorflow as tf

from model.likelihoods import LIKELIHOODS

OUTPUTS = tf.constant(np.linspace(-12, 12, 40).reshape(4, 10), tf.float32)


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_log_prob_of_everything_is_the_distributions(name):
    likelihood = LIKELIHOODS[name]()
    x = likelihood.sample(OUTPUTS, tf.fill([4, 10], 0.3))
    everything = tf.ones([4, 10], tf.bool)
    expected = likelihood.distribution(OUTPUTS).log_prob(x)
    np.testing.assert_allclose(likelihood.log_prob(OUTPUTS, x, everything), expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_log_prob_adds_up_over_parts_and_ignores_the_rest(name):
    likelihood = LIKELIHOODS[name]()
    x = likelihood.sample(OUTPUTS, tf.fill([4, 10], 0.3))
    chosen = tf.constant(np.arange(40).reshape(4, 10) % 3 == 0)
    parts = likelihood.log_prob(OUTPUTS, x, chosen) + likelihood.log_prob(OUTPUTS, x, ~chosen)
    np.testing.assert_allclose(parts, likelihood.log_prob(OUTPUTS, x, tf.ones([4, 10], tf.bool)), rtol=1e-5)
    poisoned = tf.where(chosen, x, np.nan)
    assert np.isfinite(likelihood.log_prob(OUTPUTS, poisoned, chosen)).all()


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_moments_are_those_of_the_draws(name):
    """Inversion on a grid of uniforms is a quadrature of the draws' law: no noise in this test."""
    likelihood = LIKELIHOODS[name]()
    grid = (np.arange(10_000) + 0.5) / 10_000
    draws = np.stack([likelihood.sample(OUTPUTS, tf.fill([4, 10], np.float32(u))).numpy() for u in grid[::10]])
    mean, variance = likelihood.moments(OUTPUTS)
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=2e-3)
    np.testing.assert_allclose(draws.var(axis=0), variance, atol=2e-3)


def test_bernoulli_bytes():
    bernoulli = LIKELIHOODS["bernoulli"]()
    image = np.array([[0, 127, 128, 255]], np.uint8)
    np.testing.assert_array_equal(bernoulli.from_bytes(image), [[0, 0, 1, 1]])
    np.testing.assert_array_equal(bernoulli.from_bytes(image, np.full((1, 4), 0.499)), [[0, 0, 1, 1]])
    np.testing.assert_array_equal(bernoulli.from_bytes(image, np.full((1, 4), 0.001)), [[0, 1, 1, 1]])
    np.testing.assert_array_equal(bernoulli.to_bytes(tf.constant([0.0, 1.0])), [0, 255])
