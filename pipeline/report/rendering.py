"""Templates -> HTML pages that need nothing beside themselves."""

import base64
import os
from typing import Any

import jinja2

from vaefill.model import files
from vaefill.report import pictures
from vaefill.report.text import number, percent, score, short


def write_page(template: str, output: str, **values: Any) -> str:
    """Writes `index.html`.

    Args:
        template: its name among `templates/`.
        output: the directory to write to; made if need be. An earlier page in it is replaced.
        **values: what the template shows; text is escaped.

    Returns:
        The path of the page.
    """
    page = _environment().get_template(template).render(values)
    path = os.path.join(output, "index.html")
    files.make_directory(output)
    files.write_whole(path, page.encode("utf-8", "replace"))  # paths can hold lone surrogates
    return path


def inline(png: bytes) -> str:
    """A picture as a URL that holds all of it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vaefill.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=percent, score=score, short=short)
    environment.globals["missing_colour"] = pictures.MISSING
    return environment
