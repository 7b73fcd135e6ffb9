"""Entries: where a record's Example and its frame were spilled, by which a data set is put in order.

There is one for every record, so not even entries go through a shuffle: workers spill them in sorted blocks, and
whoever writes a shard merges its blocks. An entry exists as an object only while it is its turn.
"""

import heapq
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pipeline.spill import Place

_HASH_SIZE = 32  # bytes of a SHA-256
# The content hash; of two places offset, size and CRC; the lengths of the id and of the two paths that follow.
_HEAD = struct.Struct(f"<{_HASH_SIZE}s QQI QQI III")


class Entry(NamedTuple):
    """Sorts by (id, content hash)."""

    record_id: bytes
    content_hash: bytes  # SHA-256 of what the record was made from
    example: Place
    frame: Place


def encode(entries: Iterable[Entry]) -> bytes:
    """A block of entries, sorted."""
    return b"".join(map(_encode, sorted(entries)))


def _encode(entry: Entry) -> bytes:
    (example_path, *example), (frame_path, *frame) = entry.example, entry.frame
    names = (entry.record_id, example_path.encode(), frame_path.encode())
    return b"".join((_HEAD.pack(entry.content_hash, *example, *frame, *map(len, names)), *names))


def merge(blocks: Iterable[bytes]) -> Iterator[Entry]:
    """The entries of all blocks, sorted."""
    return heapq.merge(*map(_decode, blocks))


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
