"""Which records have been imputed already: by an attempt of the same run that was killed, or by
earlier results.

Records are told by their content hash (`MaskedRecord.content_hash`). Workers look hashes up in a
file that NumPy maps into memory, so that a long list is there once on a machine; this is why it is
read and written by path, and is of this machine.
"""

import functools
import os
from collections.abc import Iterator
from typing import Any

import google_crc32c
import numpy as np

from vaefill.counters import count
from vaefill.model import files
from vaefill.records.record import HASH_SIZE, MaskedRecord, Schema, input_hash
from vaefill.store import tally
from vaefill.store.spill import Place, SpillWriter
from vaefill.store.tfrecord import HEADER_SIZE, Frame, frame, read_frames

_LARGEST_EXAMPLE = 1 << 31  # bytes; protobuf writes no larger ones
_SUFFIX = ".tfrecord"
_HASHES, _PLACES, _FILES = "hashes.npy", "places.npy", "files.npy"
_PLACE = np.dtype(
    [("file", np.uint32), ("offset", np.uint64), ("size", np.uint64), ("crc", np.uint32)]
)


class HashIndex:
    """Content hashes in a file, in an order in which they are found by bisection."""

    def __init__(self, path: str):
        self._path = path

    @staticmethod
    def write(path: str, hashes: bytes | bytearray) -> np.ndarray:
        """Writes an index of N hashes, given one after another; returns the order [N] that they
        stand in there.
        """
        rows = np.frombuffer(hashes, ">u8").reshape(-1, 2).astype(np.uint64)
        order = np.lexsort((rows[:, 1], rows[:, 0]))
        np.save(path, rows[order])
        return order

    @functools.cached_property
    def _rows(self) -> np.ndarray:
        return _map(self._path)

    def find(self, content_hash: bytes) -> int | None:
        """The place of a hash in the order of the index, None if it is not there."""
        high, low = (int.from_bytes(content_hash[start : start + 8], "big") for start in (0, 8))
        place = int(np.searchsorted(self._rows[:, 0], np.uint64(high)))
        while place < len(self._rows) and self._rows[place, 0] == high:
            if self._rows[place, 1] == low:
                return place
            place += 1
        return None


def _map(path: str) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


class ResumeCache:
    """The Examples that a run has computed so far.

    Each is a frame of a TFRecord file, after the content hash of its record. Where a process was
    killed the last frame of its file may be cut off, and checksums say which ones are whole. What
    earlier attempts left is indexed once, before there are workers.
    """

    def __init__(self, directory: str):
        self._directory = directory
        self._writer = SpillWriter(directory, _SUFFIX)
        self._index = HashIndex(self._path(_HASHES))

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def take_over(self) -> int:
        """Indexes what earlier attempts left, and returns of how many records."""
        spilled = [name for name in files.list_names(self._directory) if name.endswith(_SUFFIX)]
        hashes, places = bytearray(), bytearray()  # objects would take six times the memory
        for number, name in enumerate(spilled):
            for found in read_frames(self._path(name), HASH_SIZE + _LARGEST_EXAMPLE):
                if isinstance(found, Frame) and len(found.payload) > HASH_SIZE:
                    start, example = (
                        found.offset + HEADER_SIZE + HASH_SIZE,
                        found.payload[HASH_SIZE:],
                    )
                    hashes += found.payload[:HASH_SIZE]
                    place = (number, start, len(example), google_crc32c.value(example))
                    places += np.array(place, _PLACE).tobytes()
        order = HashIndex.write(self._path(_HASHES), hashes)
        np.save(self._path(_PLACES), np.frombuffer(places, _PLACE)[order])
        np.save(self._path(_FILES), np.array(spilled, np.str_))
        rows = _map(self._path(_HASHES))
        # An attempt may repeat another's
        return len(rows) and 1 + int((rows[1:] != rows[:-1]).any(axis=1).sum())

    @functools.cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        return _map(self._path(_PLACES)), np.load(self._path(_FILES), allow_pickle=False)

    def find(self, content_hash: bytes) -> Place | None:
        """Where an earlier attempt left the Example of a record, None if it did not come so far."""
        row = self._index.find(content_hash)
        if row is None:
            return None
        places, spilled = self._places
        number, offset, size, crc = places[row].item()
        return Place(self._path(str(spilled[number])), offset, size, crc)

    def add(self, content_hash: bytes, example: bytes) -> Place:
        """Keeps the Example of a record; it outlives this process from the next `flush` on."""
        written = self._writer.append(frame(content_hash + example))
        start = written.offset + HEADER_SIZE + HASH_SIZE
        return Place(written.path, start, len(example), google_crc32c.value(example))

    def flush(self) -> None:
        """Hands what was added to the operating system, and so to whoever reads the places."""
        self._writer.flush()


class SkipKnown(tally.Tallying):
    """(frame, masked record) -> the same, unless an index holds the record's content, surplus
    features apart; those are counted under `TALLY`.

    Results that know no `input_hash` hold content hashes, which are asked for second.
    """

    def __init__(self, known: HashIndex, schema: Schema):
        self._known, self._schema = known, schema

    def process(self, read: tuple[Frame, MaskedRecord]) -> Iterator[Any]:
        record = read[1]
        hashes = {input_hash(record, self._schema), record.content_hash}
        if all(self._known.find(each) is None for each in hashes):
            yield read
        else:
            count("records_skipped")
            self.tally[tally.SKIPPED] += 1
