"""The oracles agree with brute force, and the bounds hold at the rates that they state."""

import math

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tests import oracles

pytestmark = pytest.mark.slow

FALSE_ALARM = 1e-6
TINY_X, TINY_OBSERVED = np.array([1.0, 0, 0, 1]), np.array([True, False, False, False])
REAL_X = np.array([0.5, -1.0, 1.2, -0.3, 2.0, 0.8])
REAL_OBSERVED = np.array([True, False, True, False, False, True])


@pytest.fixture(scope="module", params=["easy", "valley"])
def plane(request) -> oracles.PlaneBernoulli:
    return getattr(oracles.PlaneBernoulli, request.param)()


@pytest.fixture(scope="module")
def valley() -> oracles.PlaneBernoulli:
    return oracles.PlaneBernoulli.valley()


# Bounds


def test_ks_distances_are_those_of_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=300), rng.normal(size=200).round(1)
    cdf = scipy.stats.norm.cdf
    assert oracles.ks_distance_to(first, cdf) == pytest.approx(
        scipy.stats.kstest(first, cdf).statistic
    )
    expected = scipy.stats.ks_2samp(first, second).statistic
    assert oracles.ks_distance_between(first, second) == pytest.approx(expected)


def test_dkwm_holds_at_its_rate():
    """Of 4,000 samples at 10 %, no more than 10 % plus Hoeffding's 0.043 are outside, and some
    are.
    """
    rng = np.random.default_rng(1)
    samples = rng.random((4000, 2, 100))
    one = [
        oracles.ks_distance_to(sample, lambda u: u) > oracles.dkwm(100, 0.1)
        for sample in samples[:, 0]
    ]
    two = [
        oracles.ks_distance_between(*pair) > oracles.dkwm_two_sample(100, 100, 0.1)
        for pair in samples
    ]
    slack = oracles.hoeffding(4000, 1, FALSE_ALARM)
    assert 0.02 < np.mean(one) < 0.1 + slack
    assert np.mean(two) < np.mean(one)  # a union bound: looser


def test_sbc_tells_uniform_ranks_from_others():
    rng = np.random.default_rng(2)
    uniform, biased = rng.random(1000), rng.random(1000) ** 1.7
    too_narrow = rng.beta(0.6, 0.6, 1000)  # of draws that are less dispersed than the truth
    found = [
        oracles.sbc_uniform((u * 100).astype(int), 100, 20, FALSE_ALARM)
        for u in (uniform, biased, too_narrow)
    ]
    assert [each.uniform for each in found] == [True, False, False]
    assert found[1].distance > found[1].bound
    assert found[2].p_value < FALSE_ALARM


def test_sbc_holds_at_its_rate():
    """Of 2,000 sets of uniform ranks at 10 %: both tests together alarm in at most 10 %, plus
    0.061.
    """
    rng = np.random.default_rng(3)
    sets = rng.integers(0, 60, (2000, 600))
    alarms = [not oracles.sbc_uniform(ranks, 60, 20, 0.1).uniform for ranks in sets]
    assert 0.02 < np.mean(alarms) < 0.1 + oracles.hoeffding(2000, 1, FALSE_ALARM)


def test_rank_scores_hold_at_their_rate_with_ranks_of_a_record_alike():
    """Of 2,000 sets at 10 %, where the ranks of a record are all the same: 10 %, give or take
    Hoeffding's 0.061.
    """
    rng = np.random.default_rng(4)
    sets = np.repeat(rng.integers(0, 100, (2000, 200, 1)), 3, axis=2)
    alarms = [not oracles.rank_scores(ranks, 100, 0.1).right for ranks in sets]
    assert np.mean(alarms) == pytest.approx(0.1, abs=oracles.hoeffding(2000, 1, FALSE_ALARM))


def test_rank_scores_tell_location_and_width():
    """Within five standard errors of a tenth, of 2,000 ranks."""
    rng = np.random.default_rng(5)
    values = scipy.stats.norm.cdf(0.9 * rng.normal(size=(2000, 10)) + 0.1)
    found = oracles.rank_scores((values * 1000).astype(int), 1000, FALSE_ALARM)
    assert not found.right and found.location == pytest.approx(0.1, abs=0.04)
    assert found.width**2 == pytest.approx(0.82, abs=0.05)


@pytest.mark.parametrize("num_ranks, num_bins", [(100, 30), (100, 100)])
def test_sbc_asks_for_filled_equal_bins(num_ranks, num_bins):
    with pytest.raises(ValueError, match="equal bins"):
        oracles.sbc_uniform(np.zeros(1000, int), num_ranks, num_bins, 0.01)


def test_jsd_of_known_distributions():
    certain, other, even = np.array([1.0, 0]), np.array([0, 1.0]), np.array([0.5, 0.5])
    assert oracles.jsd(even, even) == 0
    assert oracles.jsd(certain, other) == pytest.approx(math.log(2))
    assert oracles.jsd(certain, even) == pytest.approx(0.75 * math.log(4 / 3))


# Bernoulli


def test_network_is_the_oracle(plane):
    """Decoder and encoder in float32 against NumPy in float64."""
    z = np.random.default_rng(4).normal(size=(256, 2))
    x = plane.completions(plane.x, np.zeros(8, bool))
    log_likelihood = plane.vae.log_likelihood(
        tf.constant(z, tf.float32), tf.constant(x, tf.float32)
    )
    expected = np.diag(plane.log_likelihood(z, x, np.ones(8, bool)))
    np.testing.assert_allclose(log_likelihood, expected, rtol=1e-4, atol=1e-4)
    loc, scale = plane.encoder_moments(x)
    encoded = plane.vae.encode(tf.constant(x, tf.float32))
    np.testing.assert_allclose(encoded.mean(), loc, atol=1e-5)
    np.testing.assert_allclose(encoded.stddev(), np.tile(scale, (256, 1)), rtol=1e-5)


def test_tiny_encoder_is_the_oracle():
    tiny = oracles.TinyBernoulli(encoder_slope=4.0)
    x = tiny.completions(TINY_X, TINY_OBSERVED)
    encoded, (loc, scale) = tiny.vae.encode(tf.constant(x, tf.float32)), tiny.encoder_moments(x)
    np.testing.assert_allclose(encoded.mean(), loc, atol=1e-6)
    np.testing.assert_allclose(encoded.stddev(), np.tile(scale, (8, 1)), rtol=1e-6)


def test_probabilities_of_completions_add_up(plane):
    x, observed = plane.x, plane.observed
    completions, posterior = plane.completions(x, observed), plane.missing_posterior(x, observed)
    assert posterior.sum() == pytest.approx(1, abs=1e-12)
    everything = np.ones(8, bool)
    total = sum(math.exp(plane.log_prob_observed(each, everything)) for each in completions)
    assert math.log(total) == pytest.approx(plane.log_prob_observed(x, observed), abs=1e-9)
    for index in (0, 5, 31):
        assert math.exp(plane.log_prob_missing(completions[index], observed)) == pytest.approx(
            posterior[index]
        )


def test_quadrature_agrees_with_draws_from_the_prior(plane):
    """p(x_obs), and p(x_mis | x_obs) by importance weights, from 200,000 draws of z ~ p(z)."""
    x, observed = plane.x, plane.observed
    z = np.random.default_rng(5).normal(size=(200_000, 2))
    # Within 0..1: Hoeffding, 0.006
    weights = np.exp(plane.log_likelihood(z, x[None], observed)[:, 0])
    bound = oracles.hoeffding(len(z), 1, FALSE_ALARM)
    assert abs(weights.mean() - math.exp(plane.log_prob_observed(x, observed))) < bound
    assert (
        oracles.jsd(
            plane.rao_blackwell(z, x, observed, weights), plane.missing_posterior(x, observed)
        )
        < 1e-4
    )


def test_exact_draws(plane):
    """20,000 draws: the CDF of either latent within 0.019, every completion within 0.021."""
    rng, x, observed = np.random.default_rng(6), plane.x, plane.observed
    z = plane.draw_latents(x, observed, 20_000, rng)
    for k in range(2):
        distance = oracles.ks_distance_to(z[:, k], plane.latent_cdf(x, observed, k))
        assert distance < oracles.dkwm(len(z), FALSE_ALARM)
    posterior = plane.missing_posterior(x, observed)
    assert oracles.jsd(plane.rao_blackwell(z, x, observed), posterior) < 1e-3
    draws = plane.draw_missing(z, x, observed, rng)
    np.testing.assert_array_equal(draws[:, observed], np.tile(x[observed], (len(z), 1)))
    matches = (draws[:, None] == plane.completions(x, observed)).all(axis=-1)
    assert np.abs(matches.mean(axis=0) - posterior).max() < oracles.hoeffding(
        len(z), len(posterior), FALSE_ALARM
    )


def sweep(
    plane, z: np.ndarray, x: np.ndarray, metropolis: bool, rng: np.random.Generator
) -> np.ndarray:
    """z' ~ q(z | x), accepted by Metropolis-Hastings or always."""
    loc, scale = plane.encoder_moments(x)
    proposal = loc + scale * rng.normal(size=z.shape)

    def log_ratio(latent):  # log p(x, z) - log q(z | x), but for constants
        logits = plane.logits(latent)
        log_joint = (logits * x - np.logaddexp(0, logits)).sum(axis=1) - 0.5 * (latent**2).sum(
            axis=1
        )
        return log_joint + 0.5 * (((latent - loc) / scale) ** 2).sum(axis=1)

    accept = np.log(rng.random(len(z))) < log_ratio(proposal) - log_ratio(z)
    return np.where((accept | (not metropolis))[:, None], proposal, z)


def test_metropolis_within_gibbs_conserves_exact_draws(plane):
    """A CDF that moved by 0.038 or more would be seen, in 20,000 draws."""
    rng, x, observed = np.random.default_rng(7), plane.x, plane.observed
    start = plane.draw_latents(x, observed, 20_000, rng)
    z = sweep(plane, start, plane.draw_missing(start, x, observed, rng), True, rng)
    assert 0.7 < (z != start).any(axis=1).mean() < 0.9
    for k in range(2):
        distance = oracles.ks_distance_to(z[:, k], plane.latent_cdf(x, observed, k))
        assert distance < oracles.dkwm(len(z), FALSE_ALARM)


def test_pseudo_gibbs_conserves_its_own_distribution(plane):
    rng, x, observed = np.random.default_rng(8), plane.x, plane.observed
    stationary = plane.pseudo_gibbs_stationary(x, observed)
    start = plane.completions(x, observed)[rng.choice(len(stationary), 20_000, p=stationary)]
    z = sweep(plane, np.zeros([20_000, 2]), start, False, rng)
    end = plane.rao_blackwell(z, x, observed)  # means of values within 0..1
    assert np.abs(end - stationary).max() < oracles.hoeffding(len(z), len(stationary), FALSE_ALARM)


def test_pseudo_gibbs_is_wrong(plane, request):
    x, observed = plane.x, plane.observed
    error = oracles.jsd(
        plane.pseudo_gibbs_stationary(x, observed), plane.missing_posterior(x, observed)
    )
    assert error == pytest.approx(
        {"easy": 0.00085, "valley": 0.290}[request.node.callspec.params["plane"]], rel=0.01
    )


def test_metropolis_within_gibbs_cannot_cross_the_valley(valley):
    """A bound by quadrature on how often a stationary chain leaves a mode.

    The flow from mode A to mode B, the integral of min(p(z, x) q(z' | x), p(z', x) q(z | x)) over z
    in A and z' in B, summed over x, is at most the sum over x of min(p(A, x) q(B | x), p(B, x) q(A
    | x)).
    """
    x, observed = valley.x, valley.observed
    nodes, posterior = valley.latent_posterior(x, observed)
    larger = nodes[:, 0] > 0.2
    completions = valley.completions(x, observed)
    joint = posterior[:, None] * np.exp(valley.log_likelihood(nodes, completions, ~observed))
    loc, scale = valley.encoder_moments(completions)
    to_larger = scipy.stats.norm.sf((0.2 - loc[:, 0]) / scale[0])
    in_larger, in_smaller = joint[larger].sum(axis=0), joint[~larger].sum(axis=0)
    flow = np.minimum(in_larger * (1 - to_larger), in_smaller * to_larger).sum()
    assert in_larger.sum() == pytest.approx(0.876, abs=0.01)
    assert flow / in_smaller.sum() < 1 / 2300  # sweeps
    assert flow / in_larger.sum() < 1 / 16_000


# Linear-Gaussian


def test_exact_encoder_is_the_posterior():
    exact = oracles.LinearGaussian()
    posterior = exact.latent_posterior(REAL_X, np.ones(6, bool))
    encoded = exact.vae.encode(tf.constant(REAL_X[None], tf.float32))
    np.testing.assert_allclose(encoded.mean()[0], posterior.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(encoded.covariance()[0], posterior.covariance, rtol=1e-5, atol=1e-7)


def test_wrong_encoder_is_off_by_what_it_says():
    exact, wrong = [
        oracles.LinearGaussian(*each).vae.encode(tf.constant(REAL_X[None], tf.float32))
        for each in [(), (2, 0.5)]
    ]
    np.testing.assert_allclose(wrong.stddev(), 0.5 * exact.stddev(), rtol=1e-5)
    np.testing.assert_allclose(wrong.mean() - exact.mean(), 2 * exact.stddev(), rtol=1e-4)


def test_closed_form_agrees_with_quadrature():
    """On a grid over z: log p(x_obs), the moments of z and x_mis, and log p(x_mis | x_obs)."""
    model = oracles.LinearGaussian()
    axis = np.linspace(-6, 6, 401)
    z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    means = model.vae.decoder(tf.constant(z, tf.float32)).numpy().astype(np.float64)
    each = scipy.stats.norm.logpdf(REAL_X, means, model.stddev)
    prior = np.exp(-0.5 * (z**2).sum(axis=1)) / (2 * np.pi) * (axis[1] - axis[0]) ** 2
    joint = prior * np.exp(each[:, REAL_OBSERVED].sum(axis=1))
    assert math.log(joint.sum()) == pytest.approx(
        model.log_prob_observed(REAL_X, REAL_OBSERVED), abs=1e-5
    )

    weights = joint / joint.sum()
    latent, missing = (
        f(REAL_X, REAL_OBSERVED) for f in (model.latent_posterior, model.missing_posterior)
    )
    np.testing.assert_allclose(weights @ z, latent.mean, atol=1e-5)
    np.testing.assert_allclose(np.cov(z.T, aweights=weights, ddof=0), latent.covariance, atol=1e-5)
    missing_means = means[:, ~REAL_OBSERVED]
    np.testing.assert_allclose(weights @ missing_means, missing.mean, atol=1e-5)
    covariance = np.cov(missing_means.T, aweights=weights, ddof=0) + model.stddev**2 * np.eye(3)
    np.testing.assert_allclose(covariance, missing.covariance, atol=1e-5)
    log_prob = math.log(weights @ np.exp(each[:, ~REAL_OBSERVED].sum(axis=1)))
    assert log_prob == pytest.approx(model.log_prob_missing(REAL_X, REAL_OBSERVED), abs=1e-5)


def test_pseudo_gibbs_with_the_exact_encoder_is_exact():
    model = oracles.LinearGaussian()
    for found, expected in [
        (model.pseudo_gibbs_latent, model.latent_posterior),
        (model.pseudo_gibbs_missing, model.missing_posterior),
    ]:
        np.testing.assert_allclose(
            found(REAL_X, REAL_OBSERVED).mean, expected(REAL_X, REAL_OBSERVED).mean
        )
        np.testing.assert_allclose(
            found(REAL_X, REAL_OBSERVED).covariance, expected(REAL_X, REAL_OBSERVED).covariance
        )


@pytest.mark.parametrize("shift, width", [(0.0, 1.0), (0.5, 1.0), (0.0, 0.5), (0.0, 1.5)])
def test_stationary_pseudo_gibbs_by_simulation(shift, width):
    """10,000 chains of the network itself, 40 sweeps: the CDF of each missing value within 0.027.

    A wrong encoder is seen to be wrong by the same test.
    """
    model, rng = oracles.LinearGaussian(shift, width), np.random.default_rng(9)
    x = np.tile(REAL_X, (10_000, 1)).astype(np.float32)
    for _ in range(40):
        q = model.vae.encode(tf.constant(x))
        z = q.mean() + q.stddev() * rng.normal(size=(len(x), 2)).astype(np.float32)
        draws = model.vae.likelihood.sample(
            model.vae.decoder(z), tf.constant(rng.random(x.shape), tf.float32)
        )
        x = np.where(REAL_OBSERVED, x, draws)
    bound = oracles.dkwm(len(x), FALSE_ALARM)
    missing = x[:, ~REAL_OBSERVED].T

    def distances(target: oracles.Gaussian) -> list[float]:
        return [
            oracles.ks_distance_to(draws, target.cdf(index)) for index, draws in enumerate(missing)
        ]

    assert max(distances(model.pseudo_gibbs_missing(REAL_X, REAL_OBSERVED))) < bound
    exact = max(distances(model.missing_posterior(REAL_X, REAL_OBSERVED))) < bound
    assert exact == ((shift, width) == (0.0, 1.0))


def test_fixed_gaussian():
    likelihood = oracles.FixedGaussian(0.5)
    outputs, x = tf.constant([[1.0, 2.0, -1.0]]), tf.constant([[1.5, 0.0, -1.0]])
    chosen = tf.constant([[True, False, True]])
    each = scipy.stats.norm.logpdf(x, outputs, 0.5)
    np.testing.assert_allclose(
        likelihood.log_prob(outputs, x, chosen), [each[0, 0] + each[0, 2]], rtol=1e-6
    )
    np.testing.assert_allclose(
        likelihood.distribution(outputs).log_prob(x), each.sum(axis=1), rtol=1e-6
    )
    uniform = tf.constant([[0.1, 0.5, 0.999]])
    draws = tf.function(likelihood.sample, jit_compile=True)(outputs, uniform)
    np.testing.assert_allclose(draws, scipy.stats.norm.ppf(uniform, outputs, 0.5), rtol=1e-4)
    mean, variance = likelihood.moments(outputs)
    np.testing.assert_allclose(mean, outputs)
    np.testing.assert_allclose(variance, np.full((1, 3), 0.25))


def test_linear_gaussian_draws_are_those_of_its_closed_form():
    """Latents and missing values, of the mean and the covariance stated: within five standard
    errors of 20,000.
    """
    oracle, rng = oracles.LinearGaussian(), np.random.default_rng(6)
    z = oracle.draw_latents(REAL_X, REAL_OBSERVED, 20_000, rng)
    x = oracle.draw_missing(z, REAL_X, REAL_OBSERVED, rng)
    assert (x[:, REAL_OBSERVED] == REAL_X[REAL_OBSERVED]).all()
    pairs = [(z, oracle.latent_posterior), (x[:, ~REAL_OBSERVED], oracle.missing_posterior)]
    for draws, posterior in pairs:
        mean, covariance = posterior(REAL_X, REAL_OBSERVED)
        np.testing.assert_allclose(
            draws.mean(axis=0), mean, atol=5 * np.sqrt(covariance.max() / 20_000)
        )
        np.testing.assert_allclose(
            np.cov(draws.T), covariance, atol=5 * covariance.max() * np.sqrt(2 / 20_000)
        )


def test_linear_gaussian_log_likelihood_is_that_of_the_model():
    oracle = oracles.LinearGaussian()
    z = np.random.default_rng(7).normal(size=(5, 2)).astype(np.float32)
    known = tf.constant(REAL_OBSERVED[np.newaxis])
    outputs = oracle.vae.decoder(tf.constant(z))
    expected = oracle.vae.likelihood.log_prob(
        outputs, tf.constant(REAL_X[np.newaxis], tf.float32), known
    )
    found = oracle.log_likelihood(z, REAL_X[np.newaxis], REAL_OBSERVED)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
