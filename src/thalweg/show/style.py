"""How every plot looks: spines, ticks, scales and labels that do not collide."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from thalweg.show import numbers
from thalweg.show.palette import colour

SMALL = 10
TIPS = "tips"
"""Begins the id of what says something when it is pointed at; `svg` turns the rest into attributes."""
FRAME = "frame"
"""Id of what belongs to the axes, not to the data."""
NAME_WIDTH = 20
"""Columns of a layer's name beside a plot."""


def frame(axes: Axes, grid: Literal["", "x", "y", "both"]) -> None:
    """Two quiet spines, muted ticks, and grid lines in the directions that are read."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_gid(FRAME)
        axes.spines[side].set_color(colour("chance"))
        axes.spines[side].set_linewidth(0.8)
    axes.tick_params(colors=colour("muted"), labelcolor=colour("ink"), labelsize=SMALL, length=3, width=0.8)
    axes.tick_params(which="minor", length=0)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_fontsize(SMALL)
    if grid:
        axes.grid(axis=grid, color=colour("grid"), linewidth=0.8)


def measure(axes: Axes, which: str, values: Sequence[float | None], from_zero: bool = False) -> None:
    """A logarithmic axis where positive values span much, a linear one otherwise."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    axis, scale, limits = (
        (axes.yaxis, axes.set_yscale, axes.set_ylim) if which == "y" else (axes.xaxis, axes.set_xscale, axes.set_xlim)
    )
    low, high = min(known, default=0.0), max(known, default=1.0)
    if low > 0 and high > (50 if from_zero else 4) * low:
        scale("log")
        limits(low / 1.6, high * 1.35)
        axis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1.0, 2.0, 5.0), numticks=12))
        axis.set_minor_locator(NullLocator())
    else:
        room = 0.08 * ((high - min(low, 0.0)) or 1.0)
        limits(low - room if low < 0 else 0.0, high + room)
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))


def percent(axis: Any) -> None:
    """Ticks at the quarters of the whole."""
    axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))


def layer_names(axes: Axes, layers: Sequence[Mapping[str, Any]]) -> None:
    """One row for each layer, the first at the top, with its name."""
    axes.set_yticks(range(len(layers)), [numbers.clip(layer["layer"], NAME_WIDTH) for layer in layers])
    axes.set_ylim(len(layers) - 0.4, -0.6)


def squares(places: Sequence[tuple[int, int]]) -> Path:
    """Unit squares, with a hairline between them, as one path."""
    corners: list[tuple[float, float]] = []
    codes: list[Any] = []
    for x, y in places:
        left, right, top, bottom = x + 0.54, x + 1.46, y + 0.54, y + 1.46
        corners += [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        codes += [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY]
    return Path(corners, codes)


def some(places: Sequence[int]) -> list[int]:
    """Ticks that do not crowd: the first, and multiples of a round step."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if len(places) <= 10 * step)
    return [place for place in places if place == places[0] or place % step == 0]


def step_axis(axes: Axes, steps: Sequence[int], label: str) -> None:
    """Steps of training across, their labels apart."""
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(FixedLocator(apart(steps)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: numbers.count(round(value))))
    axes.set_xlabel(label, color=colour("muted"))


def number_axis(axes: Axes, count: int, label: str) -> None:
    """Numbers from 1 on across, with room for marks beside them."""
    axes.set_xlim(0.3, count + 0.8)
    axes.xaxis.set_major_locator(FixedLocator(some(range(1, count + 1))))
    axes.set_xlabel(label, color=colour("muted"))


def apart(steps: Sequence[int]) -> list[int]:
    """Those of the steps whose labels do not touch, the last one always."""
    span = (steps[-1] - steps[0]) or 1
    kept = [steps[-1]]
    for step in reversed(steps[:-1]):
        if (kept[-1] - step) / span > 0.16:
            kept.append(step)
    return kept


def tell(marks: Artist, across: tuple[str, Sequence[str]], up: tuple[str, Sequence[str]], heading: str = "") -> None:
    """Give every mark of a line what it says in a browser when it is pointed at.

    Args:
        marks: a line with as many marks as there are values.
        across: the label of the axis and the marks' values, worded.
        up: likewise.
        heading: what the line is, where there are several.
    """
    texts = []
    for x, y in zip(across[1], up[1], strict=True):
        lines = [heading, f"{across[0]}: {x}" if across[0] else x, f"{up[0]}: {y}" if up[0] else y]
        texts.append("\n".join(line for line in lines if line))
    marks.set_gid(TIPS + json.dumps(texts, ensure_ascii=False))


def unseen(axes: Axes, x: Sequence[float], y: Sequence[float], hue: str) -> Artist:
    """Marks that nobody sees, to `tell` something of a curve or a field of that hue without marks."""
    return axes.plot(x, y, "o", color=colour(hue), markersize=1, alpha=0, zorder=9)[0]


def reference(axes: Axes, at: float, which: Literal["x", "y"] = "y", dashed: bool = False) -> None:
    """A line that belongs to the axes, not to the data: zero, or a whole."""
    draw = axes.axhline if which == "y" else axes.axvline
    line: Any = (0, (4, 3)) if dashed else "-"
    draw(at, color=colour("chance"), linewidth=1.2 if dashed else 0.8, linestyle=line, zorder=1).set_gid(FRAME)
