"""Plots of the valley: losses across it, and lines of equal loss under the path."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from thalweg.show import numbers, style
from thalweg.show.messages import Words
from thalweg.show.palette import LEVELS, colour, tint

HUES: Mapping[str, str] = {"random": "chance", "drift": "drift", "stiff": "eigenvectors"}
"""Hue of each direction, the last drawn on top."""

DASHES: Mapping[str, Any] = {"random": (0, (4, 2))}

LINES = LEVELS - 2
"""Lines of equal loss."""


def cross_sections(
    axes: Axes, distances: Sequence[float], curves: Mapping[str, Sequence[float | None] | None], words: Words
) -> None:
    """Loss over the distance from where training ended, a line for each direction.

    Args:
        axes: drawn on.
        distances: from the last weights, both ways.
        curves: losses by direction, one of `HUES`; None where the loss is no finite number.
        words: the language of the labels.
    """
    shown = {name: curves[name] for name in HUES if curves.get(name)}
    for name, losses in shown.items():
        values = [math.nan if loss is None else loss for loss in losses or ()]
        axes.plot(distances, values, color=colour(HUES[name]), linewidth=1.8, linestyle=DASHES.get(name, "-"))
        known = [(x, value) for x, value in zip(distances, values, strict=True) if math.isfinite(value)]
        if known:
            x, y = zip(*known, strict=True)
            across = words.plain("plot.distance"), [numbers.number(value) for value in x]
            told = words.plain("plot.loss"), [numbers.number(value) for value in y]
            style.tell(style.unseen(axes, x, y, HUES[name]), across, told, words.plain(f"valley.{name}"))
    style.reference(axes, 0, "x")
    seen = [loss for losses in shown.values() for loss in losses or () if loss is not None]
    style.measure(axes, "y", seen)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.set_xlabel(words.plain("plot.distance"), color=colour("muted"))
    axes.set_ylabel(words.plain("plot.loss"), color=colour("muted"))
    style.frame(axes, grid="y")


def levels(surface: Mapping[str, Any]) -> list[float]:
    """Losses at which lines are drawn: equal ratios between the least and the most."""
    low, high = surface["least"], surface["most"]
    if not 0 < low < high:
        return []
    return [float(level) for level in np.geomspace(low, high, LINES + 2)[1:-1]]


def equal_losses(axes: Axes, surface: Mapping[str, Any]) -> None:
    """Lines of equal loss over a plane, darker for a higher loss.

    Args:
        axes: drawn on.
        surface: `x`, `y`, `losses` (rows by y; None where there is no finite one), `least`, `most`.
    """
    losses = np.array([[math.nan if loss is None else loss for loss in row] for row in surface["losses"]])
    at = levels(surface)
    if at:
        hues = [tint("chance", level) for level in range(1, len(at) + 1)]
        where = surface["x"], surface["y"], np.log(losses)
        axes.contour(*where, levels=np.log(at), colors=hues, linewidths=1.0, zorder=1)
    axes.set_aspect("equal", adjustable="box")
    axes.set_xlim(surface["x"][0], surface["x"][-1])
    axes.set_ylim(surface["y"][0], surface["y"][-1])
