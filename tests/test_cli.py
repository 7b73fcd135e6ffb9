"""The commands from outside: help, messages of one line, exit codes."""

import pytest
from click.testing import CliRunner

from tests.documents import counts
from vaefill import cli, jobs
from vaefill.results.documents import Outcome, RunWarning, Work

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
    "dead-letters",
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
            "no file matches nothing; expected digits, tfds:NAME, tfds:PATH, or TFRecord files",
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


@pytest.mark.parametrize(
    ("complete", "said"),
    [(0, "20 of 21 records imputed"), (3, "20 records, 3 of them complete already,")],
)
def test_a_run_ends_with_what_it_came_to_and_its_warnings(monkeypatch, complete, said):
    work = Work(reused=0, skipped=0, complete=complete, chain_sweeps=1, network_passes=1)
    warning = RunWarning(code="mask_inverted", text="the mask may be inverted: invert it")
    outcome = Outcome(counts=counts(20, no_id=1), work=work, warnings=(warning,))
    monkeypatch.setattr(jobs, "impute", lambda *arguments: outcome)
    result = run("impute", "--model", "m", "--input", "x", "--output", "o")
    assert result.exit_code == 0
    assert result.output.splitlines()[-3:] == [
        f"{said} in o, 1 dead letters",
        "  no_id: 1",
        "  warning: the mask may be inverted: invert it",
    ]


def test_version():
    assert "version" in run("--version").output
