"""Values and masks of a record as what a feature holds. Knows neither Beam nor a file.

What is read is untrusted: whatever is wrong with it is a `ValueError` of one line, found before any
pixel is read.
"""

import io
import math

import numpy as np
import PIL.Image

from vaefill.model.gaps import gaps_in, without
from vaefill.records import pictures
from vaefill.records.tensors import Shape, parse_tensor

_PNG_CHANNELS = (1, 3, 4)  # that tfds reads from a PNG
_WHITE = 255
# All of which each type holds
_INTEGERS = {"uint8": (0, _WHITE), "float32": (-(1 << 24), 1 << 24)}


def decode_values(content: bytes | np.ndarray, shape: Shape, dtype: np.dtype) -> np.ndarray:
    """The values of a record: [H, W, C].

    Args:
        content: see `read_values`.
        shape: (H, W, C).
        dtype: uint8 or float32.

    Raises:
        ValueError: another size, a broken picture or tensor, or values that the type cannot hold.
    """
    return convert(read_values(content, shape, dtype), dtype)


def read_values(content: bytes | np.ndarray, shape: Shape, dtype: np.dtype) -> np.ndarray:
    """The values of a record in the type that they were written in: [H, W, C].

    Args:
        content: raw values in C order, float32 in little-endian; a serialised tensor; the numbers
            of a list, as a flat array; of uint8 a PNG or a JPEG will do too.
        shape: (H, W, C).
        dtype: of raw values: uint8 or float32.

    Raises:
        ValueError: another size, or a broken picture or tensor.
    """
    if isinstance(content, np.ndarray):
        return _in_shape(content, (shape,))
    if dtype == np.uint8 and pictures.is_png(content):
        return pictures.decode_png(content, shape)
    if dtype == np.uint8 and pictures.is_jpeg(content):
        return pictures.decode_jpeg(content, shape)
    num_bytes = math.prod(shape) * dtype.itemsize
    is_raw = len(content) == num_bytes
    try:
        if (tensor := parse_tensor(content, (shape,))) is not None:
            return tensor
    except ValueError:
        if not is_raw:  # which may begin as a tensor does
            raise
    if not is_raw:
        expected = "neither a picture nor" if dtype == np.uint8 else f"not {dtype} values,"
        raise ValueError(f"{len(content)} bytes, {expected} the {num_bytes} of shape {list(shape)}")
    return np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


def decode_with_gaps(
    content: bytes | np.ndarray, shape: Shape, dtype: np.dtype, missing: str | float
) -> tuple[np.ndarray, np.ndarray]:
    """The values of a record, and where there are none.

    Args:
        content, shape, dtype: as for `decode_values`.
        missing: see `gaps_in`.

    Returns:
        (values [H, W, C], 0 where missing; [H, W, C] bool, True where missing).

    Raises:
        ValueError: as `decode_values`, which what is missing cannot be a reason for.
    """
    values = read_values(content, shape, dtype)
    gaps = gaps_in(values, missing)
    return convert(without(values, gaps), dtype), gaps


def convert(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values of any type of numbers as another, where that changes none of them.

    Floats become uint8 as pictures do: 1 is 255, whatever the others are.

    Args:
        values: of any shape; NaN and infinity stay what they are in float32.
        dtype: uint8 or float32.

    Raises:
        ValueError: a value that the type cannot hold; the line names it.
    """
    if values.dtype == dtype:
        return values
    if values.dtype.kind in "iu":
        converted = values.astype(dtype)
        smallest, largest = _INTEGERS[dtype.name]
        exact = (values >= smallest) & (values <= largest)
    elif values.dtype.kind == "f" and dtype == np.uint8:
        converted, exact = _levels(values)
    elif values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            converted = values.astype(dtype)
        exact = (converted == values) | np.isnan(values)
    else:
        raise ValueError(f"{values.dtype} values, where numbers are expected")
    if not exact.all():
        bad = values[~exact][0].item()
        fix = "; floats are multiples of 1 / 255 up to 1" if dtype == np.uint8 else "; round them"
        fix = fix if values.dtype.kind == "f" else ""
        raise ValueError(f"{values.dtype} values such as {bad!r}, which {dtype} does not hold{fix}")
    return converted


def _levels(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Floats of which 1 is white as levels of grey, and where they are levels."""
    scaled = values.astype(np.float64) * _WHITE
    rounded = np.rint(scaled)
    tolerance = _WHITE * np.finfo(values.dtype).eps  # of whoever divided by 255
    levels = (np.abs(scaled - rounded) <= tolerance) & (rounded >= 0) & (rounded <= _WHITE)
    return np.where(levels, rounded, 0).astype(np.uint8), levels


def encode_values(values: np.ndarray) -> bytes:
    """The inverse of `decode_values`: PNG for uint8 [H, W, C] where `is_picture`, else raw values,
    little-endian.
    """
    if is_picture(values.shape[-1], values.dtype):
        return encode_png(values)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def encode_png(values: np.ndarray) -> bytes:
    """[H, W, C] uint8 of 1, 3 or 4 channels -> PNG, the same bytes for the same values."""
    output = io.BytesIO()
    squeezed = values[..., 0] if values.shape[-1] == 1 else values
    PIL.Image.fromarray(squeezed).save(output, format="PNG")
    return output.getvalue()


def is_picture(channels: int, dtype: np.dtype) -> bool:
    """Whether values of so many channels are written as PNG, which knows 1, 3 and 4 of uint8."""
    return dtype == np.uint8 and channels in _PNG_CHANNELS


def mask_shapes(shape: Shape) -> tuple[Shape, Shape]:
    """The shapes of a mask of [H, W, C] values: its own, or one channel for all."""
    return shape, (*shape[:2], 1)


def decode_mask(content: bytes | np.ndarray, shape: Shape) -> np.ndarray:
    """A mask as it is saved -> [H, W, C] bool, True where it is not 0.

    Args:
        content: raw bytes, a PNG, a serialised tensor, or the numbers of a list as a flat array; of
            0 and 1, or of 0 and 255, for each value or for each pixel.
        shape: (H, W, C).

    Raises:
        ValueError: another size or other values.
    """
    values = _read_mask(content, shape)
    if not (((values == 0) | (values == 1)).all() or ((values == 0) | (values == _WHITE)).all()):
        raise ValueError("values other than 0 and 1, or 0 and 255")
    mask = values > 0
    return mask if mask.shape == shape else np.broadcast_to(mask, shape).copy()


def _read_mask(content: bytes | np.ndarray, shape: Shape) -> np.ndarray:
    """The values of a mask: [H, W, C] or [H, W, 1], of any type."""
    shapes = mask_shapes(shape)
    if isinstance(content, np.ndarray):
        return _in_shape(content, shapes)
    if pictures.is_png(content):
        return pictures.decode_png_mask(content, shape)
    if pictures.is_jpeg(content):
        raise ValueError("a JPEG, which is lossy; write masks as PNG")
    if (tensor := parse_tensor(content, shapes)) is not None:  # no raw mask begins as one does
        return tensor
    return _in_shape(np.frombuffer(content, np.uint8), shapes)


def _in_shape(values: np.ndarray, shapes: tuple[Shape, ...]) -> np.ndarray:
    """Flat values in the first of the shapes that has as many.

    Raises:
        ValueError: none has.
    """
    for shape in shapes:
        if values.size == math.prod(shape):
            return values.reshape(shape)
    raise ValueError(
        f"{values.size} values, not the {math.prod(shapes[0])} of shape {list(shapes[0])}"
    )


def finite_where(needed: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values, with 0 for those that are neither needed nor finite.

    Raises:
        ValueError: a needed value is not finite.
    """
    if values.dtype.kind != "f":
        return values
    finite = np.isfinite(values)
    num_bad = np.count_nonzero(needed & ~finite)
    if num_bad:
        raise ValueError(f"{num_bad} values that are not finite")
    return values if finite.all() else np.where(finite, values, np.zeros((), values.dtype))
