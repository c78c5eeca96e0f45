"""The first minutes with thalweg on a fresh machine, from an empty folder, timed step by step.

python -m benchmarks.first_minutes [--kind plain huggingface lightning] [--quick]

A new virtual environment is made and thalweg installed into it from this checkout; `--quick` uses the present one.
Then: `thalweg init`, the two edits, `thalweg doctor`, a recorded training of one's own, `thalweg analyse`,
`thalweg report`, and the plan of a trial.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peer_measure import say
from benchmarks.results import Report, options
from tests.test_checkup import EDITS, LIT, edited

ABOUT = """\
## The first minutes

From an empty folder to a report: each step is a process of its own, as a person would call it. The nets are small (a
perceptron of three layers, a BERT of one, a LightningModule), so what is timed is the way and not the net."""

ROOT = Path(__file__).parents[1]

EXTRAS = {"plain": "", "huggingface": "[transformers]", "lightning": "[lightning]"}

TRAINING = """
import torch, thalweg
from thalweg_task import task

t = task()
optimizer = t.optimizer(t.model)
with thalweg.watch(t.model, optimizer, "runs/a"):
    for step in range(150):
        batch = t.train[step % len(t.train)]
        loss = t.model(**batch).loss if t.loss is None else t.loss(t.model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(float(loss))
"""


def walk(kind: str, fresh: bool) -> list[tuple[str, float]]:
    """Seconds of each step."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, times = Path(scratch), []
        python = Path(sys.executable)

        def step(name: str, *command: str) -> None:
            start = time.perf_counter()
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}
            )
            if done.returncode != 0:
                raise SystemExit(f"{kind}: {name} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
            times.append((name, time.perf_counter() - start))
            say(f"{kind}: {name} {times[-1][1]:.1f} s")

        if fresh:
            step("python -m venv", sys.executable, "-m", "venv", "venv")
            python = folder / "venv" / "bin" / "python"
            install = [str(python), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
            step("pip install thalweg", *install, f"{ROOT}{EXTRAS[kind]}")
        thalweg = (str(python), "-m", "thalweg")
        step("thalweg init", *thalweg, "init", "--kind", kind)
        (folder / "my_lit.py").write_text(LIT)
        edited(folder / "thalweg_task.py", kind)
        step("thalweg doctor", *thalweg, "doctor", "thalweg_task.py:task")
        (folder / "train.py").write_text(TRAINING)
        step("a recorded training", str(python), "train.py")
        step("thalweg analyse", *thalweg, "analyse", "runs/a", "--task", "thalweg_task.py:task")
        step("thalweg report", *thalweg, "report", "runs/a")
        plan = ("--arms", "layers:top:1", "--steps", "20", "--batch", "16")
        step("thalweg trial plan", *thalweg, "trial", "plan", "runs/a", "--task", "thalweg_task.py:task", *plan)
        assert (folder / "runs" / "a" / "report.en.html").stat().st_size > 100_000
        return times


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("first_minutes", __doc__, repeats=1)
    parser.add_argument("--kind", nargs="+", choices=list(EDITS), default=list(EDITS))
    chosen: argparse.Namespace = parser.parse_args(arguments)
    report = Report("first_minutes", "first_minutes", ABOUT, chosen, arguments)
    columns = {kind: walk(kind, fresh=not chosen.quick) for kind in chosen.kind}
    names = [name for name, _ in next(iter(columns.values()))]
    lines = [f"| step | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for place, name in enumerate(names):
        lines.append(f"| {name} | {' | '.join(f'{times[place][1]:.1f} s' for times in columns.values())} |")
    totals = " | ".join(f"{sum(seconds for _, seconds in times):.0f} s" for times in columns.values())
    lines.append(f"| together | {totals} |")
    report.section("walk", "From an empty folder", lines)


if __name__ == "__main__":
    main()
