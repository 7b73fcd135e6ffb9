"""How heavy the tail of importance weights is: the shape k of a generalised Pareto distribution
fitted to it.

Vehtari, Simpson, Gelman, Yao & Gabry (2024), "Pareto smoothed importance sampling", JMLR 25(72).
Weights have as many finite moments as 1 / k. Up to 0.7 estimates and their standard errors are of
use; above it, of more draws than anyone has.
"""

import math

import numpy as np

_LEAST_TAIL = 5
_QUARTILE_FACTOR = 3.0  # of Zhang & Stephens' prior for b
_PRIOR_SHAPE, _PRIOR_SIZE = 0.5, 10.0  # of PSIS: shrinks k towards 1/2, as ten draws would


def tail_size(num_draws: int) -> int:
    """M = min(S / 5, 3 sqrt(S)), of S draws the largest, which are fitted."""
    return int(min(num_draws / 5, 3 * math.sqrt(num_draws)))


def shape_of_weights(log_weight: np.ndarray) -> float:
    """k of importance weights.

    Args:
        log_weight: [S], unnormalised; -inf is a weight of 0.

    Returns:
        NaN if fewer than five weights would be fitted, or all of them are the same; infinity if
        nearly all of the weight is on so few draws that there is no tail to fit.
    """
    size = tail_size(len(log_weight))
    if size < _LEAST_TAIL:
        return math.nan
    ordered = np.sort(log_weight.astype(np.float64))[-size - 1 :]
    if not ordered[-1] > ordered[1]:
        return math.nan
    weights = np.exp(ordered - ordered[-1])
    return shape(weights[1:] - weights[0])


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def shape(excess: np.ndarray) -> float:
    """k of excesses [M] over a threshold, in ascending order.

    The quasi-Bayes estimate of Zhang & Stephens (2009, Technometrics 51, 316-325) with the weakly
    informative prior of PSIS: for the density (1 - b x)^(1 / k' - 1) b / k' with k' = -k, b is its
    posterior mean over a grid on which the prior is even, and k follows from b.
    """
    num = len(excess)
    grid_size = 30 + int(math.sqrt(num))
    quartile = excess[int(num / 4 + 0.5) - 1]
    steps = 1.0 - np.sqrt(grid_size / (np.arange(1, grid_size + 1) - 0.5))
    b = steps / (_QUARTILE_FACTOR * quartile) + 1.0 / excess[-1]
    k = np.log1p(-b[:, np.newaxis] * excess).mean(axis=1)
    log_likelihood = num * (np.log(-b / k) - k - 1.0)
    posterior = np.exp(log_likelihood - log_likelihood.max())
    found = np.log1p(-(posterior @ b) / posterior.sum() * excess).mean()
    found = (num * found + _PRIOR_SIZE * _PRIOR_SHAPE) / (num + _PRIOR_SIZE)
    return float(found) if np.isfinite(found) else math.inf
