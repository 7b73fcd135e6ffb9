"""`vaefill evaluate --model`: what training said of the same records, and latents that count."""

import json
import pathlib
import re

import click.testing
import numpy as np
import pytest

from vaefill import cli
from vaefill.model import checkpoints
from vaefill.model.model_scores import held_out, model_scores
from vaefill.results.documents import Scores

pytestmark = pytest.mark.slow


def scores_of(model, ks):
    return model_scores(held_out(model, "digits", "test[:50]"), ks, show_progress=False)


def test_it_says_what_training_said(model_directory):
    """Of the same test records, as many importance samples and the same noise: the same number."""
    model = checkpoints.load(model_directory)
    trained = model.description.training
    k = trained["test_log_prob_num_importance_samples"]
    found = scores_of(model, (1, k))
    assert found.num_records == trained["num_test_images"] == 50
    assert found.log_prob[k][0] == pytest.approx(trained["test_log_prob"], abs=1e-4)
    assert found.log_prob[k][1] == pytest.approx(trained["test_log_prob_standard_error"], abs=1e-4)
    assert found.log_prob[1][0] == pytest.approx(trained["test_bound"], abs=3.0)
    assert 1 <= found.num_active <= len(found.latents.mean) == 4


def test_latents_that_do_not_count_are_not_active(model_directory):
    """Without weights, no latent depends on the record."""
    model = checkpoints.load(model_directory)
    for weight in model.vae.encoder.weights:
        weight.assign(np.zeros(weight.shape, np.float32))
    assert scores_of(model, (1,)).num_active == 0


def invoke(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli.main, ["evaluate", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a result, or --model and --data"),
        (["out", "--model", "m", "--data", "digits"], "expected a result, or --model and --data"),
        (["--model", "m"], "expected a result, or --model and --data"),
        (["--model", "{model}", "--data", "digits", "--split", "best"], "no split 'best'"),
        (["--model", "nothing", "--data", "digits"], "nothing"),
        (["out", "--output", "page"], "`vaefill report` writes the page of a result"),
        (["--model", "{model}", "--data", "digits", "--k", "0"], "0 is not in the range"),
    ],
)
def test_mistakes(model_directory, arguments, message):
    result = invoke(*(argument.format(model=model_directory) for argument in arguments))
    assert result.exit_code != 0 and message in result.output and "Traceback" not in result.output


def test_the_command(model_directory, tmp_path):
    """A line for each k, in the order in which they are given, and a page where one is wanted."""
    arguments = ["--model", model_directory, "--data", "digits", "--split", "test[:20]"]
    result = invoke(*arguments, "--k", "20", "--k", "1", "--k", "20")
    assert result.exit_code == 0, result.output
    named = re.findall(r"^\| (ELBO|log p\(x\), k = \d+) \| ", result.output, re.MULTILINE)
    assert named == ["log p(x), k = 20", "ELBO"]
    assert "of 4 latents are active" in result.output
    assert "page in" not in result.output

    output = tmp_path / "page"
    result = invoke(*arguments, "--k", "3", "--output", str(output))
    assert result.exit_code == 0, result.output
    assert f"page in {output}" in result.output
    assert sorted(path.name for path in output.iterdir()) == ["index.html", "scores.json"]
    written = Scores.model_validate_json(pathlib.Path(output / "scores.json").read_text())
    assert (written.data, written.split, written.num_records) == ("digits", "test[:20]", 20)
    assert written.model == checkpoints.fingerprint(model_directory)
    assert [score.k for score in written.log_prob] == [3] and len(written.latents) == 4
    assert f"{written.log_prob[0].mean:.2f} ± " in result.output
    assert json.loads((output / "scores.json").read_text())["num_active"] == written.num_active
