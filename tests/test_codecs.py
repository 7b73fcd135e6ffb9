"""Values and masks as bytes: round trips, and what counts as finite.

Whole records are in test_record.py.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vaefill.records import codecs

SHAPE = (2, 3, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@given(st.data())
def test_values_come_back(dtype, data):
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 7)))
    original = data.draw(arrays(dtype, shape))
    decoded = codecs.decode_values(codecs.encode_values(original), shape, np.dtype(dtype))
    np.testing.assert_array_equal(decoded, original, strict=True)


@given(arrays(np.bool_, SHAPE))
def test_masks_come_back_from_bytes_and_from_pictures(mask):
    for content in (
        mask.astype(np.uint8).tobytes(),
        codecs.encode_png(mask.astype(np.uint8) * 255),
    ):
        np.testing.assert_array_equal(codecs.decode_mask(content, SHAPE), mask, strict=True)


def test_real_values_are_little_endian_whatever_the_array():
    big_endian = np.arange(6, dtype=">f4").reshape(SHAPE)
    assert codecs.encode_values(big_endian) == np.arange(6, dtype="<f4").tobytes()


def test_only_needed_values_must_be_finite():
    needed, bad = np.array([True, False, True]), np.array([1, np.nan, 3], np.float32)
    np.testing.assert_array_equal(
        codecs.finite_where(needed, bad), np.array([1, 0, 3], np.float32), strict=True
    )
    with pytest.raises(ValueError, match="1 values that are not finite"):
        codecs.finite_where(~needed, bad)
    grey = np.array([1, 2, 3], np.uint8)
    assert codecs.finite_where(needed, grey) is grey
