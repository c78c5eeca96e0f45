"""Are the singular directions of the weight matrices stiff? Their curvature beside random outer products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thalweg.directions import Directions, as_generator
from thalweg.errors import InputError
from thalweg.operators.hessian import GradientGraphs, HessianOperator
from thalweg.problem import Problem
from thalweg.rank_one import Outer, RankOneRows
from thalweg.solvers.svd import chosen_directions, weight_svd
from thalweg.tables import Table

CONTROLS = 20
"""Random outer products for each matrix."""

LEAST_CONTROLS = 5

MOST_MATRICES = 16
"""Matrices whose singular directions an analysis measures, the largest."""

MOST_DIRECTIONS = 3
"""Singular directions of each matrix in an analysis."""

BATCH = 16
"""Dense directions at a time."""


def singular_curvature(
    problem: Problem,
    directions: Directions,
    blocks: Mapping[str, Directions] | None = None,
    *,
    controls: int = CONTROLS,
    seed: int = 0,
    graphs: GradientGraphs | None = None,
    memory_budget: int | None = None,
) -> Table:
    """The curvature of every singular direction, beside random outer products in the same matrix.

    Args:
        problem: model, loss and data at the weights that the directions came from.
        directions: of `weight_svd`.
        blocks: the top eigenvectors of layers' own blocks, by layer, each `(k, P of the layer)` or `(k, P)`; None
            leaves out how far the directions lie in them.
        controls: random outer products for each matrix.
        seed: of them.
        graphs: gradient graphs to share; built otherwise.
        memory_budget: bytes for kept gradient graphs.

    Returns:
        A table with the columns layer, parameter, block, index, value (singular), above (the noise's edge), curvature,
        control (mean curvature of the controls), controls (how many), control_error (standard deviation over them),
        ratio (to the mean), rank (share of controls with at least that curvature, (1 + hits)/(1 + controls)), captured
        (in the layer's top eigenvectors; None without) and captured_by_chance (k over the layer's parameters).

    Raises:
        InputError: if these are no directions of `weight_svd` for this model, or controls < 2.
    """
    if not isinstance(directions.rows, RankOneRows):
        raise InputError(f"{directions.label!r} are no singular directions; give tw.weight_svd(model)")
    directions.rows.space.require_same(problem.space, "the problem's model")
    if controls < 2:
        raise InputError(f"controls={controls}: give at least 2")
    about = directions.provenance["directions"]
    hessian = HessianOperator(graphs or problem.graphs(memory_budget))
    found = _curvatures(hessian, directions.rows)
    generator = as_generator(seed)
    beside: dict[tuple[str, str], list[float]] = {}
    for record, terms in zip(about, directions.rows.terms, strict=True):
        key = record["parameter"], record["block"]
        if key not in beside:
            random = tuple(tuple(_random(term, generator) for term in terms) for _ in range(controls))
            drawn = replace(directions.rows, terms=random)
            beside[key] = _curvatures(hessian, drawn)
    held = None if blocks is None else _held(directions, about, blocks)
    records = []
    for number, (record, value, curvature) in enumerate(zip(about, directions.values.tolist(), found, strict=True)):  # type: ignore[union-attr]
        others = torch.tensor(beside[record["parameter"], record["block"]], dtype=torch.float64)
        mean = float(others.mean())
        records.append(
            {
                "layer": record["layer"],
                "parameter": record["parameter"],
                "block": record["block"],
                "index": record["index"],
                "value": value,
                "above": record["above"],
                "curvature": curvature,
                "control": mean,
                "controls": controls,
                "control_error": float(others.std()),
                "ratio": curvature / mean if mean > 0 else None,
                "rank": (1 + int((others >= curvature).sum())) / (1 + controls),
                "captured": None if held is None else held[number][0],
                "captured_by_chance": None if held is None else held[number][1],
            }
        )
    return Table.of(records)


def singular_record(
    problem: Problem, products: int = 100, seed: int = 0, graphs: GradientGraphs | None = None
) -> Table:
    """`singular_curvature` of the first singular directions of every matrix, within about so many products.

    Three directions and up to ten controls a matrix where there are few matrices, one and five where there are many; of
    more than `MOST_MATRICES` the largest.

    Args:
        problem: model, loss and data.
        products: Hessian products that may be spent.
        seed: of the controls.
        graphs: gradient graphs to share; built otherwise.

    Raises:
        InputError: if the model has no weight matrix.
    """
    found = weight_svd(problem.model, 1)
    about = found.provenance["directions"]
    largest = sorted(range(len(about)), key=lambda number: -about[number]["rows"] * about[number]["columns"])
    chosen = {(about[n]["parameter"], about[n]["block"]) for n in largest[:MOST_MATRICES]}
    each = products // len(chosen)
    k = MOST_DIRECTIONS if each >= MOST_DIRECTIONS + LEAST_CONTROLS else 1
    controls = min(max(each - k, LEAST_CONTROLS), 2 * LEAST_CONTROLS)
    every = weight_svd(problem.model, k)
    records = enumerate(every.provenance["directions"])
    kept = [number for number, record in records if (record["parameter"], record["block"]) in chosen]
    return singular_curvature(problem, chosen_directions(every, kept), controls=controls, seed=seed, graphs=graphs)


def _curvatures(hessian: HessianOperator, rows: RankOneRows) -> list[float]:
    """`dᵀHd / dᵀd`, some directions at a time."""
    found: list[float] = []
    for start in range(0, rows.shape[0], BATCH):
        part = rows.chosen(range(start, min(start + BATCH, rows.shape[0])))
        dense = part.combine(torch.eye(part.shape[0], dtype=torch.float64)).to(hessian.device, hessian.dtype)
        images = (hessian @ dense.T).T
        lengths = dense.double().square().sum(dim=1)
        found += ((dense.double() * images.double()).sum(dim=1) / lengths).tolist()
    return found


def _random(term: Outer, generator: torch.Generator) -> Outer:
    """An outer product of random factors with the same entries and lengths."""

    def like(factor: Tensor) -> Tensor:
        drawn = torch.randn(factor.shape, generator=generator, dtype=torch.float64) * (factor != 0)
        found: Tensor = drawn * (factor.norm() / drawn.norm())
        return found

    return Outer(term.parameter, like(term.left), like(term.right))


def _held(
    directions: Directions, about: list[Mapping[str, Any]], blocks: Mapping[str, Directions]
) -> list[tuple[float | None, float | None]]:
    """Each direction's share in the top eigenvectors of its layer's block, and what chance gives."""
    space = directions.parameter_space()
    out: list[tuple[float | None, float | None]] = [(None, None)] * len(about)
    for name, pairs in blocks.items():
        layer = space.layer(name)
        vectors = pairs.vectors.detach().double().cpu()
        if vectors.shape[1] == layer.size:
            whole = torch.zeros(len(vectors), space.size, dtype=torch.float64)
            whole[:, layer.span] = vectors
            vectors = whole
        elif vectors.shape[1] != space.size:
            raise InputError(f"eigenvectors of {name!r} have length {vectors.shape[1]}; the layer has {layer.size}")
        basis = torch.linalg.qr(vectors.T).Q.T
        shares = directions.rows.inner(basis).square().sum(dim=1)
        for number, record in enumerate(about):
            if record["layer"] == name:
                out[number] = float(shares[number]), len(pairs) / layer.size
    return out
