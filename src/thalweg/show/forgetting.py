"""The study of forgetting as a Markdown page with one picture."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from thalweg.runs import write_atomically
from thalweg.show import style, svg
from thalweg.show.numbers import DASH
from thalweg.show.palette import colour

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
OWN = ("guard", "guard_small")
HEADS = ("method", "accuracy", "backward transfer", "forgetting", "forward transfer", "learning", "memory", "step",
         "task", "settings")  # fmt: skip
INTRODUCTION = """\
# Forgetting: claim C8

Does protecting directions of an old task reduce forgetting, beside the methods that keep no data? Each stream is
learned task after task by a bias-free perceptron, 784-100-100-10, with plain SGD: 6,000 pictures of Fashion-MNIST a
task, two epochs, batches of 32. *Permuted* and *rotated* (by 10° more each) are domain-incremental, ten tasks;
*split* is task-incremental, five tasks of two classes. Class-incremental learning is not measured.

**How it was made fair.** Every method has a grid of three step sizes times three settings of its own (plain training:
the step sizes alone; the random controls: those of the Hessian's), extended while its edge is best; the one with the
best validation accuracy at the end, on a seed that the result does not use, was run on the seeds of the result and
judged on test pictures. Validation pictures come from a reserve that no task trains on. Every penalty is taken
implicitly, the rivals' too. GPM's grid holds its authors' thresholds for this net. What is bounded by time: OGD and
directions of the Hessian keep whole vectors and were given at most 20 a task. What is not fresh: the guard was
developed on these streams with one seed (decision 0016); the seeds are fresh.

*Accuracy* is the mean over all tasks at the end; *backward transfer* what later tasks did to earlier ones; *learning*
the accuracy of each task just after it was learned, so what protection left of the new: old and new always together.
Intervals are 95 %, Student's t over seeds. Memory is what is kept between tasks besides the weights; *step* the time
of a training step beside plain training and *task* the time that measuring a learned task takes, on one thread beside
another process."""


def write_forgetting(board: Mapping[str, Any], folder: Path, command: str) -> list[Path]:
    """Write `forgetting.md` and `forgetting.svg`.

    Args:
        board: of `thalweg.study.forgetting.study`.
        folder: where to.
        command: that makes them again.

    Returns:
        The files.
    """
    picture, page = folder / "forgetting.svg", folder / "forgetting.md"
    _draw(board, picture)
    write_atomically(page, markdown(board, picture.name, command).encode())
    return [page, picture]


def markdown(board: Mapping[str, Any], picture: str, command: str) -> str:
    """The page's text."""
    lines = [INTRODUCTION, "", f"![Accuracy at the end and just after learning, method by method]({picture})", ""]
    for kind, rows in board["streams"].items():
        lines += _table(kind, rows)
    seeds, tuning = len(board["seeds"]), len(board["tuning_seeds"])
    lines += ["", f"{seeds} seeds, settings chosen on {tuning} other. `{command}`", ""]
    return "\n".join(lines)


def _table(kind: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    plain = next((row["step_seconds"] for row in rows if row["method"] == "none"), None)
    lines = [
        f"## {kind.capitalize()}",
        "",
        f"| {' | '.join(HEADS)} |",
        f"|{'---|' * len(HEADS)}",
    ]
    for row in sorted(rows, key=lambda row: -row["accuracy"]):
        figures = [
            _ranged(row, key) for key in ("accuracy", "backward", "forgetting", "forward", "learning") if key in row
        ]
        told = ", ".join(f"{name} {value:g}" for name, value in row["settings"].items())
        name = NAMES.get(row["method"], row["method"])
        name = f"**{name}**" if row["method"] in OWN else name
        memory = f"{row['nbytes'] / 2**20:.2f} MiB" if row["nbytes"] else DASH
        slower = f"{row['step_seconds'] / plain:.1f}×" if plain else DASH
        lines.append(
            f"| {name} | {' | '.join(figures)} | {memory} | {slower} | {row['ending_seconds']:.2f} s | {told} |"
        )
    return [*lines, ""]


def _ranged(row: Mapping[str, Any], key: str) -> str:
    half = row[f"{key}_half"]
    return f"{row[key]:.3f} ± {half:.3f}".replace("-", "−") if math.isfinite(half) else f"{row[key]:.3f}"


def _draw(board: Mapping[str, Any], path: Path) -> None:
    streams = board["streams"]
    tall = max(len(rows) for rows in streams.values())
    with matplotlib.rc_context(svg.SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        drawn = Figure(figsize=(4.6 * len(streams), 0.32 * tall + 1.2), facecolor="white", layout="constrained")
        FigureCanvasSVG(drawn)
        for axes, (kind, rows) in zip(drawn.subplots(1, len(streams), squeeze=False)[0], streams.items(), strict=True):
            _panel(axes, kind, rows)
        drawn.savefig(path, metadata={"Date": None, "Creator": None})


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
    axes.set_title(kind, loc="left", fontsize=11, color=colour("ink"))
    axes.set_xlabel("accuracy: ● at the end, ○ just after learning", color=colour("muted"))
    style.frame(axes, grid="x")
