"""All that holds, writes or shows a diagnostic follows the table of them."""

import pathlib

import numpy as np
import pyarrow as pa
import pytest

from vaefill.model.fields import FIELDS, Field, OverMembers
from vaefill.model.imputer import Imputed
from vaefill.records.features import imputed_features
from vaefill.records.record import DIAGNOSTICS, Schema
from vaefill.summary.summarizer import arrow_schema

ROOT = pathlib.Path(__file__).parents[1]
SCHEMA = Schema((2, 3, 1), {}, 2)
NAMES = [field.name for field in FIELDS]


def test_results_have_every_diagnostic_in_its_order():
    assert list(DIAGNOSTICS) == NAMES == [name for name in Imputed._fields if name in NAMES]
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("field", FIELDS, ids=NAMES)
def test_every_file_says_it_alike(field):
    feature = imputed_features(SCHEMA)[field.name]
    assert feature.np_dtype == field.dtype and feature.doc.desc == field.description
    column = arrow_schema(SCHEMA).field(field.name)
    assert column.type == pa.from_numpy_dtype(np.dtype(field.dtype))


@pytest.mark.parametrize("field", FIELDS, ids=NAMES)
def test_it_can_be_shown(field):
    assert field.meaning[-1] != "." and "\n" not in field.meaning and field.title
    assert format(field.dtype(field.complete).item(), field.format)
    assert not field.is_listed or field.has_quantiles


@pytest.mark.parametrize("field", FIELDS, ids=NAMES)
def test_the_documentation_has_its_row(field):
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    assert lines.count(row_of(field)) == 1, (
        f"exactly once the documentation must have\n{row_of(field)}"
    )


def row_of(field: Field) -> str:
    """The row of the table of a result's features."""
    meaning = field.meaning.replace("|", "\\|")
    return f"| `{field.name}` | {np.dtype(field.dtype).name} | {meaning} |"


def test_the_documentation_says_what_diagnostics_of_an_ensemble_are():
    page = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
    for rule in OverMembers:
        names = ", ".join(f"`{field.name}`" for field in FIELDS if field.over_members is rule)
        assert names and f"\n| {names} | {rule.value} |\n" in page
