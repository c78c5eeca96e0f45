"""Compression of layers: fake-quantised weights or fewer singular values, the loss it costs foretold and measured.

The change Δ of the weights costs `gᵀΔ + ½ ΔᵀHΔ` to second order; without its first term that is the saliency of
optimal brain damage (LeCun, Denker and Solla 1990) with the whole Hessian. Vectors (biases, norms) stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.analysis.layer_ranking import rank_layers
from thalweg.errors import InputError
from thalweg.problem import Problem
from thalweg.rank_one import folded, unfolded
from thalweg.tables import Table

BITS = (8, 4, 2)

DRAWS = 20
"""Random orders that others are held against."""


def quantised(tensor: Tensor, bits: int) -> Tensor:
    """The nearest of `2^bits − 1` evenly spaced values, symmetric about zero, scaled for each output channel."""
    flat = tensor.reshape(tensor.shape[0], -1)
    steps = 2 ** (bits - 1) - 1
    scale = flat.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny) / steps
    found: Tensor = (flat / scale).round().clamp(-steps, steps) * scale
    return found.reshape(tensor.shape)


def truncated(tensor: Tensor, share: float) -> Tensor:
    """The best approximation with that share of the rank (at least one), by its singular values."""
    u, s, v = torch.linalg.svd(unfolded(tensor).double(), full_matrices=False)
    keep = max(1, round(share * len(s)))
    return folded((u[:, :keep] * s[:keep]) @ v[:keep], tuple(tensor.shape)).to(tensor)


def check_compression(to: float) -> None:
    """Raise an InputError unless `to` is a number of bits from 2 on, or a share of the rank between 0 and 1."""
    if not isinstance(to, (int, float)) or not (0 < to < 1 or (float(to).is_integer() and 2 <= to <= 32)):
        raise InputError(f"compress to {to!r}: give bits from 2 to 32, or a share of the rank between 0 and 1")


def compression_of(problem: Problem, layers: Sequence[str], to: float) -> Tensor:
    """How compressing the weight matrices of some layers changes the weights, `(P,)`.

    Args:
        problem: at the weights to compress.
        layers: by name.
        to: bits from 2 on, or a share of the rank below 1.

    Raises:
        InputError: if `to` is neither.
    """
    check_compression(to)
    change = torch.zeros_like(problem.weights())
    for parameter, tensor in zip(problem.space.parameters, problem.parameters(), strict=True):
        if parameter.layer in layers and tensor.ndim > 1:
            weights = tensor.detach()
            compressed = truncated(weights, to) if to < 1 else quantised(weights, int(to))
            change[parameter.span] = (compressed - weights).reshape(-1).to(change)
    return change


def compression(problem: Problem, held_out: Problem | None = None, to: Sequence[float] = BITS) -> Table:
    """Every layer compressed alone: the change of the loss as foretold, and as it is.

    Args:
        problem: model, loss and data at the weights to compress.
        held_out: the same on data that training never saw.
        to: numbers of bits, or shares of the rank.

    Returns:
        A table with the columns layer, depth, parameters, to, moved (`|Δ|`), slope (`gᵀΔ`), bend (`½ ΔᵀHΔ`), predicted
        (their sum), measured, held_out (changes of the loss; None without held-out data). One product for each row.

    Raises:
        InputError: as for `compression_of`.
    """
    weights, gradient, hessian = problem.weights(), problem.gradient(), problem.hessian()
    before = problem.loss(), None if held_out is None else held_out.at(weights).loss()
    records = []
    for layer in sorted(problem.space.layers, key=lambda layer: layer.depth):
        for wanted in to:
            change = compression_of(problem, [layer.name], wanted)
            if not change.any():
                continue
            slope = float(gradient.double() @ change.double())
            bend = float(change.double() @ (hessian @ change).double()) / 2
            records.append(
                {
                    "layer": layer.name,
                    "depth": layer.depth,
                    "parameters": layer.size,
                    "to": wanted,
                    "moved": float(change.norm()),
                    "slope": slope,
                    "bend": bend,
                    "predicted": slope + bend,
                    "measured": problem.at(weights + change).loss() - before[0],
                    "held_out": None if before[1] is None or held_out is None
                    else held_out.at(weights + change).loss() - before[1],
                }
            )  # fmt: skip
    return Table.of(records)


def compression_orders(
    problem: Problem, held_out: Problem, to: float = 4, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """Layers compressed one after the other, in several orders: the held-out loss after each.

    Args:
        problem: model, loss and training data at the weights to compress; orders come from these.
        held_out: the same on other data; losses come from these.
        to: bits, or a share of the rank.
        draws: random orders.
        seed: of those.

    Returns:
        Plain values: `start` (the loss before), `parameters` (of each layer by name), and `orders`: for each of
        `priority` (by `rank_layers`), `predicted` (by the predicted loss of each layer alone), `last`, `first`,
        `largest`, `smallest` the `layers` in order, the `losses` after each, and their `mean` over the way; `random`
        has that mean for each draw, and every order `better_than`, the share of random orders that it beats.

    Raises:
        InputError: as for `compression_of`.
    """
    table = compression(problem, None, [to])
    names = list(table["layer"])
    foretold = dict(zip(names, table["predicted"], strict=True))
    ranks = {row["layer"]: row["compression"] for row in rank_layers(problem, seed=seed)}
    layers = {layer.name: layer for layer in problem.space.layers}
    keys: dict[str, Callable[[str], float]] = {
        "priority": lambda name: ranks[name],
        "predicted": lambda name: foretold[name] / layers[name].size,
        "last": lambda name: -layers[name].depth,
        "first": lambda name: layers[name].depth,
        "largest": lambda name: -layers[name].size,
        "smallest": lambda name: layers[name].size,
    }
    start, weights = held_out.at(problem.weights()).loss(), problem.weights()
    known: dict[frozenset[str], float] = {frozenset(): start}

    def losses(order: Sequence[str]) -> list[float]:
        found = []
        for count in range(1, len(order) + 1):
            chosen = frozenset(order[:count])
            if chosen not in known:
                known[chosen] = held_out.at(weights + compression_of(problem, sorted(chosen), to)).loss()
            found.append(known[chosen])
        return found

    def mean(order: Sequence[str]) -> float:
        """Over the parameters compressed, so that large layers count as much as they save."""
        sizes = np.array([layers[name].size for name in order], dtype=float)
        return float(np.average(losses(order), weights=sizes))

    generator = np.random.default_rng(seed)
    by_chance = [mean([str(name) for name in generator.permutation(names)]) for _ in range(draws)]
    orders = {}
    for order, key in keys.items():
        chosen = sorted(names, key=key)
        own = mean(chosen)
        better = float(np.mean([own < other for other in by_chance]))
        orders[order] = {"layers": chosen, "losses": losses(chosen), "mean": own, "better_than": better}
    return {
        "start": start,
        "to": to,
        "parameters": {name: layers[name].size for name in names},
        "orders": orders,
        "random": by_chance,
    }
