"""Values as text for people."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST_ID = 20  # characters of an id that are shown
MAX_LISTED = 20  # items of a list that are shown


def number(value: float | None, spec: str = ",.4g") -> str:
    """A number for people, a dash where it is undefined."""
    if value is None or math.isnan(value):
        return "–"
    return (
        ("∞" if value > 0 else "−∞") if math.isinf(value) else format(value, spec).replace("-", "−")
    )


def score(value: float | None) -> str:
    """A score for people: four decimals, or, as those of real values may be in units of any size,
    four digits where decimals would be none or dozens.
    """
    plain = value is None or value == 0 or 1e-3 <= abs(value) < 1e6
    return number(value, ".4f" if plain else ".4g")


def percent(value: float | None) -> str:
    """A share in per cent; 0 % and 100 % are said of none and all only."""
    if value is None or math.isnan(value) or value in (0, 1):
        return "–" if value not in (0, 1) else f"{100 * value:.0f} %"
    return "<0.1 %" if value < 0.0005 else ">99.9 %" if value >= 0.9995 else f"{100 * value:.1f} %"


def text_of(content: bytes) -> str:
    """Bytes that name something, for people: the text that they are, or else their hexadecimal
    digits.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    return text if text.isprintable() and text else "0x" + content.hex()


def short(text: str) -> str:
    """Leaves something out before the end, which is where ids differ."""
    head = LONGEST_ID // 3
    return text if len(text) <= LONGEST_ID else f"{text[:head]}…{text[head + 1 - LONGEST_ID :]}"


def flatten(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    """JSON values as (name, text), where nested names are dotted; of a list the first few."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, f"{name}.{key}" if name else str(key))
    else:
        listed = ", ".join(map(str, value[:MAX_LISTED])) if isinstance(value, list) else str(value)
        yield name, "–" if value is None else listed


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [f"| {' | '.join(line)} |" for line in (titles, ["---"] * len(titles), *rows)]
