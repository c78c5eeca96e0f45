"""The largest eigenvalues of every layer's own block, beside the whole network's.

The block of a layer is the Hessian with respect to its parameters alone. By interlacing its largest eigenvalue is at
most the network's; that it is smaller is a check, not a finding.
"""

from __future__ import annotations

from collections.abc import Callable

from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.operators.base import Operator
from thalweg.operators.hessian import GradientGraphs, HessianOperator
from thalweg.problem import Problem
from thalweg.sharded import ShardedProblem
from thalweg.solvers.lanczos import Certificate, eigenpairs, pass_on_interrupt
from thalweg.space import Layer
from thalweg.tables import Table


def layer_spectra(
    problem: Problem | ShardedProblem,
    k: int = 1,
    *,
    whole: Directions | None = None,
    tol: float = 1e-3,
    seed: int = 0,
    certify: Certificate = "estimate",
    graphs: GradientGraphs | None = None,
    memory_budget: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Table:
    """Eigenvalues of each layer's block and of the whole network, on shared gradient graphs.

    Each block's search begins at the network's eigenvectors, as far as they lie in the layer, with a random part.

    Args:
        problem: model, loss and data; a sharded model's blocks start at random and share no graphs.
        k: largest eigenvalues of each layer; a layer with fewer parameters gives as many as it has.
        whole: eigenpairs of the whole network, where they are known already; computed otherwise.
        tol: relative residual to stop at.
        seed: for the start vectors.
        certify: as in `eigenpairs`.
        graphs: gradient graphs to share; built otherwise.
        memory_budget: bytes for them.
        progress: called with (layer, number, of how many).

    Returns:
        A table in order of depth with the columns layer, depth, parameters, values, residuals, share_of_net (largest
        eigenvalue over the network's) and matvecs; the last row, layer "(network)", is the whole.

    Raises:
        InputError: if k < 1.
    """
    if k < 1:
        raise InputError(f"k={k}: ask for at least one eigenvalue of each layer")
    operator, block_of = _operators(problem, graphs, memory_budget)
    if whole is None:
        whole = eigenpairs(operator, min(k, operator.shape[0]), tol=tol, seed=seed, certify=certify)
    pass_on_interrupt(whole)
    assert whole.values is not None
    assert whole.residuals is not None
    top = float(whole.values[0])
    records = []
    layers = sorted(problem.space.layers, key=lambda layer: (layer.depth, layer.start))
    for number, layer in enumerate(layers):
        if progress is not None:
            progress(layer.name, number + 1, len(layers))
        block = block_of(only(layer.name))
        start = _start(whole, layer) if isinstance(problem, Problem) else None
        pairs = eigenpairs(block, min(k, layer.size), tol=tol, seed=seed, certify=certify, start=start)
        pass_on_interrupt(pairs)
        assert pairs.values is not None
        assert pairs.residuals is not None
        records.append(
            {
                "layer": layer.name,
                "depth": layer.depth,
                "parameters": layer.size,
                "values": pairs.values.tolist(),
                "residuals": pairs.residuals.tolist(),
                "share_of_net": float(pairs.values[0]) / top if top > 0 else None,
                "matvecs": pairs.matvecs,
            }
        )
    records.append(
        {
            "layer": "(network)",
            "depth": None,
            "parameters": problem.space.size,
            "values": whole.values[:k].tolist(),
            "residuals": whole.residuals[:k].tolist(),
            "share_of_net": 1.0,
            "matvecs": whole.matvecs,
        }
    )
    return Table.of(records)


def _operators(
    problem: Problem | ShardedProblem, graphs: GradientGraphs | None, memory_budget: int | None
) -> tuple[Operator, Callable[[Callable[[str], bool]], Operator]]:
    """The whole Hessian, and what makes the block of a layer beside it."""
    if isinstance(problem, ShardedProblem):
        near = problem.hessian()
        return near, lambda layers: problem.hessian(layers, near=near)
    there = graphs or problem.graphs(memory_budget)
    return HessianOperator(there), lambda layers: HessianOperator(there, layers)


def _start(whole: Directions, layer: Layer) -> Directions | None:
    """What the network's eigenvectors are in a layer; None where that is nothing."""
    part = whole.vectors[:, layer.start : layer.stop]
    return Directions(part, whole.values) if bool(part.any()) else None


def only(wanted: str) -> Callable[[str], bool]:
    """True for one layer, whatever its name would mean as a glob."""
    return lambda name: name == wanted
