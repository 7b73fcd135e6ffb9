"""Files -> frames -> masked records; whatever cannot be read becomes a dead letter."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam

from vaefill import logs
from vaefill.counters import count
from vaefill.errors import SourceError
from vaefill.model import files
from vaefill.records import signs
from vaefill.records.masked import decode_masked
from vaefill.records.record import MaskedRecord, Reason, RecordError, Schema
from vaefill.store import tally
from vaefill.store.dead_letters import DEAD
from vaefill.store.tfrecord import (
    DeadLetter,
    Frame,
    Stretch,
    looks_like_frames,
    read_frames,
    stretches,
)

_LOGGER = logging.getLogger("vaefill.read")
_TFRECORD = re.compile(r"^[^.].*\.tfrecords?(-\d+-of-\d+)?(\.(gz|zz|zlib|bz2))?$")
_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})(.*)", re.DOTALL)
_MOST_NAMED = 3  # of the shards that are missing


def expand(patterns: Sequence[str], allow_missing_shards: bool = True) -> list[files.FileInfo]:
    """The files that patterns mean, each once, in the order of their paths.

    Args:
        patterns: globs as `files.match` takes them, or directories, which stand for the TFRecord
            files in them.
        allow_missing_shards: whether a set of files NAME-00000-of-00004 and so on, found by a glob
            or in a directory, may lack some.

    Raises:
        SourceError: a pattern that matches nothing, or is of no file system that is within reach;
            what it may mean cannot be read; shards are missing.
    """
    found: dict[str, files.FileInfo] = {}
    for pattern in map(_at_home, patterns):
        try:
            matches = _matches(pattern)
        except OSError as error:
            raise SourceError(str(error)) from None
        if not matches:
            raise SourceError(f"no file matches {pattern}")
        # Only who named a file by its very name cannot have meant those beside it
        if not allow_missing_shards and [file.path for file in matches] != [_local(pattern)]:
            _check_shards([file.path for file in matches])
        for file in matches:
            found.setdefault(files.resolve(file.path), file)  # once, however many links lead there
    return sorted(found.values())


def _at_home(pattern: str) -> str:
    """A pattern with the home directory for `~`, which a shell leaves alone in quotes."""
    is_there = not pattern.startswith("~") or files.exists(pattern.partition("/")[0])
    return pattern if is_there else os.path.expanduser(pattern)


def _local(pattern: str) -> str:
    return pattern.removeprefix("file://")


def _matches(pattern: str) -> list[files.FileInfo]:
    if files.is_directory(pattern):
        pattern = f"{pattern.rstrip('/')}/"
    found = files.match(pattern)
    if not pattern.endswith("/"):
        return found
    chosen = [file for file in found if _is_tfrecord(file.path)]
    if left_out := len(found) - len(chosen):
        _LOGGER.info("%s: %d files are not TFRecords, and left out", pattern, left_out)
    if not chosen:
        raise SourceError(
            f"no TFRecord file is in the directory {pattern}; of directories below it they are "
            f"named as '{pattern}*/*.tfrecord*'"
        )
    return chosen


def _is_tfrecord(path: str) -> bool:
    """Whether a file is called one, or looks like one."""
    return bool(_TFRECORD.search(os.path.basename(path))) or looks_like_frames(path)


def _check_shards(paths: Sequence[str]) -> None:
    """Checks that sets of shards are whole.

    Raises:
        SourceError: shards are not there; those that are there were left out by choice.
    """
    sets = {(m[1], m[2], m[3]) for path in paths if (m := _SHARD.fullmatch(path))}
    for start, total, end in sorted(sets):
        directory, name = os.path.split(start)
        there = set(files.list_names(directory or os.curdir))
        every = (f"{name}-{shard:05d}-of-{total}{end}" for shard in range(int(total)))
        missing = [shard for shard in every if shard not in there]
        if missing:
            named = ", ".join(missing[:_MOST_NAMED])
            more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
            raise SourceError(
                f"{len(missing)} of {int(total)} shards are missing: {named}{more} in "
                f"{directory or os.curdir}; wait for them, or "
                "--set limits.allow_missing_shards=true"
            )


class CutFiles(beam.DoFn):
    """The bytes of a path -> the same and a stretch of the file, for each of its stretches.

    As bytes, for Beam takes no text that is not Unicode, and a name can be anything.
    """

    def process(self, path: bytes) -> Iterator[Any]:
        for stretch in stretches(os.fsdecode(path)):
            yield path, *stretch


class ReadFrames(tally.Tallying):
    """(path, start, end) of a stretch of a file -> frames, dead letters under `DEAD`, and how many
    records that is under `TALLY`.
    """

    def __init__(self, max_record_bytes: int):
        self._max_record_bytes = max_record_bytes

    def setup(self) -> None:
        logs.start_worker()

    def process(self, part: tuple[bytes, int, int | None]) -> Iterator[Any]:
        name, start, end = part
        path = os.fsdecode(name)
        for found in read_frames(path, self._max_record_bytes, Stretch(start, end)):
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
