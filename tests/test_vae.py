"""The VAE: shapes, distributions, networks of one's own, seeds."""

import numpy as np
import pytest
import tensorflow as tf

from tests import oracles
from vaefill.model import vae
from vaefill.model.config import ModelConfig

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("activation", ["relu", "silu", "tanh"])
@pytest.mark.parametrize("shape", [(28, 28, 1), (5, 4, 3), (1, 1, 1)])
def test_distributions_have_the_right_shapes(activation, shape):
    model = vae.build(ModelConfig(latent_size=3, hidden=(8, 6), activation=activation), shape)
    x = tf.zeros([2, model.num_values])
    posterior = model.encode(x)
    assert posterior.batch_shape == [2] and posterior.event_shape == [3]
    decoded = model.decode(posterior.mean())
    assert decoded.batch_shape == [2] and decoded.event_shape == [model.num_values]
    np.testing.assert_allclose(
        decoded.log_prob(x), model.log_likelihood(posterior.mean(), x), rtol=1e-5
    )
    assert (posterior.stddev().numpy() > 0).all()


def test_the_seed_makes_the_weights():
    def weights(seed):
        return (
            vae.build(ModelConfig(latent_size=2, hidden=(4,)), (2, 2, 1), seed)
            .decoder(tf.ones([1, 2]))
            .numpy()
        )

    np.testing.assert_array_equal(weights(1), weights(1))
    assert not np.array_equal(weights(1), weights(2))


def test_any_networks_of_the_right_shapes_will_do():
    model = oracles.TinyBernoulli().vae
    assert model.encode(tf.zeros([3, 4])).event_shape == [1]
    assert model.decode(tf.zeros([3, 1])).event_shape == [4]
