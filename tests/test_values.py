"""Values and masks as bytes: round trips, and what counts as finite. Whole records are in test_record.py."""

import numpy as np
import pytest

from pipeline import values

SHAPE = (2, 3, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_values_come_back(dtype):
    original = np.linspace(0, 255, 6).astype(dtype).reshape(SHAPE)
    decoded = values.decode_values(values.encode_values(original), SHAPE, np.dtype(dtype))
    np.testing.assert_array_equal(decoded, original, strict=True)


def test_real_values_are_little_endian_whatever_the_array():
    big_endian = np.arange(6, dtype=">f4").reshape(SHAPE)
    assert values.encode_values(big_endian) == np.arange(6, dtype="<f4").tobytes()


def test_only_needed_values_must_be_finite():
    needed, bad = np.array([True, False, True]), np.array([1, np.nan, 3], np.float32)
    np.testing.assert_array_equal(values.finite_where(needed, bad), np.array([1, 0, 3], np.float32), strict=True)
    with pytest.raises(ValueError, match="1 values that are not finite"):
        values.finite_where(~needed, bad)
    grey = np.array([1, 2, 3], np.uint8)
    assert values.finite_where(needed, grey) is grey
