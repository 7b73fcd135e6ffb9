"""Location and scale of real values: what they are, and that nothing is lost on the way there and
back.
"""

import numpy as np
import pytest
import tensorflow as tf

from vaefill.model import standardization
from vaefill.model.likelihoods import Gaussian
from vaefill.model.standardization import Standardization, estimate

VALUES = np.random.default_rng(0).normal(size=(257, 4))


@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
def test_mean_and_deviation_are_those_of_float64_whatever_the_chunks(monkeypatch, chunk):
    """Among values in other units and far from 0, and with gaps."""
    monkeypatch.setattr(standardization, "_CHUNK_VALUES", chunk)
    values = (VALUES * [1.0, 1e-9, 1e6, 5e37] + [0.0, 0.0, 1e8, 1e38]).astype(np.float32)
    values[::5, 1], values[::7, 2] = np.nan, np.inf
    found = estimate(values)
    exact = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    np.testing.assert_allclose(found.location, np.nanmean(exact, axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.scale, np.nanstd(exact, axis=0), rtol=1e-12)


def test_what_does_not_vary_takes_the_smallest_scale():
    """0.1 a thousand times has another mean than 0.1; of the last value nothing is known."""
    values = np.full((1000, 4), np.float32(0.1))
    values[:, 1:3] = VALUES[[0] * 500 + [1] * 500, 1:3] * [1e-6, 1e6]
    values[:, 3] = np.nan
    found = estimate(values)
    assert found.location[0] == np.float32(0.1) and found.location[3] == 0
    assert found.scale[0] == found.scale[3] == found.scale[1] < 1e-5 and found.scale[2] > 1e5
    np.testing.assert_array_equal(estimate(values[:1]).scale, 1.0)


@pytest.mark.parametrize(("unit", "offset"), [(5, 290), (1e-9, 0), (1e-41, 0), (1e38, 1e38)])
def test_values_of_any_size_come_back(unit, offset):
    values = (VALUES.clip(-2, 2) * unit + offset).astype(np.float32)
    affine = estimate(values)
    seen = affine.to_model(values)
    assert seen.dtype == np.float32 and np.isfinite(seen).all()
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(axis=0), 1, atol=1e-5)
    back = affine.to_data(seen)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, values, rtol=1e-6, atol=1e-7 * unit)


def test_what_float32_does_not_hold_is_infinite_before_the_model_and_the_largest_after_it():
    """So that a draw is a number wherever the model's own is; what is none stays none."""
    affine = Standardization(np.zeros(1), np.full(1, 1e-30))
    assert np.isposinf(affine.to_model(np.float32([[1e20]]))).all()
    affine, largest = Standardization(np.full(1, 1e38), np.full(1, 1e38)), np.finfo(np.float32).max
    seen = np.float32([[-9.0], [9.0], [3e38], [0.0], [np.inf], [-np.inf], [np.nan]])
    expected = np.float32([[-largest], [largest], [largest], [1e38], [np.inf], [-np.inf], [np.nan]])
    np.testing.assert_array_equal(affine.to_data(seen), expected, strict=True)
    likelihood = Gaussian()
    likelihood.standardization = affine
    np.testing.assert_array_equal(likelihood.to_data(tf.constant(seen)).numpy(), expected)
    np.testing.assert_array_equal(
        affine.stddev_to_data(np.float32([[2.0], [4.0]])), np.float32([[2e38], [largest]])
    )


def test_log_volume_is_of_what_is_chosen():
    affine = Standardization(np.zeros(3), np.exp([1.0, 2.0, -4.0]))
    assert affine.log_volume() == pytest.approx(-1)
    chosen = np.array([[True, False, True], [False, False, False]])
    np.testing.assert_allclose(affine.log_volume(chosen), [-3.0, 0.0])


def test_a_likelihood_of_some_values_has_theirs():
    likelihood = Gaussian()
    likelihood.standardization = Standardization(np.arange(4.0), np.arange(1.0, 5.0))
    part, outputs = likelihood.restrict(np.array([1, 3]), 4)
    assert part.standardization.location.tolist() == [1, 3] and outputs.tolist() == [1, 3, 5, 7]
    assert likelihood.standardization.location.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(part.from_data(np.float32([[3, 11]])), [[1, 2]])
