"""`impute`: the one entry to the samplers, for the pipeline and a notebook alike."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from model import counter_random, diagnostics
from model.checkpoints import LoadedModel
from model.config import SamplerConfig
from model.counter_random import Draw, Streams
from model.likelihoods import Likelihood
from model.sampling import SAMPLERS, chain
from model.sampling.base import Rows
from model.vae import VAE


class Imputed(NamedTuple):
    """The results of N records, as the output has them; see README.md."""

    imputations: np.ndarray  # [N, num_imputations, H, W, C] uint8, observed values untouched
    mean: np.ndarray  # [N, H, W, C] float32, E[x | x_obs] where 255 is 1; the value where observed
    stddev: np.ndarray  # [N, H, W, C] float32, of the same; 0 where observed
    r_hat: np.ndarray  # [N] float32, the largest over latents and log p(x_obs | z)
    ess_bulk: np.ndarray  # [N] float32, the smallest
    ess_tail: np.ndarray  # [N] float32, the smallest
    acceptance_rate: np.ndarray  # [N] float32
    num_sweeps: np.ndarray  # [N] int64, of a chain
    num_gradients: np.ndarray  # [N] int64, network passes summed over the chains: the cost
    converged: np.ndarray  # [N] bool
    log_prob_observed: np.ndarray  # [N] float32, mean over kept sweeps of log p(x_obs | z), nats


def model_values(
    likelihood: Likelihood, binarize: str, seed: int, ids: Sequence[bytes], images: np.ndarray
) -> np.ndarray:
    """What the model sees of grey images: [N, D] float32, by the rule of `data.binarize`.

    Args:
        binarize: `threshold`, or `sample`: a Bernoulli draw that depends on the record's key alone, the
            same for an image and its truth.
        seed: the run's seed.
        ids: the records.
        images: [N, ...] uint8.
    """
    flat = images.reshape(len(images), math.prod(images.shape[1:]))
    if binarize == "threshold":
        return likelihood.from_data(flat, None)
    keys = np.stack([counter_random.record_key(seed, record_id) for record_id in ids])
    streams = Streams(tf.constant(keys), tf.zeros([len(ids)], tf.uint32))
    uniform = counter_random.uniform(streams, tf.constant(0), Draw.BINARIZE, flat.shape[1])
    return likelihood.from_data(flat, uniform.numpy())


class Imputer:
    """A sampler compiled for one model and one configuration, at one fixed shape.

    Every call of the device program has the shape [slots, ...], however many records there are, so that
    a record's result has the same bits in any company.
    """

    def __init__(self, vae: VAE, config: SamplerConfig, seed: int, binarize: str = "threshold"):
        self._vae, self._config, self._seed, self._binarize = vae, config, seed, binarize
        self._records_per_batch = config.slots // config.num_chains
        draws_per_chain = -(-config.num_imputations // config.num_chains)
        self._plan = chain.schedule(config.num_warmup, config.max_sweeps, draws_per_chain)
        self._kernel = SAMPLERS[config.name](vae)
        self._program = tf.function(self._run)

    def __call__(self, images: np.ndarray, observed: np.ndarray, ids: Sequence[bytes]) -> Imputed:
        """Imputes records.

        Args:
            images: [N, H, W, C] uint8; values where missing are ignored.
            observed: [N, H, W, C] bool, True = observed.
            ids: the N ids; a record's result depends on its id, its values and the seed alone.

        Raises:
            ValueError: shapes that do not fit each other or the model.
        """
        shape = (len(ids), *self._vae.data_shape)
        for name, array, dtype in (("images", images, np.uint8), ("observed", observed, np.bool_)):
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(f"{name} must be {dtype.__name__} {shape}, got {array.dtype} {array.shape}")
        results = _untouched(images, self._config.num_imputations)
        incomplete = np.flatnonzero(~observed.all(axis=(1, 2, 3)))
        for first in range(0, len(incomplete), self._records_per_batch):
            chosen = incomplete[first : first + self._records_per_batch]
            batch = self._impute_batch(images[chosen], observed[chosen], [ids[i] for i in chosen])
            for whole, part in zip(results, batch):
                whole[chosen] = part
        return results

    def _impute_batch(self, images: np.ndarray, observed: np.ndarray, ids: Sequence[bytes]) -> Imputed:
        config, num = self._config, len(ids)  # at least one
        x = model_values(self._vae.likelihood, self._binarize, self._seed, ids, images)
        keys = np.stack([counter_random.record_key(self._seed, record_id) for record_id in ids])
        known = observed.reshape(num, -1)
        outputs = self._program(self._pad(keys), self._pad(np.where(known, x, 0)), self._pad(known))
        draws, mean, variance, diagnosed, acceptance, log_likelihood = tf.nest.map_structure(
            lambda tensor: tensor.numpy()[:num], outputs
        )
        grey = images.astype(np.float32) / 255.0
        imputations = np.where(observed[:, None], images[:, None], draws.reshape(num, -1, *images.shape[1:]))
        converged = (diagnosed.r_hat < config.target_r_hat) & (
            np.minimum(diagnosed.ess_bulk, diagnosed.ess_tail) >= config.target_ess
        )  # NaN does not converge
        return Imputed(
            imputations,
            np.where(observed, grey, mean.reshape(images.shape)),
            np.where(observed, 0, np.sqrt(np.maximum(variance, 0))[..., None].reshape(images.shape)),
            *diagnosed,
            acceptance,
            np.full(num, config.max_sweeps),
            np.full(num, config.max_sweeps * config.num_chains),
            converged,
            log_likelihood,
        )

    def _pad(self, array: np.ndarray) -> tf.Tensor:
        """[n, ...] of records -> [records per batch, ...]; padding is records of key 0, dropped in the end."""
        padding = [(0, self._records_per_batch - len(array))] + [(0, 0)] * (array.ndim - 1)
        return tf.constant(np.pad(array, padding))

    def _run(self, keys: tf.Tensor, x: tf.Tensor, observed: tf.Tensor):
        """The device program: R records -> per-record results, in rows of record-major chains."""
        num_records, num_chains, slots = self._records_per_batch, self._config.num_chains, self._config.slots
        used = num_records * num_chains

        def to_rows(tensor):
            repeated = tf.repeat(tensor, num_chains, axis=0)
            return tf.pad(repeated, [(0, slots - used)] + [(0, 0)] * (len(tensor.shape) - 1))

        def by_record(tensor, axis=0):
            """[..., slots, ...] -> [..., R, C, ...]."""
            rows = tf.gather(tensor, tf.range(used), axis=axis)
            shape = rows.shape
            return tf.reshape(rows, [*shape[:axis], num_records, num_chains, *shape[axis + 1 :]])

        chains = tf.cast(tf.range(slots) % num_chains, tf.uint32)
        rows = Rows(Streams(to_rows(keys), chains), to_rows(x), to_rows(observed))
        result = chain.run(self._vae, self._kernel, rows, self._plan)

        mean = tf.reduce_mean(by_record(result.mean), axis=1)
        variance = tf.reduce_mean(by_record(result.second_moment), axis=1) - mean**2
        draws = self._vae.likelihood.to_data(by_record(result.draws, axis=1))  # [J, R, C, D]
        draws = tf.reshape(tf.transpose(draws, [1, 0, 2, 3]), [num_records, -1, mean.shape[1]])
        # Of a record with nothing observed log p(x_obs | z) is 0 for every z: a latent stands in for it.
        anything = tf.reduce_any(rows.observed, axis=1)
        last = tf.where(anything, result.log_likelihood, result.z[..., 0])
        trace = tf.concat([result.z, last[..., tf.newaxis]], axis=-1)
        return (
            draws[:, : self._config.num_imputations],
            mean,
            variance,
            diagnostics.diagnose(by_record(trace, axis=1)),
            tf.reduce_mean(by_record(result.acceptance), axis=1),
            tf.reduce_mean(by_record(result.log_likelihood, axis=1), axis=(0, 2)),
        )


def _untouched(images: np.ndarray, num_imputations: int) -> Imputed:
    """The results of records of which nothing is missing: themselves, without a sweep."""
    num = len(images)
    not_a_number = [np.full(num, np.nan, np.float32) for _ in range(4)]
    return Imputed(
        np.repeat(images[:, None], num_imputations, axis=1),
        images.astype(np.float32) / 255.0,
        np.zeros(images.shape, np.float32),
        *not_a_number,
        np.zeros(num, np.int64),
        np.zeros(num, np.int64),
        np.ones(num, np.bool_),
        np.full(num, np.nan, np.float32),
    )


def impute(
    model: LoadedModel, images: np.ndarray, observed: np.ndarray, ids: Sequence[bytes], config: SamplerConfig, seed: int
) -> Imputed:
    """Imputes records with a loaded model; see `Imputer`, which compiles once for many calls."""
    return Imputer(model.vae, config, seed)(images, observed, ids)
