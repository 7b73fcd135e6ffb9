"""`vaefill evaluate --model`: what training said of the same records, and latents that count."""

import click.testing
import numpy as np
import pytest

from vaefill import cli
from vaefill.experiments.model_scores import model_scores
from vaefill.model import checkpoints

pytestmark = pytest.mark.slow


def test_it_says_what_training_said(model_directory):
    """Of the same test records, as many importance samples and the same noise: the same number."""
    model = checkpoints.load(model_directory)
    trained = model.description.training
    k = trained["test_log_prob_num_importance_samples"]
    found = model_scores(model, "digits", "test[:50]", (1, k), show_progress=False)
    assert found.num_records == trained["num_test_images"] == 50
    assert found.log_prob[k][0] == pytest.approx(trained["test_log_prob"], abs=1e-4)
    assert found.log_prob[k][1] == pytest.approx(trained["test_log_prob_standard_error"], abs=1e-4)
    assert found.log_prob[1][0] == pytest.approx(trained["test_bound"], abs=3.0)
    assert 1 <= found.num_active <= found.latent_size == 4


def test_latents_that_do_not_count_are_not_active(model_directory):
    """Without weights, no latent depends on the record."""
    model = checkpoints.load(model_directory)
    for weight in model.vae.encoder.weights:
        weight.assign(np.zeros(weight.shape, np.float32))
    assert model_scores(model, "digits", "test[:50]", (1,), show_progress=False).num_active == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a result, or --model and --data"),
        (["out", "--model", "m", "--data", "digits"], "expected a result, or --model and --data"),
        (["--model", "m"], "expected a result, or --model and --data"),
        (["--model", "{model}", "--data", "digits", "--split", "best"], "no split 'best'"),
        (["--model", "nothing", "--data", "digits"], "nothing"),
    ],
)
def test_mistakes(model_directory, arguments, message):
    arguments = [argument.format(model=model_directory) for argument in arguments]
    result = click.testing.CliRunner().invoke(cli.main, ["evaluate", *arguments])
    assert result.exit_code != 0 and message in result.output and "Traceback" not in result.output


def test_the_command(model_directory):
    arguments = ["--model", model_directory, "--data", "digits", "--split", "test[:20]", "--k", "2"]
    result = click.testing.CliRunner().invoke(cli.main, ["evaluate", *arguments])
    assert result.exit_code == 0, result.output
    assert "| log p(x), k = 2 | " in result.output and "latents are active" in result.output
