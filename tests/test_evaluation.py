"""Scores of known predictions."""

import math

import numpy as np
import pytest

from vaefill.model import evaluation


def test_scores_of_known_predictions():
    mean = np.array([[0.9, 0.2, 0.6, 0.5]])
    truth = np.array([[1.0, 0.0, 0.0, 1.0]])
    missing = np.array([[True, True, True, False]])
    scores = evaluation.score(mean, truth, missing)
    assert scores.num_values == 3
    assert scores.nll[0] == pytest.approx(-math.log(0.9) - math.log(0.8) - math.log(0.4))
    assert scores.brier[0] == pytest.approx(0.01 + 0.04 + 0.36)
    assert (scores.true_positive, scores.false_positive, scores.false_negative) == (1, 1, 0)
    np.testing.assert_array_equal(np.flatnonzero(scores.reliability_count[0]), [2, 6, 9])
    np.testing.assert_array_equal(scores.reliability_truth[0], np.eye(10, dtype=int)[9])


def test_grey_and_real_values_are_scored_by_their_squared_error():
    mean, truth = (
        np.array([[0.5, -2.0, 9.0], [1.0, 2.0, 3.0]]),
        np.array([[0.25, 1.0, 0.0], [0.0, 0.0, 0.0]]),
    )
    missing = np.array([[True, True, False], [False, False, False]])
    scores = evaluation.score_real(mean, truth, missing)
    np.testing.assert_array_equal(scores.num_values, [2, 0])
    np.testing.assert_allclose(scores.brier, [0.25**2 + 9, 0])
    np.testing.assert_array_equal(scores.nll, 0)
    binary = evaluation.score(mean * 0, truth * 0, missing)
    for first, second in zip(scores, binary):  # they add up with each other
        assert first.shape == second.shape and first.dtype == second.dtype


def test_certain_and_wrong_is_finite():
    scores = evaluation.score(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]), np.ones((1, 2), bool))
    assert scores.nll[0] == pytest.approx(-2 * math.log(1e-6), rel=1e-6)
    assert scores.reliability_count[0, [0, 9]].tolist() == [1, 1]


def test_ratios_of_nothing_are_nan():
    assert math.isnan(evaluation.ratio(0, 0)) and math.isnan(evaluation.f1(0, 0, 0))
    assert evaluation.f1(3, 1, 2) == pytest.approx(6 / 9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("score", [evaluation.score, evaluation.score_real])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_record_with_a_mean_that_is_no_finite_number_is_counted_and_the_others_are_scored(
    score, value
):
    generator = np.random.default_rng(0)
    mean, truth = (
        generator.random((4, 6), np.float32),
        generator.integers(0, 2, (4, 6)).astype(np.float32),
    )
    missing = np.tile(np.arange(6) < 4, (4, 1))
    expected = score(mean, truth, missing)
    mean[1, 2], mean[2, 5] = value, value  # the second is not to be scored
    scores = score(mean, truth, missing)
    np.testing.assert_array_equal(scores.num_unscored, [0, 1, 0, 0])
    for found, of_finite in zip(scores[1:], expected[1:]):
        np.testing.assert_array_equal(found[[0, 2, 3]], of_finite[[0, 2, 3]])
        assert not found[1].any()


@pytest.mark.parametrize("score", [evaluation.score, evaluation.score_real])
@pytest.mark.parametrize("num", [0, 1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_are_the_same_for_any_number_of_records(score, num, dtype):
    integers = {"num_unscored", "num_values", "true_positive", "false_positive", "false_negative"}
    integers |= {"reliability_count", "reliability_truth"}
    scores = score(
        np.full((num, 2), 0.93, dtype), np.ones((num, 2), np.float32), np.ones((num, 2), np.bool_)
    )
    for name, field in scores._asdict().items():
        assert field.dtype == (np.int64 if name in integers else np.float64), name
        assert field.shape == (
            (num, evaluation.NUM_BINS) if name.startswith("reliability") else (num,)
        ), name
