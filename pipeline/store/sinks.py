"""Examples -> a sharded tfds data set and its dead letters, the same bytes in whatever order they come.

Payloads never go through a shuffle. Workers spill them to files in the staging directory, with sorted runs of
entries that say where they are, and only the places of these runs are grouped: by shard, which is a hash of
the id. A shard is written in the order of (id, content hash). Of several records with one id the first in that
order stays; the others become dead letters.
"""

import collections
import dataclasses
import hashlib
import itertools
import json
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import apache_beam as beam
import tensorflow as tf
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindows

from vaefill.pipeline.counters import count
from vaefill.pipeline.records.record import Reason
from vaefill.pipeline.store import entries
from vaefill.pipeline.store.entries import Entry
from vaefill.pipeline.store.sources import DEAD, DeadLetter, Frame
from vaefill.pipeline.store.spill import Place, SpillReader, SpillWriter

DEAD_LETTERS = "dead_letters"
_MOST_ENTRIES = 10_000  # that a worker holds before it spills them, some 6 MB


class Item(NamedTuple):
    """An Example of the data set, with the frame that it was made from."""

    record_id: bytes
    example: bytes | Place  # or where it has been spilled already
    frame: Frame


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a job stages what.

    Attributes:
        root: the staging directory.
        name: the name of the data set, part of its file names.
        folder: where below the root the data set lies; empty for the root itself.
        split, num_shards: of the data set.
    """

    root: str
    name: str
    folder: str
    split: str
    num_shards: int

    @property
    def dataset(self) -> str:
        """The directory of the data set."""
        return os.path.join(self.root, self.folder) if self.folder else self.root

    @property
    def spill(self) -> str:
        """The directory of spilled bytes, gone when the job is done."""
        return os.path.join(self.root, "spill")

    def shard(self, index: int) -> str:
        """The path of a shard, named as tfds expects."""
        return os.path.join(self.dataset, f"{self.name}-{self.split}.tfrecord-{index:05d}-of-{self.num_shards:05d}")

    def part(self, name: str) -> str:
        """The path of something that a worker leaves for the end of the job, gone when it is done."""
        return os.path.join(self.root, "parts", name)

    def temporary(self) -> str:
        """A fresh path for a file that is being written; what a failed attempt leaves goes with the parts."""
        return self.part(uuid.uuid4().hex)

    @property
    def dead_letters(self) -> str:
        """The path of the dead letters."""
        return os.path.join(self.root, DEAD_LETTERS, "dead_letters.tfrecord")

    def shard_of(self, record_id: bytes) -> int:
        """The shard that a record belongs to."""
        digest = hashlib.blake2b(record_id, digest_size=8, person=b"vaefill.shard").digest()
        return int.from_bytes(digest, "little") % self.num_shards


class Observer(Protocol):
    """Something that sees the Examples of a shard in their order."""

    def add(self, example: bytes) -> None:
        """Takes in the next Example."""

    def close(self) -> None:
        """The shard is complete."""


def write_whole(layout: Layout, path: str, content: bytes) -> None:
    """Writes a staged file that is never seen half-written, also by a retry of the same work."""
    temporary = layout.temporary()
    with FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        file.write(content)
    FileSystems.rename([temporary], [path])


class _Spill(beam.DoFn):
    """Appends bytes to one file a bundle."""

    def __init__(self, layout: Layout):
        self._layout = layout

    def start_bundle(self):
        self._writer = SpillWriter(self._layout.spill)

    def finish_bundle(self):
        self._writer.close()

    def _place(self, content: bytes | Place) -> Place:
        """The place of bytes, as it is handed on."""
        place = content if isinstance(content, Place) else self._writer.append(content)
        return place.relative_to(self._layout.root)


def _pack(frame: Frame) -> bytes:
    return json.dumps([frame.file, frame.offset]).encode() + b"\n" + frame.payload


class _Spilled:
    """What places stand for.

    Args:
        root: the staging directory.
    """

    def __init__(self, root: str):
        self._root, self._read = root, SpillReader()

    def content(self, place: Sequence) -> bytes:
        """The bytes at a place."""
        return self._read(Place(*place).below(self._root))

    def frame(self, place: Sequence) -> Frame:
        """The frame at a place."""
        source, _, payload = self.content(place).partition(b"\n")
        return Frame(payload, *json.loads(source))

    def close(self) -> None:
        """Closes the file that is open."""
        self._read.close()


class SpillItems(_Spill):
    """Item -> (shard, places of the blocks of a run of entries)."""

    def start_bundle(self):
        super().start_bundle()
        self._entries, self._num_entries = collections.defaultdict(list), 0

    def process(self, item: Item):
        content_hash = hashlib.sha256(item.frame.payload or item.example).digest()
        entry = Entry(item.record_id, content_hash, self._place(item.example), self._place(_pack(item.frame)))
        self._entries[self._layout.shard_of(item.record_id)].append(entry)
        self._num_entries += 1
        if self._num_entries == _MOST_ENTRIES:
            yield from self._spill_entries()

    def finish_bundle(self):
        runs = self._spill_entries()
        super().finish_bundle()
        yield from map(GlobalWindows.windowed_value, runs)

    def _spill_entries(self) -> list[tuple[int, tuple]]:
        runs = [
            (shard, tuple(tuple(self._place(block)) for block in entries.encode(run)))
            for shard, run in self._entries.items()
        ]
        self._entries, self._num_entries = collections.defaultdict(list), 0
        return runs


class SpillDeadLetters(_Spill):
    """DeadLetter -> its entry, which sorts by (file, offset)."""

    def process(self, letter: DeadLetter):
        yield _dead_entry(
            letter.frame.file,
            letter.frame.offset,
            letter.reason,
            letter.message,
            letter.record_id,
            letter.num_bytes,
            self._place(_pack(letter.frame)),
        )


def _dead_entry(file, offset, reason, message, record_id, num_bytes, place: Place) -> tuple:
    return file, offset, str(reason), message, record_id, num_bytes, tuple(place)


class WriteShards(beam.DoFn):
    """(shard, runs of places of blocks) -> the shard's file; entries of dead letters, for repeated ids, under `DEAD`.

    Args:
        layout: where to write.
        observe: shard -> an observer of the Examples written to it.
    """

    def __init__(self, layout: Layout, observe: Callable[[int], Observer] | None = None):
        self._layout, self._observe = layout, observe

    def process(self, shard_and_runs):
        shard, runs = shard_and_runs
        spilled = _Spilled(self._layout.root)
        observer = self._observe(shard) if self._observe else None
        path = self._layout.shard(shard)
        temporary = self._layout.temporary()
        num_records = num_bytes = 0
        with tf.io.TFRecordWriter(temporary) as writer:
            merged = entries.merge(map(spilled.content, places) for places in runs)
            for _, same_id in itertools.groupby(merged, key=lambda entry: entry.record_id):
                first, *others = self._in_order(spilled, same_id)
                example = spilled.content(first.example)
                writer.write(example)
                num_records, num_bytes = num_records + 1, num_bytes + len(example)
                if observer:
                    observer.add(example)
                for other in others:
                    yield beam.pvalue.TaggedOutput(DEAD, self._duplicate(spilled, other))
        spilled.close()
        if observer:
            observer.close()
        FileSystems.rename([temporary], [path])
        counts = {"num_records": num_records, "num_bytes": num_bytes}
        write_whole(self._layout, self._layout.part(f"shard-{shard:05d}.json"), json.dumps(counts).encode())
        yield shard

    @staticmethod
    def _in_order(spilled: _Spilled, same_id: Iterable[Entry]) -> list[Entry]:
        """Entries of one id, equal contents in the order of their sources."""
        found = list(same_id)
        if len(found) > 1:

            def source(entry):
                frame = spilled.frame(entry.frame)
                return entry.content_hash, frame.file, frame.offset

            found.sort(key=source)
        return found

    @staticmethod
    def _duplicate(spilled: _Spilled, entry: Entry) -> tuple:
        """The entry of a dead letter."""
        frame = spilled.frame(entry.frame)
        message = "another record has the same id"
        return _dead_entry(frame.file, frame.offset, Reason.DUPLICATE_ID, message, entry.record_id, 0, entry.frame)


class WriteDeadLetters(beam.DoFn):
    """(None, entries) -> the file of dead letters and their counts."""

    def __init__(self, layout: Layout):
        self._layout = layout

    def process(self, key_and_entries):
        _, letters = key_and_entries
        spilled, counts = _Spilled(self._layout.root), DeadLetterCounts.empty()
        temporary = self._layout.temporary()
        with tf.io.TFRecordWriter(temporary) as writer:
            for file, offset, reason, message, record_id, num_bytes, place in sorted(letters):
                payload = spilled.frame(place).payload
                writer.write(_dead_letter_example(file, offset, reason, message, record_id, payload))
                counts.add(reason, num_bytes)
                count(f"dead_{reason}")
        spilled.close()
        FileSystems.rename([temporary], [self._layout.dead_letters])
        write_whole(
            self._layout, self._layout.part("dead_letters.json"), json.dumps(dataclasses.asdict(counts)).encode()
        )
        yield counts.total


@dataclasses.dataclass
class DeadLetterCounts:
    """Dead letters by reason; stretches in which no record can be found are counted apart."""

    by_reason: dict[str, int]
    unreadable_stretches: int
    unreadable_bytes: int

    @classmethod
    def empty(cls) -> "DeadLetterCounts":
        """No dead letters."""
        return cls({}, 0, 0)

    @property
    def total(self) -> int:
        """Bad records."""
        return sum(self.by_reason.values())

    def as_dict(self) -> dict[str, Any]:
        """The counts as the manifest and the summary have them."""
        return {
            "dead": self.total,
            "dead_by_reason": dict(sorted(self.by_reason.items())),
            "unreadable_stretches": self.unreadable_stretches,
            "unreadable_bytes": self.unreadable_bytes,
        }

    def add(self, reason: str, num_bytes: int) -> None:
        """Counts a dead letter."""
        if reason == Reason.UNREADABLE_REST:
            self.unreadable_stretches += 1
            self.unreadable_bytes += num_bytes
        else:
            self.by_reason[reason] = self.by_reason.get(reason, 0) + 1


def _dead_letter_example(file, offset, reason, message, record_id, payload) -> bytes:
    def feature(*values: bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    features = {
        "payload": feature(payload),
        "reason": feature(reason.encode()),
        "message": feature(message.encode()),
        "file": feature(file.encode()),
        "offset": tf.train.Feature(int64_list=tf.train.Int64List(value=[offset])),
        "id": feature(record_id) if record_id else feature(),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


@dataclasses.dataclass
class WriteDataset(beam.PTransform):
    """(items, dead letters, ...) -> the files of a data set and of its dead letters.

    Attributes:
        layout: where to write; `prepare` has made its directories.
        observe: shard -> an observer of the Examples written to it.
    """

    layout: Layout
    observe: Callable[[int], Observer] | None = None

    def expand(self, inputs):
        items, *dead_letters = inputs
        shards = (
            items
            | "Spill" >> beam.ParDo(SpillItems(self.layout))
            | "ByShard" >> beam.GroupByKey()
            | "WriteShards" >> beam.ParDo(WriteShards(self.layout, self.observe)).with_outputs(DEAD, main="written")
        )
        spilled = dead_letters | "Flatten" >> beam.Flatten() | "SpillDead" >> beam.ParDo(SpillDeadLetters(self.layout))
        _ = (
            (spilled, shards[DEAD])
            | "AllDead" >> beam.Flatten()
            | "OneKey" >> beam.WithKeys(None)
            | "Group" >> beam.GroupByKey()
            | "WriteDead" >> beam.ParDo(WriteDeadLetters(self.layout))
        )
        return shards["written"]


def prepare(layout: Layout) -> None:
    """Makes the staging directories."""
    for directory in (layout.dataset, layout.spill, layout.part(""), os.path.dirname(layout.dead_letters)):
        os.makedirs(directory, exist_ok=True)


def finish(layout: Layout) -> tuple[list[dict[str, int]], DeadLetterCounts]:
    """Completes the files of a pipeline that has run: empty shards and an empty file of dead letters.

    Returns:
        num_records and num_bytes of every shard, and the dead letters' counts.
    """
    shards = []
    for index in range(layout.num_shards):
        part = layout.part(f"shard-{index:05d}.json")
        if os.path.exists(part):
            with open(part, encoding="utf-8") as file:
                shards.append(json.load(file))
        else:
            write_whole(layout, layout.shard(index), b"")
            shards.append({"num_records": 0, "num_bytes": 0})
    counts = layout.part("dead_letters.json")
    if not os.path.exists(counts):
        write_whole(layout, layout.dead_letters, b"")
        return shards, DeadLetterCounts.empty()
    with open(counts, encoding="utf-8") as file:
        return shards, DeadLetterCounts(**json.load(file))
