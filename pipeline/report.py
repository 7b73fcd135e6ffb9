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

from pipeline import figures, statistics
from pipeline.record import DIAGNOSTICS, ImputedRecord, MaskedRecord

NUM_SHOWN = 10  # records whose pictures are shown
NUM_DRAWS = 4  # of their imputations
NUM_WORST = 8  # records that are listed as least to be trusted
MAX_LABELS = 50  # rows of a table by label
_MAX_SEARCHED = 2000  # records looked at for one of every label
_MAX_LISTED = 20  # rows of other lists that can get long
_LONGEST_ID = 26  # characters

_ARRAYS = ("image", "observed", "truth", "imputations", "mean", "stddev")
_NUMBERS = ("missing_fraction", "r_hat", "ess_bulk", "ess_tail", "nll")  # columns of records.parquet that are read
_DIAGNOSED = {  # name in summary.json -> what it is called here, format
    "r_hat": ("R-hat", ",.3f"),
    "ess_bulk": ("ESS, bulk", ",.0f"),
    "ess_tail": ("ESS, tail", ",.0f"),
    "acceptance_rate": ("acceptance rate", ".3f"),
    "num_sweeps": ("sweeps of a chain", ",.0f"),
    "log_prob_observed": ("log p(x_obs | z), nats", ",.1f"),
}


class ReportError(ValueError):
    """A result that is not there, or not whole."""


class Result(NamedTuple):
    """What is read of an output directory."""

    path: str
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]
    shown: Sequence[ImputedRecord]  # at most NUM_SHOWN
    rows: Mapping[str, np.ndarray]  # [N] each, N the number of records: `_NUMBERS`, `converged`, `id` (objects)


def write_report(results: Sequence[str], output: str) -> str:
    """Writes `index.html`: one page about one or several finished results.

    Args:
        results: output directories.
        output: the directory to write to; made if need be. An earlier page in it is replaced.

    Returns:
        The path of the page.

    Raises:
        ReportError: a result is missing or incomplete.
    """
    if not results:
        raise ReportError("no result to report on: name at least one output directory of `vaefill impute`")
    # One at a time: of what has been read only the page's own share is kept.
    page = _template().render(
        results=[_view(_read(path)) for path in results],
        missing_colour=figures.MISSING,
        undefined_colour=figures.UNDEFINED,
        stddev_bar=_inline(figures.stddev_bar()),
        largest_stddev=figures.LARGEST_STDDEV,
        quantiles=[f"{q:.0%}" for q in statistics.QUANTILES],
    )
    path = os.path.join(output, "index.html")
    tf.io.gfile.makedirs(output)
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(page)
    return path


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=percent)
    return environment.get_template("report.html")


# --- reading


def _read(path: str) -> Result:
    if not tf.io.gfile.isdir(path):
        raise ReportError(f"{path}: no such directory; name the output directory of `vaefill impute`")
    manifest = _read_json(os.path.join(path, "manifest.json"))
    summary = _read_json(os.path.join(path, "summary", "summary.json"))
    for key in ("records", "all"):
        if not isinstance(summary.get(key), dict):
            raise ReportError(f"{path}/summary/summary.json: no section {key!r}; run `vaefill impute` again")
    if not get(summary, "records", "imputed"):  # tfds has no data set of no records, so none was written
        return Result(path, manifest, summary, [], {})
    num_labels = len(summary.get("by_label") or {})
    shown = _read_shown(os.path.join(path, "imputed"), num_labels)
    return Result(path, manifest, summary, shown, _read_rows(os.path.join(path, "summary", "records.parquet")))


def _read_bytes(path: str) -> bytes:
    if not tf.io.gfile.exists(path):
        raise ReportError(f"{path} is missing, so this is no finished result; run `vaefill impute` again")
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


def _read_json(path: str) -> Mapping[str, Any]:
    try:
        content = json.loads(_read_bytes(path))
    except ReportError:
        raise
    except ValueError as error:  # not JSON, or not UTF-8
        raise ReportError(f"{path} is broken ({error}); run `vaefill impute` again") from None
    if not isinstance(content, dict):
        raise ReportError(f"{path} is broken (not a JSON object); run `vaefill impute` again")
    return content


def _read_rows(path: str) -> dict[str, np.ndarray]:
    """Columns of records.parquet that the page needs; null becomes NaN."""
    content = pyarrow.BufferReader(_read_bytes(path))
    try:
        table = pyarrow.parquet.read_table(content, columns=["id", "converged", *_NUMBERS])
        columns = {name: table[name].cast(pyarrow.float64()).to_numpy() for name in _NUMBERS}
        converged = table["converged"].cast(pyarrow.bool_()).to_numpy()
    except (pyarrow.ArrowException, KeyError) as error:
        raise ReportError(f"{path} is broken ({_one_line(error)}); run `vaefill impute` again") from None
    return {"id": table["id"], "converged": converged, **columns}


def _read_shown(directory: str, num_labels: int) -> list[ImputedRecord]:
    """The records whose pictures are shown.

    Args:
        directory: of the imputed data set.
        num_labels: how many labels there are.
    """
    try:
        builder = tfds.builder_from_directory(directory)
        (split,) = builder.info.splits
        names = {"id", "has_truth", *_ARRAYS, *DIAGNOSTICS, *({"label"} & set(builder.info.features))}
        if absent := names - set(builder.info.features):
            raise ValueError(f"no feature {sorted(absent)[0]!r}")
        data = builder.as_dataset(
            split=split,
            decoders=tfds.decode.PartialDecoding(dict.fromkeys(names, True)),
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),  # in the order of the shards
        )
        return choose(map(_record, tfds.as_numpy(data)), num_labels)
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise ReportError(f"{directory} is broken ({_one_line(error)}); run `vaefill impute` again") from None


def _record(example: Mapping[str, Any]) -> ImputedRecord:
    label = {"label": example["label"]} if "label" in example else {}
    masked = MaskedRecord(
        id=example["id"],
        image=example["image"],
        observed=example["observed"],
        truth=example["truth"] if example["has_truth"] else None,
        carried=label,
    )
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
    manifest, summary = result.manifest, result.summary
    sampler = get(manifest, "identity", "sampler") or get(manifest, "config", "sampler") or {}
    targets = {
        name: get(manifest, "config", "sampler", name) or sampler.get(name) for name in ("target_r_hat", "target_ess")
    }
    everything = summary["all"]
    return {
        "path": result.path,
        "name": os.path.basename(os.path.normpath(result.path)),
        "sampler": sampler.get("name"),
        "records": summary["records"],
        "all": everything,
        "gallery": _gallery(result.shown),
        "trust": _trust(result.rows, targets),
        "diagnostics": _diagnostics(everything),
        "truth": _truth(everything),
        "labels": _labels(summary.get("by_label") or {}),
        "fractions": _fractions(everything),
        "value_maps": _value_maps(everything),
        "identity": _identity(manifest),
        "inputs": (manifest.get("inputs") or [])[:_MAX_LISTED],
        "num_inputs": len(manifest.get("inputs") or []),
    }


def _gallery(records: Sequence[ImputedRecord]) -> dict[str, Any] | None:
    if not records:
        return None
    with_truth = any(record.masked.truth is not None for record in records)
    height, width, channels = records[0].masked.image.shape
    num_draws = min(NUM_DRAWS, len(records[0].imputations))
    return {
        "columns": [*(["truth"] if with_truth else []), "given", *(f"draw {i + 1}" for i in range(num_draws)),
                    "mean", "std. dev."],
        "rows": [_gallery_row(record, with_truth, num_draws) for record in records],
        "aspect": min(max(width / height, 0.25), 4),  # a thread of pixels would not be seen
        "channels": channels,
    }


def _gallery_row(record: ImputedRecord, with_truth: bool, num_draws: int) -> dict[str, Any]:
    masked = record.masked
    images = [figures.picture(masked.image, ~masked.observed)]
    if with_truth:
        images.insert(0, None if masked.truth is None else figures.picture(masked.truth))
    images += [figures.picture(draw) for draw in record.imputations[:num_draws]]
    images += [figures.picture(record.mean), figures.stddev_picture(record.stddev)]
    return {
        "id": text_of(masked.id),
        "label": statistics.group_of(record),
        "missing": float(np.mean(~masked.observed)),
        **record.diagnostics,
        "images": [image and _inline(image) for image in images],
    }


def _trust(rows: Mapping[str, np.ndarray], targets: Mapping[str, float | None]) -> dict[str, Any] | None:
    """The figure of R-hat and ESS, and the records that are least to be trusted."""
    if not rows:
        return None
    ess = np.minimum(rows["ess_bulk"], rows["ess_tail"])
    drawn = np.isfinite(ess) & (ess > 0)
    figure = figures.trust(rows["r_hat"][drawn], ess[drawn], rows["converged"][drawn], **targets) if drawn.any() else None
    incomplete = np.flatnonzero(rows["missing_fraction"] > 0)
    r_hat = np.where(np.isnan(rows["r_hat"]), math.inf, rows["r_hat"])[incomplete]
    worst = incomplete[np.lexsort((ess[incomplete], -r_hat, rows["converged"][incomplete]))[:NUM_WORST]]
    return {
        "figure": figure and _inline(figure),
        "num_records": len(ess),
        "num_complete": len(ess) - len(incomplete),
        "num_undrawn": int((~drawn)[incomplete].sum()),
        "thinned": drawn.sum() > figures.NUM_POINTS,
        **targets,
        "worst": [
            {
                "id": text_of(rows["id"][i].as_py()),
                "ess": ess[i],
                **{name: rows[name][i] for name in ("missing_fraction", "r_hat", "converged", "nll")},
            }
            for i in worst.tolist()
        ],
    }


def _diagnostics(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = [(get(group, "diagnostics", name) or {}, *shown) for name, shown in _DIAGNOSED.items()]
    return [
        {
            "name": name,
            "values": [number(values.get(f"{q:g}"), spec) for q in statistics.QUANTILES],
            "undefined": values.get("num_nan"),
        }
        for values, name, spec in found
        if values
    ]


def _truth(group: Mapping[str, Any]) -> dict[str, Any] | None:
    """Scores of a group, with the scores of a constant guess to hold them against; None without truth."""
    scores = group.get("truth")
    if not scores:
        return None
    table = scores.get("reliability")
    if not table or not sum(table["counts"]):
        return {**scores, "figure": None, "constant": None, "gap": None}
    counts, predicted, frequency = (np.array(table[name], np.float64) for name in ("counts", "predicted", "frequency"))
    weights = counts / counts.sum()
    base = float(np.nansum(weights * frequency))
    return {
        **scores,
        "figure": _inline(figures.reliability(table["edges"], counts, predicted, frequency)),
        "constant": {"rate": base, "nll": _entropy(base), "brier": base * (1 - base)},
        "gap": float(np.nansum(weights * np.abs(predicted - frequency))),
    }


def _entropy(probability: float) -> float:
    """Of a Bernoulli variable, in nats."""
    return -sum(p * math.log(p) for p in (probability, 1 - probability) if p > 0)


def _labels(by_label: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    if not by_label:
        return None
    largest = sorted(by_label, key=lambda label: (-(by_label[label].get("num_records") or 0), _label_order(label)))
    return {
        "num": len(by_label),
        "rows": [
            {
                "label": label,
                "r_hat": get(by_label[label], "diagnostics", "r_hat", "0.5"),
                "ess": get(by_label[label], "diagnostics", "ess_bulk", "0.5"),
                "missing": get(by_label[label], "missing_fraction", "mean"),
                **{name: get(by_label[label], name) for name in ("num_records", "converged_fraction")},
                **{name: get(by_label[label], "truth", name) for name in ("nll", "brier", "f1")},
            }
            for label in sorted(largest[:MAX_LABELS], key=_label_order)
        ],
    }


def _label_order(label: str | None) -> tuple:
    """Numbers by value, then words, then no label."""
    if label is None:
        return (2, 0, "")
    return (0, int(label), "") if label.lstrip("-").isdecimal() else (1, 0, label)


def _fractions(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The histogram of missing fractions: bounds, count and the length of the bar in per cent."""
    edges, counts = get(group, "missing_fraction", "edges") or [], get(group, "missing_fraction", "counts") or []
    return [
        {"low": low, "high": high, "count": count, "length": 100 * count / max(*counts, 1)}
        for low, high, count in zip(edges, edges[1:], counts)
    ]


def _value_maps(group: Mapping[str, Any]) -> str | None:
    maps = [np.array(get(group, "imputed_values", name) or [], np.float64) for name in ("mean", "stddev")]
    if any(values.ndim != 3 or np.isnan(values).all() for values in maps):
        return None
    return _inline(figures.value_maps(*maps))


def _identity(manifest: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Tables of the manifest's identity: (title, [(name, value)]); what is nested gets dotted names."""
    identity = manifest.get("identity") or {}
    flat = {key: value for key, value in identity.items() if not isinstance(value, dict)}
    sections = {"run": flat} | {key: value for key, value in identity.items() if isinstance(value, dict)}
    sections["times"] = manifest.get("times") or {}
    return [(title, list(_flatten(values))) for title, values in sections.items() if values]


def _flatten(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, "–" if value is None else str(value)


# --- values as text


def get(mapping: Any, *keys: str) -> Any:
    """mapping[key][key]..., None where anything is absent."""
    for key in keys:
        mapping = mapping.get(key) if isinstance(mapping, Mapping) else None
    return mapping


def number(value: float | None, spec: str = ",.4g") -> str:
    """A number for people, a dash where it is undefined."""
    if value is None or math.isnan(value):
        return "–"
    return ("∞" if value > 0 else "−∞") if math.isinf(value) else format(value, spec)


def percent(value: float | None) -> str:
    """A share in per cent; 0 % and 100 % are said of none and all only."""
    if value is None or math.isnan(value):
        return "–"
    if 0 < value < 0.0005:
        return "<0.1 %"
    return ">99.9 %" if 0.9995 <= value < 1 else f"{value:.1%}".replace("%", " %")


def text_of(content: bytes) -> str:
    """Bytes that name something, for people: the text that they are, or else their hexadecimal digits; shortened."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    text = text if text.isprintable() and text else "0x" + content.hex()
    return text if len(text) <= _LONGEST_ID else f"{text[:_LONGEST_ID // 2]}…{text[-_LONGEST_ID // 2 + 1:]}"


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
