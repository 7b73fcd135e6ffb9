"""Accumulators of a shard as a file: a line of JSON that says which groups there are, and then
arrays as they lie in memory, so that they are read back to the bit and without parsing.

A run reads only what it has written itself, on machines of one byte order.
"""

import json
import math
from collections.abc import Container, Mapping
from typing import BinaryIO, NamedTuple

import numpy as np

from vaefill.summary import statistics
from vaefill.summary.statistics import Accumulator


class Size(NamedTuple):
    """What a part holds of a group."""

    num_records: int
    has_maps: bool  # sums for each value


def write_groups(file: BinaryIO, groups: Mapping[str | None, Accumulator]) -> None:
    """Writes groups, to be read by `read_sizes` and `read_groups`."""
    sizes = [
        [group, int(own.num_records), own.value_count is not None] for group, own in groups.items()
    ]
    file.write(json.dumps(sizes).encode() + b"\n")
    for own in groups.values():
        for field in (*own[:-1], *own.scores):
            if field is not None:
                file.write(np.ascontiguousarray(field).data)


def read_sizes(file: BinaryIO) -> dict[str | None, Size]:
    """What there is of each group, from the first line of a file."""
    return {group: Size(*size) for group, *size in json.loads(file.readline())}


def read_groups(
    file: BinaryIO,
    num_values: int,
    wanted: Container[str | None],
    mapped: Container[str | None],
) -> dict[str | None, Accumulator]:
    """The groups of a file that are wanted.

    Args:
        file: that `write_groups` wrote, from its beginning.
        num_values: D.
        wanted: groups.
        mapped: those that are to have their sums for each value, if the file has them.
    """
    like = statistics.empty(num_values)
    without = statistics.without_maps(like)
    groups = {}
    for group, size in read_sizes(file).items():
        kept = like if size.has_maps else without
        if group not in wanted:
            file.seek(sum(field.nbytes for field in _fields(kept)), 1)
            continue
        found = _read_accumulator(file, kept)
        groups[group] = found if group in mapped else statistics.without_maps(found)
    return groups


def _fields(like: Accumulator) -> list[np.ndarray]:
    return [field for field in (*like[:-1], *like.scores) if field is not None]


def _read_accumulator(file: BinaryIO, like: Accumulator) -> Accumulator:
    def read(field: np.ndarray | None) -> np.ndarray | None:
        if field is None:
            return None
        content = file.read(field.nbytes)
        return np.frombuffer(content, field.dtype, math.prod(field.shape)).reshape(field.shape)

    return Accumulator._make([*map(read, like[:-1]), tuple(map(read, like.scores))])
