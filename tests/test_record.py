"""The codecs: encode and decode are inverse, tfds reads both formats, bad Examples say what is wrong."""

import io
import math
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from pipeline import record as record_lib
from pipeline.record import CarriedFeature, ImputedRecord, MaskedRecord, Reason, RecordError, Schema

SHAPE = (3, 4, 1)
CARRIED = {"label": CarriedFeature("int64"), "weight": CarriedFeature("float32"), "site": CarriedFeature("bytes")}
SCHEMA = Schema(SHAPE, CARRIED, num_imputations=2)
RGB = Schema((3, 4, 3), CARRIED, num_imputations=2)


def masked(schema: Schema = SCHEMA, **changes) -> MaskedRecord:
    generator = np.random.default_rng(0)
    fields = {
        "id": b"\xff\x00 any bytes",
        "image": generator.integers(0, 256, schema.shape, dtype=np.uint8),
        "observed": generator.random(schema.shape) < 0.5,
        "truth": generator.integers(0, 256, schema.shape, dtype=np.uint8),
        "carried": {"label": 7, "weight": 0.5, "site": b"\xfe"},
    }
    return MaskedRecord(**{**fields, **changes})


def imputed(schema: Schema = SCHEMA, **changes) -> ImputedRecord:
    generator = np.random.default_rng(1)
    diagnostics = {name: dtype(index) for index, (name, dtype) in enumerate(record_lib.DIAGNOSTICS.items())}
    return ImputedRecord(
        masked(schema, **changes),
        generator.integers(0, 256, (2, *schema.shape), dtype=np.uint8),
        generator.random(schema.shape, dtype=np.float32),
        generator.random(schema.shape, dtype=np.float32),
        {**diagnostics, "r_hat": np.float32(np.nan)},
    )


def assert_equal(first: MaskedRecord, second: MaskedRecord):
    assert (first.id, first.extra) == (second.id, second.extra)
    assert dict(first.carried) == dict(second.carried)
    for name in ("image", "observed", "truth"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


@pytest.mark.parametrize("schema", [SCHEMA, RGB], ids=["grey", "rgb"])
def test_masked_records_come_back(schema):
    original = masked(schema)
    assert_equal(record_lib.decode_masked(record_lib.encode_masked(original, schema), schema), original)


def test_absent_features():
    example = tf.train.Example()
    example.features.feature["id"].bytes_list.value.append(b"a")
    example.features.feature["image"].bytes_list.value.append(bytes(12))
    decoded = record_lib.decode_masked(example.SerializeToString(), SCHEMA)
    assert decoded.observed.all() and decoded.truth is None and decoded.carried == {} and decoded.extra == b""


def test_everything_else_is_carried_untouched():
    example = tf.train.Example.FromString(record_lib.encode_masked(masked(), SCHEMA))
    example.features.feature["note"].bytes_list.value.extend([b"x", b"y"])
    example.features.feature["scores"].float_list.value.extend([1.5, math.inf])
    decoded = record_lib.decode_masked(example.SerializeToString(), SCHEMA)
    extra = tf.train.Features.FromString(decoded.extra).feature
    assert list(extra["note"].bytes_list.value) == [b"x", b"y"]
    assert list(extra["scores"].float_list.value) == [1.5, math.inf]
    assert_equal(record_lib.decode_masked(record_lib.encode_masked(decoded, SCHEMA), SCHEMA), decoded)


@pytest.mark.parametrize("schema", [SCHEMA, RGB], ids=["grey", "rgb"])
@pytest.mark.parametrize("truth", [True, False], ids=["truth", "no_truth"])
def test_imputed_records_come_back(schema, truth):
    original = imputed(schema, **({} if truth else {"truth": None}))
    decoded = record_lib.decode_imputed(record_lib.encode_imputed(original, schema), schema)
    hidden = np.where(original.masked.observed, original.masked.image, 0)
    np.testing.assert_array_equal(decoded.masked.image, hidden)
    assert decoded.masked.id == original.masked.id and decoded.masked.carried == original.masked.carried
    assert (decoded.masked.truth is not None) == truth
    for name in ("imputations", "mean", "stddev"):
        np.testing.assert_array_equal(getattr(decoded, name), getattr(original, name))
    for name, value in original.diagnostics.items():
        np.testing.assert_array_equal(decoded.diagnostics[name], value)


def test_tfds_reads_both_formats():
    read = record_lib.masked_features(SCHEMA).deserialize_example_np(record_lib.encode_masked(masked(), SCHEMA))
    assert read["id"] == masked().id and read["label"] == 7 and read["site"] == b"\xfe"
    np.testing.assert_array_equal(read["image"], masked().image)
    np.testing.assert_array_equal(read["observed"], masked().observed)
    read = record_lib.imputed_features(SCHEMA).deserialize_example_np(record_lib.encode_imputed(imputed(), SCHEMA))
    np.testing.assert_array_equal(read["imputations"], imputed().imputations)
    np.testing.assert_array_equal(read["mean"], imputed().mean)
    np.testing.assert_array_equal(read["truth"], masked().truth)
    assert read["has_truth"] and np.isnan(read["r_hat"]) and read["num_sweeps"] == 4


def test_absent_carried_values_get_their_default():
    read = record_lib.imputed_features(SCHEMA).deserialize_example_np(
        record_lib.encode_imputed(imputed(carried={}), SCHEMA)
    )
    assert read["label"] == -1 and np.isnan(read["weight"]) and read["site"] == b""


def png(values: np.ndarray, **options) -> bytes:
    output = io.BytesIO()
    PIL.Image.fromarray(values, **options).save(output, format="PNG")
    return output.getvalue()


GOOD_MASK_PNG = png(np.array([[0, 255, 0, 255]] * 3, np.uint8))


def test_a_mask_may_be_a_png():
    payload = with_feature("observed", GOOD_MASK_PNG)
    np.testing.assert_array_equal(
        record_lib.decode_masked(payload, SCHEMA).observed[..., 0], [[False, True, False, True]] * 3
    )


def huge_png(width: int, height: int) -> bytes:
    """A good signature and header that announce more pixels than there is memory for."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def with_feature(name: str, *values) -> bytes:
    """A good record with one feature replaced, or removed if there are no values."""
    example = tf.train.Example.FromString(record_lib.encode_masked(masked(), SCHEMA))
    del example.features.feature[name]
    for value in values:
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(value)]
        getattr(example.features.feature[name], kind).value.append(value)
    return example.SerializeToString()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xff\xff\xff", Reason.NOT_AN_EXAMPLE),
        (b"", Reason.NO_ID),
        (with_feature("id"), Reason.NO_ID),
        (with_feature("id", b""), Reason.NO_ID),
        (with_feature("id", 5), Reason.BAD_TYPE),
        (with_feature("id", b"a", b"b"), Reason.BAD_TYPE),
        (with_feature("image"), Reason.BAD_IMAGE),
        (with_feature("image", bytes(13)), Reason.BAD_IMAGE),
        (with_feature("image", 1.5), Reason.BAD_TYPE),
        (with_feature("image", png(np.zeros((4, 3), np.uint8))), Reason.BAD_IMAGE),
        (with_feature("image", png(np.zeros((3, 4, 3), np.uint8))), Reason.BAD_IMAGE),
        (with_feature("image", png(np.zeros((3, 4), np.uint16))), Reason.BAD_IMAGE),
        (with_feature("image", png(np.zeros((3, 4), np.uint8))[:-28]), Reason.BAD_IMAGE),
        (with_feature("image", b"\x89PNG\r\n\x1a\n"), Reason.BAD_IMAGE),
        (with_feature("image", huge_png(40_000, 40_000)), Reason.BAD_IMAGE),
        (with_feature("image", GOOD_MASK_PNG[:33] + b"\0\0\0\1gAMA\0" + b"\0" * 4), Reason.BAD_IMAGE),
        (with_feature("observed", bytes(11)), Reason.BAD_OBSERVED),
        (with_feature("observed", bytes([2] * 12)), Reason.BAD_OBSERVED),
        (with_feature("observed", png(np.full((3, 4), 7, np.uint8))), Reason.BAD_OBSERVED),
        (with_feature("truth", bytes(5)), Reason.BAD_TRUTH),
        (with_feature("label", b"seven"), Reason.BAD_TYPE),
        (with_feature("label", 1, 2), Reason.BAD_TYPE),
    ],
)
def test_bad_examples_say_what_is_wrong(payload, reason):
    with pytest.raises(RecordError) as error:
        record_lib.decode_masked(payload, SCHEMA)
    assert error.value.reason == reason
    if reason not in (Reason.NO_ID, Reason.NOT_AN_EXAMPLE) and b"any bytes" in payload:
        assert error.value.record_id == masked().id


def test_imputed_arrays_of_the_wrong_size_are_refused_before_they_are_inflated():
    payload = record_lib.encode_imputed(imputed(), SCHEMA)
    with pytest.raises(RecordError, match="does not hold 48 bytes"):
        record_lib.decode_imputed(payload, Schema(SHAPE, CARRIED, num_imputations=4))
