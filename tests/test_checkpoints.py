"""The model directory: what is saved comes back, what does not fit is refused."""

import dataclasses
import json
import os
import pickle
import shutil

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from vaefill.model import checkpoints, vae
from vaefill.model.config import ModelConfig
from vaefill.model.errors import ModelError
from vaefill.model.gaps import Split
from vaefill.model.standardization import Standardization

CONFIG = ModelConfig(latent_size=2, hidden=(6, 5))


@pytest.fixture
def directory(tmp_path):
    path = str(tmp_path / "model")
    checkpoints.save(path, vae.build(CONFIG, (3, 2, 1), seed=4), CONFIG, {"test_log_prob": -1.5})
    return path


def test_a_saved_model_comes_back(directory):
    loaded = checkpoints.load(directory)
    original = vae.build(CONFIG, (3, 2, 1), seed=4)
    x, z = tf.ones([2, 6]), tf.ones([2, 2])
    np.testing.assert_array_equal(loaded.vae.encoder(x), original.encoder(x))
    np.testing.assert_array_equal(loaded.vae.decoder(z), original.decoder(z))
    assert loaded.description.model == CONFIG
    assert loaded.description.training == {"test_log_prob": -1.5}
    assert loaded.vae.data_shape == (3, 2, 1)


def test_the_fingerprint_is_of_both_files(directory, tmp_path):
    same, weights, text = (str(tmp_path / name) for name in ("same", "weights", "text"))
    checkpoints.save(same, vae.build(CONFIG, (3, 2, 1), seed=4), CONFIG, {"test_log_prob": -1.5})
    checkpoints.save(weights, vae.build(CONFIG, (3, 2, 1), seed=5), CONFIG, {"test_log_prob": -1.5})
    checkpoints.save(text, vae.build(CONFIG, (3, 2, 1), seed=4), CONFIG, {"test_log_prob": -1.6})
    assert checkpoints.fingerprint(same) == checkpoints.fingerprint(directory)
    assert len({checkpoints.fingerprint(path) for path in (directory, weights, text)}) == 3


CALIBRATION = np.arange(24, dtype=np.uint8).reshape(4, 3, 2, 1)
GAPS = np.arange(24).reshape(4, 3, 2, 1) % 5 > 0


def split(images: np.ndarray, observed: np.ndarray | None = None) -> Split:
    return Split(images.reshape(4, 6), None if observed is None else observed.reshape(4, 6))


def test_a_calibration_comes_back_and_is_part_of_the_fingerprint(directory):
    without, model = checkpoints.fingerprint(directory), vae.build(CONFIG, (3, 2, 1), seed=4)
    assert checkpoints.load(directory).calibration is None
    found = [
        checkpoints.save(directory, model, CONFIG, {"test_log_prob": -1.5}, r)
        for r in (split(CALIBRATION), split(CALIBRATION, GAPS), split(CALIBRATION + 1))
    ]
    loaded = checkpoints.load(directory)
    assert_same(loaded.calibration, split(CALIBRATION + 1))
    assert loaded.fingerprint == found[2] and len({without, *found}) == 4
    assert checkpoints.save(directory, model, CONFIG, {"test_log_prob": -1.5}) == without


def assert_same(found: Split, expected: Split) -> None:
    np.testing.assert_array_equal(found.values, expected.values, strict=True)
    if expected.observed is None:
        assert found.observed is None
    else:
        np.testing.assert_array_equal(found.observed, expected.observed, strict=True)


def test_a_calibration_may_have_gaps(directory):
    checkpoints.save(directory, vae.build(CONFIG, (3, 2, 1)), CONFIG, {}, split(CALIBRATION, GAPS))
    assert_same(checkpoints.load(directory).calibration, split(CALIBRATION, GAPS))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"images": CALIBRATION.astype(np.float32)},
            r"must hold a tensor 'images' U8 \[M, 3, 2, 1\].*'F32'",
        ),
        (
            {"images": CALIBRATION.reshape(4, 2, 3, 1)},
            r"got \{'images': \('U8', \[4, 2, 3, 1\]\)\}",
        ),
        ({"images": CALIBRATION[:0]}, "M at least 1"),
        ({"images": CALIBRATION, "more": CALIBRATION}, "must hold a tensor"),
        ({"images": CALIBRATION, "observed": CALIBRATION}, "'observed' BOOL of the same shape"),
        ({"images": CALIBRATION, "observed": GAPS[:3]}, "'observed' BOOL of the same shape"),
        ({"observed": GAPS}, "must hold a tensor"),
        ({}, "must hold a tensor"),
        (b"no header", "is not a safetensors file"),
    ],
    ids=["type", "shape", "empty", "two", "mask_type", "mask_shape", "mask", "none", "broken"],
)
def test_what_is_not_a_calibration_is_refused(directory, tensors, message):
    with open(os.path.join(directory, "calibration.safetensors"), "wb") as file:
        file.write(tensors if isinstance(tensors, bytes) else safetensors.numpy.save(tensors))
    with pytest.raises(ModelError, match=message):
        checkpoints.load(directory)


def test_a_calibration_of_real_values_is_finite(tmp_path):
    config, path = CONFIG.model_copy(update={"likelihood": "gaussian"}), str(tmp_path)
    real = split(CALIBRATION.astype(np.float32))
    checkpoints.save(path, vae.build(config, (3, 2, 1)), config, {}, real)
    assert_same(checkpoints.load(path).calibration, real)
    nan = split(np.full(CALIBRATION.shape, np.nan, np.float32))
    checkpoints.save(path, vae.build(config, (3, 2, 1)), config, {}, nan)
    with pytest.raises(ModelError, match="values that are not finite"):
        checkpoints.load(path)


def test_version_1_is_read(directory):
    """It had another name for the calibration set, and the fingerprint was over the same files."""
    model = vae.build(CONFIG, (3, 2, 1), seed=4)
    checkpoints.save(directory, model, CONFIG, {}, split(CALIBRATION))
    edit(directory, format_version=1, training={"num_reference": 4, "seed": 3})
    known = checkpoints.fingerprint(directory)
    former = os.path.join(directory, "reference.safetensors")
    os.rename(os.path.join(directory, "calibration.safetensors"), former)
    loaded = checkpoints.load(directory)
    z = tf.ones([2, 2])
    np.testing.assert_array_equal(loaded.vae.decoder(z), model.decoder(z))
    assert_same(loaded.calibration, split(CALIBRATION))
    assert loaded.description.training == {"num_calibration": 4, "seed": 3}
    assert loaded.fingerprint == known
    checkpoints.save(directory, model, CONFIG, {})
    assert checkpoints.load(directory).calibration is None and not os.path.exists(former)


REAL = CONFIG.model_copy(update={"likelihood": "gaussian"})
STANDARDIZATION = Standardization(np.arange(6.0) * 1e38, np.logspace(-45, 38, 6))


def test_location_and_scale_come_back(tmp_path):
    path = str(tmp_path)
    checkpoints.save(path, vae.build(REAL, (3, 2, 1), 0, STANDARDIZATION), REAL, {})
    found = checkpoints.load(path).vae.likelihood.standardization
    np.testing.assert_array_equal(found.location, STANDARDIZATION.location, strict=True)
    np.testing.assert_array_equal(found.scale, STANDARDIZATION.scale, strict=True)
    assert checkpoints.describe(path).format_version == 3


def test_a_model_of_real_values_without_them_sees_values_as_they_are(tmp_path):
    path, values = str(tmp_path), np.float32([[300, -1e-9, 0, 1, 2, 3]])
    checkpoints.save(path, vae.build(REAL, (3, 2, 1)), REAL, {})
    assert checkpoints.describe(path).format_version == 2
    likelihood = checkpoints.load(path).vae.likelihood
    np.testing.assert_array_equal(likelihood.from_data(values), values, strict=True)
    np.testing.assert_array_equal(likelihood.to_data(tf.constant(values)), values, strict=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": np.zeros((3, 2, 1))}, "not finite and positive"),
        ({"location": np.full((3, 2, 1), np.nan)}, "a location is not finite"),
        ({"scale": np.ones((2, 3, 1))}, r"standardization/scale has shape \[2, 3, 1\]"),
        ({"scale": np.ones((3, 2, 1), np.float32)}, "must be F64"),
        ({"scale": None}, "standardization/scale has shape None"),
    ],
    ids=["zero", "nan", "shape", "type", "none"],
)
def test_what_is_no_location_and_scale_is_refused(tmp_path, changes, message):
    checkpoints.save(str(tmp_path), vae.build(REAL, (3, 2, 1), 0, STANDARDIZATION), REAL, {})
    path = tmp_path / "weights.safetensors"
    weights = safetensors.numpy.load_file(path)
    weights |= {f"standardization/{name}": value for name, value in changes.items()}
    kept = {name: value for name, value in weights.items() if value is not None}
    safetensors.numpy.save_file(kept, path)
    with pytest.raises(ModelError, match=message):
        checkpoints.load(str(tmp_path))


def test_bytes_are_not_standardised(tmp_path):
    path = str(tmp_path)
    checkpoints.save(path, vae.build(CONFIG, (3, 2, 1), 0, STANDARDIZATION), CONFIG, {})
    with pytest.raises(ModelError, match="bernoulli has values that are not standardised"):
        checkpoints.load(path)


class TwoOfOneName(keras.layers.Layer):
    """A layer of two, whose weights Keras gives the same paths."""

    def __init__(self):
        super().__init__()
        self._first = keras.layers.Dense(6, name="dense")
        self._second = keras.layers.Dense(6, name="dense")

    def call(self, values):
        return self._second(self._first(values))


def test_weights_of_one_name_are_not_saved(tmp_path):
    decoder = keras.Sequential([keras.Input((2,)), TwoOfOneName()], name="decoder")
    model = dataclasses.replace(vae.build(CONFIG, (3, 2, 1)), decoder=decoder)
    with pytest.raises(ValueError, match="two weights have the name decoder/.*dense/kernel"):
        checkpoints.save(str(tmp_path), model, CONFIG, {})


def edit(directory: str, **changes) -> None:
    path = os.path.join(directory, "vae.json")
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**content, **changes}, file)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (shutil.rmtree, "is not a model directory"),
        (lambda d: os.remove(os.path.join(d, "weights.safetensors")), "is not a model directory"),
        (lambda d: open(os.path.join(d, "vae.json"), "w").close(), "vae.json"),
        (lambda d: edit(d, surprise=1), "surprise"),
        (lambda d: edit(d, format_version=99), "format version 99"),
        (lambda d: edit(d, data_shape=[3, 3, 1]), "has shape"),
        (lambda d: edit(d, model={**CONFIG.model_dump(), "hidden": [6, 5, 5]}), "has shape"),
        (
            lambda d: open(os.path.join(d, "weights.safetensors"), "wb").close(),
            "not a safetensors file",
        ),
        (
            lambda d: safetensors.numpy.save_file({}, os.path.join(d, "weights.safetensors")),
            "has shape None",
        ),
    ],
)
def test_what_is_not_a_model_is_refused(directory, break_it, message):
    break_it(directory)
    with pytest.raises(ModelError, match=message):
        checkpoints.load(directory)


class Planted:
    """What runs a command as soon as it is unpickled."""

    def __init__(self, marker: str):
        self._marker = marker

    def __reduce__(self):
        return os.mkdir, (self._marker,)


LAMBDA = {
    "class_name": "Lambda",
    "config": {"function": {"class_name": "__lambda__", "config": {"code": "4wAAAA=="}}},
}


@pytest.mark.parametrize("name", ["weights.safetensors", "calibration.safetensors", "vae.json"])
def test_a_planted_pickle_is_refused_and_never_run(directory, tmp_path, name):
    marker = str(tmp_path / "it ran")
    with open(os.path.join(directory, name), "wb") as file:
        pickle.dump(Planted(marker), file)
    with pytest.raises(ModelError, match=name):
        checkpoints.load(directory)
    assert not os.path.exists(marker)
    with open(os.path.join(directory, name), "rb") as file:
        pickle.load(file)  # the plant does work
    assert os.path.exists(marker)


@pytest.mark.parametrize(
    "model", [LAMBDA, {**CONFIG.model_dump(), "layers": [LAMBDA]}], ids=["alone", "added"]
)
def test_a_planted_lambda_layer_is_refused(directory, model):
    edit(directory, model=model)
    with pytest.raises(ModelError, match="vae.json.*Extra inputs"):
        checkpoints.load(directory)
