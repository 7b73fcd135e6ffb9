"""Files -> frames -> masked records; whatever cannot be read becomes a dead letter."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam

from vaefill import logs
from vaefill.counters import count
from vaefill.errors import SourceError
from vaefill.model import files
from vaefill.records import signs
from vaefill.records.record import MaskedRecord, Reason, RecordError, Schema, decode_masked
from vaefill.store import tally
from vaefill.store.dead_letters import DEAD
from vaefill.store.tfrecord import DeadLetter, Frame, read_frames

_LOGGER = logging.getLogger("vaefill.read")


def expand(patterns: Sequence[str]) -> list[files.FileInfo]:
    """The files that match glob patterns, each once, in the order of their paths.

    Args:
        patterns: as `files.match` takes them.

    Raises:
        SourceError: a pattern that matches nothing, or a directory, or is of no file system that
            is within reach.
    """
    found: dict[str, files.FileInfo] = {}
    for pattern in patterns:
        try:
            matches = files.match(pattern)
            is_directory = not matches and files.is_directory(pattern)
        except OSError as error:
            raise SourceError(str(error)) from None
        if is_directory:
            directory = pattern.rstrip("/")
            raise SourceError(
                f"{directory} is a directory; name its files, as '{directory}/*.tfrecord*'"
            )
        if not matches:
            raise SourceError(f"no file matches {pattern}")
        found.update((file.path, file) for file in matches)
    return [found[path] for path in sorted(found)]


class ReadFrames(tally.Tallying):
    """Path -> frames, dead letters under `DEAD`, and how many records that is under `TALLY`."""

    def __init__(self, max_record_bytes: int):
        self._max_record_bytes = max_record_bytes

    def setup(self) -> None:
        logs.start_worker()

    def process(self, path: str) -> Iterator[Any]:
        for found in read_frames(path, self._max_record_bytes):
            if isinstance(found, DeadLetter) and found.reason is Reason.UNREADABLE_REST:
                _LOGGER.warning(
                    "%s: %d bytes from %d on are unreadable: %s",
                    ascii(path)[1:-1],
                    found.num_bytes,
                    found.frame.offset,
                    found.message,
                )
            else:
                self.tally[tally.READ] += 1
            yield beam.pvalue.TaggedOutput(DEAD, found) if isinstance(found, DeadLetter) else found


def decode(frame: Frame, schema: Schema) -> tuple[Frame, MaskedRecord] | DeadLetter:
    """A frame's record, or the reason why it has none."""
    try:
        return frame, decode_masked(frame.payload, schema)
    except RecordError as error:
        return DeadLetter(frame, error.reason, str(error), error.record_id, 0)


class DecodeRecords(tally.Tallying):
    """Frame -> (frame, masked record), dead letters under `DEAD`, and signs under `TALLY`."""

    def __init__(self, schema: Schema):
        self._schema = schema

    def process(self, frame: Frame) -> Iterator[Any]:
        found = decode(frame, self._schema)
        count("records_read")
        if isinstance(found, DeadLetter):
            yield beam.pvalue.TaggedOutput(DEAD, found)
            return
        tally.add(self.tally, signs.of_record(found[1]))
        yield found
