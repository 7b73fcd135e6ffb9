"""Bounds for statistical tests, each with its false-alarm rate."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.stats


def hoeffding(num_draws: int, num_events: int, false_alarm: float) -> float:
    """What the frequencies of `num_events` events may differ from their probabilities in
    `num_draws` independent draws, with all of them inside but for a probability of `false_alarm`
    (Hoeffding 1963).
    """
    return math.sqrt(math.log(2 * num_events / false_alarm) / (2 * num_draws))


def dkwm(num_draws: int, false_alarm: float) -> float:
    """What `ks_distance` to the true CDF exceeds with a probability of at most `false_alarm`.

    The inequality of Dvoretzky, Kiefer & Wolfowitz with the constant of Massart 1990, two-sided;
    for `num_draws` independent draws of any distribution. A CDF that is off by twice the bound is
    seen to be with a probability of at least 1 - false_alarm.
    """
    return math.sqrt(math.log(2 / false_alarm) / (2 * num_draws))


def dkwm_two_sample(num_first: int, num_second: int, false_alarm: float) -> float:
    """The same for `ks_distance_between` two independent samples of one distribution: both stay
    inside their own bound, each with half of the false alarms.
    """
    return dkwm(num_first, false_alarm / 2) + dkwm(num_second, false_alarm / 2)


def ks_distance_to(draws: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray]) -> float:
    """sup |empirical CDF - cdf| of draws [n], for a continuous `cdf`."""
    values = cdf(np.sort(draws))
    steps = np.arange(len(values) + 1) / len(values)
    return float(max((steps[1:] - values).max(), (values - steps[:-1]).max()))


def ks_distance_between(first: np.ndarray, second: np.ndarray) -> float:
    """sup of the difference of the empirical CDFs of draws [n] and [m]; ties allowed."""
    values = np.concatenate([first, second])
    below = [
        np.searchsorted(np.sort(draws), values, side="right") / len(draws)
        for draws in (first, second)
    ]
    return float(np.abs(below[0] - below[1]).max())


class Uniformity(NamedTuple):
    """What `sbc_uniform` found."""

    uniform: bool
    p_value: float  # of the chi-square test of the bins
    distance: float  # sup |empirical CDF - uniform CDF| of the ranks
    bound: float  # of the distance


def sbc_uniform(ranks: np.ndarray, num_ranks: int, num_bins: int, false_alarm: float) -> Uniformity:
    """Whether the ranks of simulation-based calibration (Talts et al. 2018) are uniform.

    Two tests with half of the false alarms each: the chi-square test of equal bins, which sees any
    shape, and the DKWM bound on the empirical CDF, which sees bias best and holds at any number of
    ranks. Both need independent ranks: one quantity of many simulations.

    A CDF of the ranks that is off by twice `bound` is seen with a probability of at least
    1 - false_alarm / 2. The chi-square test, at 1e-6 with 1,000 ranks in 20 bins, sees in 99 % of
    cases bin probabilities that are off by a root mean square of 30 % of 1 / 20 (noncentral
    chi-square of 19 degrees of freedom).

    Args:
        ranks: [n] integers in 0..num_ranks - 1, the number of draws below the truth, ties broken at
            random.
        num_ranks: draws + 1.
        num_bins: a divisor of num_ranks.
        false_alarm: of both together. That of the chi-square test is asymptotic: with 20 ranks in
            each of 20 bins, the fewest accepted, it was 1.4 times the nominal 1e-5 in a million
            simulations.
    """
    if num_ranks % num_bins or len(ranks) < 20 * num_bins:
        raise ValueError(
            f"{len(ranks)} ranks of {num_ranks} values do not fill {num_bins} equal bins"
        )
    counts = np.bincount(ranks, minlength=num_ranks)
    p_value = scipy.stats.chisquare(counts.reshape(num_bins, -1).sum(axis=1)).pvalue
    distance = np.abs(
        np.cumsum(counts) / len(ranks) - np.arange(1, num_ranks + 1) / num_ranks
    ).max()
    bound = dkwm(len(ranks), false_alarm / 2)
    return Uniformity(
        bool(p_value > false_alarm / 2 and distance < bound), float(p_value), float(distance), bound
    )


class Scores(NamedTuple):
    """What `rank_scores` found."""

    right: bool
    location: float  # mean of the normal scores, about the bias of the mean in standard deviations
    # Root of their mean square over what it should be, about the ratio of the standard deviations
    width: float
    p_values: tuple[float, float]  # of the t-tests of both


def rank_scores(ranks: np.ndarray, num_ranks: int, false_alarm: float) -> Scores:
    """Whether ranks have the location and the scale of uniform ones: normal scores, the most
    powerful for normal draws.

    Every rank is uniform if all is right, but those of one record need not be independent of each
    other: a record counts as one, by its means of the scores and of their squares, which are
    t-tested with half of the false alarms each. `tests.calibration` ranks a sampler's draws among
    exact draws of p(z | x_obs), where there are any: then a record is worth as many ranks as it has
    independent draws, where simulation-based calibration has one of it.

    Args:
        ranks: [N, L] integers in 0..num_ranks - 1, ties broken at random; rows are independent.
        num_ranks: of the others + 1.
        false_alarm: of both together, by the central limit theorem over records.
    """
    table = scipy.stats.norm.ppf((np.arange(num_ranks) + 0.5) / num_ranks)
    square = np.square(table) / np.square(table).mean()
    locations, squares = (each[ranks].mean(axis=1) for each in (table, square))
    p_values = tuple(
        float(scipy.stats.ttest_1samp(*each).pvalue) for each in ((locations, 0.0), (squares, 1.0))
    )
    right = bool(min(p_values) > false_alarm / 2)
    return Scores(right, float(locations.mean()), float(np.sqrt(squares.mean())), p_values)


def jsd(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence of two distributions [n], in nats: from 0 to ln 2."""
    middle = (p + q) / 2
    return float(sum(scipy.stats.entropy(each, middle) for each in (p, q)) / 2)
