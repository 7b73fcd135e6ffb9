"""The registry: a sampler is its file and its name, and what runs it takes it from there."""

import dataclasses
import functools
import pathlib
import sys
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from pydantic import Field

from tests import kernels, oracles
from vaefill import config as config_lib
from vaefill.errors import ConfigError
from vaefill.model import samplers
from vaefill.model.config import SamplerConfig
from vaefill.model.counter_random import Purpose
from vaefill.model.engine import chain
from vaefill.model.imputer import Imputer
from vaefill.model.samplers import base

# What the file of a sampler has: importance sampling from a normal distribution about 0.


class Config(SamplerConfig):
    name: Literal["wide_prior"] = "wide_prior"
    width: Annotated[float, Field(gt=0)] = Field(1.0, description="the proposal's deviation")


class State(NamedTuple):
    z: tf.Tensor  # [N, K] latent
    outputs: tf.Tensor  # [N, D * outputs_per_value] decoder outputs at z


def init(vae, rows, sweep, z) -> State:
    return State(z, vae.decoder(z))


def step(vae, width, rows, sweep, state) -> tuple[State, base.Info]:
    loc = tf.zeros_like(state.z)
    scale = width * tf.ones_like(loc)
    z = base.draw_latent(rows, sweep, Purpose.LATENT, loc, scale)
    outputs = vae.decoder(z)
    log_lik = base.log_likelihood(vae.likelihood, outputs, rows.x_observed, rows.observed)
    log_target = log_lik + vae.prior.log_prob(z)
    return State(z, outputs), base.Info.of_weights(log_target - base.normal_log_prob(z, loc, scale))


def build(vae, config: Config) -> base.Kernel:
    return base.Kernel(
        init=functools.partial(init, vae),
        step=functools.partial(step, vae, config.width),
        draws=base.SampleKind.WEIGHTED,
    )


@pytest.fixture
def added(monkeypatch):
    monkeypatch.setitem(samplers.SAMPLERS, "wide_prior", sys.modules[__name__])


@pytest.mark.usefixtures("added")
def test_a_sampler_is_added_by_its_file_and_a_line():
    """With a configuration from YAML it imputes: means within .01 of the exact ones."""
    settings = "{name: wide_prior, width: 1.5, num_start: 0, num_warmup: 2, max_sweeps: 2002}"
    loaded = config_lib.load(None, [f"sampler={settings}", "sampler.num_evidence_draws=0"])
    assert loaded.sampler.width == 1.5 and loaded.sampler.num_chains == 4
    oracle = oracles.TinyBernoulli()
    observed = np.array([True, True, False, False])
    x = np.array([1, 0, 0, 0])
    images = np.tile((255 * x).astype(np.uint8).reshape(1, 1, 4, 1), (8, 1, 1, 1))
    seen = np.tile(observed.reshape(1, 1, 4, 1), (8, 1, 1, 1))
    run = Imputer(oracle.vae, loaded.sampler)
    found = run(images, seen, [b"%d" % index for index in range(8)])
    exact = oracle.missing_posterior(x, observed) @ oracle.completions(x, observed)
    assert found.converged.all() and (found.num_sweeps == 2002).all()
    # No start, an initial state, 2 sweeps of warm-up and 2,000 that are kept, in 4 chains.
    assert (found.num_network_passes == 4 * (0 + 1 + 2 + 2000)).all()
    np.testing.assert_allclose(found.mean.reshape(8, 4).mean(axis=0), exact, atol=0.01)


@pytest.mark.usefixtures("added")
def test_its_settings_are_known_to_be_its_own():
    with pytest.raises(ConfigError, match="wide_prior does not take .*; it takes width beside"):
        config_lib.load(None, ["sampler={name: wide_prior, num_scouts: 3}"])
    with pytest.raises(ConfigError, match="latent_hmc does not take sampler.width; it takes"):
        config_lib.load(None, ["sampler.width=2.0"])
    with pytest.raises(ConfigError, match="^sampler.width: Input should be greater than 0, got -1"):
        config_lib.load(None, ["sampler={name: wide_prior, width: -1}"])


def test_every_file_that_builds_a_kernel_is_registered_under_its_name():
    directory = pathlib.Path(samplers.__file__).parent
    builders = {path.stem for path in directory.glob("*.py") if "def build(" in path.read_text()}
    assert builders - {"__init__"} == set(samplers.SAMPLERS)
    assert all(samplers.sampler_config(name, slots=1024).name == name for name in samplers.SAMPLERS)


def test_a_configuration_is_made_by_name_and_refuses_what_another_takes():
    assert samplers.sampler_config() == samplers.sampler_config(samplers.DEFAULT)
    assert samplers.sampler_config("lair", num_particles=4).rows_per_record == 16
    with pytest.raises(ValueError, match="pseudo_gibbs does not take sampler.num_particles"):
        samplers.sampler_config("pseudo_gibbs", num_particles=4)
    with pytest.raises(ValueError, match="Input should be 'latent_hmc'"):
        samplers.sampler_config("lairr")


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_as_many_network_passes_are_counted_as_there_are(name):
    """Calls of the decoder in 3 sweeps of start, 24 of warm-up, 2 that are kept, and by scouts."""
    oracle = oracles.TinyBernoulli()
    calls = []

    def decoder(z: tf.Tensor) -> tf.Tensor:
        calls.append(z)
        return oracle.vae.decoder(z)

    vae = dataclasses.replace(oracle.vae, decoder=decoder)
    config = kernels.config_of(
        name,
        num_start=3,
        num_warmup=24,
        num_particles=4,
        num_leapfrog_steps=3,
        num_scouts=6,
    )
    kernel, schedule = samplers.build(vae, config), chain.Schedule.of(config)
    x, observed = np.ones(4), np.array([True, True, False, False])
    rows = kernels.rows_of(x, observed, config.rows_per_record, 1, config.rows_per_record)
    tf.config.run_functions_eagerly(True)
    try:
        state = chain.begin(vae, kernel, rows, schedule).state
        for sweep in schedule.kept[:2]:
            state, _ = kernel.step(rows, base.everywhere(rows, sweep), state)
    finally:
        tf.config.run_functions_eagerly(False)
    assert len(calls) == chain.num_passes(kernel, schedule, np.array(2))
