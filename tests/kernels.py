"""Samplers outside the chain driver, and models that test modules share, so that each is compiled
once.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tests import oracles
from vaefill.model import samplers
from vaefill.model.config import SamplerConfig
from vaefill.model.counter_random import Streams
from vaefill.model.engine import chain
from vaefill.model.samplers import base
from vaefill.model.vae import VAE


@functools.cache
def plane(variant: str) -> oracles.PlaneBernoulli:
    """`easy` or `valley`."""
    return getattr(oracles.PlaneBernoulli, variant)()


def config_of(name: str, **settings: Any) -> SamplerConfig:
    """A sampler's configuration by settings meant for all: it gets those that it takes."""
    takes = dict(samplers.SAMPLERS[name].Config.model_fields)
    if name == "annealed_smc":
        del takes["num_start"]  # it has no start
    return samplers.sampler_config(name, **{key: settings[key] for key in settings if key in takes})


def rows_of(
    x: np.ndarray, observed: np.ndarray, num_rows: int, seed: int, rows_per_record: int = 1
) -> base.Rows:
    """One record many times over, each with random numbers of its own; `rows_per_record` rows share
    a key.
    """
    row = np.arange(num_rows)
    keys = np.stack([np.full(num_rows, seed), row // rows_per_record], axis=1).astype(np.uint32)
    return base.Rows(
        Streams(tf.constant(keys), tf.constant((row % rows_per_record).astype(np.uint32))),
        tf.constant(np.tile(np.where(observed, x, 0), (num_rows, 1)), tf.float32),
        tf.constant(np.tile(observed, (num_rows, 1))),
    )


# As the engine makes its programs: to rewrite them takes longer than to trace them
program = functools.partial(tf.function, autograph=False)


def sweeps(
    kernel: base.Kernel, rows: base.Rows, state: Any, num_sweeps: int
) -> tuple[Any, base.Info]:
    """The state after `num_sweeps` steps, sweeps 1 to `num_sweeps`, and what the last of them
    did.
    """
    step = program(lambda sweep, state: kernel.step(rows, base.everywhere(rows, sweep), state))
    for sweep in range(1, num_sweeps + 1):
        state, info = step(tf.constant(sweep), state)
    return state, info


def kept_sweeps(
    vae: VAE, kernel: base.Kernel, rows: base.Rows, schedule: chain.Schedule
) -> chain.Trace:
    """What chains leave that start by themselves, in NumPy: [T, N, ...]."""

    @program
    def run():
        chains = chain.begin(vae, kernel, rows, schedule)
        nothing = tf.zeros([rows.observed.shape[0]], tf.int32)
        return chain.advance(vae, kernel, chains, nothing, schedule, schedule.max_kept)[1]

    return chain.Trace(*(field.numpy() for field in run()))


class Movement(NamedTuple):
    """How far sweeps moved the distribution of draws that were exact."""

    distances: list[float]  # between CDFs: every latent's, and that of log p(x_obs | z)
    bounds: list[float]  # what each exceeds with a probability of `false_alarm` if nothing moved
    moved: float  # the fraction of rows of which z changed

    @property
    def conserved(self) -> bool:
        """Whether all distances keep to their bounds."""
        return all(distance < bound for distance, bound in zip(self.distances, self.bounds))


def movement(
    oracle: oracles.PlaneBernoulli,
    kernel: base.Kernel,
    false_alarm: float,
    num_rows: int = 32_768,
    num_sweeps: int = 3,
    prepare: Callable[[base.Rows, Any], Any] = lambda rows, state: state,
    seed: int = 0,
    rows_per_chain: int = 1,
) -> Movement:
    """Starts rows from exact draws of p(z | x_obs), and compares after some sweeps.

    Args:
        prepare: what else is done to the state before.
        rows_per_chain: of the sampler.
    """
    rng, x, observed = np.random.default_rng(seed), oracle.x, oracle.observed
    start = oracle.draw_latents(x, observed, num_rows, rng).astype(np.float32)
    rows = rows_of(x, observed, num_rows, seed, rows_per_chain)
    state = program(lambda z: kernel.init(rows, base.everywhere(rows, 0), z))(tf.constant(start))
    state, _ = sweeps(kernel, rows, prepare(rows, state), num_sweeps)
    z = state.z.numpy()
    distances = [
        oracles.ks_distance_to(z[:, k], oracle.latent_cdf(x, observed, k)) for k in range(2)
    ]
    exact = oracle.draw_latents(x, observed, 10 * num_rows, rng)
    log_likelihood = [oracle.log_likelihood_observed(each, x, observed) for each in (z, exact)]
    distances.append(oracles.ks_distance_between(*log_likelihood))
    bounds = [oracles.dkwm(num_rows, false_alarm)] * 2
    bounds.append(oracles.dkwm_two_sample(num_rows, 10 * num_rows, false_alarm))
    return Movement(distances, bounds, float((z != start).any(axis=1).mean()))


def z_scores(weights: np.ndarray, values: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """How far weighted draws are from expected values, in standard errors: [Q].

    Weights are unnormalised, so that the sum over a group of weight times (value - expected value)
    has mean 0, in groups of any size; by the central limit theorem over the groups a score is
    standard normal.

    Args:
        weights: [G, S] of G independent groups of draws.
        values: [G, S, Q].
        expected: [Q].
    """
    sums = (weights[..., np.newaxis] * (values - expected)).sum(axis=1)
    return sums.sum(axis=0) / np.sqrt(np.square(sums).sum(axis=0))


def powers(z: np.ndarray) -> np.ndarray:
    """First and second powers of two latents: [..., 2] -> [..., 5]."""
    first, second = z[..., 0], z[..., 1]
    return np.stack([first, second, first**2, first * second, second**2], axis=-1)
