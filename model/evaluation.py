"""Scores of imputed values against the truth, record by record, as sums that add up.

Binary values have all the scores; grey and real ones the squared error alone.
"""

from typing import NamedTuple

import numpy as np

NUM_BINS = 10  # of the reliability table, of equal width over [0, 1]
_CLIP = 1e-6  # a float32 mean of sigmoids can round to 0 or 1, whose logarithm no score survives


class Scores(NamedTuple):
    """Sums over the missing values of each of N records."""

    num_values: np.ndarray  # [N] int64, missing values scored
    nll: np.ndarray  # [N] float64, -log p(truth) under Bernoulli(mean), nats; NaN unless the values are binary
    brier: np.ndarray  # [N] float64, (mean - truth)^2
    true_positive: np.ndarray  # [N] int64, mean > 1/2 and truth 1
    false_positive: np.ndarray  # [N] int64
    false_negative: np.ndarray  # [N] int64
    reliability_count: np.ndarray  # [N, NUM_BINS] int64, values whose mean lies in the bin
    reliability_mean: np.ndarray  # [N, NUM_BINS] float64, sum of their means
    reliability_truth: np.ndarray  # [N, NUM_BINS] int64, how many of them are 1


def score(mean: np.ndarray, truth: np.ndarray, missing: np.ndarray) -> Scores:
    """Scores the conditional mean of binary values.

    Args:
        mean: [N, D] float, the probability of a 1; clipped to [1e-6, 1 - 1e-6] for the logarithm.
        truth: [N, D] of 0 and 1, on the model's scale.
        missing: [N, D] bool, the values to score.
    """
    positive, predicted = truth > 0.5, mean > 0.5
    clipped = np.clip(mean.astype(np.float64), _CLIP, 1 - _CLIP)
    log_prob = np.log(np.where(positive, clipped, 1 - clipped))
    chosen = missing & ~np.isnan(mean)  # what is not a number has no bin
    bins = np.minimum((mean[chosen] * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    bin_of_record = np.nonzero(chosen)[0] * NUM_BINS + bins

    def by_bin(values: np.ndarray | None = None) -> np.ndarray:
        weights = None if values is None else values[chosen]
        return np.bincount(bin_of_record, weights, len(mean) * NUM_BINS).reshape(-1, NUM_BINS)

    return Scores(
        num_values=missing.sum(axis=1),
        nll=-np.where(missing, log_prob, 0).sum(axis=1),
        brier=np.where(missing, (mean.astype(np.float64) - positive) ** 2, 0).sum(axis=1),
        true_positive=(missing & predicted & positive).sum(axis=1),
        false_positive=(missing & predicted & ~positive).sum(axis=1),
        false_negative=(missing & ~predicted & positive).sum(axis=1),
        reliability_count=by_bin(),
        reliability_mean=by_bin(mean),
        reliability_truth=by_bin(positive).astype(np.int64),
    )


def score_real(mean: np.ndarray, truth: np.ndarray, missing: np.ndarray) -> Scores:
    """Scores the conditional mean of grey or real values by its squared error, in the field `brier`.

    Args:
        mean: [N, D] float, on the model's scale.
        truth: [N, D], likewise.
        missing: [N, D] bool, the values to score.

    Returns:
        NaN for `nll` where there is a value to score; no counts of positives and no table of reliability.
    """
    num_values = missing.sum(axis=1)
    none = np.zeros(len(missing), np.int64)
    error = mean.astype(np.float64) - truth
    return Scores(
        num_values=num_values,
        nll=np.where(num_values > 0, np.nan, 0.0),
        brier=np.where(missing, error**2, 0).sum(axis=1),
        true_positive=none,
        false_positive=none,
        false_negative=none,
        reliability_count=np.zeros((len(missing), NUM_BINS), np.int64),
        reliability_mean=np.zeros((len(missing), NUM_BINS)),
        reliability_truth=np.zeros((len(missing), NUM_BINS), np.int64),
    )


def ratio(numerator, denominator) -> float:
    """numerator / denominator, NaN where there is nothing to divide."""
    return float(numerator / denominator) if denominator else float("nan")


def f1(true_positive, false_positive, false_negative) -> float:
    """2 TP / (2 TP + FP + FN); NaN where neither truth nor prediction has a 1."""
    return ratio(2 * true_positive, 2 * true_positive + false_positive + false_negative)
