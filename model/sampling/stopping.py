"""When a record's chains have run long enough.

A record is examined after numbers of kept sweeps that grow geometrically, by its own clock. Stopping on the
draws that one keeps is only asymptotically valid: a record that is looked at often enough looks converged
once. So there is a least number of draws, there are few looks, and calibration is tested with this rule in
force.
"""

import concurrent.futures
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from model import diagnostics
from model.config import SamplerConfig
from model.sampling.base import Draws

BLOCK = 10  # kept sweeps a device call; records are examined between calls
_GROWTH = 1.1
_HOPELESS = 2.0  # a plain split R-hat this many times too far from 1 spares the expensive one
_SUSPECTS = 2  # quantities that look worst by something cheap; where one of them fails the others need no look
_UNDEFINED_IS_NAN = np.errstate(invalid="ignore", divide="ignore")  # a decorator that threads share, since NumPy 2


class Trace(NamedTuple):
    """The kept sweeps of one record: P rows, T sweeps."""

    z: np.ndarray  # [P, T, K]
    log_likelihood: np.ndarray  # [P, T] log p(x_obs | z), nats
    log_weight: np.ndarray  # [P, T]


class Verdict(NamedTuple):
    """What an examination finds."""

    finished: bool
    converged: bool
    r_hat: float  # the largest; NaN for weighted draws
    ess_bulk: float  # the smallest; the ESS of the weights for weighted draws
    ess_tail: float


def check_points(config: SamplerConfig, draws: Draws, max_kept: int) -> list[int]:
    """The numbers of kept sweeps after which a record is examined: multiples of `BLOCK`, and `max_kept`.

    None before there are as many draws as imputations are to be made of.
    """
    if draws is Draws.CHAIN:
        first = config.target_ess / config.num_chains  # fewer independent draws cannot reach the target
    else:
        first = BLOCK
    points, place = [], max(first, -(-config.num_imputations // config.rows_per_record), 4.0)
    while place < max_kept:
        rounded = BLOCK * -(-int(place) // BLOCK)
        if rounded < max_kept and (not points or rounded > points[-1]):
            points.append(rounded)
        place *= _GROWTH
    return [*points, max_kept]


class Examiner:
    """Examines records by the targets of a configuration."""

    def __init__(self, config: SamplerConfig, draws: Draws, max_kept: int):
        self._config, self._draws, self._max_kept = config, draws, max_kept
        self._pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())  # NumPy sorts without the interpreter lock

    def __call__(self, traces: Sequence[Trace]) -> list[Verdict]:
        """Verdicts on records, each by itself."""
        if self._draws is not Draws.CHAIN:
            return [self._examine_weights(trace) for trace in traces]
        return list(self._pool.map(self._examine_chains, traces))

    def _examine_chains(self, trace: Trace) -> Verdict:
        at_end = trace.z.shape[1] >= self._max_kept
        quantities = _quantities(trace)
        if not at_end and self._is_hopeless(quantities):
            return Verdict(False, False, *[float("nan")] * 3)
        r_hat, ess_bulk, ess_tail = (float(value[0]) for value in diagnostics.diagnose(quantities))
        enough = min(ess_bulk, ess_tail) >= self._config.target_ess  # NaN does not converge
        converged = bool(r_hat < self._config.target_r_hat and enough)
        return Verdict(at_end or converged, converged, r_hat, ess_bulk, ess_tail)

    def _is_hopeless(self, quantities: np.ndarray) -> bool:
        """Whether a record cannot pass, by less than all of its diagnostics."""
        too_far = 1.0 + _HOPELESS * (self._config.target_r_hat - 1.0)
        plain = np.full(quantities.shape[-1], np.nan)
        for folded in (False, True):
            plain = np.fmax(plain, diagnostics.plain_r_hat(quantities, folded)[0])  # equal distances say nothing
            if not plain.max() < too_far:
                return True
        apart = quantities[..., np.argsort(plain)[-_SUSPECTS:]]
        if not np.float32(diagnostics.r_hat(apart).max()) < self._config.target_r_hat:
            return True
        slow = quantities[..., np.argsort(_variance_of_block_means(quantities))[-_SUSPECTS:]]
        _, ess_bulk, ess_tail = diagnostics.diagnose(slow)
        return not min(ess_bulk[0], ess_tail[0]) >= self._config.target_ess

    def _examine_weights(self, trace: Trace) -> Verdict:
        log_weight = trace.log_weight.astype(np.float64)
        at_end = log_weight.shape[1] >= self._max_kept
        if self._draws is Draws.POPULATION:
            # Particles move, so they count once, and are of use from when all have arrived.
            log_weight = log_weight[:, -1]
        ess = _effective_size(log_weight)
        converged = ess >= self._config.target_ess
        arrived = self._draws is Draws.POPULATION and bool(np.isfinite(log_weight).all())
        return Verdict(at_end or converged or arrived, converged, float("nan"), ess, ess)


def _quantities(trace: Trace) -> np.ndarray:
    """What is diagnosed: every latent and log p(x_obs | z), [T, 1, C, K + 1].

    Of a record with nothing observed log p(x_obs | z) is 0 for every z: a latent stands in for it.
    """
    last = trace.log_likelihood if trace.log_likelihood.any() else trace.z[..., 0]
    return np.concatenate([trace.z, last[..., np.newaxis]], axis=-1).swapaxes(0, 1)[:, np.newaxis]


@_UNDEFINED_IS_NAN
def _variance_of_block_means(quantities: np.ndarray) -> np.ndarray:
    """Of [T, 1, C, Q], in units of their variance [Q]: the slower a quantity moves, the more they vary."""
    num = len(quantities) // BLOCK
    draws = quantities[: num * BLOCK, 0].astype(np.float64)
    draws -= draws.mean(axis=(0, 1))
    means = draws.reshape(num, BLOCK, *draws.shape[1:]).mean(axis=1)
    return np.square(means).mean(axis=(0, 1)) / np.square(draws).mean(axis=(0, 1))


def _effective_size(log_weight: np.ndarray) -> float:
    """(sum of weights)^2 / sum of squared weights (Kish 1965); 0 if all weights are 0."""
    largest = log_weight.max()
    if not np.isfinite(largest):
        return 0.0
    weights = np.exp(log_weight - largest)
    return float(weights.sum() ** 2 / np.square(weights).sum())
