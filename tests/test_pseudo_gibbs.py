"""Pseudo-Gibbs reaches its own stationary distribution, known by quadrature, whatever the encoder.

Whether that is p(x_mis | x_obs) is another question: it is where the encoder is exact.
"""

import numpy as np
import pytest
import tensorflow as tf

from model import counter_random
from model.config import SamplerConfig
from model.counter_random import Draw, Streams
from model.imputer import Imputer
from model.sampling import base, chain, pseudo_gibbs
from tests import oracles

FALSE_ALARM = 1e-6
NUM_CHAINS = 8192
X, OBSERVED = np.array([1.0, 0, 0, 1]), np.array([True, False, False, False])


def frequencies(oracle: oracles.TinyBernoulli, kernel: base.Kernel, num_sweeps: int = 20) -> np.ndarray:
    """How often each completion comes last in independent chains."""
    keys = np.stack([counter_random.record_key(1, b"%d" % row) for row in range(NUM_CHAINS)])
    rows = base.Rows(
        Streams(tf.constant(keys), tf.zeros([NUM_CHAINS], tf.uint32)),
        tf.constant(np.tile(X, (NUM_CHAINS, 1)), tf.float32),
        tf.constant(np.tile(OBSERVED, (NUM_CHAINS, 1))),
    )
    plan = chain.schedule(num_warmup=0, num_sweeps=num_sweeps, num_draws=1)
    last = tf.function(lambda: chain.run(oracle.vae, kernel, rows, plan).draws)()[0].numpy()
    codes = (last[:, ~OBSERVED] @ [4, 2, 1]).astype(int)
    np.testing.assert_array_equal(last[:, OBSERVED], np.tile(X[OBSERVED], (NUM_CHAINS, 1)))
    return np.bincount(codes, minlength=8) / NUM_CHAINS


@pytest.mark.parametrize("encoder_slope", [0.0, 1.0, 4.0])
def test_stationary_distribution(encoder_slope):
    """All eight completions within Hoeffding's bound, 0.032 at a false-alarm rate of 1e-6."""
    oracle = oracles.TinyBernoulli(encoder_slope=encoder_slope)
    expected = oracle.pseudo_gibbs_stationary(X, OBSERVED)
    bound = oracles.hoeffding(NUM_CHAINS, 8, FALSE_ALARM)
    assert np.abs(frequencies(oracle, pseudo_gibbs.build(oracle.vae)) - expected).max() < bound


def test_a_wrong_sampler_fails_the_same_test():
    """A sampler that draws z from the prior instead of q is seen to be wrong."""
    oracle = oracles.TinyBernoulli(encoder_slope=4.0)

    def step(rows, sweep, state):
        zeros = tf.zeros_like(state.z)
        z = base.draw_latent(rows, sweep, Draw.LATENT, zeros, tf.ones_like(zeros))
        outputs = oracle.vae.decoder(z)
        x = base.draw_values(oracle.vae, rows, sweep, Draw.VALUES, outputs)
        return pseudo_gibbs.State(x, z, outputs), pseudo_gibbs.Info(tf.ones([NUM_CHAINS]))

    wrong = pseudo_gibbs.build(oracle.vae)._replace(step=step)
    expected = oracle.pseudo_gibbs_stationary(X, OBSERVED)
    assert np.abs(frequencies(oracle, wrong) - expected).max() > oracles.hoeffding(NUM_CHAINS, 8, FALSE_ALARM)


def test_mean_of_the_imputer_is_the_stationary_mean():
    """Means over 256 records, 2 chains and 100 sweeps: within 0.02, nine times 0.5 / sqrt(51,200)."""
    oracle = oracles.TinyBernoulli(encoder_slope=4.0)
    num = 256
    images = np.tile((X * 255).astype(np.uint8).reshape(1, 1, 4, 1), (num, 1, 1, 1))
    observed = np.tile(OBSERVED.reshape(1, 1, 4, 1), (num, 1, 1, 1))
    config = SamplerConfig(num_chains=2, num_warmup=20, max_sweeps=120, num_imputations=2, slots=512)
    result = Imputer(oracle.vae, config, seed=2)(images, observed, [b"%d" % i for i in range(num)])
    stationary = oracle.pseudo_gibbs_stationary(X, OBSERVED)
    expected = stationary @ oracle.completions(X, OBSERVED)
    np.testing.assert_allclose(result.mean.reshape(num, 4).mean(axis=0), expected, atol=0.02)
    binary_stddev = np.sqrt(result.mean * (1 - result.mean))
    np.testing.assert_allclose(result.stddev[~observed], binary_stddev[~observed], atol=1e-3)
