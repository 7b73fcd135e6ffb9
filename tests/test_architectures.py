"""A network of another kind: one entry makes it an architecture, from training to imputing."""

import math
import os

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from vaefill.model import checkpoints, heldout, networks, samplers, training
from vaefill.model.config import DataConfig, ModelConfig, RecordConfig, Settings, TrainConfig
from vaefill.model.errors import ModelError
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


@pytest.fixture(autouse=True)
def registered(tmp_path, monkeypatch):
    """An installed package that brings the architecture."""
    package = tmp_path / "convolutional-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: convolutional\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[vaefill.architectures]\n"
        f"convolutional = {__name__}:convolutional\nbroken = {__name__}:nothing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_an_architecture_that_nobody_brings_is_refused():
    with pytest.raises(ValueError, match="must be one of mlp, conv_resnet, .*convolutional"):
        ModelConfig(architecture="transformer")
    with pytest.raises(ModelError, match="architecture broken: .*:nothing is not there"):
        networks.architecture("broken")


@pytest.mark.parametrize("shape", [(28, 28, 1), (7, 5, 3), (1, 24, 2), (1, 1, 1)])
def test_convolutions_of_any_size(shape):
    """Outputs lie parameter by parameter, each like the values; every name of a weight is one, and
    the same seed gives the same weights.
    """
    config = ModelConfig(architecture="conv_resnet", latent_size=3, hidden=(4, 6, 8))
    num_values = math.prod(shape)
    first, second = (networks.conv_resnet(config, shape, 3 * num_values, seed=5) for _ in range(2))
    encoder, decoder = first
    assert encoder(tf.ones([2, num_values])).shape == (2, 6)
    assert decoder(tf.ones([2, 3])).shape == (2, 3 * num_values)
    for network, same in zip(first, second):
        paths = [weight.path for weight in network.weights]
        assert len(set(paths)) == len(paths) == len({path.split("/")[0] for path in paths}) * 2
        for weight, other in zip(network.weights, same.weights):
            assert weight.path == other.path
            np.testing.assert_array_equal(weight, other)


def test_outputs_of_convolutions_are_where_their_values_are():
    """The last convolution makes four pixels of each place, by rows; of each its channel p C + c is
    parameter p of channel c.
    """
    config = ModelConfig(architecture="conv_resnet", latent_size=3, hidden=(4,))
    _, decoder = networks.conv_resnet(config, SHAPE, 2 * math.prod(SHAPE), seed=5)
    last = next(layer for layer in reversed(decoder.layers) if layer.weights)
    of_pixels = np.add.outer([0.0, 100, 200, 300], [10, 20, 30, 40])
    last.set_weights([np.zeros_like(last.kernel), of_pixels.ravel()])
    outputs = decoder(tf.ones([1, 3])).numpy().reshape(2, *SHAPE)
    np.testing.assert_array_equal(outputs[0, 0, 0], [10, 20])
    np.testing.assert_array_equal(outputs[1, 3, 2], [230, 240])
    np.testing.assert_array_equal(outputs[1, 5, 3], [330, 340])


def make_settings(likelihood: str, architecture: str = "convolutional", **train) -> Settings:
    train = {"epochs": 3.0, "batch_size": 32, "warmup_steps": 0, "learning_rate": 0.01} | train
    kind = {} if likelihood == "bernoulli" else {"dtype": "float32", "binarize": "none"}
    return Settings(
        DataConfig(),
        RecordConfig(shape=SHAPE, **kind),
        ModelConfig(architecture=architecture, latent_size=2, likelihood=likelihood, hidden=(4,)),
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
    ("architecture", "likelihood", "sampler"),
    [("convolutional", "bernoulli", "latent_hmc"), ("conv_resnet", "gaussian", "pseudo_gibbs")],
)
def test_a_convolutional_model_is_trained_saved_loaded_and_imputes(
    tmp_path, architecture, likelihood, sampler
):
    settings = make_settings(likelihood, architecture)
    trainer = train(str(tmp_path / "training"), settings)
    has_norm = architecture == "convolutional"
    for network in (trainer.vae.encoder, trainer.vae.decoder) if has_norm else ():
        assert np.abs(network.get_layer("norm").moving_mean).max() > 0.01  # it was in training mode
    directory = str(tmp_path / "model")
    checkpoints.save(directory, trainer.vae, settings.model, {})
    saved = safetensors.numpy.load_file(os.path.join(directory, "weights.safetensors"))
    assert sum("moving_" in name for name in saved) == 4 * has_norm
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
