"""Reading images through tfds, and batches as a function of (seed, step)."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from vaefill.model import datasets, digits
from vaefill.model.config import RecordConfig
from vaefill.model.errors import DatasetError
from vaefill.model.gaps import Split


def test_bundled_digits_by_name_and_by_directory():
    by_name = datasets.load_images("digits", "test[:30]", (28, 28, 1))
    by_path = datasets.load_images(f"tfds:{digits.directory()}", "test[:30]", (28, 28, 1))
    assert by_name.shape == (30, 784) and by_name.dtype == np.uint8
    np.testing.assert_array_equal(by_name, by_path)


def test_records_that_another_data_set_has_are_left_out_by_their_values():
    theirs = datasets.load_images("digits", "validation[:3]", (28, 28, 1))
    ours = np.concatenate([theirs[:1], 255 - theirs, theirs[2:]])
    left = datasets.excluding(Split(ours), "digits", RecordConfig())
    np.testing.assert_array_equal(left.values, 255 - theirs)
    assert len(datasets.excluding(Split(theirs), "digits", RecordConfig())) == 0


@pytest.mark.parametrize(
    ("name", "split", "shape", "message"),
    [
        ("mnist", "test", (28, 28, 1), "expected digits, tfds:NAME or tfds:PATH"),
        ("tfds:no_such_data_set", "test", (28, 28, 1), "neither a tfds data set nor a directory"),
        (
            "digits",
            "tset",
            (28, 28, 1),
            r"has no split 'tset'; it has test \(1,000 records\), train \(8,000 records\), validat",
        ),
        ("digits", "test[:1001]", (28, 28, 1), r"split 'test\[:1001\]'; it has test \(1,000 rec"),
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


def test_nan_is_missing_unless_it_is_a_fault(real):
    name, images = real
    record = RecordConfig(shape=(2, 3, 1), dtype="float32", binarize="none")
    assert datasets.load_split(name, "train", record).observed is None
    broken = datasets.load_split(name, "broken", record)
    assert (~broken.observed).sum() == 1 and (broken.values[~broken.observed] == 0).all()
    number = float(images[0, 0, 0, 0])
    found = datasets.load_split(name, "train", record.model_copy(update={"missing": number}))
    assert (~found.observed).sum() == 1
    with pytest.raises(DatasetError, match="lacks values|values that are not finite"):
        datasets.load_images(name, "broken", (2, 3, 1), "float32")


@pytest.mark.parametrize("mask_means", ["observed", "missing"])
def test_a_feature_observed_says_what_is_missing(tmp_path, mask_means):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 2, 3, 2), dtype=np.uint8)
    masks = rng.integers(0, 2, images.shape, dtype=np.uint8)
    feature = tfds.features.Tensor(shape=(2, 3, 2), dtype=np.uint8)
    tfds.dataset_builders.store_as_tfds_dataset(
        "gaps",
        version="1.0.0",
        split_datasets={
            "train": tf.data.Dataset.from_tensor_slices({"image": images, "observed": masks})
        },
        features=tfds.features.FeaturesDict({"image": feature, "observed": feature}),
        data_dir=tmp_path,
    )
    record = RecordConfig(shape=(2, 3, 2), mask_means=mask_means)
    found = datasets.load_split(f"tfds:{tmp_path}/gaps/1.0.0", "train", record)
    observed = masks if mask_means == "observed" else 1 - masks
    rows = np.concatenate([found.values, found.observed], axis=1)
    expected = np.concatenate([(images * observed).reshape(9, -1), observed.reshape(9, -1)], axis=1)
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(expected, axis=0))
    with pytest.raises(DatasetError, match="lacks values: complete ones only"):
        datasets.load_images(f"tfds:{tmp_path}/gaps/1.0.0", "train", (2, 3, 2))


@pytest.fixture(scope="module")
def array_record(tmp_path_factory):
    """Images in ArrayRecord files: the directory, and the images in their order there."""
    root = tmp_path_factory.mktemp("array_record")
    images = np.random.default_rng(0).integers(0, 256, (9, 2, 3, 1), dtype=np.uint8)
    tfds.dataset_builders.store_as_tfds_dataset(
        "arr",
        version="1.0.0",
        split_datasets={"train": tf.data.Dataset.from_tensor_slices({"image": images})},
        features=tfds.features.FeaturesDict(
            {"image": tfds.features.Tensor(shape=(2, 3, 1), dtype=np.uint8)}
        ),
        data_dir=root,
        file_format="array_record",
    )
    return f"{root}/arr/1.0.0", images


def test_array_record_files_are_read(array_record):
    directory, images = array_record
    name = f"tfds:{directory}"
    loaded = datasets.load_images(name, "train", (2, 3, 1))
    assert loaded.shape == (9, 6) and loaded.dtype == np.uint8
    np.testing.assert_array_equal(np.sort(loaded, axis=0), np.sort(images.reshape(9, 6), axis=0))
    some = list(datasets.examples(name, "train[2:5]"))
    file = "arr-train.array_record-00000-of-00001"
    assert [record_id for record_id, _ in some] == [f"{file}__{i}".encode() for i in (2, 3, 4)]
    np.testing.assert_array_equal([e["image"].ravel() for _, e in some], loaded[2:5])


def test_array_record_without_its_package_is_one_line(array_record, monkeypatch):
    def missing(self, split):
        raise ImportError("no array_record")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", missing)
    for read in (
        lambda name: datasets.load_images(name, "train", (2, 3, 1)),
        lambda name: next(datasets.examples(name, "train")),
    ):
        with pytest.raises(DatasetError, match=r"^data set .* 'vaefill\[arrayrecord\]'$"):
            read(f"tfds:{array_record[0]}")


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("dataset_info.json", "{", '{"fieldOfTheFuture": "1",'),
        ("dataset_info.json", "{", ""),
        ("features.json", "{", '{"fieldOfTheFuture": "1",'),
    ],
)
def test_a_data_set_that_tfds_does_not_know_is_one_line(array_record, tmp_path, name, old, new):
    directory = tmp_path / "arr/1.0.0"
    shutil.copytree(array_record[0], directory)
    path = directory / name
    path.write_text(path.read_text().replace(old, new, 1))
    message = (
        rf"^data set 'tfds:{directory}' cannot be read by tensorflow-datasets {tfds.__version__}"
    )
    with pytest.raises(DatasetError, match=message) as error:
        datasets.builder(f"tfds:{directory}")
    assert len(str(error.value).splitlines()) == 1


def batches(seed=1, first=0, last=6):
    images = np.arange(10, dtype=np.uint8)[:, None]
    return [
        batch.numpy().ravel()
        for _, batch in datasets.training_batches(Split(images), 5, seed, first, last)
    ]


def test_every_epoch_is_a_permutation_of_its_own():
    epochs = np.concatenate(batches()).reshape(3, 10)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (3, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_training_can_start_at_any_step():
    np.testing.assert_array_equal(batches()[3:], batches(first=3))
    assert not np.array_equal(batches(), batches(seed=2))


@pytest.mark.parametrize(
    ("split", "other", "common"),
    [
        ("train", "test", False),
        ("train[:100]", "train[100:]", False),
        ("train[:101]", "train[100:]", True),
        ("train", "train[:1]", True),
        ("train[:1%]+test", "test[999:]", True),
    ],
)
def test_splits_that_have_records_in_common(split, other, common):
    assert datasets.overlap("digits", split, other) == common
    assert datasets.overlap("digits", other, split) == common


def test_labels_are_those_of_the_records():
    labels = datasets.load_labels("digits", "test[:30]")
    expected = [int(example["label"]) for _, example in datasets.examples("digits", "test[:30]")]
    assert labels.dtype == np.int64 and labels.tolist() == expected and len(set(expected)) > 5
