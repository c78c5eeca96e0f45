"""The study of forgetting in pictures, and what its streams and methods are called there."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from thalweg.show import style, svg
from thalweg.show.palette import colour
from thalweg.study.forgetting.kinds import KINDS, OWN

NAMES = {
    "none": "nothing protected",
    "l2": "L2",
    "ewc": "EWC",
    "online_ewc": "online EWC",
    "si": "SI",
    "mas": "MAS",
    "ogd": "OGD",
    "gpm": "GPM",
    "hessian": "off top-k Hessian directions",
    "random": "off k random directions",
    "layer_matched": "off k layer-matched random ones",
    "guard": "thalweg's guard",
    "guard_small": "the guard in EWC's memory",
}
TITLES = {
    "permuted": "Permuted: other pixels",
    "rotated": "Rotated: 10° more each",
    "split": "Split: other classes",
    "texts": "A pair of texts: prose, then code",
    "pretrained": "A pretrained net: digits, then clothes",
    "many": "Thirty permuted tasks",
    "narrow": "A fifth of the width",
    "classes": "Nobody says which task",
}


SEEDS = 3
"""From so many seeds on an interval is shown; of two it would be thirteen standard errors long."""


def sorted_kinds(board: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The streams on which settings were chosen, and those where protection is expected to fail."""
    kinds = list(board["streams"])
    return [kind for kind in kinds if not KINDS[kind].follows], [kind for kind in kinds if KINDS[kind].follows]


def best_rival(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The other method with the best accuracy, plain training aside."""
    rivals = [row for row in rows if row["method"] not in (*OWN, "none")]
    return max(rivals, key=lambda row: row["accuracy"]) if rivals else None


@contextmanager
def _drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    with matplotlib.rc_context(svg.SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        drawn = Figure(figsize=(width, height), facecolor="white", layout="constrained")
        FigureCanvasSVG(drawn)
        yield drawn
        drawn.savefig(path, metadata={"Date": None, "Creator": None})


def _grid(drawn: Figure, count: int, columns: int) -> list[Axes]:
    """So many panels, row by row; the places that are left are empty."""
    panels: list[Axes] = list(drawn.subplots(-(-count // columns), min(columns, count), squeeze=False).ravel())
    for axes in panels[count:]:
        axes.set_axis_off()
    return panels[:count]


def draw_streams(board: Mapping[str, Any], path: Path) -> None:
    """Accuracy at the end and just after learning, method by method."""
    kinds, _ = sorted_kinds(board)
    kinds = kinds or list(board["streams"])
    columns = min(3, len(kinds))
    tall = max(len(board["streams"][kind]) for kind in kinds)
    with _drawing(path, 4.6 * columns, (0.3 * tall + 1.1) * -(-len(kinds) // columns)) as drawn:
        for axes, kind in zip(_grid(drawn, len(kinds), columns), kinds, strict=True):
            _panel(axes, kind, board["streams"][kind])


def draw_so_far(board: Mapping[str, Any], path: Path) -> None:
    """The mean accuracy over the tasks so far, after each: the learning curve of a stream."""
    kinds = [kind for kind in board["streams"] if KINDS[kind].tasks > 2] or list(board["streams"])
    columns = min(3, len(kinds))
    with _drawing(path, 4.6 * columns, 3.2 * -(-len(kinds) // columns)) as drawn:
        for axes, kind in zip(_grid(drawn, len(kinds), columns), kinds, strict=True):
            rows = board["streams"][kind]
            rival = best_rival(rows)
            named = {row["method"] for row in rows if row["method"] in ("guard", "none")}
            named |= {rival["method"]} if rival is not None else set()
            for row in rows:
                strong = row["method"] in named
                hue = colour("eigenvectors" if row["method"] in OWN else "ink" if strong else "chance")
                places = range(1, len(row["so_far"]) + 1)
                axes.plot(places, row["so_far"], color=hue, linewidth=1.8 if strong else 0.7, zorder=3 if strong else 1)
            ends = [(row["so_far"][-1], row) for row in rows if row["method"] in named]
            _name_ends(axes, ends)
            axes.set_title(TITLES[kind], loc="left", fontsize=11, color=colour("ink"))
            axes.set_xlabel("tasks learned", color=colour("muted"))
            axes.set_ylabel("accuracy over them", color=colour("muted"))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            style.frame(axes, grid="y")


def _name_ends(axes: Axes, ends: Sequence[tuple[float, Mapping[str, Any]]]) -> None:
    """Names at the right ends of lines, moved apart where they would meet."""
    low, high = axes.get_ylim()
    apart, last = 0.085 * (high - low), -math.inf
    for value, row in sorted(ends, key=lambda pair: pair[0]):
        last = max(value, last + apart)
        hue = colour("eigenvectors" if row["method"] in OWN else "ink")
        place = (1.02, (last - low) / (high - low))
        axes.annotate(NAMES[row["method"]], place, xycoords="axes fraction", va="center", color=hue, fontsize=9)


def draw_curves(board: Mapping[str, Any], path: Path) -> None:
    """How the guard depends on its strength and hard share, and directions on their number."""
    panels = [(kind, name, rows) for kind, plans in board["curves"].items() for name, rows in plans.items() if rows]
    columns = min(2, len(panels))
    with _drawing(path, 5.4 * columns, 3.9 * -(-len(panels) // columns)) as drawn:
        for axes, (kind, name, rows) in zip(_grid(drawn, len(panels), columns), panels, strict=True):
            _curve(axes, kind, name, rows)


def _curve(axes: Axes, kind: str, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy at the end as a line and just after learning dotted, over the strength or k."""
    by_hard = name == "strength"
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        lines.setdefault(f"hard {row['settings']['hard']:.0%}" if by_hard else NAMES[row["method"]], []).append(row)
    hues = [colour(hue) for hue in ("updates", "weights", "gradients", "eigenvectors")]
    values = sorted({row["settings"][name] for row in rows})
    place = {value: number for number, value in enumerate(values)}
    for hue, mark, (label, own) in zip(hues, "osD^", lines.items(), strict=False):
        across = [place[row["settings"][name]] for row in own]
        halves = [row["accuracy_half"] if row["seeds"] >= SEEDS else 0.0 for row in own]
        ends = [row["accuracy"] for row in own]
        axes.errorbar(
            across, ends, halves, color=hue, marker=mark, markersize=5, label=label, linewidth=1.6, elinewidth=0.9
        )
        axes.plot(across, [row["learning"] for row in own], color=hue, linewidth=1.1, linestyle=(0, (1, 1.6)))
    axes.xaxis.set_major_locator(FixedLocator(list(place.values())))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{values[round(at)]:g}"))
    axes.set_title(TITLES[kind], loc="left", fontsize=11, color=colour("ink"))
    axes.set_xlabel("strength" if by_hard else "directions of each old task", color=colour("muted"))
    axes.set_ylabel("accuracy", color=colour("muted"))
    style.frame(axes, grid="y")
    below = (0.0, -0.2)  # the axes, where no line runs
    ink = colour("ink")
    axes.legend(loc="upper left", bbox_to_anchor=below, borderaxespad=0.0, frameon=False, fontsize=9, labelcolor=ink)


def _panel(axes: Axes, kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A disc for the accuracy at the end with its interval, a ring for that just after learning."""
    ordered = sorted(rows, key=lambda row: -row["accuracy"])
    for place, row in enumerate(ordered):
        hue = colour("eigenvectors" if row["method"] in OWN else "muted")
        half = row["accuracy_half"] if math.isfinite(row["accuracy_half"]) else 0.0
        ends = [row["accuracy"] - half, row["accuracy"] + half]
        axes.plot([row["accuracy"], row["learning"]], [place, place], color=colour("grid"), linewidth=2.4, zorder=1)
        axes.plot(ends, [place, place], color=hue, linewidth=1.8, zorder=2)
        axes.plot(row["accuracy"], place, "o", color=hue, markersize=6, zorder=3)
        axes.plot(row["learning"], place, "o", color=hue, markerfacecolor="white", markersize=5, zorder=3)
    axes.set_yticks(range(len(ordered)), [NAMES.get(row["method"], row["method"]) for row in ordered])
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_title(TITLES[kind], loc="left", fontsize=11, color=colour("ink"))
    axes.set_xlabel("accuracy: ● end, ○ once learned", color=colour("muted"))
    style.frame(axes, grid="x")
