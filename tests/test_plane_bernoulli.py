"""Samplers against quadrature: p(x_mis | x_obs) of two small Bernoulli VAEs, one of them with a
valley.
"""

import numpy as np
import pytest

from tests import kernels, oracles
from vaefill.model import samplers
from vaefill.model.engine import chain

pytestmark = pytest.mark.slow

LARGEST_JSD = 0.005  # nats
NUM_ROWS = 1024
# Of four estimates, from a quarter of the rows each: 256 chains, 32 groups of LAIR, 4 of annealed
# SMC
SETTINGS = {
    "latent_hmc": {"num_warmup": 60, "max_sweeps": 580},
    "ac_mwg": {"num_warmup": 300, "max_sweeps": 820},
    "lair": {"num_warmup": 0, "max_sweeps": 120, "num_particles": 8},
    "importance_resampling": {"num_warmup": 0, "max_sweeps": 120},
    "annealed_smc": {"num_warmup": 20, "max_sweeps": 40, "num_particles": 64, "num_chains": 4},
}


def run(name: str, variant: str, num_rows: int = NUM_ROWS, **settings) -> chain.Trace:
    """What the chains of one record leave, under many keys."""
    oracle = kernels.plane(variant)
    config = kernels.config_of(name, **{"num_start": 20, "slots": NUM_ROWS} | settings)
    rows = kernels.rows_of(oracle.x, oracle.observed, num_rows, 13, config.rows_per_record)
    schedule = chain.Schedule.of(config)
    return kernels.kept_sweeps(oracle.vae, samplers.build(oracle.vae, config), rows, schedule)


def divergences(variant: str, trace: chain.Trace, num_estimates: int) -> list[float]:
    """Of p(x_mis | x_obs) over completions, by p(x_mis | z) at every kept z and its weight, from
    quadrature.
    """
    oracle = kernels.plane(variant)
    exact, found = oracle.missing_posterior(oracle.x, oracle.observed), []
    for z, log_weight in zip(
        *(np.split(field, num_estimates, axis=1) for field in (trace.z, trace.log_weight))
    ):
        z, weights = (
            z.reshape(-1, 2).astype(np.float64),
            np.exp(log_weight.ravel().astype(np.float64)),
        )
        found.append(
            oracles.jsd(oracle.rao_blackwell(z, oracle.x, oracle.observed, weights), exact)
        )
    return found


@pytest.mark.parametrize("variant", ["easy", "valley"])
@pytest.mark.parametrize("name", SETTINGS)
def test_divergence_from_quadrature(name, variant):
    found = divergences(variant, run(name, variant, **SETTINGS[name]), 4)
    assert max(found) < LARGEST_JSD, found


def crossings(trace: chain.Trace) -> np.ndarray:
    """How often each chain goes from one mode of the valley to the other: [N]."""
    larger = trace.z[..., 0] > 0.2
    return (larger[1:] != larger[:-1]).sum(axis=0)


def test_metropolis_within_gibbs_sticks_in_the_valley():
    """Of 256 chains few ever cross in 500 kept sweeps, so that all together are wrong."""
    trace = run("metropolis_within_gibbs", "valley", 256, num_warmup=0, max_sweeps=520)
    assert (crossings(trace) > 0).mean() < 0.1
    assert divergences("valley", trace, 1)[0] > 0.05


def test_latent_hmc_crosses_the_valley():
    trace = run("latent_hmc", "valley", 256, num_warmup=60, max_sweeps=580)
    assert (crossings(trace) > 0).mean() > 0.6


def test_pseudo_gibbs_is_wrong_in_the_valley():
    """It crosses into wrong weights: a divergence of 0.29 in the end, by quadrature."""
    trace = run("pseudo_gibbs", "valley", 256, num_warmup=0, max_sweeps=520)
    assert divergences("valley", trace, 1)[0] > 0.05
