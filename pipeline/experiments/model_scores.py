"""What a model says of complete records that it was not trained on: `vaefill evaluate --model`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vaefill.errors import ConfigError
from vaefill.model import datasets, heldout
from vaefill.model.checkpoints import LoadedModel
from vaefill.model.config import DataConfig, RecordConfig, Settings, TrainConfig
from vaefill.model.gaps import Split
from vaefill.report.text import markdown_table

_ACTIVE = 0.01  # of the variance of a latent's mean over records (Burda et al. 2016, sec. 5.2)
_ROWS = 1000  # records the encoder takes at once


class ModelScores(NamedTuple):
    """Of N records, in nats a record; of real values in their own units."""

    num_records: int
    log_prob: dict[int, tuple[float, float]]  # k -> mean and standard error; k = 1: the ELBO
    num_active: int  # latents whose mean depends on the record
    latent_size: int


def model_scores(
    model: LoadedModel, data: str, split: str, ks: Sequence[int], show_progress: bool = True
) -> ModelScores:
    """Scores a model on a split of complete records.

    Args:
        model: the model; values are binarised as in its training.
        data: a data set, see `datasets.builder`.
        split: of it.
        ks: importance samples a record (Burda et al. 2016, eq. 8).
        show_progress: whether to show bars.

    Raises:
        ConfigError: the model's data are of another kind.
        DatasetError: no such split, or its records lack values.
    """
    settings = _settings(model)
    record = settings.record
    values = Split(datasets.load_images(data, split, record.shape, record.dtype))
    return ModelScores(
        len(values),
        {k: heldout.mean_log_prob(model.vae, values, settings, k, show_progress) for k in ks},
        _num_active(model, values, settings),
        model.vae.latent_size,
    )


def _settings(model: LoadedModel) -> Settings:
    """What of the model's training its scores depend on."""
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
        raise ConfigError(f"the model says nothing of its data that can be read: {error}") from None
    seed = training.get("seed", 0)
    return Settings(DataConfig(), record, model.description.model, TrainConfig(), seed)


def _num_active(model: LoadedModel, values: Split, settings: Settings) -> int:
    """Latents of which the mean varies from record to record."""
    likelihood = model.vae.likelihood
    means = []
    for first in range(0, len(values), _ROWS):
        images = heldout.standardized(likelihood, values.values[first : first + _ROWS])
        x = heldout.model_values(
            likelihood, settings.record.binarize, tf.constant(images), tf.constant([0, first])
        )
        means.append(model.vae.encode(x).mean().numpy())
    return int((np.concatenate(means).var(axis=0) > _ACTIVE).sum())


def table(scores: ModelScores) -> str:
    """The scores as text."""
    rows = [
        ["ELBO" if k == 1 else f"log p(x), k = {k:,}", f"{mean:.2f} ± {error:.2f}"]
        for k, (mean, error) in scores.log_prob.items()
    ]
    active = f"{scores.num_active} of {scores.latent_size} latents are active"
    title = f"{scores.num_records:,} records"
    return "\n".join([*markdown_table([title, "nats a record"], rows), "", active])
