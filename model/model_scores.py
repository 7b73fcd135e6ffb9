"""What a model says of complete records that it was not trained on: `vaefill evaluate --model`."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vaefill.model import datasets, heldout
from vaefill.model.checkpoints import LoadedModel
from vaefill.model.config import DataConfig, RecordConfig, Settings, TrainConfig
from vaefill.model.errors import ModelError
from vaefill.model.gaps import Split
from vaefill.model.latents import AggregatedPosterior, aggregated_posterior

_ROWS = 1000  # records the encoder takes at once


class HeldOut(NamedTuple):
    """A model and complete records that it was not trained on."""

    model: LoadedModel
    data: str  # the data set
    split: str  # of it
    records: Split  # values [N, D] of the data's type
    settings: Settings  # what of the model's training its scores depend on

    def inputs(self, chosen: slice | np.ndarray, seed: int = 0) -> tf.Tensor:
        """Some of the records as the model sees them: [n, D] float32.

        Args:
            chosen: which.
            seed: where values are binarised by chance.
        """
        likelihood = self.model.vae.likelihood
        images = heldout.standardized(likelihood, self.records.values[chosen])
        binarize = self.settings.record.binarize
        return heldout.model_values(
            likelihood, binarize, tf.constant(images), tf.constant([0, seed])
        )


class ModelScores(NamedTuple):
    """Of N records, in nats a record; of real values in their own units."""

    num_records: int
    log_prob: dict[int, tuple[float, float]]  # k -> mean and standard error; k = 1: the ELBO
    latents: AggregatedPosterior

    @property
    def num_active(self) -> int:
        """Latents whose mean depends on the record."""
        return int(self.latents.active.sum())


def held_out(model: LoadedModel, data: str, split: str) -> HeldOut:
    """Loads complete records that a model is to be scored on.

    Args:
        model: the model; values are binarised as in its training.
        data: a data set, see `datasets.builder`.
        split: of it.

    Raises:
        ModelError: the model does not say what its data are.
        DatasetError: no such split, data of another kind, or records that lack values.
    """
    settings = _settings(model)
    record = settings.record
    records = Split(datasets.load_images(data, split, record.shape, record.dtype))
    return HeldOut(model, data, split, records, settings)


def model_scores(held: HeldOut, ks: Sequence[int], show_progress: bool = True) -> ModelScores:
    """Scores a model on complete records.

    Args:
        held: the model and the records.
        ks: importance samples a record (Burda et al. 2016, eq. 8).
        show_progress: whether to show a bar.
    """
    vae = held.model.vae
    return ModelScores(
        len(held.records),
        heldout.mean_log_probs(vae, held.records, held.settings, ks, show_progress),
        aggregated_posterior(vae, _batches(held)),
    )


def _batches(held: HeldOut) -> Iterator[tf.Tensor]:
    for first in range(0, len(held.records), _ROWS):
        yield held.inputs(slice(first, first + _ROWS), seed=first)


def _settings(model: LoadedModel) -> Settings:
    training, likelihood = model.description.training, model.vae.likelihood
    try:
        record = RecordConfig.model_validate(
            {
                "shape": model.description.data_shape,
                "dtype": np.dtype(likelihood.dtype).name,
                # Models that do not say so were trained on sampled values
                "binarize": training.get("binarize", "sample") if likelihood.binary else "none",
            }
        )
    except ValueError as error:
        raise ModelError(f"the model says nothing of its data that can be read: {error}") from None
    seed = training.get("seed", 0)
    return Settings(DataConfig(), record, model.description.model, TrainConfig(), seed)
