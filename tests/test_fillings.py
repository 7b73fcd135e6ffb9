"""What people use to fill in: what is observed stays, and the rest is as good as it can be."""

import sys

import numpy as np
import pytest

from vaefill.errors import ConfigError
from vaefill.experiments import comparison, fillings, peers
from vaefill.model import checkpoints
from vaefill.model import vae as vae_lib
from vaefill.model.config import ModelConfig
from vaefill.model.preprocessing import Preprocessor
from vaefill.model.standardization import estimate

pytestmark = pytest.mark.slow

MASK = "mcar_50"


@pytest.fixture(scope="module")
def model(model_directory):
    return checkpoints.load(model_directory)


def patterns(model) -> tuple[comparison.Task, np.ndarray, np.ndarray]:
    """Records that are one of two digits, half observed, and complete ones to learn from."""
    digits = comparison.task(model, "digits", "test", 2)
    which = np.random.default_rng(0).integers(0, 2, 40)
    records = comparison.Task(
        digits.images[which],
        [b"%d" % index for index in range(40)],
        digits.truth[which],
        digits.preprocessor,
    )
    return records, records.observed(MASK), digits.truth[np.arange(60) % 2]


@pytest.mark.parametrize("method", ("zeros", "mean", "knn"))
def test_a_filling_leaves_what_is_observed_and_is_right_where_it_can_be(model, method):
    records, observed, complete = patterns(model)
    filled = fillings.fill(method, records, observed, complete)
    known = observed.reshape(40, -1)
    np.testing.assert_array_equal(filled.values[:, 0][known], records.truth[known])
    missing = filled.values[:, 0][~known]
    if method == "zeros":
        assert not missing.any()
    elif method == "mean":
        assert set(np.unique(missing)) <= {0, 0.5, 1} and 0.5 in missing
    else:
        np.testing.assert_allclose(missing, records.truth[~known], atol=0.2)
    assert filled.seconds > 0 and np.array_equal(filled.mean, filled.values[:, 0])


@pytest.mark.parametrize("method", fillings.FILLINGS)
def test_real_values_are_filled_in_in_their_own_units(method):
    generator = np.random.default_rng(0)
    common = generator.normal(size=(80, 1))
    kelvin = (290 + 5 * common + generator.normal(0, 1.5, (80, 6))).astype(np.float32)
    config = ModelConfig(latent_size=1, hidden=(2,), likelihood="gaussian")
    likelihood = vae_lib.build(config, (2, 3, 1), 0, estimate(kelvin)).likelihood
    see = Preprocessor(likelihood)
    ids = [b"%d" % index for index in range(20)]
    records = comparison.Task(kelvin[:20].reshape(-1, 2, 3, 1), ids, kelvin[:20], see)
    complete = likelihood.from_data(kelvin[20:], None)
    filled = fillings.fill(method, records, records.observed(MASK), complete)
    scores = peers.scores(filled, records, records.observed(MASK))
    assert set(scores) == {"num_unscored", "brier"}
    rmse = np.sqrt(scores["brier"])  # the mean is 5 K off, and what the others say, 1.5 and more
    assert (3.5 < rmse < 7) if method in ("zeros", "mean") else (1 < rmse < 3)


def test_without_scikit_learn_the_others_are_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    fillings.check_installed(["zeros", "mean", "latent_hmc"])
    with pytest.raises(ConfigError, match=r"knn and iterative need .* 'vaefill\[peers\]'"):
        fillings.check_installed(peers.METHODS)
