"""What training maximises: bounds of batches of records, and the networks that learn by them."""

import dataclasses
import functools
from typing import Protocol

import keras
import tensorflow as tf

from vaefill.model import objectives
from vaefill.model.vae import VAE, keras_networks


class Goal(Protocol):
    """What `Trainer` maximises.

    Attributes:
        vae: the model, or the one of its encoders that is trained with it.
        networks: those of it that learn.
    """

    vae: VAE
    networks: tuple[keras.layers.Layer, ...]

    def bound(
        self, x: tf.Tensor, observed: tf.Tensor | None, seed: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """The bound of each record: [N], nats.

        Args:
            x: [N, D] on the model's scale; what stands where values are missing is ignored.
            observed: [N, D] bool; None if no record lacks a value.
            seed: [2] integers, of all noise.
            training: whether networks are in training mode, in which batch normalisation uses the
                batch's own moments, and dropout drops.
        """


def _in_training(vae: VAE) -> VAE:
    """The VAE with its networks in training mode."""
    encoder, decoder, *_ = keras_networks(vae)
    return dataclasses.replace(
        vae,
        encoder=functools.partial(encoder, training=True),
        decoder=functools.partial(decoder, training=True),
    )


class Evidence:
    """The bound on log p(x), or of records that lack values on log p(x_obs), by k draws.

    Args:
        vae: the model that learns, with an encoder for such records: see `objectives`.
        num_importance_samples: k; 1 is the ELBO.
    """

    def __init__(self, vae: VAE, num_importance_samples: int):
        self.networks = keras_networks(vae)
        self.vae, self._in_training = vae, _in_training(vae)
        self._num_importance_samples = num_importance_samples

    def bound(
        self, x: tf.Tensor, observed: tf.Tensor | None, seed: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        vae = self._in_training if training else self.vae
        return objectives.bound(vae, x, self._num_importance_samples, seed, observed)


class CompleteEncoder:
    """The ELBO of completed records, for the encoder alone: q(z | x) of complete x learns to follow
    a decoder that was trained on incomplete ones.

    What samplers ask of a model is an encoder of complete records, as they have filled in what is
    missing whenever they encode; that of `Evidence` has seen zeros there. (That the encoder is to
    be fitted again before such a model is scored: Simkus & Gutmann 2024, arXiv:2403.03069.)

    A record is completed anew each time: z by importance resampling from the encoder of incomplete
    records (Mattei & Frellsen 2019, sec. 3.2), x_mis ~ p(x_mis | z).

    Args:
        vae: the model, with the encoder that learns, and a decoder that does not.
        of_gaps: the same model with its encoder of incomplete records.
        num_draws: of z, of which one is chosen by its weight.
    """

    def __init__(self, vae: VAE, of_gaps: VAE, num_draws: int = 10):
        encoder, *_ = keras_networks(vae)
        self.networks = (encoder,)
        self.vae, self._of_gaps, self._num_draws = vae, of_gaps, num_draws
        self._in_training = dataclasses.replace(
            vae, encoder=functools.partial(encoder, training=True)
        )

    def bound(
        self, x: tf.Tensor, observed: tf.Tensor | None, seed: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        vae = self._in_training if training else self.vae
        of_noise, of_gaps = tf.unstack(tf.random.split(seed))
        completed = x if observed is None else self._complete(x, observed, of_gaps)
        return objectives.bound(vae, completed, 1, of_noise)

    def _complete(self, x: tf.Tensor, observed: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        of_z, of_values = tf.unstack(tf.random.split(seed))
        z = objectives.resampled(self._of_gaps, x, self._num_draws, of_z, observed)
        uniform = tf.random.stateless_uniform(tf.shape(x), of_values)
        return tf.where(observed, x, self.vae.likelihood.sample(self.vae.decoder(z), uniform))
