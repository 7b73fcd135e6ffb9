"""Annealed SMC: weighted particles of p(z | x_obs), an unbiased estimate of p(x_obs), and moves
that are exact.
"""

import numpy as np
import pytest
import tensorflow as tf

from tests import kernels
from vaefill.model.samplers import annealed_smc, base
from vaefill.model.vae import VAE

pytestmark = pytest.mark.slow

FALSE_ALARM = 1e-6  # of each of three comparisons
LIMIT = 5.5  # standard errors: one score in 2.6e7 is as large by chance
NUM_PARTICLES, NUM_GROUPS, NUM_WARMUP = 64, 256, 6
CONFIG = annealed_smc.Config(
    num_particles=NUM_PARTICLES,
    num_chains=2,
    num_warmup=NUM_WARMUP,
    slots=128,
)


def arrived(variant: str) -> tuple[annealed_smc.State, base.Info, base.Rows]:
    """Groups that have come from the prior, and moved once more without adaptation."""
    oracle = kernels.plane(variant)
    kernel = annealed_smc.build(oracle.vae, CONFIG)
    num_rows = NUM_GROUPS * NUM_PARTICLES
    rows = kernels.rows_of(oracle.x, oracle.observed, num_rows, 1, NUM_PARTICLES)
    start = kernels.program(lambda: at_start(oracle.vae, kernel, rows))()
    warm = kernels.program(lambda state: kernel.adapt(rows, range(100, 100 + NUM_WARMUP), state))(
        start
    )
    return *kernels.sweeps(kernel, rows, warm, 1), rows


def at_start(vae: VAE, kernel: base.Kernel, rows: base.Rows) -> annealed_smc.State:
    sweep = base.everywhere(rows, 0)
    return kernel.init(rows, sweep, base.draw_prior(vae, rows, sweep))


def scores(variant: str) -> np.ndarray:
    """Of powers of z under the groups' weights, and of these as estimates of p(x_obs).

    That the powers beta are chosen by the particles biases a group's estimate by a term of
    1 / particles: with 64 of them, and 256 groups, less than what shows.
    """
    oracle = kernels.plane(variant)
    state, info, _ = arrived(variant)
    weights = np.exp(info.log_weight.numpy().astype(np.float64)).reshape(NUM_GROUPS, NUM_PARTICLES)
    z = state.z.numpy().astype(np.float64).reshape(NUM_GROUPS, NUM_PARTICLES, 2)
    nodes, posterior = oracle.latent_posterior(oracle.x, oracle.observed)
    of_z = kernels.z_scores(weights, kernels.powers(z), posterior @ kernels.powers(nodes))
    evidence = np.exp(oracle.log_prob_observed(oracle.x, oracle.observed))
    of_weights = kernels.z_scores(np.ones([NUM_GROUPS, 1]), weights[:, :1, None], evidence)
    return np.append(of_z, of_weights)


@pytest.mark.parametrize("variant", ["easy", "valley"])
def test_particles_and_their_weights(variant):
    found = scores(variant)
    assert np.abs(found).max() < LIMIT, found


def test_without_resampling_it_is_wrong(monkeypatch):
    stay = lambda uniform_numbers, log_weight, size: tf.range(log_weight.shape[0])  # noqa: E731
    monkeypatch.setattr(base, "resample_systematically", stay)
    assert np.abs(scores("valley")).max() > LIMIT


@pytest.mark.parametrize("always", [False, True])
def test_moves_conserve_exact_draws_unless_nothing_is_rejected(always, monkeypatch):
    """A CDF that moved by 0.03, twice the bound, would be seen."""

    def prepare(rows, state):
        at = tf.ones_like(state.beta)
        return state._replace(
            beta=at, step_size=0.9 * at, scale=0.8 * state.scale, centre=state.centre + 0.3
        )

    if always:

        def decision(_, ratio):
            return base.Decision(
                ratio == ratio, tf.ones_like(ratio), tf.zeros_like(ratio, tf.int32)
            )

        monkeypatch.setattr(base, "accept", decision)
    oracle = kernels.plane("valley")
    kernel = annealed_smc.build(oracle.vae, CONFIG)
    found = kernels.movement(
        oracle,
        kernel,
        FALSE_ALARM,
        prepare=prepare,
        rows_per_chain=NUM_PARTICLES,
    )
    assert found.conserved != always, found
    assert found.moved > 0.5


def test_beta_grows_to_one_by_group_and_weights_come_on_arrival():
    oracle = kernels.plane("valley")
    kernel = annealed_smc.build(oracle.vae, CONFIG)
    rows = kernels.rows_of(oracle.x, oracle.observed, 256, 3, NUM_PARTICLES)
    everything, none = tf.range(256) < 64, tf.range(256) >= 192
    observed = (rows.observed | everything[:, None]) & ~none[:, None]
    rows = rows._replace(x_observed=tf.ones_like(rows.x_observed), observed=observed)
    state = at_start(oracle.vae, kernel, rows)
    step = kernels.program(
        lambda sweep, state: kernel.step(rows, base.everywhere(rows, sweep), state)
    )
    betas, weights = [state.beta.numpy()], []
    for sweep in range(1, 12):
        state, info = step(tf.constant(sweep), state)
        betas.append(state.beta.numpy())
        weights.append(info.log_weight.numpy())
    betas, weights = np.array(betas).reshape(12, 4, 64), np.array(weights).reshape(11, 4, 64)
    assert (betas == betas[..., :1]).all() and (np.diff(betas[..., 0], axis=0) >= 0).all()
    assert betas[0].max() == 0 and (betas[-1] == 1).all()
    np.testing.assert_array_equal(np.isfinite(weights), betas[1:] == 1)
    # Nothing observed: p(x_obs) is 1
    assert (betas[1, 3] == 1).all() and np.abs(weights[:, 3]).max() < 1e-4
    sweeps_needed = (betas[..., 0] < 1).sum(axis=0)
    # The more is known, the longer the way
    assert sweeps_needed[0] > sweeps_needed[1] > sweeps_needed[3]
