"""Plots of a trial: leads with their intervals, and held-out losses over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from thalweg.show import numbers, style
from thalweg.show.messages import Words
from thalweg.show.palette import colour

KINDS: Mapping[str, Mapping[str, Any]] = {
    "incumbent": {"color": colour("ink"), "linestyle": (0, (4, 3)), "linewidth": 1.8, "zorder": 4},
    "arm": {"color": colour("eigenvectors"), "linewidth": 1.8, "zorder": 3},
    "control": {"color": colour("chance"), "linewidth": 0.9, "zorder": 2},
}
"""How the curves of a trial look."""


def leads(axes: Axes, rows: Sequence[Mapping[str, Any]], words: Words) -> None:
    """One row for each rival: the lead and its interval; full marks have to be won.

    Args:
        axes: drawn on.
        rows: `label`, `lead`, `low`, `high` (shares of the start's loss) and `must`.
        words: the language of the labels.
    """
    style.reference(axes, 0, "x")
    for place, row in enumerate(rows):
        hue = colour("ink") if row["must"] else colour("muted")
        axes.plot([row["low"], row["high"]], [place, place], color=hue, linewidth=1.8, zorder=2)
        face = hue if row["must"] else colour("paper")
        (mark,) = axes.plot(row["lead"], place, "o", color=hue, markerfacecolor=face, markersize=6, zorder=3)
        low, lead, high = (numbers.percent(row[end]) for end in ("low", "lead", "high"))
        ranged = words.plain("layers.ranged", value=lead, low=low, high=high)
        style.tell(mark, ("", [row["label"]]), (words.plain("plot.lead"), [ranged]))
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    ends = [row[end] for row in rows for end in ("low", "high")]
    room = 0.06 * ((max([*ends, 0.0]) - min([*ends, 0.0])) or 0.01)
    axes.set_xlim(min([*ends, 0.0]) - room, max([*ends, 0.0]) + room)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%".replace("-", "−")))
    axes.set_xlabel(words.plain("plot.lead"), color=colour("muted"))
    style.frame(axes, grid="x")


def losses(axes: Axes, curves: Sequence[Mapping[str, Any]], arms: Sequence[str], incumbent: str, words: Words) -> None:
    """Mean held-out loss over the steps of a trial: arms in front, the incumbent dashed, controls pale behind.

    Args:
        axes: drawn on.
        curves: `arm`, `steps`, `loss`.
        arms: those that were tested.
        incumbent: the one to be beaten.
        words: the language of the labels.
    """
    for curve in curves:
        kind = "incumbent" if curve["arm"] == incumbent else "arm" if curve["arm"] in arms else "control"
        axes.plot(curve["steps"], curve["loss"], **KINDS[kind])
        across = words.plain("plot.trial_step"), [numbers.count(step) for step in curve["steps"]]
        losses = words.plain("plot.held_out"), [numbers.number(loss) for loss in curve["loss"]]
        hue = {"incumbent": "ink", "arm": "eigenvectors"}.get(kind, "chance")
        style.tell(style.unseen(axes, curve["steps"], curve["loss"], hue), across, losses, curve["arm"])
    axes.margins(x=0.03, y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: numbers.count(round(value))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(words.plain("plot.trial_step"), color=colour("muted"))
    axes.set_ylabel(words.plain("plot.held_out"), color=colour("muted"))
    style.frame(axes, grid="y")
