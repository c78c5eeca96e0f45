"""How the cost of eigenpairs grows with samples N, parameters P and pairs k; tables, and one plot.

    python -m benchmarks.growth [--part samples parameters pairs] [--largest] [--quick]

The MLP on Fashion-MNIST; each point in a process of its own. The points are also kept in growth.json beside the results
file, from which growth.svg is drawn, so that the parts can be run one by one.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.peer_environment import OURS, child
from benchmarks.peer_measure import say
from benchmarks.pictures import panels
from benchmarks.results import Report, options
from benchmarks.workloads import prepare
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator

from thalweg.show import style
from thalweg.show.palette import MARKERS, colour

Point = dict[str, Any]
FEW, TRAINED = 250, 20
"""Samples and training steps of the nets of growing width."""


@dataclass(frozen=True)
class Part:
    """One curve.

    Attributes:
        title: of its table.
        label: of its axis.
        what: how its points were made.
        points: settings of the worker, in order.
        largest: further ones, for those who ask.
        quick: for a check in seconds.
    """

    title: str
    label: str
    what: str
    points: Sequence[Point]
    largest: Sequence[Point]
    quick: Sequence[Point]


def _point(k: int, samples: int | None = None, width: int | None = None) -> Point:
    return {"k": k, "samples": samples, "width": width, "steps": TRAINED}


PARTS = {
    "samples": Part(
        "Against the number of samples N",
        "samples N",
        "The trained MLP, other pictures than it was trained on, in batches of 250",
        [_point(10, samples) for samples in (1000, 2000, 4000, 8000, 16_000, 32_000, 60_000)],
        [],
        [_point(10, samples) for samples in (250, 500, 1000)],
    ),
    "parameters": Part(
        "Against the number of parameters P",
        "parameters P",
        f"MLPs with two hidden layers of growing width, after {TRAINED} steps of training",
        [_point(3, FEW, width) for width in (12, 36, 112, 295, 683, 1388, 2796)],
        [_point(3, FEW, width) for width in (5095, 9610)],
        [_point(3, 50, width) for width in (4, 12, 36)],
    ),
    "pairs": Part(
        "Against the number of pairs k",
        "pairs k",
        "The trained MLP on its own data",
        [_point(k) for k in (1, 2, 5, 10, 20, 50, 100)],
        [],
        [_point(k) for k in (1, 2, 5)],
    ),
}
PANELS = (("seconds", "seconds", "updates"), ("bytes_grown", "peak memory, MiB", "weights"))
"""Figure of a point, label of its axis, and hue."""

ABOUT = """\
## How the cost grows

Seconds from model and data in memory to pairs at residual 0.001·λ₁, the operator's making included. *gradients a
product*: the time of `eigenpairs` for each of its products, Lanczos included, over that of one gradient of all samples
in the same process. *peak memory*: growth of the process's resident memory. The slope is the exponent of the power law
that fits the larger half of the points best; where a small cost does not grow yet it is small."""


def points_of(part: str, folder: Path, chosen: argparse.Namespace) -> list[Point]:
    """Measure a curve.

    Args:
        part: its name among PARTS.
        folder: of the prepared net.
        chosen: the options.
    """
    plan = PARTS[part]
    wanted = plan.quick if chosen.quick else [*plan.points, *(plan.largest if chosen.largest else [])]
    found = []
    for settings in wanted:
        runs = [
            child("growth_worker", "pairs", OURS, folder, folder / "point.json", settings)
            for _ in range(chosen.repeats)
        ]
        found.append(sorted(runs, key=lambda run: run["seconds"])[(len(runs) - 1) // 2])
        last = found[-1]
        say(f"  {part} = {last[part]:,}: {last['seconds']:.3g} s, {last['products']} products")
    return found


def table(part: str, points: Sequence[Point]) -> list[str]:
    """A curve as Markdown.

    Args:
        part: its name among PARTS.
        points: measured.
    """
    fixed = [f"{plan.label.split()[-1]} = {points[0][name]:,}" for name, plan in PARTS.items() if name != part]
    lines = [
        f"{PARTS[part].what}; {', '.join(fixed)}.",
        "",
        f"| {PARTS[part].label} | seconds | of these the operator's making | products | gradient, s | "
        "gradients a product | peak memory, MiB |",
        "|---|" + "---|" * 6,
    ]
    for point in points:
        cells = [
            f"{point[part]:,}" + ("" if point["converged"] else " (not converged)"),
            f"{point['seconds']:.3g}",
            f"{point['making']:.3g}",
            f"{point['products']}",
            f"{point['gradient_seconds']:.3g}",
            f"{point['product_seconds'] / point['gradient_seconds']:.2f}",
            f"{point['bytes_grown'] / 2**20:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    slopes = ", ".join(
        f"{label.split(',')[0]} as {PARTS[part].label.split()[-1]}^{slope(part, name, points):.2f}"
        for name, label, _ in PANELS
    )
    return [*lines, "", f"From {larger_half(points)[0][part]:,} on: {slopes}."]


def larger_half(points: Sequence[Point]) -> Sequence[Point]:
    """The points that the slope is taken from: at least three, where there are so many."""
    return points[-max(3, math.ceil(len(points) / 2)) :]


def line(part: str, name: str, points: Sequence[Point]) -> tuple[float, float]:
    """Slope and height of the straight line through the larger half in logarithms.

    Args:
        part: across.
        name: up.
        points: measured.
    """
    rows = [point for point in larger_half(points) if point[name] > 0]
    if len(rows) < 2:
        return math.nan, math.nan
    across, up = (np.log10([row[key] for row in rows]) for key in (part, name))
    tilt, height = np.polyfit(across, up, 1)
    return float(tilt), float(height)


def slope(part: str, name: str, points: Sequence[Point]) -> float:
    """The exponent; arguments as for `line`."""
    return line(part, name, points)[0]


def panel(axes: Axes, part: str, name: str, label: str, hue: str, points: Sequence[Point]) -> None:
    """One curve on logarithmic axes, with its power law and the exponent beside it.

    Args:
        axes: drawn on.
        part: across, its name among PARTS.
        name: up.
        label: of the axis that goes up.
        hue: the palette's name of the colour.
        points: measured.
    """
    unit = 2**20 if name.startswith("bytes") else 1
    shown = [point for point in points if point[name] > 0]
    across = np.array([point[part] for point in shown], dtype=float)
    up = np.array([point[name] / unit for point in shown])
    axes.plot(across, up, MARKERS[hue] + "-", color=colour(hue), markersize=5, linewidth=1.8, zorder=3)
    tilt, height = line(part, name, points)
    if math.isfinite(tilt):
        law = 10**height * across**tilt / unit
        seen = law > 0.6 * up.min()
        axes.plot(across[seen], law[seen], "--", color=colour("chance"), linewidth=1.2, zorder=2)
        said = f"slope {tilt:.2f} (dashed)".replace("-", "−")
        axes.text(0.04, 0.93, said, transform=axes.transAxes, color=colour("ink"), fontsize=style.SMALL, va="top")
    style.measure(axes, "x", list(across))
    style.measure(axes, "y", list(up))
    if axes.get_xscale() == "log":
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if across.max() > 300 * across.min() else (1.0, 3.0)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}" if value < 1 else f"{value:,.0f}"))
    axes.set_xlabel(PARTS[part].label, color=colour("muted"))
    axes.set_ylabel(label, color=colour("muted"))
    style.frame(axes, grid="both")


def draw(curves: dict[str, list[Point]], path: Path) -> None:
    """All curves as one SVG whose text is text.

    Args:
        curves: measured points by part.
        path: where to.
    """
    parts = [part for part in PARTS if curves.get(part)]
    with panels(path, len(PANELS), len(parts), (3.1 * len(parts), 5.4)) as grid:
        for row, (name, label, hue) in zip(grid, PANELS, strict=True):
            for axes, part in zip(row, parts, strict=True):
                panel(axes, part, name, label, hue, curves[part])


def keep(part: str, points: list[Point], out: Path) -> dict[str, list[Point]]:
    """Put a curve beside those measured earlier, and give back all.

    Args:
        part: its name among PARTS.
        points: measured.
        out: the results file; growth.json lies beside it.
    """
    path = out.with_name("growth.json")
    curves: dict[str, list[Point]] = json.loads(path.read_text()) if path.is_file() else {}
    curves[part] = points
    path.write_text(json.dumps(curves, indent=1) + "\n")
    return curves


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("growth", __doc__, repeats=1)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--largest", action="store_true", help="also 30 and 100 million parameters; 16 GiB of memory")
    chosen = parser.parse_args(arguments)
    if "mlp" not in chosen.workload:
        say("growth is measured on the MLP alone; nothing to do")
        return
    report = Report("growth", "growth", ABOUT, chosen, arguments)
    with tempfile.TemporaryDirectory() as scratch:
        say("mlp: training")
        folder = prepare("mlp", Path(scratch), chosen.quick)
        for part in chosen.part:
            points = points_of(part, folder, chosen)
            report.section(part, PARTS[part].title, table(part, points))
            if report.out is not None:
                draw(keep(part, points, report.out), report.out.with_name("growth.svg"))
    if report.out is not None:
        link = "![Seconds and peak memory against samples, parameters and pairs, on logarithmic axes](growth.svg)"
        report.section("plot", "As curves", [link], place=False)


if __name__ == "__main__":
    main()
