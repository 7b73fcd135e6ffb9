"""Networks for inference: the same function, with its weights as they were."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vaefill.model import networks
from vaefill.model.config import ModelConfig

SINGLE, HALF = "float32", "bfloat16"


def make(hidden=(96, 80), activation="silu"):
    """A decoder from 5 latents to 90 values: its second and third products are wide."""
    config = ModelConfig(latent_size=5, hidden=hidden[::-1], activation=activation)
    return networks.mlp(config, 90, 1, seed=3)[1]


def value_and_gradient(network, z):
    """The outputs, and the gradient of a weighted sum of them; in a graph, as samplers call it."""

    @tf.function
    def run(z):
        with tf.GradientTape() as tape:
            tape.watch(z)
            outputs = network(z)
        return outputs, tape.gradient(outputs, z, tf.broadcast_to(tf.linspace(-1.0, 2.0, 90), outputs.shape))

    return [tensor.numpy() for tensor in run(z)]


Z = tf.constant(np.random.default_rng(0).normal(size=(32, 5)), tf.float32)


@pytest.mark.parametrize("activation", ["silu", "relu", "tanh", "softplus"])
def test_the_same_function_and_gradient(activation):
    network = make(activation=activation)
    found = value_and_gradient(networks.for_inference(network, SINGLE), Z)
    for ours, expected in zip(found, value_and_gradient(network, Z)):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_rounds_wide_products_by_its_eight_bits():
    network = make()
    exact = value_and_gradient(network, Z)
    for rounded, expected in zip(value_and_gradient(networks.for_inference(network, HALF), Z), exact):
        assert rounded.dtype == np.float32
        error = np.abs(rounded - expected).max() / np.abs(expected).max()
        assert 1e-5 < error < 2**-6


def test_narrow_products_are_not_rounded():
    network = make(hidden=(64, 16))
    half, single = (value_and_gradient(networks.for_inference(network, precision), Z) for precision in (HALF, SINGLE))
    for ours, expected in zip(half, single):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("precision", [SINGLE, HALF])
def test_the_last_bias_can_be_left_out(precision):
    network = networks.for_inference(make(), precision)
    bare, bias = network.without_bias()
    assert bare(Z).dtype == (tf.bfloat16 if precision == HALF else tf.float32)
    np.testing.assert_array_equal(tf.cast(bare(Z), tf.float32) + bias, network(Z))


def test_a_bias_within_a_last_activation_stays():
    network = keras.Sequential([keras.Input((5,)), keras.layers.Dense(90, activation="tanh")])
    network = networks.for_inference(network, SINGLE)
    same, bias = network.without_bias()
    assert same is network and bias is None


def test_weights_are_those_of_the_moment():
    network = make()
    fixed = networks.for_inference(network, SINGLE)
    before = fixed(Z).numpy()
    network.layers[0].kernel.assign(tf.zeros_like(network.layers[0].kernel))
    np.testing.assert_array_equal(fixed(Z), before)
    assert not np.allclose(network(Z), before)


def test_other_networks_are_left_alone():
    convolution = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3)])
    without_bias = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, use_bias=False)])
    for network in (lambda z: 2.0 * z, convolution, without_bias, keras.Sequential([keras.layers.Dense(3)])):
        assert networks.for_inference(network, HALF) is network
