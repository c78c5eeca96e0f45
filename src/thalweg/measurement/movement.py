"""How the weights moved: explained variance, the path, the drift, and which component is which eigenvector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from thalweg.analysis.approximation import SOURCES
from thalweg.analysis.drift import Drift
from thalweg.analysis.drift_record import drift_record
from thalweg.analysis.overlap import overlap
from thalweg.analysis.random_walk import random_walk
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.measurement.base import Measurement
from thalweg.recording.record import Window
from thalweg.solvers.gram import weight_path

PATH_POINTS = 400
"""Points of the path that are kept for the picture."""


def explained(m: Measurement, windows: Sequence[Window]) -> dict[str, Any]:
    """Explained variance of every source, and what a random walk would show."""
    whole = windows[0][0], windows[-1][1]
    out: dict[str, Any] = {}
    for source in SOURCES:
        found = m.found(source, whole)
        if isinstance(found, str):
            out[source] = {"reason": found}
        else:
            assert found.explained is not None
            out[source] = {"explained": found.explained.tolist(), "window": list(whole)}
    rows = m.trajectory.rows_in(whole)
    walk = random_walk(m.trajectory.energies()[rows], max(m.settings.components))
    out["random_walk"] = {
        "explained": walk.weights_explained.tolist(),
        "updates": walk.updates_explained.tolist(),
    }
    return out


def path(m: Measurement, windows: Sequence[Window]) -> dict[str, Any] | None:
    """The path in the plane of its first two components, with a random walk's."""
    whole = windows[0][0], windows[-1][1]
    found = m.found("weights", whole)
    if isinstance(found, str) or len(found) < 2:
        return None
    points = weight_path(m.trajectory, found.first(2), whole)
    rows = m.trajectory.rows_in(whole)
    walk = random_walk(m.trajectory.energies()[rows], 2)
    kept = torch.linspace(0, len(points) - 1, min(len(points), PATH_POINTS)).round().long()
    steps = torch.cat([torch.tensor([whole[0] - 1]), m.trajectory.steps[rows]])
    assert found.explained is not None
    return {
        "steps": steps[kept].tolist(),
        "points": points[kept].tolist(),
        "explained": found.explained[:2].tolist(),
        "random_walk": {
            "points": walk.path[kept].tolist(),
            "explained": walk.weights_explained.tolist(),
        },
    }


def heat_map(m: Measurement, pairs: Directions, window: Window) -> dict[str, Any] | None:
    """Squared inner products of eigenvectors and components of the updates."""
    found = m.found("updates", window)
    if isinstance(found, str):
        return None
    head = found.first(min(len(found), m.settings.k))
    squared = overlap(pairs, head, draws=2).matrix
    return {"rows": "eigenvectors", "columns": "updates", "window": list(window), "squared": squared.tolist()}


def drift_part(m: Measurement, pairs: Directions) -> tuple[Drift | None, dict[str, Any]]:
    """The drift, kept in the run folder where it can be made as a vector."""
    m.say("the drift")
    with m.costs.timed("drift"):
        try:
            problem = m.problem if m.moves_along else None
            found, record = drift_record(m.trajectory, pairs, problem, m.held_out, seed=m.settings.seed)
        except InputError as error:
            return None, {"reason": str(error)}
    if found is not None and m.moves_along:
        m.run.save_directions("drift", found.direction)
        m.costs.products += found.ahead.products if found.ahead is not None else 0
    return found, record
