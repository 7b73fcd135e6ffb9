"""A model and its scores on records that it was not trained on -> one HTML page, and `scores.json`.

The page shows what the model makes of its latents: samples of the prior, reconstructions of
held-out records beside them, and what the most active latents change. Pictures are means of
p(x | z), not draws.
"""

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np

from vaefill.model import files, heldout, latents
from vaefill.model.model_scores import HeldOut, ModelScores
from vaefill.report import figures, pictures
from vaefill.report.evaluate import name_of_log_prob
from vaefill.report.pictures import Scale
from vaefill.report.rendering import inline, write_page
from vaefill.report.text import flatten, number
from vaefill.results.documents import Latent, LogProb, Scores

NUM_TRAVERSED = 8  # of the most active latents
_MOST_COLUMNS, _FEWEST_COLUMNS = 11, 5  # of pictures, by how wide one is; odd, for a middle
_WIDE = 2  # times as wide as high
_NUM_SAMPLE_ROWS = 2
_NUM_LINES = 4  # records that are drawn as lines
_RANGE = 2.5  # standard deviations to either side that a latent is varied over
# Standard deviations of the values of a vector that differ by more are of units of their own
_MOST_RATIO = 10


class _Picture(NamedTuple):
    url: str
    alt: str


class _Row(NamedTuple):
    """Of a gallery."""

    title: str
    notes: Sequence[str]
    pictures: Sequence[_Picture]


def write_model_page(held: HeldOut, scores: ModelScores, directory: str, output: str) -> str:
    """Writes `index.html` and `scores.json`.

    Args:
        held: the model and the records.
        scores: of it on them.
        directory: the model's, to name it by.
        output: the directory to write to; made if need be. Earlier files in it are replaced.

    Returns:
        The path of the page.
    """
    order = scores.latents.by_activity
    listed = order[scores.latents.active[order]][:NUM_TRAVERSED]
    drawing = _Drawing(held)
    files.make_directory(output)
    files.write_json(os.path.join(output, "scores.json"), document(held, scores).plain())
    return write_page(
        "model.html",
        output,
        name=os.path.basename(os.path.normpath(directory)),
        path=directory,
        held=held,
        scores=scores,
        named={name_of_log_prob(k): found for k, found in scores.log_prob.items()},
        largest_k=max(scores.log_prob),
        drawing=drawing,
        shown=drawing.shown(),
        traversals=drawing.traversals(scores.latents, listed),
        threshold=latents.ACTIVE,
        latents=inline(figures.latents(scores.latents.activity, latents.ACTIVE)),
        listed=listed,
        value_bar=inline(pictures.value_bar()),
        identity=_identity(held),
    )


def document(held: HeldOut, scores: ModelScores) -> Scores:
    """What `scores.json` holds."""
    found = scores.latents
    rows = zip(found.activity.tolist(), found.active.tolist(), found.mean, found.stddev)
    return Scores(
        model=held.model.fingerprint,
        data=held.data,
        split=held.split,
        num_records=scores.num_records,
        log_prob=tuple(
            LogProb(k=k, mean=_finite(mean), standard_error=_finite(error))
            for k, (mean, error) in scores.log_prob.items()
        ),
        num_active=scores.num_active,
        latents=tuple(
            Latent(
                activity=_finite(activity),
                active=active,
                mean=_finite(mean),
                stddev=_finite(stddev),
            )
            for activity, active, mean, stddev in rows
        ),
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _identity(held: HeldOut) -> list[tuple[str, list[tuple[str, str]]]]:
    """Tables of what the model is and how it was trained, (title, [(name, value)])."""
    description = held.model.description
    model = {"fingerprint": held.model.fingerprint, "data_shape": list(description.data_shape)}
    tables = {
        "model": model | description.model.model_dump(mode="json"),
        "training": description.training,
    }
    return [(title, list(flatten(values))) for title, values in tables.items() if values]


class _Drawing:
    """Pictures of one model on one scale: images, or of vectors, H = 1, lines.

    Attributes:
        are_lines: whether records are vectors.
        is_real: whether values are real, and on a scale of their own.
        is_standardized: whether they are shown as the model sees them: the columns of a table,
            whose units differ.
        scale: of the colours.
        aspect: width by height of a picture.
        num_columns: of a gallery of images.
        channels: C.
        num_panels: channels that are shown.
    """

    def __init__(self, held: HeldOut):
        self._held = held
        self._vae = held.model.vae
        height, width, channels = self._vae.data_shape
        # What has nothing but channels is a vector of them
        self._shape = (1, channels, 1) if height == width == 1 else self._vae.data_shape
        self.are_lines = self._shape[0] == 1
        self.is_real = self._vae.likelihood.dtype is not np.uint8
        self.is_standardized = self.are_lines and self._have_own_units()
        # A thread of pixels would not be seen
        self.aspect = min(max(pictures.aspect(self._shape), 0.25), 4)
        self.num_columns = _FEWEST_COLUMNS if self.aspect > _WIDE else _MOST_COLUMNS
        self.channels = self._shape[2]
        self.num_panels = min(self.channels, figures.MOST_PANELS)
        num_records = min(len(held.records), _NUM_LINES if self.are_lines else self.num_columns)
        # Evenly over the split, which may be in the order of its labels
        x = held.inputs(np.linspace(0, len(held.records) - 1, num_records).astype(np.int64))
        self._first = x[:1]
        self._records = self._in_units(x.numpy())
        self._reconstructions = self._in_units(latents.reconstructions(self._vae, x))
        self.scale = pictures.UNIT
        if self.is_real:
            low, high = pictures.range_of([*self._records, *self._reconstructions])
            self.scale = Scale(low, high, 1)

    def _have_own_units(self) -> bool:
        """Whether values that share a panel of lines are of different units."""
        standardization = self._vae.likelihood.standardization
        if standardization is None:
            return False
        scale = standardization.scale.reshape(self._shape)[0]
        return bool((scale.max(axis=0) > _MOST_RATIO * scale.min(axis=0)).any())

    def _in_units(self, values: np.ndarray) -> np.ndarray:
        """Values [n, D] on the model's scale as they are shown: [n, H, W, C] float32."""
        standardization = self._vae.likelihood.standardization
        if standardization is not None and not self.is_standardized:
            values = standardization.to_data(values)
        return values.reshape(-1, *self._shape)

    def shown(self) -> list[_Row]:
        """Held-out records, their reconstructions, and samples."""
        seed = heldout.seed_of(self._held.settings, heldout.SHOW, 0)
        num_samples = _NUM_SAMPLE_ROWS * self.num_columns
        samples = self._in_units(latents.samples(self._vae, num_samples, seed))
        if self.are_lines:
            pairs = enumerate(zip(self._records, self._reconstructions), 1)
            both = [figures.INK, figures.GOOD]
            return [
                *(self._lines_row(f"record {i}", [], np.stack(pair), both) for i, pair in pairs),
                self._lines_row("samples", [], samples, [figures.FAINT] * len(samples)),
            ]
        parts = np.split(samples, _NUM_SAMPLE_ROWS)
        return [
            self._images_row("records", ["held out, as the model sees them"], self._records),
            self._images_row("reconstructions", ["from the encoder's mean"], self._reconstructions),
            *(self._images_row("samples", ["of the prior"], part) for part in parts),
        ]

    def traversals(
        self, found: latents.AggregatedPosterior, listed: Sequence[int]
    ) -> dict[str, Any]:
        """What latents change of the first record: their rows, and the titles of columns."""
        steps = np.linspace(-_RANGE, _RANGE, self.num_columns)
        return {
            "columns": [f"{number(step, '+g')} sd" if step else "mean" for step in steps],
            "rows": list(self._traversals(found, listed, steps)),
            "range": _RANGE,
        }

    def _traversals(
        self, found: latents.AggregatedPosterior, listed: Sequence[int], steps: np.ndarray
    ) -> Iterator[_Row]:
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(steps)))
        for latent in listed:
            places = found.mean[latent] + steps * found.stddev[latent]
            values = self._in_units(latents.traversal(self._vae, self._first, latent, places))
            title, notes = f"latent {latent}", [_span(places)]
            if self.are_lines:
                drawn = [matplotlib.colors.to_hex(colour) for colour in colours]
                yield self._lines_row(title, notes, values, drawn)
            else:
                yield self._images_row(title, notes, values)

    def _images_row(self, title: str, notes: Sequence[str], values: np.ndarray) -> _Row:
        drawn = [inline(pictures.picture(image, scale=self.scale)) for image in values]
        return _Row(
            title, notes, [_Picture(url, f"{title}, {i}") for i, url in enumerate(drawn, 1)]
        )

    def _lines_row(
        self, title: str, notes: Sequence[str], values: np.ndarray, colours: Sequence[str]
    ) -> _Row:
        drawn = pictures.curves(values, colours)
        return _Row(title, notes, [_Picture(inline(drawn), f"{title}, lines")])


def _span(places: np.ndarray) -> str:
    return f"{number(places[0], '.3g')} to {number(places[-1], '.3g')}"
