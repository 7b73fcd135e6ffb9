"""Entries: where a record's Example and its frame were spilled, by which a data set is put in order.

There is one for every record, so not even entries go through a shuffle: workers spill them in sorted runs, and
whoever writes a shard merges its runs. A run is read a block at a time, so what a merge holds at once is a block of
each run: with N records in runs of R and S shards N / R blocks, of `_BLOCK` entries or of R / S if that is fewer.
"""

import heapq
import itertools
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from vaefill.pipeline.store.spill import Place

_BLOCK = 256  # entries, some 40 KB
_HASH_SIZE = 32  # bytes of a SHA-256
# The content hash; of two places offset, size and CRC; the lengths of the id and of the two paths that follow.
_HEAD = struct.Struct(f"<{_HASH_SIZE}s QQI QQI III")


class Entry(NamedTuple):
    """Sorts by (id, content hash)."""

    record_id: bytes
    content_hash: bytes  # SHA-256 of what the record was made from
    example: Place
    frame: Place


def encode(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The blocks of a sorted run of entries."""
    run = sorted(entries)
    for first in range(0, len(run), _BLOCK):
        yield b"".join(map(_encode, run[first : first + _BLOCK]))


def _encode(entry: Entry) -> bytes:
    (example_path, *example), (frame_path, *frame) = entry.example, entry.frame
    names = (entry.record_id, example_path.encode(), frame_path.encode())
    return b"".join((_HEAD.pack(entry.content_hash, *example, *frame, *map(len, names)), *names))


def merge(runs: Iterable[Iterable[bytes]]) -> Iterator[Entry]:
    """The entries of all runs, sorted; the blocks of each are asked for as they are needed."""
    return heapq.merge(*(itertools.chain.from_iterable(map(_decode, blocks)) for blocks in runs))


def _decode(block: bytes) -> Iterator[Entry]:
    position = 0
    while position < len(block):
        content_hash, *numbers = _HEAD.unpack_from(block, position)
        position += _HEAD.size
        names = []
        for length in numbers[6:]:
            names.append(block[position : position + length])
            position += length
        record_id, example_path, frame_path = names
        example = Place(example_path.decode(), *numbers[:3])
        yield Entry(record_id, content_hash, example, Place(frame_path.decode(), *numbers[3:6]))
