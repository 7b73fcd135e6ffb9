"""Convergence of chains: rank-normalised split R-hat, bulk and tail effective sample size.

Source: Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021), "Rank-normalization, folding, and
localization: an improved R-hat for assessing convergence of MCMC", Bayesian Analysis 16(2), arXiv
1903.08008; sections named below are the paper's. Equal to ArviZ but for constant draws and one
chain.

NumPy arrays in, arrays out. `draws` is [T, N, C, Q] everywhere: T kept sweeps, N records, C
independent chains, Q quantities. Inside, a row is one quantity of one record, R = N Q of them. Each
chain is split into two halves of n = floor(T / 2) draws (the middle one of an odd T is left out):
M = 2 C half-chains, and S = M n draws of a row that are ranked together.

Draws that are not as they should be, for each quantity of each record by itself:
  NaN or infinite anywhere      all three NaN
  all S ranked draws equal      all three NaN: what never moved has not converged
  every half-chain stuck, but
    not all at the same value   r_hat +inf

No row meets another: a record's results are the same bits in any position and company. They are
computed by the host, not on the device: the former version, in TensorFlow, took more time on a CPU
than the chains did, and a trace of latents is small beside what made it.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

MIN_DRAWS = 4  # two halves of two draws, the fewest that have a variance
TAIL_PROBABILITIES = (0.05, 0.95)


class Diagnostics(NamedTuple):
    """Of every quantity of every record, or the worst over the quantities of each record."""

    r_hat: np.ndarray  # the larger, the worse
    ess_bulk: np.ndarray  # the smaller, the worse
    ess_tail: np.ndarray  # likewise


class _Sorted(NamedTuple):
    values: np.ndarray  # [R, S] ascending
    order: np.ndarray  # [R, S] integer, where among all R S values each one stood


def diagnose(draws: np.ndarray) -> Diagnostics:
    """The worst over the quantities of each record.

    Args:
      draws: [T, N, C, Q].

    Returns:
      Diagnostics of [N] float32. NaN is worse than any number: a record with one NaN quantity is
      NaN, so `r_hat < 1.01` is False for it.

    Raises:
      ValueError: T below 4; a shape that is not [T, N, C, Q]; N, C or Q zero.
    """
    found = of_quantities(draws)
    worst = found.r_hat.max(axis=1), found.ess_bulk.min(axis=1), found.ess_tail.min(axis=1)
    with np.errstate(over="ignore"):
        return Diagnostics(*(values.astype(np.float32) for values in worst))


def of_quantities(draws: np.ndarray) -> Diagnostics:
    """All three diagnostics, which share a sort.

    - r_hat: rank-normalised split R-hat, the larger of that of x and that of |x - median(x)|,
      sec. 4.1 and 4.2. One chain is compared between its two halves (ArviZ gives NaN for one
      chain).
    - ess_bulk: the effective sample size of the rank-normalised draws, sec. 4.1; at most S
      log10(S).
    - ess_tail: the smaller ESS of I[x <= 5 % quantile] and I[x <= 95 % quantile], sec. 4.3; at most
      S log10(S). The quantiles are those of all T C draws (Hyndman & Fan type 7), the middle one of
      an odd T among them. An indicator that is the same throughout counts as S independent draws,
      as in ArviZ: so does the second one where more than 5 % of the draws sit at the maximum, and
      both where 95 % do.

    Args:
      draws: [T, N, C, Q].

    Returns:
      Diagnostics of [N, Q] float64; NaN and +inf as the module's docstring says.

    Raises:
      ValueError: as `diagnose`.
    """
    rows, valid = _rows(draws)
    halves = _split(rows)
    pooled = _sort(halves)
    series = _normal_scores(halves, pooled)
    found = _rank_r_hat(series, halves, pooled), _ess(series), _ess_tail(rows, pooled.values)
    return Diagnostics(*(_restore(values, valid, np.shape(draws)) for values in found))


def r_hat(draws: np.ndarray) -> np.ndarray:
    """That of `of_quantities` alone, [N, Q]. Args and errors as there."""
    rows, valid = _rows(draws)
    halves = _split(rows)
    pooled = _sort(halves)
    return _restore(
        _rank_r_hat(_normal_scores(halves, pooled), halves, pooled), valid, np.shape(draws)
    )


def plain_r_hat(draws: np.ndarray, folded: bool) -> np.ndarray:
    """Split R-hat without ranks, sec. 3.1, at a fraction of their cost: [N, Q].

    The larger one of draws and folded draws is almost always largest where `r_hat` is.

    Args:
      draws: [T, N, C, Q].
      folded: whether of the draws' distances from their mean instead.

    Raises:
      ValueError: as `diagnose`.
    """
    rows, valid = _rows(draws)
    halves = _split(rows).astype(np.float64)
    if folded:
        halves = np.abs(halves - halves.mean(axis=(1, 2), keepdims=True))
    return _restore(_split_r_hat(halves), valid, np.shape(draws))


def ess_of_events(events: np.ndarray) -> np.ndarray:
    """The effective sample size of events' indicators, sec. 3.2, as that behind the tail ESS:
    [N, Q] float64.

    Args:
      events: [T, N, C, Q] bool, whether each happened; NaN for one that always or never did.

    Raises:
      ValueError: as `diagnose`.
    """
    rows, valid = _rows(events)
    return _restore(_ess(_split(rows)), valid, np.shape(events))


# Shapes


def _rows(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[T, N, C, Q] to rows [R, C, T], and whether a row is finite, [R]; the others are set to 0."""
    draws = np.asarray(draws)
    _check(draws)
    num_draws, _, num_chains, _ = draws.shape
    if draws.dtype not in (np.float32, np.float64):
        draws = draws.astype(np.float64)
    rows = np.ascontiguousarray(draws.transpose(1, 3, 2, 0)).reshape(-1, num_chains, num_draws)
    valid = np.isfinite(rows).all(axis=(1, 2))
    return np.where(valid[:, np.newaxis, np.newaxis], rows, 0), valid


def _check(draws: np.ndarray) -> None:
    if draws.ndim != 4:
        raise ValueError(f"draws must be [T, N, C, Q], got shape {draws.shape}")
    num_draws, num_records, num_chains, num_quantities = draws.shape
    if 0 in (num_records, num_chains, num_quantities):
        raise ValueError(
            f"draws [T, N, C, Q] are empty, got {draws.shape}: N, C and Q must be at least 1"
        )
    if num_draws < MIN_DRAWS:
        raise ValueError(
            f"diagnostics need at least {MIN_DRAWS} draws per chain, got T = {num_draws}: "
            "keep more sweeps or thin less"
        )


def _split(rows: np.ndarray) -> np.ndarray:
    """Rows [R, C, T] to half-chains [R, 2 C, n]."""
    half = rows.shape[-1] // 2
    return np.concatenate([rows[..., :half], rows[..., -half:]], axis=1)


def _middle(rows: np.ndarray) -> np.ndarray:
    """What `_split` leaves out of [R, C, T]: [R, C, T mod 2]."""
    half = rows.shape[-1] // 2
    return rows[..., half : rows.shape[-1] - half]


def _pool(series: np.ndarray) -> np.ndarray:
    """[R, C, T] to [R, C T]."""
    return series.reshape(len(series), -1)


def _restore(values: np.ndarray, valid: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Rows [R] to [N, Q], NaN where the row was not finite."""
    return np.where(valid, values, np.nan).reshape(shape[1], shape[3])


# Ranks


def _sort(halves: np.ndarray) -> _Sorted:
    pool = _pool(halves)
    order = np.argsort(pool, axis=1)
    order += np.arange(0, pool.size, pool.shape[1])[:, np.newaxis]
    return _Sorted(np.take(pool, order), order)


@functools.lru_cache(maxsize=64)
def _score_table(size: int) -> np.ndarray:
    """Phi^-1((r - 3/8) / (S + 1/4)) for the 2 S - 1 average ranks r = 1, 1.5, ..., S there are, S =
    `size`.

    Faster than the function of every value, and the same bits wherever in a batch a rank stands.
    """
    ranks = np.arange(2, 2 * size + 1) / 2
    with tf.device("CPU"):
        return tf.math.ndtri(tf.constant((ranks - 0.375) / (size + 0.25), tf.float64)).numpy()


def _normal_scores(halves: np.ndarray, pooled: _Sorted) -> np.ndarray:
    """Rank-normalised values, sec. 4.1: z = Phi^-1((r - 3/8) / (S + 1/4)), r the average rank of
    ties.

    Args:
      halves: [R, M, n].
      pooled: the same values sorted, _Sorted of [R, S].

    Returns:
      [R, M, n] float64.
    """
    values, order = pooled
    size = values.shape[1]
    is_first = np.ones(values.shape, bool)  # of the values equal to it
    np.not_equal(values[:, 1:], values[:, :-1], out=is_first[:, 1:])
    first = np.flatnonzero(is_first)
    num_equal = np.diff(first, append=values.size)
    by_rank = _score_table(size)[2 * (first % size) + num_equal - 1]  # index 2 r - 2
    scores = np.empty(values.size)
    scores[order.ravel()] = np.repeat(by_rank, num_equal)
    return scores.reshape(halves.shape)


def _folded_scores(halves: np.ndarray, pooled: _Sorted) -> np.ndarray:
    """Rank-normalised |x - median(x)|, sec. 4.2. Args and returns as `_normal_scores`."""
    values = pooled.values
    middle = values.shape[1] // 2  # S is even
    median = (values[:, middle - 1].astype(np.float64) + values[:, middle]) / 2
    # In float32 distances would be rounded into ties that are none.
    distance = np.abs(halves.astype(np.float64) - median[:, np.newaxis, np.newaxis])
    return _normal_scores(distance, _sort(distance))


# R-hat


def _centre(series: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means along the last axis, and what remains: [..., n] to [...] and [..., n]."""
    # Relative to the first value: what remains of equal values is then exactly 0, not a rounding
    # error.
    first = series[..., :1]
    remainder = series - first
    mean = remainder.mean(axis=-1, keepdims=True)
    remainder -= mean
    return (first + mean)[..., 0], remainder


def _variance_of_means(means: np.ndarray) -> np.ndarray:
    """B / n, the variance between half-chain means [R, M], to [R]."""
    _, deviations = _centre(means)
    return np.square(deviations).sum(axis=1) / (means.shape[1] - 1)


def _split_r_hat(series: np.ndarray) -> np.ndarray:
    """R-hat = sqrt(var+ / W), var+ = (n - 1) / n W + B / n, sec. 3.1.

    W is the mean of the variances within half-chains.

    Args:
      series: [R, M, n] float64, already split.

    Returns:
      [R]; NaN is 0 / 0, all values equal.
    """
    size = series.shape[-1]
    means, remainder = _centre(series)
    within = np.einsum("rmt,rmt->rm", remainder, remainder).mean(axis=1) / (size - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(_variance_of_means(means) / within + (size - 1) / size)


def _rank_r_hat(series: np.ndarray, halves: np.ndarray, pooled: _Sorted) -> np.ndarray:
    bulk, tail = _split_r_hat(series), _split_r_hat(_folded_scores(halves, pooled))
    # All folded values are equal when half of the draws are one value and half another: nothing to
    # add.
    return np.where(tail > bulk, tail, bulk)


# ESS


def _ess(series: np.ndarray) -> np.ndarray:
    """Effective sample size S / max(tau, 1 / log10(S)), sec. 3.2.

    Autocorrelation at lag t is rho_t = 1 - (W - mean over half-chains of acov_t) / var+, with
    acov_t the covariance divided by n, W = n / (n - 1) acov_0 and var+ = acov_0 + B / n.

    Args:
      series: [R, M, n] float64, already split.

    Returns:
      [R] float64, NaN where the whole row is constant.
    """
    chains, size = series.shape[1:]
    means, remainder = _centre(series)
    covariance = _mean_autocovariance(remainder)
    within = covariance[:, :1] * (size / (size - 1))
    total = covariance[:, :1] + _variance_of_means(means)[:, np.newaxis]
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = 1.0 - (within - covariance) / total
    # rho_0 is 1 by definition; the estimate falls short of it by a term in 1 / n.
    correlation[:, 0] = 1.0
    draws = chains * size
    tau = np.maximum(_integrated_time(correlation), 1.0 / math.log10(draws))
    return np.where(_constant_rows(series), np.nan, draws / tau)


def _constant_rows(series: np.ndarray) -> np.ndarray:
    """Which rows [R, M, n] hold one value only, [R]."""
    return (series == series[:, :1, :1]).all(axis=(1, 2))


def _mean_autocovariance(remainder: np.ndarray) -> np.ndarray:
    """The mean over half-chains of (1 / n) sum_t x_t x_{t+lag}.

    The Fourier transform is linear, so spectra are averaged and only the average is transformed
    back.

    Args:
      remainder: [R, M, n], each half-chain less its mean.

    Returns:
      [R, n] for lags 0 to n - 1.
    """
    size = remainder.shape[-1]
    length = _fast_length(2 * size)  # filled up with zeros, or lags would run around the end
    parts = np.fft.rfft(remainder, length).view(np.float64)  # real, imaginary, real, ...
    squares = np.einsum("rmk,rmk->rk", parts, parts)
    power = (squares[:, ::2] + squares[:, 1::2]) / remainder.shape[1]
    return np.fft.irfft(power, length)[:, :size] / size


def _fast_length(at_least: int) -> int:
    """The smallest even number with no prime factor above 5 that is `at_least` so large."""
    length = at_least + at_least % 2
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 2


def _integrated_time(correlation: np.ndarray) -> np.ndarray:
    """tau = -1 + 2 sum of Geyer's initial monotone sequence, sec. 3.2, cut off as in Stan and
    ArviZ.

    Pairs P_k = rho_2k + rho_2k+1 count until the first that is not positive, each no larger than
    those before it. Of the pair at the cut, the last one there is if all are positive, rho_2k alone
    is added, once, unless the pair and rho_2k are both negative.

    Args:
      correlation: [R, n].

    Returns:
      [R].
    """
    pairs = max((correlation.shape[-1] - 3) // 2, 0) + 1  # Stan leaves the last lag out
    even = correlation[:, 0 : 2 * pairs : 2]
    pair = even + correlation[:, 1 : 2 * pairs : 2]
    monotone = np.minimum.accumulate(pair, axis=1)
    # Once the running minimum is not positive it stays so: it marks the cut by itself.
    whole = np.maximum(monotone[:, :-1], 0.0).sum(axis=1)
    before = np.hstack([np.ones_like(pair[:, :1]), monotone[:, :-1]]) > 0
    last = np.arange(pairs) == pairs - 1
    at_cut = before & ((monotone <= 0) | last)
    remainder = np.where(at_cut & ((pair >= 0) | (even > 0)), even, 0.0)
    return -1.0 + 2.0 * whole + remainder.sum(axis=1)


def _ess_tail(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The smaller ESS of the two quantile indicators, to [R].

    Args: rows: [R, C, T]; values: [R, S] sorted.
    """
    halves = _split(rows)
    middle = _pool(_middle(rows))
    low, high = (
        _ess_of_quantile(halves, _quantile_draw(values, middle, p)) for p in TAIL_PROBABILITIES
    )
    return np.where(_constant_rows(halves), np.nan, np.minimum(low, high))


def _ess_of_quantile(halves: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    indicator = (halves <= threshold[:, np.newaxis, np.newaxis]).astype(np.float64)
    ess = _ess(indicator)
    return np.where(np.isnan(ess), float(halves.shape[1] * halves.shape[2]), ess)


def _quantile_draw(values: np.ndarray, more: np.ndarray, probability: float) -> np.ndarray:
    """The largest draw that is not above the quantile (Hyndman & Fan 1996, type 7; NumPy's
    "linear").

    Comparing with it is comparing with the quantile, in the type of the draws. The interpolation is
    done as NumPy does it, because where it falls on a draw its rounding decides on which side the
    draw is.

    Args:
      values: [R, S] sorted.
      more: [R, M] a few draws that are not among them, M >= 0.

    Returns:
      [R] in the type of values.
    """
    place = (values.shape[-1] + more.shape[-1] - 1) * probability
    index = math.floor(place)
    fraction = place - index
    # M more draws push a value up by at most M places: these are enough to find places index and
    # index + 1.
    start = max(index - more.shape[-1], 0)
    nearby = np.sort(np.hstack([values[:, start : index + 2], more]), axis=1)
    below, above = nearby[:, index - start], nearby[:, index + 1 - start]
    low, high = below.astype(np.float64), above.astype(np.float64)
    if fraction < 0.5:
        quantile = low + (high - low) * fraction
    else:
        quantile = high - (high - low) * (1.0 - fraction)
    return np.where(quantile >= high, above, below)
