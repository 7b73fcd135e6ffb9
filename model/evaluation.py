"""Scores of imputed values against the truth, record by record, as sums that add up.

Binary values have all the scores; grey and real ones the squared error alone. A record one of whose
means to score is not a finite number has no scores: it is counted, and adds nothing to the sums.
"""

from typing import NamedTuple

import numpy as np

NUM_BINS = 10  # of the reliability table, of equal width over [0, 1]
_CLIP = 1e-6  # a float32 mean of sigmoids can round to 0 or 1, whose logarithm no score survives


class Scores(NamedTuple):
    """Sums over the missing values of each of N records."""

    num_unscored: np.ndarray  # [N] int64, 1 where a mean to score is NaN or infinite
    num_values: np.ndarray  # [N] int64, missing values scored
    # [N] float64, -log p(truth) under Bernoulli(mean), nats; 0 unless values are binary
    nll: np.ndarray
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
    unscored, missing = _scorable(mean, missing)
    positive, predicted = truth > 0.5, mean > 0.5
    clipped = np.clip(mean.astype(np.float64), _CLIP, 1 - _CLIP)
    log_prob = np.log(np.where(positive, clipped, 1 - clipped))
    bins = np.minimum((mean[missing] * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    bin_of_record = np.nonzero(missing)[0] * NUM_BINS + bins

    # bincount has its own idea of the dtype of no sums
    def by_bin(values: np.ndarray, dtype: type) -> np.ndarray:
        sums = np.bincount(bin_of_record, values[missing], len(mean) * NUM_BINS)
        return sums.astype(dtype).reshape(-1, NUM_BINS)

    return Scores(
        num_unscored=unscored.astype(np.int64),
        num_values=missing.sum(axis=1),
        nll=-np.where(missing, log_prob, 0).sum(axis=1),
        brier=_squared_error(mean, positive, missing),
        true_positive=(missing & predicted & positive).sum(axis=1),
        false_positive=(missing & predicted & ~positive).sum(axis=1),
        false_negative=(missing & ~predicted & positive).sum(axis=1),
        reliability_count=by_bin(missing, np.int64),
        reliability_mean=by_bin(mean, np.float64),
        reliability_truth=by_bin(positive, np.int64),
    )


def score_real(mean: np.ndarray, truth: np.ndarray, missing: np.ndarray) -> Scores:
    """Scores the conditional mean of grey or real values by its squared error, in the field
    `brier`.

    Args:
        mean: [N, D] float, on the model's scale.
        truth: [N, D], likewise.
        missing: [N, D] bool, the values to score.

    Returns:
        0 in all other fields but the first three.
    """
    unscored, missing = _scorable(mean, missing)
    none, no_bins = np.zeros(len(missing), np.int64), np.zeros((len(missing), NUM_BINS), np.int64)
    return Scores(
        num_unscored=unscored.astype(np.int64),
        num_values=missing.sum(axis=1),
        nll=np.zeros(len(missing)),
        brier=_squared_error(mean, truth, missing),
        true_positive=none,
        false_positive=none,
        false_negative=none,
        reliability_count=no_bins,
        reliability_mean=no_bins.astype(np.float64),
        reliability_truth=no_bins,
    )


def _scorable(mean: np.ndarray, missing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which records cannot be scored [N] bool, and the missing values of the others [N, D] bool."""
    unscored = (missing & ~np.isfinite(mean)).any(axis=1)
    return unscored, missing & ~unscored[:, None]


def _squared_error(mean: np.ndarray, truth: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Sums over the missing values of each record [N] float64."""
    error = np.where(missing, mean, 0).astype(np.float64) - np.where(missing, truth, 0)
    return (error**2).sum(axis=1)


def ratio(numerator: np.ndarray | float, denominator: np.ndarray | float) -> float:
    """numerator / denominator, NaN where there is nothing to divide."""
    return float(numerator / denominator) if denominator else float("nan")


def f1(
    true_positive: np.ndarray | float,
    false_positive: np.ndarray | float,
    false_negative: np.ndarray | float,
) -> float:
    """2 TP / (2 TP + FP + FN); NaN where neither truth nor prediction has a 1."""
    return ratio(2 * true_positive, 2 * true_positive + false_positive + false_negative)
