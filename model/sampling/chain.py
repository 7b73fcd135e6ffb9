"""The chain driver: runs a kernel for a fixed number of sweeps and keeps what a record's result needs.

Everything stays on the device at one shape, [N, ...] with N the slots, and is a function of the rows
alone.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from model.likelihoods import Likelihood
from model.sampling.base import Kernel, Rows
from model.vae import VAE


class Schedule(NamedTuple):
    """How long chains run and which draws they keep. Sweeps are numbered from 1."""

    num_warmup: int
    num_sweeps: int  # of a chain, warm-up included
    draw_sweeps: tuple[int, ...]  # the sweeps after which a draw is kept, ascending

    @property
    def num_kept(self) -> int:
        """T, the sweeps after warm-up."""
        return self.num_sweeps - self.num_warmup


class Result(NamedTuple):
    """What N chains leave: T kept sweeps, J draws."""

    draws: tf.Tensor  # [J, N, D] completions, on the model's scale
    mean: tf.Tensor  # [N, D] average over kept sweeps of E[x | z]
    second_moment: tf.Tensor  # [N, D] average over kept sweeps of E[x^2 | z]
    z: tf.Tensor  # [T, N, K] trace
    log_likelihood: tf.Tensor  # [T, N] trace of log p(x_obs | z), nats
    acceptance: tf.Tensor  # [N] mean acceptance probability over kept sweeps


def schedule(num_warmup: int, num_sweeps: int, num_draws: int) -> Schedule:
    """Spreads `num_draws` draws evenly over the sweeps after warm-up, the last one after the last sweep."""
    kept = num_sweeps - num_warmup
    ends = num_warmup + np.arange(1, num_draws + 1) * kept // num_draws
    return Schedule(num_warmup, num_sweeps, tuple(int(end) for end in ends))


def run(vae: VAE, kernel: Kernel, rows: Rows, plan: Schedule) -> Result:
    """Runs every row's chain; to be called inside a `tf.function`.

    Args:
        vae: the model that the kernel samples.
        kernel: the sampler.
        rows: N rows.
        plan: the length of the run and the draws to keep.
    """
    state = kernel.init(rows)
    for sweep in tf.range(1, plan.num_warmup + 1):
        state, _ = kernel.step(rows, sweep, state)

    num_rows, num_values = rows.observed.shape
    draw_sweeps = tf.constant(plan.draw_sweeps)
    mean, second_moment = (tf.zeros([num_rows, num_values]) for _ in range(2))
    acceptance = tf.zeros([num_rows])
    draws = tf.TensorArray(tf.float32, len(plan.draw_sweeps), element_shape=[num_rows, num_values])
    latents = tf.TensorArray(tf.float32, plan.num_kept, element_shape=[num_rows, vae.latent_size])
    log_likelihoods = tf.TensorArray(tf.float32, plan.num_kept, element_shape=[num_rows])
    num_drawn = tf.constant(0)
    for sweep in tf.range(plan.num_warmup + 1, plan.num_sweeps + 1):
        state, info = kernel.step(rows, sweep, state)
        mean, second_moment, log_likelihood = _accumulate(vae.likelihood, rows, state.outputs, mean, second_moment)
        acceptance += info.acceptance
        index = sweep - plan.num_warmup - 1
        latents = latents.write(index, state.z)
        log_likelihoods = log_likelihoods.write(index, log_likelihood)
        if sweep == draw_sweeps[num_drawn]:
            draws = draws.write(num_drawn, state.x)
            num_drawn = tf.minimum(num_drawn + 1, len(plan.draw_sweeps) - 1)
    scale = 1.0 / plan.num_kept
    return Result(
        draws.stack(), mean * scale, second_moment * scale, latents.stack(), log_likelihoods.stack(), acceptance * scale
    )


@tf.function(jit_compile=True)
def _accumulate(likelihood: Likelihood, rows: Rows, outputs, mean, second_moment):
    """Adds the conditional moments of a sweep, which have less variance than its draw (Rao-Blackwell)."""
    first, variance = likelihood.moments(outputs)
    log_likelihood = likelihood.log_prob(outputs, rows.x_observed, rows.observed)
    return mean + first, second_moment + variance + first**2, log_likelihood
