"""NaN and sentinels say what is missing, in values and in truths: decoded, masked, and scored."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from vaefill import config as config_lib
from vaefill.errors import ConfigError
from vaefill.jobs import schema_of
from vaefill.masking import MaskRecords, Masks, complete
from vaefill.model import evaluation
from vaefill.model.likelihoods import LIKELIHOODS
from vaefill.model.preprocessing import Preprocessor
from vaefill.records import signs
from vaefill.records.features import masked_features
from vaefill.records.masked import decode_masked, encode_masked
from vaefill.records.record import ImputedRecord, MaskedRecord, RecordError, Schema, content_hash
from vaefill.results import provenance
from vaefill.store.tfrecord import Frame
from vaefill.summary.summarizer import Summarizer

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
    truth = decode_masked(example(image=[0] * 6, truth=image), GREY)
    assert truth.truth.ravel().tolist() == record.image.ravel().tolist()
    assert (truth.truth_observed == record.observed).all()


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


KNOWN = np.array([[[1, 0, 1], [0, 0, 1]]], np.bool_)


def raw(mask: np.ndarray) -> bytes:
    return mask.tobytes()


def as_list(mask: np.ndarray) -> np.ndarray:
    return mask.ravel().astype(np.int64)


def as_png(mask: np.ndarray) -> bytes:
    return tf.io.encode_png(255 * np.uint8(mask)).numpy()


@pytest.mark.parametrize("write", [raw, as_list, serialised, as_png])
@pytest.mark.parametrize("means", ["observed", "missing"])
@pytest.mark.parametrize("schema", [GREY, REAL], ids=["grey", "real"])
def test_a_mask_says_what_is_known_of_a_truth(schema, means, write):
    """In all ways of the other mask, and whatever the truth is elsewhere."""
    schema = dataclasses.replace(schema, mask_means=means)
    written = write(KNOWN if means == "observed" else ~KNOWN)
    truth = np.arange(1, 7).reshape(1, 2, 3).astype(schema.dtype)
    for other in (truth, 255 - truth, *([NAN, np.inf] if schema.dtype == np.float32 else [])):
        given = np.where(KNOWN, truth, other).astype(schema.dtype.newbyteorder("<")).tobytes()
        record = decode_masked(
            example(image=bytes(truth.nbytes), truth=given, truth_observed=written), schema
        )
        filler = 0 if schema.dtype == np.uint8 else NAN
        np.testing.assert_array_equal(record.truth, np.where(KNOWN, truth, filler))
        np.testing.assert_array_equal(record.truth_observed, KNOWN, strict=True)
        again = decode_masked(encode_masked(record, schema), schema)
        assert again.content_hash == record.content_hash == content_hash(record, schema)
        np.testing.assert_array_equal(again.truth_observed, KNOWN, strict=True)


def test_a_mask_that_says_nothing_new_is_as_good_as_none():
    """All is known; or what is not is NaN already."""
    for schema, truth in ((GREY, np.arange(6)), (REAL, np.array([1.5, NAN, 3, 4, NAN, 6]))):
        given = {"image": np.zeros(6, int), "truth": truth}
        one, other = (
            decode_masked(example(**given, **more), schema)
            for more in ({}, {"truth_observed": np.isfinite(truth).astype(int)})
        )
        assert one.content_hash == other.content_hash
        np.testing.assert_array_equal(one.truth_known, other.truth_known)


LIKELIHOODS_OF_RECORDS = [
    ("bernoulli", "threshold", np.uint8),
    ("bernoulli", "sample", np.uint8),
    ("discretized_logistic_mixture", "none", np.uint8),
    ("gaussian", "none", np.float32),
]


@pytest.mark.parametrize(("likelihood", "binarize", "dtype"), LIKELIHOODS_OF_RECORDS)
def test_a_score_does_not_depend_on_a_truth_where_it_is_not_known(likelihood, binarize, dtype):
    schema, generator = Schema((4, 5, 1), {}, 1, np.dtype(dtype)), np.random.default_rng(0)
    summarizer = Summarizer(None, schema, 2, Preprocessor(LIKELIHOODS[likelihood](), binarize))

    def score(truths) -> evaluation.Scores:
        return summarizer.score(
            [
                ImputedRecord(
                    MaskedRecord(
                        b"%d" % i, truths[i], observed[i], truths[i], truth_observed=known[i]
                    ),
                    truths[i][np.newaxis],
                    mean[i],
                    mean[i],
                    {},
                )
                for i in range(len(truths))
            ]
        )

    truths, others = generator.integers(0, 256, (2, 8, *schema.shape)).astype(dtype)
    observed, known = generator.random((2, 8, *schema.shape)) < 0.5
    mean = generator.random((8, *schema.shape), np.float32)
    expected, scores = score(truths), score(np.where(known, truths, others))
    for one, other in zip(expected, scores):
        np.testing.assert_array_equal(one, other, strict=True)
    np.testing.assert_array_equal(scores.num_values, (known & ~observed).sum(axis=(1, 2, 3)))
    changed = score(np.where(known, others, truths))
    assert (changed.brier != expected.brier).any()


def mask_one(record: MaskedRecord, schema: Schema) -> MaskedRecord:
    """A record of which the first row is hidden."""
    masks = Masks(
        config_lib.load("test.yaml", ["mask={mechanism: rows, first: 1, last: 2}"]).mask,
        Preprocessor(LIKELIHOODS["gaussian"](), "none"),
    )
    assert record.content_hash == content_hash(record, schema)
    (item,) = MaskRecords(masks, schema).process((Frame(b"", "in", 0), record))
    return decode_masked(item.example, schema)


@pytest.mark.parametrize("schema", [REAL, GREY], ids=["real", "grey"])
@pytest.mark.parametrize("by_mask", [False, True])
def test_more_is_hidden_of_what_lacks_values_and_that_alone_is_known(schema, by_mask):
    schema, observed = dataclasses.replace(schema, shape=(2, 3, 1)), [1, 0, 1, 1, 0, 1]
    image, gap = np.arange(1, 7) + 0.0, NAN if schema.dtype == np.float32 else 0
    unit = 1 if schema.dtype == np.float32 else 255
    given = {"image": image / unit, "observed": observed}
    if not by_mask:
        given = {"image": np.where(observed, image / unit, NAN)}
    masked = mask_one(decode_masked(example(**given), schema), schema)
    assert masked.observed.ravel().tolist() == [False] * 3 + [True, False, True]
    np.testing.assert_array_equal(masked.image.ravel(), [0, 0, 0, 4, 0, 6])
    np.testing.assert_array_equal(masked.truth.ravel(), np.where(observed, image, gap))
    assert masked.truth_observed.ravel().tolist() == list(map(bool, observed))
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
    identity = provenance.mask_identity(config_lib.load("test.yaml", []), ())
    assert "missing" not in identity.record and "dark" not in identity.mask
    assert identity.mask["mechanism"] == "mcar" and identity.mask["slope"] is None
    config = config_lib.load("test.yaml", ["record.missing=-999"])
    assert provenance.mask_identity(config, ()).record["missing"] == -999
