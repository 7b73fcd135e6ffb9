"""Records as people write them, by encoders that are not ours: PIL, tf.io, or bytes put together
here.
"""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vaefill import config as config_lib
from vaefill import jobs
from vaefill.model import training
from vaefill.records import pictures
from vaefill.records import record as record_lib
from vaefill.records.features import imputed_features, masked_features
from vaefill.records.imputed import encode_imputed
from vaefill.records.masked import decode_masked, decode_observed, encode_masked
from vaefill.records.record import CarriedFeature, MaskedRecord, Reason, RecordError, Schema
from vaefill.results import provenance

GREY = Schema((3, 4, 1), {"label": CarriedFeature("int64")})
RGB = Schema((3, 4, 3), {})
REAL = Schema((1, 4, 3), {}, dtype=np.dtype(np.float32))
LEVELS = np.array([[0, 255, 7, 128], [1, 254, 0, 3], [200, 100, 50, 25]], np.uint8)
COLOURS = np.stack([LEVELS, LEVELS[::-1], 255 - LEVELS], -1)
MASK = np.array([[1, 0, 0, 1], [0, 0, 1, 1], [1, 1, 1, 0]], np.bool_)
NUMBERS = np.array([[0.5, -2, 3], [1, 0, 0.25], [7, 8, 9], [-1, -2, -3]], np.float32)
_LISTS = {int: "int64_list", float: "float_list", bytes: "bytes_list"}


def example(**features) -> bytes:
    """A serialised Example; a value is bytes, or a list, or the type of one that is empty."""
    made = tf.train.Example()
    for name, value in ({"id": b"a"} | features).items():
        values = value if isinstance(value, list) else [value]
        kind = value if isinstance(value, type) else type(values[0])
        field = getattr(made.features.feature[name], _LISTS[kind])
        field.SetInParent()
        field.value.extend(() if isinstance(value, type) else values)
    return made.SerializeToString()


def picture(image, kind="PNG", **options) -> bytes:
    output = io.BytesIO()
    image = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)
    image.save(output, kind, **options)
    return output.getvalue()


def with_palette(indices: np.ndarray, colours: list[int], **options) -> bytes:
    image = PIL.Image.fromarray(indices.astype(np.uint8)).convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette(colours)
    return picture(image, **options)


def raw_png(values: np.ndarray, kind: int, bits: int) -> bytes:
    """A PNG of any colour type and of 8 or 16 bits; PIL writes none of 16 bits in colour."""

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(f">u{bits // 8}"))
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + end


def tensor(array, dtype=None) -> bytes:
    return tf.io.serialize_tensor(tf.constant(array, dtype)).numpy()


PALETTE = sorted(set(COLOURS[..., 0].ravel().tolist()))
SPARSE = tf.make_tensor_proto(7, tf.uint8, [3, 4, 1]).SerializeToString()  # one value for all

IMAGES = {
    "int64_list": (GREY, LEVELS.ravel().tolist(), LEVELS),
    "float_list": (GREY, (LEVELS.ravel() / 255).tolist(), LEVELS),
    "tensor": (GREY, tensor(LEVELS[..., np.newaxis]), LEVELS),
    "tensor_without_channels": (GREY, tensor(LEVELS), LEVELS),
    "tensor_of_int32": (RGB, tensor(COLOURS, tf.int32), COLOURS),
    "tensor_of_one_value": (GREY, SPARSE, np.full((3, 4), 7, np.uint8)),
    "unit_floats": (RGB, tensor(tf.image.convert_image_dtype(COLOURS, tf.float32)), COLOURS),
    "unit_halves": (RGB, tensor(COLOURS / 255, tf.float16), COLOURS),
    "png_of_tf": (RGB, tf.io.encode_png(COLOURS).numpy(), COLOURS),
    "palette_of_grey": (GREY, picture(PIL.Image.fromarray(LEVELS).convert("P")), LEVELS),
    "palette_of_few": (GREY, with_palette(MASK, [9, 9, 9, 80, 80, 80], bits=1), 9 + 71 * MASK),
    "palette_of_colours": (
        RGB,
        with_palette(MASK, [1, 2, 3, 40, 50, 60]),
        np.where(MASK[..., np.newaxis], [40, 50, 60], [1, 2, 3]),
    ),
    "raw_that_begins_as_a_tensor": (
        GREY,
        b"\x08\x04\x12\x00" + bytes(8),
        np.array([[8, 4, 18, 0], [0] * 4, [0] * 4], np.uint8),
    ),
    "real_float_list": (REAL, NUMBERS.ravel().tolist(), NUMBERS[np.newaxis]),
    "real_int64_list": (REAL, list(range(12)), np.arange(12).reshape(1, 4, 3)),
    "real_tensor": (REAL, tensor(NUMBERS), NUMBERS[np.newaxis]),
    "real_halves": (REAL, tensor(NUMBERS, tf.float16), NUMBERS[np.newaxis]),
    "real_doubles": (REAL, tensor(NUMBERS, tf.float64), NUMBERS[np.newaxis]),
    "real_bytes": (REAL, tensor(COLOURS[0], tf.uint8), COLOURS[:1]),
}


@pytest.mark.parametrize(("schema", "content", "expected"), IMAGES.values(), ids=IMAGES)
def test_values_as_people_write_them(schema, content, expected):
    expected = np.reshape(expected, schema.shape).astype(schema.dtype)
    record = decode_masked(example(image=content, truth=content), schema)
    for values in (record.image, record.truth):
        np.testing.assert_array_equal(values, expected, strict=True)
    raw = decode_masked(example(image=expected.tobytes(), truth=expected.tobytes()), schema)
    assert record.content_hash == raw.content_hash


@pytest.mark.parametrize(("schema", "values"), [(GREY, LEVELS), (RGB, COLOURS)], ids=["l", "rgb"])
def test_a_jpeg_has_the_values_that_tensorflow_reads_and_a_warning(schema, values, caplog):
    pictures.warn_of_loss.cache_clear()
    content = tf.io.encode_jpeg(values.reshape(schema.shape), quality=95, chroma_downsampling=False)
    found = [decode_masked(example(image=content.numpy()), schema).image for _ in range(2)]
    expected = tf.io.decode_jpeg(content, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_array_equal(found[1], expected, strict=True)
    assert len([each for each in caplog.messages if "lossy" in each]) == 1


MASKS = {
    "png_of_1_bit": picture(MASK),
    "png_of_grey": picture(MASK.astype(np.uint8) * 255),
    "png_of_0_and_1": picture(MASK.astype(np.uint8)),
    "palette": picture(PIL.Image.fromarray(MASK).convert("P")),
    "palette_the_other_way": with_palette(~MASK, [255, 255, 255, 0, 0, 0], bits=1),
    "raw": MASK.astype(np.uint8).tobytes(),
    "raw_of_0_and_255": (MASK.astype(np.uint8) * 255).tobytes(),
    "list": MASK.ravel().astype(int).tolist(),
    "floats": MASK.ravel().astype(float).tolist(),
    "tensor": tensor(MASK),
    "tensor_of_floats": tensor(MASK[..., np.newaxis], tf.float32),
}


@pytest.mark.parametrize("schema", [GREY, RGB], ids=["one_channel", "for_three_channels"])
@pytest.mark.parametrize("content", MASKS.values(), ids=MASKS)
def test_masks_as_people_save_them(schema, content):
    image = bytes(np.prod(schema.shape))
    expected = np.broadcast_to(MASK[..., np.newaxis], schema.shape)
    payload = example(image=image, observed=content)
    np.testing.assert_array_equal(decode_masked(payload, schema).observed, expected, strict=True)
    np.testing.assert_array_equal(decode_observed(payload, schema)[1], expected, strict=True)


def test_a_mask_of_every_channel_is_still_one():
    mask = np.stack([MASK, ~MASK, MASK], -1)
    for content in (tensor(mask), mask.ravel().astype(int).tolist(), picture(mask * np.uint8(255))):
        payload = example(image=bytes(36), observed=content)
        np.testing.assert_array_equal(decode_masked(payload, RGB).observed, mask, strict=True)


def test_a_mask_may_say_what_is_missing():
    schema = Schema(GREY.shape, {}, mask_means="missing")
    payload = example(image=bytes(12), observed=picture(MASK))
    for found in (decode_masked(payload, schema).observed, decode_observed(payload, schema)[1]):
        np.testing.assert_array_equal(found[..., 0], ~MASK)
    record = MaskedRecord(b"a", LEVELS[..., np.newaxis], MASK[..., np.newaxis])
    read = decode_masked(encode_masked(record, schema), schema)
    np.testing.assert_array_equal(read.observed, record.observed)
    everything = decode_masked(example(image=bytes(12)), schema)
    assert everything.observed.all()  # without a mask nothing is missing, whatever it would mean


@pytest.mark.parametrize("means", ["observed", "missing"])
def test_what_a_mask_means_is_part_of_a_run_unless_it_is_what_it_always_was(means):
    """Results that were made before one could say so are of the same run still."""
    config = config_lib.load("test.yaml", [f"record.mask_means={means}"])
    assert jobs.schema_of(config).mask_means == means
    found = provenance.mask_identity(config, ()).record
    assert found.get("mask_means", "observed") == means
    assert ("mask_means" in found) == (means == "missing")


DEEP = np.arange(36, dtype=np.uint16).reshape(3, 4, 3) << 8
IMAGES_NOT_READ = {
    "16_bit_rgb": (RGB, raw_png(DEEP, 2, 16), "16 bits a channel"),
    "16_bit_grey": (GREY, raw_png(DEEP[..., :1], 0, 16), "16 bits a channel"),
    "1_bit": (GREY, picture(MASK), "1 bits a channel"),
    "palette_of_colours": (GREY, with_palette(MASK, [1, 2, 3, 4, 5, 6]), "palette of colours"),
    "transparent_palette": (
        RGB,
        with_palette(MASK, [1, 2, 3, 4, 5, 6], transparency=0),
        "transparency",
    ),
    "list_beyond": (GREY, [256, -1] + [0] * 10, "such as 256, which uint8 does not hold"),
    "floats_beyond": (GREY, [7.0] + [0.0] * 11, "such as 7.0, .* multiples of 1 / 255"),
    "floats_between": (GREY, [0.501] + [0.0] * 11, "multiples of 1 / 255"),
    "a_float_that_is_none": (GREY, [float("nan")] + [0.0] * 11, "such as nan"),
    "negative_bytes": (GREY, tensor(-LEVELS.astype(np.int8)), "which uint8 does not hold"),
    "truth_values": (GREY, tensor(MASK), "bool values"),
    "tensor_of_another_order": (RGB, tensor(COLOURS.transpose(2, 0, 1)), r"shape \[3, 3, 4\]"),
    "tensor_of_strings": (GREY, tensor([[b"x"] * 4] * 3), "no type of numbers"),
    "tensor_of_exabytes": (
        GREY,
        b"\x08\x04\x12\x0b\x12\x09\x08" + b"\xff" * 7 + b"\x7f",
        "a serialised tensor of shape",
    ),
    "jpeg_of_another_size": (GREY, picture(LEVELS[:2], "JPEG"), "expected 3 x 4"),
    "jpeg_in_colour": (GREY, picture(COLOURS, "JPEG"), "mode RGB"),
    "jpeg_cut_short": (GREY, picture(LEVELS, "JPEG")[:-20], "unusable JPEG"),
    "doubles_that_floats_are_not": (REAL, tensor(np.full((4, 3), 0.1)), "such as 0.1, .*round"),
    "integers_that_floats_are_not": (REAL, [(1 << 24) + 1] + [0] * 11, "16777217"),
}


@pytest.mark.parametrize(
    ("schema", "content", "message"), IMAGES_NOT_READ.values(), ids=IMAGES_NOT_READ
)
def test_values_that_would_change_are_refused(schema, content, message):
    with pytest.raises(RecordError, match=message) as error:
        decode_masked(example(image=content), schema)
    assert error.value.reason == Reason.BAD_IMAGE and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (picture(LEVELS), "values other than 0 and 1, or 0 and 255"),
        (raw_png(DEEP[..., :1], 0, 16), "16 bits a channel"),
        (picture(MASK * np.uint8(255), "JPEG"), "lossy"),
        ([2] * 12, "values other than"),
        ([float("nan")] * 12, "values other than"),
        (with_palette(MASK, [0, 0, 0, 128, 0, 0]), "palette of colours"),
        (tensor(MASK.T), r"shape \[4, 3\]"),
    ],
    ids=["grey", "16_bits", "jpeg", "list", "nan", "colours", "turned"],
)
def test_what_is_no_mask_is_refused(content, message):
    with pytest.raises(RecordError, match=message) as error:
        decode_masked(example(image=bytes(12), observed=content), GREY)
    assert error.value.reason == Reason.BAD_OBSERVED


def test_empty_lists_are_absent():
    payload = example(image=bytes(12), label=int, truth=bytes, observed=float)
    record = decode_masked(payload, GREY)
    assert record.carried == {} and record.truth is None and record.observed.all()
    with pytest.raises(RecordError, match="needs a feature 'image'"):
        decode_masked(example(image=float), GREY)


def test_feature_lists_are_not_lost_in_silence():
    sequence = tf.train.SequenceExample(
        context=tf.train.Example.FromString(example(image=bytes(12))).features
    )
    assert decode_masked(sequence.SerializeToString(), GREY).id == b"a"
    sequence.feature_lists.feature_list["frames"].feature.add()
    with pytest.raises(RecordError, match="feature lists 'frames' would be lost") as error:
        decode_masked(sequence.SerializeToString(), GREY)
    assert error.value.reason == Reason.NOT_AN_EXAMPLE


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@settings(max_examples=25)
@given(st.data())
def test_any_number_of_channels_goes_from_mask_to_impute_to_tfds(dtype, data):
    sides = st.integers(1, 5)
    shape = data.draw(st.tuples(sides, sides, st.integers(1, 7)))
    schema = Schema(shape, {}, num_imputations=2, dtype=np.dtype(dtype))
    finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
    values = arrays(dtype, shape, elements=None if dtype == np.uint8 else finite)
    truth, observed = data.draw(values), data.draw(arrays(np.bool_, shape))
    masked = MaskedRecord(b"a", np.where(observed, truth, 0).astype(dtype), observed, truth)
    payload = encode_masked(masked, schema)
    read = masked_features(schema).deserialize_example_np(payload)
    record = decode_masked(payload, schema)
    numbers = {name: kind(1) for name, kind in record_lib.DIAGNOSTICS.items()}
    imputations, mean = np.stack([truth, truth]), truth.astype(np.float32)
    result = record_lib.ImputedRecord(record, imputations, mean, mean, numbers)
    done = imputed_features(schema).deserialize_example_np(encode_imputed(result, schema))
    for name in ("image", "observed", "truth"):
        expected = getattr(masked, name)
        for found in (read[name], getattr(record, name), done[name]):
            np.testing.assert_array_equal(found, expected, strict=True)
    np.testing.assert_array_equal(done["imputations"], imputations, strict=True)


@pytest.mark.slow
def test_five_channels_are_trained_on_masked_and_imputed(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 2, 3, 5), dtype=np.uint8)
    feature = tfds.features.Tensor(shape=images.shape[1:], dtype=np.uint8)
    tfds.dataset_builders.store_as_tfds_dataset(
        "five",
        version="1.0.0",
        split_datasets={"train": tf.data.Dataset.from_tensor_slices({"image": images})},
        features=tfds.features.FeaturesDict({"image": feature}),
        data_dir=str(tmp_path),
    )
    source = f"tfds:{tmp_path}/five/1.0.0"
    config = config_lib.load(
        "test.yaml",
        [
            "record.shape=[2, 3, 5]",
            f"data={{name: '{source}', train: 'train[:20]', validation: 'train[20:36]'}}",
            "data.test=train[36:]",
            "model={latent_size: 2, hidden: [4]}",
            "train={epochs: 1, batch_size: 4, num_test_importance_samples: 2, num_calibration: 0}",
            "sampler.name=pseudo_gibbs",
            "sampler.num_evidence_draws=0",
        ],
    )
    model, masked, out = (str(tmp_path / name) for name in ("model", "masked", "out"))
    parts = (config.data, config.record, config.model, config.train, config.seed)
    training.train_and_evaluate(training.Settings(*parts), model, show_progress=False)
    jobs.mask(config, f"{source}/train", masked)
    assert jobs.impute(config, model, [f"{masked}/*.tfrecord-*"], out).counts.written == 40
    found = tfds.builder_from_directory(f"{out}/imputed").as_dataset(split="train")
    truths = [record["truth"] for record in tfds.as_numpy(found)]
    assert sorted(truth.tobytes() for truth in truths) == sorted(map(np.ndarray.tobytes, images))
    for record in tfds.as_numpy(found):
        observed = record["observed"]
        assert (record["imputations"][:, observed] == record["truth"][observed]).all()
