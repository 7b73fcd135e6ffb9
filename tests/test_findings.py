"""Warnings at the end of a run: what a run that went wrong unnoticed shows, and a right one not."""

import collections
import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from vaefill.model import datasets, missingness
from vaefill.model.misfit import with_rate_in_reach
from vaefill.model.samplers import sampler_config
from vaefill.records import signs
from vaefill.records.record import MaskedRecord
from vaefill.results import findings
from vaefill.store import tally

SHAPE = (28, 28, 1)
MECHANISMS = {
    "mcar": {"rate": 0.5},
    "rows": {"first": 0, "last": 4},  # which are black
    "top_three_quarters": {},
    "block": {"height": 20, "width": 20},
    "half": {"side": "top"},
    "mar": {"rate": 0.5, "slope": 4.0},
    "mnar": {"dark": 0.2, "bright": 0.8},
}


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return datasets.load_images("digits", "test[:12]", SHAPE).reshape(-1, *SHAPE)


def masks(images: np.ndarray, mechanism: str) -> list[np.ndarray]:
    return [
        missingness.generate(
            mechanism, image, missingness.record_generator(1, b"%d" % i), MECHANISMS[mechanism]
        )
        for i, image in enumerate(images)
    ]


def codes(records) -> list[str]:
    """The kinds of warnings of a run of these records."""
    total: collections.Counter[str] = collections.Counter()
    for record in records:
        tally.add(total, signs.of_record(record))
    return [warning.code for warning in findings.of_tally(total, "threshold")]


def filled(images, observed, keep=None, truths=None, fill=0, known=None) -> list[MaskedRecord]:
    """Records of which the values of `keep`, by default the observed ones, are not the filler, with
    truths where these are `known`, by default everywhere.
    """
    keep = observed if keep is None else keep
    truths = [None] * len(images) if truths is None else truths
    return [
        MaskedRecord(
            b"%d" % i,
            np.where(keep[i], image, fill).astype(image.dtype),
            seen,
            truth,
            truth_observed=None if known is None else known[i],
        )
        for i, (image, seen, truth) in enumerate(zip(images, observed, truths, strict=True))
    ]


@pytest.mark.parametrize("with_truth", [False, True])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_run_as_it_should_be_is_not_warned(digits, mechanism, with_truth):
    observed = masks(digits, mechanism)
    assert codes(filled(digits, observed, truths=digits if with_truth else None)) == []


def test_a_real_run_as_it_should_be_is_not_warned(digits):
    """Nor one with a truth that was rounded, or is not known everywhere."""
    images = (digits * np.pi).astype(np.float32)
    observed = masks(digits, "mcar")
    truths = images.astype(np.float16).astype(np.float32)
    exact = images.copy()
    exact[:, 3] = np.nan
    assert codes(filled(images, observed, truths=exact, known=np.isfinite(exact))) == []
    assert codes(filled(images, observed)) == []
    assert codes(filled(images, observed, truths=truths)) == ["truth_contradicts"]


@pytest.mark.parametrize("fill", [0, 128])
def test_an_inverted_mask_is_seen(digits, fill):
    """Without a truth by what is constant; a filler that is part of the image needs a truth."""
    right = masks(digits, "mcar")
    inverted = [~observed for observed in right]
    assert codes(filled(digits, inverted, keep=right, fill=fill)) == ["mask_inverted"]
    with_truth = filled(digits, inverted, keep=right, truths=digits, fill=fill)
    assert codes(with_truth) == ["mask_inverted", "truth_contradicts"]
    noise = np.random.default_rng(0).integers(0, 255, digits.shape, np.uint8)
    noisy = [np.where(keep, image, other) for keep, image, other in zip(right, digits, noise)]
    everything = [np.ones_like(observed) for observed in right]
    assert "mask_inverted" in codes(filled(noisy, inverted, everything, digits))
    assert codes(filled(noisy, right, everything, digits)) == []


def test_values_that_stayed_below_the_mask_are_no_inversion(digits):
    observed = masks(digits, "half")
    assert codes(filled(digits, observed, keep=np.ones_like(observed))) == []


def test_a_truth_that_contradicts_is_counted(digits):
    observed = masks(digits, "mcar")
    records = filled(digits, observed, truths=[255 - digits[0], *digits[1:]])
    assert codes(records) == ["truth_contradicts"]
    total = collections.Counter(sign for record in records for sign in signs.of_record(record))
    (warning,) = findings.of_tally(total, "threshold")
    assert "in 1 of 12 records" in warning.text


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_truth_says_nothing_where_it_is_not_known(digits, dtype):
    """It contradicts nothing there, nor tells which way round a mask is; elsewhere it does both."""
    images, right = digits.astype(dtype), masks(digits, "mcar")
    known = [np.indices(SHAPE)[0] % 2 == 0] * len(images)
    truths = np.where(known, images, 255 - images).astype(dtype)
    assert codes(filled(images, right, truths=truths, known=known)) == []
    wrong = [255 - image for image in truths]
    assert codes(filled(images, right, truths=wrong, known=known)) == ["truth_contradicts"]
    noise = np.random.default_rng(0).integers(0, 255, digits.shape, np.uint8)
    noisy = [np.where(keep, image, other) for keep, image, other in zip(right, images, noise)]
    everything, inverted = [np.ones(SHAPE, np.bool_)] * len(images), [~keep for keep in right]
    of_part = filled(np.array(noisy), inverted, everything, truths, known=known)
    assert "mask_inverted" in codes(of_part)
    nowhere = [np.zeros(SHAPE, np.bool_)] * len(images)
    unknown = codes(filled(np.array(noisy), inverted, everything, truths, known=nowhere))
    assert not {"mask_inverted", "truth_contradicts"} & set(unknown)


def as_png(values: np.ndarray) -> bytes:
    output = io.BytesIO()
    PIL.Image.fromarray(values[..., 0]).save(output, format="PNG")
    return output.getvalue()


def feature(value) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=value))


@pytest.mark.parametrize(
    "encode",
    [
        lambda mask: mask.astype(np.uint8).tobytes(),
        lambda mask: (255 * mask.astype(np.uint8)).tobytes(),
        lambda mask: as_png(255 * mask.astype(np.uint8)),
        lambda mask: as_png(mask),
        lambda mask: mask.ravel().astype(int).tolist(),
    ],
    ids=["raw", "raw_255", "png", "png_1_bit", "int64_list"],
)
def test_a_mask_under_another_name_is_named(digits, encode):
    total: collections.Counter[str] = collections.Counter()
    everything = np.ones_like(digits[0], np.bool_)
    for image, mask in zip(digits, masks(digits, "mcar")):
        others = {"mask\x1b": encode(mask), "weights": image.tobytes(), "words": b"ab" * 9}
        others |= {"broken": b"\x89PNG\r\n\x1a\n", "one": [3]}
        extra = tf.train.Features(feature={name: feature(x) for name, x in others.items()})
        record = MaskedRecord(b"a", image, everything, extra=extra.SerializeToString())
        tally.add(total, signs.of_record(record))
    (warning,) = findings.of_tally(total, "threshold")
    assert warning.code == "nothing_missing"
    assert "none of 12 records lacks a value" in warning.text
    assert r"the surplus feature 'mask\x1b' looks like a mask: name it 'observed'" in warning.text


def test_one_record_that_lacks_a_value_is_enough(digits):
    observed = np.ones_like(digits, np.bool_)
    assert codes(filled(digits, observed)) == ["nothing_missing"]
    observed[3, 5, 5] = False
    assert codes(filled(digits, observed)) == []
    assert codes([]) == []


@given(data=st.data())
def test_names_from_the_input_are_bounded_and_counted_alike_in_any_bundles(data):
    names = [f"{signs.LIKE_MASK}{i:02d}" for i in range(40)] + ["read"]
    found = data.draw(st.lists(st.sampled_from(names), max_size=99))
    whole: collections.Counter[str] = collections.Counter()
    tally.add(whole, found)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(found)), max_size=4)))
    merged: collections.Counter[str] = collections.Counter()
    for first, last in zip([0, *cuts], [*cuts, len(found)]):
        part: collections.Counter[str] = collections.Counter()
        for name in found[first:last]:
            tally.add(part, [name])
        tally.add(merged, dict(part))
    assert merged == whole and len(whole) <= 17
    assert all(whole[name] == found.count(name) for name in whole)


def test_grey_values_under_a_threshold_are_named_with_the_setting(digits):
    """Of smooth pictures; not of digits, whose edges are grey, as the tests above show."""
    across = np.linspace(20, 235, digits[0].size).astype(np.uint8).reshape(SHAPE)
    records = filled(np.stack([across] * 4), masks(np.stack([across] * 4), "mcar"))
    assert codes(records) == ["grey_values"]
    total = collections.Counter(sign for record in records for sign in signs.of_record(record))
    assert findings.of_tally(total, "none") == ()


def test_a_rate_of_misfits_that_is_not_the_default_is_said():
    asked = sampler_config()
    (warning,) = findings.of_misfits(asked, with_rate_in_reach(asked, 25), 25)
    assert warning.code == "misfit_rate" and warning.text.startswith(
        "misfits are told at a rate of 0.0385 and not of 0.01, which takes 99 calibration records "
        "and not 25; train with train.num_calibration of 99 or more"
    )
    assert findings.of_misfits(asked, with_rate_in_reach(asked, 99), 99) == ()
    chosen = sampler_config(misfit_rate=0.04)
    assert findings.of_misfits(chosen, with_rate_in_reach(chosen, 25), 25) == ()
