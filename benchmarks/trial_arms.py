"""Every kind of arm on one recorded training of the digits net: what each says, early and late.

python -m benchmarks.trial_arms [--seeds 8] [--steps 60] [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.peer_measure import say
from benchmarks.results import Report, options

import thalweg as tw
from thalweg.show.trial_text import interval, percent
from thalweg.tasks.digits import digits_task, train
from thalweg.trials.ground import make_ground
from thalweg.trials.lines import line_steps

ABOUT = """\
## Arms on a real training

The demo's training of 64-128-64-10 on digits (seed 0), begun again early and late. Leads are shares of the held-out
loss at that start; a lead below zero is a loss. *Least lead*: that over the best of all rivals that count."""

ARMS = (
    "line:eigenvectors:10",
    "line:updates:10",
    "extrapolate:100",
    "scale:eigenvectors:10:0.1",
    "scale:eigenvectors:10:3",
    "scale:updates:10:3",
    "singular:10",
    "weights:10",
)
COMPRESSED = ("compress:cheap:1:3", "compress:cheap:1:0.5")
STEPS = (300, 919)
TRAINED = 40


def recorded(folder: Path) -> None:
    """The demo's training."""
    task = digits_task(seed=0)
    assert task.optimizer is not None
    optimizer = task.optimizer(task.model)
    with tw.watch(task.model, optimizer, folder, overwrite=True) as recorder:
        train(task, optimizer, TRAINED, seed=0, after_step=lambda step, loss: recorder.log(loss=loss))


def lines_of(found: tw.TrialResult) -> list[str]:
    """A row for each arm: its verdict, its lead over the incumbent and over the best rival, its gain."""
    judged = found.data["stages"]["confirm"]
    scale, incumbent = judged["start_loss"], found.data["plan"]["incumbent"]
    out = [
        f"| arm | verdict | lowered the loss by | lead over {incumbent} | least lead | over | p, Holm |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found.verdicts:
        counted = [c for c in one["comparisons"] if c["control"] or (c["against"] == incumbent and c["equal_time"])]
        least = min(counted, key=lambda c: c["share"])
        over = next(c for c in one["comparisons"] if c["against"] == incumbent and not c["equal_time"])
        rival = least["against"].rpartition("/")[2] + (" in equal time" if least["equal_time"] else "")
        out.append(
            f"| {one['arm']} | {one['word']} | {percent(one['gain']['mean'] / scale)} "
            f"({interval(one['gain'], scale)}) | {percent(over['share'])} ({interval(over['effect'], scale)}) | "
            f"{percent(least['share'])} ({interval(least['effect'], scale)}) | {rival} | {one['p_holm']:.2g} |"
        )
    return out


def at(folder: Path, step: int, seeds: int, steps: int) -> list[str]:
    """The trials that begin after one step of the run."""
    asked: dict[str, Any] = {"run": folder, "step": step, "seeds": seeds, "futility": 0.0, "say": say, "steps": steps}
    task = digits_task(seed=0)
    trained = tw.trial(task, ARMS, out=folder / f"trained-{step}", **asked)
    small = tw.trial(task, COMPRESSED, incumbent="compress:last:1:3", out=folder / f"small-{step}", **asked)
    ground = make_ground(task, tw.open_run(folder).trajectory, step=step)
    judged = trained.data["stages"]["confirm"]
    lines = [
        f"Begun after step {step}: training loss {judged['start_training_loss']:.4f}, held-out "
        f"{judged['start_loss']:.4f}. {steps} steps, {seeds} seeds.",
        "",
        *lines_of(trained),
        "",
        "Compression of one layer, against that of the last layer to 3 bits:",
        "",
        *lines_of(small),
        "",
        "One best step along each direction (`tw.line_steps`):",
        "",
        "| directions | gain foretold, sum | measured, sum | found by a search, sum | of that on held-out data |",
        "|---|---|---|---|---|",
    ]
    for source in ("eigenvectors", "updates"):
        table = line_steps(ground.training, ground.directions(source, 10), ground.judging, ground.radius)
        sums = " | ".join(f"{sum(table[column]):+.2e}" for column in ("predicted", "measured", "best", "held_out"))
        lines.append(f"| {source}, each alone | {sums} |")
    say("\n".join(lines))
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("trial_arms", __doc__, repeats=1)
    parser.add_argument("--seeds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=60)
    chosen: argparse.Namespace = parser.parse_args(arguments)
    torch.set_num_threads(1)
    report = Report("trial_arms", "trial_arms", ABOUT, chosen, arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        recorded(folder)
        for step in STEPS:
            steps = 6 if chosen.quick else chosen.steps
            report.section(str(step), f"From step {step}", at(folder, step, chosen.seeds, steps))


if __name__ == "__main__":
    main()
