"""The claims C1 to C7 over the built-in tasks: cells of task, optimizer and seed, and verdicts over them.

Each cell is a recorded training and one `analyse`; what the verdicts need of it is kept as plain numbers in
`cells/TASK-OPTIMIZER-SEED.json`, so a study goes on where it was stopped. The unit of replication is a task with an
optimizer; seeds are nested in it. Thresholds stand in CLAIMS and were fixed before the study ran
(docs/decisions/0011 and 0014). C7 has cells of its own, `trials/TASK-OPTIMIZER-SEED.json`, of fewer tasks and seeds.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from thalweg.analysis.nulls import holm
from thalweg.errors import InputError, nearest
from thalweg.measurement.base import Say, Settings
from thalweg.recording.opening import open_run
from thalweg.runs import finite, read_json, write_atomically
from thalweg.study.productive import STAGES, TASKS, run_trials
from thalweg.study.trainings import OPTIMIZERS, QUICK, TRAININGS, record
from thalweg.workflow import analyse

LEVEL = 0.95
"""Of the intervals over units."""

K = 10
"""Eigenpairs and components that the claims speak of."""


@dataclass(frozen=True)
class Claim:
    """A claim with its effect and its threshold.

    Attributes:
        name: "C1" and so on, with a letter where a claim has parts.
        says: what the paper says.
        effect: what is measured in a cell.
        supported: the interval over units must lie above this.
        contradicted: or, for the opposite, below this.
        of: from a cell's numbers to the effect, None where it does not exist.
        trial: whether its cells are those of trials.
    """

    name: str
    says: str
    effect: str
    supported: float
    contradicted: float
    of: Callable[[dict[str, Any]], float | None]
    trial: bool = False


def _log2(ratio: float | None) -> float | None:
    return math.log2(ratio) if ratio is not None and ratio > 0 else None


CLAIMS = (
    Claim(
        "C1a",
        "late training keeps moving in one direction",
        "1 where the drift test rejects at 0.05 and the corrected persistence is at least 0.5, else 0",
        0.5,
        0.5,
        lambda cell: float(cell["drift_p"] < 0.05 and (cell["persistence"] or 0.0) >= 0.5),
    ),
    Claim(
        "C1b",
        "the drift decays exponentially",
        "where there is a drift: 1 for an exponential, 0 for a constant or a power law, 1/2 for undecided",
        0.5,
        0.5,
        lambda cell: (
            {"exponential": 1.0, "undecided": 0.5}.get(cell["drift_model"], 0.0) if cell["drift_p"] < 0.05 else None
        ),
    ),
    Claim(
        "C2a",
        "top Hessian eigenvectors align with the weights",
        "log2 of the weights' captured energy over the layer-matched null's",
        1.0,
        0.0,
        lambda cell: _log2(cell["weights_captured"] / cell["weights_by_layer"]),
    ),
    Claim(
        "C2b",
        "and with how they change",
        "log2 of the share of the top space in ten components of the updates over the layer-matched null's",
        1.0,
        0.0,
        lambda cell: _log2(cell["updates"] / cell["updates_by_layer"]),
    ),
    Claim(
        "C3",
        "components of updates approximate the top space better than those of weights",
        "captured by ten components of the updates less that by ten of the weights",
        0.05,
        0.0,
        lambda cell: cell["updates"] - cell["weights"],
    ),
    Claim(
        "C3g",
        "(a contestant) components of gradients do it better than those of updates",
        "captured by ten components of the gradients less that by ten of the updates; SGD only",
        0.05,
        0.0,
        lambda cell: None if cell["gradients"] is None else cell["gradients"] - cell["updates"],
    ),
    Claim(
        "C4",
        "singular directions find high curvature",
        "median over singular directions of log2 of the curvature over that of random outer products",
        1.0,
        0.0,
        lambda cell: cell["singular"],
    ),
    Claim(
        "C5",
        "the largest eigenvalue of single layers resembles the network's",
        "median over layers of the layer's largest eigenvalue over the network's",
        0.5,
        0.5,
        lambda cell: float(np.median(cell["layer_shares"])),
    ),
    Claim(
        "C6",
        "larger eigenvalues sit in deeper layers",
        "rank correlation of depth and the layer's largest eigenvalue",
        0.3,
        0.0,
        lambda cell: cell["depth_correlation"],
    ),
    *(
        Claim(
            f"C7{stage[0]}",
            f"tuning along high-curvature directions lowers the loss efficiently, {stage} in training",
            "least lead of training in ten eigenvectors over matched controls and over full training in equal time, "
            "as a share of the held-out loss at the start",
            0.02,
            0.0,
            lambda cell, stage=stage: cell["trials"][stage]["least"],  # type: ignore[misc]
            trial=True,
        )
        for stage in STAGES
    ),
)


# -- cells -----------------------------------------------------------------------------------------------------


def cells(quick: bool = False, tasks: Sequence[str] | None = None) -> Iterator[tuple[str, str, int]]:
    """Task, optimizer and seed of every cell.

    Raises:
        InputError: for a task that there is not.
    """
    for name in tasks or (QUICK if quick else TRAININGS):
        if name not in TRAININGS:
            raise InputError(f"the study has no task {name!r}; the nearest are {nearest(name, TRAININGS)}")
        for optimizer in OPTIMIZERS:
            for seed in range(2 if quick else TRAININGS[name].seeds):
                yield name, optimizer, seed


def run_study(
    out: str | Path,
    quick: bool = False,
    tasks: Sequence[str] | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Run the cells that are missing, and give the scoreboard of all.

    Args:
        out: the study's folder; cells that are in it are not run again.
        quick: two small tasks, two seeds, a third of the steps.
        tasks: some of the tasks only.
        say: called with a line for each cell.

    Raises:
        InputError: for a task that there is not, or where a task's data is missing.
    """
    folder = Path(out) / ("quick" if quick else "cells")
    wanted = list(cells(quick, tasks))
    short = [cell for cell in wanted if cell[2] < (1 if quick else TASKS.get(cell[0], 0)) and cell[0] in TASKS]
    tried = _filled(Path(out) / ("quick-trials" if quick else "trials"), short, run_trials, quick, say, "trial ")
    board = scoreboard(_filled(folder, wanted, run_cell, quick, say), tried)
    write_atomically(Path(out) / ("quick.json" if quick else "scoreboard.json"), _json(board))
    return board


def _filled(
    folder: Path,
    wanted: Sequence[tuple[str, str, int]],
    run: Callable[[str, str, int, Path, bool], dict[str, Any]],
    quick: bool,
    say: Say | None,
    what: str = "",
) -> list[dict[str, Any]]:
    """All cells of a folder, those of the wanted that are missing run."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, optimizer, seed) in enumerate(wanted, 1):
        path = folder / f"{name}-{optimizer}-{seed}.json"
        if path.is_file():
            continue
        if say is not None:
            say(f"{what}{number} of {len(wanted)}: {name}, {optimizer}, seed {seed}")
        write_atomically(path, _json(run(name, optimizer, seed, folder / "run", quick)))
    return [read_json(path) for path in sorted(folder.glob("*-*-*.json"))]


def run_cell(name: str, optimizer: str, seed: int, scratch: Path, quick: bool = False) -> dict[str, Any]:
    """Train, record, analyse, and keep what the claims need.

    Args:
        name: of the task.
        optimizer: "sgd" or "adamw".
        seed: of data, weights, order and draws.
        scratch: where the run is recorded; removed afterwards.
        quick: a third of the steps.
    """
    task, steps = record(name, optimizer, seed, scratch, quick)
    try:
        settings = Settings(k=K, stages=1, components=(K,), seed=seed, noise_draws=0, density_steps=0)
        held_out = task.problem(held_out=True) if task.held_out is not None else None
        result = analyse(open_run(scratch), task.problem(), held_out, settings=settings)
        return {"task": name, "optimizer": optimizer, "seed": seed, "steps": steps, **numbers_of(result)}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def numbers_of(result: dict[str, Any]) -> dict[str, Any]:
    """What the claims need of an analysis."""
    drift, rows = result["drift"], result["stages"][-1]["agreement"]
    by_source = {row["source"]: row for row in rows}
    layers = result["layers"]
    ratios = [row["ratio"] for row in result["singular"] if row["ratio"] is not None and row["ratio"] > 0]
    first = [layer["values"][0] for layer in layers]
    depths = [layer["depth"] for layer in layers]
    correlation = float(stats.spearmanr(depths, first).statistic) if len(set(first)) > 1 and len(first) > 2 else None
    nulls = result["alignment"]["nulls"]
    return {
        "drift_p": drift.get("p_value", 1.0),
        "drift_model": drift.get("model", "none"),
        "drift_share": drift.get("share"),
        "persistence": (drift.get("persistence") or {}).get("corrected"),
        "half_life": drift.get("half_life"),
        "weights_captured": result["alignment"]["captured"],
        "weights_by_layer": nulls["layer_matched"]["expected"],
        "weights_by_chance": nulls["uniform"]["expected"],
        **{source: by_source[source]["captured"] if source in by_source else None for source in ("updates", "weights")},
        "gradients": by_source["gradients"]["captured"] if "gradients" in by_source else None,
        "updates_by_layer": by_source["updates"]["nulls"]["layer_matched"]["expected"],
        "random_walk_explained": sum(result["components"]["random_walk"]["explained"][:K]),
        "weights_explained": sum((result["components"]["weights"].get("explained") or [])[:K]),
        "singular": float(np.median(np.log2(ratios))) if ratios else None,
        "layer_shares": [layer["share_of_net"] for layer in layers],
        "layer_depths": depths,
        "layer_values": first,
        "depth_correlation": correlation,
        "first_is_largest": int(np.argmax(first)) == int(np.argmin(depths)),
        "loss": result["loss"]["train"],
        "held_out": result["loss"]["held_out"],
        "products": result["cost"]["products"],
        "seconds": result["cost"]["seconds"]["total"],
    }


# -- verdicts --------------------------------------------------------------------------------------------------


def scoreboard(found: Sequence[dict[str, Any]], tried: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The verdict on every claim.

    A claim is *supported* if the 95 % interval (Student's t over units) lies above its threshold, *contradicted* if it
    lies below the other one, and there is *no evidence* otherwise, or with fewer than three units. `p_holm` is the
    one-sided p-value against the threshold, corrected over all claims.

    Args:
        found: numbers of the cells.
        tried: numbers of the cells of C7.
    """
    rows = []
    for claim in CLAIMS:
        units: dict[tuple[str, str], list[float]] = {}
        for cell in tried if claim.trial else found:
            value = claim.of(cell)
            if value is not None and math.isfinite(value):
                units.setdefault((cell["task"], cell["optimizer"]), []).append(value)
        rows.append(_row(claim, {" ".join(unit): values for unit, values in units.items()}))
    for row, corrected in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = corrected
    return {
        "cells": len(found),
        "trials": {f"{cell['task']} {cell['optimizer']} {cell['seed']}": cell["trials"] for cell in tried},
        "trial_seconds": sum(cell["seconds"] for cell in tried),
        "level": LEVEL,
        "claims": rows,
        "products": sum(cell["products"] for cell in found),
        "unit_products": _products(found),
        "seconds": sum(cell["seconds"] for cell in found),
    }


def _products(found: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Hessian products of all cells of each unit."""
    units: dict[str, int] = {}
    for cell in found:
        unit = f"{cell['task']} {cell['optimizer']}"
        units[unit] = units.get(unit, 0) + cell["products"]
    return units


def _row(claim: Claim, units: dict[str, list[float]]) -> dict[str, Any]:
    means = np.array([np.mean(values) for values in units.values()])
    about = {
        "claim": claim.name,
        "says": claim.says,
        "effect": claim.effect,
        "supported_above": claim.supported,
        "contradicted_below": claim.contradicted,
        "units": dict(sorted(units.items())),
    }
    if len(means) < 3:
        return {**about, "verdict": "no evidence", "mean": float(means.mean()) if len(means) else None,
                "interval": None, "p_value": 1.0}  # fmt: skip
    mean, error = float(means.mean()), float(means.std(ddof=1) / math.sqrt(len(means)))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(means) - 1)) * error
    low, high = mean - half, mean + half
    verdict = "supported" if low > claim.supported else "contradicted" if high < claim.contradicted else "no evidence"
    if error > 0:
        p_value = float(stats.t.sf((mean - claim.supported) / error, len(means) - 1))
    else:
        p_value = 0.0 if mean > claim.supported else 1.0
    return {**about, "verdict": verdict, "mean": mean, "interval": [low, high], "p_value": p_value}


def _json(value: Any) -> bytes:
    return (json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
