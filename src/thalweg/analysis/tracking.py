"""Curvature through training: spectra at several steps, how long their space stays, and how near to instability.

The threshold of gradient descent is 2/η, with heavy-ball momentum 2(1 + β)/η (Goh, Distill 2017; Cohen et al., ICLR
2021); for Adam the *preconditioned* Hessian `D^−½ H D^−½` with `D = √v̂ + ε` has the threshold `(2 + 2β₁)/((1 − β₁) η)`
(Cohen et al., arXiv 2207.14484). All curvatures here are in evaluation mode, which is not the mode of training where
batch statistics or dropout matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.analysis.overlap import overlap
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.operators.base import FunctionOperator
from thalweg.operators.hessian import HessianOperator
from thalweg.problem import Problem
from thalweg.recording.anchors import read_anchor
from thalweg.recording.trajectory import Trajectory
from thalweg.solvers.gram import update_pca
from thalweg.solvers.lanczos import eigenpairs, pass_on_interrupt
from thalweg.tables import Table

ADAM = ("Adam", "AdamW")


def track_curvature(
    t: Trajectory,
    problem: Problem,
    steps: Sequence[int] | int = 8,
    k: int = 5,
    *,
    tol: float = 1e-3,
    seed: int = 0,
    memory_budget: int | None = None,
) -> Table:
    """Top eigenpairs at several steps of a run, each search begun at the pairs before.

    Args:
        t: the trajectory.
        problem: model, loss and data; the recorded weights are used on a copy.
        steps: after which steps, or how many, spread evenly over the steps at which weights are known.
        k: eigenpairs.
        tol: relative residual.
        seed: of start vectors.
        memory_budget: bytes for kept gradient graphs.

    Returns:
        A table with the columns step, values (list of k), products, persistence (mean squared cosine of the principal
        angles to the space at the step before; None at first), threshold (of the largest eigenvalue; None where the
        optimizer has none that is known), of_threshold (largest eigenvalue over the threshold, for Adam that of the
        preconditioned Hessian), participation (of the first eigenvector over its entries, `(Σ e²)² / (P Σ e⁴)`: 1 is
        all alike), layer (that holds most of the top k), layer_share, updates_captured (share of the top space in the
        first k components of the updates since the step before, or since the beginning; None for too few) and loss.

    Raises:
        InputError: if fewer than one step is asked for, or the weights are not known after one.
    """
    t.space.require_same(problem.space, "the problem's model")
    chosen = _chosen(t, steps)
    before: Directions | None = None
    records: list[dict[str, Any]] = []
    last = int(t.starts[0])
    for step in chosen:
        buffers, _ = t.buffers(step)
        there = problem.at(t.weights(step), buffers)
        hessian = HessianOperator(there.graphs(memory_budget))
        pairs = eigenpairs(hessian, k, tol=tol, seed=seed, start=before)
        pass_on_interrupt(pairs)
        records.append(
            {
                **moment(t, step, hessian, pairs, before, tol=tol, seed=seed),
                "updates_captured": _captured(t, pairs, (last, step + 1)),
                "loss": there.loss(),
            }
        )
        before, last = pairs, step + 1
    return Table.of(records)


def moment(
    t: Trajectory,
    step: int,
    hessian: HessianOperator,
    pairs: Directions,
    before: Directions | None = None,
    *,
    tol: float = 1e-3,
    seed: int = 0,
) -> dict[str, Any]:
    """A row of `track_curvature`, but for its loss and what the updates capture.

    Args:
        t: the trajectory.
        step: after which the Hessian was measured.
        hessian: there.
        pairs: its top eigenpairs.
        before: those of the moment before; None at first.
        tol: relative residual of the preconditioned Hessian's eigenvalue.
        seed: of its start vector.
    """
    assert pairs.values is not None
    threshold, sharpness, spent = _stability(t, step, hessian, float(pairs.values[0]), tol, seed)
    energy = pairs.layer_energy().mean(dim=0)
    place = int(energy.argmax())
    first = pairs.vectors[0].double()
    return {
        "step": step,
        "values": pairs.values.tolist(),
        "products": (pairs.matvecs or 0) + spent,
        "persistence": None if before is None else overlap(pairs, before, draws=2).mean,
        "threshold": threshold,
        "of_threshold": None if threshold is None or sharpness is None else sharpness / threshold,
        "participation": float(first.square().sum() ** 2 / (len(first) * (first**4).sum())),
        "layer": t.space.layers[place].name,
        "layer_share": float(energy[place]),
    }


def _chosen(t: Trajectory, steps: Sequence[int] | int) -> list[int]:
    if not isinstance(steps, int):
        if not steps:
            raise InputError("steps is empty; give the steps after which to look, or how many")
        return sorted(int(step) for step in steps)
    known = [step for step in t.known_steps.tolist() if step >= 0]
    if steps < 1 or not known:
        raise InputError(f"steps={steps} of {len(known)} at which weights are known: ask for at least one")
    places = torch.linspace(0, len(known) - 1, min(steps, len(known)) + 1).round().long().tolist()[1:]
    return sorted({known[place] for place in places})


def _captured(t: Trajectory, pairs: Directions, window: tuple[int, int]) -> float | None:
    """Share of the top space in as many components of a window of updates."""
    k = len(pairs)
    if window[1] <= window[0] or len(t.rows_in(window)) < k + 2:
        return None
    try:
        components = update_pca(t, k, window)
    except InputError:
        return None
    return overlap(pairs, components, draws=2).mean


def _stability(
    t: Trajectory, step: int, hessian: HessianOperator, largest: float, tol: float, seed: int
) -> tuple[float | None, float | None, int]:
    """The threshold, what is held against it, and the products that took."""
    row = int((t.steps <= step).sum()) - 1
    rate, momentum = float(t.learning_rates[row, 0]), float(t.momenta[row, 0])
    kind = str(t.optimizer["class"]).rpartition(".")[2]
    if not rate > 0:
        return None, None, 0
    if kind == "SGD" and not t.optimizer["groups"][0].get("nesterov"):
        beta = momentum if momentum > 0 else 0.0
        return 2 * (1 + beta) / rate, largest, 0
    if kind not in ADAM:
        return None, None, 0
    scale = _preconditioner(t, step)
    if scale is None:
        return None, None, 0
    root = scale.rsqrt().to(hessian.device, hessian.dtype)
    operator = FunctionOperator(
        lambda v: root * (hessian @ (root * v)), hessian.shape[0], hessian.dtype, hessian.device
    )
    pairs = eigenpairs(operator, 1, tol=tol, seed=seed)
    pass_on_interrupt(pairs)
    assert pairs.values is not None
    return (2 + 2 * momentum) / ((1 - momentum) * rate), float(pairs.values[0]), pairs.matvecs or 0


def _preconditioner(t: Trajectory, step: int) -> Tensor | None:
    """`√v̂ + ε` of Adam, `(P,)`, from the last anchor up to a step that holds the optimizer's state, if any does."""
    for segment in reversed([s for s in t.segments if s.before <= step and s.anchored]):
        anchor = read_anchor(segment)
        if not all({"exp_avg_sq", "step"} <= set(anchor.state.get(p.name, {})) for p in t.space.parameters):
            continue
        settings = anchor.groups[0]
        beta, epsilon = float(settings["betas"][1]), float(settings["eps"])
        parts = []
        for parameter in t.space.parameters:
            state = anchor.state[parameter.name]
            corrected = state["exp_avg_sq"].double() / (1 - beta ** float(state["step"]))
            parts.append((corrected.sqrt() + epsilon).reshape(-1))
        return torch.cat(parts)
    return None
