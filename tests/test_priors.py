"""A learnt prior: a density, and samplers that are exact under it."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests import kernels
from vaefill.model import priors, samplers
from vaefill.model.compiled import compile_vae
from vaefill.model.config import ModelConfig
from vaefill.model.counter_random import Purpose
from vaefill.model.engine import evidence
from vaefill.model.samplers import base
from vaefill.model.vae import VAE, build

pytestmark = pytest.mark.slow

LIMIT = 5.5  # standard errors: one score in 2.6e7 is as large by chance
NUM_GROUPS, SIZE = 256, 64  # rows, as groups that are independent
CHAINS = ("metropolis_within_gibbs", "ac_mwg", "latent_hmc")


def flow(latent_size: int, strength: float = 1.0) -> priors.Flow:
    """Couplings far from the identity."""
    found = priors.build(ModelConfig(prior="flow", latent_size=latent_size), seed=0)
    rng = np.random.default_rng(0)
    for network in priors.networks(found):
        for weight in network.weights:
            noise = rng.normal(size=weight.shape) * strength / np.sqrt(weight.shape[0])
            weight.assign(weight.numpy() + noise.astype(np.float32))
    return found


def test_a_fresh_flow_is_standard_normal():
    z = tf.random.stateless_normal([5, 4], [1, 2])
    fresh = priors.build(ModelConfig(prior="flow", latent_size=4), seed=0)
    np.testing.assert_array_equal(fresh.draw(z), z)
    np.testing.assert_allclose(fresh.log_prob(z), priors.STANDARD_NORMAL.log_prob(z), rtol=1e-6)
    np.testing.assert_allclose(fresh.score(z), -z, rtol=1e-6)


@pytest.mark.parametrize("latent_size", [2, 3, 32])
def test_a_flows_density_is_that_of_its_draws(latent_size):
    """By the change of variables, with the Jacobian of `draw` by automatic differentiation."""
    found = flow(latent_size, 0.5)
    noise = tf.random.stateless_normal([7, latent_size], [1, 2])
    with tf.GradientTape() as tape:
        tape.watch(noise)
        z = found.draw(noise)
    _, log_det = np.linalg.slogdet(tape.batch_jacobian(z, noise).numpy().astype(np.float64))
    assert np.abs(z - noise).max() > 0.3
    np.testing.assert_allclose(
        found.log_prob(z), priors.STANDARD_NORMAL.log_prob(noise) - log_det, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(found.noise(z), noise, rtol=1e-4, atol=1e-4)


def test_a_score_is_the_densitys_slope():
    found = flow(3, 0.5)
    z, step = np.random.default_rng(1).normal(size=(6, 3)), 1e-2
    for k, unit in enumerate(step * np.eye(3)):
        ahead, behind = (found.log_prob(tf.constant(z + s * unit, tf.float32)) for s in (1, -1))
        slope = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(found.score(tf.constant(z, tf.float32))[:, k], slope, atol=2e-2)


def test_compiled_it_is_the_same():
    vae = dataclasses.replace(build(ModelConfig(latent_size=4), (3, 3, 1)), prior=flow(4))
    z = tf.random.stateless_normal([5, 4], [1, 2])
    frozen = compile_vae(vae, "float32").prior
    expected = vae.prior.log_prob(z)
    for network in priors.networks(vae.prior):
        for weight in network.weights:
            weight.assign(tf.zeros_like(weight))
    np.testing.assert_allclose(frozen.log_prob(z), expected, rtol=1e-4)


@pytest.fixture(scope="module")
def bent() -> VAE:
    """A model with an oracle in other coordinates: z = f(u), u ~ N(0, I), and u is decoded. What is
    known of u given x_obs holds of the u that belong to draws of z.
    """
    plain, prior = kernels.plane("easy").vae, flow(2)
    return dataclasses.replace(plain, prior=prior, decoder=lambda z: plain.decoder(prior.noise(z)))


def scores(name: str, vae: VAE, prior: priors.Flow) -> np.ndarray:
    """Of powers of u under a sampler's weights, after three sweeps; chains start from exact
    draws.
    """
    oracle, num_rows = kernels.plane("easy"), NUM_GROUPS * SIZE
    num_particles = SIZE if name == "annealed_smc" else 8
    config = kernels.config_of(name, num_particles=num_particles, num_start=1, num_warmup=6)
    kernel = samplers.build(vae, config)
    rows = kernels.rows_of(oracle.x, oracle.observed, num_rows, 1, config.rows_per_chain)
    first = base.everywhere(rows, 0)
    if name == "annealed_smc":
        z = base.draw_prior(vae, rows, first)
    else:
        rng = np.random.default_rng(2)
        exact = oracle.draw_latents(oracle.x, oracle.observed, num_rows, rng)
        z = prior.draw(tf.constant(exact, tf.float32))
    state = kernels.program(lambda z: kernel.init(rows, first, z))(z)
    if name == "annealed_smc":
        warm_up = kernels.program(lambda state: kernel.adapt(rows, range(10, 16), state))
        state = warm_up(state)
    state, info = kernels.sweeps(kernel, rows, state, 3)
    weights = np.exp(info.log_weight.numpy().astype(np.float64)).reshape(NUM_GROUPS, SIZE)
    u = prior.noise(state.z).numpy().astype(np.float64).reshape(NUM_GROUPS, SIZE, 2)
    nodes, posterior = oracle.latent_posterior(oracle.x, oracle.observed)
    return kernels.z_scores(weights, kernels.powers(u), posterior @ kernels.powers(nodes))


@pytest.mark.parametrize("name", [*CHAINS, "importance_resampling", "lair", "annealed_smc"])
def test_samplers_are_exact_under_a_flow(name, bent):
    found = scores(name, bent, bent.prior)
    assert np.abs(found).max() < LIMIT, found


@pytest.mark.parametrize("name", [*CHAINS, "lair"])
def test_with_another_prior_they_are_not(name, bent):
    wrong = dataclasses.replace(bent, prior=priors.STANDARD_NORMAL)
    assert np.abs(scores(name, wrong, bent.prior)).max() > LIMIT


def test_evidence_under_a_flow(bent):
    """The mean of independent weights is p(x_obs)."""
    oracle = kernels.plane("easy")
    rows = kernels.rows_of(oracle.x, oracle.observed, 256, 3)
    centre = bent.prior.draw(tf.zeros([256, 2]))
    log_weights = kernels.program(
        lambda: evidence.log_weights(
            bent,
            rows,
            1,
            centre,
            tf.eye(2, batch_shape=[256]),
            100,
            tf.constant([Purpose.EVIDENCE_LATENT, Purpose.EVIDENCE_DEFENSIVE]),
        )
    )().numpy()
    weights = np.exp(log_weights.astype(np.float64)).reshape(-1, 1, 1)
    expected = np.exp(oracle.log_prob_observed(oracle.x, oracle.observed))
    found = kernels.z_scores(np.ones(weights.shape[:2]), weights, expected)
    assert np.abs(found).max() < LIMIT, found
