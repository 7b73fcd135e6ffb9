"""The bounds are bounds, and log p(x) is what quadrature says."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests import oracles
from tests.oracles.scale import raw_scale
from vaefill.model import objectives, vae
from vaefill.model.config import ModelConfig

pytestmark = pytest.mark.slow

FALSE_ALARM = 1e-6


@pytest.fixture(scope="module")
def oracle():
    return oracles.TinyBernoulli()


def log_prob_by_quadrature(oracle: oracles.TinyBernoulli, x: np.ndarray) -> float:
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z = tf.constant(nodes[:, None], tf.float32)
    log_likelihood = oracle.vae.log_likelihood(
        z, tf.constant(np.tile(x, (60, 1)), tf.float32)
    ).numpy()
    return float(
        np.log(np.sum(weights / weights.sum() * np.exp(log_likelihood.astype(np.float64))))
    )


@pytest.mark.parametrize("x", [[0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]])
def test_iwae_approaches_log_prob_and_elbo_lies_below(oracle, x):
    x = np.array(x, np.float64)
    exact = log_prob_by_quadrature(oracle, x)
    rows = tf.constant(np.tile(x, (400, 1)), tf.float32)
    noise = tf.random.stateless_normal([1000, 400, 1], [0, 1])
    estimates = objectives.iwae(oracle.vae, rows, noise).numpy()
    # 1e-6 two-sided: 4.9 standard errors, and the bound's own bias, at most its variance
    assert abs(estimates.mean() - exact) < 4.9 * estimates.std() / 20 + estimates.var()
    elbo = objectives.elbo(oracle.vae, rows, noise[0]).numpy()
    assert elbo.mean() < exact - 1e-3
    assert exact - elbo.mean() < 1.5


def test_closed_form_kl_agrees_with_the_sampled_one(oracle):
    """The ELBO and the one-sample IWAE bound have the same expectation."""
    rows = tf.constant(np.tile([1.0, 0, 1, 1], (100_000, 1)), tf.float32)
    noise = tf.random.stateless_normal([1, 100_000, 1], [3, 4])
    difference = (
        objectives.elbo(oracle.vae, rows, noise[0]) - objectives.iwae(oracle.vae, rows, noise)
    ).numpy()
    assert abs(difference.mean()) < 4.9 * difference.std() / np.sqrt(len(difference))


@pytest.mark.parametrize("k", [1, 2, 7])
def test_bound_has_gradients_for_every_weight(k):
    model = vae.build(ModelConfig(latent_size=2, hidden=(8,)), (3, 3, 1))
    x = tf.cast(tf.random.stateless_uniform([5, 9], [0, 0]) < 0.5, tf.float32)
    variables = model.encoder.trainable_variables + model.decoder.trainable_variables
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(objectives.bound(model, x, k, tf.constant([1, 2])))
    for variable, gradient in zip(variables, tape.gradient(value, variables)):
        assert gradient is not None and np.isfinite(gradient).all(), variable.path


@pytest.fixture(scope="module")
def with_gaps():
    """A linear-Gaussian model whose encoder of incomplete records is the prior, and two records of
    which half is missing, many times over.
    """
    oracle = oracles.LinearGaussian()
    of_gaps = dataclasses.replace(
        oracle.vae,
        encoder=lambda inputs: tf.repeat([[0.0, 0, *raw_scale(np.ones(2))]], inputs.shape[0], 0),
    )
    x = np.array([0.5, -1.0, 1.2, -0.3, 2.0, 0.8])
    observed = np.array([True, False, True, False, False, True])
    return oracle, of_gaps, x, observed


@pytest.mark.parametrize("filler", [0.0, 1e3, np.nan])
def test_of_incomplete_records_only_what_is_observed_counts(with_gaps, filler):
    """The bound of many draws is log p(x_obs) in closed form: 1e-6 two-sided, and its own bias."""
    oracle, of_gaps, x, observed = with_gaps
    exact = oracle.log_prob_observed(x, observed)
    rows = tf.constant(np.tile(np.where(observed, x, filler), (400, 1)), tf.float32)
    masks = tf.constant(np.tile(observed, (400, 1)))
    noise = tf.random.stateless_normal([1000, 400, 2], [0, 1])
    estimates = objectives.iwae(of_gaps, rows, noise, masks).numpy()
    assert abs(estimates.mean() - exact) < 4.9 * estimates.std() / 20 + estimates.var()
    assert objectives.elbo(of_gaps, rows, noise[0], masks).numpy().mean() < exact - 1e-3


def test_the_encoder_of_incomplete_records_sees_values_and_masks_side_by_side():
    x = tf.constant([[1.0, np.nan, 3.0]])
    inputs = objectives.encoder_inputs(x, tf.constant([[True, False, True]]))
    np.testing.assert_array_equal(inputs, [[1, 1, 0, 0, 3, 1]])
    assert objectives.encoder_inputs(x, None) is x


def test_resampled_latents_are_of_the_posterior(with_gaps):
    """Mean and covariance in closed form, of 4,000 records that are the same: 1e-6 each; and one
    draw of the encoder alone is far off.
    """
    oracle, of_gaps, x, observed = with_gaps
    rows, masks = np.tile(np.where(observed, x, 0), (4000, 1)), np.tile(observed, (4000, 1))
    exact = oracle.latent_posterior(x, observed)

    def score(num_draws: int) -> float:
        found = objectives.resampled(
            of_gaps, tf.constant(rows, tf.float32), num_draws, tf.constant([1, 2]), masks
        ).numpy()
        error = np.abs(found.mean(axis=0) - exact.mean) / np.sqrt(np.diag(exact.covariance) / 4000)
        spread = np.abs(np.var(found, axis=0) / np.diag(exact.covariance) - 1) / np.sqrt(2 / 4000)
        return max(error.max(), spread.max())

    assert score(1000) < 5.2 < 50 < score(1)


def test_more_samples_never_loosen_the_bound_in_expectation(oracle):
    """Burda et al. 2016, theorem 1, on one record with 20,000 repetitions."""
    rows = tf.constant(np.tile([1.0, 0, 0, 1], (20_000, 1)), tf.float32)
    noise = tf.random.stateless_normal([8, 20_000, 1], [5, 6])
    means = [float(tf.reduce_mean(objectives.iwae(oracle.vae, rows, noise[:k]))) for k in (1, 2, 8)]
    assert means == sorted(means)
