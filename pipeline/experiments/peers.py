"""`vaefill compare-peers`: what people use to fill in missing values, beside the samplers, on the
same records and masks.

Every method imputes records of a test split, which are scored, and others that a small classifier
learns from, which is judged by complete records of the test split. Results are kept cell by cell,
as those of `vaefill compare` are.

A filling that is no probability of a 1 has an nll too: that of the filling clipped to [c, 1 - c],
with the c of `CLIPS` that suits it best on the very values that are scored.
"""

import functools
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vaefill.errors import ConfigError
from vaefill.experiments import classifier, comparison
from vaefill.experiments.comparison import Task
from vaefill.experiments.fillings import FILLINGS, ITERATIVE, KNN, Filled, fill
from vaefill.model import datasets, files
from vaefill.model.checkpoints import LoadedModel
from vaefill.model.imputer import Imputer
from vaefill.report.text import markdown_table, number, score

CLIPS = (0.1, 0.05, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 1e-4, 1e-5, 1e-6)
MASKS = ("mcar_50", "top_three_quarters")  # by default, of those of `comparison.MASKS`
METHODS = {  # title of each
    "zeros": "zeros",
    "mean": "mean of every value",
    "knn": "scikit-learn's `KNNImputer`",
    "iterative": "scikit-learn's `IterativeImputer`",
    "importance_resampling": "`importance_resampling` (MIWAE)",
    "pseudo_gibbs": "`pseudo_gibbs` (Rezende et al. 2014)",
    "latent_hmc": "`latent_hmc`",
}
_LOGGER = logging.getLogger("vaefill.compare")


def draw(imputer: Imputer, records: Task, observed: np.ndarray) -> Filled:
    """Fills in records by a sampler."""
    result, seconds = comparison.run(imputer, records, observed)
    num, num_draws = result.imputations.shape[:2]
    drawn = result.imputations.reshape(num * num_draws, -1)
    values = records.preprocessor.likelihood.from_data(drawn, None)
    return Filled(values.reshape(num, num_draws, -1), result.mean.reshape(num, -1), True, seconds)


def scores(filled: Filled, records: Task, observed: np.ndarray) -> dict[str, Any]:
    """Scores of records, per missing value, and the best of `CLIPS` where something is clipped."""
    see, missing = records.preprocessor, ~observed.reshape(len(observed), -1)
    found = see.score(filled.mean, records.truth, missing)
    binary = see.likelihood.binary
    if filled.is_probability or not binary:
        return comparison.summarize(found, binary)
    by_clip = {
        clip: see.score(np.clip(filled.mean, clip, 1 - clip), records.truth, missing).nll
        for clip in CLIPS
    }
    best = min(by_clip, key=lambda clip: by_clip[clip].sum())
    return comparison.summarize(found._replace(nll=by_clip[best]), binary) | {"clip": best}


class Settings(NamedTuple):
    """What the figures depend on beside the model."""

    data: str  # a data set, see `datasets.builder`
    split: str  # the test split
    num_records: int  # its first so many are imputed and scored
    classifier_split: str  # whose imputations the classifier learns from
    fit_split: str  # of complete records, for all methods but the samplers
    num_fitted: int  # its first so many
    max_sweeps: int  # of the samplers


class Data(NamedTuple):
    """The records of a comparison with peers; images here are on the model's scale."""

    scored: Task
    complete: np.ndarray  # [F, D] float32
    learned: Task  # that are imputed for the classifier; none without labels
    labels: np.ndarray  # [L] int64, theirs
    test: np.ndarray  # [T, H, W, C] float32, that the classifier is judged by
    test_labels: np.ndarray  # [T] int64


def load(model: LoadedModel, settings: Settings) -> Data:
    """Loads what a comparison needs.

    Raises:
        ConfigError: splits have records in common.
        DatasetError: a split is not there, lacks values, or is not what the model is for.
    """
    name = settings.data
    _check_splits(model, settings)
    test = comparison.task(model, name, settings.split, None)
    complete = comparison.task(model, name, settings.fit_split, settings.num_fitted)
    labels = datasets.load_labels(name, settings.classifier_split)
    test_labels = datasets.load_labels(name, settings.split)
    if labels is None or test_labels is None:
        _LOGGER.info("no accuracy: %s has no labels", name)
        learned, labels, test_labels = test.first(0), np.zeros(0, int), np.zeros(0, int)
    else:
        learned = comparison.task(model, name, settings.classifier_split, None)
    return Data(
        test.first(settings.num_records),
        _on_model_scale(complete).reshape(len(complete.ids), -1),
        learned,
        labels,
        _on_model_scale(test),
        test_labels,
    )


def _check_splits(model: LoadedModel, settings: Settings) -> None:
    """Checks that nothing is learned from what is to be imputed, and says so if the model has."""
    splits = (settings.split, settings.classifier_split, settings.fit_split)
    for one, two in itertools.combinations(splits, 2):
        if datasets.overlap(settings.data, one, two):
            raise ConfigError(
                f"{one} and {two} of {settings.data} have records in common; give --split, "
                "--classifier-split and --fit-split that have none"
            )
    trained = model.description.training
    if trained.get("data") != settings.data or "split" not in trained:
        return
    for split in splits[:2]:
        if datasets.overlap(settings.data, split, trained["split"]):
            _LOGGER.warning(
                "the model was trained on records of %s (%s), and will do better there than it "
                "does on new ones",
                split,
                trained["split"],
            )


def _on_model_scale(records: Task) -> np.ndarray:
    """[N, H, W, C] float32, complete."""
    see = records.preprocessor
    return see.to_model(see.keys(records.ids), records.images).reshape(records.images.shape)


def _together(first: Task, second: Task) -> Task:
    return Task(
        np.concatenate([first.images, second.images]),
        [*first.ids, *second.ids],
        np.concatenate([first.truth, second.truth]),
        first.preprocessor,
    )


class Peers:
    """Runs the methods that are not there yet, and keeps each in a file of `directory`."""

    def __init__(self, model: LoadedModel, settings: Settings, directory: str):
        """Loads the records.

        Raises:
            ConfigError, DatasetError: see `load`.
        """
        self._model, self._settings, self._directory = model, settings, directory
        self._data = load(model, settings)
        self._records = _together(self._data.scored, self._data.learned)
        files.make_directory(directory)

    def run(self, methods: Sequence[str], masks: Sequence[str]) -> None:
        """The cells of methods, under each of some masks of `comparison.MASKS`, and that of
        complete records, of which a classifier learns what there is to learn.

        Raises:
            ConfigError: cells are there, but of other settings or another model.
        """
        if len(self._data.labels):
            values = _on_model_scale(self._data.learned)
            self._cell("complete", "none", lambda: self._accuracy(values[:, np.newaxis]))
        for mask in comparison.that_hide(masks, self._data.scored):
            observed = self._records.observed(mask)
            for method in methods:
                compute = functools.partial(self._compute, method, observed)
                self._cell(method, mask, compute)

    def _cell(self, method: str, mask: str, compute: Callable[[], dict[str, Any]]) -> None:
        settings = self._settings._asdict() | {"model": self._model.fingerprint}
        cell = comparison.kept(
            self._directory, f"peers-{method}", mask, lambda: compute() | {"settings": settings}
        )
        others = [key for key, value in settings.items() if cell["settings"][key] != value]
        if others:
            raise ConfigError(
                f"{self._directory} has results of another {', '.join(others)}: "
                "choose another --output"
            )

    def _compute(self, method: str, observed: np.ndarray) -> dict[str, Any]:
        _LOGGER.info("%s of %s records", METHODS[method], f"{len(observed):,}")
        if method in FILLINGS:
            filled = fill(method, self._records, observed, self._data.complete)
        else:
            filled = self._draw(method, observed)
        num, shape = len(self._data.scored.ids), observed.shape[1:]
        first = filled._replace(values=filled.values[:num], mean=filled.mean[:num])
        drawn = filled.values[num:].reshape(-1, filled.values.shape[1], *shape)
        return {
            "num_records": num,
            **scores(first, self._data.scored, observed[:num]),
            **self._accuracy(drawn),
            "seconds": filled.seconds,
            "seconds_a_record": filled.seconds / len(observed),
        }

    def _draw(self, sampler: str, observed: np.ndarray) -> Filled:
        most = {"max_sweeps": self._settings.max_sweeps}
        config = comparison.sampler_config(sampler, len(observed), most)
        imputer = Imputer(self._model.vae, config, self._records.preprocessor)
        return draw(imputer, self._records, observed)

    def _accuracy(self, drawn: np.ndarray) -> dict[str, Any]:
        """What a classifier learns of imputed records [L, M, H, W, C]; nothing without any."""
        if not len(drawn):
            return {}
        began, data = time.perf_counter(), self._data
        correct = classifier.num_correct(drawn, data.labels, data.test, data.test_labels)
        return {
            "accuracy": float(correct.mean() / classifier.NUM_NETWORKS),
            "num_correct": correct.tolist(),
            "num_learned": len(drawn),
            "num_networks": classifier.NUM_NETWORKS,
            "seconds": time.perf_counter() - began,
        }


def write_tables(directory: str) -> str:
    """Leaves `peers.md` beside the cells, and returns what is in it."""
    text = tables(comparison.load_cells(directory))
    files.write_whole(os.path.join(directory, "peers.md"), text)
    return text


def tables(cells: Sequence[dict[str, Any]]) -> str:
    """Markdown: a table for each mask, and what its figures are of."""
    complete = [cell for cell in cells if cell["row"] == "peers-complete"]
    lines: list[str] = []
    for mask in comparison.MASKS:
        by_row = {cell["row"]: cell for cell in cells if cell["mask"] == mask}
        chosen = [by_row[row] for row in map("peers-{}".format, METHODS) if row in by_row]
        if chosen:
            title = f"Missing: {mask}; {chosen[0]['num_records']:,} records"
            lines += [title, "", *_table(chosen, complete), ""]
    return "\n".join([*lines, *_notes(cells)]) + "\n"


def _table(cells: Sequence[dict[str, Any]], complete: Sequence[dict[str, Any]]) -> list[str]:
    binary = any("nll" in cell for cell in cells)
    names = ("nll", "Brier", "F1") if binary else ("RMSE",)
    titles = ["method", *names, "s/record"]
    rows = [
        [
            METHODS[cell["row"].removeprefix("peers-")],
            *(_binary_scores(cell) if binary else [score(math.sqrt(cell["brier"]))]),
            number(cell["seconds_a_record"], ".2g"),
        ]
        for cell in cells
    ]
    if complete:
        titles += ["accuracy", "points above complete"]
        rows = [[*row, *_accuracies(cell, complete[0])] for row, cell in zip(rows, cells)]
        dashes = ["-"] * (len(names) + 1)
        rows.insert(0, ["complete records", *dashes, f"{complete[0]['accuracy']:.2%}", "-"])
    return markdown_table(titles, rows)


def _binary_scores(cell: dict[str, Any]) -> list[str]:
    clipped = f" (c = {cell['clip']:g})" if "clip" in cell else ""
    return [
        f"{score(cell['nll'])} ± {score(cell['nll_standard_error'])}{clipped}",
        score(cell["brier"]),
        number(cell["f1"], ".3f"),
    ]


def _accuracies(cell: dict[str, Any], complete: dict[str, Any]) -> list[str]:
    """The accuracy, and how far it is above that of complete records, in points, with a standard
    error over the test records.
    """
    if "accuracy" not in cell:
        return ["-", "-"]
    ours, theirs = (np.array(each["num_correct"]) for each in (cell, complete))
    points = 100 * (ours - theirs) / complete["num_networks"]
    error = points.std(ddof=1) / math.sqrt(len(points))
    return [f"{cell['accuracy']:.2%}", f"{number(points.mean(), '+.2f')} ± {error:.2f}"]


def _notes(cells: Sequence[dict[str, Any]]) -> list[str]:
    """What the figures of the tables are of, as a list."""
    own = [cell for cell in cells if cell["row"].startswith("peers-")]
    if not own:
        return []
    settings = Settings(**{key: own[0]["settings"][key] for key in Settings._fields})
    learned = [cell for cell in own if "accuracy" in cell]
    lines = [
        f"- Scores: of the first records of {settings.split} of {settings.data}, per missing "
        "value, ± standard errors over records.",
        f"- Samplers: a record stops when it has converged, or after {settings.max_sweeps:,} "
        "sweeps.",
        f"- All but samplers learn from the first {settings.num_fitted:,} records, or all, of "
        f"{settings.fit_split}, complete; `KNNImputer` with {_named(KNN)}, `IterativeImputer` "
        f"with {_named(ITERATIVE)}, from one table of these and the records to impute.",
        "- c: the nll is that of values clipped to [c, 1 - c], with the c that suits best on the "
        "very values that are scored.",
        "- s/record: seconds on this machine, fitting included; of samplers without compilation "
        "and the model's training.",
    ]
    if learned:
        lines.append(
            f"- accuracy: on {len(learned[0]['num_correct']):,} complete records of "
            f"{settings.split}, of a small convolutional network that has learned from "
            f"{learned[0]['num_learned']:,} of {settings.classifier_split}, imputed, all draws of "
            "each with equal weights and in as many steps; a mean over "
            f"{learned[0]['num_networks']} seeds. Beside it how many points it is above that of "
            "the network that has learned from complete ones, ± a standard error over the records "
            "that it is judged by."
        )
    return lines


def _named(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())
