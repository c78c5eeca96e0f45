"""The whole spectrum as numbers of eigenvalues, made like the plots of `plots`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from thalweg.show import numbers, style
from thalweg.show.messages import Words
from thalweg.show.palette import MARKERS, colour, tint

FLOOR = 0.2
"""The least number of eigenvalues that is drawn: a fifth of a lone one's peak."""


def density(axes: Axes, data: Mapping[str, Any], values: Sequence[float], words: Words) -> None:
    """How many eigenvalues lie near each curvature, on a logarithmic axis, where a lone one is a peak of height 1.

    Args:
        axes: drawn on.
        data: `grid`, `near` and `near_error`, each of one length.
        values: the largest eigenvalues, marked along the line of one.
        words: the language of the labels.
    """
    grid = data["grid"]
    low = [max(n - 2 * e, FLOOR / 2) for n, e in zip(data["near"], data["near_error"], strict=True)]
    high = [max(n + 2 * e, FLOOR / 2) for n, e in zip(data["near"], data["near_error"], strict=True)]
    near = [max(n, FLOOR / 2) for n in data["near"]]
    axes.fill_between(grid, low, high, color=tint("chance", 2), linewidth=0, zorder=2)
    style.reference(axes, 1, dashed=True)
    axes.plot(grid, near, color=colour("muted"), linewidth=1.8, label=words.plain("density.key.above"), zorder=3)
    every = slice(None, None, 6)
    across = words.plain("plot.curvature"), [numbers.number(value) for value in grid[every]]
    counts = words.plain("plot.eigenvalues_near"), [numbers.number(value) for value in data["near"][every]]
    style.tell(style.unseen(axes, grid[every], near[every], "muted"), across, counts)
    axes.plot(
        values, [1.0] * len(values), MARKERS["eigenvectors"], color=colour("eigenvectors"), markersize=5, zorder=4
    )
    axes.set_yscale("log")
    axes.set_ylim(FLOOR, 2 * max(high))
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: numbers.count(round(value)) if value >= 1 else ""))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.margins(x=0.02)
    axes.set_xlabel(words.plain("plot.curvature"), color=colour("muted"))
    axes.set_ylabel(words.plain("plot.eigenvalues_near"), color=colour("muted"))
    style.frame(axes, grid="both")


def counts(axes: Axes, data: Mapping[str, Any], values: Sequence[float], words: Words) -> None:
    """How many eigenvalues are larger than each level, and how many are below minus that level, with their bounds.

    Args:
        axes: drawn on.
        data: `levels`, and `above` and `below` with `count`, `low` and `high` of the same length.
        values: the largest eigenvalues, in order: the k-th belongs at height k.
        words: the language of the labels.
    """
    most = max([*data["above"]["count"], *data["below"]["count"], len(values), 1.0])
    top = 3 * most
    for side, line, hue in (("below", (0, (4, 3)), "weights"), ("above", "solid", "muted")):
        rows = zip(data["levels"], *(data[side][part] for part in ("count", "low", "high")), strict=True)
        known = [row for row in rows if row[3] >= FLOOR]
        if not known:
            continue
        x, found, low, high = (list(part) for part in zip(*known, strict=True))
        if side == "above":
            sure = [
                max(least, sum(value > level for value in values), FLOOR) for level, least in zip(x, low, strict=True)
            ]
            most_there = [min(value, top) for value in high]
            axes.fill_between(x, sure, most_there, color=tint("chance", 2), linewidth=0, zorder=2)
        label = words.plain(f"density.key.{side}")
        shown = [value if value >= FLOOR else math.nan for value in found]
        axes.plot(x, shown, color=colour(hue), linewidth=1.8, linestyle=line, label=label, zorder=3)
        _tell_ranges(axes, [row for row in known if row[1] >= FLOOR][::4], label, words, hue)
    places = list(range(1, len(values) + 1))
    hue = colour("eigenvectors")
    (marks,) = axes.plot(values, places, MARKERS["eigenvectors"], color=hue, markersize=5, zorder=4)
    told = words.plain("plot.eigenvalue_number"), [str(place) for place in places]
    style.tell(marks, (words.plain("plot.curvature"), [numbers.number(value) for value in values]), told)
    style.measure(axes, "x", [*data["levels"], *(value for value in values if value > 0)])
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: numbers.count(round(value))))
    axes.set_ylim(0.7, top)
    axes.set_xlabel(words.plain("plot.level"), color=colour("muted"))
    axes.set_ylabel(words.plain("plot.eigenvalues"), color=colour("muted"))
    style.frame(axes, grid="both")


def _tell_ranges(axes: Axes, rows: Sequence[Sequence[float]], label: str, words: Words, hue: str) -> None:
    if not rows:
        return
    x, found, low, high = zip(*rows, strict=True)
    ranges = [
        words.plain("density.ranged", low=numbers.count(round(a)), high=numbers.count(round(b)))
        for a, b in zip(low, high, strict=True)
    ]
    levels = words.plain("plot.level"), [numbers.number(value) for value in x]
    style.tell(style.unseen(axes, x, found, hue), levels, (words.plain("plot.eigenvalues"), ranges), label)
