"""Masked records in files as training data, whatever the files, and what is refused."""

import gzip

import click.testing
import numpy as np
import pytest
import tensorflow as tf

import vaefill
from vaefill import cli, training_data
from vaefill import config as config_lib
from vaefill.errors import BadInputError, SourceError
from vaefill.model.errors import DatasetError

NUM = 50
SMALL = ("--config", "test.yaml", "--set", "train.epochs=1", "--set", "sampler.name=pseudo_gibbs")
OF_FILES = ("train=train[:200]", "validation=train[200:250]", "test=train[250:]")


def payloads(num: int = NUM) -> list[bytes]:
    """Records of [2, 3, 1] of which the third value is missing."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(num):
        features = {
            "id": b"record %d" % index,
            "image": rng.integers(1, 256, 6, dtype=np.uint8).tobytes(),
            "observed": np.uint8([1, 1, 0, 1, 1, 1]).tobytes(),
        }
        feature = {
            name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
            for name, value in features.items()
        }
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        found.append(example.SerializeToString())
    return found


def write(path, records: list[bytes]) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def read(pattern, *settings: str) -> training_data.MaskedFiles:
    return training_data.MaskedFiles(
        config_lib.load(None, (f"data.name={pattern}", "record.shape=[2, 3, 1]", *settings))
    )


@pytest.fixture(scope="module")
def one_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("one") / "x.tfrecord"
    write(path, payloads())
    return path


def test_splits_are_drawn_by_chance_and_share_nothing(one_file):
    config = config_lib.load(None, (f"data.name={one_file}",))
    source = read(one_file)
    splits = [source.load(getattr(config.data, name)) for name in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [40, 5, 5]
    rows = np.concatenate([split.values for split in splits])
    assert len({row.tobytes() for row in rows}) == NUM
    assert not np.array_equal(rows, np.sort(rows, axis=0))
    for split in splits:
        assert split.observed[:, 2].sum() == 0 and split.observed[:, [0, 1, 3, 4, 5]].all()
        assert (split.values[~split.observed] == 0).all() and split.values.dtype == np.uint8


def test_files_do_not_matter_only_records_do(one_file, tmp_path):
    """Two files, one of them compressed, in another order, some records twice."""
    records = payloads()
    write(tmp_path / "a.tfrecord", records[30:] + records[:5])
    write(tmp_path / "raw", records[:30])
    (tmp_path / "b.tfrecord.gz").write_bytes(gzip.compress((tmp_path / "raw").read_bytes()))
    first, second = read(one_file), read(tmp_path / "[ab].*")
    assert first.content_hash == second.content_hash
    for split in ("train[:80%]", "train[30:]"):
        np.testing.assert_array_equal(first.load(split).values, second.load(split).values)
    write(tmp_path / "a.tfrecord", records[31:])
    assert read(tmp_path / "[ab].*").content_hash != first.content_hash


def test_what_is_bad_is_told_and_too_much_of_it_refused(one_file, tmp_path, caplog):
    write(tmp_path / "x.tfrecord", [*payloads(), b"no example"])
    with pytest.raises(
        BadInputError,
        match=r"\d+: not a .*; more than .*fraction = 0.01 allows",
    ):
        read(tmp_path / "x.tfrecord")
    found = read(tmp_path / "x.tfrecord", "limits.max_bad_fraction=0.1")
    assert found.content_hash == read(one_file).content_hash
    assert "1 of 51 records cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("name", "split", "error", "message"),
    [
        ("mnist", "train", SourceError, "no file matches mnist; expected digits, tfds:NAME"),
        (
            "{one_file}",
            "test",
            DatasetError,
            "no split 'test': .* such as 'train.:80%.'",
        ),
        ("{one_file}", "train[", DatasetError, "no split 'train.'"),
        ("{one_file}", "train[:1%]", DatasetError, "split 'train.:1%.' .* is empty"),
    ],
)
def test_what_is_not_there_is_one_line(one_file, name, split, error, message):
    with pytest.raises(error, match=message):
        read(name.format(one_file=one_file)).load(split)


def test_an_empty_file_is_one_line(tmp_path):
    write(tmp_path / "x.tfrecord", [])
    with pytest.raises(SourceError, match="no record is in"):
        read(tmp_path / "x.tfrecord")


@pytest.mark.parametrize("name", ["digits", "tfds:mnist"])
def test_data_sets_of_tfds_keep_their_splits(name):
    data = config_lib.load(None, (f"data.name={name}",)).data
    assert (data.train, data.validation, data.test) == ("train", "validation", "test")
    assert not data.has_one_split


@pytest.mark.slow
def test_without_a_complete_record_a_model_is_trained_and_scored(tmp_path):
    """The commands of README.md: truths are there for the score alone."""

    def run(*arguments: str) -> str:
        result = click.testing.CliRunner().invoke(cli.main, list(arguments))
        assert result.exit_code == 0, result.output
        return result.output

    def files(name: str) -> str:
        return f"{tmp_path}/{name}/*.tfrecord-*"

    run("mask", *SMALL, "--input", "digits/train[:300]", "--output", f"{tmp_path}/data")
    model = f"{tmp_path}/model"
    splits = [part for setting in OF_FILES for part in ("--set", f"data.{setting}")]
    arguments = ("--set", "train.batch_size=50", "--data", files("data"), "--model", model)
    assert "log p(x_obs)" in run("train", *SMALL, *splits, *arguments)
    run("mask", *SMALL, "--input", "digits/test[:6]", "--output", f"{tmp_path}/new")
    out = f"{tmp_path}/imputed"
    run("impute", *SMALL, "--model", model, "--input", files("new"), "--output", out)
    score = vaefill.read_result(out).summary.all.truth
    assert 0.4 < score.num_values / (6 * 784) < 0.6
    assert f"{score.num_values:,}" in run("evaluate", out)


def array_config(shape: tuple[int, ...]):
    return config_lib.load(None, ("data.name=arrays", f"record.shape={list(shape)}")).record


def test_arrays_are_split_by_chance_and_known_by_their_contents():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (50, 2, 3, 1), dtype=np.uint8)
    observed = rng.random(values.shape) < 0.5
    source = training_data.of_arrays(array_config((2, 3, 1)), values, observed)
    first, rest = source.load("train[:80%]"), source.load("train[80%:]")
    rows = np.concatenate([first.values, rest.values])
    assert {row.tobytes() for row in rows} == {
        row.tobytes() for row in np.where(observed, values, 0).reshape(50, 6)
    }
    assert not np.array_equal(rows, np.where(observed, values, 0).reshape(50, 6))
    same = training_data.of_arrays(
        array_config((2, 3, 1)), np.where(observed, values, 9).astype(np.uint8), observed
    )
    assert same.content_hash == source.content_hash
    complete = training_data.of_arrays(array_config((2, 3, 1)), values)
    assert complete.content_hash != source.content_hash
    assert complete.load("train").observed is None


@pytest.mark.slow
def test_a_table_with_nan_is_learnt_from_and_filled_in(tmp_path):
    """Two columns that are the same but for a little: what is missing of one is that of the other.
    Units of 1e3 and offsets of 1e5.
    """
    rng = np.random.default_rng(0)
    column = rng.normal(size=(1000, 1))
    table = 1e5 + 1e3 * (column + 0.05 * rng.normal(size=(1000, 4)))
    holes = rng.random(table.shape) < 0.3
    values = np.where(holes, np.nan, table)[:, np.newaxis, :, np.newaxis]
    settings = {
        "train.epochs": 60,
        "train.batch_size": 50,
        "train.learning_rate": 1e-2,
        "train.num_test_importance_samples": 10,
        "model.latent_size": 1,
        "model.hidden": [16],
    }
    model = vaefill.train(tmp_path / "model", values, settings=settings, progress=False)
    sampler = vaefill.sampler_config(
        num_start=2, num_warmup=8, max_sweeps=40, num_evidence_draws=0, slots=256
    )
    first, seen = np.float32(table[:60, np.newaxis, :, np.newaxis]), ~holes[:60]
    seen[:, 0] |= ~seen.any(axis=1)  # of each at least one value
    found = vaefill.impute(
        model, first, seen[:, np.newaxis, :, np.newaxis], sampler=sampler, progress=False
    )
    error = (found.mean[:, 0, :, 0] - table[:60])[~seen]
    assert np.median(np.abs(error)) < 150  # by the column's mean it would be 674


@pytest.mark.parametrize(
    ("values", "observed", "message"),
    [
        (np.zeros((5, 6), np.uint8), None, "a table .N, D. is data"),
        (np.zeros((5, 1, 6, 1), np.int64), None, "of uint8 or of floats, got int64"),
        (np.zeros((5, 1, 6, 1), np.uint8), np.ones((5, 6), bool), "observed must be bool"),
        (np.full((5, 1, 6, 1), np.inf), None, "values that are not finite"),
        ("digits", np.ones((5, 1, 6, 1), bool), "observed goes with an array"),
    ],
)
def test_arrays_of_another_kind(tmp_path, values, observed, message):
    with pytest.raises(ValueError, match=message):
        vaefill.train(tmp_path / "model", values, observed, progress=False)
