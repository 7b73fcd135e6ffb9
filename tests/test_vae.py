"""The VAE: shapes, distributions, networks of one's own, seeds."""

import numpy as np
import pytest
import tensorflow as tf

from tests import oracles
from vaefill.model import vae
from vaefill.model.config import ModelConfig
from vaefill.model.likelihoods import LIKELIHOODS


@pytest.mark.parametrize("activation", ["relu", "silu", "tanh"])
@pytest.mark.parametrize("shape", [(28, 28, 1), (5, 4, 3), (1, 1, 1)])
def test_distributions_have_the_right_shapes(activation, shape):
    model = vae.build(ModelConfig(latent_size=3, hidden=(8, 6), activation=activation), shape)
    x = tf.zeros([2, model.num_values])
    posterior = model.encode(x)
    assert posterior.batch_shape == [2] and posterior.event_shape == [3]
    decoded = model.decode(posterior.mean())
    assert decoded.batch_shape == [2] and decoded.event_shape == [model.num_values]
    np.testing.assert_allclose(decoded.log_prob(x), model.log_likelihood(posterior.mean(), x), rtol=1e-5)
    assert (posterior.stddev().numpy() > 0).all()


@pytest.mark.parametrize("likelihood", sorted(LIKELIHOODS))
def test_for_inference_it_is_the_same_model(likelihood):
    model = vae.build(ModelConfig(latent_size=3, hidden=(8, 6), likelihood=likelihood), (4, 3, 1))
    for network in (model.encoder, model.decoder):
        network.layers[-1].bias.assign(tf.linspace(-1.0, 1.0, network.layers[-1].bias.shape[0]))
    fixed, z = model.for_inference("float32"), tf.constant(np.random.default_rng(0).normal(size=(5, 3)), tf.float32)
    x = tf.cast(model.decode(z).sample(seed=1), tf.float32)
    np.testing.assert_allclose(fixed.decode(z).log_prob(x), model.decode(z).log_prob(x), rtol=1e-4)
    np.testing.assert_allclose(fixed.log_likelihood(z, x), model.log_likelihood(z, x), rtol=1e-4)
    for ours, expected in zip(
        (fixed.encode(x).loc, fixed.encode(x).stddev()), (model.encode(x).loc, model.encode(x).stddev())
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(model.encode(x).loc, 0.0)
    view = fixed.looking_at(np.arange(2, 9)).view
    some = view.likelihood.log_prob(view.seen(view.features(z)), x[:, 2:9], tf.fill([5, 7], True))
    expected = model.likelihood.log_prob(
        model.decoder(z), x, tf.tile(np.isin(np.arange(12), view.values)[None], [5, 1])
    )
    np.testing.assert_allclose(some, expected, rtol=1e-4)


def test_the_seed_makes_the_weights():
    def weights(seed):
        return vae.build(ModelConfig(latent_size=2, hidden=(4,)), (2, 2, 1), seed).decoder(tf.ones([1, 2])).numpy()

    np.testing.assert_array_equal(weights(1), weights(1))
    assert not np.array_equal(weights(1), weights(2))


def test_any_networks_of_the_right_shapes_will_do():
    model = oracles.TinyBernoulli().vae
    assert model.encode(tf.zeros([3, 4])).event_shape == [1]
    assert model.decode(tf.zeros([3, 1])).event_shape == [4]
