"""One measurement on several processes: the same numbers, what is sent, what each holds, and how a job ends.

    python -m benchmarks.ranks [--part same memory ended] [--quick]

Real `torchrun` jobs with gloo on one machine, of one, two and four processes. Their memory is drawn as ranks.svg.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.peer_measure import say
from benchmarks.pictures import panels
from benchmarks.ranks_worker import BASIS, PAIRS
from benchmarks.results import Report, options

from thalweg.checkup.ranks import passing, traffic
from thalweg.show import style
from thalweg.show.palette import MARKERS, colour

ROOT = Path(__file__).parents[1]
COUNTS = (1, 2, 4)
FORMS = {"plain": "same data on every rank", "ddp": "DDP", "fsdp2": "FSDP2"}

ABOUT = """\
## One measurement on several processes

`torchrun` with gloo on one machine: *plain*, where every process is given the same model and data; *DDP*, each a share
of the training batch; *FSDP2*, where `fully_shard` has split the model, so that products are central differences."""


def job(count: int, part: str, form: str, folder: Path, quick: bool) -> list[dict[str, Any]]:
    """What each process of a job found."""
    own = ["-m", "benchmarks.ranks_worker", part, form, str(folder), *(["quick"] if quick else [])]
    launched = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "--monitor-interval", "0.2"]
    launched += ["--master-port", str(29300 + os.getpid() % 100)]
    away = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")
    environment = {name: value for name, value in os.environ.items() if name not in away} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *(launched if count > 1 else []), *own]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return [json.loads((folder / f"{part}-{form}-{count}.{rank}.json").read_text()) for rank in range(count)]


def sameness(folder: Path, quick: bool) -> list[str]:
    """Eigenvalues, verdicts and traffic of each form and number."""
    (alone,) = job(1, "same", "plain", folder, quick)
    lines = [
        "| form | processes | largest difference of an eigenvalue | of a layer's | of a component's variance | "
        "p of the drift | same verdicts | products | sent a product, by each | theory | sums a step |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for form in FORMS:
        for count in COUNTS:
            if count == 1 and form != "plain":
                continue
            every = [alone] if count == 1 else job(count, "same", form, folder, quick)
            for found in every[1:]:
                assert found["values"] == every[0]["values"], "ranks differ"
            lines.append(_same(form, count, every[0], alone))
            say(lines[-1])
    verdict = ", ".join(f"{name}: {value}" for name, value in alone["verdict"].items())
    return [
        f"scikit-learn's digits, an MLP of {alone['P']:,} parameters in float64, {PAIRS} pairs to 0.0001 of the "
        f"largest; the verdicts are: {verdict}.",
        "",
        *lines,
        "",
        "*sent*: bytes that a process gives to gathers and scatters, of one vector in this net's float64 "
        f"({8 * alone['P']:,} bytes; one all-reduce is a scatter and a gather). FSDP2's are those of its two gradients "
        "a product, three vectors a pass, which PyTorch sends (counted in `tests/distributed`). *sums*: all-reduces of "
        "m + 1 numbers against a basis of m rows, two a step; FSDP2's third is the lengths of the parameters, by which "
        "the differences' step is scaled. What is beyond belongs to the start vector and the certificate.",
    ]


def _same(form: str, count: int, found: dict[str, Any], alone: dict[str, Any]) -> str:
    def apart(one: Sequence[float], two: Sequence[float]) -> str:
        return f"{float(np.max(np.abs(np.subtract(one, two)) / np.abs(two))):.1g}"

    products, size = found["products"], found["P"]
    moved = sum(found["sent"].get(name, 0) for name in ("all_gather", "reduce_scatter"))
    foretold = sum(traffic(size, count, 1, 0, 8)[name] for name in ("all_gather", "reduce_scatter"))
    sent, theory = f"{moved / products:,.0f}", f"{foretold:,}"
    if form == "fsdp2":
        sent, theory = (
            f"{moved / products:,.0f} by thalweg",
            f"{2 * sum(passing(size, 8).values()):,} a batch by PyTorch",
        )
    if count == 1:
        sent = theory = "0"
    sums = found["calls"].get("all_reduce", 0) / products
    cells = [
        FORMS[form], str(count), apart(found["values"], alone["values"]),
        apart([found["layers"][name] for name in alone["layers"]], list(alone["layers"].values())),
        apart(found["components"], alone["components"]), f"{found['drift']:.4f}",
        "yes" if found["verdict"] == alone["verdict"] else f"no: {found['verdict']}",
        str(products), sent, theory, f"{sums:.2f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def memory(folder: Path, quick: bool) -> tuple[list[str], list[dict[str, Any]]]:
    """Growth of each process's resident memory."""
    points = []
    for form in ("plain", "fsdp2"):
        for count in COUNTS:
            if form == "fsdp2" and count == 1:
                continue
            every = job(count, "memory", form, folder, quick)
            points.append({"form": form, "ranks": count, "grown": max(one["grown"] for one in every)} | {
                name: max(one[name] for one in every) for name in ("basis", "before", "P")
            })  # fmt: skip
            say(f"  {points[-1]}")
    lines = [
        f"A basis of {BASIS + 1} rows, an MLP of {points[0]['P']:,} parameters in float32. *grown*: peak resident "
        "memory of the largest process over what it held after one product; *basis*: its rows, as reckoned.",
        "",
        "| model | processes | held before, MiB | grown, MiB | basis, MiB | grown, of one process's |",
        "|---|---|---|---|---|---|",
    ]
    first = points[0]["grown"]
    for point in points:
        what = "whole on each" if point["form"] == "plain" else "split (FSDP2)"
        sizes = " | ".join(f"{point[name] / 2**20:.0f}" for name in ("before", "grown", "basis"))
        lines.append(f"| {what} | {point['ranks']} | {sizes} | {point['grown'] / first:.2f} |")
    return lines, points


def draw(points: Sequence[dict[str, Any]], path: Path) -> None:
    """Memory against the number of processes."""
    with panels(path, 1, 1, (5.0, 3.4)) as grid:
        axes = grid[0][0]
        for form, hue, label in (("plain", "updates", "model whole on each"), ("fsdp2", "weights", "model split")):
            own = [point for point in points if point["form"] == form]
            across, up = [p["ranks"] for p in own], [p["grown"] / 2**20 for p in own]
            axes.plot(across, up, MARKERS[hue] + "-", color=colour(hue), linewidth=1.8, markersize=5, label=label)
        whole = points[0]["basis"] / 2**20
        axes.plot(COUNTS, [whole / count for count in COUNTS], "--", color=colour("chance"), label="basis, reckoned")
        axes.set_xscale("log", base=2)
        axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
        axes.minorticks_off()
        axes.set_ylim(0)
        axes.set_xlabel("processes", color=colour("muted"))
        axes.set_ylabel("growth of memory, MiB a process", color=colour("muted"))
        axes.legend(frameon=False, fontsize=style.SMALL)
        style.frame(axes, grid="both")


def ending(folder: Path, quick: bool) -> list[str]:
    """Seconds from the kill of a process to the end of its job."""
    lines = ["| processes | seconds to the job's end | what torchrun says |", "|---|---|---|"]
    for count in COUNTS[1:]:
        words = _last_words(count, folder, quick)
        seconds = time.time() - float((folder / "killed").read_text())
        said = next(line.strip() for line in words.splitlines() if "Signal 9" in line)
        lines.append(f"| {count} | {seconds:.1f} | {said} |")
        say(lines[-1])
    return ["One process is killed by SIGKILL in the middle of a product.", "", *lines]


def _last_words(count: int, folder: Path, quick: bool) -> str:
    try:
        job(count, "killed", "plain", folder, quick)
    except RuntimeError as error:
        return str(error)
    raise AssertionError("a job outlived the kill of one of its processes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = options("ranks", __doc__, 1)
    parser.add_argument("--part", nargs="+", choices=["same", "memory", "ended"], default=["same", "memory", "ended"])
    chosen = parser.parse_args(arguments)
    report = Report("ranks", "ranks", ABOUT, chosen, arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if "same" in chosen.part:
            report.section("same", "The same numbers, and what is sent for them", sameness(folder, chosen.quick))
        if "memory" in chosen.part:
            lines, points = memory(folder, chosen.quick)
            if report.out is not None:
                draw(points, report.out.parent / "ranks.svg")
                lines += ["", "![Growth of a process's memory against the number of processes](ranks.svg)"]
            report.section("memory", "Memory of a process", lines)
        if "ended" in chosen.part:
            report.section("ended", "How a job ends when a process dies", ending(folder, chosen.quick))


if __name__ == "__main__":
    main()
