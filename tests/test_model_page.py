"""The page about a model: pictures of records of any shape and kind, and the numbers."""

import base64
import dataclasses
import io
import re

import numpy as np
import PIL.Image
import pytest

from tests.test_page import Page
from vaefill.model import latents, standardization, vae
from vaefill.model.checkpoints import Description, LoadedModel
from vaefill.model.config import DataConfig, ModelConfig, RecordConfig, Settings, TrainConfig
from vaefill.model.gaps import Split
from vaefill.model.model_scores import HeldOut, ModelScores
from vaefill.report import model_page
from vaefill.report.model_page import write_model_page

pytestmark = pytest.mark.slow


def held_out(shape, likelihood, architecture="mlp", num=30, unit=1.0, gain=20.0) -> HeldOut:
    """An untrained model, whose encoder says the more of records the greater `gain` is, and records
    by chance; real values in units that may differ, value by value.
    """
    rng = np.random.default_rng(0)
    real = likelihood == "gaussian"
    values = rng.integers(0, 256, (num, int(np.prod(shape)))).astype(np.uint8)
    if real:
        values = (rng.normal(5, 2, values.shape) * unit).astype(np.float32)
    config = ModelConfig.model_validate(
        {
            "architecture": architecture,
            "likelihood": likelihood,
            "latent_size": 5,
            "hidden": (8,) if architecture == "mlp" else (4, 6),
        }
    )
    built = vae.build(config, shape, 0, standardization.estimate(values) if real else None)
    built = dataclasses.replace(built, encoder=lambda x, network=built.encoder: gain * network(x))
    rule = "threshold" if likelihood == "bernoulli" else "none"
    record = RecordConfig(shape=shape, dtype=values.dtype.name, binarize=rule)
    description = Description(
        format_version=2, model=config, data_shape=shape, training={"seed": 3, "data": "<b>"}
    )
    model = LoadedModel(built, description, "ab" * 32, None)
    settings = Settings(DataConfig(), record, config, TrainConfig(), seed=3)
    return HeldOut(model, "noise", "test", Split(values), settings)


def page_of(held: HeldOut, directory) -> tuple[Page, ModelScores]:
    """The page of a model with an ELBO that nobody computed."""
    found = latents.aggregated_posterior(held.model.vae, [held.inputs(slice(None))])
    scores = ModelScores(len(held.records), {1: (-1234.5, 0.25), 20: (-88.125, 0.5)}, found)
    return Page(write_model_page(held, scores, "runs/<i>model", str(directory))), scores


def pixels(url: str) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))


CASES = {
    "grey": ((6, 5, 1), "bernoulli", "mlp", "probabilities of a 1"),
    "colours": ((7, 9, 3), "discretized_logistic_mixture", "conv_resnet", "black is 0"),
    "channels": ((5, 4, 5), "discretized_logistic_mixture", "mlp", "The 5 channels side by side"),
    "real": ((4, 6, 1), "gaussian", "mlp", "from the 1st to the 99th percentile"),
    "real_colours": ((7, 5, 3), "gaussian", "conv_resnet", "from the 1st to the 99th percentile"),
    "one_pixel": ((2, 1, 1), "gaussian", "mlp", "In units of the data"),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("case", CASES)
def test_images_of_any_kind(tmp_path, case):
    shape, likelihood, architecture, said = CASES[case]
    page, scores = page_of(held_out(shape, likelihood, architecture), tmp_path)
    assert said in page.text
    columns = 5 if case == "channels" else 11
    for name, number in (("records", 1), ("reconstructions", 1), ("samples", 2)):
        assert len(page.pictures[f"{name}, 1"]) == number
        assert f"{name}, {columns}" in page.pictures
        assert f"{name}, {columns + 1}" not in page.pictures
    panels = 5 * shape[1] + 4 if case == "channels" else shape[1]
    assert pixels(page.pictures["samples, 1"][0]).shape == (shape[0], panels, 3)
    assert scores.num_active > 0
    for latent in np.flatnonzero(scores.latents.active):
        assert f"latent {latent}, {columns}" in page.pictures
    assert "ELBO −1,234.50 0.25 log p(x), k = 20 −88.12 0.50" in page.text


def test_a_record_beside_its_reconstruction(tmp_path):
    """Binary records are shown as the model sees them, and evenly over the split."""
    held = held_out((6, 5, 1), "bernoulli", num=101)
    page, _ = page_of(held, tmp_path)
    for i in range(11):
        shown = pixels(page.pictures[f"records, {i + 1}"][0])[..., 0]
        np.testing.assert_array_equal(
            shown, (held.records.values[10 * i] > 127).reshape(6, 5) * 255
        )
    decoded = latents.reconstructions(held.model.vae, held.inputs(slice(1)))
    shown = pixels(page.pictures["reconstructions, 1"][0])[..., 0]
    np.testing.assert_allclose(shown.ravel(), 255 * decoded[0], atol=0.51)


def test_a_traversal_goes_over_the_range_of_the_aggregated_posterior(tmp_path):
    held = held_out((6, 5, 1), "bernoulli")
    page, scores = page_of(held, tmp_path)
    found = scores.latents
    first = found.by_activity[0]
    ends = found.mean[first] + np.array([-2.5, 2.5]) * found.stddev[first]
    assert f"latent {first} {ends[0]:.3g} to {ends[1]:.3g}".replace("-", "−") in page.text
    decoded = latents.traversal(held.model.vae, held.inputs(slice(1)), first, ends)
    for column, values in ((1, decoded[0]), (11, decoded[1])):
        shown = pixels(page.pictures[f"latent {first}, {column}"][0])[..., 0]
        np.testing.assert_allclose(shown.ravel(), 255 * values, atol=0.51)


def test_the_most_active_latents_come_first_and_not_all(tmp_path, monkeypatch):
    monkeypatch.setattr(model_page, "NUM_TRAVERSED", 2)
    page, scores = page_of(held_out((6, 5, 1), "bernoulli"), tmp_path)
    order = [int(latent) for latent in re.findall(r'alt="latent (\d+), 1"', page.source)]
    assert order == scores.latents.by_activity[:2].tolist() and scores.num_active > 2


def test_a_model_that_uses_no_latent(tmp_path):
    page, scores = page_of(held_out((6, 5, 1), "bernoulli", gain=0.0), tmp_path)
    assert scores.num_active == 0 and "No latent is active" in page.text
    assert "Traversals" not in page.text and "0 of 5 latents are active" in page.text


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("shape", [(1, 13, 1), (1, 40, 3), (1, 1, 13), (1, 1, 1)])
def test_vectors_are_lines(tmp_path, shape):
    page, scores = page_of(held_out(shape, "gaussian"), tmp_path)
    assert "record 4, lines" in page.pictures and "samples, lines" in page.pictures
    assert f"latent {scores.latents.by_activity[0]}, lines" in page.pictures
    assert "as their units differ" not in page.text


def test_columns_in_units_of_their_own_are_shown_standardised(tmp_path):
    """In whatever units the columns are, the pictures are the same but for rounding."""
    drawn = []
    for factors in ([1, 1e3, 1, 1, 1e-4, 1], [1e6, 1, 1, 30, 1, 0.01]):
        held = held_out((1, 6, 1), "gaussian", unit=np.array(factors))
        page, _ = page_of(held, tmp_path)
        assert "as their units differ" in page.text
        drawn.append(pixels(page.pictures["record 1, lines"][0]))
    assert (drawn[0] != drawn[1]).mean() < 0.01


def test_fewer_records_than_columns(tmp_path):
    page, _ = page_of(held_out((6, 5, 1), "bernoulli", num=1), tmp_path)
    assert "records, 1" in page.pictures and "records, 2" not in page.pictures


def test_the_page_stands_alone_and_escapes_what_it_shows(tmp_path):
    page, _ = page_of(held_out((6, 5, 1), "bernoulli"), tmp_path)
    assert {"script", "iframe", "object", "embed", "i"}.isdisjoint(page.tags)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|\#)|url\(|@import""", page.source)
    assert "runs/<i>model on noise, test" in page.text and "data <b>" in page.text


def test_the_same_bytes_again(tmp_path):
    held = held_out((6, 5, 1), "bernoulli")
    first, second = (page_of(held, tmp_path / name)[0].source for name in ("one", "two"))
    assert first == second


def test_scores_that_are_no_number_are_null():
    held = held_out((2, 2, 1), "bernoulli")
    aggregated = latents.AggregatedPosterior(np.array([np.nan, 1.0]), np.zeros(2), np.ones(2))
    scores = ModelScores(30, {1: (-np.inf, np.nan)}, aggregated)
    found = model_page.document(held, scores).plain()
    assert found["log_prob"] == [{"k": 1, "mean": None, "standard_error": None}]
    assert [latent["activity"] for latent in found["latents"]] == [None, 1.0]
    assert found["num_active"] == 1
