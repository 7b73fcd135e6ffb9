"""What people use beside the samplers: cells are kept, and the tables say what is in them."""

import json
import pathlib
import sys

import click.testing
import numpy as np
import pytest
from pytest import approx

from vaefill import cli
from vaefill.errors import ConfigError
from vaefill.experiments import classifier, comparison, fillings, peers
from vaefill.model import checkpoints, datasets

pytestmark = pytest.mark.slow

SETTINGS = peers.Settings(
    data="digits",
    split="test[:40]",
    num_records=6,
    classifier_split="validation[:12]",
    fit_split="train",
    num_fitted=50,
    max_sweeps=150,
)
MASK = "mcar_50"


@pytest.fixture(scope="module")
def model(model_directory):
    return checkpoints.load(model_directory)


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    """All methods, each on 6 digits, and 12 that a classifier of little patience learns from."""
    directory = str(tmp_path_factory.mktemp("peers"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "NUM_EPOCHS", 1)
        patch.setattr(classifier, "NUM_NETWORKS", 2)
        patch.setattr(fillings, "ITERATIVE", {"n_nearest_features": 5, "max_iter": 1})
        peers.Peers(model, SETTINGS, directory).run(tuple(peers.METHODS), [MASK])
    return directory


@pytest.fixture(scope="module")
def cells(directory):
    return {cell["row"].removeprefix("peers-"): cell for cell in comparison.load_cells(directory)}


def test_a_filling_is_clipped_as_suits_it_best(model):
    """Four values of which one was filled in wrongly: c = 1/4 is best of all, .1 of those tried."""
    records = comparison.task(model, "digits", "test", 3)
    ones = np.argwhere(records.truth[0] == 1)[:4, 0]
    observed = np.ones(records.images.shape, bool)
    observed.reshape(3, -1)[:, ones] = False
    values = records.truth.copy()
    values[:, ones[0]] = 1 - values[:, ones[0]]
    filled = peers.Filled(values[:, np.newaxis], values, False, 1.0)
    found = peers.scores(filled, records, observed)
    assert found["clip"] == 0.1 and found["brier"] == 0.25
    assert found["nll"] == approx(-(np.log(0.1) + 3 * np.log(0.9)) / 4)
    as_it_is = peers.scores(filled._replace(is_probability=True), records, observed)
    assert "clip" not in as_it_is and as_it_is["nll"] == approx(-np.log(1e-6) / 4, rel=1e-3)


def test_every_method_has_a_cell_with_scores_seconds_and_accuracy(cells):
    assert set(cells) == {"complete", *peers.METHODS}
    for method in peers.METHODS:
        cell = cells[method]
        assert cell["num_records"] == 6 and cell["num_learned"] == 12 and cell["mask"] == MASK
        assert 0 < cell["nll"] < 1.5 and 0 < cell["brier"] < 0.5 and 0 <= cell["f1"] < 1
        assert cell["seconds"] > 0 and len(cell["num_correct"]) == 40
        assert ("clip" in cell) == (method in fillings.FILLINGS)
        assert cell["accuracy"] == approx(np.mean(cell["num_correct"]) / 2)
    assert cells["zeros"]["f1"] == 0
    assert min(cells[method]["brier"] for method in ("knn", "iterative")) < cells["mean"]["brier"]


def test_a_sampler_scores_as_in_compare(cells, model, tmp_path):
    """Of the same records, masks and settings, whatever company they are in."""
    records = comparison.task(model, "digits", "test[:40]", 6)
    comparison.Comparison(model, records, str(tmp_path), [MASK]).convergence(
        "pseudo_gibbs", max_sweeps=150
    )
    (cell,) = comparison.load_cells(str(tmp_path))
    for name in ("nll", "brier", "f1"):
        assert cells["pseudo_gibbs"][name] == approx(cell[name], rel=1e-5)


def test_cells_that_are_there_are_not_computed_again(directory, cells, model, monkeypatch):
    monkeypatch.setattr(peers, "fill", None)
    peers.Peers(model, SETTINGS, directory).run(["knn"], [MASK])
    after = {cell["row"].removeprefix("peers-"): cell for cell in comparison.load_cells(directory)}
    assert after == cells


def test_results_of_other_settings_are_not_passed_off(directory, model):
    others = peers.Peers(model, SETTINGS._replace(num_fitted=40), directory)
    with pytest.raises(ConfigError, match="another num_fitted: choose another --output"):
        others.run(["knn"], [MASK])


def test_a_model_that_has_seen_the_records_is_told(model, caplog):
    """Of the digits the test model was trained on the first 1,000."""
    peers.load(model, SETTINGS)
    assert not caplog.records
    peers.load(model, SETTINGS._replace(classifier_split="train[999:1001]", fit_split="validation"))
    assert "the model was trained on records of train[999:1001]" in caplog.text


def test_records_without_labels_have_no_accuracy(model, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load_labels", lambda name, split: None)
    peers.Peers(model, SETTINGS, str(tmp_path)).run(["mean"], [MASK])
    (cell,) = comparison.load_cells(str(tmp_path))
    assert "accuracy" not in cell
    table = peers.write_tables(str(tmp_path))
    assert "| method | nll | Brier | F1 | s/record |" in table and "accuracy" not in table


def test_tables(directory, cells):
    text = peers.write_tables(directory)
    assert (pathlib.Path(directory) / "peers.md").read_text(encoding="utf-8") == text
    assert "Missing: mcar_50; 6 records" in text
    assert "| complete records | - | - | - | - | " in text
    for title in peers.METHODS.values():
        assert f"| {title} | " in text
    assert "from the first 50 records" in text and "of validation[:12]" in text
    ours = cells["latent_hmc"] | {"num_correct": [2, 1, 1, 2], "accuracy": 0.75}
    complete = cells["complete"] | {"num_correct": [2, 2, 1, 2]}
    # -50, 0, 0 and 0 points: a standard deviation of 25 over 2
    assert "| 75.00% | −12.50 ± 12.50 |" in peers.tables([ours, complete])
    real = {name: value for name, value in ours.items() if name not in ("nll", "f1", "accuracy")}
    text = peers.tables([real | {"brier": 4e6}])
    assert "| method | RMSE | s/record |" in text and "| `latent_hmc` | 2000.0000 | " in text


def run(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli.main, ["compare-peers", *arguments])


def test_the_command(model_directory, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "NUM_EPOCHS", 1)
    settings = SETTINGS._replace(classifier_split="validation[:2]")._asdict()
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    where = [f"--model={model_directory}", f"--output={tmp_path}"]
    result = run(*where, *options, "--method", "mean", "--mask", "left_half")
    assert result.exit_code == 0, result.output
    assert "Missing: left_half; 6 records" in result.output
    assert "| mean of every value | " in result.output
    assert json.loads((tmp_path / "peers-mean-left_half.json").read_text())["clip"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "magic"], "unknown method 'magic'; known: zeros, mean, knn"),
        (["--mask", "magic"], "unknown mask 'magic'; known: mcar_50"),
        (["--data", "digits", "--split", "best"], "no split 'best'"),
        (["--data", "digits", "--classifier-split", "best"], "no split 'best'"),
        (["--data", "digits", "--fit-split", "train[4999:]"], "have records in common"),
        (["--max-sweeps", "100"], "'--max-sweeps': 100 is not in the range"),
    ],
)
def test_mistakes(model_directory, tmp_path, arguments, message):
    result = run("--model", model_directory, "--output", str(tmp_path), *arguments)
    assert result.exit_code != 0 and message in result.output and "Traceback" not in result.output


def test_without_scikit_learn_it_says_how_to_install_it(model_directory, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = run("--model", model_directory, "--output", str(tmp_path))
    assert result.exit_code == 2 and "pip install 'vaefill[peers]'" in result.output
    assert len(result.output.splitlines()) == 1
