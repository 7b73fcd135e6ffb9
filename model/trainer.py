"""The loop of training, which can be killed and started again at any moment.

Shuffling, binarisation and the noise of the bound are functions of (seed, step), so that all there
is to resume is the weights, the optimiser and the step: the same seed gives the same weights,
stopped or not.
"""

import math
import os
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
import tqdm

from vaefill.model import datasets, heldout
from vaefill.model.config import Settings
from vaefill.model.errors import TrainingError
from vaefill.model.gaps import Split
from vaefill.model.goals import Goal
from vaefill.model.likelihoods import Likelihood
from vaefill.model.self_masking import SelfMasking
from vaefill.model.vae import VAE

_STEPS_PER_CALL = 50
# How much faster than networks a model of masks learns. Its few parameters have a long way to go,
# and as each value of each record has a say in them, little noise.
_SPEED_OF_MASKS = 10.0
_BINARIZE, _NOISE = 0, 1  # what a stateless seed is for


class Trainer:
    """The loop of training, validation, early stopping and checkpoints.

    Args:
        goal: what is maximised; after `run` its networks have the weights of the best validation
            bound.
        settings: of the training.
        data: N records, at least a batch.
        workdir: where checkpoints and logs go.
        epochs: how many times every record is seen, unless validation stops it before; by default
            `train.epochs`.
        name: of what the bar shows.
    """

    def __init__(
        self,
        goal: Goal,
        settings: Settings,
        data: Split,
        workdir: str,
        epochs: float | None = None,
        name: str = "train",
    ):
        train = settings.train
        self._goal, self._settings = goal, settings
        self._workdir, self._name = workdir, name
        self._data = Split(heldout.standardized(self._likelihood, data.values), data.observed)
        self._log_volume = heldout.mean_log_volume(self._likelihood, data.observed)
        self._steps_per_epoch = len(data) // train.batch_size
        self._last_step = max(1, math.ceil((epochs or train.epochs) * self._steps_per_epoch))
        self._variables = [each for net in goal.networks for each in net.trainable_variables]
        self._weights = [each for net in goal.networks for each in net.weights]
        self._schedule = self._schedule_up_to(train.learning_rate)
        of_masks = [net for net in goal.networks if isinstance(net, SelfMasking)]
        self._first_of_masks = len(self._variables) - len(of_masks)  # which come last
        self._optimizer = keras.optimizers.Adam(self._schedule, global_clipnorm=train.clip_norm)
        self._optimizer.build(self._variables[: self._first_of_masks])
        # Gradients by what all values share are large: clipped together, they would slow networks
        self._optimizer_of_masks = None
        if of_masks:
            faster = self._schedule_up_to(_SPEED_OF_MASKS * train.learning_rate)
            self._optimizer_of_masks = keras.optimizers.Adam(faster)
            self._optimizer_of_masks.build(self._variables[self._first_of_masks :])
        self._step = tf.Variable(0, dtype=tf.int64)
        self._best_bound = tf.Variable(-math.inf, dtype=tf.float64)
        self._worse = tf.Variable(0, dtype=tf.int64)  # validations since the best one
        self._best = [tf.Variable(weight.value) for weight in self._weights]
        self._bound = tf.function(goal.bound, reduce_retracing=True)
        state = tf.train.Checkpoint(
            **{network.name: network for network in goal.networks},
            **({"optimizer_of_masks": self._optimizer_of_masks} if of_masks else {}),
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

    def _schedule_up_to(self, learning_rate: float) -> keras.optimizers.schedules.CosineDecay:
        """The learning rate of each step, after warm-up the given one and then down to 0."""
        warmup = min(self._settings.train.warmup_steps, self._last_step // 2)
        return keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup else learning_rate,
            decay_steps=self._last_step - warmup,
            warmup_target=learning_rate if warmup else None,
            warmup_steps=warmup,
        )

    @property
    def vae(self) -> VAE:
        """The model of the goal."""
        return self._goal.vae

    @property
    def _likelihood(self) -> Likelihood:
        return self.vae.likelihood

    @property
    def num_steps(self) -> int:
        """Steps that were taken."""
        return int(self._step)

    @property
    def validation_bound(self) -> float:
        """The best one, nats a record."""
        return float(self._best_bound)

    @tf.function(reduce_retracing=True)
    def _train_steps(
        self, batches: Iterator[tuple[tf.Tensor, ...]], num_steps: tf.Tensor
    ) -> tf.Tensor:
        """Takes `num_steps` steps and returns the mean bound over them."""
        total = 0.0
        for _ in tf.range(num_steps):
            step, images, *masks = next(batches)
            seed = heldout.seed_of(self._settings, _BINARIZE, step)
            x = heldout.model_values(self._likelihood, self._settings.record.binarize, images, seed)
            noise_seed = heldout.seed_of(self._settings, _NOISE, step)
            with tf.GradientTape() as tape:
                bound = tf.reduce_mean(
                    self._goal.bound(x, masks[0] if masks else None, noise_seed, training=True)
                )
                loss = -bound
            self._apply(tape.gradient(loss, self._variables))
            total += bound
        return total / tf.cast(num_steps, tf.float32)

    # Adam is element-wise: one fused pass over the weights instead of ten
    @tf.function(jit_compile=True)
    def _apply(self, gradients: list[tf.Tensor]) -> None:
        first = self._first_of_masks
        self._optimizer.apply(gradients[:first], self._variables[:first])
        if self._optimizer_of_masks is not None:
            self._optimizer_of_masks.apply(gradients[first:], self._variables[first:])

    def run(self, validation: Split, show_progress: bool) -> None:
        """Trains to the last step, or until validation has not improved for `patience` times."""
        train = self._settings.train
        interval = max(1, round(train.evaluate_every * self._steps_per_epoch))
        writer = tf.summary.create_file_writer(self._workdir)
        bar = tqdm.tqdm(
            total=self._last_step,
            initial=int(self._step),
            unit="step",
            desc=self._name,
            disable=not show_progress,
        )
        with bar, writer.as_default():
            batches = iter(
                datasets.training_batches(
                    self._data,
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
        self, batches: Iterator[tuple[tf.Tensor, ...]], interval: int, bar: tqdm.tqdm
    ) -> float:
        step = int(self._step)
        end = min(self._last_step, (step // interval + 1) * interval)
        bounds = []
        while step < end:
            taken = min(_STEPS_PER_CALL, end - step)
            bound = float(self._train_steps(batches, tf.constant(taken)))
            bounds.append(bound - self._log_volume)
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

    def _validate(self, validation: Split, train_bound: float, bar: tqdm.tqdm) -> None:
        bound = heldout.mean_of_bound(self._bound, self._likelihood, validation, self._settings)
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
