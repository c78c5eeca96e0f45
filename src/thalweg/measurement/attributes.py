"""What else is known of directions: singular ones, the Hessian out of components, and one table of all."""

from __future__ import annotations

from typing import Any

from thalweg.analysis.approximation import FRESH, approximation_record
from thalweg.analysis.drift import Drift
from thalweg.analysis.ranking import rank_directions
from thalweg.analysis.singular import singular_record
from thalweg.directions import Directions
from thalweg.measurement.base import Measurement
from thalweg.operators.hessian import GradientGraphs, HessianOperator
from thalweg.problem import Problem
from thalweg.recording.record import Window
from thalweg.solvers.svd import chosen_directions, has_matrices, weight_svd

SINGULAR_PRODUCTS = 100
"""Hessian products for singular directions and their controls, about."""


def singular(m: Measurement, there: Problem, graphs: GradientGraphs) -> list[dict[str, Any]]:
    """Singular directions of the weight matrices beside random outer products."""
    m.say("singular directions")
    if not has_matrices(there.space):
        return []
    with m.costs.timed("singular directions"):
        table = singular_record(there, SINGULAR_PRODUCTS, m.settings.seed, graphs)
    matrices = {(row["parameter"], row["block"]) for row in table}
    m.costs.products += len(table) + len(matrices) * max(row["controls"] for row in table)
    return table.to_json()


def approximation(
    m: Measurement, graphs: GradientGraphs, pairs: Directions, window: Window, trace: float
) -> dict[str, list[dict[str, Any]]]:
    """The Hessian out of components."""
    if not m.moves_along or len(m.trajectory.rows_in(window)) < 2 * FRESH + 2:
        return {}
    m.say("the Hessian out of components")
    with m.costs.timed("approximation"):
        found = approximation_record(m.trajectory, window, HessianOperator(graphs), pairs, trace)
    m.costs.products += sum(rows[-1]["k"] + FRESH for rows in found.values())
    return found


def directions(
    m: Measurement, there: Problem, graphs: GradientGraphs, pairs: Directions, window: Window, found: Drift | None
) -> list[dict[str, Any]]:
    """Every direction in one table: eigenvectors, components, drift, gradient."""
    m.say("every direction's gain")
    assert pairs.values is not None
    sets = [pairs]
    if has_matrices(there.space):
        first = weight_svd(there.model, 1)
        assert first.values is not None
        sets.append(chosen_directions(first, first.values.argsort(descending=True)[: m.settings.k].tolist()))
    for source in ("updates", "weights") if m.moves_along else ():
        components = m.found(source, window)
        if isinstance(components, Directions):
            sets.append(components.first(min(m.settings.k, len(components))))
    if found is not None and m.moves_along:
        sets.append(found.direction)
    gradient = there.gradient()
    if bool(gradient.any()):
        sets.append(Directions(gradient[None], label="gradient", space=there.space))
    with m.costs.timed("directions"):
        table = rank_directions(
            there,
            sets,
            m.held_out,
            trajectory=m.trajectory,
            window=window,
            drift=found,
            top=float(pairs.values[0]),
            graphs=graphs,
            memory_budget=m.memory_budget,
        )
    m.costs.products += len(table) * (1 if m.held_out is None else 2)
    return table.to_json()
