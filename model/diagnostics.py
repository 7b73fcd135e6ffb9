"""Convergence of chains: rank-normalised split R-hat, bulk and tail effective sample size.

Source: Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021), "Rank-normalization, folding, and
localization: an improved R-hat for assessing convergence of MCMC", Bayesian Analysis 16(2), arXiv
1903.08008; sections named below are the paper's. Equal to ArviZ but for constant draws and one chain.

Arrays in, arrays out. `draws` is [T, N, C, Q] everywhere: T kept sweeps, N records, C independent
chains, Q quantities; T, C and Q are static. Inside, a row is one quantity of one record, R = N Q of
them. Each chain is split into two halves of n = floor(T / 2) draws (the middle one of an odd T is left
out): M = 2 C half-chains, and S = M n draws of a row that are ranked together.

Draws that are not as they should be, for each quantity of each record by itself:
  NaN or infinite anywhere      all three NaN
  all S ranked draws equal      all three NaN: what never moved has not converged
  every half-chain stuck, but
    not all at the same value   r_hat +inf

No row meets another, and the one function that is not exactly rounded is read from a table: at one
shape a record's results are the same bits in any position and company.

It runs eagerly, as a graph and under XLA; on a CPU leave XLA out, whose sort is three times slower.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

MIN_DRAWS = 4  # two halves of two draws, the fewest that have a variance
TAIL_PROBABILITIES = (0.05, 0.95)


class Diagnostics(NamedTuple):
    """The worst over the quantities of each record; NaN if any quantity is NaN."""

    r_hat: tf.Tensor  # [N] float32, largest
    ess_bulk: tf.Tensor  # [N] float32, smallest
    ess_tail: tf.Tensor  # [N] float32, smallest


class _Sorted(NamedTuple):
    values: tf.Tensor  # [R, S] ascending
    order: tf.Tensor  # [R, S] int32, where in its row each value stood


def diagnose(draws: tf.Tensor) -> Diagnostics:
    """All three diagnostics, the worst over quantities; the three functions share a sort.

    Args:
      draws: [T, N, C, Q].

    Returns:
      Diagnostics of [N] float32: the largest r_hat and the smallest ESS over Q. NaN is worse than any
      number: a record with one NaN quantity is NaN, so `r_hat < 1.01` is False for it.

    Raises:
      ValueError: T below 4; a shape that is not [T, N, C, Q]; N, C or Q zero; T, C or Q not static.
    """
    rows, valid = _rows(draws)
    halves = _split(rows)
    pooled = _sort(halves)
    series, folded = _normal_scores(halves, pooled), _folded_scores(halves, pooled)
    shape = tf.shape(draws)
    return Diagnostics(
        r_hat=_worst(_restore(_rank_r_hat(series, folded), valid, shape), tf.reduce_max),
        ess_bulk=_worst(_restore(_ess(series), valid, shape), tf.reduce_min),
        ess_tail=_worst(_restore(_ess_tail(rows, pooled.values), valid, shape), tf.reduce_min),
    )


def r_hat(draws: tf.Tensor) -> tf.Tensor:
    """Rank-normalised split R-hat, the larger of that of x and that of |x - median(x)|, sec. 4.1 and 4.2.

    One chain is compared between its two halves (ArviZ gives NaN for one chain).

    Args:
      draws: [T, N, C, Q].

    Returns:
      [N, Q] float64; NaN and +inf as the module's docstring says.

    Raises:
      ValueError: as `diagnose`.
    """
    rows, valid = _rows(draws)
    halves = _split(rows)
    pooled = _sort(halves)
    series, folded = _normal_scores(halves, pooled), _folded_scores(halves, pooled)
    return _restore(_rank_r_hat(series, folded), valid, tf.shape(draws))


def ess_bulk(draws: tf.Tensor) -> tf.Tensor:
    """Effective sample size of the rank-normalised draws, sec. 4.1.

    Args:
      draws: [T, N, C, Q].

    Returns:
      [N, Q] float64, at most S log10(S); NaN as the module's docstring says.

    Raises:
      ValueError: as `diagnose`.
    """
    rows, valid = _rows(draws)
    halves = _split(rows)
    return _restore(_ess(_normal_scores(halves, _sort(halves))), valid, tf.shape(draws))


def ess_tail(draws: tf.Tensor) -> tf.Tensor:
    """The smaller ESS of I[x <= 5 % quantile] and I[x <= 95 % quantile], sec. 4.3.

    The quantiles are those of all T C draws (Hyndman & Fan type 7), the middle one of an odd T among
    them. An indicator that is the same throughout counts as S independent draws, as in ArviZ: so does the
    second one where more than 5 % of the draws sit at the maximum, and both where 95 % do.

    Args:
      draws: [T, N, C, Q].

    Returns:
      [N, Q] float64, at most S log10(S); NaN as the module's docstring says.

    Raises:
      ValueError: as `diagnose`.
    """
    rows, valid = _rows(draws)
    return _restore(_ess_tail(rows, _sort(_split(rows)).values), valid, tf.shape(draws))


# Shapes


def _rows(draws):
    """[T, N, C, Q] to rows [R, C, T], and whether a row is finite, [R]; the others are set to 0."""
    draws = tf.convert_to_tensor(draws)
    _check(draws)
    num_draws, _, num_chains, _ = draws.shape
    if draws.dtype not in (tf.float32, tf.float64):
        draws = tf.cast(draws, tf.float64)
    rows = tf.reshape(tf.transpose(draws, [1, 3, 2, 0]), [-1, num_chains, num_draws])
    valid = tf.reduce_all(tf.math.is_finite(rows), axis=[1, 2])
    # Sorting is undefined among NaN: it would not just be wrong, it might not come back.
    return tf.where(valid[:, tf.newaxis, tf.newaxis], rows, tf.zeros_like(rows)), valid


def _check(draws):
    if draws.shape.rank != 4:
        raise ValueError(f"draws must be [T, N, C, Q], got shape {draws.shape}")
    num_draws, num_records, num_chains, num_quantities = draws.shape
    if None in (num_draws, num_chains, num_quantities):
        raise ValueError(
            f"T, C and Q of draws [T, N, C, Q] must be static, got {draws.shape}: "
            "give tf.function an input_signature that has them"
        )
    if 0 in (num_records, num_chains, num_quantities):
        raise ValueError(f"draws [T, N, C, Q] are empty, got {draws.shape}: N, C and Q must be at least 1")
    if num_draws < MIN_DRAWS:
        raise ValueError(
            f"diagnostics need at least {MIN_DRAWS} draws per chain, got T = {num_draws}: keep more sweeps or thin less"
        )


def _split(rows):
    """Rows [R, C, T] to half-chains [R, 2 C, n]."""
    half = rows.shape[-1] // 2
    return tf.concat([rows[..., :half], rows[..., -half:]], axis=1)


def _middle(rows):
    """What `_split` leaves out of [R, C, T]: [R, C, T mod 2]."""
    half = rows.shape[-1] // 2
    return rows[..., half : rows.shape[-1] - half]


def _pool(series):
    """[R, C, T] to [R, C T]."""
    return tf.reshape(series, [tf.shape(series)[0], series.shape[1] * series.shape[2]])


def _restore(values, valid, shape):
    """Rows [R] to [N, Q], NaN where the row was not finite."""
    values = tf.where(valid, values, _constant(math.nan))
    return tf.reshape(values, tf.stack([shape[1], shape[3]]))


def _worst(values, reduce):
    """[N, Q] to [N] float32."""
    undefined = tf.reduce_any(tf.math.is_nan(values), axis=1)  # what reductions make of NaN differs by device
    return tf.cast(tf.where(undefined, _constant(math.nan), reduce(values, axis=1)), tf.float32)


def _constant(value):
    return tf.constant(value, tf.float64)


# Ranks


def _sort(halves):
    pool = _pool(halves)
    # tf.sort and tf.argsort are this very operation, each without one of its two results.
    negated, order = tf.math.top_k(-pool, k=pool.shape[-1])
    return _Sorted(-negated, order)


def _normal_scores(halves, pooled):
    """Rank-normalised values, sec. 4.1: z = Phi^-1((r - 3/8) / (S + 1/4)), r the average rank of ties.

    There are only 2 S - 1 average ranks. A table of them is faster than the function, and gives a rank
    the same bits wherever in the batch it stands, which a vectorised function with a remainder does not.

    Args:
      halves: [R, M, n].
      pooled: the same values sorted, _Sorted of [R, S].

    Returns:
      [R, M, n] float64.
    """
    values, order = pooled
    size = values.shape[-1]
    below = tf.searchsorted(values, values, side="left")
    not_above = tf.searchsorted(values, values, side="right")
    table = tf.math.ndtri((tf.range(2, 2 * size + 1, dtype=tf.float64) / 2 - 0.375) / (size + 0.25))
    scores = tf.gather(table, below + not_above - 1)  # r = (below + 1 + not_above) / 2
    places = order + size * tf.range(tf.shape(order)[0])[:, tf.newaxis]
    unsorted = tf.dynamic_stitch([tf.reshape(places, [-1])], [tf.reshape(scores, [-1])])
    return tf.reshape(unsorted, tf.shape(halves))


def _folded_scores(halves, pooled):
    """Rank-normalised |x - median(x)|, sec. 4.2. Args and returns as `_normal_scores`."""
    # In float32 distances would be rounded into ties that are none.
    halves, values = tf.cast(halves, tf.float64), tf.cast(pooled.values, tf.float64)
    middle = values.shape[-1] // 2  # S is even
    median = (values[:, middle - 1] + values[:, middle]) / 2
    distance = tf.abs(halves - median[:, tf.newaxis, tf.newaxis])
    return _normal_scores(distance, _sort(distance))


# R-hat


def _centre(series):
    """Means along the last axis, and what remains: [..., n] to [...] and [..., n]."""
    # Relative to the first value: what remains of equal values is then exactly 0, not a rounding error.
    first = series[..., :1]
    shifted = series - first
    mean = tf.reduce_mean(shifted, axis=-1, keepdims=True)
    return (first + mean)[..., 0], shifted - mean


def _variance_of_means(means):
    """B / n, the variance between half-chain means [R, M], to [R]."""
    _, deviations = _centre(means)
    return tf.reduce_sum(tf.square(deviations), axis=1) / (means.shape[1] - 1)


def _split_r_hat(series):
    """R-hat = sqrt(var+ / W), var+ = (n - 1) / n W + B / n, sec. 3.1.

    W is the mean of the variances within half-chains.

    Args:
      series: [R, M, n] float64, already split.

    Returns:
      [R]; NaN is 0 / 0, all values equal.
    """
    size = series.shape[-1]
    means, remainder = _centre(series)
    within = tf.reduce_mean(tf.reduce_sum(tf.square(remainder), axis=-1), axis=1) / (size - 1)
    return tf.sqrt(_variance_of_means(means) / within + (size - 1) / size)


def _rank_r_hat(series, folded):
    bulk, tail = _split_r_hat(series), _split_r_hat(folded)
    # All folded values are equal when half of the draws are one value and half another: nothing to add.
    return tf.where(tail > bulk, tail, bulk)


# ESS


def _ess(series):
    """Effective sample size S / max(tau, 1 / log10(S)), sec. 3.2.

    Autocorrelation at lag t is rho_t = 1 - (W - mean over half-chains of acov_t) / var+, with acov_t the
    covariance divided by n, W = n / (n - 1) acov_0 and var+ = acov_0 + B / n.

    Args:
      series: [R, M, n] float64, already split.

    Returns:
      [R] float64, NaN where the whole row is constant.
    """
    chains, size = series.shape[1:]
    means, remainder = _centre(series)
    covariance = _mean_autocovariance(remainder)
    within = covariance[:, :1] * (size / (size - 1))
    total = covariance[:, :1] + _variance_of_means(means)[:, tf.newaxis]
    correlation = 1.0 - (within - covariance) / total
    # rho_0 is 1 by definition; the estimate falls short of it by a term in 1 / n.
    correlation = tf.concat([tf.ones_like(within), correlation[:, 1:]], axis=1)
    draws = chains * size
    tau = tf.maximum(_integrated_time(correlation), _constant(1.0 / math.log10(draws)))
    return tf.where(_constant_rows(series), _constant(math.nan), draws / tau)


def _constant_rows(series):
    """Which rows [R, M, n] hold one value only, [R]."""
    return tf.reduce_all(tf.equal(series, series[:, :1, :1]), axis=[1, 2])


def _mean_autocovariance(remainder):
    """The mean over half-chains of (1 / n) sum_t x_t x_{t+lag}.

    The Fourier transform is linear, so spectra are averaged and only the average is transformed back.

    Args:
      remainder: [R, M, n], each half-chain less its mean.

    Returns:
      [R, n] for lags 0 to n - 1.
    """
    size = remainder.shape[-1]
    length = [_fast_length(2 * size)]  # filled up with zeros, or lags would run around the end
    transform = tf.signal.rfft(remainder, length)
    power = tf.square(tf.math.real(transform)) + tf.square(tf.math.imag(transform))
    power = tf.reduce_mean(power, axis=1)
    covariance = tf.signal.irfft(tf.complex(power, tf.zeros_like(power)), length)
    return covariance[:, :size] / size


def _fast_length(at_least):
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


def _integrated_time(correlation):
    """tau = -1 + 2 sum of Geyer's initial monotone sequence, sec. 3.2, cut off as in Stan and ArviZ.

    Pairs P_k = rho_2k + rho_2k+1 count until the first that is not positive, each no larger than those
    before it. Of the pair at the cut, the last one there is if all are positive, rho_2k alone is added,
    once, unless the pair and rho_2k are both negative.

    Args:
      correlation: [R, n].

    Returns:
      [R].
    """
    pairs = max((correlation.shape[-1] - 3) // 2, 0) + 1  # Stan leaves the last lag out
    even = correlation[:, 0 : 2 * pairs : 2]
    pair = even + correlation[:, 1 : 2 * pairs : 2]
    monotone = _cumulative_min(pair)
    # Once the running minimum is not positive it stays so: it marks the cut by itself.
    whole = tf.reduce_sum(tf.maximum(monotone[:, :-1], 0.0), axis=1)
    before = tf.concat([tf.ones_like(pair[:, :1]), monotone[:, :-1]], axis=1) > 0
    last = tf.range(pairs) == pairs - 1
    at_cut = before & ((monotone <= 0) | last)
    remainder = tf.where(at_cut & ((pair >= 0) | (even > 0)), even, tf.zeros_like(even))
    return -1.0 + 2.0 * whole + tf.reduce_sum(remainder, axis=1)


def _cumulative_min(values):
    """Running minimum along the last axis by doubling: ceil(log2(K)) steps for [R, K]."""
    step = 1
    while step < values.shape[-1]:
        head, tail = values[:, :step], values[:, step:]
        values = tf.concat([head, tf.minimum(tail, values[:, :-step])], axis=1)
        step *= 2
    return values


def _ess_tail(rows, values):
    """The smaller ESS of the two quantile indicators, to [R]. Args: rows: [R, C, T]; values: [R, S] sorted."""
    halves = _split(rows)
    middle = _pool(_middle(rows))
    low, high = (_ess_of_quantile(halves, _quantile_draw(values, middle, p)) for p in TAIL_PROBABILITIES)
    return tf.where(_constant_rows(halves), _constant(math.nan), tf.minimum(low, high))


def _ess_of_quantile(halves, threshold):
    indicator = tf.cast(halves <= threshold[:, tf.newaxis, tf.newaxis], tf.float64)
    ess = _ess(indicator)
    draws = halves.shape[1] * halves.shape[2]
    return tf.where(tf.math.is_nan(ess), _constant(float(draws)), ess)


def _quantile_draw(values, more, probability):
    """The largest draw that is not above the quantile (Hyndman & Fan 1996, type 7; NumPy's "linear").

    Comparing with it is comparing with the quantile, in the type of the draws. The interpolation is done
    as NumPy does it, because where it falls on a draw its rounding decides on which side the draw is.

    Args:
      values: [R, S] sorted.
      more: [R, M] a few draws that are not among them, M >= 0.

    Returns:
      [R] in the type of values.
    """
    place = (values.shape[-1] + more.shape[-1] - 1) * probability
    index = math.floor(place)
    fraction = place - index
    # M more draws push a value up by at most M places: these are enough to find places index and index + 1.
    start = max(index - more.shape[-1], 0)
    nearby = tf.sort(tf.concat([values[:, start : index + 2], more], axis=1))
    below, above = nearby[:, index - start], nearby[:, index + 1 - start]
    low, high = tf.cast(below, tf.float64), tf.cast(above, tf.float64)
    if fraction < 0.5:
        quantile = low + (high - low) * fraction
    else:
        quantile = high - (high - low) * (1.0 - fraction)
    return tf.where(quantile >= high, above, below)
