"""The figures of a report: arrays in, PNG bytes out. Touches nothing of matplotlib's global state.

Values are in units where 255 is 1. The same arrays give the same bytes.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from vaefill.records.codecs import encode_png

MISSING = "#8ecae6"  # painted where a value is missing; no grey, so that it is no value either
UNDEFINED = "#e6eaef"  # painted where there is no number
LARGEST_STDDEV = 0.5  # of anything that lies in [0, 1]
SCALE = 2  # pixels of a figure per CSS pixel
NUM_POINTS = 20_000  # at most so many of one colour are drawn in a scatter plot

_INK, _FAINT, _GOOD, _BAD = "#243b53", "#9fb3c8", "#0c7c77", "#d1495b"
_LARGEST_SIDE = 256  # pixels; larger pictures are thinned
_SMALLEST_EXCESS = 1e-4  # R-hat - 1 on its logarithmic axis; what is below is drawn there
_BYTE = 255
# Of a figure, room for tick labels
_MARGINS = {"left": 0.15, "right": 0.97, "bottom": 0.11, "top": 0.93}


# --- pictures of records


def picture(values: np.ndarray, missing: np.ndarray | None = None) -> bytes:
    """One image, a pixel a pixel.

    Args:
        values: [H, W, C] uint8, or float where 1 is white. Colour if C is 3 or 4 (the fourth
            channel is left out), else the mean over channels in grey; `UNDEFINED` where not finite.
        missing: [H, W, C] bool; pixels that miss any channel are painted in `MISSING`.
    """
    scaled = values / _BYTE if values.dtype == np.uint8 else values
    grey_or_colour = (
        scaled[..., :3] if values.shape[-1] in (3, 4) else scaled.mean(axis=-1, keepdims=True)
    )
    colours = np.broadcast_to(grey_or_colour, (*values.shape[:2], 3))
    colours = np.where(np.isfinite(colours), colours, _rgb(UNDEFINED))
    if missing is not None:
        colours = np.where(missing.any(axis=-1, keepdims=True), _rgb(MISSING), colours)
    return _pixels(colours)


def stddev_picture(stddev: np.ndarray) -> bytes:
    """[H, W, C] float, averaged over channels, in the colours of `stddev_bar`."""
    return _pixels(_stddev_colours()(stddev.mean(axis=-1) / LARGEST_STDDEV)[..., :3])


def stddev_bar() -> bytes:
    """The colours of `stddev_picture` from 0 to `LARGEST_STDDEV`, one row of 128 pixels."""
    return _pixels(_stddev_colours()(np.linspace(0, 1, 128))[np.newaxis, :, :3])


def _stddev_colours() -> Colormap:
    return matplotlib.colormaps["inferno"].with_extremes(bad=UNDEFINED)


def _rgb(colour: str) -> np.ndarray:
    return np.array(matplotlib.colors.to_rgb(colour))


def _pixels(colours: np.ndarray) -> bytes:
    step = -(-max(colours.shape[:2]) // _LARGEST_SIDE)
    return encode_png(np.rint(np.clip(colours[::step, ::step], 0, 1) * _BYTE).astype(np.uint8))


# --- figures of a data set


def value_maps(mean: np.ndarray, stddev: np.ndarray) -> bytes:
    """Heat maps, value by value, of what was imputed.

    Args:
        mean: [H, W, C] float, NaN where nothing was ever missing; averaged over the channels that
            are not NaN.
        stddev: [H, W, C], of the same.
    """
    figure = _figure(7.2, 3.2)
    panels = (
        ("mean", mean, "viridis", 1.0),
        ("standard deviation", stddev, "inferno", LARGEST_STDDEV),
    )
    for left, (title, values, colours, largest) in zip((0.04, 0.54), panels):
        defined = ~np.isnan(values)
        total = np.where(defined, values, 0).sum(axis=-1)
        average = np.ma.masked_array(total, ~defined.any(axis=-1)) / np.maximum(
            defined.sum(axis=-1), 1
        )
        look: dict[str, Any] = {
            "cmap": matplotlib.colormaps[colours].with_extremes(bad=UNDEFINED),
            "vmin": 0,
            "vmax": largest,
            "interpolation": "nearest",
        }
        axes = figure.add_axes((left, 0.1, 0.36, 0.8))
        axes.imshow(average, **look)
        _style(axes, title)
        bar = figure.add_axes((left + 0.38, 0.1, 0.018, 0.8))
        bar.imshow(
            np.linspace(largest, 0, 256)[:, np.newaxis],
            extent=(0, 1, 0, largest),
            aspect="auto",
            **look,
        )
        _style(bar)
        bar.set(xticks=[], yticks=np.linspace(0, largest, 6))
        bar.yaxis.tick_right()
    return _png(figure)


def reliability(
    edges: npt.ArrayLike,
    counts: npt.ArrayLike,
    predicted: npt.ArrayLike,
    frequency: npt.ArrayLike,
) -> bytes:
    """How often a missing value was 1, against the probability it was given.

    Args:
        edges: [B + 1], bounds of the bins of probability.
        counts: [B] values in a bin.
        predicted: [B] mean probability in a bin, NaN or None where it is empty.
        frequency: [B] share of ones in a bin, likewise.
    """
    figure = _figure(4.6, 4.9)
    upper, lower = figure.subplots(
        2, 1, sharex=True, height_ratios=(3.4, 1), gridspec_kw=_MARGINS | {"hspace": 0.06}
    )
    upper.plot(
        [0, 1],
        [0, 1],
        color=_FAINT,
        linewidth=1.4,
        linestyle=(0, (4, 3)),
        zorder=1,
        label="perfect",
    )
    upper.plot(
        *np.array([predicted, frequency], np.float64),
        color=_GOOD,
        linewidth=1.6,
        marker="o",
        markersize=6,
        markeredgecolor="white",
        clip_on=False,
        label="imputations",
    )
    upper.set(xlim=(0, 1), ylim=(0, 1))
    _legend(upper)
    _style(upper, ylabel="share of ones among them")
    bounds = np.array(edges, np.float64)
    heights = np.array(counts, np.float64)
    lower.bar(
        bounds[:-1],
        heights,
        width=np.diff(bounds),
        align="edge",
        color="#bcdedb",
        edgecolor="white",
    )
    lower.set_yscale("log")
    lower.set_ylim(0.5, 3 * max(heights.max(), 1))
    lower.yaxis.set_minor_locator(NullLocator())
    lower.yaxis.set_major_formatter(_count)
    _style(lower, xlabel="probability of a 1 that the imputations give", ylabel="values")
    return _png(figure)


def trust(
    r_hat: np.ndarray,
    ess: np.ndarray,
    converged: np.ndarray,
    target_r_hat: float | None,
    target_ess: float | None,
) -> bytes:
    """R-hat against effective sample size, both logarithmic, a point a record.

    Args:
        r_hat: [N] float; not finite is drawn in a strip of its own above the others.
        ess: [N] float, finite and positive; N at least 1.
        converged: [N] bool, which chooses the colour; each is thinned evenly to `NUM_POINTS`.
        target_r_hat: drawn as a line, if there is one.
        target_ess: likewise.
    """
    figure = _figure(4.6, 4.3)
    axes = figure.subplots(gridspec_kw=_MARGINS)
    defined = np.isfinite(r_hat)
    excess = np.maximum(np.where(defined, r_hat, 1) - 1, _SMALLEST_EXCESS)
    across = np.append(ess, target_ess if target_ess else ess[:1])
    up = np.append(excess[defined], target_r_hat - 1 if target_r_hat else 0.01)
    bottom, top = 0.6 * up.min(), 1.8 * up.max()
    left, right = 0.8 * across.min(), 1.25 * across.max()
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(left, right),
        ylim=(bottom, top if defined.all() else 4 * top),
    )
    _targets(axes, target_r_hat, target_ess)
    height = np.where(defined, excess, 2 * top)
    for chosen, colour, name in (
        (converged, _GOOD, "converged"),
        (~converged, _BAD, "not converged"),
    ):
        points = np.flatnonzero(chosen)[:: -(-max(chosen.sum(), 1) // NUM_POINTS)]
        axes.scatter(
            ess[points],
            height[points],
            s=np.clip(8000 / len(ess), 5, 26),
            c=colour,
            alpha=0.55,
            linewidths=0,
            label=f"{name}: {chosen.sum():,}",
            zorder=3,
        )
    if not defined.all():
        axes.axhline(top, color=_FAINT, linewidth=0.8)
        axes.text(
            0.01,
            2 * top,
            "no R-hat",
            transform=axes.get_yaxis_transform(),
            color="#627d98",
            fontsize=8,
        )
    _log_ticks(axes.xaxis, left, right, _count)
    _log_ticks(axes.yaxis, bottom, top, lambda excess, _: f"{1 + excess:.6g}")
    _legend(axes)
    _style(axes, xlabel="effective sample size (the smaller of bulk and tail)", ylabel="R-hat")
    return _png(figure)


def convergence(curves: Mapping[str, Mapping[str, tuple[Sequence[int], int]]]) -> bytes:
    """The fraction of records that have converged against gradients, one panel a mask, one line a
    sampler.

    Args:
        curves: by mask and sampler, the sorted gradients of records when they converged, and the
            number of records.
    """
    figure = _figure(4.6 * len(curves), 3.6)
    panels = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
    for axes, (mask, samplers) in zip(panels, curves.items()):
        for name, (gradients, num_records) in samplers.items():
            axes.step(
                gradients, np.arange(1, len(gradients) + 1) / num_records, where="post", label=name
            )
        axes.set(xscale="log", ylim=(0, 1.02))
        left, right = axes.get_xlim()
        _log_ticks(axes.xaxis, left, right, _count)
        axes.legend(frameon=False, fontsize=8, labelcolor=_INK)
        _style(axes, title=f"missing: {mask}", xlabel="gradients of a record, all chains")
    panels[0].set_ylabel("records converged", fontsize=9, color=_INK)
    figure.tight_layout()
    return _png(figure)


def _targets(axes: Axes, target_r_hat: float | None, target_ess: float | None) -> None:
    """Lines at the targets, with what they are, and a tint where both are met."""
    line: dict[str, Any] = {"color": _INK, "linewidth": 0.9, "linestyle": (0, (4, 3)), "zorder": 2}
    text: dict[str, Any] = {"color": _INK, "fontsize": 8}
    (left, right), side = axes.get_xlim(), 1
    # Beyond the middle: there what is written fits in on the left only
    if target_ess and target_ess**2 > left * right:
        side = -1
    here, there = ("left", "right")[::side]
    if target_r_hat:  # written at the end where the other line is not
        axes.axhline(target_r_hat - 1, **line)
        axes.annotate(
            f"R-hat {target_r_hat:g}",
            (int(side > 0), target_r_hat - 1),
            (-4 * side, 3),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            ha=there,
            **text,
        )
    if target_ess:
        axes.axvline(target_ess, **line)
        axes.annotate(
            f"ESS {target_ess:g}",
            (target_ess, 1),
            (3 * side, -10),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            ha=here,
            **text,
        )
    if target_r_hat and target_ess:
        bottom, _ = axes.get_ylim()
        axes.fill_between(
            [target_ess, right],
            bottom,
            target_r_hat - 1,
            color=_GOOD,
            alpha=0.08,
            linewidth=0,
            zorder=0,
        )


def _log_ticks(axis: Axis, low: float, high: float, text: Callable[[float, float], str]) -> None:
    """Labels 1, 2, 5 of every decade from low to high, or only 1 where there would be too many."""
    ticks = LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)).tick_values(low, high)
    axis.set_ticks([tick for tick in ticks if low < tick < high])  # others would move the limits
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(text)


def _count(value: float, _: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e4 else f"{value:,.4g}"


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=100 * SCALE)


def _style(axes: Axes, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    axes.set_title(title, fontsize=10, color=_INK)
    axes.set_xlabel(xlabel, fontsize=9, color=_INK)
    axes.set_ylabel(ylabel, fontsize=9, color=_INK)
    axes.tick_params(labelsize=8, labelcolor=_INK, color=_FAINT, length=3, which="both")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_facecolor("#f7f9fb")


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=2,
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
        handletextpad=0.4,
        borderaxespad=0.2,
    )


def _png(figure: Figure) -> bytes:
    output = io.BytesIO()
    FigureCanvasAgg(figure).print_png(output, metadata={"Software": None})
    return output.getvalue()
