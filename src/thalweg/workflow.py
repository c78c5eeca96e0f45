"""What a run gets, in which order, and where it is kept.

`analyse` measures, keeps everything as plain JSON in `results/analysis.json` (directions as safetensors beside it)
and returns it. The report reads nothing else.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from thalweg.analysis.agreement import correct, verdict
from thalweg.analysis.alignment import alignment_record
from thalweg.analysis.stages import stage_windows
from thalweg.costs import Costs, peak_memory
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.measurement import attributes, curvature, movement, outside, valley
from thalweg.measurement.base import Measurement, Say, Settings
from thalweg.problem import Problem
from thalweg.recording.opening import open_run
from thalweg.recording.trajectory import Trajectory
from thalweg.runs import Run
from thalweg.version import __version__


def analyse(
    run: str | Path | Run[Trajectory],
    problem: Problem,
    held_out: Problem | None = None,
    *,
    settings: Settings | None = None,
    memory_budget: int | None = None,
    command: str | None = None,
    say: Say | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Everything that a recorded run gets: spectra, components, overlaps with their nulls, layers, costs.

    Under `torchrun` all ranks measure together, and the first writes the result.

    Args:
        run: the run folder, or an opened run.
        problem: model, loss and data; its weights do not matter, the recorded ones are used on a copy.
        held_out: the same model and loss on data that training never saw.
        settings: how to measure.
        memory_budget: bytes for kept gradient graphs.
        command: the command that makes this again, for the report.
        say: called with a line for each part as it begins.
        progress: show residual and time left of the eigenpairs on standard error.

    Returns:
        The result as plain JSON values, as kept in the run folder.

    Raises:
        RunError: if the folder is no run.
        InputError: if the problem's parameters are not the ones recorded, or too few steps were.
    """
    settings = settings or Settings()
    run = run if isinstance(run, Run) else open_run(run)
    say = say or (lambda line: None)
    run.space.require_same(problem.space, "the problem's model")
    trajectory = run.trajectory
    if len(trajectory) < 3:
        raise InputError(f"{run.folder} holds {len(trajectory)} recorded rows; at least 3 are needed, train longer")
    costs = Costs()
    with costs.timed("total"):
        measure = Measurement(run, trajectory, problem, held_out, settings, memory_budget, costs, say, progress)
        result = _everything(measure)
    result["command"] = command
    result["cost"] = {
        "seconds": costs.seconds,
        "products": costs.products,
        "gradient_seconds": measure.gradient_seconds,
        "trial_seconds": measure.trial_seconds,
        "peak_memory_bytes": peak_memory(),
    }
    ranks = problem.share.ranks
    if ranks.rank == 0:
        run.save("analysis", result)
    ranks.wait()
    return run.load("analysis")


def _everything(m: Measurement) -> dict[str, Any]:
    """All parts, in order."""
    with m.costs.timed("trajectory"):
        m.say("reading the trajectory")
        if m.trajectory.has_room_for_gram:
            m.trajectory.gram()
    windows = stage_windows(m.trajectory, m.settings.stages)
    stages: list[dict[str, Any]] = []
    pairs: Directions | None = None
    for number, window in enumerate(windows):
        last = number == len(windows) - 1
        there, stage = curvature.stage_at(m, number, window)
        graphs = there.graphs(m.memory_budget)
        pairs = curvature.spectrum(m, stage, graphs, pairs)
        curvature.agreement(m, stage, pairs, window, (windows[0][0], window[1]))
        stages.append(stage)
        if not last:
            del graphs
    correct(stages)
    assert pairs is not None  # there is at least one window
    m.run.save_directions("eigenvectors", pairs)
    loss, held_out = curvature.losses(m, there), outside.held_out(m, there, pairs)
    found, drift = movement.drift_part(m, pairs)
    layers = curvature.layers(m, there, graphs, pairs, found)
    everywhere = curvature.density(m, there, graphs)
    trace = sum(layer["trace"] for layer in layers)
    path = movement.path(m, windows)
    return {
        "format": 1,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "thalweg": __version__,
        "torch": torch.__version__,
        "run": describe_run(m.run),
        "settings": {**vars(m.settings), "components": list(m.settings.components)},
        "problem": there.describe(),
        "loss": loss,
        "held_out": held_out,
        "stages": stages,
        "density": everywhere,
        "sampling": curvature.sampling(m, there),
        "robustness": outside.noise(m, there),
        "sharpness": outside.sharpness(m, there, graphs, pairs),
        "components": movement.explained(m, windows),
        "path": path,
        "surface": valley.surface(m, there, (windows[0][0], windows[-1][1]), path),
        "valley": valley.cross_sections(m, there, pairs, windows[-1], found),
        "heat_map": movement.heat_map(m, pairs, windows[-1]),
        "drift": drift,
        "singular": attributes.singular(m, there, graphs),
        "directions": attributes.directions(m, there, graphs, pairs, windows[-1], found),
        "alignment": alignment_record(pairs, there.weights(), m.settings.draws, m.settings.seed),
        "approximation": attributes.approximation(m, graphs, pairs, windows[-1], trace),
        "layers": layers,
        "verdict": verdict(stages[-1], layers),
    }


def describe_run(run: Run[Trajectory]) -> dict[str, Any]:
    """What was recorded, as plain values."""
    trajectory = run.trajectory
    optimizer = run.manifest["optimizer"]
    settings = {key: value for key, value in optimizer["groups"][0].items() if key not in ("parameters", "params")}
    return {
        "folder": str(run.folder),
        "model": run.manifest["model"],
        "optimizer": {"class": str(optimizer["class"]).rpartition(".")[2], "settings": settings},
        "steps": [int(trajectory.starts[0]), int(trajectory.steps[-1])],
        "rows": len(trajectory),
        "every": trajectory.every,
        "keep": trajectory.keeping.to_json(),
        "parameters": run.space.size,
        "layers": len(run.space.layers),
        "frozen": len(run.space.frozen),
        "damaged": [list(pair) for pair in trajectory.damaged],
        "gaps": [list(gap) for gap in trajectory.gaps],
    }
