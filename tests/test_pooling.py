"""Rubin's rules against a published example, closed forms and a simulation."""

import numpy as np
import pytest
import scipy.stats

import vaefill


def test_a_published_example():
    """SAS/STAT 13.2 User's Guide, The MIANALYZE Procedure, example 64.1: the mean oxygen intake of
    31 men, by five imputations. Inputs are rounded there to four and five places.
    """
    estimates = [47.0120, 47.2407, 47.4995, 47.1485, 47.0042]
    errors = [0.95984, 0.93540, 1.00766, 0.95439, 0.96528]
    found = vaefill.pool(estimates, np.square(errors), complete_degrees_of_freedom=30)
    assert found.estimate == pytest.approx(47.180993, abs=5e-5)
    assert found.between == pytest.approx(0.041478, abs=2e-5)
    assert found.within == pytest.approx(0.930853, abs=5e-6)
    assert found.variance == pytest.approx(0.980626, abs=2e-5)
    assert found.degrees_of_freedom == pytest.approx(26.298, abs=2e-3)
    assert found.relative_increase == pytest.approx(0.053471, abs=2e-5)
    assert found.missing_information == pytest.approx(0.051977, abs=2e-5)
    assert found.standard_error == pytest.approx(0.990266, abs=1e-5)
    np.testing.assert_allclose(found.interval(0.95), [45.1466, 49.2154], atol=2e-4)


def test_an_array_of_estimates_is_each_of_them():
    rng = np.random.default_rng(0)
    estimates, variances = rng.normal(size=(7, 3, 2)), rng.random((7, 3, 2))
    freedom = np.array([[5.0, np.inf]])
    found = vaefill.pool(estimates, variances, freedom)
    one = vaefill.pool(estimates[:, 1, 0], variances[:, 1, 0], 5.0)
    assert found.estimate.shape == (3, 2)
    for name in ("estimate", "variance", "degrees_of_freedom", "missing_information"):
        assert getattr(found, name)[1, 0] == getattr(one, name)
    assert found.interval()[1][1, 0] == one.interval()[1]
    large = found.degrees_of_freedom[:, 1]
    share = 1 - found.within[:, 1] / found.variance[:, 1]
    np.testing.assert_allclose(large, 6 / share**2)


@pytest.mark.parametrize("freedom", [np.inf, 10.0])
def test_where_nothing_is_missing_nothing_changes(freedom):
    found = vaefill.pool([2.0, 2.0, 2.0], [0.5, 0.5, 0.5], freedom)
    assert (found.variance, found.relative_increase, found.missing_information) == (0.5, 0, 0)
    assert found.degrees_of_freedom == pytest.approx(freedom if freedom == np.inf else 110 / 13)
    assert np.isfinite(found.interval()).all()


def test_estimates_without_an_error_of_their_own():
    found = vaefill.pool([1.0, 3.0], [0.0, 0.0])
    assert (found.variance, found.missing_information) == (3.0, 1.0)
    assert found.degrees_of_freedom == 1.0 and found.relative_increase == np.inf


def test_intervals_cover_the_truth_as_often_as_they_say():
    """A mean of 40 values, of which a share is missing at random and imputed from its posterior: of
    20,000 repetitions 90 % are to be covered, 1e-6 two-sided; single imputation covers fewer.
    """
    rng = np.random.default_rng(0)
    num, observed, repetitions, num_imputations = 40, 24, 20_000, 5
    values = rng.normal(size=(repetitions, observed))
    mean, variance = values.mean(axis=1), values.var(axis=1, ddof=1)
    shape = (num_imputations, repetitions)
    # Proper imputation: the variance and the mean are drawn too
    drawn = variance * (observed - 1) / rng.chisquare(observed - 1, shape)
    centre = mean + rng.normal(size=shape) * np.sqrt(drawn / observed)
    imputed = centre + rng.normal(size=(num - observed, *shape)) * np.sqrt(drawn)
    every = np.concatenate([np.broadcast_to(values.T[:, None], (observed, *shape)), imputed])
    estimates, variances = every.mean(axis=0), every.var(axis=0, ddof=1) / num
    low, high = vaefill.pool(estimates, variances, num - 1).interval(0.9)
    covered = np.mean((low < 0) & (high > 0))
    assert abs(covered - 0.9) < 4.9 * np.sqrt(0.09 / repetitions) + 0.005  # t is an approximation
    half = scipy.stats.t.ppf(0.95, num - 1) * np.sqrt(variances[0])
    assert np.mean(np.abs(estimates[0]) < half) < 0.85


@pytest.mark.parametrize(
    ("estimates", "variances", "freedom", "message"),
    [
        ([1.0], [1.0], 5.0, "at least two imputations"),
        ([1.0, 2.0], [1.0], 5.0, "of one shape"),
        ([1.0, np.nan], [1.0, 1.0], 5.0, "must be finite"),
        ([1.0, 2.0], [1.0, -1.0], 5.0, "not negative"),
        ([1.0, 2.0], [1.0, 1.0], 0.0, "must be positive"),
    ],
)
def test_what_cannot_be_pooled(estimates, variances, freedom, message):
    with pytest.raises(ValueError, match=message):
        vaefill.pool(estimates, variances, freedom)
    with pytest.raises(ValueError, match="level must be between"):
        vaefill.pool([1.0, 2.0], [1.0, 1.0]).interval(95)
