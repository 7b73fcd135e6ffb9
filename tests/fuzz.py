"""Broken input: files that were flipped, cut, spliced, or hold Examples that are not what they
should be.

    python -m tests.fuzz --inputs 100000

Of every input it is known which records it leaves whole. They must arrive, and as they were;
whatever else the file yields must be a record of the original or a dead letter.
`tests/test_fuzz.py` runs a thousand of these.
"""

import argparse
import gzip
import io
import os
import random
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import google_crc32c
import numpy as np
import PIL.Image
import tensorflow as tf
import tqdm

from vaefill.records.masked import encode_masked
from vaefill.records.record import CarriedFeature, MaskedRecord, Schema, content_hash, with_truth
from vaefill.store.sources import decode
from vaefill.store.tfrecord import DeadLetter, Frame, frame, read_frames

SCHEMA = Schema((28, 28, 1), {"label": CarriedFeature("int64")}, 2, np.dtype(np.uint8))
MAX_RECORD_BYTES = 1 << 20
MAX_SECONDS = 10.0  # of an input; the slowest of 100,000 took a hundredth
_HEADER, _FOOTER = 12, 4


class Case(NamedTuple):
    """A broken file."""

    kind: str
    content: bytes
    whole: set[int]  # the records that must arrive
    altered: bool  # whether other records than the original ones may arrive


class Original(NamedTuple):
    """A good file."""

    records: list[MaskedRecord]
    payloads: list[bytes]

    @property
    def frames(self) -> list[bytes]:
        return [frame(payload) for payload in self.payloads]

    @property
    def content(self) -> bytes:
        return b"".join(self.frames)

    @property
    def starts(self) -> list[int]:
        return np.cumsum([0, *map(len, self.frames)]).tolist()


def make_original(seed: int, num_records: int = 8) -> Original:
    """Records of noise with any ids, masks that are all, nothing or some, and truth for every
    second one, of which not all is known; each in another encoding.
    """
    generator = np.random.default_rng(seed)
    records, payloads = [], []
    for index in range(num_records):
        image = generator.integers(0, 256, SCHEMA.shape, np.uint8)
        jpeg = tf.io.encode_jpeg(image).numpy() if index % len(ENCODINGS) == 0 else b""
        if jpeg:  # which is lossy: the values are what it holds
            image = tf.io.decode_jpeg(jpeg, dct_method="INTEGER_ACCURATE").numpy()
        observed = generator.random(SCHEMA.shape) < (0, 0.5, 1)[index % 3]
        record_id = struct.pack("<IH", seed, index) + generator.bytes(int(generator.integers(0, 9)))
        record = MaskedRecord(record_id, image, observed, carried={"label": index})
        if index % 2:
            known = generator.random(SCHEMA.shape) < (0.5, 1, 0)[index % 3]
            record = with_truth(record, image, known)
        records.append(record)
        payloads.append(_rewritten(record, ENCODINGS[index % len(ENCODINGS)], jpeg))
    return Original(records, payloads)


class Encoding(NamedTuple):
    """How values and masks are written, by encoders that are not the program's."""

    values: Callable[[np.ndarray], bytes | list] | None  # None: as JPEG
    mask: Callable[[np.ndarray], bytes | list]


def _png(image: np.ndarray, mode: str) -> bytes:
    output = io.BytesIO()
    PIL.Image.fromarray(image[..., 0]).convert(mode).save(output, "PNG")
    return output.getvalue()


def _tensor(array: np.ndarray) -> bytes:
    return tf.io.serialize_tensor(array).numpy()


ENCODINGS = (
    Encoding(None, lambda mask: _png(mask, "1")),
    Encoding(lambda image: _png(image, "L"), lambda mask: mask.tobytes()),
    Encoding(lambda image: image.ravel().tolist(), lambda mask: mask.ravel().astype(int).tolist()),
    Encoding(lambda image: (image.ravel() / 255).tolist(), lambda mask: _png(mask, "P")),
    Encoding(_tensor, _tensor),
    Encoding(lambda image: _png(image, "P"), lambda mask: _png(mask, "L")),
    Encoding(lambda image: image.tobytes(), lambda mask: mask.tobytes()),
)


def _rewritten(record: MaskedRecord, encoding: Encoding, jpeg: bytes) -> bytes:
    """The Example of a record in an encoding."""
    example = tf.train.Example.FromString(encode_masked(record, SCHEMA))
    features = example.features.feature
    written = {"observed": encoding.mask(record.observed)}
    if record.truth is not None:  # and whatever where it is not known
        written["truth_observed"] = encoding.mask(record.truth_known)
    for name in ("image", "truth")[: 1 if record.truth is None else 2]:
        written[name] = jpeg if encoding.values is None else encoding.values(record.image)
    for name, value in written.items():
        values = value if isinstance(value, list) else [value]
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(values[0])]
        getattr(features[name], kind).value[:] = values
    return example.SerializeToString(deterministic=True)


# Each kind of damage: (chance, original) -> case


def flip_bits(chance: random.Random, original: Original) -> Case:
    """Some bits: in its data they cost a record, in a header the rest of the file."""
    content, starts = bytearray(original.content), original.starts
    whole = set(range(len(original.records)))
    for _ in range(chance.choice((1, 1, 2, 5))):
        place = chance.randrange(len(content))
        content[place] ^= 1 << chance.randrange(8)
        hit = max(index for index, start in enumerate(starts[:-1]) if start <= place)
        in_header = place < starts[hit] + _HEADER
        whole -= set(range(hit, len(starts))) if in_header else {hit}
    return Case("flip_bits", bytes(content), whole, False)


def cut(chance: random.Random, original: Original) -> Case:
    """The end of the file is missing."""
    place = chance.randrange(len(original.content))
    return Case("cut", original.content[:place], _before(original, place), False)


def splice(chance: random.Random, original: Original) -> Case:
    """A stretch is removed, doubled, overwritten or inserted."""
    content = original.content
    first, second = sorted(chance.randrange(len(content)) for _ in range(2))
    stretch = chance.choice(
        (b"", content[first:second] * 2, chance.randbytes(second - first), b"\0" * 100)
    )
    return Case(
        "splice", content[:first] + stretch + content[second:], _before(original, first), False
    )


def append_garbage(chance: random.Random, original: Original) -> Case:
    """Something else follows: noise, a gzip file, a length of exabytes with a right checksum."""
    length = struct.pack("<Q", chance.choice((1 << 62, (1 << 64) - 1, MAX_RECORD_BYTES + 1)))
    header = length + struct.pack("<I", _masked_crc(length))
    more = chance.choice((chance.randbytes(50), gzip.compress(b"x"), header, header + b"rest"))
    return Case("append_garbage", original.content + more, set(range(len(original.records))), False)


def break_gzip(chance: random.Random, original: Original) -> Case:
    """A gzip file of records is cut or flipped."""
    packed = bytearray(gzip.compress(original.content, compresslevel=chance.choice((0, 1, 9))))
    place = chance.randrange(12, len(packed))  # a gzip file still
    readable = len(zlib.decompressobj(wbits=31).decompress(bytes(packed[:place])))
    if chance.random() < 0.5:
        del packed[place:]
    else:
        packed[place] ^= 1 << chance.randrange(8)
    return Case("break_gzip", bytes(packed), _before(original, readable), False)


def break_example(chance: random.Random, original: Original) -> Case:
    """Well-framed Examples that are not as declared."""
    broken = set(chance.sample(range(len(original.records)), chance.choice((1, 2))))
    payloads = [_break(chance, p) if i in broken else p for i, p in enumerate(original.payloads)]
    content = b"".join(frame(payload) for payload in payloads)
    if chance.random() < 0.2:
        content = gzip.compress(content)
    return Case("break_example", content, set(range(len(payloads))) - broken, True)


def _break(chance: random.Random, payload: bytes) -> bytes:
    example = tf.train.Example.FromString(payload)
    features = example.features.feature
    names = sorted(features)
    name, other = chance.choice(names), chance.choice(names)
    value = chance.choice(
        (
            b"",
            b"\x89PNG\r\n\x1a\n" + chance.randbytes(40),
            b"\xff\xd8\xff\xe0" + chance.randbytes(40),
            b"\x08\x04\x12" + chance.randbytes(chance.choice((2, 20))),
            chance.randbytes(784),
            bytes(785),
        )
    )

    def flip() -> bytes:
        content = bytearray(payload)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        return bytes(content)

    def swap() -> None:
        first, second = (
            tf.train.Feature.FromString(features[each].SerializeToString())
            for each in (name, other)
        )
        features[name].CopyFrom(second)
        features[other].CopyFrom(first)

    def remove() -> None:
        del features[name]

    def retype() -> None:
        features[name].Clear()
        kind = chance.choice(("int64_list", "float_list", "bytes_list"))
        values = {
            "int64_list": [1, -(1 << 62)],
            "float_list": [float("nan"), 1e38],
            "bytes_list": [value, value],
        }
        getattr(features[name], kind).value.extend(values[kind][: chance.randrange(3)])

    def replace() -> None:
        features[name].bytes_list.value[:] = [value]

    def spoil() -> None:
        content = bytearray(b"".join(features[name].bytes_list.value) or value or b"0")
        content[chance.randrange(min(len(content), 60))] ^= 1 << chance.randrange(8)
        features[name].bytes_list.value[:] = [bytes(content[: chance.choice((30, 1 << 20))])]

    def add_list() -> bytes:
        sequence = tf.train.SequenceExample(context=example.features)
        sequence.feature_lists.feature_list["x"].feature.add()
        return sequence.SerializeToString()

    def add() -> None:
        features[
            chance.choice(("imputations", "x" * 300, "", "observed "))
        ].bytes_list.value.append(value)

    how = chance.choice(
        (
            flip,
            swap,
            remove,
            retype,
            replace,
            add,
            add_list,
            spoil,
            lambda: value,
            lambda: payload[: len(payload) // 2],
        )
    )
    made = how()
    return example.SerializeToString() if made is None else made


DAMAGE: Sequence[Callable[[random.Random, Original], Case]] = (
    flip_bits,
    cut,
    splice,
    append_garbage,
    break_gzip,
    break_example,
)


def make_case(seed: int, original: Original) -> Case:
    """A broken version of a file; the kinds of damage take turns."""
    return DAMAGE[seed % len(DAMAGE)](random.Random(seed), original)


def check(case: Case, original: Original, directory: str) -> tuple[int, int]:
    """Reads a broken file as the pipeline does; returns the numbers of records and of dead letters.

    Raises:
        AssertionError: a whole record did not arrive, or something arrived that is not in the
            original.
    """
    path = os.path.join(directory, "input")
    with open(path, "wb") as file:
        file.write(case.content)
    began, found, num_dead = time.monotonic(), [], 0
    for read in read_frames(path, MAX_RECORD_BYTES):
        read = decode(read, SCHEMA) if isinstance(read, Frame) else read
        if isinstance(read, DeadLetter):
            assert read.message and "\n" not in read.message
            num_dead += 1
        else:
            found.append(read[1].content_hash)
            assert read[1].image.shape == read[1].observed.shape == SCHEMA.shape and read[1].id
    assert time.monotonic() - began < MAX_SECONDS, f"{case.kind} took too long"
    expected = [content_hash(record, SCHEMA) for record in original.records]
    lost = [index for index in case.whole if expected[index] not in found]
    assert not lost, f"{case.kind}: records {lost} did not arrive"
    if not case.altered:
        assert set(found) <= set(expected), f"{case.kind}: something arrived that was not there"
    if case.kind != "splice":  # which may double a stretch
        assert len(found) == len(set(found)), f"{case.kind}: something arrived twice"
    return len(found), num_dead


def run(seeds: Sequence[int], show_progress: bool) -> tuple[int, int]:
    """Checks a case for every seed; returns the numbers of records and of dead letters."""
    total = np.zeros(2, np.int64)
    originals = [make_original(seed) for seed in range(10)]
    with tempfile.TemporaryDirectory() as directory:
        for seed in tqdm.tqdm(seeds, disable=not show_progress, unit="input", mininterval=5):
            original = originals[seed // len(DAMAGE) % len(originals)]
            try:
                total += check(make_case(seed, original), original, directory)
            except Exception as error:
                raise AssertionError(f"input {seed}: {type(error).__name__}: {error}") from error
    return int(total[0]), int(total[1])


def _before(original: Original, place: int) -> set[int]:
    """The records whose frames end before a byte."""
    return {index for index, end in enumerate(original.starts[1:]) if end <= place}


def _masked_crc(length: bytes) -> int:
    crc = google_crc32c.value(length)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    arguments = parser.parse_args()
    num_records, num_dead_letters = run(range(arguments.inputs), show_progress=True)
    print(
        f"{arguments.inputs:,} inputs: {num_records:,} records, "
        f"{num_dead_letters:,} dead letters, 0 records lost"
    )
