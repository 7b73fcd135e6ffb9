"""Training a VAE: `train_and_evaluate`, which can be killed and started again at any moment.

Shuffling, binarisation and the noise of the bound are functions of (seed, step), so that all there
is to resume is the weights, the optimiser and the step: the same seed gives the same weights,
stopped or not.
"""

import dataclasses
import functools
import logging
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tqdm

from vaefill.model import checkpoints, datasets, files, objectives
from vaefill.model import vae as vae_lib
from vaefill.model.config import (
    DataConfig,
    ModelConfig,
    RecordConfig,
    TrainConfig,
    check_likelihood,
)
from vaefill.model.errors import TrainingError
from vaefill.model.likelihoods import Likelihood
from vaefill.model.preprocessing import GREY_UNDER_A_THRESHOLD, looks_grey
from vaefill.model.standardization import estimate

_LOGGER = logging.getLogger("vaefill.training")
_STEPS_PER_CALL = 50
_NOT_OF_TRAINING = {"carry", "mask_means", "missing"}  # of the section `record`
_CHUNK_ROWS = 10_000  # decoder rows a call when log p(x) is estimated
_BINARIZE, _NOISE, _EVALUATE, _CALIBRATION = 0, 1, 2, 3  # what a stateless seed is for


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that the weights depend on."""

    data: DataConfig
    record: RecordConfig
    model: ModelConfig
    train: TrainConfig
    seed: int


def train_and_evaluate(
    settings: Settings, directory: str, show_progress: bool = True
) -> dict[str, Any]:
    """Trains a VAE and leaves it, with its scores, in a model directory.

    Checkpoints and TensorBoard logs go to `DIRECTORY/training`; a training that was stopped goes on
    from there. A directory that holds the finished model of the same settings is left as it is.

    Returns:
        The training summary that `vae.json` holds.

    Raises:
        TrainingError: the directory holds a training of other settings, or the loss is not finite.
        DatasetError: the data set is not there or does not fit.
        ValueError: the likelihood is not for such data.
    """
    check_likelihood(settings.model.likelihood, settings.record)
    _claim(directory, settings)
    if checkpoints.is_complete(directory):
        return checkpoints.describe(directory).training
    data, record = settings.data, settings.record
    images, validation, test = (
        datasets.load_images(data.name, split, record.shape, record.dtype)
        for split in (data.train, data.validation, data.test)
    )
    if len(images) < settings.train.batch_size:
        raise TrainingError(
            f"train.batch_size is {settings.train.batch_size}, "
            f"the training split has {len(images)} images; set it to at most {len(images)}"
        )
    if record.binarize == "threshold" and looks_grey(images):
        _LOGGER.warning(GREY_UNDER_A_THRESHOLD, "these images")
    trainer = Trainer(settings, images, os.path.join(directory, "training"))
    selection, calibration = _split_validation(validation, settings)
    trainer.run(selection, show_progress)
    summary = trainer.summary() | evaluate(trainer.vae, test, settings, show_progress)
    summary["num_calibration"] = 0 if calibration is None else len(calibration)
    checkpoints.save(directory, trainer.vae, settings.model, summary, calibration)
    return summary


def _split_validation(
    validation: np.ndarray, settings: Settings
) -> tuple[np.ndarray, np.ndarray | None]:
    """Validation images [N, D] for early stopping, and others [M, H, W, C] that misfits are told
    by, if any.

    No image is in both: a model is chosen for what it says of the former, and of those it has
    chosen itself it would think better than of new ones. The calibration set is drawn without
    replacement, as a data set may be sorted, and is at most half of all.
    """
    num = min(settings.train.num_calibration, len(validation) // 2)
    if not num:
        return validation, None
    chosen = tf.random.experimental.index_shuffle(
        tf.range(num, dtype=tf.int64), [settings.seed, _CALIBRATION], len(validation) - 1
    )
    chosen = np.sort(chosen.numpy())
    return np.delete(validation, chosen, axis=0), validation[chosen].reshape(
        num, *settings.record.shape
    )


def _claim(directory: str, settings: Settings) -> None:
    """Writes the settings where training starts, and refuses to go on from others or to pass them
    off.
    """
    path = os.path.join(directory, "training", "settings.json")
    ours = {
        "data": settings.data.model_dump(mode="json"),
        "record": settings.record.model_dump(mode="json", exclude=_NOT_OF_TRAINING),
        "model": settings.model.model_dump(mode="json"),
        "train": settings.train.model_dump(mode="json"),
        "seed": settings.seed,
    }
    if settings.record.dtype == "float32":
        # A training of an earlier version saw real values as they were: its weights are of another
        # model
        ours["standardized"] = True
    started = files.exists(os.path.join(directory, "training", "checkpoints", "checkpoint"))
    if started or checkpoints.is_complete(directory):
        different = _different_sections(path, ours)
        if different:
            raise TrainingError(
                f"{directory} holds a training with other settings ({', '.join(different)}); "
                "choose another model directory, or delete this one to train anew"
            )
        return
    files.make_directory(os.path.dirname(path))
    files.write_json(path, ours)


def _different_sections(path: str, ours: dict[str, Any]) -> list[str]:
    try:
        theirs = files.read_json(path)
    except (OSError, ValueError):
        return ["its settings.json is missing or broken"]
    return [section for section in ours if ours[section] != theirs.get(section)]


def _seed(settings: Settings, purpose: int, step: int | tf.Tensor) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in([settings.seed, purpose], step)


def _model_values(
    likelihood: Likelihood, binarize: str, images: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Images, `_standardized`, on the model's scale, by the rule of `record.binarize` that records
    are imputed by too: float32.

    `sample` is dynamic binarisation (Salakhutdinov & Murray 2008): each grey value is the
    probability of a 1, drawn anew in every step.
    """
    values = tf.cast(images, tf.float32) / likelihood.unit
    if not likelihood.binary:
        return values
    level = tf.random.stateless_uniform(tf.shape(images), seed) if binarize == "sample" else 0.5
    return tf.cast(values > level, tf.float32)


def _standardized(likelihood: Likelihood, images: np.ndarray) -> np.ndarray:
    """Images [N, D] with real values as the model sees them, others as they are."""
    return images if likelihood.standardization is None else likelihood.from_data(images)


def _log_volume(likelihood: Likelihood) -> float:
    """What is taken from log p(x) on the model's scale for that in the data's own units, in
    nats.
    """
    standardization = likelihood.standardization
    return 0.0 if standardization is None else float(standardization.log_volume())


def _in_training(vae: vae_lib.VAE) -> vae_lib.VAE:
    """The VAE with its networks in training mode.

    In this mode batch normalisation uses the batch's own moments, and dropout drops.
    """
    encoder, decoder = vae_lib.keras_networks(vae)
    return dataclasses.replace(
        vae,
        encoder=functools.partial(encoder, training=True),
        decoder=functools.partial(decoder, training=True),
    )


class Trainer:
    """The loop of training, validation, early stopping and checkpoints.

    Attributes:
        vae: the model; after `run`, with the weights of the best validation bound.
    """

    def __init__(self, settings: Settings, images: np.ndarray, workdir: str):
        train = settings.train
        self._settings, self._workdir = settings, workdir
        self._steps_per_epoch = len(images) // train.batch_size
        self._last_step = max(1, math.ceil(train.epochs * self._steps_per_epoch))
        standardization = estimate(images) if settings.record.dtype == "float32" else None
        self.vae = vae_lib.build(
            settings.model, settings.record.shape, settings.seed, standardization
        )
        self._images = _standardized(self.vae.likelihood, images)
        self._in_training = _in_training(self.vae)
        encoder, decoder = vae_lib.keras_networks(self.vae)
        self._variables = encoder.trainable_variables + decoder.trainable_variables
        self._weights = encoder.weights + decoder.weights
        warmup = min(train.warmup_steps, self._last_step // 2)
        self._schedule = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup else train.learning_rate,
            decay_steps=self._last_step - warmup,
            warmup_target=train.learning_rate if warmup else None,
            warmup_steps=warmup,
        )
        self._optimizer = keras.optimizers.Adam(self._schedule, global_clipnorm=train.clip_norm)
        self._optimizer.build(self._variables)
        self._step = tf.Variable(0, dtype=tf.int64)
        self._best_bound = tf.Variable(-math.inf, dtype=tf.float64)
        self._worse = tf.Variable(0, dtype=tf.int64)  # validations since the best one
        self._best = [tf.Variable(weight.value) for weight in self._weights]
        state = tf.train.Checkpoint(
            encoder=encoder,
            decoder=decoder,
            optimizer=self._optimizer,
            step=self._step,
            best_bound=self._best_bound,
            worse=self._worse,
            best=self._best,
        )
        self._manager = tf.train.CheckpointManager(
            state, os.path.join(workdir, "checkpoints"), max_to_keep=2
        )
        self._manager.restore_or_initialize()

    @tf.function(reduce_retracing=True)
    def _train_steps(
        self, batches: Iterator[tuple[tf.Tensor, tf.Tensor]], num_steps: tf.Tensor
    ) -> tf.Tensor:
        """Takes `num_steps` steps and returns the mean bound over them."""
        total = 0.0
        for _ in tf.range(num_steps):
            step, images = next(batches)
            seed = _seed(self._settings, _BINARIZE, step)
            x = _model_values(self.vae.likelihood, self._settings.record.binarize, images, seed)
            with tf.GradientTape() as tape:
                bound = tf.reduce_mean(
                    objectives.bound(
                        self._in_training,
                        x,
                        self._settings.train.num_importance_samples,
                        _seed(self._settings, _NOISE, step),
                    )
                )
                loss = -bound
            self._apply(tape.gradient(loss, self._variables))
            total += bound
        return total / tf.cast(num_steps, tf.float32)

    # Adam is element-wise: one fused pass over the weights instead of ten
    @tf.function(jit_compile=True)
    def _apply(self, gradients: list[tf.Tensor]) -> None:
        self._optimizer.apply(gradients, self._variables)

    def run(self, validation: np.ndarray, show_progress: bool) -> None:
        """Trains to the last step, or until validation has not improved for `patience` times."""
        train = self._settings.train
        interval = max(1, round(train.evaluate_every * self._steps_per_epoch))
        writer = tf.summary.create_file_writer(self._workdir)
        bar = tqdm.tqdm(
            total=self._last_step,
            initial=int(self._step),
            unit="step",
            desc="train",
            disable=not show_progress,
        )
        with bar, writer.as_default():
            batches = iter(
                datasets.training_batches(
                    self._images,
                    train.batch_size,
                    self._settings.seed,
                    int(self._step),
                    self._last_step,
                )
            )
            while int(self._step) < self._last_step and int(self._worse) < train.patience:
                bound = self._train_until_next(batches, interval, bar)
                self._validate(validation, bound, bar)
                self._manager.save()
        for weight, best in zip(self._weights, self._best):
            weight.assign(best)

    def _train_until_next(
        self, batches: Iterator[tuple[tf.Tensor, tf.Tensor]], interval: int, bar: tqdm.tqdm
    ) -> float:
        step = int(self._step)
        end = min(self._last_step, (step // interval + 1) * interval)
        bounds = []
        while step < end:
            taken = min(_STEPS_PER_CALL, end - step)
            bound = float(self._train_steps(batches, tf.constant(taken)))
            bounds.append(bound - _log_volume(self.vae.likelihood))
            step += taken
            if not math.isfinite(bounds[-1]):
                raise TrainingError(
                    f"the bound is {bounds[-1]} before step {step}: lower train.learning_rate"
                )
            bar.update(taken)
            bar.set_postfix(
                loss=f"{-bounds[-1]:.2f}",
                validation=f"{float(self._best_bound):.2f}",
                refresh=False,
            )
        self._step.assign(step)
        return float(np.mean(bounds))

    def _validate(self, validation: np.ndarray, train_bound: float, bar: tqdm.tqdm) -> None:
        bound = mean_bound(
            self.vae, validation, self._settings, self._settings.train.num_importance_samples
        )
        if bound > float(self._best_bound):
            self._best_bound.assign(bound)
            self._worse.assign(0)
            for best, weight in zip(self._best, self._weights):
                best.assign(weight)
        else:
            self._worse.assign_add(1)
        bar.set_postfix(loss=f"{-train_bound:.2f}", validation=f"{bound:.2f}")
        step = int(self._step)
        tf.summary.scalar("train/bound", train_bound, step=step)
        tf.summary.scalar("validation/bound", bound, step=step)
        tf.summary.scalar("learning_rate", self._schedule(step), step=step)

    def summary(self) -> dict[str, Any]:
        """What the training was, for `vae.json`."""
        return {
            "data": self._settings.data.name,
            "split": self._settings.data.train,
            "binarize": self._settings.record.binarize,
            "seed": self._settings.seed,
            "num_images": len(self._images),
            "num_steps": int(self._step),
            "num_importance_samples": self._settings.train.num_importance_samples,
            "validation_bound": float(self._best_bound),
        }


def _log_prob_function(
    vae: vae_lib.VAE, settings: Settings, k: int
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function of images [N, D] and the first one's index: estimates of log p(x) [N], in nats.

    N is the same in all calls. The decoder takes `_CHUNK_ROWS` rows at a time.
    """

    @tf.function
    def log_prob(images: tf.Tensor, batch_index: tf.Tensor) -> tf.Tensor:
        x = _model_values(
            vae.likelihood,
            settings.record.binarize,
            images,
            _seed(settings, _EVALUATE, 2 * batch_index),
        )
        samples_per_chunk = max(1, min(k, _CHUNK_ROWS // images.shape[0]))
        total = tf.fill([images.shape[0]], -np.inf)
        noise_seed = _seed(settings, _EVALUATE, 2 * batch_index + 1)
        for first in tf.range(0, k, samples_per_chunk):
            noise = tf.random.stateless_normal(
                [tf.minimum(samples_per_chunk, k - first), images.shape[0], vae.latent_size],
                tf.random.experimental.stateless_fold_in(noise_seed, first),
            )
            log_weights = objectives.importance_log_weights(vae, x, noise)
            chunk = tf.reduce_logsumexp(log_weights, axis=0)
            total = tf.reduce_logsumexp(tf.stack([total, chunk]), axis=0)
            total = tf.ensure_shape(total, [images.shape[0]])
        return total - math.log(k)

    return log_prob


def mean_log_prob(
    vae: vae_lib.VAE, images: np.ndarray, settings: Settings, k: int, show_progress: bool = False
) -> tuple[float, float]:
    """Importance-weighted estimate of the mean log p(x), of values by the rule of
    `record.binarize`.

    For real values p is a density in the data's own units.

    Args:
        images: [N, D], in the data's own type.
        k: importance samples an image (Burda et al. 2016, eq. 8); at k = 1 the mean is the ELBO's.

    Returns:
        (mean, standard error over images), nats.
    """
    log_prob = _log_prob_function(vae, settings, k)
    size = min(len(images), 100 if k > 1 else 1000)
    batches = tqdm.tqdm(
        range(0, len(images), size),
        desc=f"log p(x), k = {k}",
        unit="batch",
        disable=not show_progress,
    )
    values = np.empty(len(images), np.float64)
    for first in batches:
        batch = _standardized(vae.likelihood, images[first : first + size])
        whole = np.pad(batch, [(0, size - len(batch)), (0, 0)])  # one shape: compiled once
        found = log_prob(tf.constant(whole), tf.constant(first))
        values[first : first + size] = found[: len(batch)]
    mean = float(values.mean()) - _log_volume(vae.likelihood)
    return mean, float(values.std() / math.sqrt(len(values)))


def mean_bound(vae: vae_lib.VAE, images: np.ndarray, settings: Settings, k: int) -> float:
    """The mean bound that training maximises, with the randomness that it takes fixed: nats, of
    real values in their own units.
    """
    total = 0.0
    for first in range(0, len(images), 1000):
        batch = tf.constant(_standardized(vae.likelihood, images[first : first + 1000]))
        x = _model_values(
            vae.likelihood, settings.record.binarize, batch, _seed(settings, _EVALUATE, 2 * first)
        )
        total += float(tf.reduce_sum(_bound(vae, x, k, _seed(settings, _EVALUATE, 2 * first + 1))))
    return total / len(images) - _log_volume(vae.likelihood)


_bound = tf.function(objectives.bound, reduce_retracing=True)


def evaluate(
    vae: vae_lib.VAE, test: np.ndarray, settings: Settings, show_progress: bool = False
) -> dict[str, Any]:
    """Scores of the finished model on test images: the bound and log p(x), in nats an image."""
    test = test[: settings.train.num_test_images]
    k = settings.train.num_test_importance_samples
    mean, standard_error = mean_log_prob(vae, test, settings, k, show_progress)
    return {
        "num_test_images": len(test),
        "test_bound": mean_bound(vae, test, settings, settings.train.num_importance_samples),
        "test_log_prob": mean,
        "test_log_prob_standard_error": standard_error,
        "test_log_prob_num_importance_samples": k,
    }
