"""Which latents a model uses, and what it decodes from them."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.oracles.scale import raw_scale
from vaefill.model import latents, priors, vae
from vaefill.model.config import ModelConfig
from vaefill.model.likelihoods import LIKELIHOODS

SCALES = (0.5, 1.0, 2.0)


def encoder(x: tf.Tensor) -> tf.Tensor:
    """Of three latents the first follows the first value, the second hardly, the third not."""
    loc = tf.stack([x[:, 0] + 2.0, 0.05 * x[:, 0], tf.fill([len(x)], 3.0)], axis=1)
    raw = [raw_scale(scale) for scale in SCALES]
    return tf.concat([loc, tf.tile(tf.constant([raw], tf.float32), [len(x), 1])], axis=1)


@pytest.fixture
def model() -> vae.VAE:
    """Whose decoder has the latents themselves as logits."""
    return vae.VAE(encoder, lambda z: z, LIKELIHOODS["bernoulli"](), (1, 3, 1), latent_size=3)


def test_the_aggregated_posterior_has_the_moments_of_the_mixture(model):
    """However the records come in batches."""
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    found = latents.aggregated_posterior(model, [tf.constant(x[:13]), tf.constant(x[13:])])
    variance = x[:, 0].astype(np.float64).var()
    activity = np.array([variance, 0.05**2 * variance, 0])
    np.testing.assert_allclose(found.activity, activity, rtol=1e-4)
    np.testing.assert_allclose(found.mean, [x[:, 0].mean() + 2, 0.05 * x[:, 0].mean(), 3], 1e-4)
    np.testing.assert_allclose(found.stddev, np.sqrt(activity + np.square(SCALES)), rtol=1e-3)
    assert found.active.tolist() == [True, False, False]
    assert found.by_activity.tolist() == [0, 1, 2]


def test_latents_that_are_no_number_are_neither_active_nor_first():
    found = latents.AggregatedPosterior(np.array([np.nan, 0.5, 2.0]), np.zeros(3), np.ones(3))
    assert found.active.tolist() == [False, True, True]
    assert found.by_activity.tolist() == [2, 1, 0]


def sigmoid(values):
    return 1 / (1 + np.exp(-np.asarray(values)))


def test_reconstructions_are_means_from_the_mean_of_the_encoder(model):
    found = latents.reconstructions(model, tf.constant([[1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(found, sigmoid([[3.0, 0.05, 3.0]]), rtol=1e-5)


def test_a_traversal_changes_one_latent_alone(model):
    found = latents.traversal(model, tf.constant([[1.0, 0.0, 0.0]]), 1, np.array([-1.0, 0.0, 4.0]))
    np.testing.assert_allclose(
        found, sigmoid([[3, -1, 3], [3, 0, 3], [3, 4, 3]]), rtol=1e-5, strict=False
    )


def test_samples_are_of_the_prior_and_the_same_again(model):
    """The mean of 4,000 logits is within 6 standard errors: a false alarm in 10^8, of each."""
    found = latents.samples(model, 4000, tf.constant([1, 2]))
    np.testing.assert_array_equal(found, latents.samples(model, 4000, tf.constant([1, 2])))
    assert (found != latents.samples(model, 4000, tf.constant([1, 3]))).any()
    logits = np.log(found / (1 - found))
    assert np.abs(logits.mean(axis=0)).max() < 6 / np.sqrt(4000)
    np.testing.assert_allclose(logits.std(axis=0), 1, atol=6 / np.sqrt(2 * 4000))


def test_whatever_prior_a_model_has_is_sampled():
    class Away(priors.StandardNormal):
        def draw(self, noise):
            return 9.0 + 1e-3 * noise

    built = vae.build(ModelConfig(latent_size=2, hidden=(4,)), (1, 2, 1))
    away = dataclasses.replace(built, prior=Away(), decoder=lambda z: z)
    np.testing.assert_allclose(
        latents.samples(away, 5, tf.constant([1, 2])), sigmoid(9.0), rtol=1e-3
    )
