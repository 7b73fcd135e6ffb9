"""PNG and JPEG files as values and masks. Knows neither Beam nor a file.

The bytes are untrusted: sizes and kinds are checked by the header, before any pixel is read.
"""

import functools
import io
import logging

import numpy as np
import PIL.Image

_LOGGER = logging.getLogger("vaefill.read")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8\xff"
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_VALUE_BITS = 8
_OPAQUE = 255


def is_png(content: bytes) -> bool:
    """Whether the bytes begin as a PNG does."""
    return content.startswith(_PNG_SIGNATURE)


def is_jpeg(content: bytes) -> bool:
    """Whether the bytes are a JPEG as far as its header goes: raw values may begin as one does."""
    if not content.startswith(_JPEG_START):
        return False
    try:
        with PIL.Image.open(io.BytesIO(content), formats=["JPEG"]):
            return True
    except Exception:  # see `_read`
        return False


def decode_png(content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """A PNG of 8 bits a channel, or with a palette -> [H, W, C] uint8.

    Raises:
        ValueError: another size, depth or number of channels, or a broken PNG.
    """
    bits, has_palette = _header(content)
    if bits != _VALUE_BITS and not has_palette:
        raise ValueError(
            f"unusable PNG: {bits} bits a channel, which must have {_VALUE_BITS}; convert it"
        )
    return _read(content, "PNG", shape)


def decode_jpeg(content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """A JPEG of grey values or RGB -> [H, W, C] uint8.

    Raises:
        ValueError: another size or number of channels, or a broken JPEG.
    """
    values = _read(content, "JPEG", shape)
    _warn_of_loss()
    return values


def decode_png_mask(content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """The values of a mask's PNG: grey of up to 8 bits, black and white by a palette, or a channel
    of the mask for each of the picture.

    Args:
        content: the PNG.
        shape: (H, W, C) of the mask.

    Returns:
        uint8 [H, W, C], or [H, W, 1] of a picture of one channel.

    Raises:
        ValueError: another size or number of channels, 16 bits, or a broken PNG.
    """
    bits, _ = _header(content)
    if bits > _VALUE_BITS:
        raise ValueError(f"unusable PNG: {bits} bits a channel; a mask has {_VALUE_BITS} at most")
    return _read(content, "PNG", shape, is_mask=True)


@functools.cache  # once a process, not once a record
def _warn_of_loss() -> None:
    _LOGGER.warning(
        "values come as JPEG, which is lossy: what its compression made of them counts as observed"
    )


def _header(content: bytes) -> tuple[int, bool]:
    """Bits of a channel, or of an index of the palette, and whether there is a palette."""
    if content[12:16] != b"IHDR" or len(content) < 26:
        raise ValueError("unusable PNG: it does not begin with its header")
    return content[24], content[25] == 3


def _read(
    content: bytes, kind: str, shape: tuple[int, int, int], is_mask: bool = False
) -> np.ndarray:
    height, width, channels = shape
    modes = [_MODES.get(channels), "P"] + (["1", "L"] if is_mask else [])
    try:
        with PIL.Image.open(io.BytesIO(content), formats=[kind]) as image:
            if (image.height, image.width) != (height, width) or image.mode not in modes:
                raise ValueError(
                    f"{image.height} x {image.width} pixels, mode {image.mode}; "
                    f"expected {height} x {width}, mode {_MODES.get(channels)}"
                )
            if image.mode == "P":
                return _by_palette(image, 1 if is_mask else channels)
            if image.mode == "1":
                return np.asarray(image, np.uint8).reshape(height, width, 1) * np.uint8(255)
            return np.asarray(image, np.uint8).reshape(height, width, -1)
    except Exception as error:  # a broken file makes the decoder raise nearly anything
        raise ValueError(f"unusable {kind}: {error}") from None


def _by_palette(image: PIL.Image.Image, channels: int) -> np.ndarray:
    """The colours of a picture with a palette, in as many channels as can hold them."""
    colours = np.asarray(image.convert("RGBA"))
    grey, alpha = colours[..., :1], colours[..., 3:]
    if channels < 3 and not (colours[..., :3] == grey).all():
        raise ValueError("a palette of colours, where grey is expected")
    if channels in (1, 3) and not (alpha == _OPAQUE).all():
        raise ValueError("a palette with transparency, and no channel for it")
    by_channels = {1: grey, 2: np.concatenate([grey, alpha], -1), 3: colours[..., :3], 4: colours}
    if channels not in by_channels:
        raise ValueError(f"a palette, where {channels} channels are expected")
    return by_channels[channels]
