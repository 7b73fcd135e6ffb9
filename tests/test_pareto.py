"""The Pareto shape of importance weights, against ArviZ and on draws whose shape is known."""

import math

import numpy as np
import pytest
import scipy.stats
from arviz_stats.base import array_stats

from vaefill.model import pareto

LIMIT = 5.5  # standard errors: one score in 2.6e7 is as large by chance


def arviz(log_weight: np.ndarray) -> float:
    return float(array_stats.psislw(-log_weight, r_eff=1.0)[1])


@pytest.mark.parametrize("num_draws", [25, 100, 225, 226, 1000, 10_000])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 30.0])
def test_equals_arviz(num_draws, scale):
    """Log-normal weights, whose level is that of log p(x) of many values, in float32."""
    rng = np.random.default_rng(num_draws)
    log_weight = (-700 + scale * rng.normal(size=num_draws)).astype(np.float32)
    assert pareto.shape_of_weights(log_weight) == pytest.approx(
        arviz(log_weight.astype(np.float64)), rel=1e-9
    )


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.3, 0.7, 1.0, 1.5])
def test_exact_draws_of_the_distribution(shape):
    """The mean of 200 estimates from 2,000 excesses each; its standard error is
    (1 + k) / sqrt(400,000).

    The prior of ten draws pulls it by half a per cent of its distance from 1/2, and a bias of a few
    thousandths is left to the estimator: 5.5 standard errors and .01.
    """
    draws = scipy.stats.genpareto(shape, scale=3.0).rvs((200, 2000), random_state=1)
    found = np.mean([pareto.shape(np.sort(each)) for each in draws])
    assert abs(found - shape) < LIMIT * (1 + shape) / math.sqrt(draws.size) + 0.01


def test_weights_of_known_tails():
    """Of 100,000 weights u^-k, a Pareto distribution's, k within 5.5 standard errors:
    (1 + k) / sqrt(948).
    """
    log_uniform = np.log(np.random.default_rng(2).random(100_000))
    for shape in (0.2, 0.5, 0.9):
        found = pareto.shape_of_weights(-shape * log_uniform)
        assert abs(found - shape) < LIMIT * (1 + shape) / math.sqrt(pareto.tail_size(100_000))


def test_scale_and_order_are_of_no_consequence():
    log_weight = np.random.default_rng(3).normal(size=1000)
    moved = np.random.default_rng(4).permutation(log_weight) - 4096.0
    assert pareto.shape_of_weights(moved) == pytest.approx(
        pareto.shape_of_weights(log_weight), abs=1e-9
    )


@pytest.mark.filterwarnings("error")
def test_what_there_is_no_tail_of():
    assert math.isnan(pareto.shape_of_weights(np.arange(24.0)))  # four weights
    assert math.isnan(pareto.shape_of_weights(np.full(1000, -3.0)))
    assert math.isnan(pareto.shape_of_weights(np.full(1000, -math.inf)))
    one = np.full(1000, -math.inf)
    one[7] = -5.0
    assert pareto.shape_of_weights(one) == math.inf
    far = np.random.default_rng(5).normal(size=1000)
    far[3] = 5000.0
    assert pareto.shape_of_weights(far) == math.inf
