"""What `vaefill evaluate` prints: how far chains came and scores against the truth, or how probable
a model finds records.
"""

from collections.abc import Iterator, Mapping

from vaefill.model.fields import FIELDS
from vaefill.model.model_scores import ModelScores
from vaefill.report.text import markdown_table, number, percent, score
from vaefill.results.documents import Group, Reliability, Summary

_QUANTILES = ("0.05", "0.5", "0.95")


def of_result(result: str, summary: Summary) -> str:
    """The tables of a result.

    Args:
        result: its directory.
        summary: what its summary.json holds.
    """
    everything = summary.all
    truth = everything.truth
    lines = [*_diagnostics(everything), ""]
    if truth is None:
        nothing = f"{result} has no records with truth and missing values: nothing to score"
        return "\n".join([*lines, nothing])
    by_label = {f"label {label}": group for label, group in summary.by_label.items()}
    lines += _scores({"all": everything} | by_label, is_binary=truth.reliability is not None)
    if truth.num_unscored:
        lines.append(
            f"{truth.num_unscored:,} records were not scored: a mean of theirs is no finite number",
        )
    if summary.num_labels_left_out:
        lines.append(
            f"{summary.num_labels_left_out:,} labels more are left out, and count in all alone",
        )
    if truth.reliability:
        lines += ["", *_reliability(truth.reliability)]
    return "\n".join(lines)


def _diagnostics(group: Group) -> Iterator[str]:
    """What the chains of all records came to."""
    shares = {"converged": group.converged_fraction, "misfits": group.misfit_fraction}
    known = [f"{percent(share)} {name}" for name, share in shares.items() if share is not None]
    yield f"{group.num_records:,} records, {', '.join(known)}"
    yield ""
    yield f"{'':42}" + "".join(f"{percent(float(q)):>12}" for q in _QUANTILES)
    for field in FIELDS:
        if field.has_quantiles:
            values = (number(group.quantile(field.name, q), field.format) for q in _QUANTILES)
            yield f"{field.title:42}" + "".join(f"{value:>12}" for value in values)


def _scores(groups: Mapping[str, Group], is_binary: bool) -> Iterator[str]:
    """Scores of groups against the truth, a line each."""
    error = "Brier" if is_binary else "sq. error"
    yield f"{'':12}{'records':>9}{'values':>12}{'nll':>9}{error:>11}{'F1':>9}"
    for name, group in groups.items():
        truth = group.truth
        if truth:
            columns = ((truth.nll, 9), (truth.brier, 11), (truth.f1, 9))
            scores = "".join(f"{score(value):>{width}}" for value, width in columns)
            yield f"{name:12}{group.num_records:>9,}{truth.num_values:>12,}{scores}"


def _reliability(table: Reliability) -> Iterator[str]:
    """How often what was predicted came true."""
    predicted_as = "of the missing values predicted to be 1 with probability p"
    yield f"reliability: {predicted_as}, the fraction that is 1"
    yield f"{'p':>12}{'values':>12}{'predicted':>12}{'fraction':>12}"
    for low, high, count, predicted, frequency in table.bins():
        if count:
            span = f"{low:.1f}-{high:.1f}"
            shares = f"{number(predicted, '.3f'):>12}{number(frequency, '.3f'):>12}"
            yield f"{span:>12}{count:>12,}{shares}"


def of_model(scores: ModelScores) -> str:
    """The scores of a model."""
    rows = [
        [name_of_log_prob(k), f"{mean:.2f} ± {error:.2f}"]
        for k, (mean, error) in scores.log_prob.items()
    ]
    active = f"{scores.num_active} of {len(scores.latents.mean)} latents are active"
    title = f"{scores.num_records:,} records"
    return "\n".join([*markdown_table([title, "nats a record"], rows), "", active])


def name_of_log_prob(k: int) -> str:
    """What the estimate of k importance samples is called."""
    return "ELBO" if k == 1 else f"log p(x), k = {k:,}"
