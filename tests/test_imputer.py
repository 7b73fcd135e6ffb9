"""A record's result depends on the record alone, and is on the data's own scale."""

import numpy as np
import pytest

from model import imputer, vae
from model.config import ModelConfig, SamplerConfig

SHAPE = (6, 5, 1)
CONFIG = SamplerConfig(num_chains=3, num_warmup=4, max_sweeps=16, num_imputations=5, slots=32)


@pytest.fixture(scope="module")
def model():
    return vae.build(ModelConfig(latent_size=3, hidden=(16,)), SHAPE, seed=1)


@pytest.fixture(scope="module")
def run(model):
    return imputer.Imputer(model, CONFIG, seed=7)


def make_records(num: int):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (num, *SHAPE), dtype=np.uint8)
    return images, generator.random((num, *SHAPE)) < 0.5, [b"record-%d" % i for i in range(num)]


def assert_same_bits(first: imputer.Imputed, second: imputer.Imputed):
    for name, a, b in zip(imputer.Imputed._fields, first, second):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), name


def take(result: imputer.Imputed, index) -> imputer.Imputed:
    return imputer.Imputed(*(np.ascontiguousarray(field[index]) for field in result))


@pytest.fixture(scope="module")
def together(run):
    return run(*make_records(27))


def test_the_same_bits_alone(run, together):
    images, observed, ids = make_records(27)
    for i in (0, 11, 26):
        assert_same_bits(run(images[i : i + 1], observed[i : i + 1], ids[i : i + 1]), take(together, [i]))


def test_the_same_bits_in_any_order(run, together):
    images, observed, ids = make_records(27)
    order = np.random.default_rng(1).permutation(27)
    assert_same_bits(run(images[order], observed[order], [ids[i] for i in order]), take(together, order))


def test_the_same_bits_from_a_fresh_program(model, together):
    assert_same_bits(imputer.Imputer(model, CONFIG, seed=7)(*make_records(27)), together)


def test_values_where_missing_are_ignored(run, together):
    images, observed, ids = make_records(27)
    changed = np.where(observed, images, 255 - images)
    result = run(changed, observed, ids)
    assert_same_bits(result, together)


def test_seed_and_id_matter(model, run, together):
    images, observed, ids = make_records(27)
    other_ids = run(images, observed, [b"x" + record_id for record_id in ids])
    other_seed = imputer.Imputer(model, CONFIG, seed=8)(images, observed, ids)
    for other in (other_ids, other_seed):
        assert not np.array_equal(other.imputations, together.imputations)


def test_observed_values_come_back_untouched_and_others_binary(together):
    images, observed, _ = make_records(27)
    where = np.broadcast_to(observed[:, None], together.imputations.shape)
    np.testing.assert_array_equal(together.imputations[where], np.broadcast_to(images[:, None], where.shape)[where])
    assert set(np.unique(together.imputations[~where])) == {0, 255}
    np.testing.assert_array_equal(together.mean[observed], (images[observed] / np.float32(255)).astype(np.float32))
    assert (together.stddev[observed] == 0).all() and (together.stddev[~observed] > 0).all()


def test_imputations_differ_from_each_other(together):
    """Chains and kept sweeps have draws of their own."""
    assert len({imputation.tobytes() for imputation in together.imputations[0]}) == CONFIG.num_imputations


def test_nothing_missing_and_everything_missing(run):
    images, _, ids = make_records(2)
    observed = np.stack([np.ones(SHAPE, bool), np.zeros(SHAPE, bool)])
    result = run(images, observed, ids)
    np.testing.assert_array_equal(result.imputations[0], np.repeat(images[:1], CONFIG.num_imputations, axis=0))
    assert result.converged[0] and result.num_sweeps[0] == 0 and np.isnan(result.r_hat[0])
    assert result.num_sweeps[1] == CONFIG.max_sweeps and result.log_prob_observed[1] == 0
    assert np.isfinite([result.r_hat[1], result.ess_bulk[1], result.ess_tail[1]]).all()
    assert result.num_gradients.tolist() == [0, CONFIG.max_sweeps * CONFIG.num_chains]


def test_no_records(run):
    result = run(np.zeros((0, *SHAPE), np.uint8), np.zeros((0, *SHAPE), bool), [])
    assert result.imputations.shape == (0, CONFIG.num_imputations, *SHAPE)


def test_wrong_shapes_are_refused(run):
    images, observed, ids = make_records(3)
    with pytest.raises(ValueError, match="observed must be bool"):
        run(images, observed.astype(np.uint8), ids)
    with pytest.raises(ValueError, match=r"images must be uint8 \(2, 6, 5, 1\)"):
        run(images, observed, ids[:2])


def test_sampled_binarisation_depends_on_the_record_alone(model):
    """An image and its truth are binarised alike, and at rates that are the grey values."""
    images = np.full((400, *SHAPE), 64, np.uint8)
    ids = [b"%d" % i for i in range(400)]
    values = imputer.model_values(model.likelihood, "sample", 3, ids, images)
    again = imputer.model_values(model.likelihood, "sample", 3, ids[5:6], images[5:6])
    np.testing.assert_array_equal(values[5:6], again)
    assert set(np.unique(values)) == {0.0, 1.0}
    assert abs(values.mean() - 64 / 255) < 0.02  # five standard errors of 12,000 draws
