"""`--since`: what earlier results hold is left out, and together they are one data set."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests.documents import impute_identity, manifest, mask_identity, record_identity
from vaefill import config as config_lib
from vaefill import jobs
from vaefill.errors import BadInputError, ResultError
from vaefill.records.masked import decode_masked
from vaefill.records.record import MaskedRecord, Schema, input_hash
from vaefill.results import incremental, integrity
from vaefill.results.documents import Outcome
from vaefill.store.resume import HashIndex, SkipKnown

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def more(mask_digits) -> str:
    """The 30 records of `masked`, and 15 more."""
    return mask_digits(45)


@pytest.fixture(scope="module")
def later(config, model_directory, more, result, tmp_path_factory) -> tuple[str, Outcome]:
    out = str(tmp_path_factory.mktemp("later") / "out")
    return out, jobs.impute(config, model_directory, [more], out, since=[result])


def examples(*directories: str) -> list[bytes]:
    """What data sets hold, byte for byte."""
    paths = [
        path
        for each in directories
        for path in sorted(tf.io.gfile.glob(f"{each}/imputed/*.tfrecord-*"))
    ]
    return [example.numpy() for example in tf.data.TFRecordDataset(paths)]


def test_only_what_is_new_is_imputed(later):
    out, found = later
    assert found.counts.written == 15 and found.work.skipped == 30
    assert integrity.verify(out).work.skipped == 30


def test_the_parts_are_the_whole_and_tfds_reads_them_as_one(
    config, model_directory, more, result, later, tmp_path
):
    out = str(tmp_path / "whole")
    jobs.impute(config, model_directory, [more], out)
    assert sorted(examples(result, later[0])) == sorted(examples(out))
    builder = tfds.builder_from_directories(
        [os.path.join(each, "imputed") for each in (result, later[0])]
    )
    ids = [example["id"] for example in tfds.as_numpy(builder.as_dataset(split="train"))]
    assert len(ids) == len(set(ids)) == 45


def test_where_nothing_is_new_nothing_is_published(
    config, model_directory, masked, result, later, tmp_path
):
    found = jobs.impute(
        config, model_directory, [masked], str(tmp_path / "out"), since=[result, later[0]]
    )
    assert found.counts.written == 0 and found.work.skipped == 30
    assert os.listdir(tmp_path) == []


def test_bad_records_alone_are_not_news(config, model_directory, masked, result, tmp_path):
    """They come back every night; they count as a share of all that was read."""
    bad = str(tmp_path / "bad")
    with tf.io.TFRecordWriter(bad) as writer:
        writer.write(b"\xff")
    lenient = config_lib.load("test.yaml", ["limits.max_bad_fraction=0.05"])
    found = jobs.impute(
        lenient, model_directory, [masked, bad], str(tmp_path / "out"), since=[result]
    )
    assert found.counts.dead == 1 and found.counts.written == 0 and not (tmp_path / "out").exists()
    with pytest.raises(BadInputError, match="1 of 31 records are bad"):
        jobs.impute(config, model_directory, [masked, bad], str(tmp_path / "out"), since=[result])


def test_a_record_with_another_content_is_new(config, model_directory, masked, result, tmp_path):
    path = str(tmp_path / "changed")
    payloads = [each.numpy() for each in tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(masked)))]
    example = tf.train.Example.FromString(payloads[7])
    example.features.feature["label"].int64_list.value[0] += 1
    with tf.io.TFRecordWriter(path) as writer:
        for payload in (*payloads[:7], example.SerializeToString()):
            writer.write(payload)
    found = jobs.impute(config, model_directory, [path], str(tmp_path / "out"), since=[result])
    assert found.counts.written == 1 and found.work.skipped == 7


def test_what_it_goes_on_from_is_part_of_the_run(config, model_directory, more, result, later):
    assert jobs.impute(config, model_directory, [more], later[0], since=[result]) is None
    with pytest.raises(ResultError, match="different: since"):
        jobs.impute(config, model_directory, [more], later[0])


def test_results_that_are_not_alike_are_refused(model_directory, more, result, tmp_path):
    for settings, name in ((["seed=1"], "seed"), (["sampler.num_chains=4"], "sampler")):
        with pytest.raises(ResultError, match=f"was made with another {name}: "):
            other = config_lib.load("test.yaml", settings)
            jobs.impute(other, model_directory, [more], str(tmp_path / "out"), since=[result])
    assert os.listdir(tmp_path) == []


def test_an_earlier_result_is_not_the_output(config, model_directory, more, result):
    """It would be replaced by what is new alone."""
    before = integrity.verify(result)
    with pytest.raises(ResultError, match="is an earlier result itself"):
        jobs.impute(
            config, model_directory, [more], f"{result}/../out", replace=True, since=[result]
        )
    assert integrity.verify(result) == before


def seal(directory, identity) -> str:
    (directory / "summary").mkdir()
    (directory / "summary" / "records.parquet").write_bytes(b"a table")
    integrity.seal(str(directory), manifest(identity))
    return str(directory)


def test_what_is_no_result_of_imputation_is_refused(tmp_path):
    with pytest.raises(
        ResultError, match="holds masked records; name a result of `vaefill impute`"
    ):
        incremental.check([seal(tmp_path, mask_identity())], record_identity(), "out")
    with pytest.raises(ResultError, match="is not a finished result"):
        incremental.check([str(tmp_path / "summary")], record_identity(), "out")


def test_every_part_that_differs_is_named(tmp_path):
    other = record_identity(model="m", record={"shape": [1, 1, 1]}, software={"tensorflow": "1"})
    with pytest.raises(ResultError, match="was made with another model, record: "):
        incremental.check([seal(tmp_path, impute_identity())], other, "out")


def test_an_altered_result_is_refused(tmp_path):
    """Else it would decide what is left out."""
    assert (
        len(incremental.check([seal(tmp_path, impute_identity())], record_identity(), "out")) == 1
    )
    (tmp_path / "summary" / "records.parquet").write_bytes(b"another table")
    with pytest.raises(ResultError, match="summary/records.parquet: altered"):
        incremental.check([str(tmp_path)], record_identity(), "out")


def test_a_damaged_table_is_an_error(tmp_path):
    (tmp_path / "summary").mkdir()
    for content in (None, b"PAR1 not quite"):
        if content:
            (tmp_path / "summary" / "records.parquet").write_bytes(content)
        with pytest.raises(ResultError, match="cannot read .*records.parquet"):
            incremental.content_hashes([str(tmp_path)])


@pytest.mark.parametrize(
    "cell", ["ab" * 15, "ab" * 17, "no hexadecimal digits", None, b"\xab" * 16]
)
def test_a_table_without_content_hashes_is_an_error(tmp_path, cell):
    (tmp_path / "summary").mkdir()
    path = tmp_path / "summary" / "records.parquet"
    pq.write_table(pa.table({"content_hash": ["ab" * 16]}), path)
    assert incremental.content_hashes([str(tmp_path)]) == b"\xab" * 16
    pq.write_table(pa.table({"content_hash": [cell]}), path)
    with pytest.raises(ResultError, match="cannot read .*records.parquet: .*"):
        incremental.content_hashes([str(tmp_path)])


def test_a_surplus_feature_alone_is_no_news(tmp_path):
    """As a time of export is; also where the earlier result knew content hashes alone."""
    schema = Schema((1, 1, 2), {})

    def record(note: bytes, image: bytes = b"\0\1") -> MaskedRecord:
        made = tf.train.Example()
        for name, value in (("id", b"a"), ("image", image), ("note", note)):
            made.features.feature[name].bytes_list.value.extend([value] if value else [])
        if not note:
            del made.features.feature["note"]
        return decode_masked(made.SerializeToString(), schema)

    def new(column: str, before: MaskedRecord, now: MaskedRecord) -> bool:
        found = input_hash(before, schema) if column == "input_hash" else before.content_hash
        os.makedirs(tmp_path / "summary", exist_ok=True)
        pq.write_table(pa.table({column: [found.hex()]}), tmp_path / "summary" / "records.parquet")
        path = str(tmp_path / "known.npy")
        HashIndex.write(path, incremental.content_hashes([str(tmp_path)]))
        return bool(list(SkipKnown(HashIndex(path), schema).process((None, now))))

    assert not new("input_hash", record(b"monday"), record(b"tuesday"))
    assert not new("input_hash", record(b"monday"), record(b""))
    assert new("input_hash", record(b"monday"), record(b"monday", b"\1\1"))
    assert not new("content_hash", record(b"monday"), record(b"monday"))
    assert not new("content_hash", record(b""), record(b"tuesday"))
    # Which is computed again, for nobody can tell
    assert new("content_hash", record(b"monday"), record(b"tuesday"))
