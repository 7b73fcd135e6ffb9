"""The summary of several shards: each group's diagnostics are of its own rows, in a table of few row groups."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from model.config import SamplerConfig
from pipeline import sinks, statistics, summary
from pipeline.record import DIAGNOSTICS, CarriedFeature, ImputedRecord, MaskedRecord, Schema, encode_imputed
from pipeline.sinks import DeadLetterCounts, Layout
from pipeline.summary import Summarizer

SHAPE = (2, 3, 1)
LABELS = {
    "int64": [3, 11, -1, 3, 0, 11, 3, 5],
    "float32": [0.5, float("nan"), -0.0, 0.0, 0.5, -1.0, 2.0, 0.5],
    "bytes": [b"\xff", b"", b"a", b"\\xff", b"a", b"b", b"\xff", b"a"],
}


def imputed(index: int, label) -> ImputedRecord:
    """A record whose R-hat, 1 + index, tells it."""
    observed = np.arange(6).reshape(SHAPE) != index % 6
    masked = MaskedRecord(b"%d" % index, np.zeros(SHAPE, np.uint8), observed, None, {"label": label}, b"")
    zeros = np.zeros(SHAPE, np.float32)
    diagnostics = dict.fromkeys(DIAGNOSTICS, 0) | {"r_hat": 1 + index}
    return ImputedRecord(masked, np.zeros((1, *SHAPE), np.uint8), zeros, zeros, diagnostics)


def summarize(root, kind: str, labels, num_shards: int = 3):
    """summary.json and the table of records, dealt out to shards of which the last is empty."""
    schema = Schema(SHAPE, {"label": CarriedFeature(kind)}, 1, np.dtype(np.uint8))
    layout = Layout(str(root), "imputed", "imputed", "train", num_shards)
    sinks.prepare(layout)
    for shard in range(num_shards - 1):
        observer = Summarizer(layout, schema, 4, "bernoulli", "threshold", 0)(shard)
        for index in range(shard, len(labels), num_shards - 1):
            observer.add(encode_imputed(imputed(index, labels[index]), schema))
        observer.close()
        sinks.write_whole(layout, layout.part(f"shard-{shard:05d}.json"), b"{}")
    found = summary.combine(layout, schema, SamplerConfig(), len(labels), DeadLetterCounts.empty())
    assert json.loads((root / "summary" / "summary.json").read_text()) == found
    return found, pq.ParquetFile(root / "summary" / "records.parquet")


@pytest.mark.parametrize("kind", LABELS)
def test_the_diagnostics_of_a_group_are_those_of_its_records(tmp_path, kind):
    labels = LABELS[kind]
    found, _ = summarize(tmp_path, kind, labels)
    names = [statistics.group_name(np.float32(label).item() if kind == "float32" else label) for label in labels]
    assert set(found["by_label"]) == set(names) - {None}
    for group, result in found["by_label"].items():
        own = [1.0 + index for index, name in enumerate(names) if name == group]
        assert result["num_records"] == len(own)
        assert result["diagnostics"]["r_hat"] == statistics.quantiles(own)
    assert found["all"]["diagnostics"]["r_hat"] == statistics.quantiles(np.arange(1.0, 9.0))


def test_groups_beyond_the_most_are_in_all_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "MAX_GROUPS", 2)
    found, _ = summarize(tmp_path, "int64", [1, 1, 2, 2, 3, 3, 1, 2])
    assert set(found["by_label"]) == {"1", "2"} and found["all"]["num_records"] == 8
    assert found["by_label"]["2"]["diagnostics"]["r_hat"] == statistics.quantiles([3.0, 4.0, 8.0])


def test_every_record_has_its_row_whatever_the_groups_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "BLOCK", 2)
    monkeypatch.setattr(summary, "_ROW_GROUP", 4)
    _, table = summarize(tmp_path, "int64", list(range(22)))
    assert table.num_row_groups == 2 * 3  # 11 rows of each shard
    assert table.read()["id"].to_pylist() == [b"%d" % i for i in (*range(0, 22, 2), *range(1, 22, 2))]
