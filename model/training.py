"""Training a VAE, on complete records or on such as lack values: `train_and_evaluate`, which can be
killed and started again at any moment.
"""

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vaefill.model import checkpoints, ensembles, files, heldout
from vaefill.model import vae as vae_lib
from vaefill.model.config import (
    DataConfig,
    ModelConfig,
    RecordConfig,
    Settings,
    TrainConfig,
    check_likelihood,
)
from vaefill.model.datasets import DatasetSource, Source, excluding
from vaefill.model.errors import TrainingError
from vaefill.model.gaps import Split, with_gaps, without
from vaefill.model.goals import CompleteEncoder, Evidence
from vaefill.model.preprocessing import GREY_UNDER_A_THRESHOLD, looks_grey
from vaefill.model.self_masking import SelfMasking
from vaefill.model.standardization import estimate
from vaefill.model.trainer import Trainer

_LOGGER = logging.getLogger("vaefill.training")
_NOT_OF_TRAINING = {"carry"}  # of the section `record`: what the weights do not depend on
# What was always so before it could be said: a training of an earlier version does not say it
_DEFAULTS = {
    name: section().model_dump(mode="json")
    for name, section in (
        ("data", DataConfig),
        ("record", RecordConfig),
        ("model", ModelConfig),
        ("train", TrainConfig),
    )
}
_CALIBRATION, _RESAMPLE = 3, 4  # what a stateless seed is for; see `heldout` and `trainer`
_ENCODER_SHARE = 0.2  # of the epochs: as many again for the encoder of complete records


class Splits(NamedTuple):
    """The records of a training."""

    train: Split
    validation: Split
    test: Split


def train_and_evaluate(
    settings: Settings,
    directory: str,
    show_progress: bool = True,
    source: Source | None = None,
) -> dict[str, Any]:
    """Trains a VAE, or with `train.num_members` an ensemble of several, and leaves it, with its
    scores, in a model directory.

    Any record of any split may lack values. Then the bound is that of the observed values, with an
    encoder of its own for such records (MIWAE, Mattei & Frellsen 2019), and afterwards the model's
    encoder, which sees complete records alone, is fitted to the decoder (`goals.CompleteEncoder`).
    Validation, the scores, and the location and scale of real values take observed values alone.
    With a model of masks (`model.missingness`) the bound, the validation and the scores are of the
    observed values and the mask, log p(x_obs, s).

    Checkpoints and TensorBoard logs go to `DIRECTORY/training`; a training that was stopped goes on
    from there. A directory that holds the finished model of the same settings is left as it is.
    Each member of an ensemble lies in a directory of its own, with its checkpoints.

    Args:
        settings: of the training.
        directory: of the model.
        show_progress: whether to show bars.
        source: of the splits' records; by default the data set of tfds that `data.name` is.

    Returns:
        The training summary that `vae.json` holds, or `ensemble.json`.

    Raises:
        TrainingError: the directory holds a training of other settings, the loss is not finite, or
            there is nothing missing that a model of masks could learn from.
        DatasetError: the data set is not there or does not fit.
        ValueError: the likelihood is not for such data.
    """
    check_likelihood(settings.model.likelihood, settings.record)
    source = source or DatasetSource(settings.data.name, settings.record)
    _claim(directory, settings, source.content_hash)
    if ensembles.is_complete(directory):
        return ensembles.describe(directory).training
    splits = _load(source, settings)
    _check(splits.train, settings)
    if settings.train.num_members > 1:
        return _train_members(settings, directory, splits, show_progress)
    return _train(settings, directory, splits, show_progress)


def _load(source: Source, settings: Settings) -> Splits:
    """All records, less those to exclude."""
    data = settings.data
    train, validation, test = map(source.load, (data.train, data.validation, data.test))
    if data.exclude is not None:
        train, validation = (
            excluding(split, data.exclude, settings.record) for split in (train, validation)
        )
    return Splits(train, validation, test)


def _train_members(
    settings: Settings, directory: str, splits: Splits, show_progress: bool
) -> dict[str, Any]:
    """Trains the members of an ensemble that are not finished, one after another.

    Returns:
        What the members' summaries agree in, and of their other numbers the means.
    """
    num, summaries = settings.train.num_members, []
    for number in range(num):
        place = ensembles.member_directory(directory, number)
        if not checkpoints.is_complete(place):
            _LOGGER.info("member %d of %d", number + 1, num)
            own = dataclasses.replace(settings, seed=ensembles.member_seed(settings.seed, number))
            resampled = splits._replace(train=_resampled(splits.train, own.seed))
            _train(own, place, resampled, show_progress)
        summaries.append(checkpoints.describe(place).training)
    summary = _in_the_mean(summaries) | {"seed": settings.seed}
    ensembles.save(directory, num, settings.model, settings.record.shape, summary)
    return summary


def _resampled(split: Split, seed: int) -> Split:
    """A bootstrap resample (Efron 1979): as many records, drawn with replacement."""
    num = len(split)
    places = tf.random.stateless_uniform([num], [seed, _RESAMPLE], 0, num, tf.int64)
    return split[places.numpy()]


def _in_the_mean(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What summaries agree in, and of what they do not the means, numbers or lists of them."""
    values = {name: [each[name] for each in summaries] for name in summaries[0]}
    return {
        name: each[0] if each.count(each[0]) == len(each) else np.mean(each, axis=0).tolist()
        for name, each in values.items()
    }


def _train(
    settings: Settings, directory: str, splits: Splits, show_progress: bool
) -> dict[str, Any]:
    """Trains a model and leaves it in its directory; returns its summary."""
    train, validation, test = splits
    vae = untrained(settings, train)
    selection, calibration = _split_validation(validation, settings)
    workdir = os.path.join(directory, "training")
    summary = _fit(vae, train, selection, test, settings, workdir, show_progress)
    summary["num_calibration"] = 0 if calibration is None else len(calibration)
    checkpoints.save(directory, vae, settings.model, summary, calibration)
    return summary


def _check(train: Split, settings: Settings) -> None:
    """Checks that there are records enough, with gaps where one is to learn from them, and says so
    if they are of another kind.
    """
    if len(train) < settings.train.batch_size:
        raise TrainingError(
            f"train.batch_size is {settings.train.batch_size}, "
            f"the training split has {len(train)} images; set it to at most {len(train)}"
        )
    if settings.model.missingness != "ignorable" and train.observed is None:
        raise TrainingError(
            f"model.missingness {settings.model.missingness} learns from records that lack values, "
            "and none of the training split does; set it to ignorable"
        )
    if settings.record.binarize == "threshold" and looks_grey(train.values):
        _LOGGER.warning(GREY_UNDER_A_THRESHOLD, "these images")


def untrained(settings: Settings, train: Split) -> vae_lib.VAE:
    """The VAE of a training before its first step: real values are standardised by what is observed
    of the training split.
    """
    standardization = None
    if settings.record.dtype == "float32":
        known = train.values
        if train.observed is not None:
            known = without(known, ~train.observed, np.nan)
        standardization = estimate(known)
    return vae_lib.build(settings.model, settings.record.shape, settings.seed, standardization)


def _fit(
    vae: vae_lib.VAE,
    train: Split,
    validation: Split,
    test: Split,
    settings: Settings,
    workdir: str,
    show_progress: bool,
) -> dict[str, Any]:
    """Trains a VAE and scores it. Where records lack values its decoder learns with an encoder of
    such, and then its encoder, which sees complete ones. Returns the summary.
    """
    has_gaps = any(split.observed is not None for split in (train, validation, test))
    trained = vae
    if has_gaps:
        train, validation = _with_masks(train), _with_masks(validation)
        encoder = vae_lib.gap_encoder(settings.model, settings.record.shape, settings.seed)
        trained = dataclasses.replace(vae, encoder=encoder)
    goal = Evidence(trained, settings.train.num_importance_samples)
    trainer = Trainer(goal, settings, train, workdir)
    trainer.run(validation, show_progress)
    summary = _summary(trainer, train, settings)
    if has_gaps:
        of_encoder = Trainer(
            CompleteEncoder(vae, trained),
            settings,
            train,
            os.path.join(workdir, "encoder"),
            epochs=_ENCODER_SHARE * settings.train.epochs,
            name="encoder of complete records",
        )
        of_encoder.run(validation, show_progress)
        summary["num_encoder_steps"] = of_encoder.num_steps
    scored = vae if test.observed is None else trained
    return summary | heldout.evaluate(scored, test, settings, show_progress)


def _with_masks(split: Split) -> Split:
    """The same records with what is observed of them, everything if there was no word of it."""
    observed = split.observed
    return Split(split.values, np.ones(split.values.shape, bool) if observed is None else observed)


def _summary(trainer: Trainer, train: Split, settings: Settings) -> dict[str, Any]:
    """What the training was, for `vae.json`."""
    summary = {
        "data": settings.data.name,
        "split": settings.data.train,
        "binarize": settings.record.binarize,
        "seed": settings.seed,
        "num_images": len(train),
        "num_steps": trainer.num_steps,
        "num_importance_samples": settings.train.num_importance_samples,
        "validation_bound": trainer.validation_bound,
    }
    if settings.data.exclude is not None:
        summary["excluded"] = settings.data.exclude
    if train.observed is not None:
        summary["observed_fraction"] = float(train.observed.mean())
    missingness = trainer.vae.likelihood.missingness
    if isinstance(missingness, SelfMasking):  # of 0 and of 1, the means over values
        summary["missing_rates"] = missingness.rates.mean(axis=1).tolist()
    return summary


def _split_validation(validation: Split, settings: Settings) -> tuple[Split, Split | None]:
    """Validation records for early stopping, and others that misfits are told by, if any.

    No record is in both: a model is chosen for what it says of the former, and of those it has
    chosen itself it would think better than of new ones. The calibration set is drawn without
    replacement, as a data set may be sorted, and is at most half of all.
    """
    num = min(settings.train.num_calibration, len(validation) // 2)
    if not num:
        return validation, None
    place = tf.random.experimental.index_shuffle(
        tf.range(num, dtype=tf.int64), [settings.seed, _CALIBRATION], len(validation) - 1
    )
    chosen = np.sort(place.numpy())
    calibration = validation[chosen]
    if calibration.observed is not None:  # what is kept says nothing of what is missing
        calibration = with_gaps(calibration.values, calibration.observed)
    return validation[np.delete(np.arange(len(validation)), chosen)], calibration


def _claim(directory: str, settings: Settings, content_hash: str | None) -> None:
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
    if content_hash is not None:
        ours["content_hash"] = content_hash
    if ensembles.is_complete(directory) or _has_begun(directory):
        different = _different_sections(path, ours)
        if different:
            raise TrainingError(
                f"{directory} holds a training with other settings ({', '.join(different)}); "
                "choose another model directory, or delete this one to train anew"
            )
        return
    files.make_directory(os.path.dirname(path))
    files.write_json(path, ours)


def _has_begun(directory: str) -> bool:
    """Whether there are checkpoints, of a model or of the first member of an ensemble."""
    return any(
        files.exists(os.path.join(place, "training", "checkpoints", "checkpoint"))
        for place in (directory, ensembles.member_directory(directory, 0))
    )


def _different_sections(path: str, ours: dict[str, Any]) -> list[str]:
    try:
        theirs = files.read_json(path)
    except (OSError, ValueError):
        return ["its settings.json is missing or broken"]
    return [section for section in ours if _differs(section, ours[section], theirs.get(section))]


def _differs(section: str, ours: Any, theirs: Any) -> bool:
    if section not in _DEFAULTS or not isinstance(theirs, dict):
        return bool(ours != theirs)
    return bool(ours != {key: (_DEFAULTS[section] | theirs).get(key) for key in ours | theirs})
