"""What a sketch of the updates tells, against the updates themselves, as a curve over its width d.

    python -m benchmarks.sketch [--part digits characters] [--seeds 5]

A training is recorded exactly; its updates are then sketched with several widths and seeds, as `watch(keep="sketch")`
does it, and three things are asked of both: the Gram matrix, the share of the updates' energy that given directions
capture (the five largest Hessian eigenvectors and the exact first ten components), and the directions of the first
component about zero and of the drift. Writes sections into benchmarks/RESULTS.md and the picture sketch.svg.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarks.peer_measure import say
from benchmarks.pictures import panels
from benchmarks.results import RESULTS, Report, options, write_section
from benchmarks.workloads import WORKLOADS
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
from torch import Tensor

from thalweg.analysis.drift_direction import find_direction
from thalweg.analysis.drift_test import drift_test
from thalweg.problem import Problem
from thalweg.recording import open_run, watch
from thalweg.recording.keeping import SUM_ROWS, Keeping
from thalweg.recording.rebuilding import nearest_combination
from thalweg.recording.sketches import Sketch
from thalweg.show import style
from thalweg.show.palette import MARKERS, colour
from thalweg.solvers.gram import principal_components
from thalweg.solvers.lanczos import eigenpairs
from thalweg.task import Task
from thalweg.tasks.characters import characters_task
from thalweg.tasks.digits import digits_task, train

COMPONENTS = 10
PAIRS = 5
ABOUT = """## What a sketch tells, over its width

*Gram*: root mean square, over all pairs of updates and all seeds, of the error of their inner product over the product
of their lengths; beside it what `trajectory.gram_error()` states. *captured*: the share of the updates' energy inside
given directions, estimated from sketches of both less the exact share; root mean square over seeds. An estimate for k
directions is too large by about k/d, which is where a random direction stands too and what the nulls use. *first
component*: cosine with the exact one about zero, of the combination of true updates that the sketched Gram matrix
gives, and of what is rebuilt from bfloat16 sums over 64 rows; the least over the seeds. *drift*: the same of the
drift's direction over the last two thirds of the steps, and the largest p-value of the test."""


@dataclass(frozen=True)
class Training:
    """What is recorded.

    Attributes:
        title: for the table.
        task: makes it.
        steps: how many.
        batch: samples of a step.
        widths: of the sketches.
    """

    title: str
    task: Callable[..., Task]
    steps: int
    batch: int
    widths: tuple[int, ...]


PARTS = {
    "digits": Training(
        "MLP 64-128-64-10 on digits, SGD with momentum, T = 512", digits_task, 512, 64, (64, 128, 256, 512, 1024, 2048)
    ),
    "characters": Training(
        "4-layer character transformer, AdamW, T = 192", characters_task, 192, 16, (64, 256, 1024, 4096, 16384)
    ),
}

Point = dict[str, float]


def recorded(part: Training, steps: int, folder: Path) -> tuple[Tensor, Task]:
    """Train and record exactly: the updates `(T, P)`, and the task as trained.

    Args:
        part: which.
        steps: of the training.
        folder: for the run.
    """
    task = part.task()
    optimizer = task.optimizer(task.model)
    samples = sum(len(batch[0]) for batch in task.train)
    with watch(task.model, optimizer, folder) as recorder:
        epochs = math.ceil(steps * part.batch / samples) + 1

        def after_step(step: int, loss: float) -> None:
            if step + 1 == steps:
                recorder.close()

        train(task, optimizer, epochs=epochs, batch=part.batch, after_step=after_step)
    return open_run(folder).trajectory.updates(0, steps), task


def curve(updates: Tensor, task: Task, widths: Sequence[int], seeds: int) -> list[Point]:
    """The figures of each width.

    Args:
        updates: `(T, P)`.
        task: as trained.
        widths: of the sketches.
        seeds: sketches of each width.
    """
    problem = Problem(task.model, task.loss, task.train)
    space = problem.space
    say("Hessian pairs")
    pairs = eigenpairs(problem.hessian(), PAIRS, tol=1e-3).vectors.double()
    rows = updates.double()
    gram = rows @ rows.T
    lengths = torch.diagonal(gram).sqrt()
    first = principal_components(gram, COMPONENTS)
    components = first.coefficients @ rows
    blocks = torch.block_diag(*[torch.ones(1, len(part)) for part in torch.arange(len(rows)).split(SUM_ROWS)]).double()
    sums = (blocks @ rows).bfloat16().double()
    late = slice(len(rows) // 3, None)
    drift, p_value = drifting(gram[late, late])
    drift = drift @ rows[late]
    points = []
    for width in widths:
        say(f"width {width}")
        seen: list[Point] = []
        for seed in range(seeds):
            sketch = Sketch(space, Keeping.sketched(width, seed))
            drawn = torch.from_numpy(sketch.of_rows(updates.numpy())).double()
            found = drawn @ drawn.T
            error = (found - gram) / lengths[:, None] / lengths
            variance = sketch.error_variance(lambda _, kept, rows=drawn: rows[:, kept.span] @ rows[:, kept.span].T)
            stated = variance / (lengths[:, None] * lengths) ** 2
            one = principal_components(found, COMPONENTS)
            held = blocks @ drawn
            moving, p = drifting(found[late, late])
            nearest = nearest_combination(one.coefficients[:1] @ drawn @ held.T, held @ held.T)
            seen.append(
                {
                    "gram": float((error**2).mean()),
                    "stated": float(stated.mean()),
                    "hessian": captured(drawn, sketch.of(pairs)) - captured(rows, pairs),
                    "components": captured(drawn, sketch.of(components)) - captured(rows, components),
                    "explained": float(one.explained[0] / first.explained[0] - 1),
                    "direction": cosine(one.coefficients[0] @ rows, components[0]),
                    "rebuilt": cosine((nearest @ sums)[0], components[0]),
                    "drift": cosine(moving @ rows[late], drift),
                    "p": p,
                }
            )
        point: Point = {"width": width, "numbers": float(sketch.size)}
        for name in ("gram", "stated"):
            point[name] = statistics.fmean(one[name] for one in seen) ** 0.5
        for name in ("hessian", "components", "explained"):
            point[name] = statistics.fmean(one[name] ** 2 for one in seen) ** 0.5
        for name in ("direction", "rebuilt", "drift"):
            point[name] = min(one[name] for one in seen)
        point["p"] = max(one["p"] for one in seen)
        points.append(point)
    whole = principal_components(gram, 1).coefficients @ rows
    blocked = blocks @ rows
    best = nearest_combination(whole @ blocked.T, blocked @ blocked.T) @ sums
    points.append(
        {
            "width": 0.0,
            "numbers": float(space.size),
            "rebuilt": cosine(best[0], components[0]),
            "p": p_value,
            "hessian share": captured(rows, pairs),
            "components share": captured(rows, components),
        }
    )
    return points


def drifting(gram: Tensor) -> tuple[Tensor, float]:
    """The drift's direction over the rows of a Gram matrix, in steps of momentum 0.9, and the test's p-value."""
    count = len(gram)
    test = drift_test(gram.numpy(), np.ones(count), np.full(count, 0.9))
    found = find_direction(test.blocks, np.ones(len(test.blocks)))
    return torch.from_numpy(np.asarray(test.innovations.map.T @ found.coefficients)), test.p_value


def captured(rows: Tensor, directions: Tensor) -> float:
    """The share of the rows' energy inside orthonormal directions, as their inner products say."""
    return float(((rows @ directions.T) ** 2).sum() / (rows**2).sum())


def cosine(a: Tensor, b: Tensor) -> float:
    """Without its sign."""
    return abs(float(a @ b / (a.norm() * b.norm())))


def table(points: Sequence[Point]) -> list[str]:
    """Lines of Markdown.

    Args:
        points: by `curve`; the last one is of no sketch.
    """
    exact = points[-1]
    lines = [
        "| d | numbers a row | Gram, error | stated | captured by Hessian pairs, error | by components, error "
        "| first explained share, rel. error | first component, cosine | rebuilt from sums, cosine "
        "| drift, cosine | drift, p |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for point in points[:-1]:
        cells = [f"{int(point['width']):,}", f"{int(point['numbers']):,}"]
        cells += [f"{point[name]:.2g}" for name in ("gram", "stated", "hessian", "components", "explained")]
        cells += [f"{point[name]:.4f}" for name in ("direction", "rebuilt", "drift")]
        cells.append(f"{point['p']:.2g}")
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        f"Of {int(exact['numbers']):,} numbers a row exactly: the Hessian pairs capture "
        f"{exact['hessian share']:.3g} of the energy, the components {exact['components share']:.3g}; from exact inner "
        f"products the sums rebuild the first component to a cosine of {exact['rebuilt']:.4f}, more no sketch can. "
        f"The drift of the last two thirds has p {exact['p']:.2g} from exact inner products.",
    ]


PANELS = (
    ("Gram matrix: error of unit updates", (("gram", "measured", "updates"), ("stated", "stated", "chance"))),
    ("Captured share: error", (("hessian", "Hessian pairs", "eigenvectors"), ("components", "components", "updates"))),
    (
        "1 − cosine",
        (
            ("direction", "component", "updates"),
            ("rebuilt", "from sums", "weights"),
            ("drift", "drift", "drift"),
        ),
    ),
)


def draw(curves: dict[str, list[Point]], path: Path) -> None:
    """All curves as one SVG whose text is text.

    Args:
        curves: measured points by part.
        path: where to.
    """
    parts = [part for part in PARTS if curves.get(part)]
    with panels(path, len(parts), len(PANELS), (10.4, 3.1 * len(parts))) as grid:
        for row, part in zip(grid, parts, strict=True):
            points = [point for point in curves[part] if point["width"]]
            widths = [point["width"] for point in points]
            for axes, (label, lines) in zip(row, PANELS, strict=True):
                for name, said, hue in lines:
                    values = [1 - p[name] if name in ("direction", "rebuilt", "drift") else p[name] for p in points]
                    marker = "--" if hue == "chance" else MARKERS[hue] + "-"
                    axes.plot(widths, values, marker, color=colour(hue), markersize=5, linewidth=1.6, label=said)
                axes.set_xscale("log", base=2)
                axes.set_yscale("log")
                axes.set_xlabel("width d", color=colour("muted"))
                axes.set_title(f"{label}\n{part}", fontsize=style.SMALL, color=colour("ink"), loc="left")
                axes.legend(
                    frameon=False,
                    fontsize=style.SMALL,
                    loc="upper right",
                    ncols=len(lines),
                    columnspacing=1.0,
                    handlelength=1.6,
                )
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
                axes.xaxis.set_major_locator(FixedLocator(widths))
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                for axis in (axes.xaxis, axes.yaxis):
                    axis.set_minor_formatter(NullFormatter())
                    axis.set_tick_params(which="minor", length=0)
                low, high = axes.get_ylim()
                axes.set_ylim(
                    min(low, 10 ** math.floor(math.log10(high))), high * max(3, (high / low) ** 0.25)
                )  # room for legend, label
                style.frame(axes, grid="both")


def main(arguments: Sequence[str] | None = None) -> None:
    parser: argparse.ArgumentParser = options("sketch", __doc__, repeats=1)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    if set(chosen.workload) != set(WORKLOADS):
        print("sketch has trainings of its own; nothing to do for some workloads")
        return
    report = Report("sketch", "sketch", ABOUT, chosen, arguments)
    kept = (report.out or RESULTS).with_name("sketch.json")
    curves: dict[str, list[Point]] = json.loads(kept.read_text()) if kept.is_file() and not chosen.quick else {}
    for name in chosen.part:
        part = PARTS[name]
        with tempfile.TemporaryDirectory() as scratch:
            say(f"{name}: training")
            updates, task = recorded(part, 128 if chosen.quick else part.steps, Path(scratch) / "run")
        curves[name] = curve(updates, task, part.widths[:2] if chosen.quick else part.widths, chosen.seeds)
        report.section(name, part.title, table(curves[name]))
    if report.out is not None:
        kept.write_text(json.dumps(curves, indent=1) + "\n")
        draw(curves, report.out.with_name("sketch.svg"))
        write_section(report.out, "sketch: plot", "### As curves\n\n![Errors over the width of the sketch](sketch.svg)")


if __name__ == "__main__":
    main()
