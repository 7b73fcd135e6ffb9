"""The summary of several shards: each group's diagnostics are of its own rows, in a table of few
row groups.
"""

import io
import os
from unittest import mock

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.documents import counts
from vaefill.model import files, samplers
from vaefill.model.likelihoods import Bernoulli
from vaefill.model.preprocessing import Preprocessor
from vaefill.records.imputed import encode_imputed
from vaefill.records.record import DIAGNOSTICS, CarriedFeature, ImputedRecord, MaskedRecord, Schema
from vaefill.results import value_maps
from vaefill.results.documents import Summary
from vaefill.store import writers
from vaefill.store.layout import Layout, prepare
from vaefill.store.writers import StoredRecord
from vaefill.summary import parts, statistics, summarizer
from vaefill.summary.summarizer import Summarizer

SHAPE = (2, 3, 1)
NUM_VALUES = 6
LABELS = {
    "int64": [3, 11, -1, 3, None, 11, 3, -1],
    "float32": [0.5, float("nan"), -0.0, 0.0, 0.5, -1.0, 2.0, 0.5],
    "bytes": [b"\xff", b"", b"a", b"\\xff", b"a", b"b", b"\xff", b"a"],
}


def imputed(index: int, label, mean: float | None = None) -> ImputedRecord:
    """A record whose R-hat, 1 + index, tells it; with a mean it has a truth, of ones."""
    observed = np.arange(6).reshape(SHAPE) != index % 6
    truth = None if mean is None else np.full(SHAPE, 255, np.uint8)
    masked = MaskedRecord(
        b"%d" % index,
        np.zeros(SHAPE, np.uint8),
        observed,
        truth,
        {} if label is None else {"label": label},
        b"",
    )
    zeros = np.zeros(SHAPE, np.float32)
    diagnostics = dict.fromkeys(DIAGNOSTICS, 0) | {"r_hat": 1 + index}
    return ImputedRecord(
        masked, np.zeros((1, *SHAPE), np.uint8), zeros + (mean or 0), zeros, diagnostics
    )


def summarize(root, kind: str, labels, num_shards: int = 3, means=None):
    """summary.json and the table of records, dealt out to shards of which the last is empty."""
    dealt = [range(shard, len(labels), num_shards - 1) for shard in range(num_shards - 1)]
    means = means or [None] * len(labels)
    return summarize_shards(
        root, kind, [[imputed(i, labels[i], means[i]) for i in chosen] for chosen in dealt]
    )


def summarize_shards(root, kind: str, shards):
    """summary.json and the table of records of shards, and of one more that is empty."""
    schema = Schema(SHAPE, {"label": CarriedFeature(kind)}, 1, np.dtype(np.uint8))
    layout = Layout(str(root), "imputed", "imputed", "train", len(shards) + 1)
    prepare(layout)
    for shard, records in enumerate(shards):
        observer = Summarizer(layout, schema, 4, Preprocessor(Bernoulli()))(shard)
        for record in records:
            observer.add(stored(record, schema))
        observer.close()
        files.write_whole(layout.part(f"shard-{shard:05d}.json"), b"{}")
    found = summarizer.combine(
        layout, schema, samplers.sampler_config(), True, counts(sum(map(len, shards)))
    )
    assert Summary.model_validate_json((root / "summary" / "summary.json").read_text()) == found
    return found, pq.ParquetFile(root / "summary" / "records.parquet")


def stored(record: ImputedRecord, schema: Schema) -> StoredRecord:
    return StoredRecord(hash_of(record.masked.id), encode_imputed(record, schema), schema)


def hash_of(record_id: bytes) -> bytes:
    """Stands for a content hash."""
    return record_id.ljust(16, b"#")


@pytest.mark.parametrize("kind", LABELS)
def test_the_diagnostics_of_a_group_are_those_of_its_records(tmp_path, kind):
    labels = LABELS[kind]
    found, _ = summarize(tmp_path, kind, labels)
    names = [
        statistics.group_name(np.float32(label).item() if kind == "float32" else label)
        for label in labels
    ]
    assert set(found.by_label) == set(names) - {None}
    for group, result in found.by_label.items():
        own = [1.0 + index for index, name in enumerate(names) if name == group]
        assert result.num_records == len(own)
        assert result.diagnostics["r_hat"] == statistics.quantiles(own)
    assert found.all.diagnostics["r_hat"] == statistics.quantiles(np.arange(1.0, 9.0))


def test_labels_beyond_the_most_are_in_all_alone_and_counted(tmp_path, monkeypatch):
    """The first by name of those with as many records."""
    monkeypatch.setattr(statistics, "MAX_GROUPS", 2)
    found, _ = summarize(tmp_path, "int64", [3, 3, 2, 2, 1, 1, 1, 2])
    assert set(found.by_label) == {"1", "2"} and found.all.num_records == 8
    assert found.by_label["2"].diagnostics["r_hat"] == statistics.quantiles([3.0, 4.0, 8.0])
    assert found.num_labels_left_out == 1


def of_labels(labels, first: int = 0):
    return [imputed(first + index, label) for index, label in enumerate(labels)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_no_label_has_a_part_of_its_records_whatever_the_order_of_shards(
    tmp_path, monkeypatch, order
):
    """Of 7 two shards let records go and one kept them: it is left out, though only 9 has more
    records.
    """
    monkeypatch.setattr(statistics, "MAX_GROUPS", 2)
    monkeypatch.setattr(statistics, "BLOCK", 3)
    shards = [
        of_labels([9, 9, 1, 1, 1, 9, 7, 9, 9, 7]),
        of_labels([7, 7, 7], 20),
        of_labels([9, 9, 7, 2, 2, 2], 40),
    ]
    found, _ = summarize_shards(tmp_path, "int64", [shards[i] for i in order])
    assert {name: group.num_records for name, group in found.by_label.items()} == {"9": 7, "1": 3}
    assert found.num_labels_left_out == 2 and found.all.num_records == 19


def test_common_labels_are_kept_beside_many_that_are_met_once(tmp_path, monkeypatch):
    """Wherever they come first, of 400 labels; a part holds no more accumulators than there may be
    labels.
    """
    monkeypatch.setattr(statistics, "MAX_GROUPS", 20)
    monkeypatch.setattr(statistics, "BLOCK", 16)
    generator, sizes, write = np.random.default_rng(0), [], parts.write_groups
    monkeypatch.setattr(
        parts,
        "write_groups",
        lambda file, groups: sizes.append(len(groups)) or write(file, groups),
    )
    labels = generator.permutation([*range(100, 500), *np.repeat(np.arange(5), 80)]).tolist()
    found, _ = summarize(tmp_path, "int64", labels, num_shards=4)
    assert {found.by_label[str(label)].num_records for label in range(5)} == {80}
    assert all(
        group.num_records == labels.count(int(name)) for name, group in found.by_label.items()
    )
    assert len(found.by_label) + found.num_labels_left_out == 405
    assert max(sizes) <= 21


def test_what_the_reliability_table_predicts_is_no_integer(tmp_path):
    found, _ = summarize(
        tmp_path, "int64", [0] * 100, num_shards=101, means=[np.float32(0.93)] * 100
    )
    for truth in (found.all.truth, found.by_label["0"].truth):
        assert truth.reliability.predicted[9] == pytest.approx(0.93, rel=1e-6)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_record_of_no_numbers_is_counted_and_has_no_scores(tmp_path):
    """One that has no truth, and one that has; both leave the others' scores and values as they
    are.
    """
    means = [0.5, 0.75, np.nan, 0.25, None]
    found, table = summarize(tmp_path, "int64", [0] * 5, means=means)
    expected, _ = summarize(
        tmp_path / "good", "int64", [0] * 2 + [1] + [0], means=[0.5, 0.75, None, 0.25]
    )
    assert found.all.truth == expected.all.truth.model_copy(update={"num_unscored": 1})
    assert found.all.num_left_out == 1
    rows = {row["id"]: row for row in table.read().to_pylist()}
    assert rows[b"1"]["nll"] == pytest.approx(-np.log(0.75))
    for score in ("nll", "brier", "f1"):
        assert rows[b"2"][score] is None and rows[b"4"][score] is None
    without, _ = summarize_shards(
        tmp_path / "none", "int64", [[imputed_without_truth_or_numbers()]]
    )
    assert without.all.truth is None and without.all.num_left_out == 1


def imputed_without_truth_or_numbers() -> ImputedRecord:
    record = imputed(0, 0)
    return ImputedRecord(
        record.masked, record.imputations, record.mean + np.nan, record.stddev, record.diagnostics
    )


LIKE = statistics.empty(NUM_VALUES)
REALS = st.floats() | st.sampled_from([-0.0, 5e-324, 1.7976931348623157e308, 2.0**53 + 2, np.pi])
INTEGERS = st.integers(-(2**63), 2**63 - 1)


@st.composite
def accumulators(draw) -> statistics.Accumulator:
    def field(like):
        return draw(
            arrays(
                like.dtype, np.shape(like), elements=INTEGERS if like.dtype == np.int64 else REALS
            )
        )

    return statistics.Accumulator(*map(field, LIKE[:-1]), tuple(map(field, LIKE.scores)))


def assert_same_bits(first: statistics.Accumulator, second: statistics.Accumulator) -> None:
    for a, b in zip((*first[:-1], *first.scores), (*second[:-1], *second.scores), strict=True):
        if a is None or b is None:
            assert a is b
        else:
            assert a.dtype == b.dtype and np.shape(a) == np.shape(b) and a.tobytes() == b.tobytes()


@given(
    st.dictionaries(
        st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        accumulators() | accumulators().map(statistics.without_maps),
        max_size=3,
    )
)
def test_accumulators_are_read_back_to_the_bit(groups):
    file = io.BytesIO()
    parts.write_groups(file, groups)

    def read(wanted, mapped):
        file.seek(0)
        return parts.read_groups(file, NUM_VALUES, wanted, mapped)

    found, bare = read(groups, groups), read(groups, ())
    assert found.keys() == bare.keys() == groups.keys()
    for group, accumulator in groups.items():
        assert_same_bits(found[group], accumulator)
        assert_same_bits(bare[group], statistics.without_maps(accumulator))
    file.seek(0)
    assert parts.read_sizes(file) == {
        group: (int(own.num_records), own.value_mean is not None) for group, own in groups.items()
    }
    for group in groups:
        assert_same_bits(read({group}, {group})[group], groups[group])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_labels_beyond_the_room_for_maps_have_numbers_alone(tmp_path, monkeypatch, order):
    """There is room for those of two: of 9, and of 2, because 7 has once been let go of, though it
    has more records in the end.
    """
    monkeypatch.setattr(statistics, "MAP_BYTES", 2 * 24 * NUM_VALUES)
    monkeypatch.setattr(statistics, "BLOCK", 3)
    shards = [
        of_labels([9, 9, 1, 1, 7, 9, 7, 9, 9, 7]),
        of_labels([7, 7, 7], 20),
        of_labels([9, 9, 7, 2, 2, 2], 40),
    ]
    found, _ = summarize_shards(tmp_path, "int64", [shards[i] for i in order])
    rows = {name: group.values_row for name, group in found.by_label.items()}
    assert rows == {"1": None, "2": 1, "7": None, "9": 2} and found.all.values_row == 0
    assert {name: group.num_records for name, group in found.by_label.items()} == {
        "1": 2,
        "2": 3,
        "7": 7,
        "9": 7,
    }
    read = value_maps.read(str(tmp_path), found.by_label["9"])
    # Its records are 0, 1, 5, 7, 8, 40 and 41, and each lacks the value of its number modulo 6
    assert np.isnan(read.mean).ravel().tolist() == [False, False, False, True, False, False]
    assert value_maps.read(str(tmp_path), found.by_label["7"]) is None


def test_a_block_is_bounded_by_the_bytes_of_its_records(tmp_path, monkeypatch):
    """Records of 1,000 bytes to be handed on, of which two are too many; and rows, likewise."""
    monkeypatch.setattr(statistics, "BLOCK_BYTES", 8000)
    monkeypatch.setattr(summarizer, "_ROW_BYTES", 1000)
    sizes, by_group = [], statistics.by_group
    monkeypatch.setattr(
        statistics,
        "by_group",
        lambda records, *rest: sizes.append(len(records)) or by_group(records, *rest),
    )
    labels = [bytes([65 + index]) * 1000 for index in range(11)]
    found, table = summarize(tmp_path, "bytes", labels, num_shards=2)
    assert sizes == [2, 2, 2, 2, 2, 1] and table.num_row_groups == 6
    assert found.all.num_records == 11 and len(found.by_label) == 11


def test_every_record_has_its_row_whatever_the_groups_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "BLOCK", 2)
    monkeypatch.setattr(summarizer, "_ROW_GROUP", 4)
    _, table = summarize(tmp_path, "int64", list(range(22)))
    assert table.num_row_groups == 2 * 3  # 11 rows of each shard
    ids = [b"%d" % i for i in (*range(0, 22, 2), *range(1, 22, 2))]
    rows = table.read()
    assert rows["id"].to_pylist() == ids
    assert rows["content_hash"].to_pylist() == [hash_of(record_id).hex() for record_id in ids]


def in_pandas(path: str) -> list[tuple]:
    table = pandas.read_parquet(path)
    assert table.r_hat.isna().tolist() == [False, True, False]
    return table[table.r_hat > 1.01][COLUMNS].values.tolist()


def in_polars(path: str) -> list[tuple]:
    polars = pytest.importorskip("polars")
    table = polars.read_parquet(path)
    assert table["r_hat"].is_null().to_list() == [False, True, False]
    assert table.sort("r_hat", nulls_last=True)["id"].to_list() == [b"0", b"2", b"1"]
    return table.filter(polars.col("r_hat") > 1.01).select(COLUMNS).rows()


def in_duckdb(path: str) -> list[tuple]:
    duckdb = pytest.importorskip("duckdb")
    table = duckdb.read_parquet(path)
    assert table.aggregate("avg(r_hat), count(r_hat)").fetchall() == [(2.0, 2)]
    return table.filter("r_hat > 1.01").project(", ".join(COLUMNS)).fetchall()


def in_datasets(path: str) -> list[tuple]:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_parquet(path, cache_dir=os.path.dirname(path))
    assert table["r_hat"][:] == [1.0, None, 3.0]
    chosen = table.filter(lambda row: row["r_hat"] is not None and row["r_hat"] > 1.01)
    return [tuple(row[name] for name in COLUMNS) for row in chosen]


COLUMNS = ["id", "content_hash", "log_prob_missing"]


@pytest.mark.parametrize("read", [in_pandas, in_polars, in_duckdb, in_datasets])
def test_what_is_undefined_is_null_to_every_reader(tmp_path, read):
    """Of three records the second is complete and has no R-hat; NaN would be above any number."""
    records = of_labels([0, 1, 2])
    records[1].diagnostics.update(r_hat=np.nan, log_prob_missing=np.nan)
    _, table = summarize_shards(tmp_path, "int64", [records])
    assert not any(value != value for row in table.read().to_pylist() for value in row.values())
    (found,) = read(str(tmp_path / "summary" / "records.parquet"))
    assert list(found) == [b"2", hash_of(b"2").hex(), 0.0]


def test_a_record_is_decoded_once_whoever_asks(monkeypatch):
    schema, decode = Schema(SHAPE, {}, 1), mock.Mock(side_effect=writers.decode_imputed)
    monkeypatch.setattr(writers, "decode_imputed", decode)
    record = stored(imputed(3, None), schema)
    assert not decode.called
    assert record.imputed is record.imputed and record.imputed.masked.id == b"3"
    assert decode.call_count == 1
