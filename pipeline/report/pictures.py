"""Pictures of single records: arrays in, PNG bytes out.

Images are drawn a pixel a pixel, larger ones scaled down; vectors as lines. Values of uint8 data
are in units where 255 is 1, real ones on a scale of their own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.colors import Colormap

from vaefill.records.codecs import encode_png
from vaefill.records.record import ImputedRecord
from vaefill.report import figures

MISSING = "#8ecae6"  # painted where a value is missing; no grey, so that it is no value either

_LARGEST_SIDE = 128  # pixels; larger pictures are scaled down
_LARGEST_WIDTH = 256  # likewise, of channels side by side
_BYTE = 255
_PERCENTILES = (1, 99)
_FEW_POINTS = 50  # of a line, that are marked: one alone has no length


class Scale(NamedTuple):
    """What the colours of values and of standard deviations stand for."""

    low: float  # black
    high: float  # white
    stddev: float  # the largest; the smallest is 0


UNIT = Scale(0, 1, figures.LARGEST_STDDEV)


def scale_of(records: Sequence[ImputedRecord]) -> Scale:
    """The scale of records, at least one: of real values from the 1st to the 99th percentile of
    what is observed and of means, whichever record has the lowest and the highest.
    """
    if not is_real(records[0]):
        return UNIT
    low, high = range_of([record.mean for record in records])
    deviations = [r.stddev[np.isfinite(r.stddev)].max(initial=0) for r in records]
    return Scale(low, high, float(max(deviations)) or 1.0)


def range_of(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    """From the 1st to the 99th percentile of values, whichever array has the lowest and the
    highest; two different numbers.
    """
    found = [values[np.isfinite(values)] for values in arrays]
    bounds = [np.percentile(values, _PERCENTILES) for values in found if len(values)]
    low = float(min((bound[0] for bound in bounds), default=0))
    high = float(max((bound[1] for bound in bounds), default=1))
    return low, high if high > low else low + 1


def is_real(record: ImputedRecord) -> bool:
    """Whether the values of a record are real, and on no scale that is known beforehand."""
    return bool(record.masked.image.dtype != np.uint8)


def picture(values: np.ndarray, missing: np.ndarray | None = None, scale: Scale = UNIT) -> bytes:
    """One image, a pixel a pixel.

    Args:
        values: [H, W, C] uint8, or float on the scale. Grey if C is 1, colour if it is 3, else the
            channels side by side; `figures.UNDEFINED` where not finite.
        missing: [H, W, C] bool, painted in `MISSING`; of a colour one channel is enough.
        scale: of float values.
    """
    unit = values / _BYTE if values.dtype == np.uint8 else _to_unit(values, scale)
    tiles = [
        _painted(unit[..., chosen], None if missing is None else missing[..., chosen])
        for chosen in _panels(values.shape[-1])
    ]
    return _pixels(tiles)


def stddev_picture(stddev: np.ndarray, scale: Scale = UNIT) -> bytes:
    """[H, W, C] float in the colours of `stddev_bar`; a mean over the channels of a colour."""
    tiles = [
        _stddev_colours()(stddev[..., chosen].mean(axis=-1, dtype=float) / scale.stddev)[..., :3]
        for chosen in _panels(stddev.shape[-1])
    ]
    return _pixels(tiles)


def stddev_bar() -> bytes:
    """The colours of standard deviations from 0 to the largest, one row of 128 pixels."""
    return _pixels([_stddev_colours()(np.linspace(0, 1, 128))[np.newaxis, :, :3]])


def value_bar() -> bytes:
    """The greys of values from the lowest to the highest, one row of 128 pixels."""
    return picture(np.linspace(0, 1, 128, dtype=np.float32)[np.newaxis, :, np.newaxis])


def aspect(shape: Sequence[int]) -> float:
    """Width by height of the picture of a record of a shape [H, W, C]."""
    height, width, channels = shape
    tiles = len(_panels(channels))
    return (tiles * width + (tiles - 1) * _gap(width)) / height


def _panels(channels: int) -> list[slice]:
    """The channels of each of the tiles of a picture."""
    if channels in (1, 3):
        return [slice(None)]
    return [slice(channel, channel + 1) for channel in range(min(channels, figures.MOST_PANELS))]


def _to_unit(values: np.ndarray, scale: Scale) -> np.ndarray:
    return (values.astype(np.float64) - scale.low) / (scale.high - scale.low)


def _painted(unit: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    """[H, W, 1 or 3] -> colours [H, W, 3]."""
    colours = np.broadcast_to(unit, (*unit.shape[:2], 3))
    colours = np.where(np.isfinite(colours), colours, _rgb(figures.UNDEFINED))
    if missing is not None:
        colours = np.where(missing.any(axis=-1, keepdims=True), _rgb(MISSING), colours)
    return colours


def _stddev_colours() -> Colormap:
    return matplotlib.colormaps["inferno"].with_extremes(bad=figures.UNDEFINED)


def _rgb(colour: str) -> np.ndarray:
    return np.array(matplotlib.colors.to_rgb(colour))


def _gap(width: int) -> int:
    return max(1, width // 16)


def _pixels(tiles: Sequence[np.ndarray]) -> bytes:
    """A PNG of tiles [H, W, 3] of numbers in [0, 1] side by side, white between them."""
    height, width, _ = tiles[0].shape
    row = [tiles[0]]
    for tile in tiles[1:]:
        row += [np.ones((height, _gap(width), 3)), tile]
    pixels = np.rint(np.clip(np.concatenate(row, axis=1), 0, 1) * _BYTE).astype(np.uint8)
    most = _LARGEST_WIDTH if len(tiles) > 1 else _LARGEST_SIDE
    step = max(-(-height // _LARGEST_SIDE), -(-pixels.shape[1] // most))
    if step > 1:
        image = PIL.Image.fromarray(pixels).reduce((step, min(step, height)))
        pixels = np.asarray(image)
    return encode_png(pixels)


# --- vectors


def lines(record: ImputedRecord, num_draws: int) -> bytes:
    """A record of one row, H = 1, as lines: a panel a channel, of at most `figures.MOST_PANELS`.

    What is observed, draws, the mean with two standard deviations to either side, and the truth
    where it is known; what is missing lies on a tint.

    Args:
        record: of any width; of more than `figures.MOST_POINTS` values every so manieth is drawn.
        num_draws: of its imputations.
    """
    masked = record.masked
    step = -(-masked.image.shape[1] // figures.MOST_POINTS)
    unit = 1 if is_real(record) else _BYTE

    def channel(values: np.ndarray, panel: int) -> np.ndarray:
        scaled = values / unit if values.dtype == masked.image.dtype else values
        return np.where(np.isfinite(scaled), scaled, np.nan)[0, ::step, panel]

    panels = figures.stacked(min(masked.image.shape[2], figures.MOST_PANELS))
    for panel, axes in enumerate(panels):
        place = np.arange(0, masked.image.shape[1], step)
        observed = masked.observed[0, ::step, panel]
        for draw in record.imputations[:num_draws]:
            axes.plot(place, channel(draw, panel), color=figures.FAINT, linewidth=0.7)
        mean = record.mean.astype(np.float64)
        figures.band(
            axes, place, channel(mean, panel), 2 * channel(record.stddev.astype(float), panel)
        )
        if masked.truth is not None:
            known = masked.truth_known[0, ::step, panel]
            truth = np.where(known, channel(masked.truth, panel), np.nan)
            axes.plot(place, truth, color=figures.BAD, linewidth=1, linestyle=(0, (3, 2)))
        given = np.where(observed, channel(masked.image, panel), np.nan)
        axes.plot(place, given, color=figures.INK, linewidth=1.2, marker=".", markersize=2.5)
        _tint(axes, place, ~observed)
    return figures.png_of(panels)


def curves(values: np.ndarray, colours: Sequence[str]) -> bytes:
    """Vectors as lines in one picture: a panel a channel, of at most `figures.MOST_PANELS`.

    Args:
        values: [T, 1, W, C] float; of more than `figures.MOST_POINTS` places every so manieth is
            drawn.
        colours: [T], of the lines.
    """
    _, _, width, channels = values.shape
    step = -(-width // figures.MOST_POINTS)
    marker = "." if width <= _FEW_POINTS else ""
    panels = figures.stacked(channels)
    for panel, axes in enumerate(panels):
        for line, colour in zip(values[:, 0, ::step, panel].astype(np.float64), colours):
            drawn = np.where(np.isfinite(line), line, np.nan)
            axes.plot(
                np.arange(0, width, step),
                drawn,
                color=colour,
                linewidth=1.2,
                marker=marker,
                markersize=4,
            )
    return figures.png_of(panels)


def _tint(axes: Axes, place: np.ndarray, missing: np.ndarray) -> None:
    axes.fill_between(
        place,
        0,
        1,
        where=missing,
        step="mid",
        color=MISSING,
        alpha=0.25,
        linewidth=0,
        transform=axes.get_xaxis_transform(),
    )
