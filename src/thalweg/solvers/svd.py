"""Singular directions of the weight matrices, and where noise ends in their singular values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy import integrate, optimize
from torch import Tensor, nn

from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.rank_one import Outer, RankOneRows, Unfolding, unfolded
from thalweg.space import LayerChoice, Parameter, ParameterSpace, unwrapped

HEADS = ("num_heads", "num_attention_heads", "n_head")
ROWS_BY_HEAD = ("q_proj", "k_proj", "v_proj", "query", "key", "value")
"""Names of linear layers whose output is split over heads."""

WORDS = {"q": "query", "k": "key", "v": "value"}

COLUMNS_BY_HEAD = ("out_proj", "o_proj")
"""Names of those whose input is."""

LORA = re.compile(r"(.*)\.lora_A\.(.*)\.weight")
"""peft's name of the first factor."""


@dataclass(frozen=True)
class Block:
    """A matrix whose singular directions are taken: a parameter, or the part of it that belongs to one head.

    Attributes:
        parameter: which.
        name: "" for all of it, or "query 3", "output 0".
        rows: of the unfolded matrix.
        columns: likewise.
    """

    parameter: Parameter
    name: str
    rows: slice
    columns: slice


def weight_svd(
    model: nn.Module,
    k: int = 10,
    layers: LayerChoice | None = None,
    *,
    unfolding: Unfolding = "channels",
    heads: bool = True,
) -> Directions:
    """The first k singular directions `u_i v_iᵀ` of every weight matrix, held as factors.

    Linear layers and embeddings are matrices; a convolution's kernel is unfolded to `(out, in·h·w)` or, with "spatial",
    to `(out·h, in·w)`. Attention's projections are split into heads, where the module says how many it has. The factors
    A and B of a LoRA pair (as peft names them) give the singular directions of B·A: the smallest move of both factors,
    half of it in each, that moves their product along `u_i v_iᵀ`.

    Args:
        model: any module; its present weights.
        k: of each matrix, or as many as it has.
        layers: a glob, several, or a function of the layer's name.
        unfolding: of convolutions.
        heads: whether attention's projections are split.

    Returns:
        Unit directions, matrix by matrix, with `values`, their singular values, and for each in
        `provenance["directions"]`: layer, parameter, block (a head, or ""), index, edge (see `noise_edge`), above
        (whether the value is beyond it), rows and columns of the matrix.

    Raises:
        InputError: if k < 1, no chosen layer has a matrix, or a weight is not finite.
    """
    if k < 1:
        raise InputError(f"k={k}: ask for at least one singular direction of each matrix")
    model = unwrapped(model)
    space = ParameterSpace.of(model)
    wanted = {layer.name for layer in space.chosen(layers)}
    tensors = dict(zip(space.names, (t.detach() for t in space.tensors(model)), strict=True))
    pairs = [pair for pair in _lora(space) if pair[0].layer in wanted or pair[1].layer in wanted]
    factors = {parameter.name for pair in pairs for parameter in pair}
    terms: list[tuple[Outer, ...]] = []
    values: list[float] = []
    about: list[dict[str, Any]] = []
    for block in _blocks(model, space, tensors, unfolding, heads):
        if block.parameter.layer not in wanted or block.parameter.name in factors:
            continue
        matrix = unfolded(tensors[block.parameter.name], unfolding).double().cpu()
        found = _singular(matrix[block.rows, block.columns], k, block.parameter.name)
        for index in range(len(found.values)):
            left, right = torch.zeros(matrix.shape[0]).double(), torch.zeros(matrix.shape[1]).double()
            left[block.rows], right[block.columns] = found.left[:, index], found.right[:, index]
            terms.append((Outer(block.parameter.name, left, right),))
        values += found.values.tolist()
        about += _about(block.parameter, block.name, found)
    for first, second in pairs:
        a, b = (tensors[p.name].flatten(1).double().cpu() for p in (first, second))
        found = _singular(b @ a, min(k, len(a)), f"{second.name} · {first.name}")
        terms += [_product_direction(first, second, a, b, found, index) for index in range(len(found.values))]
        values += found.values.tolist()
        about += _about(second, f"product with {first.name}", found)
    if not terms:
        raise InputError("none of the chosen layers has a weight matrix; biases and norms have no singular directions")
    return Directions(
        RankOneRows(space, tuple(terms), unfolding, next(iter(tensors.values())).dtype),
        values,
        label="SVD of weights",
        provenance={"method": "svd", "unfolding": unfolding, "heads": heads, "directions": about},
    )


def has_matrices(space: ParameterSpace) -> bool:
    """Whether any parameter has singular directions."""
    return any(len(parameter.shape) > 1 for parameter in space.parameters)


def chosen_directions(directions: Directions, numbers: Sequence[int]) -> Directions:
    """Some of the singular directions that `weight_svd` gave, in that order, with what is known of them."""
    assert isinstance(directions.rows, RankOneRows)
    assert directions.values is not None
    about = directions.provenance["directions"]
    return Directions(
        directions.rows.chosen(numbers),
        directions.values[list(numbers)],
        label=directions.label,
        provenance={**directions.provenance, "directions": [about[number] for number in numbers]},
    )


def noise_edge(values: Sequence[float] | Tensor | np.ndarray, rows: int, columns: int) -> float:
    """The largest singular value that noise alone would have, for a matrix whose bulk is noise.

    For independent entries of standard deviation s it is `s (√m + √n)` (Marchenko and Pastur 1967); s follows from the
    median of all singular values and that of their law (Gavish and Donoho, IEEE Trans. Inf. Theory 60, 2014).

    Args:
        values: all singular values.
        rows: m.
        columns: n.
    """
    few, many = min(rows, columns), max(rows, columns)
    middle = float(np.median(np.asarray(values, dtype=np.float64)))
    deviation = middle / math.sqrt(many * _median_of_law(round(few / many, 6)))
    return deviation * (math.sqrt(rows) + math.sqrt(columns))


@lru_cache(maxsize=256)
def _median_of_law(ratio: float) -> float:
    """The median of Marchenko and Pastur's law for variance 1 and that ratio of dimensions, 0 < ratio ≤ 1."""
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2

    def below(x: float) -> float:
        # with x = middle + half·sin(a) the density has no singular ends
        middle, half = (low + high) / 2, (high - low) / 2
        end = math.asin(min(max((x - middle) / half, -1.0), 1.0))
        inside = lambda a: (half * math.cos(a)) ** 2 / (middle + half * math.sin(a))  # noqa: E731
        return float(integrate.quad(inside, -math.pi / 2, end)[0]) / (2 * math.pi * ratio) - 0.5

    return float(optimize.brentq(below, low, high)) if ratio > 1e-9 else 1.0


@dataclass(frozen=True, eq=False)
class _Singular:
    left: Tensor
    values: Tensor
    right: Tensor
    edge: float
    shape: tuple[int, int]


def _singular(matrix: Tensor, k: int, name: str) -> _Singular:
    if not bool(torch.isfinite(matrix).all()):
        raise InputError(f"{name!r} holds values that are not finite, so it has no singular directions")
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((values > 1e-12 * values[0]).sum()) if float(values[0]) > 0 else 0
    count = min(k, rank)
    return _Singular(
        left[:, :count],
        values[:count],
        right[:count].T,
        noise_edge(values, *matrix.shape),
        (matrix.shape[0], matrix.shape[1]),
    )


def _about(parameter: Parameter, block: str, found: _Singular) -> list[dict[str, Any]]:
    return [
        {
            "layer": parameter.layer,
            "parameter": parameter.name,
            "block": block,
            "index": index,
            "edge": found.edge,
            "above": value > found.edge,
            "rows": found.shape[0],
            "columns": found.shape[1],
        }
        for index, value in enumerate(found.values.tolist())
    ]


def _product_direction(
    first: Parameter, second: Parameter, a: Tensor, b: Tensor, found: _Singular, index: int
) -> tuple[Outer, ...]:
    """The unit direction in both factors that moves `B A` along `u vᵀ`: `δB = ½ u (A⁺ᵀ v)ᵀ` and `δA = ½ (B⁺ u) vᵀ`."""
    u, v = found.left[:, index], found.right[:, index]
    in_b, in_a = torch.linalg.pinv(a).T @ v, torch.linalg.pinv(b) @ u
    length = math.sqrt(float(in_b.square().sum() + in_a.square().sum()))
    return (Outer(second.name, u, in_b / length), Outer(first.name, in_a / length, v))


def _lora(space: ParameterSpace) -> list[tuple[Parameter, Parameter]]:
    """The pairs A, B of LoRA, by their names."""
    known = {parameter.name: parameter for parameter in space.parameters}
    pairs = []
    for name, parameter in known.items():
        match = LORA.fullmatch(name)
        other = known.get(f"{match[1]}.lora_B.{match[2]}.weight") if match else None
        if other is not None and len(parameter.shape) == len(other.shape) == 2:
            pairs.append((parameter, other))
    return pairs


def _blocks(
    model: nn.Module, space: ParameterSpace, tensors: dict[str, Tensor], unfolding: Unfolding, heads: bool
) -> Iterator[Block]:
    """Every matrix, or each head's part of it."""
    split = _heads(model) if heads else {}
    for parameter in space.parameters:
        if len(parameter.shape) < 2:
            continue
        rows, columns = unfolded(tensors[parameter.name], unfolding).shape
        whole = Block(parameter, "", slice(0, rows), slice(0, columns))
        yield from _parts(whole, split[parameter.name]) if parameter.name in split else (whole,)


def _parts(whole: Block, split: tuple[str, int]) -> Iterator[Block]:
    """A projection's parts, head by head; the whole where it does not divide evenly."""
    kind, count = split
    names = ("query", "key", "value") if kind == "joined" else (kind,)
    size = whole.columns.stop if kind == "output" else whole.rows.stop
    pieces = count * len(names)
    if size % pieces:
        yield whole
        return
    width = size // pieces
    for piece in range(pieces):
        part = slice(piece * width, (piece + 1) * width)
        name = f"{names[piece // count]} {piece % count}"
        if kind == "output":
            yield Block(whole.parameter, name, whole.rows, part)
        else:
            yield Block(whole.parameter, name, part, whole.columns)


def _heads(model: nn.Module) -> dict[str, tuple[str, int]]:
    """Parameters that attention splits over heads: what they make, and how many heads."""
    found: dict[str, tuple[str, int]] = {}
    for prefix, module in model.named_modules():
        count = next((getattr(module, name) for name in HEADS if isinstance(getattr(module, name, None), int)), None)
        if not count or count < 2:
            continue
        base = f"{prefix}." if prefix else ""
        if isinstance(module, nn.MultiheadAttention):
            found[f"{base}in_proj_weight"] = ("joined", count)
            for letter, kind in WORDS.items():
                found[f"{base}{letter}_proj_weight"] = (kind, count)
            found[f"{base}out_proj.weight"] = ("output", count)
            continue
        for name, child in module.named_children():
            if not isinstance(child, nn.Linear):
                continue
            if name in ROWS_BY_HEAD:
                # keys and values may have fewer heads than queries
                shared = getattr(module, "num_key_value_heads", count) if name[0] in "kv" else count
                found[f"{base}{name}.weight"] = (WORDS.get(name[0], name), shared if isinstance(shared, int) else count)
            elif name in COLUMNS_BY_HEAD:
                found[f"{base}{name}.weight"] = ("output", count)
    return found
