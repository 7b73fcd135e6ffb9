"""What `vaefill evaluate` prints: how far chains came, and scores against the truth."""

from collections.abc import Iterator
from typing import Any

from vaefill.pipeline.report.text import DIAGNOSED, number, percent

_QUANTILES = ("0.05", "0.5", "0.95")


def of_result(result: str, summary: dict[str, Any]) -> str:
    """The tables of a result, from what its summary.json holds."""
    groups = {"all": summary["all"], **{f"label {label}": group for label, group in summary["by_label"].items()}}
    lines = [*_diagnostics(summary["all"]), ""]
    truth = summary["all"]["truth"]
    if truth is None:
        return "\n".join([*lines, f"{result} has no records with truth and missing values: nothing to score"])
    lines += _scores(groups)
    if truth.get("num_unscored"):
        lines.append(f"{truth['num_unscored']:,} records were not scored: a mean of theirs is no finite number")
    if summary.get("num_labels_left_out"):
        lines.append(f"{summary['num_labels_left_out']:,} labels more are left out, and count in all alone")
    if truth["reliability"]:  # else values are not binary
        lines += ["", *_reliability(truth["reliability"])]
    return "\n".join(lines)


def _diagnostics(group: dict[str, Any]) -> Iterator[str]:
    """What the chains of all records came to."""
    shares = (("converged", group["converged_fraction"]), ("misfits", group["misfit_fraction"]))
    said = ", ".join(f"{percent(share)} {name}" for name, share in shares if share is not None)
    yield f"{group['num_records']:,} records, {said}"
    yield ""
    yield f"{'':42}" + "".join(f"{percent(float(q)):>12}" for q in _QUANTILES)
    for key, (name, spec) in DIAGNOSED.items():
        values = group["diagnostics"].get(key) or {}
        yield f"{name:42}" + "".join(f"{number(values.get(q), spec):>12}" for q in _QUANTILES)


def _scores(groups: dict[str, Any]) -> Iterator[str]:
    """Scores of groups against the truth, a line each."""
    error = "Brier" if groups["all"]["truth"]["reliability"] else "sq. error"
    yield f"{'':12}{'records':>9}{'values':>12}{'nll':>9}{error:>11}{'F1':>9}"
    for name, group in groups.items():
        truth = group["truth"]
        if truth:
            scores = "".join(
                f"{'-' if truth[key] is None else format(truth[key], '.4f'):>{width}}"
                for key, width in (("nll", 9), ("brier", 11), ("f1", 9))
            )
            yield f"{name:12}{group['num_records']:>9,}{truth['num_values']:>12,}{scores}"


def _reliability(table: dict[str, Any]) -> Iterator[str]:
    """How often what was predicted came true."""
    yield "reliability: of the missing values predicted to be 1 with probability p, the fraction that is 1"
    yield f"{'p':>12}{'values':>12}{'predicted':>12}{'fraction':>12}"
    for index, count in enumerate(table["counts"]):
        if count:
            low, high = table["edges"][index : index + 2]
            yield (
                f"{f'{low:.1f}-{high:.1f}':>12}{count:>12,}{table['predicted'][index]:>12.3f}"
                f"{table['frequency'][index]:>12.3f}"
            )
