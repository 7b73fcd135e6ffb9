"""What the documents name is there: pages, files, commands, settings, names, and the test of every
fault.

A paragraph, list item or table with `<!-- check -->` in it is of what is being built, and is left
out.
"""

import ast
import importlib.util
import inspect
import json
import pathlib
import re
from collections.abc import Iterator

import click
import numpy as np
import pytest

import vaefill
from vaefill import cli
from vaefill import config as config_lib
from vaefill.errors import ConfigError
from vaefill.model.imputer import Imputed
from vaefill.records import record
from vaefill.records.features import imputed_features

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *PAGES, ROOT / "docs/quickstart.ipynb"]
FOLDERS = ("model", "pipeline", "configs", "docs", "tests")
SECTIONS = [name for name in config_lib.Config.model_fields if name != "seed"]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BLOCKS = re.compile(r"\n(?=\n|[-*] |\d+\. )")

in_every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def markdown(path: pathlib.Path) -> str:
    """The text of a page, or of a notebook's cells of text, without what is marked as not sure."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return "\n".join(block for block in _BLOCKS.split(text) if "<!-- check -->" not in block)


def fences(path: pathlib.Path, language: str) -> list[str]:
    """The blocks of code in a language; those in none have the name ""."""
    found = _FENCE.findall(markdown(path))
    return [content.replace("\\\n", " ") for kind, content in found if kind == language]


def spans(path: pathlib.Path) -> list[str]:
    """What stands between backticks."""
    prose = _FENCE.sub("", markdown(path))
    return [" ".join(span.replace("\\|", "|").split()) for span in re.findall(r"`([^`]+)`", prose)]


def shell(path: pathlib.Path) -> list[str]:
    """Whatever may be a command, without comments and without what is Beam's."""
    lines = "\n".join(fences(path, "sh")).splitlines() + spans(path)
    return [re.split(r"\s+#|\s--\s", line)[0] for line in lines]


def anchors(path: pathlib.Path) -> set[str]:
    """Those that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", path.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def sources() -> Iterator[str]:
    """The text of all code but this file."""
    for folder in ("model", "pipeline", "tests", "configs"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".py", ".yaml", ".html") and path != pathlib.Path(__file__):
                yield path.read_text(encoding="utf-8")
    for name in ("Makefile", "setup.py", "pyproject.toml"):
        yield (ROOT / name).read_text(encoding="utf-8")


CODE = "\n".join(sources())
WORDS = set(re.findall(r"\w+", CODE))


@in_every_document
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)]+)\)", markdown(path)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = path.parent / name if name else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@in_every_document
def test_files_that_are_named_are_there(path):
    start = f"(?:{'|'.join(FOLDERS)})"
    named = [span for span in spans(path) if re.fullmatch(rf"{start}/[\w./*-]*", span)]
    for content in fences(path, ""):
        named += re.findall(rf"(?<![\w/]){start}/[\w/]+\.\w+", content)
    missing = [name for name in named if "NAME" not in name and not list(ROOT.glob(name))]
    assert not missing


@in_every_document
def test_names_occur_in_the_code(path):
    """Of whatever stands between backticks and could be a name: one that was changed is seen."""
    names = [span for span in spans(path) if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", span)]
    unknown = {name for name in names if not set(re.findall(r"\w+", name)) <= WORDS}
    assert not unknown - {"OUT", "NAME"}
    for name in names:
        first, _, rest = name.partition(".")
        if first == "vaefill" and rest not in ("", *vaefill.__all__):
            assert importlib.util.find_spec(name), name


@in_every_document
def test_commands_and_their_options_are_there(path):
    for command in shell(path):
        name, *arguments = command.split()[1:] or [""]
        options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        if command.startswith("vaefill "):
            assert options - {"--help"} <= options_of(cli.main.commands[name]), command
        elif command.startswith("make "):
            assert f"\n{name}:" in CODE, command
        elif command.startswith("python -m tests."):
            script = ROOT / f"{arguments[0].replace('.', '/')}.py"
            assert options <= set(re.findall(r"--[\w-]+", script.read_text("utf-8"))), command


def options_of(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


@in_every_document
def test_options_by_themselves_are_of_a_command_or_a_script(path):
    known = {option for command in cli.main.commands.values() for option in options_of(command)}
    known |= set(re.findall(r'"(--[\w-]+)"', CODE)) | {"--help"}
    alone = [span.split()[0].partition("=")[0] for span in spans(path) if span.startswith("--")]
    assert set(alone) - {"--"} <= known


@in_every_document
def test_settings_are_keys_of_the_configuration(path):
    key = re.compile(rf"(?<![\w./])(?:{'|'.join(SECTIONS)})\.[a-z_]+\b(?![./])")
    for name in {name for text in shell(path) for name in key.findall(text)}:
        try:
            config_lib.load(settings=[f"{name}={{}}"])
        except ConfigError as error:
            assert "unknown key" not in str(error), name


@in_every_document
def test_python_compiles_and_uses_public_names(path):
    for content in fences(path, "python"):
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "vaefill":
                assert node.attr in vaefill.__all__
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "result":
                assert node.attr in {*Imputed._fields, *dir(vaefill.Result)}
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in vaefill.__all__:
                inspect.signature(getattr(vaefill, node.func.attr)).bind(
                    *node.args, **{keyword.arg: keyword.value for keyword in node.keywords}
                )


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 150


def test_every_page_says_for_whom_it_is_and_is_found_from_the_readme():
    linked = re.findall(r"\]\((docs/\w+\.\w+)\)", markdown(README))
    for page in PAGES:
        assert re.match(r"# .+\n\nFor ", page.read_text(encoding="utf-8")), page
        assert f"docs/{page.name}" in linked


def test_pages_that_the_code_names_are_there():
    named = set(re.findall(r"\b(?:docs/\w+|README|CONTRIBUTING)\.md\b", CODE))
    assert not [name for name in named if not (ROOT / name).exists()]


def test_every_fault_in_the_table_has_its_test():
    text = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    table = text.split("| what is wrong | what happens | shown by |")[1].split("\n\n")[0]
    named = [re.findall(r"`(test_\w+)`", line.split("|")[3]) for line in table.splitlines()[2:]]
    defined = set(re.findall(r"^def (test_\w+)", CODE, re.MULTILINE))
    assert len(named) > 25 and all(named)
    assert {name for names in named for name in names} <= defined


def test_every_field_of_an_imputed_record_is_described():
    schema = record.Schema((2, 2, 1), {}, num_imputations=1, dtype=np.dtype(np.uint8))
    table = (ROOT / "docs/formats.md").read_text("utf-8").split("| feature | shape and type |")[1]
    described = [row.split("|")[1] for row in table.split("\n\n")[0].splitlines()[2:]]
    assert set(re.findall(r"`(\w+)`", " ".join(described))) >= set(imputed_features(schema))
