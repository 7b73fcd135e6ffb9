"""Finished output directories -> one HTML page that needs nothing beside itself. Knows no Beam.

The page says what the method did to some records, and how far to trust it on all of them.
Everything in it comes from files that the manifest lists; labels and ids are anybody's bytes and
are escaped.
"""

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
import tensorflow as tf
import tensorflow_datasets as tfds

from vaefill.errors import ResultError
from vaefill.model import files
from vaefill.model.fields import FIELDS, Worse
from vaefill.records.record import DIAGNOSTICS, ImputedRecord, MaskedRecord, with_truth
from vaefill.report import figures, pictures
from vaefill.report.rendering import inline, write_page
from vaefill.report.text import MAX_LISTED, flatten, text_of
from vaefill.results import value_maps
from vaefill.results.documents import (
    Group,
    ImputeIdentity,
    Manifest,
    MissingFraction,
    Sampler,
    Summary,
    TruthScores,
)
from vaefill.results.reading import identity_of_imputation, read_manifest, read_summary
from vaefill.results.value_maps import ImputedValues
from vaefill.summary import statistics

NUM_SHOWN = 10  # records whose pictures are shown
NUM_DRAWS = 4  # of their imputations
NUM_WORST = 8  # records that are listed as least to be trusted
MAX_LABELS = 50  # rows of a table by label
_MAX_SEARCHED = 2000  # records looked at for one of every label
_LONGEST_NUMBER = 20  # characters of a label that is ordered as a number

_LISTED = tuple(field for field in FIELDS if field.is_listed)
# Columns of records.parquet that are read.
_FLAGS = tuple(field.name for field in FIELDS if field.dtype is np.bool_)
_NUMBERS = ("missing_fraction", *(field.name for field in _LISTED), "nll")


class Result(NamedTuple):
    """What is read of an output directory."""

    path: str
    manifest: Manifest
    identity: ImputeIdentity
    summary: Summary
    values: ImputedValues | None  # of all records
    shown: Sequence[ImputedRecord]  # at most NUM_SHOWN
    # [N] each: arrays of `_FLAGS` and `_NUMBERS`, Arrow columns `id` and `label`
    rows: Mapping[str, Any]


def write_report(results: Sequence[str], output: str) -> str:
    """Writes `index.html`: one page about one or several finished results.

    Args:
        results: output directories.
        output: the directory to write to; made if need be. An earlier page in it is replaced.

    Returns:
        The path of the page.

    Raises:
        ResultError: a result is missing or incomplete.
    """
    if not results:
        raise ResultError(
            "no result to report on: name at least one output directory of `vaefill impute`",
        )
    return write_page(
        "report.html",
        output,
        # One at a time: of what has been read only the page's own share is kept.
        results=[_view(_read(path)) for path in results],
        quantiles=[f"{q:g}" for q in statistics.QUANTILES],
        fields=[field for field in FIELDS if field.has_quantiles],
        listed=_LISTED,
        max_listed=MAX_LISTED,
    )


# --- reading


def _read(path: str) -> Result:
    if not files.is_directory(path):
        raise ResultError(
            f"{path}: no such directory; name the output directory of `vaefill impute`",
        )
    manifest = read_manifest(path)
    identity = identity_of_imputation(path, manifest)
    summary = read_summary(path)
    shown: Sequence[ImputedRecord] = []
    rows: Mapping[str, Any] = {}
    if summary.counts.written:  # tfds has no data set of no records, so none was written
        rows = _read_rows(os.path.join(path, "summary", "records.parquet"))
        directory = os.path.join(path, "imputed")
        shown = _read_shown(directory, rows["label"], len(summary.by_label))
    values = value_maps.read(path, summary.all)
    return Result(path, manifest, identity, summary, values, shown, rows)


def _read_bytes(path: str) -> bytes:
    if not files.exists(path):
        raise ResultError(
            f"{path} is missing, so this is no finished result; run `vaefill impute` again",
        )
    return files.read(path)


def _broken(path: str, why: object) -> ResultError:
    return ResultError(
        f"{path} is broken ({' '.join(str(why).split())[:200]}); run `vaefill impute` again",
    )


def _read_rows(path: str) -> dict[str, np.ndarray]:
    """Columns of records.parquet that the page needs; null becomes NaN, but for labels."""
    content = pyarrow.BufferReader(_read_bytes(path))
    try:
        file = pyarrow.parquet.ParquetFile(content)  # which leaves out columns that are not there
        table = file.read(columns=["id", "label", *_FLAGS, *_NUMBERS])
        columns = {name: table[name].cast(pyarrow.float64()).to_numpy() for name in _NUMBERS}
        flags = {name: table[name].cast(pyarrow.bool_()).to_numpy() for name in _FLAGS}
    except (pyarrow.ArrowException, KeyError) as error:
        raise _broken(path, error) from None
    without = pyarrow.nulls(len(table))  # of records that carry none
    label = table["label"] if "label" in table.column_names else without
    return {"id": table["id"], "label": label, **flags, **columns}


def _read_shown(
    directory: str, labels: Iterable[pyarrow.Scalar], num_labels: int
) -> list[ImputedRecord]:
    """The records whose pictures are shown, of the data set in `directory`.

    Args:
        labels: of the records, in their order, null where there is none: the data set has a default
            there, which may be the label of others.
        num_labels: how many there are.
    """
    try:
        builder = tfds.builder_from_directory(directory)
        (split,) = builder.info.splits
        in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        examples = tfds.as_numpy(builder.as_dataset(split=split, read_config=in_order))
        return choose(map(_record, examples, labels), num_labels)
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        raise _broken(directory, error) from None


def _record(example: Mapping[str, Any], label: pyarrow.Scalar) -> ImputedRecord:
    carried = {"label": label.as_py()} if label.is_valid else {}
    masked = MaskedRecord(example["id"], example["image"], example["observed"], carried=carried)
    if example["has_truth"]:
        masked = with_truth(masked, example["truth"], example["truth_observed"])
    diagnostics = {name: example[name].item() for name in DIAGNOSTICS}
    return ImputedRecord(
        masked,
        example["imputations"],
        example["mean"],
        example["stddev"],
        diagnostics,
    )


def choose(records: Iterable[ImputedRecord], num_labels: int) -> list[ImputedRecord]:
    """At most `NUM_SHOWN` records: the first of each label, filled up with the first of the others.

    Args:
        records: in the order of the data set; no more are drawn from it than are needed.
        num_labels: how many labels there are to look for.

    Returns:
        Records by label, those without one last.
    """
    first: dict[str, ImputedRecord] = {}
    others: list[ImputedRecord] = []
    for record in itertools.islice(records, _MAX_SEARCHED):
        label = statistics.group_of(record)
        if label is not None and label not in first and len(first) < NUM_SHOWN:
            first[label] = record
        elif len(others) < NUM_SHOWN:
            others.append(record)
        if len(first) >= min(num_labels, NUM_SHOWN) and len(first) + len(others) >= NUM_SHOWN:
            break
    chosen = [*first.values(), *others][:NUM_SHOWN]
    return sorted(chosen, key=lambda record: _label_order(statistics.group_of(record)))


# --- what the template sees


def _view(result: Result) -> dict[str, Any]:
    everything = result.summary.all
    sampler = result.identity.sampler
    return {
        "path": result.path,
        "name": os.path.basename(os.path.normpath(result.path)),
        "sampler": sampler,
        "summary": result.summary,
        "all": everything,
        "inputs": result.manifest.inputs,
        "gallery": _gallery(result.shown) if result.shown else None,
        "trust": _trust(result.rows, sampler) if result.rows else None,
        "reliability": _reliability(everything.truth),
        "labels": _labels(result.summary),
        "fractions": _fractions(everything.missing_fraction),
        "value_maps": _value_maps(result.values, result.shown),
        "identity": _identity(result.manifest),
    }


def _gallery(records: Sequence[ImputedRecord]) -> dict[str, Any]:
    with_truth = any(record.masked.truth is not None for record in records)
    shape = records[0].masked.image.shape
    num_draws = min(NUM_DRAWS, len(records[0].imputations))
    scale, are_lines = pictures.scale_of(records), shape[0] == 1
    columns = ["truth"] * with_truth + [
        "given",
        *(f"draw {i + 1}" for i in range(num_draws)),
        "mean",
        "std. dev.",
    ]
    rows = []
    for record in records:
        drawn = (
            [pictures.lines(record, num_draws)]
            if are_lines
            else _pictures(record, with_truth, num_draws, scale)
        )
        rows.append(_caption(record) | {"images": [png and inline(png) for png in drawn]})
    return {
        "columns": ["values"] if are_lines else columns,
        "rows": rows,
        # A thread of pixels would not be seen
        "aspect": "auto" if are_lines else min(max(pictures.aspect(shape), 0.25), 4),
        "are_lines": are_lines,
        "is_real": pictures.is_real(records[0]),
        "with_truth": with_truth,
        "with_unknown": any(
            r.masked.truth is not None and not r.masked.truth_known.all() for r in records
        ),
        "channels": shape[2],
        "num_panels": min(shape[2], figures.MOST_PANELS),
        "scale": scale,
        "value_bar": inline(pictures.value_bar()),
        "stddev_bar": inline(pictures.stddev_bar()),
    }


def _pictures(
    record: ImputedRecord, with_truth: bool, num_draws: int, scale: pictures.Scale
) -> list[bytes | None]:
    """In the order of the gallery's columns; None for a truth that is not known."""
    masked = record.masked
    truth = None
    if masked.truth is not None:
        truth = pictures.picture(masked.truth, ~masked.truth_known, scale)
    given = pictures.picture(masked.image, ~masked.observed, scale)
    imputed = [
        pictures.picture(values, scale=scale)
        for values in (*record.imputations[:num_draws], record.mean)
    ]
    return [*[truth] * with_truth, given, *imputed, pictures.stddev_picture(record.stddev, scale)]


def _caption(record: ImputedRecord) -> dict[str, Any]:
    """What is said of a record beside its pictures."""
    return {
        "id": text_of(record.masked.id),
        "label": statistics.group_of(record),
        "missing": float(np.mean(~record.masked.observed)),
        "r_hat": record.diagnostics["r_hat"],
        "ess": min(record.diagnostics["ess_bulk"], record.diagnostics["ess_tail"]),
        "converged": record.diagnostics["converged"],
        "misfit": record.diagnostics["misfit"],
    }


def _trust(rows: Mapping[str, np.ndarray], sampler: Sampler) -> dict[str, Any]:
    """The figure of R-hat and ESS, and the records that are least to be trusted."""
    ess = np.minimum(rows["ess_bulk"], rows["ess_tail"])
    drawn = np.isfinite(ess) & (ess > 0)
    points = (rows["r_hat"][drawn], ess[drawn], rows["converged"][drawn])
    targets = (sampler.target_r_hat, sampler.target_ess)
    incomplete = np.flatnonzero(rows["missing_fraction"] > 0)
    r_hat = np.where(np.isnan(rows["r_hat"]), math.inf, rows["r_hat"])
    trusted = rows["converged"] & ~rows["misfit"]
    order = np.lexsort((ess[incomplete], -r_hat[incomplete], trusted[incomplete]))
    worst = incomplete[order[:NUM_WORST]].tolist()
    return {
        "figure": inline(figures.trust(*points, *targets)) if drawn.any() else None,
        "num_complete": len(ess) - len(incomplete),
        "num_undrawn": int((~drawn)[incomplete].sum()),
        "worst": [_worst_row(rows, index, sampler) for index in worst],
    }


def _worst_row(rows: Mapping[str, np.ndarray], index: int, sampler: Sampler) -> dict[str, Any]:
    """A record that is not to be trusted, with its diagnostics in the order of `_LISTED`."""
    targets = {
        "r_hat": sampler.target_r_hat,
        "ess_bulk": sampler.target_ess,
        "ess_tail": sampler.target_ess,
        "num_unvisited": 1,
    }
    row = {name: rows[name][index] for name in (*_FLAGS, *_NUMBERS)}
    misses = {
        field.name: _misses(row[field.name], field.worse, targets[field.name])
        for field in _LISTED
        if field.name in targets
    }
    misses["fit_p_value"] = row["misfit"]
    return {
        "id": text_of(rows["id"][index].as_py()),
        "missing_fraction": row["missing_fraction"],
        "cells": [(row[f.name], f.format, misses.get(f.name, False)) for f in _LISTED],
        "nll": row["nll"],
    }


def _misses(value: float, worse: Worse, target: float) -> bool:
    """Whether a value is not on the good side of a target; NaN is not."""
    return not (value < target if worse is Worse.LARGER else value >= target)


def _reliability(truth: TruthScores | None) -> dict[str, Any] | None:
    """The figure of reliability, and scores of a constant guess to hold the others against.

    None where nothing was scored, and of values that are not binary.
    """
    if truth is None or truth.reliability is None or not truth.num_values:
        return None
    table = truth.reliability
    counts = np.array(table.counts, np.float64)
    predicted = np.array(table.predicted, np.float64)
    frequency = np.array(table.frequency, np.float64)
    weights = counts / max(counts.sum(), 1)
    base = float(np.nansum(weights * frequency))
    return {
        "figure": inline(figures.reliability(table.edges, counts, predicted, frequency)),
        "constant": {"rate": base, "nll": _entropy(base), "brier": base * (1 - base)},
        "bins": table.bins(),
        "gap": float(np.nansum(weights * np.abs(predicted - frequency))),
    }


def _entropy(probability: float) -> float:
    """Of a Bernoulli variable, in nats."""
    return -sum(p * math.log(p) for p in (probability, 1 - probability) if p > 0)


def _labels(summary: Summary) -> list[tuple[str, Group]]:
    """The labels, or the `MAX_LABELS` largest, with their statistics."""
    by_size = sorted(
        summary.by_label.items(),
        key=lambda item: (-item[1].num_records, _label_order(item[0])),
    )
    return sorted(by_size[:MAX_LABELS], key=lambda item: _label_order(item[0]))


def _label_order(label: str | None) -> tuple:
    """Numbers by value, then words, then no label."""
    if label is None:
        return (2, 0, "")
    is_number = label.removeprefix("-").isdecimal() and len(label) <= _LONGEST_NUMBER
    return (0, int(label), "") if is_number else (1, 0, label)


def _fractions(histogram: MissingFraction) -> list[tuple[float, float, int, float]]:
    """The histogram of missing fractions: bounds, count and the length of the bar in per cent."""
    largest = max(1, *histogram.counts)
    lengths = [100 * count / largest for count in histogram.counts]
    return list(
        zip(histogram.edges[:-1], histogram.edges[1:], histogram.counts, lengths, strict=True),
    )


def _value_maps(values: ImputedValues | None, shown: Sequence[ImputedRecord]) -> str | None:
    if not shown or values is None or np.isnan(values.mean).all() or np.isnan(values.stddev).all():
        return None
    return inline(figures.value_maps(values.mean, values.stddev, pictures.is_real(shown[0])))


def _identity(manifest: Manifest) -> list[tuple[str, list[tuple[str, str]]]]:
    """Tables of the manifest's identity, (title, [(name, value)]); nested names are dotted."""
    identity = manifest.identity.plain()
    del identity["inputs"]  # which have a table of their own
    sections = {key: value for key, value in identity.items() if isinstance(value, dict)}
    flat = {key: value for key, value in identity.items() if key not in sections}
    tables = {"run": flat} | sections | {"times": manifest.times.plain()}
    return [(title, list(flatten(values))) for title, values in tables.items() if values]
