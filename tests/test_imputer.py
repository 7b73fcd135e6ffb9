"""A record's result depends on the record alone, and is on the data's own scale."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests import kernels
from vaefill.model import checkpoints, imputer, vae
from vaefill.model.config import ModelConfig, SamplerConfig
from vaefill.model.preprocessing import Preprocessor
from vaefill.model.samplers import SAMPLERS
from vaefill.model.standardization import Standardization

pytestmark = pytest.mark.slow

SHAPE = (6, 5, 1)
NUM_RECORDS = 11


def make_config(name: str, **settings) -> SamplerConfig:
    """Records of 2 chains; up to 8 rows a record, so that 4 fit into the slots, and 4 rounds are
    needed.
    """
    settings = {
        "num_chains": 2,
        "num_particles": 4,
        "num_evidence_draws": 8,
        "num_leapfrog_steps": 2,
    } | settings
    settings = {
        "num_start": 2,
        "num_warmup": 7,
        "max_sweeps": 24,
        "num_imputations": 5,
        "slots": 32,
    } | settings
    return kernels.config_of(name, **settings)


CONFIG = make_config("pseudo_gibbs", num_chains=3, slots=96)


def make_model(latent_size: int, hidden: tuple[int, ...] = (16,)) -> vae.VAE:
    return vae.build(ModelConfig(latent_size=latent_size, hidden=hidden), SHAPE, seed=1)


def make_records(num: int):
    """The first has nothing observed, the second all but one pixel, the third everything."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (num, *SHAPE), dtype=np.uint8)
    observed = generator.random((num, *SHAPE)) < 0.5
    observed[:3] = np.array([False, True, True])[: min(num, 3), None, None, None]
    observed[1:2, 2, 3] = False
    return images, observed, [b"record-%d" % i for i in range(num)]


def subset(chosen):
    images, observed, ids = make_records(NUM_RECORDS)
    return images[chosen], observed[chosen], [ids[i] for i in chosen], list(images[chosen])


def assert_same_bits(first: imputer.Imputed, second: imputer.Imputed):
    for name, a, b in zip(imputer.Imputed._fields, first, second):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), name


def take(result: imputer.Imputed, index) -> imputer.Imputed:
    return imputer.Imputed(*(np.ascontiguousarray(field[index]) for field in result))


# Bits, of every sampler; odd latent sizes put rows at every alignment.


SINGLE, HALF = "float32", "bfloat16"
EVERY = [(name, 3, SINGLE) for name in SAMPLERS] + [
    (name, 3, HALF) for name in ("latent_hmc", "pseudo_gibbs", "lair")
]
# Log p of a truth is some programs more, the same for all: of chains and of weighted draws.
WITH_EVIDENCE = [
    ("latent_hmc", 3, SINGLE),
    ("latent_hmc", 3, HALF),
    ("latent_hmc", 50, SINGLE),
    ("lair", 3, SINGLE),
]


@pytest.fixture(
    scope="module",
    params=[*EVERY, ("latent_hmc", 1, SINGLE), ("latent_hmc", 50, SINGLE)],
    ids=lambda p: "-".join(map(str, p)),
)
def sampler(request):
    """An imputer, one of the same settings, what the first makes of all records, and whether it
    estimates log p.
    """
    name, latent_size, precision = request.param
    # Wide enough for products to be rounded
    model = make_model(latent_size, (96, 96) if precision == HALF else (16,))
    evidence = {} if request.param in WITH_EVIDENCE else {"num_evidence_draws": 0}
    config = make_config(name, precision=precision, **evidence)
    see = Preprocessor(model.likelihood, seed=7)
    first = imputer.Imputer(model, config, see)
    second = imputer.Imputer(model, config, see)
    return first, second, first(*subset(range(NUM_RECORDS))), not evidence


def test_the_same_bits_alone(sampler):
    run, _, together, _ = sampler
    for i in range(NUM_RECORDS):
        assert_same_bits(run(*subset([i])), take(together, [i]))


def test_the_same_bits_in_any_order_and_position(sampler):
    run, _, together, _ = sampler
    for order in (np.arange(NUM_RECORDS)[::-1], np.random.default_rng(1).permutation(NUM_RECORDS)):
        assert_same_bits(run(*subset(order)), take(together, order))


@pytest.mark.parametrize("sampler", EVERY, indirect=True, ids=lambda p: "-".join(map(str, p)))
def test_the_same_bits_from_a_fresh_program(sampler):
    _, fresh, together, _ = sampler
    chosen = [0, 1, 2, 10, 5]
    assert_same_bits(fresh(*subset(chosen)), take(together, chosen))


def test_every_sampler_gives_whole_results(sampler):
    _, _, together, has_evidence = sampler
    images, observed, _ = make_records(NUM_RECORDS)
    assert together.converged[2] and together.num_sweeps[2] == 0
    assert set(
        np.unique(
            together.imputations[~np.broadcast_to(observed[:, None], together.imputations.shape)]
        )
    ) <= {
        0,
        255,
    }
    for field in (together.mean, together.stddev):
        assert np.isfinite(field).all()
    incomplete = np.arange(NUM_RECORDS) != 2
    assert (together.stddev[~observed] > 0).all()
    for log_prob in (together.log_prob_observed, together.log_prob_missing):
        assert np.isfinite(log_prob[incomplete]).all() == has_evidence
    assert (together.num_non_finite == 0).all()
    assert together.num_latents[2] == 0
    assert (together.num_latents[incomplete] >= 1).all() and (together.num_latents <= 5).all()


@pytest.mark.parametrize("num_warmup", [0, 30])
def test_what_has_converged_is_finite(num_warmup):
    """Annealed SMC of grey values, which arrive late or early: where all weights came too late
    there is no mean.
    """
    config = ModelConfig(latent_size=2, hidden=(8,), likelihood="discretized_logistic_mixture")
    grey = vae.build(config, (2, 3, 1), seed=1)
    easy = {"target_ess": 1.0, "num_chains": 2, "num_particles": 16}
    sampler = make_config("annealed_smc", num_warmup=num_warmup, max_sweeps=80, **easy)
    images, observed = (field[:, :2, :3] for field in make_records(8)[:2])
    found = imputer.Imputer(grey, sampler)(images, observed, make_records(8)[2])
    assert found.converged.any()
    for field in (found.mean, found.stddev):
        assert np.isfinite(field[found.converged]).all()


def test_a_decoder_that_overflows_has_not_converged(model):
    """Chains on the observed values agree; what they say of the missing ones is not a number."""

    def decoder(z):
        return tf.concat([model.decoder(z)[:, :-1], z[:, :1] * np.nan], axis=1)

    broken = dataclasses.replace(model, decoder=decoder)
    images, observed, ids = make_records(8)
    observed[:, -1, -1] = False
    config = make_config("pseudo_gibbs", target_r_hat=10.0, target_ess=1.0)
    found = imputer.Imputer(broken, config)(images, observed, ids)
    assert np.isnan(found.mean).any(axis=(1, 2, 3)).all() and not found.converged.any()


# One sampler stands for all.


@pytest.fixture(scope="module")
def model():
    return make_model(3)


@pytest.fixture(scope="module")
def run(model):
    return imputer.Imputer(model, CONFIG, Preprocessor(model.likelihood, seed=7))


@pytest.fixture(scope="module")
def other(model):
    """An imputer of another seed, without evidence, and its occupancy before and after it has seen
    18 records.
    """
    run = imputer.Imputer(
        model,
        CONFIG.model_copy(update={"num_evidence_draws": 0}),
        Preprocessor(model.likelihood, seed=8),
    )
    before = run.occupancy
    run(*make_records(18))
    return run, before, run.occupancy


@pytest.fixture(scope="module")
def together(run):
    return run(*make_records(27))


def test_values_where_missing_are_ignored(run, together):
    images, observed, ids = make_records(27)
    changed = np.where(observed, images, 255 - images)
    assert_same_bits(run(changed, observed, ids), together)


def test_a_compiled_imputer_is_kept(model_directory):
    """For a model of the same files, while its weights are as they were."""
    first, second = (checkpoints.load(model_directory) for _ in range(2))
    kept = imputer.imputer_for(first, CONFIG)
    assert imputer.imputer_for(second, CONFIG) is kept
    assert imputer.imputer_for(second, CONFIG, seed=1) is not kept
    second.vae.decoder.set_weights([1.01 * weight for weight in second.vae.decoder.get_weights()])
    assert imputer.imputer_for(second, CONFIG) is not kept
    assert imputer.imputer_for(first, CONFIG) is kept


def test_seed_and_id_matter(run, other, together):
    images, observed, ids = make_records(27)
    other_ids = run(images, observed, [b"x" + record_id for record_id in ids])
    other_seed = other[0](images, observed, ids)
    for result in (other_ids, other_seed):
        assert not np.array_equal(result.imputations, together.imputations)


def test_observed_values_come_back_untouched_and_others_binary(together):
    images, observed, _ = make_records(27)
    where = np.broadcast_to(observed[:, None], together.imputations.shape)
    np.testing.assert_array_equal(
        together.imputations[where], np.broadcast_to(images[:, None], where.shape)[where]
    )
    assert set(np.unique(together.imputations[~where])) == {0, 255}
    np.testing.assert_array_equal(
        together.mean[observed], (images[observed] / np.float32(255)).astype(np.float32)
    )
    assert (together.stddev[observed] == 0).all() and (together.stddev[~observed] > 0).all()


def test_imputations_differ_from_each_other(together):
    """Chains and kept sweeps have draws of their own."""
    assert (
        len({imputation.tobytes() for imputation in together.imputations[0]})
        == CONFIG.num_imputations
    )


def test_a_record_that_stops_early_has_a_latent_for_every_imputation(model):
    """More imputations than the draws after which it might have stopped."""
    settings = {"max_sweeps": 200, "target_r_hat": 9.0, "target_ess": 4.0, "num_imputations": 100}
    result = imputer.Imputer(
        model, CONFIG.model_copy(update=settings), Preprocessor(model.likelihood, seed=7)
    )(*make_records(1))
    assert result.num_sweeps.tolist() == [9 + 40] and result.num_latents.tolist() == [100]
    assert result.imputations.shape[1] == 100


def test_nothing_missing_and_everything_missing(run):
    images, _, ids = make_records(2)
    observed = np.stack([np.ones(SHAPE, bool), np.zeros(SHAPE, bool)])
    result = run(images, observed, ids)
    np.testing.assert_array_equal(
        result.imputations[0], np.repeat(images[:1], CONFIG.num_imputations, axis=0)
    )
    assert result.converged[0] and result.num_sweeps[0] == 0 and np.isnan(result.r_hat[0])
    assert np.isfinite([result.r_hat[1], result.ess_bulk[1], result.ess_tail[1]]).all()
    assert result.num_sweeps[1] == CONFIG.max_sweeps and not result.converged[1]
    assert result.log_prob_observed[1] == 0  # nothing is certain
    # The initial draw of the model and that of the sampler's state are passes too.
    assert result.num_network_passes.tolist() == [0, (2 + CONFIG.max_sweeps) * CONFIG.num_chains]


def test_no_records(run):
    result = run(np.zeros((0, *SHAPE), np.uint8), np.zeros((0, *SHAPE), bool), [])
    assert result.imputations.shape == (0, CONFIG.num_imputations, *SHAPE)


def test_without_a_truth_or_without_evidence_log_probabilities_are_nan(run, other, together):
    assert (
        np.isnan(together.log_prob_missing).all()
        and np.isfinite(together.log_prob_observed[[0, 1, 3]]).all()
    )
    images, observed, ids = make_records(5)
    some = run(images, observed, ids, [images[0], None, None, None, images[4]])
    assert np.isfinite(some.log_prob_missing).tolist() == [True, False, False, False, True]
    without = other[0](images, observed, ids, list(images))
    assert np.isnan(without.log_prob_observed).all() and np.isnan(without.log_prob_missing).all()


def test_occupancy(other):
    """Of 18 records 17 have something missing; there are 32 places."""
    _, before, after = other
    assert np.isnan(before) and after == 17 / 32


def test_results_come_once_and_no_later_than_after_some_calls(model, monkeypatch):
    """However many are handed over at once, they have the same bits."""
    # Records finish one by one
    settings = {"max_sweeps": 200, "target_r_hat": 1.1, "target_ess": 20.0}
    run, batch = (
        imputer.Imputer(
            model, CONFIG.model_copy(update=settings), Preprocessor(model.likelihood, seed=7)
        ),
        make_records(27),
    )
    whole, sizes = run(*batch), []
    for patience in (1, 1 << 30):
        monkeypatch.setattr(imputer, "_PATIENCE", patience)
        parts = list(run.stream(*batch))
        assert sorted(np.concatenate([places for places, _ in parts]).tolist()) == list(range(27))
        for places, part in parts:
            for name in imputer.Imputed._fields:
                np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[places])
        sizes.append(sum(len(places) > 0 for places, _ in parts))
        assert len(parts) > sizes[-1]  # calls that nothing came of are told too
    assert sizes[0] > sizes[1]


def test_wrong_shapes_are_refused(run):
    images, observed, ids = make_records(3)
    with pytest.raises(ValueError, match="observed must be bool"):
        run(images, observed.astype(np.uint8), ids)
    with pytest.raises(ValueError, match=r"images must be uint8 \(2, 6, 5, 1\)"):
        run(images, observed, ids[:2])


def test_real_values_go_in_and_come_out_in_their_own_units():
    """The same records before the model: draws and moments are mapped, densities divided by the
    volume.
    """
    config = ModelConfig(latent_size=3, hidden=(16,), likelihood="gaussian")
    _, observed, ids = make_records(5)
    values = np.random.default_rng(1).normal(size=observed.shape).astype(np.float32)
    unit = np.logspace(-9, 6, 30).reshape(SHAPE)
    units = Standardization(np.full(30, 7.0) * unit.ravel(), unit.ravel())
    plain, found = (
        imputer.Imputer(vae.build(config, SHAPE, 1, affine), CONFIG)(x, observed, ids)
        for affine, x in ((None, values), (units, ((values + 7) * unit).astype(np.float32)))
    )
    for name in ("imputations", "mean"):
        mapped = (getattr(plain, name).astype(np.float64) + 7) * unit
        assert getattr(found, name).dtype == np.float32
        # What was rounded on the way in shows, relative to 7 units
        np.testing.assert_allclose(getattr(found, name), mapped, rtol=1e-4)
    np.testing.assert_allclose(found.stddev, plain.stddev * unit, rtol=1e-4)
    volume = np.where(observed, np.log(unit), 0).reshape(5, -1).sum(axis=1)
    known = [0, 1, 3, 4]
    np.testing.assert_allclose(
        (found.log_prob_observed + volume)[known], plain.log_prob_observed[known], atol=1e-3
    )
    assert volume[0] == 0 and np.abs(volume[1:]).min() > 10


def test_precision_shows_and_changes_little():
    """The rounding of bfloat16 products moves log p(x_obs) of 30 values by less than a tenth of a
    nat.
    """
    model, records = make_model(3, (96, 96)), subset(range(NUM_RECORDS))[:3]
    settings = dict(num_evidence_draws=2000, num_chains=16)
    single, half = (
        imputer.Imputer(
            model,
            make_config("latent_hmc", precision=each, **settings),
            Preprocessor(model.likelihood, seed=7),
        )(*records)
        for each in (SINGLE, HALF)
    )
    known = np.arange(NUM_RECORDS) != 2
    difference = (half.log_prob_observed - single.log_prob_observed)[known]
    assert np.abs(difference).max() < 0.1 and (difference != 0).any()
