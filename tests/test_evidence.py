"""log p(x_obs) by importance sampling, against closed form and quadrature, from good proposals and
bad ones.
"""

import numpy as np
import pytest
import tensorflow as tf

from tests import kernels, oracles
from vaefill.model.counter_random import Purpose
from vaefill.model.engine import evidence

pytestmark = pytest.mark.slow

PURPOSES = (Purpose.EVIDENCE_LATENT, Purpose.EVIDENCE_DEFENSIVE)
NUM_RECORDS, ROWS_PER_RECORD = 256, 4
LIMIT = 5.5  # standard errors: one score in 2.6e7 is as large by chance
X = np.array([0.5, -1.0, 1.2, -0.3, 2.0, 0.8])
OBSERVED = np.array([True, False, True, False, False, True])


def estimates(oracle, x, observed, loc, factor, num_draws: int) -> np.ndarray:
    """Of one record many times over, as multiples of the true p(x_obs): [R]."""
    found = [each.log_mean for each in summaries(oracle, x, observed, loc, factor, num_draws)]
    return np.exp(np.array(found) - oracle.log_prob_observed(x, observed))


def summaries(oracle, x, observed, loc, factor, num_draws: int) -> list[evidence.Estimate]:
    """The same with their errors."""
    num_rows = NUM_RECORDS * ROWS_PER_RECORD
    rows = kernels.rows_of(x, observed, num_rows, 1, ROWS_PER_RECORD)
    loc = tf.constant(np.tile(loc, (num_rows, 1)), tf.float32)
    factor = tf.constant(np.tile(factor, (num_rows, 1, 1)), tf.float32)
    program = kernels.program(
        lambda: evidence.log_weights(
            oracle.vae, rows, ROWS_PER_RECORD, loc, factor, num_draws, PURPOSES
        )
    )
    return [evidence.estimate(each) for each in program().numpy()]


def score(found: np.ndarray) -> float:
    return (found.mean() - 1) / (found.std(ddof=1) / np.sqrt(len(found)))


@pytest.mark.parametrize("observed", [OBSERVED, np.ones(6, bool)], ids=["some", "all"])
def test_closed_form(observed):
    """From the posterior itself, widened by a tenth: 64 draws estimate p(x_obs) to 5 % or so,
    without bias.
    """
    oracle = oracles.LinearGaussian()
    posterior = oracle.latent_posterior(X, observed)
    found = estimates(
        oracle, X, observed, posterior.mean, np.linalg.cholesky(posterior.covariance), 64
    )
    assert found.std() < 0.06
    assert abs(score(found)) < LIMIT


@pytest.mark.parametrize("variant", ["easy", "valley"])
def test_quadrature(variant):
    """From the normal that has the posterior's moments, in the valley over both modes."""
    oracle = kernels.plane(variant)
    nodes, posterior = oracle.latent_posterior(oracle.x, oracle.observed)
    mean, covariance = posterior @ nodes, np.cov(nodes.T, aweights=posterior, ddof=0)
    found = estimates(oracle, oracle.x, oracle.observed, mean, np.linalg.cholesky(covariance), 64)
    assert abs(score(found)) < LIMIT


def test_a_proposal_in_the_wrong_place_gives_no_bias():
    """A narrow one far off: the prior's share alone finds the target."""
    oracle = kernels.plane("easy")
    found = estimates(
        oracle, oracle.x, oracle.observed, np.array([3.0, -3.0]), 0.1 * np.eye(2), 1000
    )
    assert 0.02 < found.std() < 0.3
    assert abs(score(found)) < LIMIT


def test_more_draws_than_rows_divide_are_rounded_up():
    """65 draws of 4 rows are 17 a row; each number is used once."""
    oracle = oracles.LinearGaussian()
    posterior = oracle.latent_posterior(X, OBSERVED)
    arguments = (oracle, X, OBSERVED, posterior.mean, np.linalg.cholesky(posterior.covariance))
    np.testing.assert_array_equal(estimates(*arguments, 65), estimates(*arguments, 68))


def test_a_decoder_that_leaves_the_numbers_gives_no_evidence_there():
    """Of z_1 above 1, 16 % of the prior, nothing is known: 84 % is left of the probability 1 of
    nothing observed.
    """
    oracle = kernels.plane("easy")

    def decoder(z):
        return tf.where(z[:, :1] > 1.0, float("nan"), oracle.vae.decoder(z))

    class Broken:
        vae = oracle.vae.__class__(
            oracle.vae.encoder, decoder, oracle.vae.likelihood, oracle.vae.data_shape, 2
        )
        log_prob_observed = oracle.log_prob_observed

    observed = np.arange(8) < 3
    whole = estimates(oracle, oracle.x, observed, np.zeros(2), np.eye(2), 64)
    found = estimates(Broken, oracle.x, observed, np.zeros(2), np.eye(2), 64)
    assert (
        np.isfinite(found).all() and (found <= whole).all() and found.mean() < 0.95 * whole.mean()
    )
