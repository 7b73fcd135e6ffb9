"""Finished output directories -> one HTML page that needs nothing beside itself. Knows no Beam.

The page says what the method did to some records, and how far to trust it on all of them. Everything in
it comes from files that the manifest lists; labels and ids are anybody's bytes and are escaped.
"""

import base64
import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pyarrow
import pyarrow.parquet
import tensorflow as tf
import tensorflow_datasets as tfds

from vaefill.pipeline.errors import ResultError
from vaefill.pipeline.records.record import DIAGNOSTICS, ImputedRecord, MaskedRecord
from vaefill.pipeline.report import figures
from vaefill.pipeline.report.text import DIAGNOSED, number, percent, short, text_of
from vaefill.pipeline.summary import statistics

NUM_SHOWN = 10  # records whose pictures are shown
NUM_DRAWS = 4  # of their imputations
NUM_WORST = 8  # records that are listed as least to be trusted
MAX_LABELS = 50  # rows of a table by label
_MAX_SEARCHED = 2000  # records looked at for one of every label
_MAX_LISTED = 20  # rows of other lists that can get long

_COUNTS = ("read", "imputed", "dead", "dead_by_reason", "unreadable_stretches", "unreadable_bytes")
_FLAGS = ("converged", "misfit")  # these and the next are the columns of records.parquet that are read
_NUMBERS = ("missing_fraction", "r_hat", "ess_bulk", "ess_tail", "fit_p_value", "nll")


class Result(NamedTuple):
    """What is read of an output directory."""

    path: str
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]
    shown: Sequence[ImputedRecord]  # at most NUM_SHOWN
    rows: Mapping[str, Any]  # [N] each: arrays of `_FLAGS` and `_NUMBERS`, an Arrow column `id`


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
        raise ResultError("no result to report on: name at least one output directory of `vaefill impute`")
    # One at a time: of what has been read only the page's own share is kept.
    page = _template().render(
        results=[_view(_read(path)) for path in results],
        missing_colour=figures.MISSING,
        stddev_bar=_inline(figures.stddev_bar()),
        largest_stddev=figures.LARGEST_STDDEV,
        quantiles=[f"{q:g}" for q in statistics.QUANTILES],
    )
    path = os.path.join(output, "index.html")
    tf.io.gfile.makedirs(output)
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(page.encode("utf-8", "replace"))  # JSON and paths can hold lone surrogates
    return path


def _template() -> jinja2.Template:
    options = {"autoescape": True, "undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(loader=jinja2.PackageLoader("vaefill.pipeline.report"), **options)
    environment.filters.update(number=number, percent=percent, short=short)
    return environment.get_template("report.html")


# --- reading


def _read(path: str) -> Result:
    if not tf.io.gfile.isdir(path):
        raise ResultError(f"{path}: no such directory; name the output directory of `vaefill impute`")
    manifest = _read_json(os.path.join(path, "manifest.json"), "identity")
    summary = _read_json(os.path.join(path, "summary", "summary.json"), "records", "all")
    if not get(summary, "records", "imputed"):  # tfds has no data set of no records, so none was written
        return Result(path, manifest, summary, [], {})
    num_labels = len(summary.get("by_label") or {})
    shown = _read_shown(os.path.join(path, "imputed"), num_labels)
    return Result(path, manifest, summary, shown, _read_rows(os.path.join(path, "summary", "records.parquet")))


def _read_bytes(path: str) -> bytes:
    if not tf.io.gfile.exists(path):
        raise ResultError(f"{path} is missing, so this is no finished result; run `vaefill impute` again")
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


def _read_json(path: str, *sections: str) -> Mapping[str, Any]:
    content = _read_bytes(path)
    try:
        values = json.loads(content)
    except ValueError as error:  # not JSON, or not UTF-8
        raise _broken(path, error) from None
    for name in sections:
        if not isinstance(get(values, name), dict):
            raise _broken(path, f"no section {name!r}")
    return values


def _broken(path: str, why: object) -> ResultError:
    return ResultError(f"{path} is broken ({' '.join(str(why).split())[:200]}); run `vaefill impute` again")


def _read_rows(path: str) -> dict[str, np.ndarray]:
    """Columns of records.parquet that the page needs; null becomes NaN."""
    content = pyarrow.BufferReader(_read_bytes(path))
    try:
        table = pyarrow.parquet.read_table(content, columns=["id", *_FLAGS, *_NUMBERS])
        columns = {name: table[name].cast(pyarrow.float64()).to_numpy() for name in _NUMBERS}
        flags = {name: table[name].cast(pyarrow.bool_()).to_numpy() for name in _FLAGS}
    except (pyarrow.ArrowException, KeyError) as error:
        raise _broken(path, error) from None
    return {"id": table["id"], **flags, **columns}


def _read_shown(directory: str, num_labels: int) -> list[ImputedRecord]:
    """The records whose pictures are shown, of the data set in `directory`."""
    try:
        builder = tfds.builder_from_directory(directory)
        (split,) = builder.info.splits
        in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        examples = tfds.as_numpy(builder.as_dataset(split=split, read_config=in_order))
        return choose(map(_record, examples), num_labels)
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        raise _broken(directory, error) from None


def _record(example: Mapping[str, Any]) -> ImputedRecord:
    truth = example["truth"] if example["has_truth"] else None
    label = {"label": example["label"]} if "label" in example else {}
    masked = MaskedRecord(example["id"], example["image"], example["observed"], truth, label)
    diagnostics = {name: example[name].item() for name in DIAGNOSTICS}
    return ImputedRecord(masked, example["imputations"], example["mean"], example["stddev"], diagnostics)


def choose(records: Iterable[ImputedRecord], num_labels: int) -> list[ImputedRecord]:
    """At most `NUM_SHOWN` records: the first of each label, filled up with the first of the others.

    Args:
        records: in the order of the data set; no more are drawn from it than are needed.
        num_labels: how many labels there are to look for.

    Returns:
        Records by label, those without one last.
    """
    first, others = {}, []
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
    manifest, everything = result.manifest, result.summary["all"]
    sampler = get(manifest, "config", "sampler") or get(manifest, "identity", "sampler") or {}
    targets, inputs = (sampler.get("target_r_hat"), sampler.get("target_ess")), manifest.get("inputs") or []
    return {
        "path": result.path,
        "name": os.path.basename(os.path.normpath(result.path)),
        "sampler": sampler.get("name"),
        "misfit_rate": sampler.get("misfit_rate"),
        "records": {name: result.summary["records"].get(name) for name in _COUNTS},
        **_headline(everything),
        "num_chain_sweeps": everything.get("num_chain_sweeps"),
        "num_network_passes": everything.get("num_network_passes"),
        "num_non_finite": everything.get("num_non_finite"),
        "log_likelihood": result.summary.get("log_likelihood"),
        "gallery": _gallery(result.shown) if result.shown else None,
        "trust": _trust(result.rows, *targets) if result.rows else None,
        "diagnostics": [
            (name, spec, values)
            for key, (name, spec) in DIAGNOSED.items()
            if (values := get(everything, "diagnostics", key))
        ],
        "truth": _truth(everything),
        "labels": _labels(result.summary),
        "fractions": _fractions(everything),
        "value_maps": _value_maps(everything),
        "num_values_left_out": get(everything, "imputed_values", "num_left_out"),
        "identity": _identity(manifest),
        "inputs": [{name: get(file, name) for name in ("path", "size", "sha256")} for file in inputs[:_MAX_LISTED]],
        "num_inputs": len(inputs),
    }


def _headline(group: Mapping[str, Any]) -> dict[str, Any]:
    """A few numbers about a group of records."""
    return {
        "num_records": group.get("num_records"),
        "missing": get(group, "missing_fraction", "mean"),
        "converged": group.get("converged_fraction"),
        "misfit": group.get("misfit_fraction"),
        "r_hat": get(group, "diagnostics", "r_hat", "0.5"),
        "ess": get(group, "diagnostics", "ess_bulk", "0.5"),
        "num_sweeps": get(group, "diagnostics", "num_sweeps", "0.5"),
    }


def _gallery(records: Sequence[ImputedRecord]) -> dict[str, Any]:
    with_truth = any(record.masked.truth is not None for record in records)
    height, width, channels = records[0].masked.image.shape
    num_draws = min(NUM_DRAWS, len(records[0].imputations))
    draws = [f"draw {i + 1}" for i in range(num_draws)]
    return {
        "columns": ["truth"] * with_truth + ["given", *draws, "mean", "std. dev."],
        "rows": [_gallery_row(record, with_truth, num_draws) for record in records],
        "aspect": min(max(width / height, 0.25), 4),  # a thread of pixels would not be seen
        "channels": channels,
    }


def _gallery_row(record: ImputedRecord, with_truth: bool, num_draws: int) -> dict[str, Any]:
    masked = record.masked
    truth = [masked.truth if masked.truth is None else figures.picture(masked.truth)] if with_truth else []
    given = figures.picture(masked.image, ~masked.observed)
    grey = [figures.picture(values) for values in (*record.imputations[:num_draws], record.mean)]
    return {
        "id": text_of(masked.id),
        "label": statistics.group_of(record),
        "missing": float(np.mean(~masked.observed)),
        "r_hat": record.diagnostics["r_hat"],
        "ess": min(record.diagnostics["ess_bulk"], record.diagnostics["ess_tail"]),
        "converged": record.diagnostics["converged"],
        "misfit": record.diagnostics["misfit"],
        "images": [png and _inline(png) for png in (*truth, given, *grey, figures.stddev_picture(record.stddev))],
    }


def _trust(rows: Mapping[str, np.ndarray], target_r_hat: float | None, target_ess: float | None) -> dict[str, Any]:
    """The figure of R-hat and ESS, and the records that are least to be trusted."""
    ess = np.minimum(rows["ess_bulk"], rows["ess_tail"])
    drawn = np.isfinite(ess) & (ess > 0)
    points = (rows["r_hat"][drawn], ess[drawn], rows["converged"][drawn])
    incomplete = np.flatnonzero(rows["missing_fraction"] > 0)
    r_hat = np.where(np.isnan(rows["r_hat"]), math.inf, rows["r_hat"])
    trusted = rows["converged"] & ~rows["misfit"]
    order = np.lexsort((ess[incomplete], -r_hat[incomplete], trusted[incomplete]))
    shown = ("missing_fraction", "r_hat", "fit_p_value", "misfit", "nll")
    return {
        "figure": _inline(figures.trust(*points, target_r_hat, target_ess)) if drawn.any() else None,
        "target_r_hat": target_r_hat,
        "target_ess": target_ess,
        "num_complete": len(ess) - len(incomplete),
        "num_undrawn": int((~drawn)[incomplete].sum()),
        "worst": [
            {"id": text_of(rows["id"][i].as_py()), "ess": ess[i], **{name: rows[name][i] for name in shown}}
            for i in incomplete[order[:NUM_WORST]].tolist()
        ],
    }


def _truth(group: Mapping[str, Any]) -> dict[str, Any] | None:
    """Scores of a group, those of binary values with a constant guess's to hold them against; None without truth."""
    scores = group.get("truth")
    if not scores:
        return None
    scores = {"num_unscored": 0, **scores}
    table = scores["reliability"]
    if not table or not scores["num_values"]:
        return scores
    counts, predicted, frequency = (np.array(table[name], np.float64) for name in ("counts", "predicted", "frequency"))
    weights = counts / counts.sum()
    base = float(np.nansum(weights * frequency))
    return {
        **scores,
        "figure": _inline(figures.reliability(table["edges"], counts, predicted, frequency)),
        "constant": {"rate": base, "nll": _entropy(base), "brier": base * (1 - base)},
        "bins": list(zip(table["edges"], table["edges"][1:], table["counts"], table["predicted"], table["frequency"])),
        "gap": float(np.nansum(weights * np.abs(predicted - frequency))),
    }


def _entropy(probability: float) -> float:
    """Of a Bernoulli variable, in nats."""
    return -sum(p * math.log(p) for p in (probability, 1 - probability) if p > 0)


def _labels(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row for each label, or for the `MAX_LABELS` largest; None without labels."""
    by_label = summary.get("by_label") or {}
    num_left_out = summary.get("num_labels_left_out") or 0
    if not by_label and not num_left_out:
        return None
    largest = sorted(by_label, key=lambda label: (-(by_label[label].get("num_records") or 0), _label_order(label)))
    return {
        "num": len(by_label),
        "num_left_out": num_left_out,
        "rows": [
            {
                "label": label,
                **_headline(by_label[label]),
                **{name: get(by_label[label], "truth", name) for name in ("nll", "brier", "f1")},
            }
            for label in sorted(largest[:MAX_LABELS], key=_label_order)
        ],
    }


def _label_order(label: str | None) -> tuple:
    """Numbers by value, then words, then no label."""
    if label is None:
        return (2, 0, "")
    return (0, int(label), "") if label.removeprefix("-").isdecimal() else (1, 0, label)


def _fractions(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The histogram of missing fractions: bounds, count and the length of the bar in per cent."""
    edges, counts = (get(group, "missing_fraction", name) or [] for name in ("edges", "counts"))
    keys, lengths = ("low", "high", "count", "length"), (100 * count / max(*counts, 1) for count in counts)
    return [dict(zip(keys, values)) for values in zip(edges, edges[1:], counts, lengths)]


def _value_maps(group: Mapping[str, Any]) -> str | None:
    maps = [np.array(get(group, "imputed_values", name) or [], np.float64) for name in ("mean", "stddev")]
    return None if any(np.isnan(values).all() for values in maps) else _inline(figures.value_maps(*maps))


def _identity(manifest: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Tables of the manifest's identity: (title, [(name, value)]); what is nested gets dotted names."""
    identity = manifest.get("identity") or {}
    flat = {key: value for key, value in identity.items() if not isinstance(value, dict) and key != "inputs"}
    sections = {"run": flat} | {key: value for key, value in identity.items() if isinstance(value, dict)}
    sections["times"] = manifest.get("times") or {}
    return [(title, list(_flatten(values))) for title, values in sections.items() if values]


def _flatten(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}" if name else str(key))
    else:
        listed = ", ".join(map(str, value[:_MAX_LISTED])) if isinstance(value, list) else str(value)
        yield name, "–" if value is None else listed


def get(mapping: Any, *keys: str) -> Any:
    """mapping[key][key]..., None where anything is absent."""
    for key in keys:
        mapping = mapping.get(key) if isinstance(mapping, Mapping) else None
    return mapping


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
