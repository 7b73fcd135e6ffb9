"""Sharded output: the same bytes in any order, one record an id, everything else a dead letter."""

import os
import random

import apache_beam as beam
import pytest
import tensorflow as tf
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from vaefill.pipeline.records.record import Reason
from vaefill.pipeline.store import entries, sinks
from vaefill.pipeline.store.dead_letters import DeadLetterCounts
from vaefill.pipeline.store.layout import Layout, prepare
from vaefill.pipeline.store.sinks import Item
from vaefill.pipeline.store.tfrecord import DeadLetter, Frame


def run(root, items, dead_letters=(), num_shards=3, num_bundles=1):
    layout = Layout(str(root), "things", "things", "train", num_shards)
    prepare(layout)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        parts = (
            tuple(pipeline | f"Items{i}" >> beam.Create(items[i::num_bundles]) for i in range(num_bundles))
            | beam.Flatten()
        )
        dead = pipeline | "Dead" >> beam.Create(list(dead_letters))
        _ = (parts, dead) | sinks.WriteDataset(layout)
    return layout, *sinks.finish(layout)


def records(path) -> list[bytes]:
    return [record.numpy() for record in tf.data.TFRecordDataset(path)]


def content(layout: Layout) -> dict[str, bytes]:
    paths = [layout.shard(index) for index in range(layout.num_shards)] + [layout.dead_letters]
    found = {}
    for path in paths:
        with open(path, "rb") as file:
            found[os.path.basename(path)] = file.read()
    return found


def make_items(num: int) -> list[Item]:
    return [Item(b"id-%d" % i, b"example %d" % i, Frame(b"payload %d" % i, "file", i)) for i in range(num)]


def test_every_record_is_written_once_in_order(tmp_path):
    layout, shards, dead = run(tmp_path, make_items(50))
    assert sum(shard["num_records"] for shard in shards) == 50
    assert dead == DeadLetterCounts({}, 0, 0)
    everything = []
    for index, shard in enumerate(shards):
        examples = records(layout.shard(index))
        assert shard == {"num_records": len(examples), "num_bytes": sum(map(len, examples))}
        ids = [b"id-" + example.split()[1] for example in examples]
        assert ids == sorted(ids) and all(layout.shard_of(record_id) == index for record_id in ids)
        everything += examples
    assert sorted(everything) == sorted(item.example for item in make_items(50))


def test_the_same_bytes_in_any_order_and_bundling(tmp_path):
    items = make_items(40) + [Item(b"id-3", b"other", Frame(b"other payload", "file2", 9))]
    dead = [DeadLetter(Frame(b"x%d" % i, "file", 100 + i), Reason.NO_ID, "no id", b"", 0) for i in range(5)]
    first = content(run(tmp_path / "a", items, dead)[0])
    shuffled = random.Random(1).sample(items, len(items))
    assert content(run(tmp_path / "b", shuffled, dead[::-1], num_bundles=4)[0]) == first


def test_the_same_bytes_in_runs_and_blocks_of_any_size(tmp_path, monkeypatch):
    items = make_items(40)
    first = content(run(tmp_path / "a", items)[0])
    monkeypatch.setattr(sinks, "_MOST_ENTRIES", 17)
    monkeypatch.setattr(entries, "_BLOCK", 2)
    layout, _, _ = run(tmp_path / "b", items)
    assert content(layout) == first


def dead_letters(layout: Layout) -> list[dict]:
    found = []
    for record in records(layout.dead_letters):
        features = tf.train.Example.FromString(record).features.feature
        found.append({name: list(getattr(f, f.WhichOneof("kind")).value) for name, f in features.items()})
    return found


def test_of_records_with_one_id_the_smallest_content_hash_stays(tmp_path):
    twins = [Item(b"same", b"example %d" % i, Frame(b"payload %d" % i, f"file{i}", i)) for i in range(3)]
    layout, shards, counts = run(tmp_path / "a", twins)
    assert sum(shard["num_records"] for shard in shards) == 1
    assert counts.by_reason == {"duplicate_id": 2}
    kept = next(example for index in range(3) for example in records(layout.shard(index)))
    assert {letter["payload"][0][-1:] for letter in dead_letters(layout)} == {b"0", b"1", b"2"} - {kept[-1:]}
    for order in (twins[::-1], twins[1:] + twins[:1]):
        other, _, _ = run(tmp_path / str(order[0].frame.offset), order)
        assert content(other) == content(layout)


def test_of_equal_records_the_first_source_stays(tmp_path):
    """And the example of that one, for what is carried with a record may not be in its frame."""
    sources = [("b", 3), ("a", 30), ("b", 4), ("a", 200)]
    twins = [
        Item(b"same", b"%s %d" % (file.encode(), offset), Frame(b"payload", file, offset)) for file, offset in sources
    ]
    for name, order in (("forth", twins), ("back", twins[::-1])):
        layout, _, _ = run(tmp_path / name, order)
        assert [example for index in range(3) for example in records(layout.shard(index))] == [b"a 30"]
        found = [(letter["file"][0], letter["offset"][0]) for letter in dead_letters(layout)]
        assert found == [(b"a", 200), (b"b", 3), (b"b", 4)]


def test_dead_letters_keep_payload_reason_and_place(tmp_path):
    letters = [
        DeadLetter(Frame(b"bad", "b", 7), Reason.NO_ID, "no id", b"", 0),
        DeadLetter(Frame(b"worse", "a", 9), Reason.BAD_IMAGE, "a bad image", b"me", 0),
        DeadLetter(Frame(b"", "a", 50), Reason.UNREADABLE_REST, "cut", b"", 123),
    ]
    layout, _, counts = run(tmp_path, make_items(2), letters)
    assert counts == DeadLetterCounts({"bad_image": 1, "no_id": 1}, 1, 123)
    found = dead_letters(layout)
    assert [letter["file"] for letter in found] == [[b"a"], [b"a"], [b"b"]]
    assert [letter["payload"] for letter in found] == [[b"worse"], [b""], [b"bad"]]
    assert [letter["reason"] for letter in found] == [[b"bad_image"], [b"unreadable_rest"], [b"no_id"]]
    assert [letter["id"] for letter in found] == [[b"me"], [], []]


def test_empty_shards_are_there(tmp_path):
    layout, shards, _ = run(tmp_path, make_items(1), num_shards=5)
    assert sorted(shard["num_records"] for shard in shards) == [0, 0, 0, 0, 1]
    assert all(os.path.exists(layout.shard(index)) for index in range(5))


def test_observers_see_the_shards_in_their_order(tmp_path):
    layout = Layout(str(tmp_path), "things", "things", "train", 2)
    prepare(layout)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        items = pipeline | beam.Create(make_items(20))
        dead = pipeline | "Dead" >> beam.Create([])
        _ = (items, dead) | sinks.WriteDataset(layout, Recorder(str(tmp_path)))
    for shard in range(2):
        seen = (tmp_path / f"seen-{shard}").read_bytes().split(b"|")[:-1]
        assert seen == records(layout.shard(shard))


class Recorder:
    """Makes observers that write down what they see."""

    def __init__(self, directory: str):
        self._directory = directory

    def __call__(self, shard: int):
        return Recording(os.path.join(self._directory, f"seen-{shard}"))


class Recording:
    def __init__(self, path: str):
        self._path, self._seen = path, b""

    def add(self, example: bytes):
        self._seen += example + b"|"

    def close(self):
        with open(self._path, "wb") as file:
            file.write(self._seen)


@pytest.mark.parametrize("num_shards", [1, 7])
def test_ids_spread_over_shards(num_shards):
    layout = Layout("", "things", "", "train", num_shards)
    counts = [0] * num_shards
    for i in range(7000):
        counts[layout.shard_of(b"%d" % i)] += 1
    assert min(counts) > 0.8 * 7000 / num_shards
