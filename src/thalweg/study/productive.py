"""C7 in the study: does training in the top Hessian eigenvectors pay, early, middle and late in training?

Each cell is a recorded training and three trials of ten eigenvectors, begun at a tenth, four tenths and the end of it.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from thalweg.recording.opening import open_run
from thalweg.study.trainings import OPTIMIZERS, TRAININGS, record
from thalweg.trials.cells import CellStore
from thalweg.trials.ground import make_ground
from thalweg.trials.plan import make_plan
from thalweg.trials.stages import Stages

ARM = "eigenvectors:10"

STAGES = {"early": 0.1, "middle": 0.4, "late": 1.0}
"""Shares of the training after which the trials begin."""

TASKS = {"digits": 2, "tabular": 2, "lstm": 1}
"""Tasks, and how many seeds of each."""

STEPS, SEEDS = 100, 6


def run_trials(name: str, optimizer: str, seed: int, scratch: Path, quick: bool = False) -> dict[str, Any]:
    """Train, record, and try at each stage; what C7 needs as plain numbers.

    Args:
        name: of the task.
        optimizer: "sgd" or "adamw".
        seed: of data, weights, order and draws.
        scratch: where the run is recorded; removed afterwards.
        quick: a third of the steps, in training and trials.
    """
    begun = time.perf_counter()
    task, _ = record(name, optimizer, seed, scratch, quick)
    training = TRAININGS[name]
    task = replace(task, optimizer=lambda model: OPTIMIZERS[optimizer](model, training.rates[optimizer]))
    try:
        trajectory = open_run(scratch).trajectory
        known = trajectory.steps.tolist()
        tried = {}
        for stage, share in STAGES.items():
            step = known[max(0, round(share * len(known)) - 1)]
            ground = make_ground(task, trajectory, step=step, batch=training.batch, seed=seed)
            plan = make_plan(ground, [ARM], steps=STEPS // 3 if quick else STEPS, seeds=SEEDS, futility=0.0)
            stages = Stages(plan, ground, CellStore())
            stages.tune()
            tried[stage] = {"step": step, **numbers_of(stages.judge("confirm"))}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    seconds = time.perf_counter() - begun
    return {"task": name, "optimizer": optimizer, "seed": seed, "trials": tried, "seconds": seconds}


def numbers_of(judged: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a trial: leads as shares of the loss at the start, and by how much each arm lowered the loss."""
    (verdict,) = judged["verdicts"]
    scale = judged["start_loss"]
    leads = {c["against"] + (" in equal time" if c["equal_time"] else ""): c["share"] for c in verdict["comparisons"]}
    counted = [c["share"] for c in verdict["comparisons"] if c["control"] or c["equal_time"]]
    return {
        "word": verdict["word"],
        "least": min(counted),
        "leads": leads,
        "start_loss": scale,
        "gains": {row["arm"]: 1 - row["loss"][-1] / scale for row in judged["curves"]},
        "training_gains": {
            arm: 1 - found["training loss"] / judged["start_training_loss"] for arm, found in judged["measures"].items()
        },
        "stiffness": verdict["stiffness"],
    }
