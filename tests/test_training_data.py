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
    with pytest.raises(BadInputError, match=r"1 of 51 records .*x.tfrecord, offset \d+: .*Example"):
        read(tmp_path / "x.tfrecord")
    found = read(tmp_path / "x.tfrecord", "limits.max_bad_fraction=0.1")
    assert found.content_hash == read(one_file).content_hash
    assert "1 of 51 records cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("name", "split", "error", "message"),
    [
        ("mnist", "train", SourceError, "no file matches mnist; expected digits, tfds:NAME"),
        ("{one_file}", "test", DatasetError, "no split 'test': .* such as 'train.:80%.'"),
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
    assert not data.is_files


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
