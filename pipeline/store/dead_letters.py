"""Dead letters: what could not be used, as a file of Examples with the reason, and counts."""

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import tensorflow as tf
from google.protobuf.message import DecodeError

from vaefill.counters import count
from vaefill.errors import ResultError
from vaefill.model import files
from vaefill.records.record import Reason
from vaefill.records.text import printable
from vaefill.store.items import Item
from vaefill.store.layout import Layout
from vaefill.store.spill import Spill, Spilled
from vaefill.store.tfrecord import DeadLetter, Frame, PayloadReader, Source, read_frames

DEAD = "dead"  # tag of the outputs that hold dead letters
_LONGEST_ID = 60  # characters of an id that are shown


class Entry(NamedTuple):
    """A dead letter without its payload. Sorts by (file, offset); is handed on as a plain tuple."""

    source: tuple  # the fields of a `Source`
    reason: str
    message: str
    record_id: bytes
    num_bytes: int
    place: tuple = ()  # where the payload was spilled; if it was not, its source still has it


class SpillDeadLetters(Spill):
    """DeadLetter -> its entry."""

    def process(self, letter: DeadLetter) -> Iterator[Any]:
        place = tuple(self.spill(letter.frame.payload))
        rest = str(letter.reason), letter.message, letter.record_id, letter.num_bytes
        yield tuple(Entry(tuple(letter.frame.source), *rest, place))


def duplicate(item: Item) -> tuple:
    """The entry of a dead letter for an item whose id another one has."""
    reason, message = str(Reason.DUPLICATE_ID), "another record has the same id"
    return tuple(Entry(tuple(item.source), reason, message, item.record_id, num_bytes=0))


class WriteDeadLetters(beam.DoFn):
    """(None, entries) -> the file of dead letters and their counts."""

    def __init__(self, layout: Layout):
        self._layout = layout

    def process(self, key_and_entries: tuple[Any, Any]) -> Iterator[Any]:
        _, entries = key_and_entries
        counts = DeadLetterCounts.empty()
        with (
            contextlib.closing(Spilled(self._layout.root)) as spilled,
            contextlib.closing(PayloadReader()) as read_again,
            files.written_whole(self._layout.dead_letters, self._layout.temporary()) as growing,
            tf.io.TFRecordWriter(growing) as writer,
        ):
            for entry in itertools.starmap(Entry, sorted(entries)):
                source = Source(*entry.source)
                payload = spilled.content(entry.place) if entry.place else read_again(source)
                writer.write(_dead_letter_example(entry, payload))
                counts.add(entry)
                count(f"dead_{entry.reason}")
        content = json.dumps(dataclasses.asdict(counts))
        files.write_whole(self._layout.part("dead_letters.json"), content, self._layout.temporary())
        yield counts.total


@dataclasses.dataclass
class DeadLetterCounts:
    """Dead letters by reason; stretches in which no record can be found are counted apart.

    Of each reason the first one that is added stands for all, in words.
    """

    by_reason: dict[str, int]
    unreadable_stretches: int
    unreadable_bytes: int
    first: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)

    @classmethod
    def empty(cls) -> "DeadLetterCounts":
        """No dead letters."""
        return cls({}, 0, 0)

    @property
    def total(self) -> int:
        """Bad records."""
        return sum(self.by_reason.values())

    def add(self, entry: Entry) -> None:
        """Counts a dead letter."""
        reason = entry.reason
        self.first.setdefault(reason, _in_words(entry))
        if reason == Reason.UNREADABLE_REST:
            self.unreadable_stretches += 1
            self.unreadable_bytes += entry.num_bytes
        else:
            self.by_reason[reason] = self.by_reason.get(reason, 0) + 1


def _in_words(entry: Entry) -> str:
    """Where a dead letter stands and what is wrong with it."""
    file, offset, _ = entry.source
    of_id = f", id {printable(entry.record_id, _LONGEST_ID)}" if entry.record_id else ""
    return f"{printable(file)} at {offset}{of_id}: {printable(entry.message)}"


def _dead_letter_example(entry: Entry, payload: bytes) -> bytes:
    file, offset, _ = entry.source

    def feature(*values: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    features = {
        "payload": feature(payload),
        "reason": feature(entry.reason.encode()),
        "message": feature(entry.message.encode()),
        "file": feature(file.encode()),
        "offset": tf.train.Feature(int64_list=tf.train.Int64List(value=[offset])),
        "id": feature(entry.record_id) if entry.record_id else feature(),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(
        deterministic=True
    )


class Letter(NamedTuple):
    """A dead letter as it stands in its file, which may be anybody's."""

    payload: bytes
    reason: str
    message: str
    file: str
    offset: int
    record_id: bytes

    def cells(self) -> tuple[str, ...]:
        """Reason, offset, id, file and message as text for people, without control codes."""
        return (
            printable(self.reason, _LONGEST_ID),
            str(self.offset),
            printable(self.record_id, _LONGEST_ID) or "-",
            printable(self.file),
            printable(self.message),
        )


def read(path: str, reasons: Sequence[str] = ()) -> Iterator[Letter]:
    """The dead letters of a file, one at a time.

    Args:
        path: of the file; none of its records can be larger than itself.
        reasons: of those that are wanted, by default all.

    Raises:
        ResultError: the file is not one of dead letters.
    """
    with files.open_to_read(path) as file:
        size = file.seek(0, os.SEEK_END)
    for found in read_frames(path, size):
        try:
            if not isinstance(found, Frame):
                raise ValueError(found.message)
            letter = _letter(found.payload)
        except (ValueError, DecodeError) as error:
            offset = (found if isinstance(found, Frame) else found.frame).offset
            raise ResultError(
                f"{printable(path)} is not a file of dead letters, or broken "
                f"at {offset}: {printable(str(error))}"
            ) from None
        if not reasons or letter.reason in reasons:
            yield letter


def _letter(content: bytes) -> Letter:
    """The inverse of `_dead_letter_example`.

    Raises:
        DecodeError, ValueError: it is none.
    """
    features = tf.train.Example.FromString(content).features.feature

    def values(name: str, kind: str) -> Sequence[Any]:
        feature = features.get(name)
        if feature is None or feature.WhichOneof("kind") != kind:
            raise ValueError(f"a dead letter has a feature {name!r}, a {kind}")
        found: Sequence[Any] = getattr(feature, kind).value
        if len(found) > 1 or (not found and name != "id"):
            raise ValueError(f"feature {name!r} has {len(found)} values, expected one")
        return found

    payload, reason, message, file = (
        values(name, "bytes_list")[0] for name in ("payload", "reason", "message", "file")
    )
    (offset,) = values("offset", "int64_list")
    record_id = b"".join(values("id", "bytes_list"))
    reason, message, file = (
        content.decode("utf-8", "backslashreplace") for content in (reason, message, file)
    )
    return Letter(payload, reason, message, file, offset, record_id)
