"""Values as text for people."""

import math
from collections.abc import Sequence

LONGEST_ID = 20  # characters of an id that are shown
DIAGNOSED = {  # name in summary.json -> what it is called, format
    "r_hat": ("R-hat", ",.3f"),
    "ess_bulk": ("ESS, bulk", ",.0f"),
    "ess_tail": ("ESS, tail", ",.0f"),
    "acceptance_rate": ("acceptance rate", ".3f"),
    "num_sweeps": ("sweeps of a chain", ",.0f"),
    "num_network_passes": ("network passes of a record", ",.0f"),
    "num_latents": ("latents that imputations come from", ",.0f"),
    "fit_p_value": ("p-value of fit", ".3f"),
    "log_prob_observed": ("log p(x_obs), nats", ",.1f"),
    "log_prob_observed_error": ("standard error of log p(x_obs), nats", ",.3f"),
    "log_prob_missing": ("log p(x_mis | x_obs) of the truth, nats", ",.1f"),
    "log_prob_missing_error": ("standard error of log p(x_mis | x_obs)", ",.3f"),
    "pareto_k": ("Pareto k of the weights behind them", ".2f"),
}


def number(value: float | None, spec: str = ",.4g") -> str:
    """A number for people, a dash where it is undefined."""
    if value is None or math.isnan(value):
        return "–"
    return ("∞" if value > 0 else "−∞") if math.isinf(value) else format(value, spec).replace("-", "−")


def percent(value: float | None) -> str:
    """A share in per cent; 0 % and 100 % are said of none and all only."""
    if value is None or math.isnan(value) or value in (0, 1):
        return "–" if value not in (0, 1) else f"{100 * value:.0f} %"
    return "<0.1 %" if value < 0.0005 else ">99.9 %" if value >= 0.9995 else f"{100 * value:.1f} %"


def text_of(content: bytes) -> str:
    """Bytes that name something, for people: the text that they are, or else their hexadecimal digits."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    return text if text.isprintable() and text else "0x" + content.hex()


def short(text: str) -> str:
    """Leaves something out before the end, which is where ids differ."""
    head = LONGEST_ID // 3
    return text if len(text) <= LONGEST_ID else f"{text[:head]}…{text[head + 1 - LONGEST_ID :]}"


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [f"| {' | '.join(line)} |" for line in (titles, ["---"] * len(titles), *rows)]
