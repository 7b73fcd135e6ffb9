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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import apache_beam as beam
import tensorflow as tf
import tensorflow_datasets as tfds
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindows

from vaefill.pipeline.records.record import Reason
from vaefill.pipeline.store import entries
from vaefill.pipeline.store.dead_letters import DEAD, DeadLetterCounts, SpillDeadLetters, WriteDeadLetters, entry_of
from vaefill.pipeline.store.entries import Entry
from vaefill.pipeline.store.layout import Layout, write_whole
from vaefill.pipeline.store.spill import Place, Spill, Spilled, pack
from vaefill.pipeline.store.tfrecord import Frame

_MOST_ENTRIES = 10_000  # that a worker holds before it spills them, some 6 MB


class Item(NamedTuple):
    """An Example of the data set, with the frame that it was made from."""

    record_id: bytes
    example: bytes | Place  # or where it has been spilled already
    frame: Frame


class Observer(Protocol):
    """Something that sees the Examples of a shard in their order."""

    def add(self, example: bytes) -> None:
        """Takes in the next Example."""

    def close(self) -> None:
        """The shard is complete."""


class SpillItems(Spill):
    """Item -> (shard, places of the blocks of a run of entries)."""

    def start_bundle(self):
        super().start_bundle()
        self._entries, self._num_entries = collections.defaultdict(list), 0

    def process(self, item: Item):
        content_hash = hashlib.sha256(item.frame.payload or item.example).digest()
        entry = Entry(item.record_id, content_hash, self.place(item.example), self.place(pack(item.frame)))
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
            (shard, tuple(tuple(self.place(block)) for block in entries.encode(run)))
            for shard, run in self._entries.items()
        ]
        self._entries, self._num_entries = collections.defaultdict(list), 0
        return runs


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
        spilled = Spilled(self._layout.root)
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
    def _in_order(spilled: Spilled, same_id: Iterable[Entry]) -> list[Entry]:
        """Entries of one id, equal contents in the order of their sources."""
        found = list(same_id)
        if len(found) > 1:

            def source(entry):
                frame = spilled.frame(entry.frame)
                return entry.content_hash, frame.file, frame.offset

            found.sort(key=source)
        return found

    @staticmethod
    def _duplicate(spilled: Spilled, entry: Entry) -> tuple:
        """The entry of a dead letter."""
        frame = spilled.frame(entry.frame)
        message = "another record has the same id"
        return entry_of(frame.file, frame.offset, Reason.DUPLICATE_ID, message, entry.record_id, 0, entry.frame)


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


def write_dataset_info(
    layout: Layout, features: tfds.features.FeaturesDict, shards: Sequence[Mapping[str, int]], description: str
) -> None:
    """Makes the staged files a tfds data set: features.json and dataset_info.json."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=layout.dataset,
        dataset_name=layout.name,
        split=layout.split,
        filetype_suffix="tfrecord",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    split = tfds.core.SplitInfo(
        name=layout.split,
        shard_lengths=[shard["num_records"] for shard in shards],
        num_bytes=sum(shard["num_bytes"] for shard in shards),
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=layout.dataset,
        features=features,
        split_infos=[split],
        filename_template=template,
        description=description,
        check_data=False,
    )
