"""The figures of a data set: arrays in, PNG bytes out. Touches no global state of matplotlib.

The same arrays give the same bytes.
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
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

UNDEFINED = "#e6eaef"  # painted where there is no number
LARGEST_STDDEV = 0.5  # of anything that lies in [0, 1]
SCALE = 2  # pixels of a figure per CSS pixel
NUM_POINTS = 20_000  # at most so many of one colour are drawn in a scatter plot

INK, FAINT, GOOD, BAD = "#243b53", "#9fb3c8", "#0c7c77", "#d1495b"
MOST_PANELS = 8  # of a figure, one below the other
MOST_POINTS = 1000  # of a line; more are thinned
_SMALLEST_ACTIVITY = 1e-5  # of a latent on its logarithmic axis; what is below is drawn there
_SMALLEST_EXCESS = 1e-4  # R-hat - 1 on its logarithmic axis; what is below is drawn there
# Of a figure, room for tick labels
_MARGINS = {"left": 0.15, "right": 0.97, "bottom": 0.11, "top": 0.93}


# --- figures of a data set


def value_maps(mean: np.ndarray, stddev: np.ndarray, is_real: bool) -> bytes:
    """Heat maps, value by value, of what was imputed; of vectors, H = 1, lines.

    Args:
        mean: [H, W, C] float, NaN where nothing was ever missing; of 3 channels averaged over those
            that are not NaN, else the channels side by side.
        stddev: [H, W, C], of the same.
        is_real: whether colours go from the smallest to the largest number, not from 0 to 1.
    """
    mean, stddev = mean.astype(np.float64), stddev.astype(np.float64)  # whose sums are larger
    if mean.shape[0] == 1:
        panels = stacked(mean.shape[2])
        step = -(-mean.shape[1] // MOST_POINTS)
        for channel, axes in enumerate(panels):
            place = np.arange(0, mean.shape[1], step)
            band(axes, place, *(values[0, ::step, channel] for values in (mean, stddev)))
        return png_of(panels)
    figure = _figure(7.2, 3.2)
    maps = (
        ("mean", _tiled(mean), "viridis", _range(mean) if is_real else (0.0, 1.0)),
        (
            "standard deviation",
            _tiled(stddev),
            "inferno",
            (0.0, _range(stddev)[1] if is_real else LARGEST_STDDEV),
        ),
    )
    for left, (title, values, colours, limits) in zip((0.04, 0.54), maps):
        _heat_map(figure, left, title, values, colours, limits)
    return _png(figure)


def _heat_map(
    figure: Figure,
    left: float,
    title: str,
    values: np.ndarray,
    colours: str,
    limits: tuple[float, float],
) -> None:
    """An image with its colour bar, of 2 in the figure."""
    low, high = limits
    look: dict[str, Any] = {
        "cmap": matplotlib.colormaps[colours].with_extremes(bad=UNDEFINED),
        "vmin": low,
        "vmax": high,
    }
    axes = figure.add_axes((left, 0.1, 0.34, 0.8))
    axes.imshow(values, interpolation="nearest", **look)
    _style(axes, title)
    bar = figure.add_axes((left + 0.36, 0.1, 0.018, 0.8))
    ramp = np.linspace(high, low, 256)[:, np.newaxis]
    bar.imshow(ramp, extent=(0, 1, low, high), aspect="auto", interpolation="nearest", **look)
    _style(bar)
    bar.set(xticks=[], yticks=np.linspace(low, high, 6))
    bar.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    bar.yaxis.tick_right()


def _range(values: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest number, different ones; at least one is finite."""
    finite = values[np.isfinite(values)]
    low, high = float(finite.min(initial=np.inf)), float(finite.max(initial=-np.inf))
    return (low, high) if low < high else (low, low + 1) if low == high else (0.0, 1.0)


def _tiled(values: np.ndarray) -> np.ndarray:
    """[H, W, C] -> [H, W'], masked where nothing is defined."""
    if values.shape[-1] in (1, 3):
        defined = ~np.isnan(values)
        total = np.where(defined, values, 0).sum(axis=-1)
        count = defined.sum(axis=-1)
        return np.ma.masked_array(total / np.maximum(count, 1), count == 0)
    gap = np.full((values.shape[0], max(1, values.shape[1] // 16)), np.nan)
    row = [values[..., 0]]
    for channel in range(1, values.shape[-1]):
        row += [gap, values[..., channel]]
    return np.ma.masked_invalid(np.concatenate(row, axis=1))


def stacked(num_panels: int) -> list[Axes]:
    """Panels of one new figure, one below the other, of at most `MOST_PANELS`."""
    number = min(num_panels, MOST_PANELS)
    height = 0.4 + 1.1 * number  # inches, of which the ticks take 0.3 below
    figure = _figure(7.2, height)
    margins = {"left": 0.11, "right": 0.99, "bottom": 0.3 / height, "top": 1 - 0.1 / height}
    panels = list(figure.subplots(number, 1, sharex=True, squeeze=False, gridspec_kw=margins)[:, 0])
    for channel, axes in enumerate(panels):
        _style(axes, ylabel=f"channel {channel}" if num_panels > 1 else "")
    return panels


def band(axes: Axes, place: np.ndarray, middle: np.ndarray, half: np.ndarray) -> None:
    """A line [W] in a band of half a width [W]; NaN is left out."""
    axes.fill_between(place, middle - half, middle + half, color=GOOD, alpha=0.2, linewidth=0)
    axes.plot(place, middle, color=GOOD, linewidth=1.2)


def png_of(panels: Sequence[Axes]) -> bytes:
    """The figure that panels are of."""
    figure = panels[0].figure
    assert isinstance(figure, Figure)
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
        color=FAINT,
        linewidth=1.4,
        linestyle=(0, (4, 3)),
        zorder=1,
        label="perfect",
    )
    upper.plot(
        *np.array([predicted, frequency], np.float64),
        color=GOOD,
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
        (converged, GOOD, "converged"),
        (~converged, BAD, "not converged"),
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
        axes.axhline(top, color=FAINT, linewidth=0.8)
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


def latents(activity: np.ndarray, threshold: float) -> bytes:
    """The variance of latents' means over records, logarithmic, a bar a latent, largest first.

    Args:
        activity: [K] float, at least 0; what is not finite is drawn as the smallest.
        threshold: above it a latent is active.
    """
    figure = _figure(4.6, 3.4)
    axes = figure.subplots(gridspec_kw=_MARGINS | {"bottom": 0.14})
    known = np.where(np.isfinite(activity), activity, 0)
    heights = np.sort(np.maximum(known, _SMALLEST_ACTIVITY))[::-1]
    bottom, top = min(heights[-1], threshold) / 3, 2 * max(heights[0], threshold)
    colours = np.where(heights > threshold, GOOD, FAINT)
    axes.bar(np.arange(len(heights)) + 1, heights, color=colours.tolist())
    axes.axhline(threshold, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set(yscale="log", xlim=(0.3, len(activity) + 0.7), ylim=(bottom, top))
    _log_ticks(axes.yaxis, bottom, top, lambda value, _: f"{value:g}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _style(axes, xlabel="latents, the most active first", ylabel="variance of the mean")
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
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
        _style(axes, title=f"missing: {mask}", xlabel="gradients of a record, all chains")
    panels[0].set_ylabel("records converged", fontsize=9, color=INK)
    figure.tight_layout()
    return _png(figure)


def _targets(axes: Axes, target_r_hat: float | None, target_ess: float | None) -> None:
    """Lines at the targets, with what they are, and a tint where both are met."""
    line: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (4, 3)), "zorder": 2}
    text: dict[str, Any] = {"color": INK, "fontsize": 8}
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
            color=GOOD,
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
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xlabel(xlabel, fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, labelcolor=INK, color=FAINT, length=3, which="both")
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
        labelcolor=INK,
        handletextpad=0.4,
        borderaxespad=0.2,
    )


def _png(figure: Figure) -> bytes:
    output = io.BytesIO()
    FigureCanvasAgg(figure).print_png(output, metadata={"Software": None})
    return output.getvalue()
