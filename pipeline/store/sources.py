"""Files -> frames -> masked records; whatever cannot be read becomes a dead letter."""

import logging
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from vaefill.pipeline import logs
from vaefill.pipeline.counters import count
from vaefill.pipeline.errors import SourceError
from vaefill.pipeline.records.record import MaskedRecord, Reason, RecordError, Schema, decode_masked
from vaefill.pipeline.store.dead_letters import DEAD
from vaefill.pipeline.store.tfrecord import DeadLetter, Frame, read_frames

_LOGGER = logging.getLogger("vaefill.read")


class InputFile(NamedTuple):
    """A file of the input."""

    path: str
    size: int
    modified: float


def expand(patterns: tuple[str, ...]) -> list[InputFile]:
    """The files that match glob patterns, each once, in the order of their paths.

    Raises:
        SourceError: a pattern that matches nothing, or a directory.
    """
    found = {}
    for pattern, match in zip(patterns, FileSystems.match(list(patterns))):
        if not match.metadata_list:
            raise SourceError(f"no file matches {pattern}")
        for metadata in match.metadata_list:
            if os.path.isdir(metadata.path):
                raise SourceError(
                    f"{metadata.path} is a directory; "
                    f"name its files, as '{metadata.path}/*.tfrecord*'"
                )
            modified = metadata.last_updated_in_seconds or 0.0
            found[metadata.path] = InputFile(metadata.path, metadata.size_in_bytes, modified)
    return [found[path] for path in sorted(found)]


class ReadFrames(beam.DoFn):
    """Path -> frames, and dead letters under `DEAD`."""

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
            yield beam.pvalue.TaggedOutput(DEAD, found) if isinstance(found, DeadLetter) else found


def decode(frame: Frame, schema: Schema) -> tuple[Frame, MaskedRecord] | DeadLetter:
    """A frame's record, or the reason why it has none."""
    try:
        return frame, decode_masked(frame.payload, schema)
    except RecordError as error:
        return DeadLetter(frame, error.reason, str(error), error.record_id, 0)


class DecodeRecords(beam.DoFn):
    """Frame -> (frame, masked record), and dead letters under `DEAD`."""

    def __init__(self, schema: Schema):
        self._schema = schema

    def process(self, frame: Frame) -> Iterator[Any]:
        found = decode(frame, self._schema)
        count("records_read")
        yield beam.pvalue.TaggedOutput(DEAD, found) if isinstance(found, DeadLetter) else found
