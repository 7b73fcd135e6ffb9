"""What the model sees: by the rule, the record and the seed, and by nothing else."""

import numpy as np
import pytest

from vaefill.model import datasets, evaluation, likelihoods, preprocessing
from vaefill.model.preprocessing import Preprocessor
from vaefill.model.standardization import Standardization


def test_sampled_binarisation_depends_on_the_record_alone():
    """An image and its truth are binarised alike, and at rates that are the grey values."""
    see = Preprocessor(likelihoods.Bernoulli(), "sample", seed=3)
    images = np.full((400, 28, 28, 1), 64, np.uint8)
    keys = see.keys([b"%d" % i for i in range(400)])
    values = see.to_model(keys, images)
    again = see.to_model(keys[5:6], images[5:6])
    np.testing.assert_array_equal(values[5:6], again)
    assert set(np.unique(values)) == {0.0, 1.0}
    assert abs(values.mean() - 64 / 255) < 0.02  # five standard errors of 12,000 draws


@pytest.mark.parametrize(
    "likelihood, value, seen", [("bernoulli", 128, 1.0), ("discretized_logistic_mixture", 51, 0.2)]
)
def test_calibration_records_look_the_same_to_every_seed(likelihood, value, seen):
    values = np.full((3, 2, 2, 1), value, np.uint8)
    found = [
        Preprocessor(likelihoods.LIKELIHOODS[likelihood](), seed=seed).calibration(values)
        for seed in (0, 9)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0], np.full((3, 4), seen), rtol=1e-6)


def test_digits_are_no_grey_images_and_photographs_are():
    """Every digit by itself, as a job asks of records, and all of them, as training asks; a black
    and white page with the noise of a camera.
    """
    digits = datasets.load_images("digits", "test", (28, 28, 1))
    assert not preprocessing.looks_grey(digits) and digits.shape[0] == 1000
    assert not any(map(preprocessing.looks_grey, digits))
    noise = np.random.default_rng(0).integers(0, 30, digits.shape, dtype=np.uint8)
    assert not preprocessing.looks_grey(np.where(digits > 127, 255 - noise, noise))
    shades = np.linspace(0, 255, 784, dtype=np.uint8)
    assert preprocessing.looks_grey(shades) and preprocessing.looks_grey(shades // 3 + 20)
    assert not preprocessing.looks_grey(shades[:0])


def test_real_values_are_scored_in_their_own_units():
    likelihood = likelihoods.Gaussian()
    likelihood.standardization = Standardization(np.full(2, 300.0), np.full(2, 5.0))
    see, kelvin = Preprocessor(likelihood, "none"), np.float32([[[[310], [290]]]])
    keys, missing = see.keys([b"a"]), np.ones((1, 2), bool)
    np.testing.assert_array_equal(see.to_model(keys, kelvin), [[2, -2]])
    np.testing.assert_array_equal(see.truth(keys, kelvin), [[310, 290]])
    scores = see.score(np.float32([[313, 286]]), see.truth(keys, kelvin), missing)
    np.testing.assert_array_equal(scores.brier, 25)


def test_scores_are_those_of_the_likelihoods_values():
    """Of grey values there is a squared error, and no probability of a 1 to score."""
    mean, truth, missing = (
        np.float32([[0.25, 0.5]]),
        np.float32([[0.75, 0.5]]),
        np.ones((1, 2), np.bool_),
    )
    binary = Preprocessor(likelihoods.Bernoulli()).score(mean, np.float32([[1, 0]]), missing)
    np.testing.assert_allclose(binary.nll, -np.log(0.25) - np.log(0.5))
    grey = Preprocessor(likelihoods.DiscretizedLogisticMixture()).score(mean, truth, missing)
    np.testing.assert_allclose(grey.brier, 0.25)
    assert grey.nll == 0 and isinstance(grey, evaluation.Scores)
