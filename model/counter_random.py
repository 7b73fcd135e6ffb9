"""Counter-based random numbers: (record key, chain, sweep, purpose, element) -> uniform, normal.

The only source of chance in a chain. Nothing is consumed and nothing is stored: a number is a pure
function of its place, so a record gets the same numbers alone or among any others, in any order, on
any worker, and after any retry.

The generator is Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy
as 1, 2, 3"). Its 64-bit key is the record's; its 64-bit counter is packed as

    word 0 = purpose (10 bits) << 22 | block (22 bits)
    word 1 = chain   (12 bits) << 20 | sweep (20 bits)

where `purpose` says what the numbers are for (see `Purpose`) and `block` counts pairs of elements,
since each block yields two words: elements e and e + ceil(n / 2) of a row of n share a block. No
two uses may share a `Purpose`.
"""

from __future__ import annotations

import enum
import hashlib
import math
from typing import NamedTuple

import numpy as np

from vaefill.model.lazy import tf

MAX_CHAINS = 1 << 12
MAX_SWEEPS = 1 << 20
MAX_ELEMENTS = 1 << 23

_PARITY = 0x1BD11BDA  # Threefry's key-schedule constant for 32-bit words
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_UNIFORM_BITS = 23  # (2**23 - 1 + 1/2) / 2**23 is still exact in float32, and below 1


class Purpose(enum.IntEnum):
    """What a row of random numbers is for: the `purpose` field of the counter."""

    START_LATENT = 0
    LATENT = 1
    VALUES = 2
    ACCEPT = 3
    COMPONENT = 4
    DEFENSIVE = 5
    RESAMPLE = 6
    MOMENTUM = 7
    JITTER = 8
    KEEP_LATENT = 9
    KEEP_VALUES = 10
    BINARIZE = 11
    EVIDENCE_LATENT = 12
    EVIDENCE_DEFENSIVE = 13
    COMPLETE_LATENT = 14
    COMPLETE_DEFENSIVE = 15
    KEEP_ORDER = 16


class Streams(NamedTuple):
    """The random streams of a batch of rows, one chain of one record per row."""

    keys: tf.Tensor  # [N, 2] uint32, the record's key
    chains: tf.Tensor  # [N] uint32, which of the record's chains


def record_key(seed: int, record_id: bytes) -> np.ndarray:
    """The key of a record: a keyed BLAKE2b hash of its id.

    Args:
        seed: the run's seed, 0 <= seed < 2**64.
        record_id: the id of the record, any bytes.

    Returns:
        [2] uint32.
    """
    digest = hashlib.blake2b(
        record_id, digest_size=8, key=seed.to_bytes(8, "little"), person=b"vaefill.chain"
    ).digest()
    return np.frombuffer(digest, dtype="<u4").astype(np.uint32)


def derived_keys(keys: np.ndarray, purpose: bytes) -> np.ndarray:
    """Keys for another run of what already has used those of its records: a keyed BLAKE2b hash of
    each.

    Numbers under a derived key are those of another record, as it were: none is used twice.

    Args:
        keys: [N, 2] uint32, of records.
        purpose: of the run, at most 64 bytes.

    Returns:
        [N, 2] uint32.
    """
    digests = [
        hashlib.blake2b(
            key.astype("<u4").tobytes(), digest_size=8, key=purpose, person=b"vaefill.derived"
        ).digest()
        for key in keys
    ]
    return np.frombuffer(b"".join(digests), dtype="<u4").astype(np.uint32).reshape(-1, 2)


def _rotate_left(words: tf.Tensor, distance: int) -> tf.Tensor:
    left = tf.bitwise.left_shift(words, tf.constant(distance, tf.uint32))
    return left | tf.bitwise.right_shift(words, tf.constant(32 - distance, tf.uint32))


def threefry_2x32(
    key0: tf.Tensor, key1: tf.Tensor, counter0: tf.Tensor, counter1: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Threefry-2x32-20: two words of random bits for a key and a counter of two words each.

    Args:
        key0, key1, counter0, counter1: uint32 tensors that broadcast together.

    Returns:
        A pair of uint32 tensors of the broadcast shape.
    """
    schedule = (key0, key1, key0 ^ key1 ^ tf.constant(_PARITY, tf.uint32))
    x0, x1 = counter0 + key0, counter1 + key1
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = _rotate_left(x1, rotation) ^ x0
        injection = group + 1
        x0 = x0 + schedule[injection % 3]
        x1 = x1 + schedule[(injection + 1) % 3] + tf.constant(injection, tf.uint32)
    return x0, x1


def bits(streams: Streams, sweep: tf.Tensor, purpose: Purpose | tf.Tensor, size: int) -> tf.Tensor:
    """Random words of every row.

    Args:
        streams: the streams of N rows.
        sweep: [] or [N] integer, the row's own sweep counter, below `MAX_SWEEPS`.
        purpose: what the numbers are for, a `Purpose` or its value as a [] tensor.
        size: how many numbers a row needs, at most `MAX_ELEMENTS`.

    Returns:
        [N, size] uint32.
    """
    if not 1 <= size <= MAX_ELEMENTS:
        raise ValueError(f"size must be from 1 to {MAX_ELEMENTS}, got {size}")
    # Every element computes its whole block, and takes a word of it. To compute a block once and
    # join the words takes XLA longer on a CPU: it has no loop with two results, and what is joined
    # is not fused with what reads it.
    element, num_blocks = np.arange(size, dtype=np.uint32), (size + 1) // 2
    is_first = element < num_blocks
    high = tf.bitwise.left_shift(tf.cast(purpose, tf.uint32), tf.constant(22, tf.uint32))
    blocks = tf.constant(np.where(is_first, element, element - np.uint32(num_blocks))) | high
    place = tf.bitwise.left_shift(streams.chains, tf.constant(20, tf.uint32)) | tf.cast(
        sweep, tf.uint32
    )
    return tf.where(
        is_first,
        *threefry_2x32(
            streams.keys[:, :1], streams.keys[:, 1:], blocks[tf.newaxis], place[:, tf.newaxis]
        ),
    )


def _to_unit_interval(words: tf.Tensor) -> tf.Tensor:
    kept = tf.bitwise.right_shift(words, tf.constant(32 - _UNIFORM_BITS, tf.uint32))
    high = tf.cast(tf.cast(kept, tf.int32), tf.float32)
    return (high + 0.5) * (2.0**-_UNIFORM_BITS)


def uniform(
    streams: Streams, sweep: tf.Tensor, purpose: Purpose | tf.Tensor, size: int
) -> tf.Tensor:
    """Uniform numbers in the open interval (0, 1), with a resolution of 2**-23.

    Args: as for `bits`.

    Returns:
        [N, size] float32.
    """
    return _to_unit_interval(bits(streams, sweep, purpose, size))


def normal(
    streams: Streams, sweep: tf.Tensor, purpose: Purpose | tf.Tensor, size: int
) -> tf.Tensor:
    """Standard normal numbers, by inversion, at most 5.3 from the mean.

    Args: as for `bits`.

    Returns:
        [N, size] float32.
    """
    # 2 u - 1 is exact. XLA's sine and cosine, for the method of Box and Muller, take four times as
    # long on a CPU.
    return np.float32(math.sqrt(2.0)) * tf.math.erfinv(
        2.0 * uniform(streams, sweep, purpose, size) - 1.0
    )
