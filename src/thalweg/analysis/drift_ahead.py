"""What lies further along the drift: slope, curvature and losses, beside random directions of the same length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.directions import Directions, layer_matched_directions
from thalweg.problem import Problem
from thalweg.recording.trajectory import Trajectory
from thalweg.tables import Table

CONTROLS = 3
"""Random directions, with the drift's energy in each layer, that are looked along as well."""


@dataclass(frozen=True, eq=False)
class Ahead:
    """Along the drift from the end of the window.

    Attributes:
        slope: `gᵀd` of the training loss.
        curvature: `dᵀHd` of the training loss.
        curvature_held_out: the same on held-out data, None without.
        losses: a table with the columns steps (ahead, at the window's last speed), distance, train, held_out, and
            train_control, held_out_control: the median over `CONTROLS` random directions. The first row is the place
            itself.
        gain_left: how far the training loss would fall over the distance left, `−(gᵀd D + ½ dᵀHd D²)`; None where that
            distance is not known.
        products: Hessian products spent.
    """

    slope: float
    curvature: float
    curvature_held_out: float | None
    losses: Table
    gain_left: float | None
    products: int


def look_ahead(
    t: Trajectory,
    step: int,
    direction: Directions,
    speed: float,
    distance_left: float | None,
    problem: Problem,
    held_out: Problem | None,
    steps: Sequence[int],
    seed: int,
) -> Ahead:
    """Measure it.

    Args:
        t: the trajectory.
        step: the window's last.
        direction: one unit direction.
        speed: length a step along it.
        distance_left: see `Ahead.gain_left`.
        problem: on the training data.
        held_out: on other data.
        steps: how far ahead.
        seed: of the random directions.

    Raises:
        InputError: if the problem's parameters are not the ones recorded.
    """
    t.space.require_same(problem.space, "the problem's model")
    buffers, _ = t.buffers(step)
    there = problem.at(t.weights(step), buffers)
    other = None if held_out is None else there.on(held_out.data)
    device = there.device
    vector = direction.rows.dense(0).to(device)
    unit = vector.double() / vector.double().norm()
    hessian = there.hessian(memory_budget=0, chunk=None)  # one product: nothing to keep or to try
    slope = float(there.gradient().double() @ unit)
    curvature = _curvature(hessian, vector)
    products = 1
    held_out_curvature = None
    if other is not None:
        held_out_curvature = _curvature(other.hessian(memory_budget=0, chunk=None), vector)
        products += 1
    distances = [0.0, *(speed * ahead for ahead in steps)]
    alike = Directions(vector.cpu()[None].repeat(CONTROLS, 1), space=t.space)
    drawn = layer_matched_directions(alike, seed).vectors
    columns: dict[str, list[float | None]] = {}
    for name, one in (("train", there), ("held_out", other)):
        if one is None:
            columns[name] = columns[f"{name}_control"] = [None] * len(distances)
            continue
        columns[name] = one.loss_along(vector, distances).tolist()
        beside = torch.stack([one.loss_along(v.to(device), distances) for v in drawn])
        columns[f"{name}_control"] = beside.median(dim=0).values.tolist()
    table = Table.of(
        [
            {"steps": ahead, "distance": distance} | {name: column[row] for name, column in columns.items()}
            for row, (ahead, distance) in enumerate(zip([0, *steps], distances, strict=True))
        ]
    )
    gain = None if distance_left is None else -(slope * distance_left + curvature * distance_left**2 / 2)
    return Ahead(slope, curvature, held_out_curvature, table, gain, products)


def _curvature(hessian: object, vector: Tensor) -> float:
    """`dᵀHd / dᵀd`."""
    image = hessian @ vector  # type: ignore[operator]
    return float((vector.double() @ image.double()) / vector.double().square().sum())
