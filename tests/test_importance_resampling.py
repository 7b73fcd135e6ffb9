"""Importance resampling from the encoder and the prior: weights that are right whatever the
fill.
"""

import numpy as np
import pytest
import tensorflow as tf

from tests import kernels
from vaefill.model import priors
from vaefill.model.samplers import base, importance_resampling

pytestmark = pytest.mark.slow

LIMIT = 5.5  # standard errors: one score in 2.6e7 is as large by chance
NUM_ROWS = 16_384


def scores(variant: str, prior_fraction: float = 0.3) -> np.ndarray:
    """Of powers of z under the weights, and of the weights as estimates of p(x_obs)."""
    oracle = kernels.plane(variant)
    kernel = importance_resampling.build(
        oracle.vae,
        importance_resampling.Config(prior_fraction=prior_fraction),
    )
    rows = kernels.rows_of(oracle.x, oracle.observed, NUM_ROWS, 1)
    start = kernels.program(
        lambda: kernel.init(rows, base.everywhere(rows, 0), tf.ones([NUM_ROWS, 2]))
    )()
    state, info = kernels.sweeps(kernel, rows, start, 1)
    weights = np.exp(info.log_weight.numpy().astype(np.float64))[:, None]
    nodes, posterior = oracle.latent_posterior(oracle.x, oracle.observed)
    z = state.z.numpy().astype(np.float64)[:, None]
    of_z = kernels.z_scores(weights, kernels.powers(z), posterior @ kernels.powers(nodes))
    evidence = np.exp(oracle.log_prob_observed(oracle.x, oracle.observed))
    return np.append(of_z, kernels.z_scores(np.ones_like(weights), weights[..., None], evidence))


@pytest.mark.parametrize("variant", ["easy", "valley"])
def test_weighted_draws_and_their_weights(variant):
    found = scores(variant)
    assert np.abs(found).max() < LIMIT, found


def test_without_the_prior_in_the_weights_it_is_wrong(monkeypatch):
    monkeypatch.setattr(priors.StandardNormal, "log_prob", lambda self, z: tf.zeros([z.shape[0]]))
    assert np.abs(scores("valley")).max() > LIMIT


def test_the_proposal_stays_and_the_priors_share_bounds_the_weights():
    oracle = kernels.plane("easy")
    kernel = importance_resampling.build(
        oracle.vae,
        importance_resampling.Config(prior_fraction=0.5),
    )
    rows = kernels.rows_of(oracle.x, oracle.observed, NUM_ROWS, 2)
    start = kernel.init(rows, base.everywhere(rows, 0), tf.ones([NUM_ROWS, 2]))
    # a narrow proposal in the wrong place
    start = start._replace(loc=start.loc + 2.0, scale=0.1 * start.scale)
    state, info = kernels.sweeps(kernel, rows, start, 2)
    assert info.log_weight.numpy().max() < np.log(1.001 / 0.5)
    for name in ("loc", "scale"):
        np.testing.assert_array_equal(getattr(state, name), getattr(start, name))
