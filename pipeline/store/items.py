"""Items: what a worker hands to whoever writes a shard, and how many of them are spilled.

There is one for every record, so not even they go through a shuffle: workers spill them in sorted
runs, and whoever writes a shard merges its runs. A run is read a block at a time, so what a merge
holds at once is a block of each run: with N records in runs of R and S shards N / R blocks, of
`_BLOCK` items or of R / S if that is fewer.
"""

import heapq
import itertools
import os
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from vaefill.records.record import HASH_SIZE
from vaefill.store.spill import Place
from vaefill.store.tfrecord import Source

_BLOCK = 256  # items, some 40 KB
# The content hash; offset and size of the source; offset, size and CRC of the place of the Example;
# the lengths of the id and of the two paths that follow.
_HEAD = struct.Struct(f"<{HASH_SIZE}s QQ QQI III")


class Item(NamedTuple):
    """An Example of a data set. Sorts by (id, content hash, source).

    Of several items with one id the first in this order stays.
    """

    record_id: bytes
    content_hash: bytes  # of the record that it was made from, as that was read
    source: Source
    example: bytes | Place  # or where it has been spilled


def encode(items: Iterable[Item]) -> Iterator[bytes]:
    """The blocks of a sorted run of items, whose Examples have been spilled."""
    run = sorted(items)
    for first in range(0, len(run), _BLOCK):
        yield b"".join(map(_encode, run[first : first + _BLOCK]))


def _encode(item: Item) -> bytes:
    source, example = item.source, item.example
    assert isinstance(example, Place)
    names = (item.record_id, os.fsencode(source.file), os.fsencode(example.path))
    numbers = (source.offset, source.size, example.offset, example.size, example.crc)
    return b"".join((_HEAD.pack(item.content_hash, *numbers, *map(len, names)), *names))


def merge(runs: Iterable[Iterable[bytes]]) -> Iterator[Item]:
    """The items of all runs, sorted; the blocks of each are asked for as they are needed."""
    return heapq.merge(*(itertools.chain.from_iterable(map(_decode, blocks)) for blocks in runs))


def _decode(block: bytes) -> Iterator[Item]:
    position = 0
    while position < len(block):
        content_hash, *numbers = _HEAD.unpack_from(block, position)
        position += _HEAD.size
        names = []
        for length in numbers[5:]:
            names.append(block[position : position + length])
            position += length
        record_id, file, path = names
        source = Source(os.fsdecode(file), *numbers[:2])
        yield Item(record_id, content_hash, source, Place(os.fsdecode(path), *numbers[2:5]))
