"""Values and masks of a record as the bytes of a feature. Knows neither Beam nor a file.

Bytes are untrusted: what is wrong with them is a `ValueError` of one line, found before any pixel
is read.
"""

import io
import math

import numpy as np
import PIL.Image

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_MASK = np.dtype(np.uint8)


def decode_values(content: bytes, shape: tuple[int, int, int], dtype: np.dtype) -> np.ndarray:
    """The values of a record: [H, W, C].

    Args:
        content: raw values in C order, float32 in little-endian; of uint8 a PNG will do too.
        shape: (H, W, C).
        dtype: uint8 or float32.

    Raises:
        ValueError: another size, or a broken PNG.
    """
    if dtype == np.uint8 and content.startswith(_PNG_SIGNATURE):
        return _decode_png(content, shape)
    num_bytes = math.prod(shape) * dtype.itemsize
    if len(content) != num_bytes:
        expected = "neither a PNG nor" if dtype == np.uint8 else f"not {dtype} values,"
        raise ValueError(f"{len(content)} bytes, {expected} the {num_bytes} of shape {list(shape)}")
    return np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


def encode_values(values: np.ndarray) -> bytes:
    """The inverse of `decode_values`: PNG for uint8 [H, W, C], raw little-endian for float32."""
    if values.dtype == np.uint8:
        return encode_png(values)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _decode_png(content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    height, width, channels = shape
    try:
        with PIL.Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if (image.height, image.width) != (height, width) or image.mode != _PNG_MODES.get(
                channels
            ):
                raise ValueError(
                    f"{image.height} x {image.width} pixels, mode {image.mode}; "
                    f"expected {height} x {width}, mode {_PNG_MODES.get(channels)}"
                )
            return np.asarray(image, np.uint8).reshape(shape)
    except Exception as error:  # a broken file makes the decoder raise nearly anything
        raise ValueError(f"unusable PNG: {error}") from None


def encode_png(values: np.ndarray) -> bytes:
    """[H, W, C] uint8 -> PNG, the same bytes for the same values."""
    output = io.BytesIO()
    squeezed = values[..., 0] if values.shape[-1] == 1 else values
    PIL.Image.fromarray(squeezed).save(output, format="PNG")
    return output.getvalue()


def decode_mask(content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Raw 0 and 1 per value, or a PNG of 0 and 255 -> [H, W, C] bool.

    Raises:
        ValueError: another size or other values.
    """
    values = decode_values(content, shape, _MASK)
    largest = 255 if content.startswith(_PNG_SIGNATURE) else 1
    if not ((values == 0) | (values == largest)).all():
        raise ValueError(f"values other than 0 and {largest}")
    return values > 0


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
