"""Values missing because of what they are: the law of masks, summed out exactly, sampled exactly,
learnt.

What samplers give is in tests/test_closed_forms.py too, and evidence in tests/test_collection.py.
"""

import dataclasses
import functools
import itertools
import json
import pickle

import cloudpickle
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tests import kernels, oracles
from vaefill.model import checkpoints, training
from vaefill.model import trainer as trainer_lib
from vaefill.model import vae as vae_lib
from vaefill.model.compiled import ShiftedLikelihood, compile_vae
from vaefill.model.config import DataConfig, ModelConfig, RecordConfig, Settings, TrainConfig
from vaefill.model.errors import ModelError, TrainingError
from vaefill.model.gaps import Split
from vaefill.model.imputer import Imputer
from vaefill.model.likelihoods import Bernoulli
from vaefill.model.misfit import FitTest
from vaefill.model.samplers import (
    base,
    latent_hmc,
    metropolis_within_gibbs,
    pseudo_gibbs,
    sampler_config,
)
from vaefill.model.self_masking import SelfMasking, SelfMaskingBernoulli

pytestmark = pytest.mark.slow

FALSE_ALARM = 1e-6
# P(missing) of the values 0 (first row) and 1 of four, and of eight
FOUR = np.array([[0.2, 0.1, 0.5, 0.7], [0.6, 0.3, 0.5, 0.05]])
EIGHT = np.array(
    [[0.1, 0.5, 0.2, 0.3, 0.1, 0.8, 0.2, 0.6], [0.6, 0.5, 0.7, 0.1, 0.4, 0.3, 0.9, 0.5]]
)


def masking_of(rates) -> SelfMasking:
    rates = np.asarray(rates, np.float64).reshape(2, -1)
    masking = SelfMasking(rates.shape[1])
    masking.set_weights([np.log(rates) - np.log1p(-rates)])
    return masking


# --- the likelihood ---


@pytest.mark.parametrize("rates", [FOUR, [0.1, 0.8]], ids=["per value", "shared"])
def test_what_is_observed_and_the_mask_are_one_distribution(rates):
    """Over all masks of four values and all that they leave, probabilities sum to 1; each is what
    brute force says.
    """
    likelihood = SelfMaskingBernoulli(masking_of(rates))
    outputs = np.array([-2.0, 0.3, 8.0, -25.0], np.float32)
    one = 1 / (1 + np.exp(-np.float64(outputs)))
    of_both = np.broadcast_to(np.reshape(rates, (2, -1)), (2, 4))
    total = 0.0
    for mask in itertools.product([False, True], repeat=4):
        observed = np.array(mask)
        joint: dict[tuple, float] = {}
        for x in itertools.product([0, 1], repeat=4):
            rate = of_both[np.array(x), np.arange(4)]
            probability = np.prod(np.where(x, one, 1 - one) * np.where(observed, 1 - rate, rate))
            seen = tuple(np.array(x)[observed])
            joint[seen] = joint.get(seen, 0.0) + probability
        for seen, expected in joint.items():
            x = np.full(4, np.nan, np.float32)  # which must not matter
            x[observed] = seen
            found = likelihood.log_prob_observed(outputs[None], x[None], observed[None])
            np.testing.assert_allclose(found, [np.log(expected)], rtol=1e-5, atol=2e-5)
            total += float(np.exp(found[0]))
    assert total == pytest.approx(1, abs=1e-5)


def test_its_gradient_is_that_of_its_value():
    """By differences in float64 of the brute-force value."""
    rng = np.random.default_rng(0)
    outputs = rng.normal(0, 3, (16, 4)).astype(np.float32)
    x, observed = (rng.random((16, 4)) < 0.5 for _ in range(2))
    likelihood = SelfMaskingBernoulli(masking_of(FOUR))
    found = base.log_likelihood_gradient(
        likelihood, tf.constant(outputs), tf.constant(x, tf.float32), tf.constant(observed)
    )

    def value(outputs):
        one = 1 / (1 + np.exp(-outputs))
        rate = np.where(x, FOUR[1], FOUR[0])
        of_observed = np.where(x, one, 1 - one) * (1 - rate)
        return np.log(np.where(observed, of_observed, (1 - one) * FOUR[0] + one * FOUR[1]))

    step = 1e-5
    exact = outputs.astype(np.float64)
    expected = (value(exact + step) - value(exact - step)) / (2 * step)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_missing_values_are_of_the_tilted_distribution():
    """P(1 | z, missing) by Bayes' theorem; draws by inversion, of uniform numbers on both sides."""
    outputs = np.array([[-2.0, 0.3, 4.0, -1.0]], np.float32)
    one = 1 / (1 + np.exp(-np.float64(outputs)))
    expected = one * FOUR[1] / (one * FOUR[1] + (1 - one) * FOUR[0])
    likelihood = SelfMaskingBernoulli(masking_of(FOUR))
    for each in (likelihood, likelihood.frozen(), ShiftedLikelihood(likelihood, tf.zeros(4))):
        mean, variance = each.moments(tf.constant(outputs))
        np.testing.assert_allclose(mean, expected, rtol=1e-5)
        np.testing.assert_allclose(variance, expected * (1 - expected), rtol=1e-5)
        for sign in (-1, 1):
            drawn = each.sample(
                tf.constant(outputs), tf.constant(expected + sign * 1e-4, tf.float32)
            )
            np.testing.assert_array_equal(drawn, np.full((1, 4), sign < 0))
    part, places = likelihood.restrict(np.array([1, 3]), 4)
    np.testing.assert_allclose(
        part.moments(tf.constant(outputs[:, places]))[0], expected[:, [1, 3]], rtol=1e-5
    )


def test_workers_get_it_pickled():
    """As jobs of Beam hand it to them, and with the same weights."""
    likelihood = SelfMaskingBernoulli(masking_of(FOUR))
    for pickler in (pickle, cloudpickle):
        again = pickle.loads(pickler.dumps(likelihood))
        np.testing.assert_array_equal(again.missingness.rates, likelihood.missingness.rates)


def test_equal_rates_are_ignorable():
    """Whatever they are: of values and gradients all but what does not depend on z."""
    likelihood = SelfMaskingBernoulli(masking_of([0.3, 0.3]))
    rng = np.random.default_rng(1)
    outputs = tf.constant(rng.normal(0, 3, (16, 4)), tf.float32)
    x, observed = (rng.random((16, 4)) < 0.5 for _ in range(2))
    x = tf.constant(x, tf.float32)
    found = likelihood.log_prob_observed(outputs, x, observed)
    expected = Bernoulli().log_prob_observed(outputs, x, observed)
    of_masks = np.where(observed, np.log(0.7), np.log(0.3)).sum(axis=1)
    np.testing.assert_allclose(found, expected + of_masks, rtol=1e-5)
    np.testing.assert_allclose(likelihood.moments(outputs)[0], Bernoulli().moments(outputs)[0])


def test_compiled_it_stays_as_it_was_and_needs_all_outputs():
    model = vae_lib.build(
        ModelConfig(latent_size=2, hidden=(8,), missingness="self_masking"), (4, 5, 1)
    )
    masking = model.likelihood.missingness
    masking.set_weights([np.array([[-1.0], [2.0]])])
    compiled = compile_vae(model, "float32")
    z, x = tf.ones([3, 2]), tf.zeros([3, 20])
    observed = tf.constant(np.random.default_rng(0).random((3, 20)) < 0.5)
    before = model.log_likelihood(z, x, observed)
    np.testing.assert_allclose(compiled.log_likelihood(z, x, observed), before, rtol=1e-5)
    masking.set_weights([np.array([[0.0], [0.0]])])
    np.testing.assert_allclose(compiled.log_likelihood(z, x, observed), before, rtol=1e-5)
    assert not np.allclose(model.log_likelihood(z, x, observed), before, rtol=0.01)
    assert not compiled.supports_restriction
    with pytest.raises(ValueError, match="with a model of masks a decoder cannot be restricted"):
        compiled.restrict_to(np.arange(5))


# --- samplers ---


def test_the_oracle_is_bayes_theorem_over_completions():
    """p(x_mis | x_obs, s) is proportional to p(x) p(s | x), by enumeration."""
    plain = oracles.TinyBernoulli()
    oracle = plain.self_masking(FOUR)
    x = np.array([1.0, 0, 0, 1])
    for number in range(16):
        observed = np.array([bool(number >> d & 1) for d in range(4)])
        states = oracle.completions(x, observed)
        everything = np.ones(4, bool)
        joint = [
            np.exp(
                plain.log_prob_observed(state, everything)
                + oracle.log_prob_mask(state[None], observed)[0]
            )
            for state in states
        ]
        evidence = np.sum(joint)
        found = oracle.missing_posterior(x, observed)
        np.testing.assert_allclose(found, joint / evidence, rtol=1e-6)
        assert oracle.log_prob_observed(x, observed) == pytest.approx(np.log(evidence), abs=1e-6)
        of_truth = joint[int(np.flatnonzero((states == x).all(axis=1))[0])]
        assert oracle.log_prob_missing(x, observed) == pytest.approx(
            np.log(of_truth / evidence), abs=1e-6
        )


KERNELS = {
    "latent_hmc": lambda vae: latent_hmc.build(vae, latent_hmc.Config(num_leapfrog_steps=4)),
    "metropolis_within_gibbs": lambda vae: metropolis_within_gibbs.build(
        vae, metropolis_within_gibbs.Config()
    ),
}


@pytest.mark.parametrize("name", KERNELS)
def test_exact_draws_are_conserved_and_ignoring_masks_is_seen(name):
    """Of p(z | x_obs, s) under many keys; see `kernels.movement`."""
    plain = kernels.plane("easy")
    oracle = plain.self_masking(EIGHT)
    moved, ignoring = (
        kernels.movement(oracle, KERNELS[name](each.vae), FALSE_ALARM, num_rows=16_384)
        for each in (oracle, plain)
    )
    assert moved.conserved and moved.moved > 0.5, moved
    assert not ignoring.conserved


def test_pseudo_gibbs_reaches_its_stationary_distribution():
    """All eight completions within Hoeffding's bound; that of the ignorable model is outside it."""
    num, x, observed = 8192, np.array([1.0, 0, 0, 1]), np.array([True, False, False, False])
    plain = oracles.TinyBernoulli()
    oracle = plain.self_masking(FOUR)
    kernel = pseudo_gibbs.build(oracle.vae, pseudo_gibbs.Config())
    rows = kernels.rows_of(x, observed, num, seed=1)
    start = kernel.init(
        rows, base.everywhere(rows, 0), tf.random.stateless_normal([num, 1], [1, 2])
    )
    last = kernels.sweeps(kernel, rows, start, 20)[0].x.numpy()
    found = np.bincount((last[:, ~observed] @ [4, 2, 1]).astype(int), minlength=8) / num
    bound = oracles.hoeffding(num, 8, FALSE_ALARM)
    assert np.abs(found - oracle.pseudo_gibbs_stationary(x, observed)).max() < bound
    assert np.abs(found - plain.pseudo_gibbs_stationary(x, observed)).max() > 2 * bound


def test_a_mask_that_hides_everything_says_something():
    """Means, log p(s) and log p(x | s) of a record of which nothing is observed, by quadrature:
    means of 16 records by 4 chains of 400 sweeps within .02, estimates of 1,000 draws within .05.
    """
    oracle = oracles.TinyBernoulli().self_masking(FOUR)
    x, nothing = np.array([1.0, 0, 0, 1]), np.zeros(4, bool)
    num = 16
    images = np.tile((255 * x).astype(np.uint8).reshape(1, 1, 4, 1), (num, 1, 1, 1))
    config = sampler_config(
        max_sweeps=505, slots=64, num_scouts=0, target_r_hat=1 + 1e-9, target_ess=1e9
    )
    found = Imputer(oracle.vae, config)(
        images, np.zeros(images.shape, bool), [b"%d" % i for i in range(num)], list(images)
    )
    exact = oracle.missing_posterior(x, nothing) @ oracle.completions(x, nothing)
    np.testing.assert_allclose(found.mean.reshape(num, 4).mean(axis=0), exact, atol=0.02)
    np.testing.assert_allclose(
        found.log_prob_observed, oracle.log_prob_observed(x, nothing), atol=0.05
    )
    np.testing.assert_allclose(
        found.log_prob_missing, oracle.log_prob_missing(x, nothing), atol=0.05
    )


# --- misfits ---


def test_misfits_are_told_among_records_with_masks_of_their_own():
    """Of records that are masked by what they are p-values are uniform (a false alarm in a
    million), and of the same ones with masks of another kind they are not.
    """
    model = vae_lib.build(ModelConfig(latent_size=3, hidden=(16,)), (6, 6, 1), seed=1)
    fresh = model.decoder  # of ten times its outputs, so that values depend on z
    likelihood = SelfMaskingBernoulli(masking_of([0.1, 0.8]))
    model = dataclasses.replace(model, decoder=lambda z: 10.0 * fresh(z), likelihood=likelihood)
    rng = np.random.default_rng(2)
    outputs = model.decoder(tf.constant(rng.normal(size=(2999, 3)), tf.float32)).numpy()
    x = (rng.random(outputs.shape) < 1 / (1 + np.exp(-outputs))).astype(np.float32)
    uniform = rng.random(x.shape)
    observed, reverse = (uniform >= np.where(x > 0.5, *rates) for rates in ((0.8, 0.1), (0.1, 0.8)))
    fit_test = FitTest(model, x[2000:], 256, observed[2000:])
    p_values = fit_test(np.where(observed, x, np.nan)[:2000], observed[:2000])
    distance = scipy.stats.kstest(p_values, "uniform").statistic
    assert distance < oracles.dkwm_two_sample(2000, 999, FALSE_ALARM)
    assert (fit_test(x[:2000], reverse[:2000]) < 0.1).mean() > 0.5


# --- learning ---

SHAPE, RATES = (4, 6, 1), (0.1, 0.6)
RECORD = RecordConfig(shape=SHAPE)
TRAIN = TrainConfig(
    epochs=60, batch_size=128, learning_rate=3e-3, warmup_steps=20, evaluate_every=10,
    num_importance_samples=5, num_test_importance_samples=50, num_calibration=20,
)  # fmt: skip


def settings(missingness: str = "self_masking", **changes) -> Settings:
    model = ModelConfig(latent_size=2, hidden=(32,), missingness=missingness)
    return Settings(DataConfig(), RECORD, model, TRAIN.model_copy(update=changes), seed=3)


@dataclasses.dataclass(frozen=True)
class Source:
    """Four patterns of 24 values, each flipped with a probability of .05, which are missing by what
    they are; or nothing is, where `complete`.
    """

    complete: bool = False
    content_hash: str = "0"

    def load(self, split: str) -> Split:
        values, observed = self.draw(
            *{"train": (2048, 0), "validation": (256, 1)}.get(split, (200, 2))
        )
        return Split(values) if self.complete else Split(np.where(observed, values, 0), observed)

    @staticmethod
    def draw(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        patterns = np.random.default_rng(9).random((4, 24)) < 0.5
        rng = np.random.default_rng(seed)
        ones = patterns[rng.integers(4, size=num)] ^ (rng.random((num, 24)) < 0.05)
        observed = rng.random(ones.shape) >= np.where(ones, RATES[1], RATES[0])
        return np.where(ones, 255, 0).astype(np.uint8), observed


def train(directory, missingness: str = "self_masking", source: Source | None = None, **changes):
    return training.train_and_evaluate(
        settings(missingness, **changes), str(directory), False, source or Source()
    )


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    directory = tmp_path_factory.mktemp("learnt")
    return directory, train(directory)


def nll_of_missing(directory) -> float:
    """Mean negative log-likelihood of what new records lack, in nats a value."""
    model = checkpoints.load(str(directory))
    values, observed = Source.draw(64, 5)
    images, known = (each.reshape(-1, *SHAPE) for each in (values, observed))
    config = sampler_config(max_sweeps=205, slots=64, num_scouts=0, num_evidence_draws=0)
    mean = Imputer(model.vae, config)(images, known, [b"%d" % i for i in range(64)]).mean
    right = np.where(images > 0, mean, 1 - mean)[~known]
    return float(-np.log(np.clip(right, 1e-6, 1)).mean())


def test_it_learns_why_values_are_missing(learnt, tmp_path):
    """Both rates, within .05; imputations are better than if it is ignored, by a fifth of a nat."""
    directory, summary = learnt
    np.testing.assert_allclose(summary["missing_rates"], RATES, atol=0.05)
    rates = checkpoints.load(str(directory)).vae.likelihood.missingness.rates
    np.testing.assert_allclose(rates[:, 0], summary["missing_rates"], rtol=1e-5)
    ignored = train(tmp_path, "ignorable")
    assert "missing_rates" not in ignored
    assert nll_of_missing(directory) < nll_of_missing(tmp_path) - 0.1


def test_killed_and_started_again_it_ends_with_the_same_model(tmp_path, monkeypatch):
    """And each value of a record may have rates of its own, which no two have alike."""
    original, calls = trainer_lib.Trainer._validate, []

    def kill(self, *args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(original(self, *args))

    def run(name):
        return train(tmp_path / name, "self_masking_per_value", epochs=4, evaluate_every=1)

    monkeypatch.setattr(trainer_lib.Trainer, "_validate", kill)
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    monkeypatch.undo()
    for name in ("killed", "whole"):
        run(name)
    killed, whole = (checkpoints.load(str(tmp_path / name)) for name in ("killed", "whole"))
    assert killed.fingerprint == whole.fingerprint
    rates = whole.vae.likelihood.missingness.rates
    assert rates.shape == (2, 24) and len(np.unique(rates)) == 48


def test_a_model_of_masks_is_of_a_format_of_its_own(learnt, tmp_path):
    """Its logits are among the weights and part of the fingerprint; of others all is as it was."""
    directory, _ = learnt
    with open(directory / "vae.json", encoding="utf-8") as file:
        described = json.load(file)
    assert described["format_version"] == 4
    assert described["model"]["missingness"] == "self_masking"
    loaded = checkpoints.load(str(directory))
    save = functools.partial(checkpoints.save, vae=loaded.vae, training={"of": "a test"})
    first = save(str(tmp_path), model=loaded.description.model)
    loaded.vae.likelihood.missingness.set_weights([np.zeros((2, 1))])
    assert save(str(tmp_path), model=loaded.description.model) != first
    plain = ModelConfig(latent_size=2, hidden=(32,))
    checkpoints.save(str(tmp_path), vae_lib.build(plain, SHAPE), plain, {})
    text = (tmp_path / "vae.json").read_text(encoding="utf-8")
    assert json.loads(text)["format_version"] == 2 and "missingness" not in text
    text = text.replace('"latent_size"', '"missingness": "self_masking", "latent_size"')
    (tmp_path / "vae.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="missingness/missingness/logits has shape None"):
        checkpoints.load(str(tmp_path))


def test_there_must_be_something_missing_to_learn_from(tmp_path):
    with pytest.raises(TrainingError, match="learns from records that lack values, and none of"):
        train(tmp_path, source=Source(complete=True))


@pytest.mark.parametrize("likelihood", ["gaussian", "discretized_logistic_mixture"])
def test_it_is_for_binary_values(likelihood):
    with pytest.raises(
        ValueError, match=f"self_masking needs likelihood bernoulli, got {likelihood}"
    ):
        ModelConfig(likelihood=likelihood, missingness="self_masking")
