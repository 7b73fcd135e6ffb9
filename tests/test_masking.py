"""Masked data sets: deterministic by id, readable with tfds, truth kept, hidden values gone."""

import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from vaefill import config as config_lib
from vaefill import jobs, masking
from vaefill.errors import BadInputError, ConfigError, JobError, SourceError
from vaefill.model.errors import DatasetError
from vaefill.model.likelihoods import Bernoulli
from vaefill.model.preprocessing import Preprocessor
from vaefill.records.record import CarriedFeature, Schema, content_hash
from vaefill.results.reading import read_manifest
from vaefill.store import tfrecord

pytestmark = pytest.mark.slow

SETTINGS = {
    "mcar": ["mask={mechanism: mcar, rate: 0.3}"],
    "rows": ["mask={mechanism: rows, first: 4, last: 9}"],
    "top_three_quarters": ["mask={mechanism: top_three_quarters}"],
    "block": ["mask={mechanism: block, height: 10, width: 12}"],
    "half": ["mask={mechanism: half, side: left}"],
    "mar": ["mask={mechanism: mar, rate: 0.5, slope: 4}"],
    "mnar": ["mask={mechanism: mnar, dark: 0.2, bright: 0.8}"],
}


def mask(output, settings, source="digits/test[:20]") -> dict[bytes, dict]:
    jobs.mask(config_lib.load("test.yaml", settings), source, str(output))
    builder = tfds.builder_from_directory(str(output))
    return {example["id"]: example for example in tfds.as_numpy(builder.as_dataset(split="train"))}


@pytest.mark.parametrize("mechanism", sorted(SETTINGS))
def test_masked_data_sets(tmp_path, mechanism):
    examples = mask(tmp_path / "out", SETTINGS[mechanism])
    assert len(examples) == 20
    digits = tfds.as_numpy(
        tfds.builder_from_directory("model/digits").as_dataset(split="test[:20]")
    )
    assert sorted(e["truth"].tobytes() for e in examples.values()) == sorted(
        d["image"].tobytes() for d in digits
    )
    for example in examples.values():
        assert 0 < example["observed"].mean() < 1
        np.testing.assert_array_equal(
            example["image"], np.where(example["observed"], example["truth"], 0)
        )
        assert 0 <= example["label"] <= 9


def test_grey_images_under_a_threshold_are_told(tmp_path, caplog):
    """Of grey records the setting to change, once; of digits nothing."""
    mask(tmp_path / "digits", [], "digits/test[:3]")
    assert "grey" not in caplog.text
    path, shades = str(tmp_path / "grey.tfrecord"), np.linspace(0, 255, 784, dtype=np.uint8)
    with tf.io.TFRecordWriter(path) as writer:
        for name in (b"a", b"b"):
            example = tf.train.Example()
            example.features.feature["id"].bytes_list.value.append(name)
            example.features.feature["image"].bytes_list.value.append(shades.tobytes())
            writer.write(example.SerializeToString())
    mask(tmp_path / "grey", [], path)
    (told,) = [r.getMessage() for r in caplog.records if "grey" in r.getMessage()]
    assert told.startswith("2 of 2 records are grey") and "discretized_logistic_mixture" in told


def test_records_of_a_data_set_have_a_content_hash():
    schema = Schema((28, 28, 1), {"label": CarriedFeature("int64")})
    reads = list(masking.ReadDataset("digits", schema).process("test[:3]"))
    assert len({record.content_hash for _, record in reads}) == 3
    for frame, record in reads:
        assert record.content_hash == content_hash(record, schema)
        assert frame.source == ("digits/test[:3]", frame.offset, 0)


def test_masks_depend_on_seed_and_id_alone(tmp_path):
    first = mask(tmp_path / "a", SETTINGS["mcar"])
    more = mask(tmp_path / "b", [*SETTINGS["mcar"], "output.num_shards=2"], "digits/test[:50]")
    assert len({e["observed"].tobytes() for e in more.values()}) == 50
    for record_id, example in first.items():
        np.testing.assert_array_equal(example["observed"], more[record_id]["observed"])
    other = mask(tmp_path / "c", [*SETTINGS["mcar"], "seed=1"])
    assert all(not np.array_equal(e["observed"], other[i]["observed"]) for i, e in first.items())


def test_masks_from_files_for_all_and_by_id(tmp_path):
    ids = list(mask(tmp_path / "ids", SETTINGS["mcar"]))
    general, special = np.zeros((28, 28, 1), np.uint8), np.eye(28, dtype=np.uint8)[..., None]
    path = str(tmp_path / "masks.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for record_id, observed in ((None, general), (ids[3], special)):
            example = tf.train.Example()
            example.features.feature["observed"].bytes_list.value.append(observed.tobytes())
            if record_id:
                example.features.feature["id"].bytes_list.value.append(record_id)
            writer.write(example.SerializeToString())
    examples = mask(tmp_path / "out", [f"mask={{mechanism: file, masks: {path}}}"])
    for record_id, example in examples.items():
        expected = special if record_id == ids[3] else general
        np.testing.assert_array_equal(example["observed"], expected.astype(bool))


@pytest.mark.parametrize("record_id", [b"r1", b""])
def test_two_masks_of_one_id_are_an_error_that_names_it(tmp_path, record_id):
    """Unless they are the same one."""
    schema, path = Schema((2, 2, 1), {}), str(tmp_path / "masks.tfrecord")
    masks = masking.Masks(
        config_lib.load("test.yaml", [f"mask={{mechanism: file, masks: {path}}}"]).mask,
        Preprocessor(Bernoulli()),
    )
    with tf.io.TFRecordWriter(path) as writer:
        for content in (b"\0\1\1\0", b"\0\1\1\0", b"\1\1\1\1"):
            example = tf.train.Example()
            example.features.feature["observed"].bytes_list.value.append(content)
            example.features.feature["id"].bytes_list.value.extend([record_id] if record_id else [])
            writer.write(example.SerializeToString())
            writer.flush()
            if content != b"\1\1\1\1":
                masks.load(schema)
    said = "have the id r1" if record_id else "have no id"
    with pytest.raises(SourceError, match=f"masks.tfrecord: two masks that differ {said}; leave"):
        masks.load(schema)


def write_complete(directory) -> str:
    """A file of three complete records, and of one that is none."""
    path = str(directory / "complete.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for i in range(3):
            example = tf.train.Example()
            example.features.feature["id"].bytes_list.value.append(b"r%d" % i)
            example.features.feature["image"].bytes_list.value.append(bytes([i]) * 784)
            example.features.feature["label"].int64_list.value.append(i)
            example.features.feature["note"].bytes_list.value.append(b"kept")
            writer.write(example.SerializeToString())
        writer.write(b"\xff\xff")
    return path


def test_masking_records_from_files(tmp_path):
    """The records of one masked data set, complete again, are masked anew: ids, labels and extras
    stay.
    """
    path, out = write_complete(tmp_path), tmp_path / "out"
    examples = mask(out, [*SETTINGS["half"], "limits.max_bad_fraction=0.5"], path)
    assert {i: e["label"] for i, e in examples.items()} == {b"r0": 0, b"r1": 1, b"r2": 2}
    assert read_manifest(str(out)).counts.dead_by_reason == {"not_an_example": 1}
    shards = [str(out / name) for name in os.listdir(out) if ".tfrecord-" in name]
    for record in tf.data.TFRecordDataset(shards):
        assert (
            tf.train.Example.FromString(record.numpy()).features.feature["note"].bytes_list.value[0]
            == b"kept"
        )


def test_files_of_any_name_are_read_in_stretches(tmp_path, monkeypatch):
    """To the same bytes as under another name, dead letters but for the name."""
    path, any_name = write_complete(tmp_path), str(tmp_path / "[caf\udce9]*.tfrecord")
    settings = [*SETTINGS["half"], "limits.max_bad_fraction=0.5"]
    mask(tmp_path / "a", settings, path)
    os.rename(path, any_name)
    monkeypatch.setattr(tfrecord, "_STRETCH", 1)
    mask(tmp_path / "b", settings, any_name)
    shards = sorted(path.name for path in (tmp_path / "a").glob("*.tfrecord-*"))
    for name in ("dataset_info.json", *shards):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    (letter,) = tf.data.TFRecordDataset(str(tmp_path / "b/dead_letters/dead_letters.tfrecord"))
    letter = tf.train.Example.FromString(letter.numpy()).features.feature
    assert letter["file"].bytes_list.value[0] == os.fsencode(any_name)
    assert letter["payload"].bytes_list.value[0] == b"\xff\xff"


def test_input_that_changes_is_an_error(tmp_path, monkeypatch):
    path, run = write_complete(tmp_path), jobs._run

    def run_and_append(*arguments):
        found = run(*arguments)
        with open(path, "ab") as file:
            file.write(b"more")
        return found

    monkeypatch.setattr(jobs, "_run", run_and_append)
    with pytest.raises(BadInputError, match="complete.tfrecord has changed while it was read"):
        mask(tmp_path / "out", [*SETTINGS["half"], "limits.max_bad_fraction=0.5"], path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("of_files", [False, True], ids=["data_set", "files"])
def test_a_runner_that_loses_records_fails_the_job(of_files, tmp_path, monkeypatch):
    source = write_complete(tmp_path) if of_files else "digits/test[:3]"
    numbers = "4 records were read, but 2 written, 1" if of_files else "3 .* read, but 2 written, 0"
    really, seen = masking.MaskRecords.process, []

    def lose_the_first(self, frame_and_record):
        seen.append(frame_and_record)
        return iter(()) if len(seen) == 1 else really(self, frame_and_record)

    monkeypatch.setattr(masking.MaskRecords, "process", lose_the_first)
    with pytest.raises(JobError, match=f"^{numbers} dead letters and 0 left out make "):
        mask(tmp_path / "out", [*SETTINGS["half"], "limits.max_bad_fraction=0.5"], source)
    assert not (tmp_path / "out").exists()


REAL = [
    "record.dtype=float32",
    "record.binarize=none",
    "model.likelihood=gaussian",
    "record.shape=[2, 3, 1]",
]


def test_masking_real_values(tmp_path):
    path = str(tmp_path / "complete.tfrecord")
    images = np.random.default_rng(0).normal(size=(20, 2, 3, 1)).astype(np.float32)
    images[7, 1, 2, 0], images[8, 0, 0, 0] = np.nan, np.inf
    with tf.io.TFRecordWriter(path) as writer:
        for i, image in enumerate(images):
            example = tf.train.Example()
            example.features.feature["id"].bytes_list.value.append(b"r%d" % i)
            example.features.feature["image"].bytes_list.value.append(image.tobytes())
            writer.write(example.SerializeToString())
    out = tmp_path / "out"
    examples = mask(out, [*REAL, *SETTINGS["mcar"], "limits.max_bad_fraction=0.5"], path)
    assert read_manifest(str(out)).counts.dead_by_reason == {"bad_image": 1}
    assert len(examples) == 19 and not examples[b"r7"]["observed"][1, 2, 0]
    for i, image in enumerate(images):
        if i != 8:
            example = examples[b"r%d" % i]
            np.testing.assert_array_equal(example["truth"], image, strict=True)
            np.testing.assert_array_equal(
                example["image"], np.where(example["observed"], image, np.float32(0))
            )
    assert 0 < np.mean([example["observed"] for example in examples.values()]) < 1


def test_values_go_missing_by_what_they_are(tmp_path):
    """Of binarised digits at both rates; of real values, in their own units, more on one side.

    The shares are of 1,800 values and more: 7 and more standard deviations from the bounds.
    """
    digits = list(mask(tmp_path / "digits", SETTINGS["mnar"]).values())
    truth, observed = (np.stack([e[name] for e in digits]) for name in ("truth", "observed"))
    assert abs(1 - observed[truth > 127].mean() - 0.8) < 0.07
    assert abs(1 - observed[truth <= 127].mean() - 0.2) < 0.07
    values = np.random.default_rng(0).normal(5.0, 2.0, (30, 4, 4, 8)).astype(np.float32)
    path = str(tmp_path / "real.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for i, image in enumerate(values):
            example = tf.train.Example()
            example.features.feature["id"].bytes_list.value.append(b"r%d" % i)
            example.features.feature["image"].bytes_list.value.append(image.tobytes())
            writer.write(example.SerializeToString())
    real = [*REAL, "record.shape=[4, 4, 8]"]
    law = "mechanism: mnar, dark: 0.1, bright: 0.9"
    found = mask(tmp_path / "out", [*real, f"mask={{{law}, black: 3, white: 7}}"], path)
    observed = np.stack([found[b"r%d" % i]["observed"] for i in range(30)])
    assert observed[values < 5].mean() > 0.7 > 0.3 > observed[values > 5].mean()
    with pytest.raises(ConfigError, match="mask.mechanism mnar: real values need black and white"):
        mask(tmp_path / "bad", [*real, f"mask={{{law}}}"], path)


def test_a_mechanism_sees_grey_values_when_the_model_does(tmp_path):
    grey = ["model.likelihood=discretized_logistic_mixture", "record.binarize=none"]
    as_grey, as_binary = (
        mask(tmp_path / str(more), [*SETTINGS["mar"], *more]) for more in (grey, [])
    )
    assert any(
        not np.array_equal(as_grey[i]["observed"], as_binary[i]["observed"]) for i in as_grey
    )


def test_masking_masked_records_starts_from_their_truth(tmp_path):
    first = mask(tmp_path / "a", SETTINGS["half"])
    again = mask(
        tmp_path / "b", SETTINGS["top_three_quarters"], str(tmp_path / "a" / "*.tfrecord-*")
    )
    for record_id, example in again.items():
        np.testing.assert_array_equal(example["truth"], first[record_id]["truth"])
        assert example["observed"].mean() == 0.25


def test_a_split_is_read_whole_whatever_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(masking, "_IMAGES_PER_SLICE", 300)
    assert len(mask(tmp_path / "out", SETTINGS["half"], "digits/test")) == 1000
    assert len(mask(tmp_path / "both", SETTINGS["half"], "digits/test[:10]+validation[:10]")) == 20


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            ["mask={mechanism: block, height: 29, width: 3}"],
            ConfigError,
            "mask.mechanism block: height",
        ),
        (["mask={mechanism: rows, first: 4, last: 40}"], ConfigError, "mask.mechanism rows: last"),
        (
            ["record.carry={label: bytes}"],
            DatasetError,
            "'label' of data set 'digits' is .*declares one bytes",
        ),
        (["record.shape=[27, 28, 1]"], DatasetError, "images of shape"),
    ],
)
def test_mistakes_are_found_before_anything_starts(tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        mask(tmp_path / "out", settings)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("source", ["tfds:mnist", "digits"])
def test_a_data_set_needs_a_split(tmp_path, source):
    with pytest.raises(SourceError):
        mask(tmp_path / "out", SETTINGS["mcar"], source)
