"""When a record's chains have run long enough.

A record is examined after numbers of kept sweeps that grow geometrically, by its own clock.
Stopping on the draws that one keeps is only asymptotically valid: a record that is looked at often
enough looks converged once. So there is a least number of draws, there are few looks, and
calibration is tested with this rule in force.
"""

import concurrent.futures
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vaefill.model import diagnostics, parallel, pareto
from vaefill.model.config import SamplerConfig
from vaefill.model.samplers.base import SampleKind

BLOCK = 10  # kept sweeps a device call; records are examined between calls
_GROWTH = 1.1
# Pareto shape up to which averages of weighted draws can be trusted (Vehtari et al. 2024)
_HEAVIEST = 0.7
# Nats by which a peak is lower than another that has a hundred times its probability
_NEGLIGIBLE = math.log(100.0)
# Of the way from the draws' mean to a peak: half of it, the tail of a skewed mode may reach
_NEAR = 0.75
_AWAY = 1.0  # standard deviations from the draws' mean beyond which a peak may be another mode's
_HOPELESS = 2.0  # a plain split R-hat this many times too far from 1 spares the expensive one
# Quantities that look worst by something cheap; where one of them fails the others need no look
_SUSPECTS = 2
# One for the process, however many rules there are: NumPy sorts without the interpreter lock.
_POOL = concurrent.futures.ThreadPoolExecutor(parallel.cores(), thread_name_prefix="examine")
# a decorator that threads share, since NumPy 2
_UNDEFINED_IS_NAN = np.errstate(invalid="ignore", divide="ignore")


class Trace(NamedTuple):
    """The kept sweeps of one record: P rows, T sweeps."""

    z: np.ndarray  # [P, T, K]
    log_likelihood: np.ndarray  # [P, T] log p(x_obs | z), nats
    log_prior: np.ndarray  # [P, T] log p(z) without its constant, nats
    log_weight: np.ndarray  # [P, T]


class Scouted(NamedTuple):
    """Where the scouts of one record ended; see `scouts`."""

    z: np.ndarray  # [S, K]
    log_target: np.ndarray  # [S]


class Verdict(NamedTuple):
    """What an examination finds."""

    finished: bool
    converged: bool
    r_hat: float  # the largest; NaN for weighted draws
    # The smallest, ways to scouted peaks included; the ESS of the weights for weighted draws
    ess_bulk: float
    ess_tail: float
    num_unvisited: int = 0  # scouts at peaks that no chain has been near


def check_points(config: SamplerConfig, draws: SampleKind, max_kept: int) -> list[int]:
    """The numbers of kept sweeps after which a record is examined: multiples of `BLOCK`, and
    `max_kept`.

    None before there are as many draws as imputations are to be made of.
    """
    if draws is SampleKind.WEIGHTED:
        return [max_kept]
    # Fewer cannot reach it
    first = BLOCK if draws is SampleKind.POPULATION else config.target_ess / config.num_chains
    points: list[int] = []
    place = max(first, -(-config.num_imputations // config.rows_per_record), 4.0)
    while place < max_kept:
        rounded = BLOCK * -(-int(place) // BLOCK)
        if rounded < max_kept and (not points or rounded > points[-1]):
            points.append(rounded)
        place *= _GROWTH
    return [*points, max_kept]


class StoppingRule:
    """Examines records by the targets of a configuration."""

    def __init__(self, config: SamplerConfig, draws: SampleKind, max_kept: int):
        self._config, self._draws, self._max_kept = config, draws, max_kept

    def __call__(self, traces: Sequence[Trace], scouts: Sequence[Scouted]) -> list[Verdict]:
        """Verdicts on records, each by itself."""
        if self._draws is SampleKind.WEIGHTED:
            return [self._examine_weights(trace) for trace in traces]
        if self._draws is SampleKind.POPULATION:
            return [self._examine_population(trace) for trace in traces]
        return list(_POOL.map(self._examine_chains, traces, scouts))

    def _examine_chains(self, trace: Trace, scouts: Scouted) -> Verdict:
        at_end = trace.z.shape[1] >= self._max_kept
        quantities = _quantities(trace)
        if not at_end and self._is_hopeless(quantities):
            return Verdict(False, False, math.nan, math.nan, math.nan)
        r_hat, ess_bulk, ess_tail = (float(value[0]) for value in diagnostics.diagnose(quantities))
        of_peaks = _ess_of_peaks(trace, scouts)
        num_unvisited = int(np.count_nonzero(of_peaks == 0))
        ess_bulk = min([ess_bulk, *of_peaks])
        enough = min(ess_bulk, ess_tail) >= self._config.target_ess  # NaN does not converge
        converged = bool(r_hat < self._config.target_r_hat and enough)
        return Verdict(at_end or converged, converged, r_hat, ess_bulk, ess_tail, num_unvisited)

    def _is_hopeless(self, quantities: np.ndarray) -> bool:
        """Whether a record cannot pass, by less than all of its diagnostics."""
        too_far = 1.0 + _HOPELESS * (self._config.target_r_hat - 1.0)
        plain = np.full(quantities.shape[-1], np.nan)
        for folded in (False, True):
            # Equal distances say nothing
            plain = np.fmax(plain, diagnostics.plain_r_hat(quantities, folded)[0])
            if not plain.max() < too_far:
                return True
        apart = quantities[..., np.argsort(plain)[-_SUSPECTS:]]
        if not np.float32(diagnostics.r_hat(apart).max()) < self._config.target_r_hat:
            return True
        slow = quantities[..., np.argsort(_variance_of_block_means(quantities))[-_SUSPECTS:]]
        _, ess_bulk, ess_tail = diagnostics.diagnose(slow)
        return not min(ess_bulk[0], ess_tail[0]) >= self._config.target_ess

    def _examine_weights(self, trace: Trace) -> Verdict:
        """Of new weighted draws every sweep: at the end alone, as an ESS looks best before a heavy
        weight has come.
        """
        log_weight = trace.log_weight.astype(np.float64)
        at_end = log_weight.shape[1] >= self._max_kept
        ess = _effective_size(log_weight)
        converged = (
            ess >= self._config.target_ess
            and not pareto.shape_of_weights(log_weight.ravel()) >= _HEAVIEST
        )
        return Verdict(at_end, at_end and bool(converged), float("nan"), ess, ess)

    def _examine_population(self, trace: Trace) -> Verdict:
        """Of particles that move, which count once: where they are when all have arrived.

        Systematic resampling leaves copies side by side, and moves part them: how much a group is
        worth is the ESS of its particles in their order, as of a chain's sweeps, times what the
        weights of the groups leave of it.
        """
        last = Trace(
            *(
                field[:, -1].reshape(self._config.num_chains, -1, *field.shape[2:])
                for field in trace
            )
        )
        log_weight = last.log_weight.astype(np.float64)
        arrived = bool(np.isfinite(log_weight).all())
        share = _effective_size(log_weight) / log_weight.size
        _, *ess = diagnostics.diagnose(_quantities(last))
        ess_bulk, ess_tail = (share * float(value[0]) for value in ess)
        # NaN does not converge
        converged = arrived and min(ess_bulk, ess_tail) >= self._config.target_ess
        return Verdict(
            arrived or trace.z.shape[1] >= self._max_kept,
            converged,
            float("nan"),
            ess_bulk,
            ess_tail,
        )


def _ess_of_peaks(trace: Trace, scouts: Scouted) -> np.ndarray:
    """How well the chains have mixed across the way to each peak that scouts found and that
    matters: ESS [Q] float64.

    A peak matters if the probability about it may be 1 % of all or more, were it as wide as what
    the chains have seen, of which the peak is known from the mean of log p(z) p(x_obs | z): K / 2
    below it for a normal distribution. And if it is away from the draws' mean, in units of their
    covariance. The quantity is then whether a draw has come three quarters of the way to the peak;
    of one to which none has it is 0.
    """
    z = trace.z.astype(np.float64)
    draws = z.reshape(-1, z.shape[2])
    if not np.isfinite(draws).all():
        return np.zeros(0)
    log_target = trace.log_likelihood.astype(np.float64) + trace.log_prior
    level = log_target.mean() + 0.5 * z.shape[2]
    peaks = scouts.z[scouts.log_target > level - _NEGLIGIBLE].astype(np.float64)
    mean, covariance = draws.mean(axis=0), np.cov(draws.T, ddof=0).reshape(z.shape[2], -1)
    ridge = 1e-9 * np.trace(covariance) * np.eye(len(mean))
    inverse = np.linalg.inv(np.linalg.cholesky(covariance + ridge))
    whitened, peaks = (draws - mean) @ inverse.T, (peaks - mean) @ inverse.T
    distance = np.linalg.norm(peaks, axis=1)
    peaks, distance = peaks[distance > _AWAY], distance[distance > _AWAY]
    if not len(peaks):
        return np.zeros(0)
    beyond = (whitened @ (peaks / distance[:, np.newaxis]).T > _NEAR * distance).reshape(
        *z.shape[:2], -1
    )
    return np.nan_to_num(diagnostics.ess_of_events(beyond.swapaxes(0, 1)[:, np.newaxis])[0])


def _quantities(trace: Trace) -> np.ndarray:
    """What is diagnosed: every latent and log p(x_obs | z), [T, 1, C, K + 1].

    Of a record with nothing observed log p(x_obs | z) is 0 for every z: a latent stands in for it.
    """
    last = trace.log_likelihood if trace.log_likelihood.any() else trace.z[..., 0]
    return np.concatenate([trace.z, last[..., np.newaxis]], axis=-1).swapaxes(0, 1)[:, np.newaxis]


@_UNDEFINED_IS_NAN
def _variance_of_block_means(quantities: np.ndarray) -> np.ndarray:
    """Of [T, 1, C, Q], in units of their variance [Q]: the slower a quantity moves, the more they
    vary.
    """
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
