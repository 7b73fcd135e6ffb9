"""Hamiltonian Monte Carlo on p(z | x_obs), which is proportional to p(z) p(x_obs | z).

The missing values integrate out, so a sweep is one trajectory of `num_leapfrog_steps` in the K
latents; x_mis ~ p(x_mis | z) is drawn where an imputation is wanted. Exact, and needs no encoder
but to start.

Warm-up adapts, to each record alone and from its own chains alone:

- the split's reference, a normal distribution N(c, A) whose dynamics are exact (`hamiltonian`): c
  is the draws' mean, and A of all matrices the one for which draws and gradients agree best,
  A cov(gradients) A = cov(draws) (the Fisher divergence between the target and a normal one). Of a
  normal target that is its covariance after K + 1 draws, however noisy their own covariance; the
  gradients know the rest.
- the step size: towards an acceptance of 0.8, but so that a trajectory stays near a quarter of a
  period, where successive draws of a normal target are independent.

Both are frozen afterwards.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from vaefill.model.config import Positive, SamplerConfig
from vaefill.model.lazy import loops, tf
from vaefill.model.samplers import base, hamiltonian, pseudo_gibbs, scouts

if TYPE_CHECKING:
    from vaefill.model.vae import VAE

_ACCEPTANCE = 0.8
_LONGEST_TRAJECTORY = 1.75  # where a period of the reference is 2 pi
_FIRST_STEP = 0.15  # with the prior as the reference
_STEP_OF_SPLIT = 0.45  # with a new one
_PRIOR_DRAWS = 5.0  # weight of the prior in both covariances; its draws and gradients have I
_LEAST_LEARNING = 3  # sweeps, of which there is something to learn


class Config(SamplerConfig):
    """Settings of latent HMC."""

    name: Literal["latent_hmc"] = "latent_hmc"
    num_leapfrog_steps: Positive = Field(4, description="gradients of a sweep")
    num_scouts: Annotated[int, Field(ge=0, le=4096)] = Field(
        32,
        description="climbs from draws of the prior, to find modes that no chain visits; 0: none",
    )

    @property
    def scouts_per_chain(self) -> int:
        """Scouts that each chain of a record sends."""
        return -(-self.num_scouts // self.num_chains)

    @property
    def num_learning_steps(self) -> int:
        """Steps of a trajectory while the reference is learnt: one less teaches as much."""
        return max(1, self.num_leapfrog_steps - 1)


class State(NamedTuple):
    z: tf.Tensor  # [N, K] latent
    features: tf.Tensor  # [N, F] what decoder outputs at z are made from, by the restricted decoder
    log_likelihood: tf.Tensor  # [N]
    gradient: tf.Tensor  # [N, K] of log p(x_obs | z)
    split: hamiltonian.GaussianSplit  # the same for all chains of a record
    step_size: tf.Tensor  # [N], the same for all chains of a record

    @property
    def point(self) -> hamiltonian.Point:
        """What the dynamics read and write."""
        return hamiltonian.Point(*self[:4])


def init(vae: VAE, rows: base.Rows, sweep: tf.Tensor, z: tf.Tensor) -> State:
    """A state at given latents, with the prior as the reference.

    Args:
        vae: the model.
        rows: of N rows.
        sweep: not used, nothing is drawn.
        z: [N, K] latents.
    """
    del sweep
    num_rows, latent_size = z.shape
    identity = tf.eye(latent_size, batch_shape=[num_rows])
    split = hamiltonian.GaussianSplit(tf.zeros_like(z), identity, identity)
    return State(*hamiltonian.evaluate(vae, rows, z), split, tf.fill([num_rows], _FIRST_STEP))


def step(
    vae: VAE,
    num_steps: int,
    rows: base.Rows,
    sweep: tf.Tensor,
    state: State,
) -> tuple[State, base.Info]:
    """One sweep: a trajectory from fresh momenta.

    Args:
        vae: the model.
        num_steps: steps of the trajectory, a network pass each.
        rows: of N rows.
        sweep: [N] int32, the number of each row's sweep.
        state: of N rows.
    """
    point, decision = hamiltonian.move(
        vae,
        rows,
        sweep,
        state.point,
        state.split,
        state.step_size,
        num_steps,
    )
    info = base.Info.of_chain(decision.probability, decision.non_finite)
    return State(*point, state.split, state.step_size), info


def _adapt_step(
    state: State,
    acceptance: tf.Tensor,
    count: tf.Tensor,
    num_chains: int,
    num_steps: int,
) -> State:
    """Robbins-Monro on the log of the step size, from the mean acceptance of the record's chains.

    Where the target is near to its reference, almost any step is accepted: a trajectory's length
    bounds it.
    """
    mean = tf.reduce_mean(base.grouped(acceptance, num_chains), axis=1, keepdims=True)
    error = base.ungrouped(tf.repeat(mean - _ACCEPTANCE, num_chains, axis=1))
    rate = tf.pow(1.0 + tf.cast(count, tf.float32), -0.6)
    step_size = tf.minimum(state.step_size * tf.exp(rate * error), _LONGEST_TRAJECTORY / num_steps)
    return state._replace(step_size=step_size)


def _covariance(draws: tf.Tensor) -> tf.Tensor:
    """Covariance of draws [R, S, K] shrunk towards the prior's: [R, K, K]."""
    centred = draws - tf.reduce_mean(draws, axis=1, keepdims=True)
    identity = tf.eye(draws.shape[2], dtype=draws.dtype)
    scatter = tf.matmul(centred, centred, transpose_a=True)
    return (scatter + _PRIOR_DRAWS * identity) / (draws.shape[1] + _PRIOR_DRAWS)


def fit_split(draws: tf.Tensor, gradients: tf.Tensor) -> hamiltonian.GaussianSplit:
    """The reference N(mean of the draws, A), where A cov(gradients) A = cov(draws).

    With the Cholesky factor C of cov(gradients), A = C'^-1 (C' cov(draws) C)^(1/2) C^-1, the
    geometric mean of cov(draws) and cov(gradients)^-1.

    Args:
        draws: [R, S, K] latents of each record.
        gradients: [R, S, K] of the log target there.

    Returns:
        Of R rows, float32.
    """
    draws, gradients = tf.cast(draws, tf.float64), tf.cast(gradients, tf.float64)
    # One record's chains at places that are not numbers must not end the batch: it gets the prior.
    finite = tf.math.is_finite(draws) & tf.math.is_finite(gradients)
    finite = tf.reduce_all(finite, axis=[1, 2], keepdims=True)
    draws = tf.where(finite, draws, 0.0)
    gradients = tf.where(finite, gradients, 0.0)
    of_gradients = _covariance(gradients)
    ridge = 1e-9 * tf.reduce_mean(tf.linalg.diag_part(of_gradients), axis=1)
    ridge = ridge[:, tf.newaxis, tf.newaxis]
    cholesky = tf.linalg.cholesky(of_gradients + ridge * tf.eye(draws.shape[2], dtype=tf.float64))
    inner = tf.matmul(cholesky, tf.matmul(_covariance(draws), cholesky), transpose_a=True)
    eigenvalues, vectors = tf.linalg.eigh(inner)
    root = tf.pow(tf.maximum(eigenvalues, 1e-12), 0.25)[:, tf.newaxis]
    factor = tf.linalg.triangular_solve(cholesky, vectors * root, adjoint=True)
    inverse = tf.matmul(vectors / root, cholesky, transpose_a=True, transpose_b=True)
    centre = tf.reduce_mean(draws, axis=1)
    return hamiltonian.GaussianSplit(
        tf.cast(centre, tf.float32), tf.cast(factor, tf.float32), tf.cast(inverse, tf.float32)
    )


def _windows(num_sweeps: int) -> tuple[int, int, int]:
    """Sweeps for a first reference, for the final one, and for the step size alone."""
    first, second = num_sweeps // 6, 7 * num_sweeps // 10
    return first, second, num_sweeps - first - second


@loops
def _window(
    vae: VAE, num_chains: int, num_steps: int, rows: base.Rows, sweeps: range, state: State
) -> tuple[State, tf.Tensor, tf.Tensor]:
    """Sweeps that adapt the step size, with the draws and gradients [S, N, K] that they visit."""
    draws = tf.TensorArray(tf.float32, len(sweeps), element_shape=state.z.shape)
    gradients = tf.TensorArray(tf.float32, len(sweeps), element_shape=state.z.shape)
    for count in tf.range(len(sweeps)):
        state, info = step(vae, num_steps, rows, base.everywhere(rows, sweeps.start + count), state)
        state = _adapt_step(state, info.acceptance, count, num_chains, num_steps)
        draws = draws.write(count, state.z)
        gradients = gradients.write(count, state.gradient + vae.prior.score(state.z))
    return state, draws.stack(), gradients.stack()


def _with_split(split: hamiltonian.GaussianSplit, num_chains: int, state: State) -> State:
    """A state with new references, given for records, and a first step size for them."""
    of_rows = [tf.repeat(tensor, num_chains, axis=0) for tensor in split]
    return state._replace(
        split=hamiltonian.GaussianSplit(*of_rows),
        step_size=tf.fill(state.step_size.shape, _STEP_OF_SPLIT),
    )


def warm_up(vae: VAE, config: Config, rows: base.Rows, sweeps: range, state: State) -> State:
    """Adapts the reference twice, then the step size alone.

    Args:
        vae: the model.
        config: how many chains a record has, and how many steps a trajectory.
        rows: of N rows.
        sweeps: numbers for all rows.
        state: of N rows, as `init` leaves it.
    """
    num_chains = config.num_chains
    *learning, last = _windows(len(sweeps))
    for size in learning:
        if size >= _LEAST_LEARNING:
            state, draws, gradients = _window(
                vae,
                num_chains,
                config.num_learning_steps,
                rows,
                sweeps[:size],
                state,
            )
            settled = size // 3
            split = fit_split(
                _of_records(draws[settled:], num_chains),
                _of_records(gradients[settled:], num_chains),
            )
            state = _with_split(split, num_chains, state)
        sweeps = sweeps[size:]
    return _window(vae, num_chains, config.num_leapfrog_steps, rows, sweeps, state)[0]


def warm_up_passes(config: Config) -> int:
    """Network passes of a row in warm-up and for its scouts."""
    *learning, last = _windows(config.num_warmup)
    num_learning = sum(size for size in learning if size >= _LEAST_LEARNING)
    of_chain = num_learning * config.num_learning_steps + last * config.num_leapfrog_steps
    return of_chain + scouts.passes(config.scouts_per_chain)


def _of_records(draws: tf.Tensor, num_chains: int) -> tf.Tensor:
    """[S, N, K] of rows -> [R, num_chains S, K] of records."""
    by_row = tf.transpose(draws, [1, 0, 2])
    return tf.reshape(by_row, [-1, num_chains * by_row.shape[1], by_row.shape[2]])


def _scout(
    vae: VAE,
    num_rounds: int,
    rows: base.Rows,
    sweeps: range,
    state: State,
) -> scouts.Scouts:
    """Scouts that climb in the metric that warm-up has learnt."""
    return scouts.explore(vae, rows, sweeps, state.split.factor, num_rounds)


def build(vae: VAE, config: Config) -> base.Kernel:
    """The kernel for a VAE."""
    return base.Kernel(
        start=functools.partial(pseudo_gibbs.start, vae),
        init=functools.partial(init, vae),
        adapt=functools.partial(warm_up, vae, config),
        step=functools.partial(step, vae, config.num_leapfrog_steps),
        passes=config.num_leapfrog_steps,
        warm_up_passes=warm_up_passes(config),
        outputs=lambda state: base.restricted_decoder(vae).all_outputs(state.features),
        scout=functools.partial(_scout, vae, config.scouts_per_chain),
        uses_restricted_decoder=True,
    )
