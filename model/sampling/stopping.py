"""When a record's chains have run long enough.

A record is examined after numbers of kept sweeps that grow geometrically, by its own clock. Stopping on the
draws that one keeps is only asymptotically valid: a record that is looked at often enough looks converged
once. So there is a least number of draws, there are few looks, and calibration is tested with this rule in
force.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from model import diagnostics
from model.config import SamplerConfig
from model.sampling.base import Draws

BLOCK = 10  # kept sweeps a device call; records are examined between calls
_GROWTH = 1.1
_RECORDS = 32  # of one examination: one shape for one record and for many
_HOPELESS = 2.0  # a plain split R-hat this many times too far from 1 spares the expensive one


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
    """The numbers of kept sweeps after which a record is examined: multiples of `BLOCK`, and `max_kept`."""
    if draws is Draws.CHAIN:
        first = config.target_ess / config.num_chains  # fewer independent draws cannot reach the target
    else:
        first = BLOCK
    points, place = [], max(first, 4.0)
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
        self._diagnose = tf.function(diagnostics.diagnose)

    def __call__(self, traces: Sequence[Trace]) -> list[Verdict]:
        """Verdicts on records that have all kept T sweeps."""
        if self._draws is not Draws.CHAIN:
            return [self._examine_weights(trace) for trace in traces]
        at_end = traces[0].z.shape[1] >= self._max_kept
        quantities = [_quantities(trace) for trace in traces]
        verdicts = [Verdict(at_end, False, *[float("nan")] * 3) for _ in traces]
        limit = 1.0 + _HOPELESS * (self._config.target_r_hat - 1.0)
        hopeful = [i for i, values in enumerate(quantities) if at_end or _plain_r_hat(values) < limit]
        for first in range(0, len(hopeful), _RECORDS):
            chosen = hopeful[first : first + _RECORDS]
            for i, found in zip(chosen, self._examine_chains([quantities[i] for i in chosen])):
                verdicts[i] = self._verdict(at_end, *found)
        return verdicts

    def _verdict(self, at_end: bool, r_hat: float, ess_bulk: float, ess_tail: float) -> Verdict:
        enough = min(ess_bulk, ess_tail) >= self._config.target_ess  # NaN does not converge
        converged = bool(r_hat < self._config.target_r_hat and enough)
        return Verdict(at_end or converged, converged, r_hat, ess_bulk, ess_tail)

    def _examine_chains(self, quantities: Sequence[np.ndarray]) -> list[tuple[float, float, float]]:
        """R-hat and ESS of records [C, T, Q], at one padded shape [T, _RECORDS, C, Q]."""
        padded = np.zeros((_RECORDS, *quantities[0].shape), np.float32)
        padded[: len(quantities)] = quantities
        found = self._diagnose(tf.constant(np.ascontiguousarray(padded.transpose(2, 0, 1, 3))))
        columns = [np.asarray(column, np.float64)[: len(quantities)] for column in found]
        return list(zip(*(column.tolist() for column in columns)))

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
    """What is diagnosed: every latent and log p(x_obs | z), [C, T, K + 1].

    Of a record with nothing observed log p(x_obs | z) is 0 for every z: a latent stands in for it.
    """
    last = trace.log_likelihood if trace.log_likelihood.any() else trace.z[..., 0]
    return np.concatenate([trace.z, last[..., np.newaxis]], axis=-1)


def _plain_r_hat(quantities: np.ndarray) -> float:
    """The largest split R-hat of [C, T, Q] without ranks: a fraction of the cost, to the same purpose."""
    half = quantities.shape[1] // 2
    halves = np.concatenate([quantities[:, :half], quantities[:, -half:]]).astype(np.float64)
    within = halves.var(axis=1, ddof=1).mean(axis=0)
    between = halves.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.sqrt((half - 1) / half + between / within).max())


def _effective_size(log_weight: np.ndarray) -> float:
    """(sum of weights)^2 / sum of squared weights (Kish 1965); 0 if all weights are 0."""
    largest = log_weight.max()
    if not np.isfinite(largest):
        return 0.0
    weights = np.exp(log_weight - largest)
    return float(weights.sum() ** 2 / np.square(weights).sum())
