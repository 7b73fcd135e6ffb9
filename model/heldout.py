"""Scores of a model on records that it was not trained on: its bound and log p(x), in nats.

Of records that lack values they are those of the observed values, log p(x_obs), with a model of
masks log p(x_obs, s), and the model has an encoder for such records (`vae.gap_encoder`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm

from vaefill.model import objectives
from vaefill.model import vae as vae_lib
from vaefill.model.config import Settings
from vaefill.model.gaps import Split
from vaefill.model.likelihoods import Likelihood

_LOG_PROB_IMAGES = 100  # images a call when log p(x) is estimated
_CHUNK_ROWS = 10_000  # decoder rows a call there
_BOUND_ROWS = 1000  # records a call of a bound
_EVALUATE = 2  # what a stateless seed is for; 0 and 1 are the training's
SHOW = 3  # likewise: draws of the prior that people look at

# (x [N, D], observed [N, D] or None, seed [2]) -> [N], nats
Bound = Callable[[tf.Tensor, tf.Tensor | None, tf.Tensor], tf.Tensor]


def seed_of(settings: Settings, purpose: int, step: int | tf.Tensor) -> tf.Tensor:
    """The seed [2] of stateless random numbers: of the training's own, a purpose and a number."""
    return tf.random.experimental.stateless_fold_in([settings.seed, purpose], step)


def model_values(
    likelihood: Likelihood, binarize: str, images: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Images, `standardized`, on the model's scale, by the rule of `record.binarize` that records
    are imputed by too: float32.

    `sample` is dynamic binarisation (Salakhutdinov & Murray 2008): each grey value is the
    probability of a 1, drawn anew in every step.
    """
    values = tf.cast(images, tf.float32) / likelihood.unit
    if not likelihood.binary:
        return values
    level = tf.random.stateless_uniform(tf.shape(images), seed) if binarize == "sample" else 0.5
    return tf.cast(values > level, tf.float32)


def standardized(likelihood: Likelihood, images: np.ndarray) -> np.ndarray:
    """Images [N, D] with real values as the model sees them, others as they are."""
    return images if likelihood.standardization is None else likelihood.from_data(images)


def mean_log_volume(likelihood: Likelihood, observed: np.ndarray | None = None) -> float:
    """What is taken from log p(x) on the model's scale for that in the data's own units, in nats:
    the mean over records.

    Args:
        likelihood: of the model.
        observed: [N, D] bool, the values that the density is of; None: all.
    """
    standardization = likelihood.standardization
    return 0.0 if standardization is None else float(standardization.log_volume(observed).mean())


def _log_prob_function(
    vae: vae_lib.VAE, settings: Settings, ks: Sequence[int]
) -> Callable[[tf.Tensor, tf.Tensor | None, tf.Tensor], tf.Tensor]:
    """A function of images [N, D], what is observed of them and the first one's index: estimates of
    log p(x) at each k [len(ks), N], in nats, from the first k of the same draws.

    N is the same in all calls. The decoder takes `_CHUNK_ROWS` rows at a time.
    """
    num_draws = tf.constant(ks)[:, tf.newaxis, tf.newaxis]

    @tf.function
    def log_prob(
        images: tf.Tensor, observed: tf.Tensor | None, batch_index: tf.Tensor
    ) -> tf.Tensor:
        num_images = images.shape[0]
        x = model_values(
            vae.likelihood,
            settings.record.binarize,
            images,
            seed_of(settings, _EVALUATE, 2 * batch_index),
        )
        draws_per_chunk = max(1, _CHUNK_ROWS // num_images)
        total = tf.fill([len(ks), num_images], -np.inf)
        noise_seed = seed_of(settings, _EVALUATE, 2 * batch_index + 1)
        for first in tf.range(0, max(ks), draws_per_chunk):
            # Whole chunks, so that a draw is the same whatever k is
            noise = tf.random.stateless_normal(
                [draws_per_chunk, num_images, vae.latent_size],
                tf.random.experimental.stateless_fold_in(noise_seed, first),
            )[: max(ks) - first]
            log_weights = objectives.importance_log_weights(vae, x, noise, observed)
            draw = first + tf.range(tf.shape(noise)[0])[:, tf.newaxis]
            chosen = tf.where(draw < num_draws, log_weights, -np.inf)  # [len(ks), draws, N]
            chunk = tf.reduce_logsumexp(chosen, axis=1)
            total = tf.reduce_logsumexp(tf.stack([total, chunk]), axis=0)
            total = tf.ensure_shape(total, [len(ks), num_images])
        return total - tf.math.log(tf.cast(num_draws[:, 0], tf.float32))

    return log_prob


def mean_log_probs(
    vae: vae_lib.VAE,
    data: Split,
    settings: Settings,
    ks: Sequence[int],
    show_progress: bool = False,
) -> dict[int, tuple[float, float]]:
    """Importance-weighted estimates of the mean log p(x), of values by the rule of
    `record.binarize`; of incomplete records log p(x_obs).

    All take the first k of the same draws, so what is said at one k does not depend on the others,
    and the largest costs as much as all of them. For real values p is a density in the data's own
    units.

    Args:
        vae: the model; of incomplete records, with their encoder.
        data: the records.
        settings: of the training.
        ks: importance samples an image (Burda et al. 2016, eq. 8); at k = 1 the mean is the ELBO's.
        show_progress: whether to show a bar.

    Returns:
        k -> (mean, standard error over images), nats.
    """
    values = log_probs(vae, data, settings, ks, show_progress)
    volume, scale = mean_log_volume(vae.likelihood, data.observed), math.sqrt(len(data))
    return {
        k: (float(each.mean() - volume), float(each.std() / scale)) for k, each in values.items()
    }


def log_probs(
    vae: vae_lib.VAE,
    data: Split,
    settings: Settings,
    ks: Sequence[int],
    show_progress: bool = False,
) -> dict[int, np.ndarray]:
    """Those of each record, k -> [N] float64, nats; of real values on the model's scale.

    Args: as of `mean_log_probs`.
    """
    ks = tuple(dict.fromkeys(ks))
    log_prob = _log_prob_function(vae, settings, ks)
    size = min(len(data), _LOG_PROB_IMAGES)
    batches = tqdm.tqdm(
        range(0, len(data), size),
        desc=f"log p(x), k = {max(ks)}",
        unit="batch",
        disable=not show_progress,
    )
    values = np.empty((len(ks), len(data)), np.float64)
    for first in batches:
        batch = data[first : first + size]
        padding = [(0, size - len(batch)), (0, 0)]  # one shape: compiled once
        images = np.pad(standardized(vae.likelihood, batch.values), padding)
        observed = None if batch.observed is None else tf.constant(np.pad(batch.observed, padding))
        found = log_prob(tf.constant(images), observed, tf.constant(first))
        values[:, first : first + size] = found[:, : len(batch)]
    return dict(zip(ks, values))


def mean_log_prob(
    vae: vae_lib.VAE, data: Split, settings: Settings, k: int, show_progress: bool = False
) -> tuple[float, float]:
    """The mean log p(x) and its standard error at one k, nats; see `mean_log_probs`."""
    return mean_log_probs(vae, data, settings, (k,), show_progress)[k]


def mean_bound(vae: vae_lib.VAE, data: Split, settings: Settings, k: int) -> float:
    """The mean bound of k draws, as training maximises it, with the randomness that it takes fixed:
    nats, of real values in their own units.
    """

    def bound(x: tf.Tensor, observed: tf.Tensor | None, seed: tf.Tensor) -> tf.Tensor:
        return _bound(vae, x, k, seed, observed)

    return mean_of_bound(bound, vae.likelihood, data, settings)


_bound = tf.function(objectives.bound, reduce_retracing=True)


def mean_of_bound(bound: Bound, likelihood: Likelihood, data: Split, settings: Settings) -> float:
    """The mean of any bound, as of `mean_bound`."""
    total = 0.0
    for first in range(0, len(data), _BOUND_ROWS):
        batch = data[first : first + _BOUND_ROWS]
        images = tf.constant(standardized(likelihood, batch.values))
        seeds = (seed_of(settings, _EVALUATE, 2 * first + part) for part in range(2))
        x = model_values(likelihood, settings.record.binarize, images, next(seeds))
        observed = None if batch.observed is None else tf.constant(batch.observed)
        total += float(tf.reduce_sum(bound(x, observed, next(seeds))))
    return total / len(data) - mean_log_volume(likelihood, data.observed)


def evaluate(
    vae: vae_lib.VAE, test: Split, settings: Settings, show_progress: bool = False
) -> dict[str, Any]:
    """Scores of the finished model on test records: the bound and log p(x), in nats a record."""
    test = test[: settings.train.num_test_images]
    k = settings.train.num_test_importance_samples
    mean, standard_error = mean_log_prob(vae, test, settings, k, show_progress)
    return {
        "num_test_images": len(test),
        "test_observed_fraction": 1.0 if test.observed is None else float(test.observed.mean()),
        "test_bound": mean_bound(vae, test, settings, settings.train.num_importance_samples),
        "test_log_prob": mean,
        "test_log_prob_standard_error": standard_error,
        "test_log_prob_num_importance_samples": k,
    }
