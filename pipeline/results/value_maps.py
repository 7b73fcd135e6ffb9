"""What was imputed, value by value: `summary/imputed_values.safetensors`, beside summary.json.

These arrays grow with the number of labels times the size of a record, so they are no JSON. The
file has a row for every `Group` with a `values_row`; only rows that are asked for are read. Anybody
may have altered it. Knows no Beam.
"""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from vaefill.errors import ResultError
from vaefill.model import files
from vaefill.results.documents import Group

VALUE_MAPS = os.path.join("summary", "imputed_values.safetensors")
_LARGEST_ROW = 256 << 20  # bytes
_REMEDY = "run `vaefill impute` again"


class ImputedValues(NamedTuple):
    """What was imputed, value by value, over the records of a group in which it was missing."""

    mean: np.ndarray  # [H, W, C] float32; of uint8 data 255 is 1; NaN where never missing
    stddev: np.ndarray  # [H, W, C] float32


def write(directory: str, rows: Sequence[ImputedValues]) -> None:
    """Writes the rows of a result.

    Args:
        directory: of the result.
        rows: one or several, of one shape.
    """
    arrays = {name: np.stack(column) for name, column in zip(ImputedValues._fields, zip(*rows))}
    # The library's own way to a file lets nobody else read it
    files.write_whole(os.path.join(directory, VALUE_MAPS), safetensors.numpy.save(arrays))


def read(directory: str, group: Group) -> ImputedValues | None:
    """What was imputed in the records of a group; None where a result does not have it.

    Args:
        directory: of the result.
        group: of its summary.json.

    Raises:
        ResultError: the file is missing or is not what it should be.
    """
    if group.values_row is None:
        return None
    path = os.path.join(directory, VALUE_MAPS)
    if not files.exists(path):
        raise ResultError(f"{path} is missing; {_REMEDY}")
    try:
        with files.local_copy(path) as place:
            with safetensors.safe_open(place, framework="numpy") as tensors:
                slices = [tensors.get_slice(name) for name in ImputedValues._fields]
                _check(slices, group.values_row)
                return ImputedValues(*(each[group.values_row] for each in slices))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        why = " ".join(str(error).split())[:200]
        raise ResultError(f"{path} is broken ({why}); {_REMEDY}") from None


def _check(slices: Sequence, row: int) -> None:
    """Checks what a file says of its arrays before any of them is read.

    Raises:
        ValueError: they are not what they should be.
    """
    kinds = {each.get_dtype() for each in slices}
    shapes = {tuple(each.get_shape()) for each in slices}
    (shape, *others) = shapes
    if kinds != {"F32"} or others or len(shape) != 4:
        raise ValueError(f"expected two arrays F32 [G, H, W, C] of one shape, got {kinds} {shapes}")
    if row >= shape[0]:
        raise ValueError(f"summary.json names row {row}, there are {shape[0]}")
    if (size := 4 * math.prod(shape[1:])) > _LARGEST_ROW:
        raise ValueError(f"a row of {size} bytes; {_LARGEST_ROW} are the most")
