"""Imputations from an ensemble: of the equal mixture of its members, whatever the company."""

import numpy as np
import pytest

import vaefill
from tests import ensemble_coverage, kernels
from vaefill import config as config_lib
from vaefill import jobs
from vaefill.errors import ConfigError
from vaefill.model import checkpoints, ensemble_imputer, ensembles, vae
from vaefill.model.checkpoints import Description, LoadedModel
from vaefill.model.config import ModelConfig
from vaefill.model.ensemble_imputer import EnsembleImputer, draws_of_members, mixture
from vaefill.model.fields import FIELDS
from vaefill.model.gaps import Split
from vaefill.model.imputer import Imputed, Imputer
from vaefill.model.preprocessing import Preprocessor
from vaefill.results.reading import read_manifest

SHAPE = (2, 3, 1)
MODEL = ModelConfig(latent_size=2, hidden=(8,))
SAMPLER = kernels.config_of(
    "pseudo_gibbs",
    num_chains=4,
    num_start=2,
    num_warmup=7,
    max_sweeps=29,
    num_imputations=5,
    num_evidence_draws=16,
    slots=32,
)


def loaded(model: vae.VAE, calibration: Split | None = None) -> LoadedModel:
    description = Description(format_version=2, model=MODEL, data_shape=SHAPE, training={})
    return LoadedModel(model, description, "", calibration)


def results(num: int, **changes) -> Imputed:
    """Of `num` records, by one model."""
    rng = np.random.default_rng(num)
    values = {
        "imputations": rng.integers(0, 256, (num, 2, *SHAPE), dtype=np.uint8),
        "mean": rng.random((num, *SHAPE), np.float32),
        "stddev": rng.random((num, *SHAPE), np.float32),
        "chains": np.full(num, None),
    }
    values |= {field.name: rng.random(num).astype(field.dtype) for field in FIELDS}
    values |= {key: np.asarray(value, values[key].dtype) for key, value in changes.items()}
    return Imputed(**values)


@pytest.mark.parametrize(
    ("num_imputations", "num_members", "shares"),
    [(8, 5, [2, 2, 2, 1, 1]), (5, 5, [1] * 5), (10, 5, [2] * 5), (7, 1, [7])],
)
def test_imputations_are_shared(num_imputations, num_members, shares):
    assert draws_of_members(num_imputations, num_members) == shares
    parts = [np.full((1, share, 2), number) for number, share in enumerate(shares)]
    together = ensemble_imputer._in_turn(parts)[0, :, 0]
    assert together.tolist() == [j % num_members for j in range(num_imputations)]


def test_too_few_imputations_are_an_error():
    with pytest.raises(ValueError, match="num_imputations 4 leaves out some of 5 members; set it"):
        draws_of_members(4, 5)


def test_moments_are_those_of_draws_of_both():
    """A million draws of each of two normal distributions: within 6 standard errors."""
    rng = np.random.default_rng(0)
    means, stddevs = np.array([-1.0, 2.0]), np.array([0.5, 1.5])
    draws = means[:, np.newaxis] + stddevs[:, np.newaxis] * rng.normal(size=(2, 1_000_000))
    parts = [
        results(1, mean=np.full((1, *SHAPE), m), stddev=np.full((1, *SHAPE), s))
        for m, s in zip(means, stddevs)
    ]
    found = mixture(parts)
    np.testing.assert_allclose(found.mean, draws.mean(), atol=0.01)
    np.testing.assert_allclose(found.stddev, draws.std(), atol=0.01)
    np.testing.assert_allclose(found.stddev, np.sqrt((0.25 + 2.25) / 2 + 2.25), rtol=1e-6)


def test_what_all_members_know_stays_as_it_is():
    """Of values a third of which is no binary fraction, and of the largest there are."""
    for value in (1 / 3, np.finfo(np.float32).max):
        known = results(1, mean=np.full((1, *SHAPE), value), stddev=np.zeros((1, *SHAPE)))
        found = mixture([known] * 3)
        np.testing.assert_array_equal(found.mean, known.mean)
        assert (found.stddev == 0).all()


def test_every_diagnostic():
    one, two = (
        dict(
            r_hat=[1.0, np.nan],
            ess_bulk=[400, 1],
            ess_tail=[500, 1],
            acceptance_rate=[0.5, 0],
            num_sweeps=[100, 0],
            num_network_passes=[1000, 0],
            num_non_finite=[1, 0],
            num_unvisited=[0, 0],
            num_latents=[2, 0],
            converged=[True, True],
            fit_p_value=[0.01, 0.5],
            misfit=[True, False],
            log_prob_observed=[-1000.0, 0.0],
            log_prob_observed_error=[0.3, 0],
            log_prob_missing=[-2.0, np.nan],
            log_prob_missing_error=[0.1, np.nan],
            pareto_k=[0.2, np.nan],
        ),
        dict(
            r_hat=[1.2, np.nan],
            ess_bulk=[300, 1],
            ess_tail=[600, 1],
            acceptance_rate=[0.7, 0],
            num_sweeps=[200, 0],
            num_network_passes=[3000, 0],
            num_non_finite=[2, 0],
            num_unvisited=[1, 0],
            num_latents=[1, 0],
            converged=[False, True],
            fit_p_value=[0.2, 0.5],
            misfit=[False, False],
            log_prob_observed=[-1000.0 + np.log(3), 0.0],
            log_prob_observed_error=[0.4, 0],
            log_prob_missing=[-np.inf, np.nan],
            log_prob_missing_error=[0.5, np.nan],
            pareto_k=[0.9, np.nan],
        ),
    )
    expected = dict(
        r_hat=[1.2, np.nan],
        ess_bulk=[300, 1],
        ess_tail=[500, 1],
        acceptance_rate=[0.6, 0],
        num_sweeps=[300, 0],
        num_network_passes=[4000, 0],
        num_non_finite=[3, 0],
        num_unvisited=[1, 0],
        num_latents=[3, 0],
        converged=[False, True],
        fit_p_value=[0.2, 0.5],
        misfit=[False, False],
        log_prob_observed=[-1000 + np.log(2), 0.0],
        log_prob_observed_error=[np.hypot(0.3 / 4, 0.4 * 3 / 4), 0],
        log_prob_missing=[-2 - np.log(2), np.nan],
        log_prob_missing_error=[0.1, np.nan],
        pareto_k=[0.9, np.nan],
    )
    assert set(one) == set(two) == set(expected) == {field.name for field in FIELDS}
    found = mixture([results(2, **one), results(2, **two)])
    for field in FIELDS:
        value = getattr(found, field.name)
        assert value.dtype == field.dtype
        np.testing.assert_allclose(value, expected[field.name], rtol=1e-5, err_msg=field.name)
    assert found.log_prob_observed[1] == 0


NUM = 9


def make_records():
    """The first is complete, of the second nothing is observed."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM, *SHAPE), dtype=np.uint8)
    observed = rng.random(images.shape) < 0.5
    observed[:2] = np.array([True, False])[:, np.newaxis, np.newaxis, np.newaxis]
    return images, observed, [b"%d" % index for index in range(NUM)]


@pytest.fixture(scope="module")
def models():
    calibration = Split(np.random.default_rng(1).integers(0, 256, (20, 6), dtype=np.uint8))
    return [loaded(vae.build(MODEL, SHAPE, seed), calibration) for seed in (1, 2)]


@pytest.fixture(scope="module")
def run(models):
    return EnsembleImputer(models, SAMPLER, seed=7, keep_chains=True)


@pytest.fixture(scope="module")
def together(run):
    images, observed, ids = make_records()
    return run(images, observed, ids, list(images))


def assert_same_bits(one: Imputed, two: Imputed):
    for name in set(Imputed._fields) - {"chains"}:
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes(), name


@pytest.mark.slow
def test_a_record_has_the_same_bits_in_any_company(run, together, monkeypatch):
    """Backwards, and as many as the slots hold through all members at once."""
    images, observed, ids = make_records()
    monkeypatch.setattr(ensemble_imputer, "_FILLS_AT_ONCE", 1)
    parts = list(run.stream(images[::-1], observed[::-1], ids[::-1], list(images[::-1])))
    assert [len(places) for places, _ in parts if len(places)] == [8, 1]
    assert sum(len(places) == 0 for places, _ in parts) > 4  # who waits sees the device at work
    backwards = np.concatenate([part.imputations for _, part in parts])[::-1]
    np.testing.assert_array_equal(backwards, together.imputations)
    alone = run(images[4:5], observed[4:5], ids[4:5], [images[4]])
    of_all = Imputed(*(field[4:5] for field in together))
    assert_same_bits(alone, of_all)


@pytest.mark.slow
def test_it_is_the_mixture_of_its_members_by_other_random_numbers(models, together):
    images, observed, ids = make_records()
    members = [
        Imputer(
            model.vae,
            SAMPLER.model_copy(update={"num_imputations": share}),
            Preprocessor(model.likelihood, seed=7),
            model.calibration,
            member=number,
        )(images, observed, ids, list(images))
        for number, (model, share) in enumerate(zip(models, (3, 2)))
    ]
    assert_same_bits(mixture(members), together)
    np.testing.assert_array_equal(together.imputations[:, 0::2], members[0].imputations)
    np.testing.assert_array_equal(together.imputations[:, 1::2], members[1].imputations)
    assert (together.fit_p_value == np.maximum(*(each.fit_p_value for each in members))).all()
    assert together.chains[0] is None and len(together.chains[1]) == 2
    assert together.num_sweeps.tolist() == [0] + [2 * 29] * (NUM - 1)


@pytest.mark.slow
def test_members_share_no_random_numbers(models):
    """One model twice: the draws of the second are others."""
    images, observed, ids = make_records()
    found = EnsembleImputer([models[0]] * 2, SAMPLER, seed=7, keep_chains=True)(
        images, observed, ids
    )
    for one, two in found.chains[1:]:
        assert not np.isin(one.z, two.z).any()


@pytest.mark.slow
def test_no_records(run):
    images, observed, _ = make_records()
    assert run(images[:0], observed[:0], []).imputations.shape == (0, 5, *SHAPE)
    with pytest.raises(ValueError, match="observed must be bool"):
        run(images, observed.astype(np.uint8), make_records()[2])


@pytest.fixture(scope="module")
def ensemble_directory(config, tmp_path_factory) -> str:
    directory = str(tmp_path_factory.mktemp("ensemble"))
    for number in range(2):
        model = vae.build(config.model, config.record.shape, seed=number)
        place = ensembles.member_directory(directory, number)
        checkpoints.save(place, model, config.model, {"binarize": "threshold"})
    training = {"binarize": "threshold"}
    ensembles.save(directory, 2, config.model, config.record.shape, training)
    return directory


@pytest.mark.slow
def test_a_job_and_a_notebook_take_an_ensemble(ensemble_directory, masked, tmp_path):
    """To the same imputations."""
    settings = ["sampler.name=pseudo_gibbs", "sampler.num_evidence_draws=0"]
    config = config_lib.load("test.yaml", settings)
    out = str(tmp_path / "out")
    jobs.impute(config, ensemble_directory, [masked], out)
    manifest = read_manifest(out)
    assert manifest.identity.model == ensembles.fingerprint(ensemble_directory)
    assert manifest.model["num_members"] == 2
    arrays = vaefill.read_result(out).arrays
    result = vaefill.impute(
        ensemble_directory,
        arrays["image"][:3],
        arrays["observed"][:3],
        list(arrays["id"][:3]),
        sampler=config.sampler,
        seed=config.seed,
        progress=False,
    )
    np.testing.assert_array_equal(result.imputations, arrays["imputations"][:3])
    np.testing.assert_array_equal(result.stddev, arrays["stddev"][:3])
    few = config_lib.load("test.yaml", [*settings, "sampler.num_imputations=1"])
    with pytest.raises(ConfigError, match="num_imputations 1 leaves out some of 2 members"):
        jobs.impute(few, ensemble_directory, [masked], str(tmp_path / "few"))


def test_a_compiled_ensemble_is_kept(ensemble_directory):
    first, second = (ensembles.load(ensemble_directory) for _ in range(2))
    kept = ensemble_imputer.imputer_for(first, SAMPLER)
    assert ensemble_imputer.imputer_for(second, SAMPLER) is kept
    decoder = second.members[1].vae.decoder
    decoder.set_weights([1.01 * weight for weight in decoder.get_weights()])
    assert ensemble_imputer.imputer_for(second, SAMPLER) is not kept


def test_intervals_of_an_ensemble_hold_the_truth_as_often_as_they_say():
    """And those of one model do not, nor those of an ensemble that is mixed anew in every record.

    If the shares that hold it are .65, .90 and .62, as measured, one of these bounds is missed with
    a probability of 4e-6.
    """
    one, ensemble, by_chance = ensemble_coverage.coverage(400, num_members=5, num_imputations=5)
    assert one.share < 0.75 and by_chance.share < 0.75
    assert 0.81 < ensemble.share < 0.97
    assert ensemble.width > 1.5 * one.width
