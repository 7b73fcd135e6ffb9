"""The benchmark's own plumbing, at sizes that take seconds; no figure of it is a test."""

import json

import pytest
from click.testing import CliRunner

from vaefill import cli
from vaefill.errors import JobError
from vaefill.experiments import benchmark

pytestmark = pytest.mark.slow


def first(model):
    return [{"name": "x", "per_second": 12345.6}]


def second(model):
    return [{"name": "y", "ratio": 0.51234}]


def test_sections_are_kept_and_tabulated(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("VAEFILL_LOGS", "lines")
    sections = {"first": first, "second": second}
    monkeypatch.setattr(benchmark, "SECTIONS", sections)
    benchmark.run(str(tmp_path), ["first"], None, str)
    text = benchmark.run(str(tmp_path), ["second"], None, str)
    assert "| x | 12,346 |" in text and "| y | 0.512 |" in text
    told = capfd.readouterr().err.splitlines()
    # After the time
    assert [line[9:] for line in told] == ["name x, per second 12,346", "name y, ratio 0.512"]
    assert (tmp_path / "bench.md").read_text() == text + "\n"
    found = json.loads((tmp_path / "bench.json").read_text())
    assert set(found) == set(sections) and "cores" in found["first"]["machine"]


def test_the_command_as_a_process(monkeypatch):
    """That `impute` takes what it is given, that its time and memory are measured, and that failure
    is one.
    """
    short = {"name": "pseudo_gibbs", "num_start": 0, "num_warmup": 0, "max_sweeps": 10}
    monkeypatch.setattr(benchmark, "_SHORT", short)
    monkeypatch.setattr(benchmark, "_JOB", short)
    outputs, popen = [], benchmark.subprocess.Popen
    monkeypatch.setattr(
        benchmark.subprocess,
        "Popen",
        lambda argv, **kw: outputs.append(argv[-1]) or popen(argv, **kw),
    )
    (row,) = benchmark.job(None, num_records=5, num_rounds=2, num_starts=1)
    assert (
        row["records"] == 5
        and row["job_seconds"] > 1
        and row["sampler_seconds"] > 0
        and 0.1 < row["peak_gib"] < 16
    )
    # Or the second round would find the result of the first, and stop
    assert len(set(outputs)) == 3
    monkeypatch.setattr(benchmark, "_SHORT", short | {"max_sweeps": 0})
    with pytest.raises(JobError, match="ended with 2.*max_sweeps"):
        list(benchmark.scaling(None, sizes=(1,), num_starts=1))


def test_runs_until_records_converge(model_directory, monkeypatch):
    monkeypatch.setattr(benchmark, "_DATA", "digits")
    adaptive, fixed = benchmark.adaptive(model_directory, num_records=16)
    assert 0 < adaptive["gradients_of_a_record"] < fixed["gradients_of_a_record"]
    assert min(adaptive["converged"], fixed["converged"]) > 0.5
    assert adaptive["occupancy"] < fixed["occupancy"] == 1


def test_an_unknown_section_is_an_error(tmp_path):
    found = CliRunner().invoke(cli.main, ["bench", "--only", "sweep", "--output", str(tmp_path)])
    assert (
        found.exit_code == 2 and "unknown section 'sweep'; known: sweeps, training" in found.output
    )


def test_without_a_model_nothing_converges(tmp_path):
    found = CliRunner().invoke(
        cli.main, ["bench", "--only", "converged", "--output", str(tmp_path)]
    )
    assert found.exit_code == 2 and "needs a model trained on MNIST" in found.output
