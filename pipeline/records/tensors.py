"""Arrays of numbers as `tf.io.serialize_tensor` writes them. Knows neither Beam nor a file.

The bytes are untrusted: type and shape are checked before anything is allocated.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2

_START = b"\x08"  # the tag of a tensor's type, its first field
_KINDS = "biuf"

Shape = tuple[int, int, int]


def parse_tensor(content: bytes, shapes: Sequence[Shape]) -> np.ndarray | None:
    """The array of a serialised tensor, in its own type.

    Args:
        content: any bytes.
        shapes: [H, W, C] that the tensor may have, flat or without sides of 1 too.

    Returns:
        The values in the first of the shapes that fits, None if the bytes are no serialised tensor.

    Raises:
        ValueError: a tensor of another shape, or of no numbers.
    """
    if not content.startswith(_START):
        return None
    try:
        tensor = tensor_pb2.TensorProto.FromString(content)
        dtype = tf.dtypes.as_dtype(tensor.dtype)
    except (DecodeError, TypeError):
        return None
    if not tensor.HasField("tensor_shape"):
        return None
    sides = [side.size for side in tensor.tensor_shape.dim]
    shape = next((shape for shape in shapes if _fits(sides, shape)), None)
    if shape is None:
        raise ValueError(f"a serialised tensor of shape {sides}, not {list(shapes[0])}")
    if dtype.is_quantized or np.dtype(dtype.as_numpy_dtype).kind not in _KINDS:
        raise ValueError(f"a serialised tensor of {dtype.name}, which is no type of numbers")
    try:
        return tf.make_ndarray(tensor).reshape(shape)
    except Exception as error:  # of values that are not as many as the shape says, and the like
        raise ValueError(f"unusable serialised tensor: {' '.join(str(error).split())}") from None


def _fits(sides: list[int], shape: Shape) -> bool:
    """Whether a tensor's shape is the one that is expected; never with its sides in another order,
    though the number of values is the same.
    """
    if sides == [math.prod(shape)]:
        return True
    return [side for side in sides if side != 1] == [side for side in shape if side != 1]
