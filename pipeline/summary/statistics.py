"""Statistics over imputed records: accumulators with `of`, `merge` and `result`.

An accumulator is a tuple of sums, so merging is addition. Sums of floating-point numbers depend on
their order; whoever merges does it in the order of the data set (shard, then place in the shard),
in blocks of `BLOCK` records, or of fewer where these come to `BLOCK_BYTES`.

There are numbers for each label, of which there may be many, and sums for each of its values, of
which there may be many too: `bounded` lets go of those that do not fit into `MAP_BYTES`.
"""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vaefill.model import evaluation
from vaefill.model.standardization import nearest_float32
from vaefill.records.record import DIAGNOSTICS, ImputedRecord, Scalar
from vaefill.results.documents import (
    Group,
    MissingFraction,
    Quantiles,
    Reliability,
    TruthScores,
)
from vaefill.results.value_maps import ImputedValues

BLOCK = 256
BLOCK_BYTES = 128 << 20  # of a block's records, while they are summed up
MAX_GROUPS = 1000  # distinct labels that get statistics of their own
MAP_BYTES = 512 << 20  # of all labels' sums for each value
_SUM_BYTES = 24  # of the three sums for a value
_SUMMING_BYTES = 128  # for a value of a record, in float64, while a block is summed up
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_FRACTION_BINS = 10


class Accumulator(NamedTuple):
    """Sums over records; D values a record.

    Those for each value, `value_*`, are None once they were let go of.
    """

    num_records: np.ndarray  # [] int64
    num_converged: np.ndarray  # [] int64
    num_fitted: np.ndarray  # [] int64, records whose fit was tested
    num_misfits: np.ndarray  # [] int64
    num_chain_sweeps: np.ndarray  # [] int64, over all chains of all records
    num_network_passes: np.ndarray  # [] int64, network passes
    num_non_finite: np.ndarray  # [] int64, acceptance ratios and weights that were not finite
    num_missing: np.ndarray  # [] int64, values
    # [] int64, records of no part in value_*: a mean or stddev there is NaN or infinite
    num_left_out: np.ndarray
    missing_fraction: np.ndarray  # [10] int64, records whose fraction lies in each tenth of [0, 1]
    value_count: np.ndarray | None  # [D] int64, records in which the value is missing
    value_mean: np.ndarray | None  # [D] float64, sum of the conditional means
    value_second_moment: np.ndarray | None  # [D] float64, sum of stddev^2 + mean^2
    scores: tuple[np.ndarray, ...]  # `evaluation.Scores`, summed over records with truth


def empty(num_values: int) -> Accumulator:
    """The accumulator of no records."""
    nothing = np.zeros((0, num_values))
    scores = evaluation.score(nothing, nothing, nothing.astype(np.bool_))
    integer = np.zeros((), np.int64)
    sums = (
        *[integer] * 9,
        np.zeros(_FRACTION_BINS, np.int64),
        np.zeros(num_values, np.int64),
        np.zeros(num_values),
        np.zeros(num_values),
    )
    return Accumulator._make([*sums, tuple(field.sum(axis=0) for field in scores)])


def of(records: Sequence[ImputedRecord], scores: evaluation.Scores, num_chains: int) -> Accumulator:
    """The accumulator of some records.

    Args:
        records: at least one.
        scores: of the same records, zero where a record has no truth.
        num_chains: chains of a record.
    """
    missing = np.stack([~record.masked.observed.ravel() for record in records])
    mean = np.stack([record.mean.ravel() for record in records]).astype(np.float64)
    stddev = np.stack([record.stddev.ravel() for record in records]).astype(np.float64)
    finite = (np.isfinite(mean) & np.isfinite(stddev) | ~missing).all(axis=1)
    imputed = missing & finite[:, None]
    fraction_bin = np.minimum(missing.mean(axis=1) * _FRACTION_BINS, _FRACTION_BINS - 1).astype(
        np.int64
    )

    def total(name: str) -> np.ndarray:
        return _count([record.diagnostics[name] for record in records])

    return Accumulator(
        num_records=np.array(len(records), np.int64),
        num_converged=total("converged"),
        num_fitted=_count([not np.isnan(r.diagnostics["fit_p_value"]) for r in records]),
        num_misfits=total("misfit"),
        num_chain_sweeps=total("num_sweeps") * num_chains,
        num_network_passes=total("num_network_passes"),
        num_non_finite=total("num_non_finite"),
        num_missing=missing.sum(),
        num_left_out=_count(~finite),
        missing_fraction=np.bincount(fraction_bin, minlength=_FRACTION_BINS),
        value_count=imputed.sum(axis=0),
        value_mean=np.where(imputed, mean, 0).sum(axis=0),
        value_second_moment=np.where(imputed, stddev**2 + mean**2, 0).sum(axis=0),
        scores=tuple(field.sum(axis=0) for field in scores),
    )


def _count(values: npt.ArrayLike) -> np.ndarray:
    """The sum of integers or of what is true: [] int64."""
    return np.asarray(np.sum(values, dtype=np.int64))


def merge(first: Accumulator, second: Accumulator) -> Accumulator:
    """The accumulator of the records of both; what one of them lacks it lacks too."""
    sums = [None if a is None or b is None else a + b for a, b in zip(first[:-1], second[:-1])]
    scores = tuple(a + b for a, b in zip(first.scores, second.scores))
    return Accumulator._make([*sums, scores])


def result(
    accumulator: Accumulator,
    shape: Sequence[int],
    binary: bool,
    diagnostics: Mapping[str, Quantiles] = MappingProxyType({}),
    values_row: int | None = None,
) -> Group:
    """What an accumulator says of its records.

    Args:
        accumulator: over any number of records.
        shape: [H, W, C] of a record.
        binary: whether values are, so that they have all the scores.
        diagnostics: of the same records, by name.
        values_row: the row of `imputed_values` in their file, if it is there.

    Returns:
        The statistics, None for what is undefined.
    """
    count = accumulator.num_records
    return Group(
        num_records=int(count),
        converged_fraction=_plain(evaluation.ratio(accumulator.num_converged, count)),
        misfit_fraction=_plain(evaluation.ratio(accumulator.num_misfits, accumulator.num_fitted)),
        num_chain_sweeps=int(accumulator.num_chain_sweeps),
        num_network_passes=int(accumulator.num_network_passes),
        num_non_finite=int(accumulator.num_non_finite),
        missing_fraction=MissingFraction(
            mean=_plain(evaluation.ratio(accumulator.num_missing, count * math.prod(shape))),
            edges=_plain(np.linspace(0, 1, _FRACTION_BINS + 1).round(10)),
            counts=_plain(accumulator.missing_fraction),
        ),
        num_left_out=int(accumulator.num_left_out),
        values_row=values_row,
        truth=_truth_scores(evaluation.Scores(*accumulator.scores), binary),
        diagnostics=dict(diagnostics),
    )


def imputed_values(accumulator: Accumulator, shape: Sequence[int]) -> ImputedValues:
    """What was imputed, value by value.

    Args:
        accumulator: over any number of records, with its sums for each value.
        shape: [H, W, C] of a record.
    """
    sums = (accumulator.value_count, accumulator.value_mean, accumulator.value_second_moment)
    count, total, second_moment = (np.asarray(each) for each in sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        variance = np.maximum(second_moment / count - mean**2, 0)
    return ImputedValues(
        nearest_float32(mean).reshape(shape), nearest_float32(np.sqrt(variance)).reshape(shape)
    )


def _truth_scores(scores: evaluation.Scores, binary: bool) -> TruthScores | None:
    if not scores.num_values and not scores.num_unscored:
        return None
    return TruthScores(
        num_unscored=int(scores.num_unscored),
        num_values=int(scores.num_values),
        **_means(scores, binary),
        reliability=_reliability(scores) if binary else None,
    )


def _means(scores: evaluation.Scores, binary: bool) -> dict[str, float | None]:
    """Scores as means over values, None where undefined."""
    f1 = evaluation.f1(scores.true_positive, scores.false_positive, scores.false_negative)
    return {
        "nll": _plain(evaluation.ratio(scores.nll, scores.num_values)) if binary else None,
        "brier": _plain(evaluation.ratio(scores.brier, scores.num_values)),
        "f1": _plain(f1),
    }


def _reliability(scores: evaluation.Scores) -> Reliability:
    with np.errstate(invalid="ignore", divide="ignore"):
        predicted = scores.reliability_mean / scores.reliability_count
        frequency = scores.reliability_truth / scores.reliability_count
    return Reliability(
        edges=_plain(np.linspace(0, 1, evaluation.NUM_BINS + 1).round(10)),
        counts=_plain(scores.reliability_count),
        predicted=_plain(predicted),
        frequency=_plain(frequency),
    )


def _plain(value: np.ndarray | float) -> Any:
    """Arrays as tuples, numbers as Python's own, None for what is not finite."""
    if isinstance(value, np.ndarray):
        return tuple(map(_plain, value))
    number = value.item() if isinstance(value, np.generic) else value
    return number if math.isfinite(number) else None


def group_of(record: ImputedRecord) -> str | None:
    """The group that a record's statistics belong to beside `all`: the name of its label, if it has
    one.
    """
    return group_name(record.masked.carried.get("label"))


def group_name(label: Scalar | None) -> str | None:
    """The name of the group of a label; None where there is none, and for those that name nothing:
    NaN and no bytes.
    """
    if label is None or label == b"" or label != label:
        return None
    return label.decode("utf-8", "backslashreplace") if isinstance(label, bytes) else str(label)


def by_group(
    records: Sequence[ImputedRecord], scores: evaluation.Scores, num_chains: int
) -> dict[str | None, Accumulator]:
    """Accumulators of a block of records: of all of them under None, and of each label."""
    members: dict[str | None, list[int]] = collections.defaultdict(list)
    for index, record in enumerate(records):
        members[None].append(index)
        if (group := group_of(record)) is not None:
            members[group].append(index)
    return {
        group: of(
            [records[i] for i in chosen],
            evaluation.Scores(*(field[chosen] for field in scores)),
            num_chains,
        )
        for group, chosen in members.items()
    }


def add_groups(
    groups: dict[str | None, Accumulator], more: Mapping[str | None, Accumulator]
) -> None:
    """Merges into `groups` group by group, so that no more than one is there twice."""
    for group, own in more.items():
        groups[group] = merge(groups[group], own) if group in groups else own


def most_common(num_records: Mapping[str | None, int], most: int) -> set[str | None]:
    """The labels with the most records, of as many by name, and the group of all."""
    labels = sorted(
        (group for group in num_records if group is not None),
        key=lambda name: (-num_records[name], name),
    )
    return {None, *labels[:most]}


def max_maps(num_values: int) -> int:
    """Of how many labels there are sums for each of so many values."""
    return min(MAX_GROUPS, MAP_BYTES // (_SUM_BYTES * num_values))


def bounded(
    groups: Mapping[str | None, Accumulator], num_values: int
) -> dict[str | None, Accumulator]:
    """The `MAX_GROUPS` most common groups; sums for each value are left to `max_maps` of them."""
    sizes = {group: int(own.num_records) for group, own in groups.items()}
    kept = most_common(sizes, MAX_GROUPS)
    with_maps = {g: size for g, size in sizes.items() if groups[g].value_count is not None}
    mapped = most_common(with_maps, max_maps(num_values))
    return {
        group: own if group in mapped else without_maps(own)
        for group, own in groups.items()
        if group in kept
    }


def without_maps(accumulator: Accumulator) -> Accumulator:
    """Without its sums for each value."""
    return accumulator._replace(value_count=None, value_mean=None, value_second_moment=None)


def bytes_of(example: bytes, num_values: int) -> int:
    """What a record takes while its block is summed up, at most: with surplus features mostly its
    Example, which is decoded; of a large image, arrays of float64.
    """
    return 2 * len(example) + _SUMMING_BYTES * num_values


def row(
    record: ImputedRecord, scores: evaluation.Scores, index: int, binary: bool
) -> dict[str, Any]:
    """The record's line in records.parquet; scores are means over its missing values.

    What is undefined is None, and never NaN: to a database NaN is greater than any number.
    """
    cells = {
        "id": record.masked.id,
        **record.masked.carried,
        "missing_fraction": float(np.mean(~record.masked.observed)),
        **{name: dtype(record.diagnostics[name]).item() for name, dtype in DIAGNOSTICS.items()},
        **_means(evaluation.Scores(*(field[index] for field in scores)), binary),
    }
    return {name: None if value != value else value for name, value in cells.items()}


def quantiles(values: Iterable[float]) -> Quantiles:
    """Quantiles of the values that are numbers, infinity included, and how many are NaN."""
    values = np.asarray(values, np.float64)
    numbers = values[~np.isnan(values)]
    found = np.full(len(QUANTILES), np.nan)
    if len(numbers):  # values that were there, not values between them, of which infinity has none
        found = np.quantile(numbers, QUANTILES, method="inverted_cdf")
    at = {f"{probability:g}": value for probability, value in zip(QUANTILES, _plain(found))}
    return Quantiles(num_nan=len(values) - len(numbers), **at)
