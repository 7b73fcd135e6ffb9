"""The commands from outside: help, messages of one line, exit codes."""

import pytest
from click.testing import CliRunner

from vaefill import cli

COMMANDS = [
    "demo",
    "train",
    "mask",
    "impute",
    "evaluate",
    "compare",
    "report",
    "verify",
    "schema",
    "bench",
]


def run(*arguments: str):
    return CliRunner().invoke(cli.main, list(arguments))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"vaefill {command} " in result.output.split("Options:")[0].split("\n", 1)[1]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["train"], 2, "Missing option '--model'"),
        (["fly"], 2, "No such command"),
        (
            ["train", "--model", "m", "--set", "trian.epochs=1"],
            2,
            "unknown key trian; the nearest known one is train",
        ),
        (["train", "--model", "m", "--config", "none.yaml"], 2, "none.yaml"),
        (
            ["train", "--model", "{tmp}/m", "--data", "nothing"],
            3,
            "expected digits, tfds:NAME or tfds:PATH",
        ),
        (
            ["mask", "--input", "digits/test", "--output", "o", "--mechanism", "mcar"],
            2,
            "needs mask.rate",
        ),
        (["mask", "--input", "digits/tset", "--output", "{tmp}/o"], 3, "has no split 'tset'"),
        (["mask", "--input", "{tmp}/*.none", "--output", "{tmp}/o"], 3, "no file matches"),
        (
            ["impute", "--model", "{tmp}", "--input", "x", "--output", "o"],
            2,
            "is not a model directory",
        ),
        (
            ["impute", "--model", "m", "--input", "a", "b", "c", "--output", "o"],
            2,
            "put the pattern of --input in quotes",
        ),
        (["mask", "--input", "{tmp}", "--output", "{tmp}/o"], 3, "no TFRecord file is in"),
        (["evaluate", "{tmp}"], 2, "is not a finished result"),
        (["report", "{tmp}"], 2, "manifest.json"),
        (["verify", "{tmp}"], 2, "is not a finished result"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(tmp_path, arguments, exit_code, message):
    result = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == exit_code
    assert message in result.output
    if "vaefill: " in result.output:
        assert len(result.output.strip().splitlines()) == 1


def test_version():
    assert "version" in run("--version").output
