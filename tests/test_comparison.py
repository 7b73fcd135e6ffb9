"""Comparing samplers: cells are kept and not computed twice, and the tables say what is in them."""

import json

import numpy as np
import pytest
from pytest import approx

from vaefill.errors import ConfigError
from vaefill.experiments import comparison
from vaefill.model import checkpoints, datasets, samplers, vae
from vaefill.model.config import ModelConfig
from vaefill.model.gaps import Split
from vaefill.model.imputer import Imputer
from vaefill.model.standardization import estimate

pytestmark = pytest.mark.slow

MASK = "mcar_50"


@pytest.fixture(scope="module")
def model(model_directory):
    return checkpoints.load(model_directory)


@pytest.fixture(scope="module")
def records(model):
    return comparison.task(model, "digits", "test", 6)


@pytest.fixture(scope="module")
def directory(model, records, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("comparison"))
    comparison.Comparison(model, records, directory, [MASK]).convergence(
        "pseudo_gibbs", max_sweeps=150
    )
    return directory


def test_a_model_of_masks_is_refused(model):
    """What is hidden here would be taken for hidden because of what it is."""
    config = ModelConfig(latent_size=2, hidden=(4,), missingness="self_masking")
    of_masks = model._replace(vae=vae.build(config, (28, 28, 1)))
    with pytest.raises(ConfigError, match="self_masking takes a mask for data"):
        comparison.task(of_masks, "digits", "test", 6)


def test_slots_are_no_more_than_the_records_fill():
    assert comparison.sampler_config("latent_hmc", 6, {}).slots == 32
    assert (
        comparison.sampler_config("latent_hmc", 10_000, {}).slots == samplers.sampler_config().slots
    )
    assert comparison.sampler_config("lair", 6, {}).slots == 192
    assert comparison.sampler_config("annealed_smc", 6, {}).slots == 512


def test_masks_depend_on_the_record_alone(model, records):
    few = comparison.task(model, "digits", "test", 2)
    for mask in comparison.MASKS:
        np.testing.assert_array_equal(few.observed(mask), records.observed(mask)[:2])


def test_a_cell_has_scores_convergence_and_cost(directory, records):
    (cell,) = comparison.load_cells(directory)
    assert cell["num_records"] == len(records.ids) and cell["mask"] == MASK
    assert 0 < cell["nll"] < 1 and 0 < cell["brier"] < 0.25 and 0 <= cell["converged"] <= 1
    assert len(cell["gradients_when_converged"]) == round(cell["converged"] * len(records.ids))
    assert cell["gradients_mean"] <= 4 * 152 and cell["seconds"] > 0


def test_a_cell_that_is_there_is_not_computed_again(directory, model, records):
    before = comparison.load_cells(directory)
    comparison.Comparison(model, records, directory, [MASK]).convergence(
        "pseudo_gibbs", max_sweeps=150
    )
    assert comparison.load_cells(directory) == before  # seconds too


def test_distance_to_itself_is_nothing_and_to_others_what_they_are_off(model, records):
    imputer = Imputer(model.vae, comparison.sampler_config("pseudo_gibbs", 6, {"max_sweeps": 150}))
    observed = records.observed(MASK)
    observed[0] = True  # of which there is nothing to say
    own = imputer(records.images, observed, records.ids).mean
    same = comparison.distance(imputer, records, observed, own)
    assert same["rms"] == 0 and same["loss_ratio"] == 1
    off = comparison.distance(
        imputer, records, observed, own + np.where(observed, 5, np.float32(0.1))
    )
    assert off["rms"] == approx(0.1, rel=1e-4)


def test_corrupted_records_are_misfits(model, tmp_path):
    records = comparison.task(model, "digits", "test", 40)
    comparison.Comparison(model, records, str(tmp_path), [MASK]).fits()
    (cell,) = comparison.load_cells(str(tmp_path))
    assert cell["num_records"] == 40 and cell["misfit_rate"] == 0.01
    assert cell["misfits"] <= 5 / 40 and cell["misfits_inverted"] > 0.9  # six have a chance of 1e-4
    assert {f"misfits_{name}" for name in ("inverted", "rotated", "blurred")} <= set(cell)
    share = cell["misfits_rotated"]
    title = "| missing | records | misfit rate | misfits | misfits when inverted "
    table = comparison.tables([cell | {"misfits_blurred": 0.123}])
    assert (
        f"{title}| misfits when rotated | misfits when blurred |" in table
        and f" {share:.1%} | 12.3% |" in table
    )
    del cell["misfits_rotated"]  # as of images that are not square
    assert "| mcar_50 | 40 | 1.0% |" in comparison.tables(
        [cell]
    ) and "% | - | " in comparison.tables([cell])


def test_records_of_a_real_model_are_read_and_scored_in_their_own_units(monkeypatch):
    """And seen standardised by the test of fit; without a sampler, which is not asked."""
    config = ModelConfig(latent_size=1, hidden=(2,), likelihood="gaussian")
    kelvin = np.random.default_rng(0).normal(290, 5, (40, 6)).astype(np.float32)
    real = vae.build(config, (2, 3, 1), 0, estimate(kelvin))
    description = checkpoints.Description(
        format_version=3, model=config, data_shape=(2, 3, 1), training={}
    )
    model = checkpoints.LoadedModel(real, description, "", Split(kelvin[:20]))
    asked = []
    monkeypatch.setattr(datasets, "load_images", lambda *args: asked.append(args[-1]) or kelvin)
    records = comparison.task(model, "tfds:any", "test", 30)
    assert asked == ["float32"]
    np.testing.assert_array_equal(records.truth, kelvin[:30])
    missing = np.ones(records.truth.shape, bool)
    assert records.preprocessor.score(records.truth + 2, records.truth, missing).brier == approx(
        np.full(30, 24.0), rel=1e-4
    )
    seen = []
    monkeypatch.setattr(
        comparison,
        "FitTest",
        lambda *args: lambda values, observed: seen.append(values) or np.ones(len(values)),
    )
    cell = comparison.fit(model, records, records.observed(MASK))
    assert cell["misfits"] == 0 and cell["misfit_rate"] == 0.0477  # of 20 calibration records
    assert len(seen[0]) == 3 * 30 and np.abs(seen[0]).max() < 5  # kelvin would be 290
    inverted = seen[0][30:60]
    np.testing.assert_allclose(inverted.mean(axis=0), seen[0][:30].mean(axis=0), atol=1e-4)
    assert np.corrcoef(inverted.ravel(), seen[0][:30].ravel())[0, 1] < -0.9


def test_a_mask_that_hides_nothing_is_left_out(model, tmp_path, monkeypatch, caplog):
    """As three quarters of one row are."""
    images = np.zeros((5, 1, 24, 7), np.float32)
    lines = comparison.Task(images, [b"%d" % i for i in range(5)], images.reshape(5, -1), None)
    monkeypatch.setattr(comparison, "fit", lambda *args: {"seconds": 0})
    comparison.Comparison(model, lines, str(tmp_path), list(comparison.MASKS)).fits()
    masks = [cell["mask"] for cell in comparison.load_cells(str(tmp_path))]
    assert (
        masks == ["left_half", "mcar_50", "mcar_80"] and "top_three_quarters hides" in caplog.text
    )


def test_corruptions_are_what_they_are_called():
    images = np.zeros((2, 7, 7, 1), np.uint8)
    images[0, 3, 3], images[1, 0, 2] = 250, 250
    inverted, rotated, blurred = (
        comparison.CORRUPTIONS[name](images) for name in ("inverted", "rotated", "blurred")
    )
    np.testing.assert_array_equal(inverted, 255 - images)
    assert rotated[1, 4, 0] == 250 and rotated[1].sum() == 250
    assert (
        blurred.dtype == np.uint8
        and np.all(blurred[0, 1:6, 1:6] == 10)
        and blurred[0].sum() == 25 * 10
    )
    assert blurred[1, 0, 2] == 30  # its row is there thrice
    wide = np.arange(2 * 3 * 8, dtype=np.uint8).reshape(2, 3, 8, 1)
    assert comparison.CORRUPTIONS["blurred"](wide).shape == wide.shape


def test_tables_and_figure(directory, tmp_path):
    cell = {
        **comparison.load_cells(directory)[0],
        "gradients_when_converged": [1000, 2000],
        "converged": 2 / 6,
    }
    cell["num_unscored"] = 3
    distance = {"row": "distance-lair-0", "mask": MASK, "rms": 0.0123, "rms_standard_error": 0.001}
    distance |= {"loss_ratio": 1.01, "seconds": 3.2, "gradients": 4000.0}
    for name, content in (("a", cell), ("b", distance)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    comparison.write_tables(str(tmp_path))
    text = (tmp_path / "tables.md").read_text()
    assert "| `pseudo_gibbs` |" in text and "33.3%" in text and "; 3 not scored |" in text
    assert "| `lair` | 4,000 | 0.0123 ± 0.0010 in 3 s; loss × 1.010 |" in text
    assert (tmp_path / "converged.png").read_bytes().startswith(b"\x89PNG")
    of_binary = ("nll", "nll_standard_error", "f1", "calibration_error")
    real = {name: value for name, value in cell.items() if name not in of_binary}
    text = comparison.tables([real | {"brier": 7.88e-10}, distance | {"rms": 2.5e37}])
    assert "| sampler | squared error | converged |" in text
    assert "| `pseudo_gibbs` | 7.88e−10; 3 not scored | 33.3% |" in text
    assert "| 2.5e+37 ± 0.0010 in 3 s; loss × 1.010 |" in text
