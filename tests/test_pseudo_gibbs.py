"""Pseudo-Gibbs reaches its own stationary distribution, known by quadrature, whatever the encoder.

Whether that is p(x_mis | x_obs) is another question: it is where the encoder is exact.
"""

import numpy as np
import pytest
import tensorflow as tf

from tests import kernels, oracles
from vaefill.model import samplers
from vaefill.model.counter_random import Purpose
from vaefill.model.imputer import Imputer
from vaefill.model.preprocessing import Preprocessor
from vaefill.model.samplers import base, pseudo_gibbs

pytestmark = pytest.mark.slow

FALSE_ALARM = 1e-6
NUM_CHAINS = 8192
X, OBSERVED = np.array([1.0, 0, 0, 1]), np.array([True, False, False, False])


def frequencies(oracle: oracles.TinyBernoulli, step, num_sweeps: int = 20) -> np.ndarray:
    """How often each completion comes last in independent chains from the prior."""
    rows = kernels.rows_of(X, OBSERVED, NUM_CHAINS, seed=1)

    @tf.function
    def run():
        state = pseudo_gibbs.init(
            oracle.vae,
            rows,
            base.everywhere(rows, 0),
            tf.random.stateless_normal([NUM_CHAINS, 1], [1, 2]),
        )
        for sweep in tf.range(1, num_sweeps + 1):
            state, _ = step(oracle.vae, rows, base.everywhere(rows, sweep), state)
        return state.x

    last = run().numpy()
    np.testing.assert_array_equal(last[:, OBSERVED], np.tile(X[OBSERVED], (NUM_CHAINS, 1)))
    codes = (last[:, ~OBSERVED] @ [4, 2, 1]).astype(int)
    return np.bincount(codes, minlength=8) / NUM_CHAINS


@pytest.mark.parametrize("encoder_slope", [0.0, 1.0, 4.0])
def test_stationary_distribution(encoder_slope):
    """All eight completions within Hoeffding's bound, 0.032 at a false-alarm rate of 1e-6."""
    oracle = oracles.TinyBernoulli(encoder_slope=encoder_slope)
    expected = oracle.pseudo_gibbs_stationary(X, OBSERVED)
    bound = oracles.hoeffding(NUM_CHAINS, 8, FALSE_ALARM)
    assert np.abs(frequencies(oracle, pseudo_gibbs.step) - expected).max() < bound


def test_a_wrong_sampler_fails_the_same_test():
    """A sampler that draws z from the prior instead of q is seen to be wrong."""
    oracle = oracles.TinyBernoulli(encoder_slope=4.0)

    def step(vae, rows, sweep, state):
        zeros = tf.zeros_like(state.z)
        z = base.draw_latent(rows, sweep, Purpose.LATENT, zeros, tf.ones_like(zeros))
        outputs = vae.decoder(z)
        return pseudo_gibbs.State(
            base.draw_values(vae, rows, sweep, Purpose.VALUES, outputs), z, outputs
        ), None

    expected = oracle.pseudo_gibbs_stationary(X, OBSERVED)
    assert np.abs(frequencies(oracle, step) - expected).max() > oracles.hoeffding(
        NUM_CHAINS, 8, FALSE_ALARM
    )


def test_chains_start_from_draws_of_the_model():
    """Before any sweep z ~ p(z): either CDF within 0.03."""
    oracle = kernels.plane("easy")
    rows = kernels.rows_of(oracle.x, oracle.observed, NUM_CHAINS, seed=2)
    z = kernels.program(lambda: pseudo_gibbs.start(oracle.vae, rows, range(1)))().numpy()
    everything = np.zeros(8, bool)
    for k in range(2):
        distance = oracles.ks_distance_to(z[:, k], oracle.latent_cdf(oracle.x, everything, k))
        assert distance < oracles.dkwm(NUM_CHAINS, FALSE_ALARM)


def test_mean_of_the_imputer_is_the_stationary_mean():
    """Means over 256 records, 2 chains and 100 sweeps: within 0.02, nine times
    0.5 / sqrt(51,200).
    """
    oracle = oracles.TinyBernoulli(encoder_slope=4.0)
    num = 256
    images = np.tile((X * 255).astype(np.uint8).reshape(1, 1, 4, 1), (num, 1, 1, 1))
    observed = np.tile(OBSERVED.reshape(1, 1, 4, 1), (num, 1, 1, 1))
    config = samplers.sampler_config(
        name="pseudo_gibbs", num_chains=2, num_start=20, num_warmup=0, max_sweeps=120,
        num_imputations=2, num_evidence_draws=0, target_ess=1e9, slots=512,
    )  # fmt: skip
    result = Imputer(oracle.vae, config, Preprocessor(oracle.vae.likelihood, seed=2))(
        images, observed, [b"%d" % i for i in range(num)]
    )
    stationary = oracle.pseudo_gibbs_stationary(X, OBSERVED)
    expected = stationary @ oracle.completions(X, OBSERVED)
    np.testing.assert_allclose(result.mean.reshape(num, 4).mean(axis=0), expected, atol=0.02)
    binary_stddev = np.sqrt(result.mean * (1 - result.mean))
    np.testing.assert_allclose(result.stddev[~observed], binary_stddev[~observed], atol=1e-3)
