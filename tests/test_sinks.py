"""Sharded output: the same bytes in any order, one record an id, everything else a dead letter."""

import gzip
import hashlib
import os
import random

import apache_beam as beam
import pytest
import tensorflow as tf
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from vaefill import config as config_lib
from vaefill import jobs
from vaefill.errors import BadInputError
from vaefill.records.record import HASH_SIZE, Reason, Schema
from vaefill.store import exchange, sinks, sources, tfrecord
from vaefill.store import items as items_lib
from vaefill.store.dead_letters import DeadLetterCounts
from vaefill.store.items import Item
from vaefill.store.layout import Layout, prepare
from vaefill.store.tfrecord import DeadLetter, Frame
from vaefill.store.writers import ShardCounts, StoredRecord

SCHEMA = Schema((1, 1, 1), {})  # of Examples that nobody decodes


def run(
    root, items, dead_letters=(), num_shards=3, num_bundles=1, max_bad_bytes=1 << 20, **settings
):
    layout = Layout(str(root), "things", "things", "train", num_shards)
    prepare(layout)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        parts = (
            tuple(
                pipeline | f"Items{i}" >> beam.Create(items[i::num_bundles])
                for i in range(num_bundles)
            )
            | beam.Flatten()
        )
        dead = pipeline | "Dead" >> beam.Create(list(dead_letters))
        _ = (parts, dead) | sinks.WriteDataset(layout, SCHEMA, max_bad_bytes, **settings)
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


def make_item(record_id: bytes, example: bytes, frame: Frame) -> Item:
    """An item whose content hash is that of its payload."""
    content_hash = hashlib.blake2b(frame.payload, digest_size=HASH_SIZE).digest()
    return Item(record_id, content_hash, frame.source, example)


def make_items(num: int) -> list[Item]:
    frames = [Frame(b"payload %d" % i, "file", i) for i in range(num)]
    return [make_item(b"id-%d" % i, b"example %d" % i, frame) for i, frame in enumerate(frames)]


def write_frames(path, payloads, pack=bytes) -> list[Frame]:
    """Writes an input file, and reads it."""
    path.write_bytes(pack(b"".join(map(tfrecord.frame, payloads))))
    return list(tfrecord.read_frames(str(path), 1000))


def test_every_record_is_written_once_in_order(tmp_path):
    layout, shards, dead = run(tmp_path, make_items(50))
    assert sum(shard.num_records for shard in shards) == 50
    assert dead == DeadLetterCounts({}, 0, 0)
    everything = []
    for index, shard in enumerate(shards):
        examples = records(layout.shard(index))
        assert shard == ShardCounts(len(examples), sum(map(len, examples)))
        ids = [b"id-" + example.split()[1] for example in examples]
        assert ids == sorted(ids) and all(layout.shard_of(record_id) == index for record_id in ids)
        everything += examples
    assert sorted(everything) == sorted(item.example for item in make_items(50))


def test_the_same_bytes_in_any_order_and_bundling(tmp_path):
    twins = write_frames(tmp_path / "in", [b"other payload", b"another"])
    items = make_items(40) + [make_item(b"twin", frame.payload, frame) for frame in twins]
    dead = [
        DeadLetter(Frame(b"x%d" % i, "file", 100 + i), Reason.NO_ID, "no id", b"", 0)
        for i in range(5)
    ]
    first = content(run(tmp_path / "a", items, dead)[0])
    shuffled = random.Random(1).sample(items, len(items))
    assert content(run(tmp_path / "b", shuffled, dead[::-1], num_bundles=4)[0]) == first


def test_the_same_bytes_in_runs_and_blocks_of_any_size(tmp_path, monkeypatch):
    items = make_items(40)
    first = content(run(tmp_path / "a", items)[0])
    monkeypatch.setattr(exchange, "_MOST_ITEMS", 17)
    monkeypatch.setattr(items_lib, "_BLOCK", 2)
    layout, _, _ = run(tmp_path / "b", items)
    assert content(layout) == first


def dead_letters(layout: Layout) -> list[dict]:
    found = []
    for record in records(layout.dead_letters):
        features = tf.train.Example.FromString(record).features.feature
        found.append(
            {name: list(getattr(f, f.WhichOneof("kind")).value) for name, f in features.items()}
        )
    return found


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_of_records_with_one_id_the_smallest_content_hash_stays(tmp_path, pack):
    """The payloads of the others are read again from their files."""
    payloads = [b"payload %d" % i for i in range(6)]
    frames = write_frames(tmp_path / "one", payloads[:4], pack)
    frames += write_frames(tmp_path / "two", payloads[4:], pack)
    twins = [make_item(b"same", frame.payload, frame) for frame in frames]
    kept = min(twins).example
    for name, order in (("a", twins), ("b", twins[::-1]), ("c", twins[2:] + twins[:2])):
        layout, shards, counts = run(tmp_path / name, order)
        assert sum(shard.num_records for shard in shards) == 1
        assert counts.by_reason == {"duplicate_id": 5}
        assert [each for index in range(3) for each in records(layout.shard(index))] == [kept]
        others = [payload for payload in payloads if payload != kept]
        assert [letter["payload"][0] for letter in dead_letters(layout)] == others


def test_of_equal_records_the_first_source_stays(tmp_path):
    """And the Example of that one, for what is carried with a record may not be in its frame."""
    frames = write_frames(tmp_path / "b", [b"payload"] * 2)
    frames += write_frames(tmp_path / "a", [b"payload"] * 12)
    frames = [frames[0], frames[3], frames[1], frames[13]]
    names = [b"%s %d" % (os.path.basename(each.file).encode(), each.offset) for each in frames]
    twins = [make_item(b"same", name, frame) for name, frame in zip(names, frames)]
    assert [frame.offset for frame in frames] == [0, 23, 23, 253]
    for name, order in (("forth", twins), ("back", twins[::-1])):
        layout, shards, counts = run(tmp_path / name, order)
        assert [each for index in range(3) for each in records(layout.shard(index))] == [b"a 23"]
        assert sum(shard.num_repeated for shard in shards) == 3 and counts.total == 0
        assert not dead_letters(layout)


def test_copies_of_two_contents_under_one_id_are_one_record_and_one_dead_letter(tmp_path):
    frames = write_frames(tmp_path / "in", [b"one", b"other", b"one", b"other", b"one"])
    layout, shards, counts = run(
        tmp_path, [make_item(b"same", frame.payload, frame) for frame in frames]
    )
    assert sum(shard.num_records for shard in shards) == 1
    assert sum(shard.num_repeated for shard in shards) == 3
    assert counts.by_reason == {"duplicate_id": 1} and len(dead_letters(layout)) == 1


def test_what_no_file_holds_is_a_dead_letter_without_payload(tmp_path):
    """As of a tfds data set with one id twice."""
    twins = [
        make_item(b"same", b"", Frame(b"", "things/test", i))._replace(
            content_hash=bytes(15) + each
        )
        for i, each in enumerate((b"\0", b"\1"))
    ]
    layout, _, _ = run(tmp_path, twins)
    (letter,) = dead_letters(layout)
    assert (letter["payload"], letter["file"], letter["offset"]) == ([b""], [b"things/test"], [1])


def test_input_that_is_all_bad_ends_the_job_early(tmp_path, monkeypatch):
    """At the letter that passes the limit, of 300; each counts as 512 bytes if it has fewer."""
    seen, decode = [], sources.decode
    monkeypatch.setattr(sources, "decode", lambda *arguments: seen.append(0) or decode(*arguments))
    for size, number in ((1000, 21), (3, 40)):
        seen.clear()
        path = tmp_path / f"{size}.tfrecord"
        path.write_bytes(tfrecord.frame(b"\xff" * size) * 300)
        config = config_lib.load("test.yaml", ["limits.max_bad_bytes=20000"])
        with pytest.raises(
            BadInputError, match="max_bad_bytes = 20000 bytes, .*not_an_exam"
        ) as error:
            jobs.mask(config, str(path), str(tmp_path / "out"))
        assert len(seen) == number and error.value.exit_code == 3
        assert f"{path} at {(number - 1) * (size + 16)} " in str(error.value)
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_dead_letters_keep_payload_reason_and_place(tmp_path):
    letters = [
        DeadLetter(Frame(b"bad", "b", 7), Reason.NO_ID, "no id", b"", 0),
        DeadLetter(Frame(b"worse", "a", 9), Reason.BAD_IMAGE, "a bad image", b"me", 0),
        DeadLetter(Frame(b"", "a", 50), Reason.UNREADABLE_REST, "cut", b"", 123),
    ]
    layout, _, counts = run(tmp_path, make_items(2), letters)
    assert counts == DeadLetterCounts({"bad_image": 1, "no_id": 1}, 1, 123)
    assert counts.first == {
        "bad_image": "a at 9, id me: a bad image",
        "no_id": "b at 7: no id",
        "unreadable_rest": "a at 50: cut",
    }
    found = dead_letters(layout)
    assert [letter["file"] for letter in found] == [[b"a"], [b"a"], [b"b"]]
    assert [letter["payload"] for letter in found] == [[b"worse"], [b""], [b"bad"]]
    assert [letter["reason"] for letter in found] == [
        [b"bad_image"],
        [b"unreadable_rest"],
        [b"no_id"],
    ]
    assert [letter["id"] for letter in found] == [[b"me"], [], []]


def test_empty_shards_are_there(tmp_path):
    layout, shards, _ = run(tmp_path, make_items(1), num_shards=5)
    assert sorted(shard.num_records for shard in shards) == [0, 0, 0, 0, 1]
    assert all(os.path.exists(layout.shard(index)) for index in range(5))


def test_observers_see_the_shards_in_their_order(tmp_path):
    layout = Layout(str(tmp_path), "things", "things", "train", 2)
    prepare(layout)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        items = pipeline | beam.Create(make_items(20))
        dead = pipeline | "Dead" >> beam.Create([])
        _ = (items, dead) | sinks.WriteDataset(layout, SCHEMA, 1 << 20, Recorder(str(tmp_path)))
    for shard in range(2):
        seen = (tmp_path / f"seen-{shard}").read_bytes().split(b"|")[:-1]
        assert seen == records(layout.shard(shard))


class Lines:
    """A `Writer` of a line for each record."""

    def __init__(self, path: str):
        self._file = open(path, "wb")
        self._sizes = []

    def write(self, record: StoredRecord):
        self._file.write(record.content_hash.hex().encode() + b" " + record.example + b"\n")
        self._sizes.append(len(record.example))

    def close(self) -> ShardCounts:
        self._file.close()
        return ShardCounts(len(self._sizes), sum(self._sizes))


def test_another_writer_has_the_same_records_in_the_same_order(tmp_path):
    items = make_items(20)
    first, shards, _ = run(tmp_path / "a", items, num_shards=2)
    other, same, _ = run(tmp_path / "b", items, num_shards=2, open_writer=Lines)
    assert same == shards
    hashes = {item.example: item.content_hash.hex().encode() for item in items}
    for shard in range(2):
        expected = [hashes[example] + b" " + example for example in records(first.shard(shard))]
        with open(other.shard(shard), "rb") as file:
            assert file.read().splitlines() == expected


class InMemory:
    """An `Exchange` by Beam's own shuffle."""

    def __init__(self, layout: Layout):
        self._layout = layout

    def by_shard(self, items):
        return items | beam.Map(self._keyed) | beam.GroupByKey()

    def _keyed(self, item: Item):
        return self._layout.shard_of(item.record_id), item

    def in_order(self, parts):
        return iter(sorted(parts))


def test_another_exchange_leads_to_the_same_bytes(tmp_path):
    twins = write_frames(tmp_path / "in", [b"other payload", b"another"])
    items = make_items(20) + [make_item(b"twin", frame.payload, frame) for frame in twins]
    expected, _, _ = run(tmp_path / "a", items)
    other = InMemory(expected)
    found, _, _ = run(tmp_path / "b", items[::-1], exchange=other)
    assert content(found) == content(expected)


class Recorder:
    """Makes observers that write down what they see."""

    def __init__(self, directory: str):
        self._directory = directory

    def __call__(self, shard: int):
        return Recording(os.path.join(self._directory, f"seen-{shard}"))


class Recording:
    def __init__(self, path: str):
        self._path, self._seen = path, b""

    def add(self, record: StoredRecord):
        self._seen += record.example + b"|"

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
