"""Items -> a sharded data set and its dead letters, the same bytes in whatever order they come.

The shard of an item is a hash of its id. Of several items with one id the first in the order of
(content hash, source) stays; others with its content are counted, the rest become dead letters.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import apache_beam as beam
from apache_beam.typehints.decorators import no_annotations

from vaefill.model import files
from vaefill.records.record import Schema
from vaefill.store.dead_letters import (
    DEAD,
    DeadLetterCounts,
    SpillDeadLetters,
    WriteDeadLetters,
    duplicate,
)
from vaefill.store.exchange import Exchange, SpillingExchange
from vaefill.store.layout import Layout
from vaefill.store.writers import ShardCounts, StoredRecord, TFRecordWriter, Writer


class Observer(Protocol):
    """Something that sees the records of a shard in their order."""

    def add(self, record: StoredRecord) -> None:
        """Takes in the next record."""

    def close(self) -> None:
        """The shard is complete."""


class WriteShards(beam.DoFn):
    """(shard, parts) -> the shard's file; entries of dead letters, for repeated ids, under `DEAD`.

    Args:
        layout: where to write.
        schema: of the data set.
        exchange: that the parts came by.
        open_writer: path -> a writer of the file there.
        observe: shard -> an observer of the records written to it, if there is to be one.
    """

    def __init__(
        self,
        layout: Layout,
        schema: Schema,
        exchange: Exchange,
        open_writer: Callable[[str], Writer],
        observe: Callable[[int], Observer] | None,
    ):
        self._layout = layout
        self._schema = schema
        self._exchange = exchange
        self._open_writer = open_writer
        self._observe = observe

    def process(self, shard_and_parts: tuple[int, Any]) -> Iterator[Any]:
        shard, parts = shard_and_parts
        observer = self._observe(shard) if self._observe else None
        with files.written_whole(self._layout.shard(shard), self._layout.temporary()) as growing:
            writer = self._open_writer(growing)
            last, num_repeated = (b"", b""), 0
            for item in self._exchange.in_order(parts):
                former, last = last, item[:2]
                if last == former:
                    num_repeated += 1
                    continue
                if item.record_id == former[0]:
                    yield beam.pvalue.TaggedOutput(DEAD, duplicate(item))
                    continue
                assert isinstance(item.example, bytes)
                record = StoredRecord(item.content_hash, item.example, self._schema)
                writer.write(record)
                if observer:
                    observer.add(record)
            counts = writer.close()._replace(num_repeated=num_repeated)
            if observer:
                observer.close()
        content = json.dumps(counts._asdict())
        files.write_whole(_counts_path(self._layout, shard), content, self._layout.temporary())
        yield shard


def _counts_path(layout: Layout, shard: int) -> str:
    return layout.part(f"shard-{shard:05d}.json")


@dataclasses.dataclass
class WriteDataset(beam.PTransform):
    """(items, dead letters, ...) -> the files of a data set and of its dead letters.

    Attributes:
        layout: where to write; `prepare` has made its directories.
        schema: of the data set.
        max_bad_bytes: dead letters of more end the job.
        observe: shard -> an observer of the records written to it, if there is to be one.
        open_writer: path -> a writer of the file there; `finish` needs the same.
        exchange: how items come to their shards, by default by spilled files.
    """

    layout: Layout
    schema: Schema
    max_bad_bytes: int
    observe: Callable[[int], Observer] | None = None
    open_writer: Callable[[str], Writer] = TFRecordWriter
    exchange: Exchange | None = None

    @no_annotations  # of several inputs Beam cannot read them
    def expand(self, inputs: tuple[beam.PCollection, ...]) -> beam.PCollection:
        items, *dead_letters = inputs
        exchange = self.exchange or SpillingExchange(self.layout)
        write = WriteShards(self.layout, self.schema, exchange, self.open_writer, self.observe)
        write_shards = beam.ParDo(write).with_outputs(DEAD, main="written")
        shards = exchange.by_shard(items) | "WriteShards" >> write_shards
        # Each beside what makes them: to flatten them first would be to keep them all in memory
        spilled = [
            letters
            | f"SpillDead{index}" >> beam.ParDo(SpillDeadLetters(self.layout, self.max_bad_bytes))
            for index, letters in enumerate(dead_letters)
        ]
        _ = (
            (*spilled, shards[DEAD])
            | "AllDead" >> beam.Flatten()
            | "OneKey" >> beam.WithKeys(None)
            | "Group" >> beam.GroupByKey()
            | "WriteDead" >> beam.ParDo(WriteDeadLetters(self.layout))
        )
        return shards["written"]


def finish(
    layout: Layout, open_writer: Callable[[str], Writer] = TFRecordWriter
) -> tuple[list[ShardCounts], DeadLetterCounts]:
    """Completes the files of a pipeline that has run: empty shards, and a file of no dead letters.

    Args:
        layout: of the pipeline.
        open_writer: as for `WriteDataset`.

    Returns:
        What every shard holds, and the dead letters' counts.
    """
    shards = [_finish_shard(layout, shard, open_writer) for shard in range(layout.num_shards)]
    counts = layout.part("dead_letters.json")
    if not files.exists(counts):
        files.write_whole(layout.dead_letters, b"", layout.temporary())
        return shards, DeadLetterCounts.empty()
    return shards, DeadLetterCounts(**files.read_json(counts))


def _finish_shard(layout: Layout, shard: int, open_writer: Callable[[str], Writer]) -> ShardCounts:
    """What a shard holds, which is made where nobody has written it."""
    if files.exists(path := _counts_path(layout, shard)):
        return ShardCounts(**files.read_json(path))
    with files.written_whole(layout.shard(shard), layout.temporary()) as growing:
        return open_writer(growing).close()
