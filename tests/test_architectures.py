"""A network of another kind: one entry makes it an architecture, from training to imputing."""

import math
import os
import typing
from typing import Literal

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from vaefill.model import checkpoints, heldout, networks, samplers, training
from vaefill.model.config import DataConfig, ModelConfig, RecordConfig, Settings, TrainConfig
from vaefill.model.gaps import Split
from vaefill.model.goals import Evidence
from vaefill.model.imputer import Imputer
from vaefill.model.trainer import Trainer

pytestmark = pytest.mark.slow

SHAPE = (6, 5, 2)


def convolutional(config, data_shape, num_outputs, seed):
    """A small convolutional pair with batch normalisation."""
    layers, (height, width, channels) = keras.layers, data_shape
    num_values = math.prod(data_shape)
    per_value = num_outputs // num_values
    keras.utils.set_random_seed(seed)
    encoder = [
        keras.Input((num_values,)),
        layers.Reshape(data_shape),
        layers.Conv2D(4, 3, padding="same", name="convolution"),
        layers.BatchNormalization(name="norm", momentum=0.5),
        layers.Activation(config.activation),
        layers.Flatten(),
        layers.Dense(2 * config.latent_size, name="outputs"),
    ]
    decoder = [
        keras.Input((config.latent_size,)),
        layers.Dense(height * width * 4, name="hidden"),
        layers.BatchNormalization(name="norm", momentum=0.5),
        layers.Activation(config.activation),
        layers.Reshape((height, width, 4)),
        layers.Conv2D(per_value * channels, 3, padding="same", name="convolution"),
        layers.Reshape((height * width, per_value, channels)),
        layers.Permute((2, 1, 3)),  # parameter by parameter
        layers.Flatten(),
    ]
    return keras.Sequential(encoder, name="encoder"), keras.Sequential(decoder, name="decoder")


class ConvolutionalConfig(ModelConfig):
    """The name that the section of the configuration would have to know."""

    architecture: Literal["convolutional"] = "convolutional"


class Description(checkpoints.Description):
    """Likewise of `vae.json`."""

    model: ConvolutionalConfig


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(networks.ARCHITECTURES, "convolutional", convolutional)
    monkeypatch.setattr(checkpoints, "Description", Description)


def test_every_architecture_can_be_asked_for():
    names = typing.get_args(ModelConfig.model_fields["architecture"].annotation)
    assert {*names, "convolutional"} == set(networks.ARCHITECTURES)


def make_settings(likelihood: str, **train) -> Settings:
    train = {"epochs": 3.0, "batch_size": 32, "warmup_steps": 0, "learning_rate": 0.01} | train
    kind = {} if likelihood == "bernoulli" else {"dtype": "float32", "binarize": "none"}
    return Settings(
        DataConfig(),
        RecordConfig(shape=SHAPE, **kind),
        ConvolutionalConfig(latent_size=2, likelihood=likelihood),
        TrainConfig(**train),
        seed=1,
    )


def make_images(num: int, dtype=np.uint8) -> np.ndarray:
    """Bright ones and dark ones: [num, D], levels of bytes; those of real numbers in units of
    255.
    """
    rng = np.random.default_rng(0)
    level = np.where(rng.random((num, 1)) < 0.5, 60, 180)
    levels = rng.normal(level, 40, (num, math.prod(SHAPE))).clip(0, 255).astype(np.uint8)
    return levels if dtype == np.uint8 else levels.astype(dtype) / 255


def train(directory: str, settings: Settings) -> Trainer:
    images = make_images(160, np.dtype(settings.record.dtype))
    data = Split(images)
    goal = Evidence(training.untrained(settings, data[:128]), num_importance_samples=1)
    trainer = Trainer(goal, settings, data[:128], directory)
    trainer.run(data[128:], show_progress=False)
    return trainer


def impute(vae, name: str, chosen=slice(None)):
    own = {"num_leapfrog_steps": 2, "num_scouts": 0} if name == "latent_hmc" else {}
    config = samplers.sampler_config(
        name,
        num_chains=2,
        num_start=1,
        num_warmup=6,
        max_sweeps=20,
        num_imputations=2,
        num_evidence_draws=0,
        slots=32,
        **own,
    )
    images = make_images(6, vae.likelihood.dtype).reshape(6, *SHAPE)
    observed = np.random.default_rng(1).random(images.shape) < 0.5
    ids = [b"%d" % i for i in range(6)]
    return Imputer(vae, config)(images[chosen], observed[chosen], ids[chosen])


def assert_same_bits(first, second):
    for name, ours, expected in zip(first._fields, first, second):
        assert ours.dtype == expected.dtype and ours.tobytes() == expected.tobytes(), name


@pytest.mark.parametrize(
    ("likelihood", "sampler"),
    [("bernoulli", "latent_hmc"), ("gaussian", "pseudo_gibbs")],
)
def test_a_convolutional_model_is_trained_saved_loaded_and_imputes(tmp_path, likelihood, sampler):
    settings = make_settings(likelihood)
    trainer = train(str(tmp_path / "training"), settings)
    for network in (trainer.vae.encoder, trainer.vae.decoder):
        assert np.abs(network.get_layer("norm").moving_mean).max() > 0.01  # it was in training mode
    directory = str(tmp_path / "model")
    checkpoints.save(directory, trainer.vae, settings.model, {})
    saved = safetensors.numpy.load_file(os.path.join(directory, "weights.safetensors"))
    assert sum("moving_" in name for name in saved) == 4
    loaded = checkpoints.load(directory).vae
    ours = impute(loaded, sampler)
    assert_same_bits(ours, impute(trainer.vae, sampler))
    assert_same_bits(impute(loaded, sampler, slice(3, 4)), type(ours)(*(f[3:4] for f in ours)))
    x = tf.constant(make_images(5) / np.float32(255))
    np.testing.assert_array_equal(loaded.encoder(x), trainer.vae.encoder(x, training=False))
    assert np.isfinite(ours.mean).all() and (ours.stddev > 0).any()


def test_the_best_weights_are_all_weights(tmp_path):
    """Training that has worsened ends with the model of its best validation, averages included."""
    settings = make_settings("bernoulli", learning_rate=1.0, epochs=50.0, patience=2)
    trainer = train(str(tmp_path), settings)
    assert trainer.num_steps < 200  # the last model was not the best one
    found = heldout.mean_bound(trainer.vae, Split(make_images(160)[128:]), settings, k=1)
    assert found == trainer.validation_bound


class Killed(Exception):
    """Stands for a SIGKILL."""


def test_killed_and_started_again_it_ends_with_the_same_weights(tmp_path, monkeypatch):
    settings, validate = make_settings("bernoulli"), Trainer._validate
    whole = train(str(tmp_path / "whole"), settings)
    calls = []

    def kill(self, *args):
        if calls:
            raise Killed
        calls.append(validate(self, *args))

    monkeypatch.setattr(Trainer, "_validate", kill)
    with pytest.raises(Killed):
        train(str(tmp_path / "parts"), settings)
    monkeypatch.setattr(Trainer, "_validate", validate)
    parts = train(str(tmp_path / "parts"), settings)
    for network in ("encoder", "decoder"):
        expected = getattr(whole.vae, network).weights
        for ours, other in zip(getattr(parts.vae, network).weights, expected):
            np.testing.assert_array_equal(ours, other)
