"""Dead letters: what could not be used, as a file of Examples with the reason, and counts."""

import dataclasses
import json

import apache_beam as beam
import tensorflow as tf
from apache_beam.io.filesystems import FileSystems

from vaefill.pipeline.counters import count
from vaefill.pipeline.records.record import Reason
from vaefill.pipeline.store.layout import Layout, write_whole
from vaefill.pipeline.store.spill import Place, Spill, Spilled, pack
from vaefill.pipeline.store.tfrecord import DeadLetter

DEAD = "dead"  # tag of the outputs that hold dead letters


class SpillDeadLetters(Spill):
    """DeadLetter -> its entry, which sorts by (file, offset)."""

    def process(self, letter: DeadLetter):
        yield entry_of(
            letter.frame.file,
            letter.frame.offset,
            letter.reason,
            letter.message,
            letter.record_id,
            letter.num_bytes,
            self.place(pack(letter.frame)),
        )


def entry_of(file, offset, reason, message, record_id, num_bytes, place: Place) -> tuple:
    return file, offset, str(reason), message, record_id, num_bytes, tuple(place)


class WriteDeadLetters(beam.DoFn):
    """(None, entries) -> the file of dead letters and their counts."""

    def __init__(self, layout: Layout):
        self._layout = layout

    def process(self, key_and_entries):
        _, letters = key_and_entries
        spilled, counts = Spilled(self._layout.root), DeadLetterCounts.empty()
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
