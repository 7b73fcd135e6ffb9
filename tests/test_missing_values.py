"""NaN and sentinels say what is missing, in values and in truths: decoded, masked, and scored."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from vaefill import config as config_lib
from vaefill.errors import ConfigError
from vaefill.jobs import schema_of
from vaefill.masking import MaskRecords, Masks, complete
from vaefill.model.likelihoods import LIKELIHOODS
from vaefill.model.preprocessing import Preprocessor
from vaefill.records import signs
from vaefill.records.features import masked_features
from vaefill.records.record import (
    MaskedRecord,
    Reason,
    RecordError,
    Schema,
    content_hash,
    decode_masked,
    encode_masked,
)
from vaefill.results import provenance
from vaefill.store.tfrecord import Frame

REAL = Schema((1, 2, 3), {}, dtype=np.dtype(np.float32), missing="nan")
GREY = Schema((1, 2, 3), {}, missing=-999.0)
NAN = np.nan
VALUES = np.array([[1.5, NAN, -999, 0, NAN, 7]], np.float64)


def example(**features) -> bytes:
    made = tf.train.Example()
    for name, value in ({"id": b"a"} | features).items():
        if isinstance(value, bytes):
            made.features.feature[name].bytes_list.value.append(value)
        elif np.asarray(value).dtype.kind == "f":
            made.features.feature[name].float_list.value.extend(np.ravel(value))
        else:
            made.features.feature[name].int64_list.value.extend(np.ravel(value))
    return made.SerializeToString()


def serialised(values) -> bytes:
    return tf.io.serialize_tensor(tf.constant(np.reshape(values, (1, 2, 3)))).numpy()


@pytest.mark.parametrize(
    "image",
    [
        VALUES.astype("<f4").tobytes(),
        VALUES.ravel(),
        serialised(VALUES),
        serialised(VALUES.astype(np.float32)),
        serialised(VALUES.astype(np.float16)),
    ],
    ids=["raw", "list", "float64", "float32", "float16"],
)
@pytest.mark.parametrize(
    ("missing", "observed"), [("nan", [1, 0, 1, 1, 0, 1]), (-999.0, [1, 0, 0, 1, 0, 1])]
)
def test_nan_or_a_number_is_missing_however_it_is_written(image, missing, observed):
    schema = dataclasses.replace(REAL, missing=missing)
    alone = decode_masked(example(image=image), schema)
    np.testing.assert_array_equal(alone.observed.ravel(), np.array(observed, bool))
    np.testing.assert_array_equal(alone.image.ravel(), np.where(observed, VALUES[0], 0))
    beside = decode_masked(example(image=image, observed=[1, 1, 1, 0, 0, 0]), schema)
    np.testing.assert_array_equal(beside.observed.ravel(), [*map(bool, observed[:3]), *[False] * 3])
    # As if a mask had said it all
    said = example(image=np.nan_to_num(VALUES).astype("<f4").tobytes(), observed=observed)
    assert decode_masked(said, schema).content_hash == alone.content_hash


@pytest.mark.parametrize(
    "image", [[3, -999, 255, 0, -999, 1], [3 / 255, NAN, 1.0, 0.0, -999.0, 1 / 255]]
)
def test_grey_values_may_be_missing_too(image):
    record = decode_masked(example(image=image), GREY)
    assert record.image.ravel().tolist() == [3, 0, 255, 0, 0, 1]
    assert record.observed.ravel().tolist() == [True, False, True, True, False, True]
    with pytest.raises(RecordError, match="2 values are missing; uint8 has no NaN") as error:
        decode_masked(example(image=[0] * 6, truth=image), GREY)
    assert error.value.reason == Reason.BAD_TRUTH


@pytest.mark.parametrize(
    ("missing", "bad"),
    [("nan", np.inf), (-999.0, -np.inf), ("none", NAN), (1e39, np.inf)],
)
@pytest.mark.parametrize("name", ["image", "truth"])
def test_other_values_that_are_no_numbers_are_still_refused(missing, bad, name):
    schema = dataclasses.replace(REAL, missing=missing)
    features = {"image": np.zeros(6), "truth": np.zeros(6)} | {name: np.array([0, bad, *[0.0] * 4])}
    with pytest.raises(RecordError, match="1 values that are not finite"):
        decode_masked(example(**features), schema)


def test_a_truth_is_unknown_where_it_is_nan():
    """It is scored where it is known alone, contradicts nothing elsewhere, and tfds reads it."""
    truth = np.array([1, NAN, 3, 4, NAN, -999], np.float32)
    given = example(image=np.array([1, 2, NAN, NAN, NAN, NAN]), truth=truth)
    record = decode_masked(given, dataclasses.replace(REAL, missing=-999.0))
    np.testing.assert_array_equal(record.truth.ravel(), [1, NAN, 3, 4, NAN, NAN])
    assert signs.CONTRADICTED not in list(signs.of_record(record))
    again = encode_masked(record, REAL)
    assert decode_masked(again, REAL).content_hash == content_hash(record, REAL)
    read = masked_features(REAL).deserialize_example_np(again)
    np.testing.assert_array_equal(read["truth"], record.truth, strict=True)
    scores = Preprocessor(LIKELIHOODS["gaussian"](), "none").score(
        np.full((1, 6), 2.0), record.truth.reshape(1, 6), ~record.observed.reshape(1, 6)
    )
    assert scores.num_values == 2 and scores.brier == 1 + 4


def mask_one(record: MaskedRecord, schema: Schema) -> MaskedRecord:
    """A record of which the first row is hidden."""
    masks = Masks(
        config_lib.load("test.yaml", ["mask={mechanism: rows, first: 1, last: 2}"]).mask,
        Preprocessor(LIKELIHOODS["gaussian"](), "none"),
    )
    (item,) = MaskRecords(masks, schema).process((Frame(b"", "in", 0), record))
    return decode_masked(item.example, schema)


def test_more_is_hidden_of_what_lacks_values_and_that_alone_is_known():
    schema = dataclasses.replace(REAL, shape=(2, 3, 1))
    image = np.array([1, NAN, 3, 4, NAN, 6])
    masked = mask_one(decode_masked(example(image=image), schema), schema)
    assert masked.observed.ravel().tolist() == [False] * 3 + [True, False, True]
    np.testing.assert_array_equal(masked.image.ravel(), [0, 0, 0, 4, 0, 6])
    np.testing.assert_array_equal(masked.truth.ravel(), image)
    again = mask_one(masked, schema)
    assert again.content_hash == masked.content_hash


def test_what_is_observed_is_known_though_the_truth_lacks_it():
    image, truth = np.array([1, 2, 0, 0, 0, 0]), np.array([1, NAN, 3, NAN, NAN, NAN])
    made = example(image=image.astype(float), truth=truth, observed=[1, 1, 0, 0, 0, 0])
    found = complete(decode_masked(made, REAL))
    assert found.observed.ravel().tolist() == [True, True, True, False, False, False]
    assert found.image.ravel().tolist() == [1, 2, 3, 0, 0, 0] and found.truth is None


def test_the_configuration_says_what_stands_for_missing():
    for said, missing in (("nan", "nan"), ("none", "none"), ("-999", -999), ("0.5", 0.5)):
        config = config_lib.load("test.yaml", [f"record.missing={said}"])
        assert schema_of(config).missing == missing
    assert schema_of(config_lib.load("test.yaml", [])).missing == "nan"
    for bad in (".nan", ".inf", "NA", "true"):
        with pytest.raises(ConfigError, match="record.missing"):
            config_lib.load("test.yaml", [f"record.missing={bad}"])


def test_results_from_before_are_still_the_same_run():
    record = provenance.mask_identity(config_lib.load("test.yaml", []), ()).record
    assert "missing" not in record
    config = config_lib.load("test.yaml", ["record.missing=-999"])
    assert provenance.mask_identity(config, ()).record["missing"] == -999
