"""Latent-adaptive importance resampling: unnormalised weights that are right whatever the
particles.
"""

import numpy as np
import pytest
import tensorflow as tf

from tests import kernels
from vaefill.model.samplers import base, lair

pytestmark = pytest.mark.slow

LIMIT = 5.5  # standard errors: one score in 2.6e7 is as large by chance
NUM_GROUPS = 4096


def scores(
    variant: str, num_particles: int = 5, num_replenishing: int = 1, num_sweeps: int = 3
) -> np.ndarray:
    """Of powers of z under the weights, and of the weights as estimates of p(x_obs), after some
    sweeps.
    """
    oracle = kernels.plane(variant)
    slots = 32 * num_particles
    config = lair.Config(
        num_particles=num_particles, num_replenishing=num_replenishing, slots=slots
    )
    kernel = lair.build(oracle.vae, config)
    num_rows = NUM_GROUPS * num_particles
    rows = kernels.rows_of(oracle.x, oracle.observed, num_rows, 1, num_particles)
    # Where particles start is of no consequence to what is tested, so all may start at one place.
    start = kernels.program(
        lambda: kernel.init(rows, base.everywhere(rows, 0), tf.ones([num_rows, 2]))
    )()
    state, info = kernels.sweeps(kernel, rows, start, num_sweeps)
    weights = np.exp(info.log_weight.numpy().astype(np.float64)).reshape(NUM_GROUPS, num_particles)
    z = state.z.numpy().astype(np.float64).reshape(NUM_GROUPS, num_particles, 2)
    nodes, posterior = oracle.latent_posterior(oracle.x, oracle.observed)
    of_z = kernels.z_scores(weights, kernels.powers(z), posterior @ kernels.powers(nodes))
    evidence = np.exp(oracle.log_prob_observed(oracle.x, oracle.observed))
    of_weights = kernels.z_scores(
        np.ones([NUM_GROUPS, 1]), weights.mean(axis=1)[:, None, None], evidence
    )
    return np.append(of_z, of_weights)


@pytest.mark.parametrize(
    "variant, num_particles, num_replenishing", [("easy", 5, 1), ("valley", 5, 3)]
)
def test_weighted_draws_and_their_weights(variant, num_particles, num_replenishing):
    found = scores(variant, num_particles, num_replenishing)
    assert np.abs(found).max() < LIMIT, found


def test_without_the_proposals_in_the_weights_it_is_wrong(monkeypatch):
    """Scores of 40 and more; without the prior, whose weights vary wildly, they would be about
    5.
    """
    monkeypatch.setattr(lair, "_mixture_log_prob", lambda z, *_: tf.zeros([z.shape[0]]))
    assert np.abs(scores("valley", 5, 3)).max() > 4 * LIMIT


def test_replenishing_rows_are_the_priors_and_others_follow_the_weights():
    """Groups of 4, two of them replenishing; all start in the mode that the observed values rule
    out.
    """
    oracle, num_rows = kernels.plane("valley"), 4096
    kernel = lair.build(oracle.vae, lair.Config(num_particles=4, num_replenishing=2))
    rows = kernels.rows_of(oracle.x, oracle.observed, num_rows, 2, 4)
    start = kernels.program(
        lambda: kernel.init(rows, base.everywhere(rows, 0), tf.zeros([num_rows, 2]))
    )()
    state, _ = kernels.sweeps(kernel, rows, start, 4)
    z = state.z.numpy().reshape(-1, 4, 2)
    prior = z[:, 2:].reshape(-1, 2)
    # 5.5 errors
    assert np.abs(prior.mean(axis=0)).max() < 0.12 and np.abs(prior.std(axis=0) - 1).max() < 0.09
    assert (np.abs(z[:, :2, 0]) > 0.8).mean() > 0.8 > 0.5 > (np.abs(prior[:, 0]) > 0.8).mean()
    np.testing.assert_array_equal(state.x[:, :2], rows.x_observed[:, :2])
