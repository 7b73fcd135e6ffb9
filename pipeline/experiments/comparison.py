"""`vaefill compare`: every sampler on the same records and masks, scored, timed, and set beside a
reference.

Three experiments, each a list of cells whose results are kept in a JSON file of their own, so that
a comparison that was stopped goes on:

- convergence: records run until they converge or reach `max_sweeps`; scores against the truth, the
  fraction converged, sweeps, gradients and seconds.
- distance: chains of fixed lengths; how far `mean` is from the model's own conditional mean, taken
  from long chains of `latent_hmc`, against wall time. Unlike a score against the truth it is the
  sampler's error alone.
- fit: how many of the records are misfits, whatever the sampler, and how many are once they are
  corrupted.
"""

import functools
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from vaefill.errors import ConfigError
from vaefill.model import datasets, evaluation, files, missingness, samplers
from vaefill.model.checkpoints import LoadedModel
from vaefill.model.compiled import compile_vae
from vaefill.model.config import SamplerConfig
from vaefill.model.imputer import Imputed, Imputer
from vaefill.model.misfit import FitTest, is_misfit, with_rate_in_reach
from vaefill.model.preprocessing import Preprocessor
from vaefill.report import figures
from vaefill.report.text import markdown_table, number, score

MASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "mcar_50": ("mcar", {"rate": 0.5}),
    "mcar_80": ("mcar", {"rate": 0.8}),
    "top_three_quarters": ("top_three_quarters", {}),
    "left_half": ("half", {"side": "left"}),
}
_LOGGER = logging.getLogger("vaefill.compare")
_SEED = 0
_NEVER = {"target_r_hat": 1.0 + 1e-9, "target_ess": 1e9}  # a chain of fixed length
_OF_SAMPLER: dict[str, dict[str, Any]] = {"annealed_smc": {"num_particles": 128, "max_sweeps": 95}}
_REFERENCE = {"max_sweeps": 3080}
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Fixed lengths, at which a record takes about 1,000, 2,000, 4,000 and 16,000 gradients.
_LENGTHS = {
    "latent_hmc": (
        {"num_warmup": 30, "max_sweeps": 84},
        {"num_warmup": 40, "max_sweeps": 148},
        {"num_warmup": 60, "max_sweeps": 288},
        {"max_sweeps": 1037},
    ),
    "annealed_smc": ({"num_particles": 32}, {}),
    "lair": tuple(
        {"num_start": 10, "num_warmup": 5, "max_sweeps": sweeps} for sweeps in (31, 62, 125, 500)
    ),
}
_PLAIN_LENGTHS = tuple({"max_sweeps": sweeps} for sweeps in (250, 500, 1000, 4000))
_BLUR = 5  # pixels, the side of a box


class Task(NamedTuple):
    """The records of a comparison."""

    images: np.ndarray  # [N, H, W, C] of the likelihood's data type, complete
    ids: Sequence[bytes]
    truth: np.ndarray  # [N, D], see `Preprocessor.truth`
    preprocessor: Preprocessor

    def first(self, num: int) -> "Task":
        """The first records of these."""
        return self._replace(images=self.images[:num], ids=self.ids[:num], truth=self.truth[:num])

    def observed(self, mask: str) -> np.ndarray:
        """[N, H, W, C] bool by a name of `MASKS`."""
        mechanism, parameters = MASKS[mask]
        # No mask of these looks at values; mechanisms take bytes alone
        images = (
            self.images if self.images.dtype == np.uint8 else np.zeros(self.images.shape, np.uint8)
        )
        return np.stack(
            [
                missingness.generate(
                    mechanism, image, missingness.record_generator(_SEED, record_id), parameters
                )
                for image, record_id in zip(images, self.ids)
            ]
        )


def task(model: LoadedModel, data: str, split: str, num_records: int | None) -> Task:
    """The first records of a split of a data set of images, or all.

    Raises:
        ConfigError: the model has learnt why values are missing, which is not why they are here.
        DatasetError: see `datasets.load_images`.
    """
    likelihood = model.vae.likelihood
    if likelihood.missingness is not None:
        raise ConfigError(
            "a model with model.missingness self_masking takes a mask for data, and a comparison "
            "hides values by masks of its own: choose a model with model.missingness ignorable"
        )
    dtype = np.dtype(likelihood.dtype).name
    images = datasets.load_images(data, split, model.vae.data_shape, dtype)[:num_records]
    images = images.reshape(-1, *model.vae.data_shape)
    ids = [f"{split}-{index:08d}".encode() for index in range(len(images))]
    # `threshold` and not `none`, which likelihoods that are not binary take no notice of
    preprocessor = Preprocessor(likelihood, seed=_SEED)
    return Task(images, ids, preprocessor.truth(preprocessor.keys(ids), images), preprocessor)


def that_hide(masks: Sequence[str], records: Task) -> list[str]:
    """Those of some masks that hide something of records; says which do not."""
    hiding = [mask for mask in masks if not records.observed(mask).all()]
    for mask in (mask for mask in masks if mask not in hiding):
        _LOGGER.warning("%s hides nothing of these records, and is left out", mask)
    return hiding


def sampler_config(name: str, num_records: int, settings: dict[str, Any]) -> SamplerConfig:
    """A sampler by its own defaults and `settings`, in no more slots than the records fill."""
    values = {"name": name, "num_evidence_draws": 0, **_OF_SAMPLER.get(name, {}), **settings}
    bare = samplers.SAMPLERS[name].Config.model_construct(**values)  # whose slots may not fit yet
    unit = bare.slots_unit
    filled = unit * -(-num_records * bare.rows_per_record // unit)
    slots = max(unit, min(bare.slots // unit * unit, filled))
    return samplers.sampler_config(**values | {"slots": slots})


def run(imputer: Imputer, records: Task, observed: np.ndarray) -> tuple[Imputed, float]:
    """Imputes, and how many seconds it took without compilation."""
    imputer.compile(observed)
    began = time.perf_counter()
    with tqdm.tqdm(total=len(records.ids), unit="record", leave=False) as bar:
        result = imputer(
            records.images,
            observed,
            records.ids,
            report=lambda converged: bar.update(len(converged)),
        )
    return result, time.perf_counter() - began


def converge(imputer: Imputer, records: Task, observed: np.ndarray) -> dict[str, Any]:
    """A cell of the first experiment."""
    result, seconds = run(imputer, records, observed)
    missing = ~observed.reshape(len(observed), -1)
    scores = records.preprocessor.score(result.mean.reshape(missing.shape), records.truth, missing)
    gradients = np.where(result.converged, result.num_network_passes, np.inf)
    return {
        "num_records": len(observed),
        **summarize(scores, records.preprocessor.likelihood.binary),
        "converged": float(result.converged.mean()),
        "sweeps_median": float(np.median(result.num_sweeps)),
        "gradients_mean": float(result.num_network_passes.mean()),
        "gradients_when_converged": sorted(int(each) for each in gradients if np.isfinite(each)),
        "r_hat_quantiles": _quantiles(result.r_hat),
        "ess_quantiles": _quantiles(np.minimum(result.ess_bulk, result.ess_tail)),
        "acceptance": float(np.mean(result.acceptance_rate)),
        "non_finite": int(result.num_non_finite.sum()),
        "seconds": seconds,
    }


def summarize(scores: evaluation.Scores, binary: bool) -> dict[str, Any]:
    """What a cell says of the scores of its records, per missing value; of binary values more."""
    return {
        "num_unscored": int(scores.num_unscored.sum()),
        "brier": evaluation.ratio(scores.brier.sum(), scores.num_values.sum()),
        **(_of_binary(scores) if binary else {}),
    }


def _of_binary(scores: evaluation.Scores) -> dict[str, float]:
    """The scores that binary values alone have."""
    total = evaluation.Scores(*(field.sum(axis=0) for field in scores))
    scored = scores.num_values > 0
    per_record = scores.nll[scored] / scores.num_values[scored]
    # In each bin, times its number of values
    off = np.abs(total.reliability_mean - total.reliability_truth)
    return {
        "nll": float(total.nll / total.num_values),
        "nll_standard_error": float(per_record.std(ddof=1) / math.sqrt(len(per_record))),
        "f1": evaluation.f1(total.true_positive, total.false_positive, total.false_negative),
        "calibration_error": float(off.sum() / total.num_values),
    }


def _quantiles(values: np.ndarray) -> list[float | None]:
    """At `_QUANTILES`; NaN counts as infinite, None where that is all there is."""
    found = np.quantile(
        np.where(np.isnan(values), np.inf, values), _QUANTILES, method="inverted_cdf"
    )
    return [float(value) if np.isfinite(value) else None for value in found]


def distance(
    imputer: Imputer, records: Task, observed: np.ndarray, reference: np.ndarray
) -> dict[str, Any]:
    """A cell of the second experiment: root mean square difference of `mean` over missing
    values.
    """
    result, seconds = run(imputer, records, observed)
    missing = ~observed.reshape(len(observed), -1)
    error = (result.mean.astype(np.float64) - reference).reshape(missing.shape)
    num_missing = missing.sum(axis=1)
    squares = np.where(missing, error, 0)[num_missing > 0] ** 2
    squares = squares.sum(axis=1) / num_missing[num_missing > 0]
    root = math.sqrt(squares.mean())
    ratio = _loss(result.mean, records, missing) / _loss(reference, records, missing)
    return {
        "rms": root,
        "rms_standard_error": float(squares.std(ddof=1) / math.sqrt(len(squares)) / (2 * root))
        if root
        else 0.0,
        "loss_ratio": ratio,
        "seconds": seconds,
        "gradients": float(result.num_network_passes.mean()),
    }


def _loss(mean: np.ndarray, records: Task, missing: np.ndarray) -> float:
    """nll of binary values, squared error of others; NaN unless all records are scored, or there is
    no comparing.
    """
    scores = records.preprocessor.score(mean.reshape(missing.shape), records.truth, missing)
    loss = scores.nll if records.preprocessor.likelihood.binary else scores.brier
    return math.nan if scores.num_unscored.any() else float(loss.sum() / scores.num_values.sum())


def _blur(images: np.ndarray) -> np.ndarray:
    """Means over boxes of `_BLUR` pixels a side; images go on beyond their edges as they end."""
    margin = _BLUR // 2
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    boxes = np.lib.stride_tricks.sliding_window_view(padded, (_BLUR, _BLUR), axis=(1, 2))
    means = boxes.mean(axis=(-2, -1), dtype=np.float64)
    return (means.round() if images.dtype == np.uint8 else means).astype(images.dtype)


def _invert(images: np.ndarray) -> np.ndarray:
    """What is high is low: of bytes 255 less each, of real values, mirrored at the mean of each
    over the records.
    """
    if images.dtype == np.uint8:
        return 255 - images
    centre = images.mean(axis=0, dtype=np.float64)
    with np.errstate(over="ignore"):  # infinite, and so a misfit
        return (2 * centre - images).astype(images.dtype)


CORRUPTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of images [N, H, W, C]
    "inverted": _invert,
    "rotated": lambda images: np.rot90(images, axes=(1, 2)),
    "blurred": _blur,
}


def fit(model: LoadedModel, records: Task, observed: np.ndarray) -> dict[str, Any]:
    """A cell of the third experiment: fractions of the records that are misfits, as they are and
    corrupted.

    What changes an image's shape is left out: one that is not square is not rotated.
    """
    began, see = time.perf_counter(), records.preprocessor
    assert model.calibration is not None  # see `Comparison.fits`
    config = with_rate_in_reach(samplers.sampler_config(), len(model.calibration))
    test = FitTest(
        compile_vae(model.vae, config.precision),
        see.calibration(model.calibration.values),
        config.slots,
        model.calibration.observed,
    )
    images = {name: corrupt(records.images) for name, corrupt in CORRUPTIONS.items()}
    images = {
        name: values for name, values in images.items() if values.shape == records.images.shape
    }
    keys = see.keys(records.ids)
    own, *corrupted = [see.to_model(keys, each) for each in (records.images, *images.values())]
    # One call evaluates each mask once
    tiled = np.tile(observed.reshape(len(observed), -1), (1 + len(images), 1))
    misfit = is_misfit(test(np.concatenate([own, *corrupted]), tiled), config.misfit_rate)
    share, *others = misfit.reshape(1 + len(images), -1).mean(axis=1).tolist()
    return {
        "num_records": len(observed),
        "misfit_rate": config.misfit_rate,
        "misfits": share,
        **{f"misfits_{name}": fraction for name, fraction in zip(images, others)},
        "seconds": time.perf_counter() - began,
    }


class Comparison:
    """Runs the cells that are not there yet, and keeps each in a file of `directory`."""

    def __init__(self, model: LoadedModel, records: Task, directory: str, masks: Sequence[str]):
        self._model, self._records, self._directory = model, records, directory
        self._masks = that_hide(masks, records)
        files.make_directory(directory)

    def convergence(self, name: str, max_sweeps: int) -> None:
        """The first experiment for one sampler; one whose chains do not converge has its own
        `max_sweeps`.
        """
        settings = {} if name in _OF_SAMPLER else {"max_sweeps": max_sweeps}
        config = sampler_config(name, len(self._records.ids), settings)
        # Compiled when it is first called
        imputer = Imputer(self._model.vae, config, self._records.preprocessor)
        for mask in self._masks:
            compute = functools.partial(
                converge, imputer, self._records, self._records.observed(mask)
            )
            kept(self._directory, f"convergence-{name}", mask, compute)

    def fits(self) -> None:
        """The third experiment; nothing for a model without calibration records."""
        if self._model.calibration is None:
            _LOGGER.info("no test of fit: the model has no calibration records")
            return
        for mask in self._masks:
            kept(
                self._directory,
                "fit",
                mask,
                functools.partial(fit, self._model, self._records, self._records.observed(mask)),
            )

    def distances(self, name: str, num_records: int) -> None:
        """The second experiment for one sampler, on the first `num_records` records."""
        few = self._records.first(num_records)
        for index, length in enumerate(_LENGTHS.get(name, _PLAIN_LENGTHS)):
            config = sampler_config(name, num_records, length | _NEVER)
            imputer = Imputer(self._model.vae, config, self._records.preprocessor)
            for mask in self._masks:
                compute = functools.partial(
                    distance, imputer, few, few.observed(mask), self._reference(few, mask)
                )
                kept(self._directory, f"distance-{name}-{index}", mask, compute)

    @functools.cached_property
    def _long(self) -> Imputer:
        """Long chains of another seed, which stand for the model's own conditional."""
        config = sampler_config("latent_hmc", min(len(self._records.ids), 104), _REFERENCE | _NEVER)
        return Imputer(
            self._model.vae, config, Preprocessor(self._model.vae.likelihood, seed=_SEED + 1)
        )

    def _reference(self, records: Task, mask: str) -> np.ndarray:
        """The conditional mean [N, H, W, C] of the records under a mask."""
        path = os.path.join(self._directory, f"reference-{_slug(mask)}-{len(records.ids)}.npy")
        if not files.exists(path):
            mean = self._long(records.images, records.observed(mask), records.ids).mean
            with files.written_whole(path, f"{path}.growing.npy") as growing:
                np.save(growing, mean, allow_pickle=False)
        with files.open_to_read(path) as file:
            return np.load(file, allow_pickle=False)


def kept(
    directory: str, row: str, mask: str, compute: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The cell of a row and a mask, from its file or else computed and kept there."""
    path = os.path.join(directory, f"{row}-{_slug(mask)}.json")
    if files.exists(path):
        return files.read_json(path)
    cell = {"row": row, "mask": mask, **compute()}
    _LOGGER.info("%s, %s missing: %.0f s", row, mask, cell["seconds"])
    files.write_json(path, cell)
    return cell


def _slug(mask: str) -> str:
    return mask.replace(" %", "").replace(" ", "-")


def load_cells(directory: str) -> list[dict[str, Any]]:
    """All cells of a comparison, in the order of their files."""
    cells = []
    for name in files.list_names(directory):
        if name.endswith(".json"):
            cells.append(files.read_json(os.path.join(directory, name)))
    return cells


def write_tables(directory: str) -> None:
    """Leaves `tables.md`, and `converged.png`, the fraction converged against gradients, beside the
    cells.
    """
    cells = load_cells(directory)
    files.write_whole(os.path.join(directory, "tables.md"), tables(cells))
    curves: dict[str, dict[str, tuple[list[int], int]]] = {}
    for cell in cells:
        if cell.get("gradients_when_converged"):
            of_mask = curves.setdefault(cell["mask"], {})
            of_mask[cell["row"].removeprefix("convergence-")] = (
                cell["gradients_when_converged"],
                cell["num_records"],
            )
    if curves:
        files.write_whole(os.path.join(directory, "converged.png"), figures.convergence(curves))


def tables(cells: Sequence[dict[str, Any]]) -> str:
    """Markdown: a table of convergence for each mask, one of distances, and one of fit."""
    lines = []
    for mask in MASKS:
        chosen = [
            cell
            for cell in cells
            if cell["row"].startswith("convergence-") and cell["mask"] == mask
        ]
        if chosen:
            lines += [
                "",
                f"Missing: {mask}; {chosen[0]['num_records']:,} records",
                "",
                *_convergence_table(chosen),
            ]
    lines += ["", *_distance_table([cell for cell in cells if cell["row"].startswith("distance-")])]
    lines += ["", *_fit_table([cell for cell in cells if cell["row"] == "fit"])]
    return "\n".join(lines) + "\n"


def _convergence_table(cells: Sequence[dict[str, Any]]) -> list[str]:
    binary = any("nll" in cell for cell in cells)  # others have the squared error alone
    scores = ("nll", "squared error (Brier)", "F1", "calibration error")
    titles = (
        "sampler", *(scores if binary else ("squared error",)),
        "converged", "sweeps", "gradients", "s/record", "R-hat 5, 50, 95 %", "acceptance",
    )  # fmt: skip
    rows = []
    for cell in sorted(cells, key=lambda cell: cell.get("nll", cell["brier"])):
        r_hat = ", ".join(
            "-" if cell["r_hat_quantiles"][i] is None else f"{cell['r_hat_quantiles'][i]:.3f}"
            for i in (0, 2, 4)
        )
        acceptance = "-" if math.isnan(cell["acceptance"]) else f"{cell['acceptance']:.2f}"
        rows.append(
            (
                f"`{cell['row'].removeprefix('convergence-')}`",
                *(_binary_scores(cell) if binary else [_squared_error(cell)]),
                f"{cell['converged']:.1%}",
                f"{cell['sweeps_median']:.0f}",
                f"{cell['gradients_mean']:,.0f}",
                f"{cell['seconds'] / cell['num_records']:.3f}",
                r_hat,
                acceptance,
            )
        )
    return markdown_table(titles, rows)


def _binary_scores(cell: dict[str, Any]) -> list[str]:
    """In the order of the titles."""
    return [
        f"{score(cell['nll'])} ± {score(cell['nll_standard_error'])}",
        _squared_error(cell),
        number(cell["f1"], ".3f"),
        score(cell["calibration_error"]),
    ]


def _squared_error(cell: dict[str, Any]) -> str:
    """Of real values in their own units, squared; of bytes 255 is 1."""
    num = cell.get("num_unscored")
    return score(cell["brier"]) + (f"; {num:,} not scored" if num else "")


def _distance_table(cells: Sequence[dict[str, Any]]) -> list[str]:
    if not cells:
        return []
    masks = [mask for mask in MASKS if any(cell["mask"] == mask for cell in cells)]
    rows = []
    for row in dict.fromkeys(cell["row"] for cell in cells):
        found = {cell["mask"]: cell for cell in cells if cell["row"] == row}
        gradients = next(iter(found.values()))["gradients"]
        texts = [
            f"{score(found[mask]['rms'])} ± {score(found[mask]['rms_standard_error'])} "
            f"in {found[mask]['seconds']:.0f} s; "
            f"loss × {number(found[mask]['loss_ratio'], '.3f')}"
            if mask in found
            else "-"
            for mask in masks
        ]
        rows.append((f"`{row.removeprefix('distance-')[:-2]}`", f"{gradients:,.0f}", *texts))
    return markdown_table(("sampler", "gradients a record", *masks), rows)


def _fit_table(cells: Sequence[dict[str, Any]]) -> list[str]:
    if not cells:
        return []
    rows = [
        (
            cell["mask"],
            f"{cell['num_records']:,}",
            f"{cell['misfit_rate']:.1%}",
            f"{cell['misfits']:.1%}",
            *(
                f"{cell[name]:.1%}" if (name := f"misfits_{corruption}") in cell else "-"
                for corruption in CORRUPTIONS
            ),
        )
        for cell in sorted(cells, key=lambda cell: list(MASKS).index(cell["mask"]))
    ]
    corrupted = (f"misfits when {corruption}" for corruption in CORRUPTIONS)
    return markdown_table(("missing", "records", "misfit rate", "misfits", *corrupted), rows)
