"""Decoder outputs -> the distribution of the values, given z.

A likelihood is factorised over values, p(x | z) = prod_d p(x_d | z), so that the missing values are
independent of the observed ones given z: p(x_mis | x_obs, z) = p(x_mis | z).
"""

from typing import Protocol

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class Likelihood(Protocol):
    """What a VAE and the samplers ask of a likelihood.

    Decoder outputs are [..., D * outputs_per_value]; values are [..., D] float32 on the model's scale.
    """

    name: str
    outputs_per_value: int

    def distribution(self, outputs: tf.Tensor) -> tfd.Distribution:
        """p(x | z), event shape [D]."""

    def log_prob(self, outputs: tf.Tensor, x: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        """log p of the chosen entries of x: [...], in nats. `chosen` is bool, [..., D]."""

    def sample(self, outputs: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Draws x by inversion from uniform numbers in (0, 1): [..., D]."""

    def moments(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and variance of each value given z: two tensors [..., D]."""

    def from_bytes(self, image: np.ndarray, uniform: np.ndarray | None) -> np.ndarray:
        """uint8 values on the user's scale -> float32 on the model's; see `data.binarize`."""

    def to_bytes(self, x: tf.Tensor) -> tf.Tensor:
        """Draws on the model's scale -> uint8 on the user's."""


class Bernoulli:
    """Binary values: p(x_d = 1 | z) = sigmoid(output_d)."""

    name = "bernoulli"
    outputs_per_value = 1

    def distribution(self, outputs):
        return tfd.Independent(tfd.Bernoulli(logits=outputs), reinterpreted_batch_ndims=1)

    def log_prob(self, outputs, x, chosen):
        each = -tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=outputs)
        return tf.reduce_sum(tf.where(chosen, each, 0.0), axis=-1)

    def sample(self, outputs, uniform):
        return tf.cast(uniform < tf.sigmoid(outputs), tf.float32)

    def moments(self, outputs):
        probability = tf.sigmoid(outputs)
        return probability, probability * (1.0 - probability)

    def from_bytes(self, image, uniform=None):
        """Binarises at 1/2, or where `uniform` [..., D] is given at random: P(1) = value / 255."""
        scaled = image.astype(np.float32) / 255.0
        return (scaled > (0.5 if uniform is None else uniform)).astype(np.float32)

    def to_bytes(self, x):
        return tf.cast(x, tf.uint8) * tf.constant(255, tf.uint8)


LIKELIHOODS = {"bernoulli": Bernoulli}
