"""The codecs: encode and decode are inverse, tfds reads both formats, bad Examples say what is
wrong.
"""

import dataclasses
import io
import math
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vaefill.records import record as record_lib
from vaefill.records.features import imputed_features, masked_features
from vaefill.records.imputed import decode_imputed, encode_imputed
from vaefill.records.masked import decode_masked, decode_observed, encode_masked
from vaefill.records.record import (
    CarriedFeature,
    ImputedRecord,
    MaskedRecord,
    Reason,
    RecordError,
    Schema,
    with_truth,
)

SHAPE = (3, 4, 1)
CARRIED = {
    "label": CarriedFeature("int64"),
    "weight": CarriedFeature("float32"),
    "site": CarriedFeature("bytes"),
}
SCHEMA = Schema(SHAPE, CARRIED, num_imputations=2)
RGB = Schema((3, 4, 3), CARRIED, num_imputations=2)
REAL = Schema(SHAPE, CARRIED, num_imputations=2, dtype=np.dtype(np.float32))
SCHEMAS = pytest.mark.parametrize("schema", [SCHEMA, RGB, REAL], ids=["grey", "rgb", "real"])


def some_values(generator, schema: Schema, shape) -> np.ndarray:
    if schema.dtype == np.uint8:
        return generator.integers(0, 256, shape, dtype=np.uint8)
    return generator.normal(size=shape).astype(np.float32)


def masked(schema: Schema = SCHEMA, **changes) -> MaskedRecord:
    generator = np.random.default_rng(0)
    fields = {
        "id": b"\xff\x00 any bytes",
        "image": some_values(generator, schema, schema.shape),
        "observed": generator.random(schema.shape) < 0.5,
        "truth": some_values(generator, schema, schema.shape),
        "carried": {"label": 7, "weight": 0.5, "site": b"\xfe"},
    }
    return MaskedRecord(**{**fields, **changes})


def imputed(schema: Schema = SCHEMA, **changes) -> ImputedRecord:
    generator = np.random.default_rng(1)
    diagnostics = {
        name: dtype(index) for index, (name, dtype) in enumerate(record_lib.DIAGNOSTICS.items())
    }
    return ImputedRecord(
        masked(schema, **changes),
        some_values(generator, schema, (2, *schema.shape)),
        generator.random(schema.shape, dtype=np.float32),
        generator.random(schema.shape, dtype=np.float32),
        {**diagnostics, "r_hat": np.float32(np.nan)},
    )


def assert_equal(first: MaskedRecord, second: MaskedRecord):
    assert (first.id, first.extra) == (second.id, second.extra)
    assert dict(first.carried) == dict(second.carried)
    for name in ("image", "observed", "truth", "truth_known"):
        np.testing.assert_array_equal(
            getattr(first, name), getattr(second, name), err_msg=name, strict=True
        )


@st.composite
def masked_records(draw, schema: Schema) -> MaskedRecord:
    """Any record that the format allows."""
    finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
    values = arrays(
        schema.dtype, schema.shape, elements=None if schema.dtype == np.uint8 else finite
    )
    extra = tf.train.Features()
    for name in draw(
        st.sets(st.text(max_size=9).filter(lambda name: name not in record_lib.OWN_FEATURES))
    ):
        if name not in schema.carried:
            extra.feature[name].bytes_list.value.extend(
                draw(st.lists(st.binary(max_size=9), max_size=2))
            )
    carried = {
        "label": st.integers(-(1 << 63), (1 << 63) - 1),
        "weight": st.floats(allow_nan=False, width=32),
        "site": st.binary(max_size=9),
    }
    masks = arrays(np.bool_, schema.shape)
    record = MaskedRecord(
        draw(st.binary(min_size=1, max_size=40)),
        draw(values),
        draw(masks),
        carried={name: draw(value) for name, value in carried.items()},
        extra=extra.SerializeToString(deterministic=True),
    )
    truth = draw(st.none() | st.tuples(values, masks))
    return record if truth is None else with_truth(record, *truth)


@SCHEMAS
@given(st.data())
def test_masked_records_come_back(schema, data):
    original = data.draw(masked_records(schema))
    decoded = decode_masked(encode_masked(original, schema), schema)
    assert_equal(decoded, original)
    assert record_lib.content_hash(decoded, schema) == record_lib.content_hash(original, schema)
    assert decoded.content_hash == record_lib.content_hash(original, schema)


@SCHEMAS
@given(st.data())
def test_an_imputed_record_has_the_content_hash_of_the_masked_one(schema, data):
    original = data.draw(masked_records(schema))
    decoded = decode_imputed(encode_imputed(_with_results(original, schema), schema), schema)
    known = dataclasses.replace(
        original, image=np.where(original.observed, original.image, 0).astype(schema.dtype)
    )
    assert_equal(decoded.masked, known)
    assert record_lib.content_hash(decoded.masked, schema) == record_lib.content_hash(
        original, schema
    )


def _with_results(record: MaskedRecord, schema: Schema) -> ImputedRecord:
    return dataclasses.replace(imputed(schema), masked=record)


@SCHEMAS
def test_whatever_a_result_can_depend_on_changes_the_content_hash(schema):
    original = masked(schema)
    other, flipped = original.truth.copy(), original.observed.copy()
    other.flat[0] += 1
    flipped.flat[0] ^= True
    image = np.where(original.observed, original.image + 1, original.image).astype(schema.dtype)
    changes = [
        {"id": b"another"},
        {"image": image},
        {"observed": flipped},
        {"truth": other},
        {"truth": None},
        truth_of(with_truth(original, 0 * other, flipped)),
        truth_of(with_truth(original, 0 * other, ~flipped)),
        {"carried": {**original.carried, "label": 8}},
        {"extra": b"x"},
    ]
    hashes = [
        record_lib.content_hash(dataclasses.replace(original, **each), schema)
        for each in ({}, *changes)
    ]
    assert len(set(hashes)) == len(changes) + 1
    ignored = np.where(original.observed, original.image, original.image + 1).astype(schema.dtype)
    assert (
        record_lib.content_hash(dataclasses.replace(original, image=ignored), schema) == hashes[0]
    )


def truth_of(record: MaskedRecord) -> dict[str, np.ndarray | None]:
    return {"truth": record.truth, "truth_observed": record.truth_observed}


@pytest.mark.parametrize(
    ("dtype", "truth", "expected"),
    [
        (np.uint8, None, "e78dbb919c0040220e5ffec38feb44d4"),
        (np.uint8, "all", "9fe3a863d61235ec3de47437e5025389"),
        (np.float32, None, "461ff1b3ff0972ea39d0f2ea980cde85"),
        (np.float32, "all", "4f0a8ab5d0cb07a2fbf68eecb0ffee42"),
        (np.float32, "gaps", "98e42ea62deefc516f441ad717ad7896"),
    ],
)
def test_content_hashes_stay_what_they_were(dtype, truth, expected):
    """By which results that are there already know a record again."""
    schema = Schema(SHAPE, {"label": CarriedFeature("int64")}, dtype=np.dtype(dtype))
    values = np.arange(12).reshape(SHAPE).astype(dtype)
    record = MaskedRecord(b"a", values, values % 3 > 0, carried={"label": 7})
    if truth is not None:
        record = with_truth(record, values, values % 5 >= (truth == "gaps"))
    assert record_lib.content_hash(record, schema).hex() == expected


@given(
    st.binary(max_size=300) | st.builds(lambda start: start + bytes(784), st.binary(max_size=30))
)
def test_any_bytes_are_a_record_or_an_error_that_is_declared(payload):
    for decode in (decode_masked, decode_observed, decode_imputed):
        try:
            decode(payload, SCHEMA)
        except RecordError as error:
            assert str(error) and error.reason in Reason


def test_absent_features():
    example = tf.train.Example()
    example.features.feature["id"].bytes_list.value.append(b"a")
    example.features.feature["image"].bytes_list.value.append(bytes(12))
    decoded = decode_masked(example.SerializeToString(), SCHEMA)
    assert (
        decoded.observed.all()
        and decoded.truth is None
        and decoded.carried == {}
        and decoded.extra == b""
    )


def test_everything_else_is_carried_untouched():
    example = tf.train.Example.FromString(encode_masked(masked(), SCHEMA))
    example.features.feature["note"].bytes_list.value.extend([b"x", b"y"])
    example.features.feature["scores"].float_list.value.extend([1.5, math.inf])
    decoded = decode_masked(example.SerializeToString(), SCHEMA)
    extra = tf.train.Features.FromString(decoded.extra).feature
    assert list(extra["note"].bytes_list.value) == [b"x", b"y"]
    assert list(extra["scores"].float_list.value) == [1.5, math.inf]
    assert_equal(decode_masked(encode_masked(decoded, SCHEMA), SCHEMA), decoded)


@SCHEMAS
@pytest.mark.parametrize("truth", [True, False], ids=["truth", "no_truth"])
def test_imputed_records_come_back(schema, truth):
    original = imputed(schema, **({} if truth else {"truth": None}))
    decoded = decode_imputed(encode_imputed(original, schema), schema)
    hidden = np.where(original.masked.observed, original.masked.image, 0)
    np.testing.assert_array_equal(decoded.masked.image, hidden.astype(schema.dtype), strict=True)
    assert (
        decoded.masked.id == original.masked.id
        and decoded.masked.carried == original.masked.carried
    )
    assert (decoded.masked.truth is not None) == truth
    for name in ("imputations", "mean", "stddev"):
        np.testing.assert_array_equal(getattr(decoded, name), getattr(original, name), strict=True)
    for name, value in original.diagnostics.items():
        np.testing.assert_array_equal(decoded.diagnostics[name], value)


@SCHEMAS
def test_tfds_reads_both_formats(schema):
    record, result = masked(schema), imputed(schema)
    read = masked_features(schema).deserialize_example_np(encode_masked(record, schema))
    assert read["id"] == record.id and read["label"] == 7 and read["site"] == b"\xfe"
    for name in ("image", "observed", "truth"):
        np.testing.assert_array_equal(read[name], getattr(record, name), strict=True)
    assert read["truth_observed"].all()
    read = imputed_features(schema).deserialize_example_np(encode_imputed(result, schema))
    np.testing.assert_array_equal(read["imputations"], result.imputations, strict=True)
    np.testing.assert_array_equal(read["mean"], result.mean)
    np.testing.assert_array_equal(read["truth"], record.truth, strict=True)
    assert read["has_truth"] and np.isnan(read["r_hat"]) and read["num_sweeps"] == 4


def test_absent_carried_values_get_their_default():
    read = imputed_features(SCHEMA).deserialize_example_np(
        encode_imputed(imputed(carried={}), SCHEMA)
    )
    assert read["label"] == -1 and np.isnan(read["weight"]) and read["site"] == b""


@pytest.mark.parametrize("carried", [{}, {"label": -1}, {"site": b"", "label": 0}])
def test_a_value_that_is_the_default_is_told_from_one_that_is_absent(carried):
    """Through both formats, though the hash, older than the difference, is the same."""
    read = decode_masked(encode_masked(masked(carried=carried), SCHEMA), SCHEMA)
    assert read.carried == carried and read.extra == b""
    again = decode_imputed(encode_imputed(imputed(carried=carried), SCHEMA), SCHEMA)
    assert again.masked.carried == carried
    assert read.content_hash == record_lib.content_hash(masked(carried=carried), SCHEMA)
    if carried == {"label": -1}:
        assert read.content_hash == record_lib.content_hash(masked(carried={}), SCHEMA)


def png(values: np.ndarray, **options) -> bytes:
    output = io.BytesIO()
    PIL.Image.fromarray(values, **options).save(output, format="PNG")
    return output.getvalue()


GOOD_MASK_PNG = png(np.array([[0, 255, 0, 255]] * 3, np.uint8))


def test_a_mask_may_be_a_png():
    payload = with_feature("observed", GOOD_MASK_PNG)
    np.testing.assert_array_equal(
        decode_masked(payload, SCHEMA).observed[..., 0], [[False, True, False, True]] * 3
    )


def huge_png(width: int, height: int) -> bytes:
    """A good signature and header that announce more pixels than there is memory for."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
    )


def with_feature(name: str, *values) -> bytes:
    """A good record with one feature replaced, or removed if there are no values."""
    example = tf.train.Example.FromString(encode_masked(masked(), SCHEMA))
    del example.features.feature[name]
    for value in values:
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(value)]
        getattr(example.features.feature[name], kind).value.append(value)
    return example.SerializeToString()


def test_a_truth_that_was_taken_away_leaves_nothing_behind():
    """What is known of it says nothing without it."""
    record = decode_masked(with_feature("truth"), SCHEMA)
    assert record.truth is None and record.truth_observed is None and not record.extra


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
        (
            with_feature("image", GOOD_MASK_PNG[:33] + b"\0\0\0\1gAMA\0" + b"\0" * 4),
            Reason.BAD_IMAGE,
        ),
        (with_feature("observed", bytes(11)), Reason.BAD_OBSERVED),
        (with_feature("observed", bytes([2] * 12)), Reason.BAD_OBSERVED),
        (with_feature("observed", png(np.full((3, 4), 7, np.uint8))), Reason.BAD_OBSERVED),
        (with_feature("truth", bytes(5)), Reason.BAD_TRUTH),
        (with_feature("truth_observed", bytes(11)), Reason.BAD_TRUTH),
        (with_feature("truth_observed", bytes([2] * 12)), Reason.BAD_TRUTH),
        (with_feature("truth_observed", b"a", b"b"), Reason.BAD_TYPE),
        (with_feature("label", b"seven"), Reason.BAD_TYPE),
        (with_feature("label", 1, 2), Reason.BAD_TYPE),
    ],
)
def test_bad_examples_say_what_is_wrong(payload, reason):
    with pytest.raises(RecordError) as error:
        decode_masked(payload, SCHEMA)
    assert error.value.reason == reason
    if reason not in (Reason.NO_ID, Reason.NOT_AN_EXAMPLE) and b"any bytes" in payload:
        assert error.value.record_id == masked().id


def real_payload(name: str, *values: float) -> bytes:
    """A record of real values of which the first two are observed and the others missing."""
    example = tf.train.Example()
    zeros = [0.0] * 12
    features = {"id": b"a", "observed": bytes([1, 1] + [0] * 10)}
    features |= {
        key: struct.pack("<12f", *(values if key == name else zeros)) for key in ("image", "truth")
    }
    for key, value in features.items():
        example.features.feature[key].bytes_list.value.append(value)
    return example.SerializeToString()


def test_real_values_are_little_endian_and_anything_where_missing():
    values = [-1.5, 3e38, math.nan, math.inf, -math.inf, 0.25, *range(6)]
    image = decode_masked(real_payload("image", *values), REAL).image
    assert image.dtype == np.float32
    np.testing.assert_array_equal(
        image.ravel(), np.array([-1.5, 3e38, 0, 0, 0, 0.25, *range(6)], np.float32)
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_needed_values_that_are_not_finite_are_refused(bad):
    for name, position, reason in (("image", 1, Reason.BAD_IMAGE), ("truth", 5, Reason.BAD_TRUTH)):
        values = [bad if i == position else 0.0 for i in range(12)]
        with pytest.raises(RecordError, match="1 values that are not finite") as error:
            decode_masked(real_payload(name, *values), REAL)
        assert (error.value.reason, error.value.record_id) == (reason, b"a")


@pytest.mark.parametrize(
    "image", [bytes(12), png(np.zeros((3, 4), np.uint8))], ids=["uint8", "png"]
)
def test_bytes_are_no_real_values(image):
    with pytest.raises(RecordError, match="not float32 values, the 48 of shape") as error:
        decode_masked(with_feature("image", image), REAL)
    assert error.value.reason == Reason.BAD_IMAGE


@pytest.mark.parametrize("num_imputations", [1, 3], ids=["too_large", "too_small"])  # there are 2
def test_imputed_arrays_of_the_wrong_size_are_refused_before_they_are_inflated(num_imputations):
    payload = encode_imputed(imputed(), SCHEMA)
    with pytest.raises(RecordError, match=f"does not hold {12 * num_imputations} bytes"):
        decode_imputed(payload, Schema(SHAPE, CARRIED, num_imputations))
