"""A compiled VAE is the same function, with its weights as they were."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vaefill.model import networks
from vaefill.model import vae as vae_lib
from vaefill.model.compiled import ShiftedLikelihood, compile_vae, restricted_decoder
from vaefill.model.config import ModelConfig
from vaefill.model.likelihoods import LIKELIHOODS, Bernoulli
from vaefill.model.vae import VAE

pytestmark = pytest.mark.slow

SINGLE, HALF = "float32", "bfloat16"
SHAPE = (9, 10, 1)
Z = tf.constant(np.random.default_rng(0).normal(size=(32, 5)), tf.float32)
NAMES = sorted(LIKELIHOODS)


def make(hidden=(96, 80), activation="silu"):
    """A decoder from 5 latents to 90 values: its second and third products are wide."""
    config = ModelConfig(latent_size=5, hidden=hidden[::-1], activation=activation)
    return networks.mlp(config, SHAPE, 90, seed=3)[1]


def compiled(network, precision=SINGLE):
    """The VAE of which both networks, of 5 inputs and 90 outputs, are this one.

    An encoder keeps its last bias.
    """
    return compile_vae(VAE(network, network, Bernoulli(), SHAPE, 5), precision)


def value_and_gradient(network, z):
    """The outputs, and the gradient of a weighted sum of them; in a graph, as samplers call it."""

    @tf.function
    def run(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            outputs = network(z)
        weights = tf.broadcast_to(tf.linspace(-1.0, 2.0, 90), outputs.shape)
        return outputs, tape.gradient(outputs, z, weights)

    return [tensor.numpy() for tensor in run(z)]


@pytest.mark.parametrize("activation", ["silu", "relu", "tanh", "softplus"])
def test_the_same_function_and_gradient(activation):
    network = make(activation=activation)
    found = value_and_gradient(compiled(network).encoder, Z)
    for ours, expected in zip(found, value_and_gradient(network, Z)):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_rounds_wide_products_by_its_eight_bits():
    network = make()
    exact = value_and_gradient(network, Z)
    for rounded, expected in zip(value_and_gradient(compiled(network, HALF).encoder, Z), exact):
        assert rounded.dtype == np.float32
        error = np.abs(rounded - expected).max() / np.abs(expected).max()
        assert 1e-5 < error < 2**-6


def test_narrow_products_are_not_rounded():
    network = make(hidden=(64, 16))
    half = value_and_gradient(compiled(network, HALF).encoder, Z)
    single = value_and_gradient(compiled(network, SINGLE).encoder, Z)
    for ours, expected in zip(half, single):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("precision", [SINGLE, HALF])
def test_the_decoders_last_bias_is_left_to_the_likelihood(precision):
    network = make()
    bias = tf.linspace(-1.0, 1.0, 90)
    network.layers[-1].bias.assign(bias)
    vae = compiled(network, precision)
    bare = vae.decoder(Z)
    assert bare.dtype == (tf.bfloat16 if precision == HALF else tf.float32)
    whole = tf.cast(bare, tf.float32) + bias
    np.testing.assert_array_equal(whole, vae.encoder(Z))
    x = tf.cast(tf.random.stateless_uniform([32, 90], [0, 1]) < 0.5, tf.float32)
    expected = Bernoulli().log_prob(whole, x, x > 0.5)
    np.testing.assert_array_equal(vae.likelihood.log_prob(bare, x, x > 0.5), expected)


def test_a_bias_within_a_last_activation_stays():
    last = keras.layers.Dense(90, activation="tanh", bias_initializer="ones")
    network = keras.Sequential([keras.Input((5,)), last])
    vae = compiled(network)
    np.testing.assert_array_equal(vae.decoder(Z), vae.encoder(Z))
    np.testing.assert_allclose(vae.decoder(Z), network(Z), rtol=1e-5, atol=1e-6)
    assert isinstance(vae.likelihood, Bernoulli)


def other_networks():
    """Networks that are not stacks of Dense layers, by what makes them so."""
    layers = keras.layers
    norm = layers.BatchNormalization()
    stacks = {
        "without_bias": [layers.Dense(90, use_bias=False)],
        "batch_norm": [layers.Dense(80), norm, layers.Dense(90)],
        "dropout": [layers.Dense(80), layers.Dropout(0.5, seed=0), layers.Dense(90)],
        "convolution": [layers.Reshape((5, 1)), layers.Conv1D(18, 1), layers.Flatten()],
    }
    networks = {name: keras.Sequential([keras.Input((5,)), *stacks[name]]) for name in stacks}
    norm.moving_mean.assign(tf.linspace(-2.0, 2.0, 80))
    inputs = keras.Input((5,))
    hidden = layers.Dense(90)(inputs)
    networks["functional"] = keras.Model(inputs, hidden + layers.Dense(90)(hidden))
    return networks


NETWORKS = {"dense": make(), **other_networks()}


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_those_of_the_moment_and_no_variable_is_read(name):
    """In training mode batch normalisation and dropout would give something else."""
    network = NETWORKS[name]
    frozen = compiled(network).encoder
    before = value_and_gradient(frozen, Z)
    for ours, expected in zip(before, value_and_gradient(network, Z)):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    graph = tf.function(frozen).get_concrete_function(tf.TensorSpec(Z.shape))
    assert not graph.variables
    for variable in network.weights:
        variable.assign(variable + 0.5)
    for ours, expected in zip(value_and_gradient(frozen, Z), before):
        np.testing.assert_array_equal(ours, expected)
    assert not np.allclose(network(Z), before[0])


def test_python_functions_are_left_alone():
    def decoder(z):
        return 2.0 * z

    vae = compile_vae(VAE(decoder, decoder, Bernoulli(), (1, 4, 1), 4), HALF)
    assert vae.decoder is decoder and vae.encoder is decoder
    assert not vae.supports_restriction
    whole = restricted_decoder(vae)
    assert whole.values.tolist() == [0, 1, 2, 3]
    outputs = whole.outputs(whole.features(tf.ones([2, 4])))
    np.testing.assert_array_equal(outputs, tf.fill([2, 4], 2.0))
    with pytest.raises(ValueError, match="stack of Dense layers"):
        vae.restrict_to(np.array([1]))


def test_a_network_without_weights_is_refused():
    with pytest.raises(ValueError, match="'late' has no weights yet"):
        compiled(keras.Sequential([keras.layers.Dense(90)], name="late"))


# The whole VAE.


def with_biases(likelihood: str) -> VAE:
    config = ModelConfig(latent_size=3, hidden=(8, 6), likelihood=likelihood)
    model = vae_lib.build(config, (4, 3, 1))
    for network in (model.encoder, model.decoder):
        bias = network.layers[-1].bias
        bias.assign(tf.linspace(-1.0, 1.0, bias.shape[0]))
    return model


@pytest.mark.parametrize("likelihood", NAMES)
def test_it_is_the_same_model(likelihood):
    model = with_biases(likelihood)
    fixed, z = compile_vae(model, SINGLE), Z[:5, :3]
    x = tf.cast(model.decode(z).sample(seed=1), tf.float32)
    expected = model.decode(z).log_prob(x)
    np.testing.assert_allclose(fixed.decode(z).log_prob(x), expected, rtol=1e-4)
    np.testing.assert_allclose(fixed.log_likelihood(z, x), expected, rtol=1e-4)
    ours, posterior = fixed.encode(x), model.encode(x)
    np.testing.assert_allclose(ours.loc, posterior.loc, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.stddev(), posterior.stddev(), rtol=1e-4, atol=1e-6)
    assert not np.allclose(posterior.loc, 0.0)


@pytest.mark.parametrize("likelihood", NAMES)
def test_restricted_to_some_values_it_says_the_same_of_them(likelihood):
    model, z = with_biases(likelihood), Z[:5, :3]
    fixed = compile_vae(model, SINGLE)
    values = np.array([2, 3, 5, 8, 9])
    part = restricted_decoder(fixed.restrict_to(values))
    x = tf.cast(model.decode(z).sample(seed=1), tf.float32)
    features = part.features(z)
    x_of_part, every = tf.gather(x, values, axis=1), tf.fill([5, 5], True)
    found = part.likelihood.log_prob(part.outputs(features), x_of_part, every)
    chosen = tf.tile(np.isin(np.arange(12), values)[np.newaxis], [5, 1])
    expected = model.likelihood.log_prob(model.decoder(z), x, chosen)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_array_equal(part.all_outputs(features), fixed.decoder(z))
    assert part.outputs(features).shape[1] == model.likelihood.num_outputs(5)


def make_outputs(likelihood, num_records=4, num_values=10) -> tf.Tensor:
    shape = (num_records, likelihood.num_outputs(num_values))
    return tf.constant(3.0 * np.random.default_rng(0).normal(size=shape), tf.float32)


@pytest.mark.parametrize("name", NAMES)
def test_a_bias_left_to_the_likelihood_is_added_to_the_outputs(name):
    likelihood = LIKELIHOODS[name]()
    bias = make_outputs(likelihood, num_records=1)[0]
    bare = tf.cast(make_outputs(likelihood) - bias, tf.bfloat16)
    whole = tf.cast(bare, tf.float32) + bias
    uniform = tf.constant(np.random.default_rng(1).random((4, 10)), tf.float32)
    x, chosen = likelihood.sample(whole, uniform), uniform < 0.7
    ours = ShiftedLikelihood(likelihood, bias)
    np.testing.assert_array_equal(ours.sample(bare, uniform), x)
    found, expected = ours.log_prob(bare, x, chosen), likelihood.log_prob(whole, x, chosen)
    np.testing.assert_array_equal(found, expected)
    found, expected = ours.distribution(bare), likelihood.distribution(whole)
    np.testing.assert_array_equal(found.log_prob(x), expected.log_prob(x))
    for found, expected in zip(ours.moments(bare), likelihood.moments(whole)):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_restricted_likelihood_takes_the_outputs_that_it_says(name):
    likelihood = LIKELIHOODS[name]()
    bias = make_outputs(likelihood, num_records=1)[0]
    bare = tf.cast(make_outputs(likelihood) - bias, tf.bfloat16)
    whole, values = tf.cast(bare, tf.float32) + bias, np.array([0, 3, 4, 9])
    uniform = tf.constant(np.random.default_rng(1).random((4, 10)), tf.float32)
    expected = tf.gather(likelihood.sample(whole, uniform), values, axis=1)
    uniform = tf.gather(uniform, values, axis=1)
    part, outputs = likelihood.restrict(values, 10)
    np.testing.assert_array_equal(part.sample(tf.gather(whole, outputs, axis=1), uniform), expected)
    part, same = ShiftedLikelihood(likelihood, bias).restrict(values, 10)
    np.testing.assert_array_equal(same, outputs)
    np.testing.assert_array_equal(part.sample(tf.gather(bare, same, axis=1), uniform), expected)


def test_attributes_of_a_likelihood_do_not_depend_on_its_bias():
    for likelihood in (LIKELIHOODS[name]() for name in NAMES):
        shifted = ShiftedLikelihood(likelihood, tf.zeros([likelihood.num_outputs(3)]))
        assert shifted.num_outputs(3) == likelihood.num_outputs(3)
        for attribute in ("name", "dtype", "unit", "binary"):
            assert getattr(shifted, attribute) == getattr(likelihood, attribute)
