"""The bounds are bounds, and log p(x) is what quadrature says."""

import numpy as np
import pytest
import tensorflow as tf

from tests import oracles
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


def test_more_samples_never_loosen_the_bound_in_expectation(oracle):
    """Burda et al. 2016, theorem 1, on one record with 20,000 repetitions."""
    rows = tf.constant(np.tile([1.0, 0, 0, 1], (20_000, 1)), tf.float32)
    noise = tf.random.stateless_normal([8, 20_000, 1], [5, 6])
    means = [float(tf.reduce_mean(objectives.iwae(oracle.vae, rows, noise[:k]))) for k in (1, 2, 8)]
    assert means == sorted(means)
