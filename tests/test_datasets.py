"""Reading images through tfds, and batches as a function of (seed, step)."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from vaefill.model import datasets, digits
from vaefill.model.errors import DatasetError


def test_bundled_digits_by_name_and_by_directory():
    by_name = datasets.load_images("digits", "test[:30]", (28, 28, 1))
    by_path = datasets.load_images(f"tfds:{digits.directory()}", "test[:30]", (28, 28, 1))
    assert by_name.shape == (30, 784) and by_name.dtype == np.uint8
    np.testing.assert_array_equal(by_name, by_path)


@pytest.mark.parametrize(
    ("name", "split", "shape", "message"),
    [
        ("mnist", "test", (28, 28, 1), "expected digits, tfds:NAME or tfds:PATH"),
        ("tfds:no_such_data_set", "test", (28, 28, 1), "neither a tfds data set nor a directory"),
        ("digits", "tset", (28, 28, 1), "has no split 'tset'; it has test, train, validation"),
        ("digits", "test[5:5]", (28, 28, 1), "is empty"),
        (
            "digits",
            "test",
            (28, 28, 3),
            r"images of shape \(28, 28, 1\), record.shape is \(28, 28, 3\)",
        ),
    ],
)
def test_what_is_not_there_is_a_clear_error(name, split, shape, message):
    with pytest.raises(DatasetError, match=message):
        datasets.load_images(name, split, shape)


@pytest.fixture
def real(tmp_path):
    """float32 images, and beside them a split in which one value is not a number."""
    images = np.random.default_rng(0).normal(size=(6, 2, 3, 1)).astype(np.float32)
    broken = np.where(np.arange(36).reshape(images.shape) == 7, np.nan, images)
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Tensor(shape=(2, 3, 1), dtype=np.float32)}
    )
    splits = {
        name: tf.data.Dataset.from_tensor_slices({"image": values.astype(np.float32)})
        for name, values in (("train", images), ("broken", broken))
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        "real", version="1.0.0", split_datasets=splits, features=features, data_dir=tmp_path
    )
    (directory,) = (str(path.parent) for path in tmp_path.rglob("dataset_info.json"))
    return f"tfds:{directory}", images


def test_real_values(real):
    name, images = real
    loaded = datasets.load_images(name, "train", (2, 3, 1), "float32")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(np.sort(loaded, axis=0), np.sort(images.reshape(6, 6), axis=0))
    with pytest.raises(DatasetError, match="split 'broken' .* values that are not finite"):
        datasets.load_images(name, "broken", (2, 3, 1), "float32")
    with pytest.raises(
        DatasetError, match=r"no uint8 feature `image`; it has image \(float32 \[2,"
    ):
        datasets.load_images(name, "train", (2, 3, 1))
    with pytest.raises(DatasetError, match="has no float32 feature `image`; it has .*label .int64"):
        datasets.load_images("digits", "train", (28, 28, 1), "float32")


def batches(seed=1, first=0, last=6):
    images = np.arange(10, dtype=np.uint8)[:, None]
    return [
        batch.numpy().ravel()
        for _, batch in datasets.training_batches(images, 5, seed, first, last)
    ]


def test_every_epoch_is_a_permutation_of_its_own():
    epochs = np.concatenate(batches()).reshape(3, 10)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (3, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_training_can_start_at_any_step():
    np.testing.assert_array_equal(batches()[3:], batches(first=3))
    assert not np.array_equal(batches(), batches(seed=2))
