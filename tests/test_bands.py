"""Bands hold what is observed, the smallest is found by the mask alone, and chains work as well in
one.
"""

import dataclasses

import numpy as np
import pytest

from tests import kernels
from vaefill.model import imputer, vae
from vaefill.model.config import ModelConfig
from vaefill.model.engine.bands import WHOLE, Bands
from vaefill.model.preprocessing import Preprocessor

pytestmark = pytest.mark.slow

_SHAPE = (28, 20, 2)


def rectangle(shape, rows, columns) -> np.ndarray:
    observed = np.zeros((1, *shape), np.bool_)
    observed[:, rows, columns] = True
    return observed.reshape(1, -1)


@pytest.mark.parametrize(
    "rows, columns, expected",
    [
        (slice(0, 7), slice(0, 20), (slice(0, 7), slice(0, 20))),
        (slice(21, 28), slice(3, 17), (slice(21, 28), slice(0, 20))),
        (slice(2, 26), slice(5, 10), (slice(0, 28), slice(5, 10))),
        (slice(0, 8), slice(0, 20), (slice(0, 14), slice(0, 20))),
        (slice(0, 28), slice(9, 20), (slice(0, 28), slice(0, 20))),
        (slice(0, 28), slice(10, 20), (slice(0, 28), slice(10, 20))),
        (slice(9, 17), slice(4, 16), (slice(0, 28), slice(0, 20))),
    ],
)
def test_the_smallest_band_that_holds_what_is_observed(rows, columns, expected):
    bands = Bands(_SHAPE)
    (band,) = bands.find(rectangle(_SHAPE, rows, columns))
    (values,) = np.nonzero(rectangle(_SHAPE, *expected)[0])
    assert np.array_equal(np.sort(bands.values(band)), values)


def test_a_value_beside_the_band_is_not_left_out():
    bands, observed = Bands(_SHAPE), rectangle(_SHAPE, slice(0, 7), slice(0, 20))
    observed[0, -1] = True
    assert bands.find(observed).tolist() == [WHOLE]


def test_the_whole_where_nothing_or_everything_is_observed_and_in_small_images():
    ones = np.ones((1, 28 * 20 * 2), np.bool_)
    assert Bands(_SHAPE).find(np.concatenate([ones, ~ones])).tolist() == [WHOLE, WHOLE]
    assert Bands((8, 8, 1)).find(rectangle((8, 8, 1), slice(0, 2), slice(0, 8))).tolist() == [WHOLE]


@pytest.mark.parametrize("shape", [(1, 300, 1), (300, 1, 1), (3, 101, 1), (30, 29, 1)])
def test_every_value_is_in_some_part_of_images_of_any_shape(shape):
    bands = Bands(shape)
    for value in range(np.prod(shape)):
        observed = np.arange(np.prod(shape))[np.newaxis] == value
        (band,) = bands.find(observed)
        assert band != WHOLE and value in bands.values(band)


# Records of all kinds, of 17 x 16 values.

_IMAGE = (17, 16, 1)
_PARTS = [np.s_[9:], np.s_[:, 12:], np.s_[3:12, 3:12], np.s_[:0]] * 2  # the last: nothing observed


def make_model(likelihood: str, width: int) -> vae.VAE:
    return vae.build(
        ModelConfig(likelihood=likelihood, latent_size=3, hidden=(width, width)), _IMAGE, seed=1
    )


def make_imputer(model: vae.VAE, name: str, precision: str) -> imputer.Imputer:
    settings = {
        "num_chains": 2,
        "num_particles": 4,
        "num_leapfrog_steps": 2,
        "num_evidence_draws": 8,
        "slots": 32,
    }
    sweeps = {"num_start": 2, "num_warmup": 7, "max_sweeps": 14, "num_imputations": 2}
    return imputer.Imputer(
        model,
        kernels.config_of(name, precision=precision, **settings, **sweeps),
        Preprocessor(model.likelihood, seed=7),
    )


def impute(run: imputer.Imputer, chosen, likelihood: str = "bernoulli") -> imputer.Imputed:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (len(_PARTS), *_IMAGE)).astype(np.uint8)
    if likelihood == "gaussian":
        images = images / np.float32(255)
    observed = np.zeros(images.shape, np.bool_)
    for each, part in zip(observed, _PARTS):
        each[part] = generator.random(each[part].shape) < 0.5
    return run(images[chosen], observed[chosen], [b"%d" % index for index in chosen])


@pytest.mark.parametrize(
    "name, precision",
    [("latent_hmc", "float32"), ("latent_hmc", "bfloat16"), ("annealed_smc", "float32")],
)
def test_the_same_bits_in_any_company(name, precision):
    run, everybody = (
        make_imputer(make_model("bernoulli", 96), name, precision),
        list(range(len(_PARTS))),
    )
    together = impute(run, everybody)
    for chosen in ([0], [3], [7, 1], everybody[::-1]):
        for field, whole in zip(impute(run, chosen), together):
            assert field.tobytes() == whole[chosen].tobytes()


@pytest.mark.parametrize(
    "name, likelihood",
    [
        ("latent_hmc", "bernoulli"),
        ("latent_hmc", "discretized_logistic_mixture"),
        ("latent_hmc", "gaussian"),
        ("annealed_smc", "bernoulli"),
    ],
)
def test_chains_do_the_same_whether_the_rest_is_left_out_or_not(name, likelihood):
    """Of a decoder that is any function no outputs can be left out: there is one program."""
    model = make_model(likelihood, 16)
    banded = make_imputer(model, name, "float32")
    whole = make_imputer(
        dataclasses.replace(model, decoder=lambda z: model.decoder(z)), name, "float32"
    )
    found = [impute(run, list(range(len(_PARTS))), likelihood) for run in (banded, whole)]
    for field, one, other in zip(imputer.Imputed._fields, *found):
        if field == "chains":  # none were kept
            continue
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3, err_msg=field)
    assert len(banded._slots) == 3 and len(whole._slots) == 1
