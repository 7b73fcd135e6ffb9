"""Figures of a run that another program reads."""

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.documents import counts
from vaefill.errors import BadInputError
from vaefill.metrics import RunMetrics
from vaefill.results.documents import Outcome, RunWarning, Summary, Work
from vaefill.summary import statistics

COUNTS = counts(9, **{"no_id": 1, 'a "b"\n': 2}).model_copy(update={"unreadable_bytes": 7})
WORK = Work(reused=4, skipped=0, chain_sweeps=800, network_passes=6400)
SHAPE = (1, 1, 1)


def outcome() -> Outcome:
    """Of nine records of which three quarters have converged, and none was tested for its fit."""
    everything = statistics.result(statistics.empty(1), SHAPE, True)
    summary = Summary(
        counts=COUNTS,
        log_likelihood=None,
        all=everything.model_copy(update={"converged_fraction": 0.75}),
        by_label={},
        num_labels_left_out=0,
    )
    warning = RunWarning(code="mask_inverted", text="invert it")
    return Outcome(counts=COUNTS, work=WORK, summary=summary, warnings=(warning,))


def read(path) -> dict[tuple, float]:
    families = text_string_to_metric_families(path.read_text())
    return {
        (s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples
    }


def test_what_a_run_came_to(tmp_path):
    metrics = RunMetrics(str(tmp_path / "file"), "impute")
    with metrics.written(lambda error: 4):
        metrics.outcome = outcome()
    found = read(tmp_path / "file")
    expected = {
        ("vaefill_exit_code", "impute"): 0,
        ("vaefill_records", "impute", "read"): 12,
        ("vaefill_records", "impute", "written"): 9,
        ("vaefill_records", "dead", "impute"): 3,
        ("vaefill_records", "impute", "reused"): 4,
        ("vaefill_records", "impute", "skipped"): 0,
        ("vaefill_dead_letters", "impute", "no_id"): 1,
        ("vaefill_dead_letters", 'a "b"\n', "impute"): 2,
        ("vaefill_records", "complete", "impute"): 0,
        ("vaefill_warnings", "impute", "mask_inverted"): 1,
        ("vaefill_chain_sweeps", "impute"): 800,
        ("vaefill_network_passes", "impute"): 6400,
        ("vaefill_converged_fraction", "impute"): 0.75,
        ("vaefill_unreadable_bytes", "impute"): 7,
    }
    assert expected.items() <= found.items()
    assert ("vaefill_misfit_fraction", "impute") not in found
    assert 0 <= found["vaefill_duration_seconds", "impute"] < 60
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("code", [2, 3, 4, None])
def test_a_run_that_fails_says_so_and_replaces_what_was_there(tmp_path, code):
    (tmp_path / "file").write_text("of yesterday")
    with (
        pytest.raises(ValueError),
        RunMetrics(str(tmp_path / "file"), "mask").written(lambda error: code),
    ):
        raise ValueError
    assert read(tmp_path / "file")["vaefill_exit_code", "mask"] == (code or 1)


def test_a_run_that_fails_leaves_what_it_came_to(tmp_path):
    error = BadInputError("bad", Outcome(counts=COUNTS))
    with (
        pytest.raises(BadInputError),
        RunMetrics(str(tmp_path / "file"), "impute").written(lambda error: 3),
    ):
        raise error
    found = read(tmp_path / "file")
    assert (
        found["vaefill_exit_code", "impute"] == 3
        and found["vaefill_dead_letters", "impute", "no_id"] == 1
    )


def test_a_file_that_cannot_be_written_is_not_what_a_run_ends_with(tmp_path, caplog):
    with (
        pytest.raises(KeyError),
        RunMetrics(str(tmp_path / "no" / "file"), "impute").written(lambda error: 4),
    ):
        raise KeyError
    with RunMetrics(str(tmp_path / "no" / "file"), "impute").written(lambda error: 4):
        pass
    assert caplog.text.count("the figures of the run cannot be written") == 2


def test_without_a_file_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with RunMetrics(None, "impute").written(lambda error: 4):
        pass
    assert not list(tmp_path.iterdir())
