"""One step along each direction: the gain that slope and curvature foretell, and the one that a line search finds."""

from __future__ import annotations

from scipy import optimize

from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.problem import Problem
from thalweg.tables import Table

EVALUATIONS = 20
"""Losses that a line search may ask for."""


def line_steps(
    problem: Problem, directions: Directions, held_out: Problem | None = None, radius: float | None = None
) -> Table:
    """The best step along each direction, foretold and searched for.

    With slope `s = gᵀe` and curvature λ the parabola's best step is `−s/λ` and gains `s²/(2λ)`; within the radius only,
    and at the radius where λ is not above zero. The search is Brent's, bounded by the radius.

    Args:
        problem: model, loss and training data at the weights to step from.
        directions: made unit vectors.
        held_out: the same on other data; their gain is that of the step found on training data.
        radius: how far a step may go; a hundredth of the weights' length unless given.

    Returns:
        A table with the columns direction, slope, curvature, step, predicted, measured (gain at the predicted step),
        best_step, best (gain there), held_out (None without). One product and about twenty losses each.

    Raises:
        InputError: if the lengths differ, or the radius is not above zero.
    """
    weights = problem.weights()
    problem.space.check(directions.rows.dense(0))
    radius = 0.01 * float(weights.norm()) if radius is None else radius
    if not radius > 0:
        raise InputError(f"radius={radius}: a step needs room; give a length above zero")
    gradient, hessian, before = problem.gradient(), problem.hessian(), problem.loss()
    there = None if held_out is None else held_out.at(weights)
    outside = None if there is None else there.loss()
    records = []
    for number, row in enumerate(directions):
        unit = (row / row.norm()).to(weights)
        slope, curvature = float(gradient @ unit), float(unit @ (hessian @ unit))
        room = -radius if slope > 0 else radius
        step = max(-radius, min(radius, -slope / curvature)) if curvature > 0 else room

        def loss(length: float, unit=unit) -> float:  # type: ignore[no-untyped-def]
            return float(problem.loss_along(unit, [length])[0])

        bounds = (min(0.0, room), max(0.0, room))
        found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"maxiter": EVALUATIONS})
        best = float(found.x) if found.fun < before else 0.0
        records.append(
            {
                "direction": number,
                "slope": slope,
                "curvature": curvature,
                "step": step,
                "predicted": -(slope * step + curvature * step**2 / 2),
                "measured": before - loss(step),
                "best_step": best,
                "best": before - loss(best),
                "held_out": None if there is None or outside is None
                else outside - float(there.loss_along(unit, [best])[0]),
            }
        )  # fmt: skip
    return Table.of(records)
