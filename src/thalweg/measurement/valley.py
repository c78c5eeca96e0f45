"""The shape of the valley: losses across it in a few directions, and over the plane in which the path is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.analysis.drift import Drift
from thalweg.directions import Directions, random_directions
from thalweg.errors import InputError
from thalweg.measurement.base import Measurement
from thalweg.problem import Problem
from thalweg.recording.record import Window

SIDE = 10
"""Losses of a cross-section to either side of the last weights."""

GRID = 17
"""Losses along each side of the plane."""

WIDE = 1.18
"""How many times as wide as high the plane is, as the report's panels are."""

MARGIN = 0.15
"""How far the plane reaches beyond the path, as a share of its extent."""

NEAR = 0.5
"""How far cross-sections reach to either side, as a share of the way that the weights went in the last window."""


def cross_sections(
    m: Measurement, there: Problem, pairs: Directions, window: Window, drift: Drift | None
) -> dict[str, Any]:
    """Losses along the stiffest direction, a random one, and the drift where there is one.

    All over the same distances, on training and on held-out data.
    """
    m.say("across the valley")
    reach = _reach(m, there, window)
    distances = reach * np.arange(-SIDE, SIDE + 1) / SIDE
    chosen = {"stiff": pairs.rows.dense(0), "random": random_directions(there.space, 1, m.settings.seed).rows.dense(0)}
    if drift is not None and drift.found and m.moves_along:
        chosen["drift"] = drift.direction.rows.dense(0)
    with m.costs.timed("valley"):
        outside = None if m.held_out is None else there.on(m.held_out.data)
        curves = {name: _curve(there, outside, direction, distances) for name, direction in chosen.items()}
    return {"distances": distances.tolist(), "reach": reach, "curves": curves}


def _curve(
    there: Problem, outside: Problem | None, direction: Tensor, distances: np.ndarray
) -> dict[str, list[float | None] | None]:
    unit = direction.double() / torch.linalg.vector_norm(direction.double())
    moves = [float(distance) * unit for distance in distances]
    return {"train": _losses(there, moves), "held_out": None if outside is None else _losses(outside, moves)}


def _losses(problem: Problem, moves: Iterable[Tensor]) -> list[float | None]:
    """The loss at the weights moved by each of these; None where it is no finite number."""
    weights = problem.weights()
    copy = problem.at(weights)
    losses: list[float | None] = []
    for move in moves:
        copy.load_weights(weights + move.to(weights))
        try:
            losses.append(copy.loss())
        except InputError:
            losses.append(None)
    return losses


def _reach(m: Measurement, there: Problem, window: Window) -> float:
    weights = there.weights().double()
    try:
        before = m.trajectory.weights(window[0] - 1).to(weights)
    except InputError:  # not kept at that step
        return 0.01 * float(weights.norm())
    return NEAR * float((weights - before).norm()) or 0.01 * float(weights.norm())


def surface(m: Measurement, there: Problem, whole: Window, path: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The training loss over the plane of the first two components of the weights, through the last weights.

    None where the components cannot be made as vectors, or no loss is finite.
    """
    if path is None or not m.moves_along:
        return None
    found = m.found("weights", whole)
    if isinstance(found, str):
        return None
    m.say("the loss over the plane of the path")
    points = np.array(path["points"])
    low, high = points.min(axis=0), points.max(axis=0)
    sides = np.array([WIDE, 1.0])
    sides *= (1 + 2 * MARGIN) * max(float(((high - low) / sides).max()), 1e-12) / 2  # both axes have one scale
    middle = (low + high) / 2
    x, y = (np.linspace(c - side, c + side, GRID) for c, side in zip(middle, sides, strict=True))
    first, second = (found.rows.dense(i).double() for i in range(2))
    last = points[-1]
    with m.costs.timed("valley"):
        moves = ((a - last[0]) * first + (b - last[1]) * second for b in y for a in x)
        flat = _losses(there, moves)
    losses = [flat[i : i + GRID] for i in range(0, len(flat), GRID)]
    known = [loss for loss in flat if loss is not None]
    if not known:
        return None
    return {"x": x.tolist(), "y": y.tolist(), "losses": losses, "least": min(known), "most": max(known)}
