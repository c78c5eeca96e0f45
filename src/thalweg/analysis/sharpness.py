"""Sharpness that does not change when weights are rescaled: the largest eigenvalue of `T H T`.

The raw largest eigenvalue of the Hessian depends on scale: with a rectifier after it, a layer can be made ten times
as large and the next one ten times as small, which leaves the function as it was and the eigenvalue not (Dinh et al.,
arXiv 1703.04933). With steps measured relative to the weights, `ε = T u` where T holds each weight's own scale, the
second-order rise of the loss over `|u| ≤ ρ` is `ρ²/2` times the largest eigenvalue of `T H T`. Scales of whole filters
are those of Li et al. (arXiv 1712.09913) and of the filter-wise form of Kwon et al. (arXiv 2102.11600); scales of
single entries are the latter's element-wise form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thalweg.errors import InputError
from thalweg.operators.base import FunctionOperator
from thalweg.operators.hessian import GradientGraphs, HessianOperator
from thalweg.problem import Problem
from thalweg.solvers.lanczos import eigenpairs, pass_on_interrupt
from thalweg.tables import Table, Tabular, quantities

Scale = Literal["filter", "entry"]


@dataclass(frozen=True)
class Sharpness(Tabular):
    """A relative sharpness.

    Attributes:
        value: largest eigenvalue of `T H T`; in units of the loss, for relative steps.
        scale: "filter" or "entry".
        residual: of that eigenpair.
        converged: whether it is within the tolerance.
        matvecs: Hessian products spent.
    """

    value: float
    scale: Scale
    residual: float
    converged: bool
    matvecs: int

    def to_table(self) -> Table:
        """A row for each of its figures."""
        return quantities(value=self.value, scale=self.scale, residual=self.residual, converged=self.converged)


def relative_sharpness(
    problem: Problem,
    scale: Scale = "filter",
    *,
    tol: float = 1e-3,
    seed: int = 0,
    graphs: GradientGraphs | None = None,
    memory_budget: int | None = None,
) -> Sharpness:
    """The largest eigenvalue of the Hessian for steps relative to the weights.

    Args:
        problem: model, loss and data at the weights to look at.
        scale: "filter": every entry's scale is the length of its filter, that is of the slice along the first axis of a
            parameter with two axes or more (a unit's incoming weights, a convolution's kernel, a token's embedding);
            parameters with one axis are scaled entry by entry. It does not change when whole layers are rescaled
            against each other. "entry": the entry's own size, which does not change when single units are.
        tol: relative residual.
        seed: of the start vector.
        graphs: gradient graphs to share; built otherwise.
        memory_budget: bytes for them.

    Raises:
        InputError: if the scale's name is unknown, or all weights are zero.
    """
    weights = scales(problem, scale)
    if not bool(weights.any()):
        raise InputError("every weight is zero, so steps relative to the weights have no length")
    hessian = HessianOperator(graphs or problem.graphs(memory_budget))
    weights = weights.to(hessian.device, hessian.dtype)
    operator = FunctionOperator(
        lambda vector: weights * (hessian @ (weights * vector)),
        hessian.shape[0],
        hessian.dtype,
        hessian.device,
        problem.space,
    )
    pairs = eigenpairs(operator, 1, tol=tol, seed=seed)
    pass_on_interrupt(pairs)
    assert pairs.values is not None
    assert pairs.residuals is not None
    assert pairs.converged is not None
    return Sharpness(
        float(pairs.values[0]), scale, float(pairs.residuals[0]), bool(pairs.converged[0]), pairs.matvecs or 0
    )


def scales(problem: Problem, scale: Scale) -> Tensor:
    """T's diagonal, float64 `(P,)`.

    Raises:
        InputError: if the scale's name is unknown.
    """
    if scale not in ("filter", "entry"):
        raise InputError(f"scale={scale!r} is unknown; use 'filter' or 'entry'")
    weights = problem.weights().double()
    parts = []
    for parameter in problem.space.parameters:
        own = weights[parameter.span].view(parameter.shape)
        if scale == "filter" and own.ndim > 1:
            lengths = own.flatten(1).norm(dim=1)
            parts.append(lengths.repeat_interleave(own[0].numel()))
        else:
            parts.append(own.abs().reshape(-1))
    return torch.cat(parts)
