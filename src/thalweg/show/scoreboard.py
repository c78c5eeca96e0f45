"""The study's scoreboard as a Markdown page with one picture."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from thalweg.runs import write_atomically
from thalweg.show import style, svg
from thalweg.show.numbers import DASH, count
from thalweg.show.palette import colour

COLUMNS = 3
INTRODUCTION = """\
# The study: claims C1 to C7

The unit is a task with an optimizer; seeds are averaged within it. A claim is **supported** if the 95 % interval over
units lies above its threshold, **contradicted** if it lies below the other one, and there is **no evidence** otherwise,
or with fewer than three units. The thresholds were fixed before the study ran (decisions 0011 and 0014); p is one-sided
against the first one, corrected by Holm over all claims. C7 has cells of its own: trials at three stages of a training.
In the picture: discs SGD, triangles AdamW, the mean with its interval below, a line where support begins and a dashed
one where contradiction does."""


def write_page(board: Mapping[str, Any], folder: Path, name: str, command: str) -> list[Path]:
    """Write `NAME.md` and `NAME.svg`.

    Args:
        board: of `thalweg.study.scoreboard`.
        folder: where to.
        name: of both files.
        command: that makes them again.

    Returns:
        The files.
    """
    picture = folder / f"{name}.svg"
    _draw(board, picture)
    page = folder / f"{name}.md"
    write_atomically(page, markdown(board, picture.name, command).encode())
    return [page, picture]


def markdown(board: Mapping[str, Any], picture: str, command: str) -> str:
    """The page's text.

    Args:
        board: of `thalweg.study.scoreboard`.
        picture: the file's name.
        command: that makes it again.
    """
    lines = [
        INTRODUCTION,
        "",
        "| claim | verdict | mean | 95 % interval | supported above | contradicted below | p, Holm | units |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in board["claims"]:
        interval = DASH if row["interval"] is None else "{:.3g} to {:.3g}".format(*row["interval"])
        mean = DASH if row["mean"] is None else f"{row['mean']:.3g}"
        lines.append(
            f"| **{row['claim']}** {row['says']} | **{row['verdict']}** | {mean} | {interval} | "
            f"{row['supported_above']:g} | {row['contradicted_below']:g} | {row['p_holm']:.2g} | {len(row['units'])} |"
        )
    lines += ["", f"![Every claim's effect, unit by unit]({picture})", "", "## What was measured", ""]
    lines += [f"- **{row['claim']}**: {row['effect']}." for row in board["claims"]]
    lines += [
        "",
        "## Unit by unit",
        "",
        "Means over the seeds; products over all of them, each spent on all of the unit's claims but C7.",
        "",
    ]
    units = sorted({unit for row in board["claims"] for unit in row["units"]})
    lines += [
        f"| unit | {' | '.join(row['claim'] for row in board['claims'])} | products |",
        f"|---|{'---|' * len(board['claims'])}---|",
    ]
    for unit in units:
        cells = [_mean(row["units"].get(unit)) for row in board["claims"]]
        lines.append(f"| {unit} | {' | '.join(cells)} | {count(board.get('unit_products', {}).get(unit))} |")
    lines += trial_lines(board.get("trials") or {})
    lines += [
        "",
        f"{board['cells']} cells, {board['products']:,} Hessian products, {board['seconds'] / 60:.1f} minutes of "
        f"analysis. `{command}`",
        "",
    ]
    return "\n".join(lines)


def trial_lines(tried: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The trials of C7: by how much each way of training lowered the training loss, and the held-out loss.

    Args:
        tried: by cell, then by stage.
    """
    if not tried:
        return []
    arms = ("eigenvectors:10", "eigenvectors:10/complement", "random:10", "full")
    heads = ("eigenvectors", "complement", "random", "full")
    lines = [
        "",
        "## The trials of C7",
        "",
        "By how much a hundred steps lowered the loss: training, then held-out, as shares of what it was. Negative is "
        "a rise.",
        "",
        f"| cell | stage | {' | '.join(heads)} | verdict |",
        f"|---|---|{'---|' * len(arms)}---|",
    ]
    for cell, stages in sorted(tried.items()):
        for stage, found in stages.items():
            gains = [
                f"{_percent(found['training_gains'].get(arm))}, {_percent(found['gains'].get(arm))}" for arm in arms
            ]
            lines.append(f"| {cell} | {stage} | {' | '.join(gains)} | {found['word']} |")
    return lines


def _percent(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:.1f} %".replace("-", "−")


def effect(axes: Axes, row: Mapping[str, Any]) -> None:
    """One claim: a dot for each unit, the mean with its interval, and the thresholds.

    Args:
        axes: drawn on.
        row: of the scoreboard.
    """
    units = {unit: sum(values) / len(values) for unit, values in row["units"].items()}
    for place, (unit, value) in enumerate(sorted(units.items())):
        mark = "o" if unit.endswith("sgd") else "^"
        axes.plot(value, place, mark, color=colour("updates"), markersize=5, zorder=3)
    bottom = -1.4
    if row["mean"] is not None:
        if row["interval"] is not None:
            axes.hlines(bottom, *row["interval"], color=colour("ink"), linewidth=2, zorder=3)
        axes.plot(row["mean"], bottom, "D", color=colour("ink"), markersize=6, zorder=4)
    axes.axvline(row["supported_above"], color=colour("gradients"), linewidth=1.2, zorder=1)
    axes.axvline(row["contradicted_below"], color=colour("weights"), linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    axes.set_yticks([bottom, *range(len(units))], ["mean", *sorted(units)])
    axes.set_ylim(bottom - 0.8, max(len(units), 1) - 0.2)
    axes.set_title(f"{row['claim']}: {row['verdict']}", fontsize=style.SMALL + 1, color=colour("ink"), loc="left")
    style.frame(axes, grid="x")


def _draw(board: Mapping[str, Any], path: Path) -> None:
    rows = board["claims"]
    height = math.ceil(len(rows) / COLUMNS)
    units = max((len(row["units"]) for row in rows), default=1)
    with matplotlib.rc_context(svg.SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        size = (4.2 * COLUMNS, height * (1.3 + 0.19 * (units + 2)))
        figure = Figure(figsize=size, dpi=72, facecolor=colour("paper"), layout="constrained")
        figure.set_canvas(FigureCanvasSVG(figure))
        grid = figure.subplots(height, COLUMNS, squeeze=False)
        for axes, row in zip(grid.flat, rows, strict=False):
            effect(axes, row)
        for axes in list(grid.flat)[len(rows) :]:
            axes.set_axis_off()
        figure.savefig(path, format="svg", facecolor=colour("paper"), metadata={"Date": None, "Creator": None})


def _mean(values: list[float] | None) -> str:
    return DASH if not values else f"{sum(values) / len(values):.3g}"
