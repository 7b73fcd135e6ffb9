"""Training: the same seed gives the same weights, stopped or not; it learns; it stops in time."""

import dataclasses
import glob
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.oracles.scale import raw_scale
from vaefill.model import checkpoints, datasets, heldout, training, vae
from vaefill.model import trainer as trainer_lib
from vaefill.model.config import DataConfig, ModelConfig, RecordConfig, Settings, TrainConfig
from vaefill.model.errors import DatasetError, TrainingError
from vaefill.model.gaps import Split
from vaefill.model.goals import Evidence
from vaefill.model.likelihoods import LIKELIHOODS

pytestmark = pytest.mark.slow

RECORD = RecordConfig()
DATA = DataConfig(train="train[:512]", validation="validation[:100]", test="test[:20]")
MODEL = ModelConfig(latent_size=2, hidden=(16,))
TRAIN = TrainConfig(epochs=4.0, batch_size=64, warmup_steps=4, num_test_importance_samples=5)


def settings(**changes) -> Settings:
    return Settings(DATA, RECORD, MODEL, TRAIN.model_copy(update=changes), seed=3)


def trainer_of(settings: Settings, images: np.ndarray, directory: str) -> trainer_lib.Trainer:
    goal = Evidence(training.untrained(settings, Split(images)), num_importance_samples=1)
    return trainer_lib.Trainer(goal, settings, Split(images), directory)


def train(directory, **changes):
    return training.train_and_evaluate(settings(**changes), str(directory), show_progress=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished")
    return directory, train(directory)


class Killed(Exception):
    """Stands for a SIGKILL."""


@pytest.mark.parametrize("validations", [1, 3])
def test_killed_and_started_again_it_ends_with_the_same_model(
    finished, tmp_path, monkeypatch, validations
):
    original = trainer_lib.Trainer._validate
    calls = []

    def kill(self, *args):
        if len(calls) == validations:
            raise Killed
        calls.append(original(self, *args))

    monkeypatch.setattr(trainer_lib.Trainer, "_validate", kill)
    with pytest.raises(Killed):
        train(tmp_path)
    assert not checkpoints.is_complete(str(tmp_path))
    monkeypatch.undo()
    train(tmp_path)
    assert checkpoints.fingerprint(str(tmp_path)) == checkpoints.fingerprint(str(finished[0]))


def test_it_learns_and_says_so(finished):
    directory, summary = finished
    description = checkpoints.describe(str(directory))
    assert description.training == summary
    assert summary["num_steps"] == 32 and summary["num_images"] == 512
    assert summary["test_bound"] > -784 * np.log(2) + 20  # far better than a coin for each pixel
    assert summary["test_bound"] - 1 < summary["test_log_prob"] < 0
    assert glob.glob(os.path.join(directory, "training", "events.out.tfevents.*"))


def test_some_validation_images_are_kept(finished, tmp_path):
    """Half of what there is, or as many as asked for, each once; by the seed, not the first
    ones.
    """
    train(tmp_path, epochs=0.1, num_calibration=7)
    for directory, num in ((finished[0], 50), (tmp_path, 7)):
        places = places_of(checkpoints.load(str(directory)).calibration.values)
        assert len(set(places)) == num and places != list(range(num))
        assert checkpoints.describe(str(directory)).training["num_calibration"] == num


def places_of(images: np.ndarray) -> list[int]:
    """Where among the validation images each of these is."""
    known = [
        image.tobytes() for image in datasets.load_images("digits", DATA.validation, RECORD.shape)
    ]
    return [known.index(image.tobytes()) for image in images]


def test_what_stops_training_early_tells_no_misfits(tmp_path, monkeypatch):
    """A model is chosen by validation images that are not those kept in it, and by all the
    others.
    """
    seen, original = [], trainer_lib.Trainer.run

    def run(self, validation, *args):
        seen.append(validation.values)
        return original(self, validation, *args)

    monkeypatch.setattr(trainer_lib.Trainer, "run", run)
    train(tmp_path, epochs=0.1, num_calibration=7)
    kept = places_of(checkpoints.load(str(tmp_path)).calibration.values)
    assert sorted(kept + places_of(seen[0])) == list(range(100))


@pytest.mark.parametrize(
    "binarize, least, most", [("threshold", -1.0, 0.0), ("sample", -5.0, -3.9)]
)
def test_values_are_binarised_in_training_as_they_are_to_be_imputed(
    tmp_path, binarize, least, most
):
    """Of six values of 100 / 255 none is 1 under a threshold; drawn, they have 4.02 nats, which no
    model undercuts.
    """
    images = np.full((640, 6), 100, np.uint8)
    record = RecordConfig(binarize=binarize, shape=(2, 3, 1))
    train = TRAIN.model_copy(update={"epochs": 60.0, "learning_rate": 1e-2})
    settings = Settings(DATA, record, MODEL, train, seed=3)
    trainer = trainer_of(settings, images[:512], str(tmp_path))
    trainer.run(Split(images[512:]), show_progress=False)
    assert least < heldout.mean_bound(trainer.vae, Split(images[512:]), settings, k=1) < most


@pytest.mark.parametrize(
    ("num_train", "num_test", "num_validation", "batch_size"),
    [
        (1, 1, 1, 1),
        (2, 1001, 1001, 2),
        (130, 2, 2, 64),
        (99, 99, 3, 7),
        (100, 100, 100, 64),
        (101, 101, 30, 50),
        (130, 150, 101, 129),
        (1001, 250, 150, 334),
    ],
)
def test_splits_of_any_size_will_do(tmp_path, num_train, num_test, num_validation, batch_size):
    """Batches that are not whole; fewer validation images than are asked for to tell misfits."""
    parts = {"train": num_train, "validation": num_validation, "test": num_test}
    splits = {name: f"train[:{num}]" for name, num in parts.items()}
    data = DataConfig(**splits)
    changed = settings(epochs=1.0, batch_size=batch_size)
    changed = dataclasses.replace(changed, data=data)
    summary = training.train_and_evaluate(changed, str(tmp_path), show_progress=False)
    assert summary["num_test_images"] == num_test
    assert summary["num_calibration"] == min(num_validation // 2, TRAIN.num_calibration)
    assert summary["test_bound"] - 5 < summary["test_log_prob"] < 0
    assert (summary["test_log_prob_standard_error"] > 0) == (num_test > 1)


@pytest.mark.parametrize("k", [1, 7])
@pytest.mark.parametrize("num", [1, 99, 100, 101, 250, 1000, 1001])
def test_every_image_counts_once_in_the_mean_log_prob(num, k):
    """Of a model without latents to speak of, where every importance sample is exact."""
    images = np.random.default_rng(0).integers(0, 256, (num, 6), dtype=np.uint8)
    logits = np.linspace(-2.0, 2.0, 6).astype(np.float32)
    exact = vae.VAE(
        lambda x: tf.repeat([[0.0, float(raw_scale(1.0))]], tf.shape(x)[0], axis=0),
        lambda z: 0.0 * z + logits,
        LIKELIHOODS["bernoulli"](),
        (2, 3, 1),
        latent_size=1,
    )
    signed = np.where(images > 127, logits, -logits).astype(np.float64)
    log_probs = -np.log1p(np.exp(-signed)).sum(axis=1)
    mean, error = heldout.mean_log_prob(exact, Split(images), settings(), k)
    np.testing.assert_allclose(mean, log_probs.mean(), rtol=1e-5)
    np.testing.assert_allclose(error, log_probs.std() / np.sqrt(num), rtol=1e-3, atol=1e-5)


def test_what_is_said_at_one_k_does_not_depend_on_the_others():
    """At the end of a chunk of draws, within one and beyond; of a model that has learnt nothing,
    where importance samples differ.
    """
    images = np.random.default_rng(0).integers(0, 256, (130, 6), dtype=np.uint8)
    model = vae.build(MODEL, (2, 3, 1))
    together = heldout.mean_log_probs(model, Split(images), settings(), (100, 7, 250, 7))
    assert list(together) == [100, 7, 250]
    for k, found in together.items():
        alone = heldout.mean_log_prob(model, Split(images), settings(), k)
        np.testing.assert_allclose(found, alone, rtol=1e-5)
    assert len({mean for mean, _ in together.values()}) == 3


def test_no_image_is_kept_unless_asked_for(tmp_path):
    assert train(tmp_path, epochs=0.1, num_calibration=0)["num_calibration"] == 0
    assert checkpoints.load(str(tmp_path)).calibration is None


def test_finished_training_is_not_repeated(finished, monkeypatch):
    monkeypatch.setattr(training, "Trainer", None)
    assert train(finished[0]) == finished[1]


def test_other_settings_do_not_go_on_from_these(finished):
    with pytest.raises(TrainingError, match=r"other settings \(train\)"):
        train(finished[0], learning_rate=2e-3)


def test_a_start_that_failed_does_not_stand_in_the_way(tmp_path):
    with pytest.raises(TrainingError, match="batch_size"):
        train(tmp_path, batch_size=1000)
    assert train(tmp_path, epochs=0.5)["num_steps"] == 4


def test_a_model_of_unknown_settings_is_not_passed_off_as_ones_own(finished, tmp_path):
    for name in ("vae.json", "weights.safetensors"):
        shutil.copy(finished[0] / name, tmp_path / name)
    with pytest.raises(TrainingError, match="settings.json is missing"):
        train(tmp_path)


def test_another_seed_gives_other_weights(finished, tmp_path):
    training.train_and_evaluate(
        Settings(DATA, RECORD, MODEL, TRAIN, seed=4), str(tmp_path), show_progress=False
    )
    assert checkpoints.fingerprint(str(tmp_path)) != checkpoints.fingerprint(str(finished[0]))


def test_it_stops_when_validation_no_longer_improves(tmp_path):
    """A step so large that nothing improves after the first validations."""
    summary = train(tmp_path, learning_rate=1.0, patience=2, epochs=50.0, warmup_steps=0)
    assert summary["num_steps"] < 50 * 8


def test_importance_weighted_training(tmp_path):
    summary = train(tmp_path, num_importance_samples=3, epochs=1.0)
    assert summary["num_importance_samples"] == 3 and np.isfinite(summary["test_bound"])


def test_diverged_training_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_lib.Trainer, "_train_steps", lambda *args: float("nan"))
    with pytest.raises(TrainingError, match="lower train.learning_rate"):
        train(tmp_path)


def test_a_batch_larger_than_the_data_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="batch_size is 1000, the training split has 512"):
        train(tmp_path, batch_size=1000)


def test_settings_that_the_weights_depend_on_are_kept_beside_them(finished):
    with open(os.path.join(finished[0], "training", "settings.json"), encoding="utf-8") as file:
        assert json.load(file)["seed"] == 3


def test_settings_that_an_earlier_version_did_not_know_count_as_their_defaults(tmp_path):
    train(tmp_path, epochs=0.5)
    path = tmp_path / "training" / "settings.json"
    known = json.loads(path.read_text())
    assert known["model"].pop("prior") == "standard_normal" and not known["data"].pop("exclude")
    path.write_text(json.dumps(known))
    train(tmp_path, epochs=0.5)
    model = MODEL.model_copy(update={"prior": "flow"})
    other = Settings(DATA, RECORD, model, settings(epochs=0.5).train, seed=3)
    with pytest.raises(TrainingError, match=r"other settings \(model\)"):
        training.train_and_evaluate(other, str(tmp_path), show_progress=False)


def test_a_learnt_prior_is_saved_with_the_model_and_gets_better(tmp_path):
    model = MODEL.model_copy(update={"prior": "flow", "latent_size": 3})
    flow = Settings(DATA, RECORD, model, TRAIN, seed=3)
    training.train_and_evaluate(flow, str(tmp_path), show_progress=False)
    loaded = checkpoints.load(str(tmp_path)).vae
    images = datasets.load_images("digits", DATA.validation, RECORD.shape)
    untrained = vae.build(model, RECORD.shape, seed=3).prior
    without = dataclasses.replace(loaded, prior=untrained)
    learnt, plain = (heldout.mean_bound(each, Split(images), flow, 1) for each in (loaded, without))
    assert learnt > plain


def test_what_is_excluded_is_in_neither_training_nor_validation(tmp_path):
    """Of the bundled digits less themselves nothing is left."""
    data = DATA.model_copy(update={"exclude": "digits"})
    of_digits = dataclasses.replace(settings(), data=data)
    with pytest.raises(TrainingError, match="the training split has 0 images"):
        training.train_and_evaluate(of_digits, str(tmp_path), show_progress=False)


def test_a_grey_vae_learns(tmp_path):
    """An untrained model is no worse than the same probability for every level; a moment halves its
    loss.
    """
    record = RecordConfig(binarize="none")
    model = MODEL.model_copy(update={"likelihood": "discretized_logistic_mixture"})
    settings = Settings(
        DATA, record, model, TRAIN.model_copy(update={"learning_rate": 5e-3}), seed=3
    )
    validation = datasets.load_images("digits", DATA.validation, record.shape)
    untrained = vae.build(model, record.shape, seed=3)
    start = heldout.mean_bound(untrained, Split(validation), settings, k=1)
    assert -784 * np.log(256) < start < 0
    summary = training.train_and_evaluate(settings, str(tmp_path), show_progress=False)
    assert summary["validation_bound"] > start / 2
    assert np.isfinite([summary["test_bound"], summary["test_log_prob"]]).all()


def test_a_gaussian_vae_learns(tmp_path):
    """Real values on a line through [-1, 1]^6, which one latent describes."""
    start, end, _ = trained_on_a_line(tmp_path, 1.0, 0.05, epochs=30.0)
    assert np.isfinite(start) and end > start + 5


def trained_on_a_line(directory, unit: float, offset: float, epochs: float):
    """The bound before and after training on points of a line through [-1, 1]^6, and an estimate of
    log p, in nats on new ones.
    """
    images = np.random.default_rng(0).uniform(-1, 1, (640, 1)) * np.ones(6)
    images = (images * unit + offset).astype(np.float32)
    record = RecordConfig(dtype="float32", binarize="none", shape=(2, 3, 1))
    model = ModelConfig(latent_size=1, hidden=(16,), likelihood="gaussian")
    train = TRAIN.model_copy(update={"epochs": epochs, "learning_rate": 1e-2})
    settings = Settings(DATA, record, model, train, seed=3)
    trainer = trainer_of(settings, images[:512], str(directory))
    start = heldout.mean_bound(trainer.vae, Split(images[512:]), settings, k=1)
    trainer.run(Split(images[512:]), show_progress=False)
    end = heldout.mean_bound(trainer.vae, Split(images[512:]), settings, k=1)
    assert trainer.validation_bound >= end - 1e-6
    log_prob, _ = heldout.mean_log_prob(trainer.vae, Split(images[512:]), settings, k=5)
    return start, end, log_prob


@pytest.fixture(scope="module")
def scaled(tmp_path_factory):
    return trained_on_a_line(tmp_path_factory.mktemp("scaled"), 1.0, 0.0, epochs=2.0)


@pytest.mark.parametrize(("unit", "offset"), [(1e6, 5e6), (1e-9, 3e-7)])
def test_data_in_any_unit_trains_as_well_as_scaled(scaled, tmp_path, unit, offset):
    """Counts, amperes far from 0: log p is that of the change of units, within 1 %."""
    found = trained_on_a_line(tmp_path, unit, offset, epochs=2.0)
    np.testing.assert_allclose(np.array(found) + 6 * np.log(unit), scaled, rtol=1e-2)


def test_a_training_that_did_not_standardise_is_not_gone_on_with(tmp_path):
    record = RecordConfig(dtype="float32", binarize="none")
    model = MODEL.model_copy(update={"likelihood": "gaussian"})
    real = Settings(DATA, record, model, TRAIN, seed=3)
    with pytest.raises(DatasetError):
        training.train_and_evaluate(real, str(tmp_path))  # digits are no real values
    path = tmp_path / "training" / "settings.json"
    settings = json.loads(path.read_text())
    assert settings.pop("standardized") is True
    path.write_text(json.dumps(settings))
    for name in ("vae.json", "weights.safetensors"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(TrainingError, match=r"other settings \(standardized\)"):
        training.train_and_evaluate(real, str(tmp_path))


@pytest.mark.parametrize(
    ("highest", "binarize", "is_told"),
    [(256, "threshold", True), (256, "sample", False), (2, "threshold", False)],
)
def test_grey_images_under_a_threshold_are_told(
    tmp_path, monkeypatch, caplog, highest, binarize, is_told
):
    """Once, before training; `sample` is a choice that somebody has made, and 0 and 1 are dark."""
    images = np.random.default_rng(0).integers(0, highest, (100, 784), dtype=np.uint8)
    monkeypatch.setattr(datasets, "load_split", lambda *args: Split(images))
    monkeypatch.setattr(training, "Trainer", no_training)
    changed = dataclasses.replace(settings(), record=RecordConfig(binarize=binarize))
    with pytest.raises(Killed):
        training.train_and_evaluate(changed, str(tmp_path), show_progress=False)
    assert [r.levelname for r in caplog.records] == ["WARNING"] * is_told
    assert not is_told or "set model.likelihood to discretized_logistic_mixture" in caplog.text


def no_training(*args):
    raise Killed


def test_a_likelihood_of_other_data_is_refused(tmp_path):
    gaussian = MODEL.model_copy(update={"likelihood": "gaussian"})
    with pytest.raises(ValueError, match="model.likelihood gaussian needs record.dtype float32"):
        training.train_and_evaluate(Settings(DATA, RECORD, gaussian, TRAIN, seed=3), str(tmp_path))


@dataclasses.dataclass(frozen=True)
class WithGaps:
    """Digits of which half is missing, with something else in place of it."""

    filler: int = 0
    content_hash: str = "0"

    def load(self, split: str) -> Split:
        images = datasets.load_images("digits", split, RECORD.shape)
        observed = np.random.default_rng(len(images)).random(images.shape) < 0.5
        return Split(np.where(observed, images, self.filler).astype(np.uint8), observed)


def train_with_gaps(directory, source: WithGaps, **changes):
    return training.train_and_evaluate(
        settings(epochs=6.0, **changes), str(directory), show_progress=False, source=source
    )


@pytest.fixture(scope="module")
def with_gaps(tmp_path_factory):
    directory = tmp_path_factory.mktemp("with_gaps")
    return directory, train_with_gaps(directory, WithGaps())


def test_it_learns_from_incomplete_records(with_gaps):
    """Scores are those of the observed half, and the model's encoder knows complete records, which
    no split has: an encoder that was not fitted to them says less than a coin.
    """
    directory, summary = with_gaps
    assert summary["observed_fraction"] == pytest.approx(0.5, abs=0.01)
    assert summary["test_observed_fraction"] == pytest.approx(0.5, abs=0.02)
    assert summary["test_bound"] > -392 * np.log(2) + 20  # better than a coin for each pixel
    assert summary["test_bound"] - 1 < summary["test_log_prob"] < 0
    assert summary["num_encoder_steps"] == 10
    model = checkpoints.load(str(directory))
    assert len(model.calibration) == summary["num_calibration"] == 50
    assert 0.4 < model.calibration.observed.mean() < 0.6
    complete = Split(datasets.load_images("digits", DATA.test, RECORD.shape))
    fitted = heldout.mean_bound(model.vae, complete, settings(), k=1)
    fresh = vae.build(MODEL, RECORD.shape, seed=3).encoder
    other = heldout.mean_bound(
        dataclasses.replace(model.vae, encoder=fresh), complete, settings(), k=1
    )
    assert fitted > other + 1


def test_what_is_missing_is_never_seen(with_gaps, tmp_path):
    train_with_gaps(tmp_path, WithGaps(filler=255))
    assert checkpoints.fingerprint(str(tmp_path)) == checkpoints.fingerprint(str(with_gaps[0]))


def test_killed_while_its_encoder_is_fitted_it_ends_with_the_same_model(
    with_gaps, tmp_path, monkeypatch
):
    original = trainer_lib.Trainer._validate

    def kill(self, *args):
        original(self, *args)
        if self._name != "train":
            raise Killed

    monkeypatch.setattr(trainer_lib.Trainer, "_validate", kill)
    with pytest.raises(Killed):
        train_with_gaps(tmp_path, WithGaps())
    monkeypatch.undo()
    train_with_gaps(tmp_path, WithGaps())
    assert checkpoints.fingerprint(str(tmp_path)) == checkpoints.fingerprint(str(with_gaps[0]))


def test_other_records_under_the_same_name_are_another_training(with_gaps):
    with pytest.raises(TrainingError, match=r"other settings \(content_hash\)"):
        train_with_gaps(with_gaps[0], WithGaps(content_hash="1"))


def test_real_values_with_gaps_are_standardised_by_what_is_observed(tmp_path):
    """A value of 5 +- 2 that is -1,000 where missing."""
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, (4000, 6)).astype(np.float32)
    observed = rng.random(values.shape) < 0.5
    record = RecordConfig(dtype="float32", binarize="none", shape=(2, 3, 1))
    model = ModelConfig(latent_size=1, hidden=(16,), likelihood="gaussian")
    data = Split(np.where(observed, values, np.float32(-1000)), observed)
    found = training.untrained(Settings(DATA, record, model, TRAIN, seed=3), data)
    standardization = found.likelihood.standardization
    np.testing.assert_allclose(standardization.location, 5, atol=0.3)
    np.testing.assert_allclose(standardization.scale, 2, atol=0.2)
