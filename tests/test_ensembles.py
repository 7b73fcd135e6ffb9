"""Ensembles: members of their own resamples, whole or not there, gone on with after a kill."""

import dataclasses
import os
import re
import shutil

import click.testing
import numpy as np
import pytest

from vaefill import cli
from vaefill.model import checkpoints, datasets, ensembles, heldout, model_scores, training
from vaefill.model import trainer as trainer_lib
from vaefill.model.config import DataConfig, ModelConfig, RecordConfig, Settings, TrainConfig
from vaefill.model.errors import ModelError, TrainingError
from vaefill.model.gaps import Split

pytestmark = pytest.mark.slow

SETTINGS = Settings(
    DataConfig(train="train[:256]", validation="validation[:60]", test="test[:20]"),
    RecordConfig(),
    ModelConfig(latent_size=2, hidden=(16,)),
    TrainConfig(
        num_members=2, epochs=2.0, batch_size=64, warmup_steps=2, num_test_importance_samples=5
    ),
    seed=3,
)


def settings(**changes) -> Settings:
    return dataclasses.replace(SETTINGS, train=SETTINGS.train.model_copy(update=changes))


def train(directory, **changes):
    return training.train_and_evaluate(settings(**changes), str(directory), show_progress=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ensemble")
    return str(directory), train(directory)


def test_it_comes_back(finished):
    directory, summary = finished
    loaded = ensembles.load(directory)
    assert loaded.description.training == summary == train(directory)
    assert loaded.description.num_members == len(loaded.members) == 2
    assert loaded.num_calibration == summary["num_calibration"] == 30
    assert (summary["seed"], summary["num_images"], summary["num_steps"]) == (3, 256, 8)
    of_members = [each.description.training["test_log_prob"] for each in loaded.members]
    assert len(set(of_members)) == 2
    assert summary["test_log_prob"] == pytest.approx(np.mean(of_members))
    assert loaded.fingerprint == ensembles.fingerprint(directory)
    assert sorted(os.listdir(directory)) == [
        "ensemble.json",
        "member-00",
        "member-01",
        "training",
    ]


def test_a_member_is_the_model_of_its_seed_and_its_resample(finished, tmp_path):
    """As a program would train it that knows nothing of ensembles."""
    seed = ensembles.member_seed(3, 1)
    images = datasets.load_images("digits", SETTINGS.data.train, (28, 28, 1))
    resampled = training._resampled(Split(images), seed)

    class Source:
        content_hash = None

        def load(self, split: str) -> Split:
            whole = Split(datasets.load_images("digits", split, (28, 28, 1)))
            return resampled if split == SETTINGS.data.train else whole

    alone = dataclasses.replace(settings(num_members=1), seed=seed)
    training.train_and_evaluate(alone, str(tmp_path), False, Source())
    member = ensembles.member_directory(finished[0], 1)
    assert checkpoints.fingerprint(str(tmp_path)) == checkpoints.fingerprint(member)


def test_a_resample_is_of_the_records_with_replacement():
    """Of N records 1 - 1 / e are in one, give or take .0048 (1,000 of 4,000 records that are left
    out had a standard deviation of .0049): 6 standard deviations.
    """
    values = np.arange(4000, dtype=np.float32)[:, np.newaxis]
    observed = values % 2 > 0
    one, again, other = (training._resampled(Split(values, observed), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.values, again.values)
    assert (one.values != other.values).any() and len(one) == 4000
    np.testing.assert_array_equal(one.observed, one.values % 2 > 0)
    for each in (one, other):
        assert len(np.unique(each.values)) / 4000 == pytest.approx(1 - np.exp(-1), abs=0.03)


def test_seeds_of_members_differ():
    seeds = {ensembles.member_seed(seed, number) for seed in (0, 1) for number in range(100)}
    assert len(seeds) == 200 and all(0 <= seed < 1 << 31 for seed in seeds)


class Killed(Exception):
    """Stands for a SIGKILL."""


def test_killed_and_started_again_it_goes_on_with_the_member_that_was_not_finished(
    finished, tmp_path, monkeypatch
):
    """After the first of its two validations; the member before has had two as well."""
    original, calls = trainer_lib.Trainer._validate, []

    def kill(self, *args):
        if len(calls) == 3:
            raise Killed
        calls.append(original(self, *args))

    monkeypatch.setattr(trainer_lib.Trainer, "_validate", kill)
    with pytest.raises(Killed):
        train(tmp_path)
    monkeypatch.undo()
    assert not ensembles.is_complete(str(tmp_path))
    first = ensembles.member_directory(str(tmp_path), 0)
    assert checkpoints.is_complete(first)
    monkeypatch.setattr(training, "_train", only_others(training._train, first))
    assert train(tmp_path) == finished[1]
    assert ensembles.fingerprint(str(tmp_path)) == ensembles.fingerprint(finished[0])


def only_others(train_model, finished):
    def train(settings, directory, *args):
        assert directory != finished
        return train_model(settings, directory, *args)

    return train


def test_an_ensemble_and_a_model_are_different_trainings(finished, tmp_path):
    with pytest.raises(TrainingError, match=r"other settings \(train\)"):
        train(finished[0], num_members=1)
    with pytest.raises(TrainingError, match=r"other settings \(train\)"):
        train(finished[0], num_members=3)
    train(tmp_path, num_members=1, epochs=0.5)
    with pytest.raises(TrainingError, match=r"other settings \(train\)"):
        train(tmp_path, num_members=2, epochs=0.5)


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "copy")


def test_what_takes_a_single_model_says_so(copy):
    with pytest.raises(ModelError, match="is an ensemble, .* a member, such as .*member-00"):
        checkpoints.load(str(copy))
    (copy / "ensemble.json").unlink()
    with pytest.raises(ModelError, match="is not a model directory"):  # as older programs say
        ensembles.load(str(copy))


def test_every_member_counts(copy, finished):
    """In the fingerprint, and whether it is there and of the same kind."""
    other = ModelConfig(latent_size=3, hidden=(16,))
    weights = copy / "member-01" / "weights.safetensors"
    whole = weights.read_bytes()
    shutil.copy(copy / "member-00" / "weights.safetensors", weights)
    assert ensembles.load(str(copy)).fingerprint != ensembles.fingerprint(finished[0])
    weights.unlink()
    with pytest.raises(ModelError, match="member-01 is not a model directory"):
        ensembles.load(str(copy))
    weights.write_bytes(whole)
    summary = ensembles.load(str(copy)).description.training
    ensembles.save(str(copy), 2, other, (28, 28, 1), summary)
    with pytest.raises(ModelError, match="member-00 is a model of another kind"):
        ensembles.load(str(copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"format_version": 1', '"format_version": 9'), "version 9"),
        (lambda text: text.replace('"num_members": 2', '"num_members": 1'), "num_members: "),
        (lambda text: "{}", "format_version: Field required"),
    ],
)
def test_a_damaged_description(copy, change, message):
    path = copy / "ensemble.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(ModelError, match=f"ensemble.json.*{message}"):
        ensembles.load(str(copy))


def test_scores_of_members_and_of_the_mixture(finished):
    """The mixture's density is the mean of theirs: more than the mean of the logs, by Jensen, and
    less than any by log 2 at most.
    """
    loaded = ensembles.load(finished[0])
    found = model_scores.ensemble_scores(loaded, "digits", "test[:20]", (5,), show_progress=False)
    means = [scores[5][0] for scores in found.members]
    assert np.mean(means) < found.mixture[5][0]
    assert found.mixture[5][0] > max(means) - np.log(2)
    held = model_scores.held_out(loaded.members[1], "digits", "test[:20]")
    same = dataclasses.replace(held.settings, seed=3)
    alone = heldout.mean_log_prob(loaded.members[1].vae, held.records, same, 5)
    np.testing.assert_allclose(found.members[1][5], alone, rtol=1e-6)


def test_the_commands(finished, tmp_path):
    arguments = ["--model", finished[0], "--data", "digits", "--split", "test[:20]", "--k", "5"]
    run = click.testing.CliRunner().invoke
    result = run(cli.main, ["evaluate", *arguments])
    assert result.exit_code == 0, result.output
    rows = re.findall(r"^\| (member \d|mixture) +\| +-[\d.]+ ± [\d.]+ \|$", result.output, re.M)
    assert rows == ["member 0", "member 1", "mixture"]
    for command in (
        ["evaluate", *arguments, "--output", str(tmp_path)],
        ["compare", "--model", finished[0], "--data", "digits", "--output", str(tmp_path)],
    ):
        result = run(cli.main, command)
        assert result.exit_code == 2 and "Traceback" not in result.output
        assert "is an ensemble" in result.output.splitlines()[-1]
