"""Do the stiff directions lie along the weights? Two attributes of each eigenvector, curvature and alignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from thalweg.analysis.agreement import null_record
from thalweg.analysis.overlap import Overlap, overlap
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.tables import Table, Tabular

LEAST = 3
"""Directions that have a rank correlation."""


@dataclass(frozen=True, eq=False)
class Alignment(Tabular):
    """How the weights lie to a set of directions.

    Attributes:
        table: a row for each direction with the columns index, value, alignment (`(wᵀe)²/|w|²`), by_chance (1/P) and
            by_layer (for a random direction with the same energy in each layer: `Σ_l e_l |w_l|² / (n_l |w|²)`).
        rank_correlation: Spearman's, of value and alignment.
        p_value: of it, two-sided, by all permutations or 10,000 of them.
        captured: the weights' energy in the span of all, with both nulls.
    """

    table: Table
    rank_correlation: float
    p_value: float
    captured: Overlap

    def to_table(self) -> Table:
        """The table of directions."""
        return self.table


def weight_alignment(directions: Directions, weights: Tensor, *, draws: int = 10_000, seed: int = 0) -> Alignment:
    """Hold the weights against directions with values, such as eigenpairs.

    Args:
        directions: at least three, with `values` and a parameter space.
        weights: `(P,)`.
        draws: permutations, and samples of the layer-matched null.
        seed: of both.

    Raises:
        InputError: if there are fewer than three directions, they have no values, or the weights have another length
            or are zero.
    """
    if directions.values is None or len(directions) < LEAST:
        raise InputError("alignment needs three directions or more, with values; give tw.eigenpairs(hessian, k=10)")
    space = directions.parameter_space()
    space.check(weights)
    flat = weights.detach().double().cpu()
    square = float(flat @ flat)
    if not square > 0:
        raise InputError("all weights are zero, so nothing is aligned with them")
    lengths = torch.diagonal(directions.rows.grams().sum(dim=0))
    along = directions.rows.inner(flat).square() / lengths / square
    shares = torch.tensor([float(flat[layer.span].square().sum()) / layer.size for layer in space.layers]) / square
    matched = directions.layer_energy() @ shares.double()
    values = directions.values.tolist()
    table = Table.of(
        [
            {
                "index": index,
                "value": value,
                "alignment": float(along[index]),
                "by_chance": 1 / space.size,
                "by_layer": float(matched[index]),
            }
            for index, value in enumerate(values)
        ]
    )
    correlation, p_value = _rank_correlation(np.array(values), along.numpy(), draws, seed)
    own = Directions(flat[None], label="weights", space=space)
    captured = overlap(own, directions, draws=min(draws, 2000), seed=seed)
    return Alignment(table, correlation, p_value, captured)


def alignment_record(directions: Directions, weights: Tensor, draws: int, seed: int) -> dict[str, Any] | None:
    """`weight_alignment` as plain values; None for fewer than `LEAST` directions, or weights that are all zero."""
    if len(directions) < LEAST or not bool(weights.any()):
        return None
    found = weight_alignment(directions, weights, draws=draws, seed=seed)
    nulls = [found.captured.uniform, found.captured.layer_matched]
    return {
        "directions": found.table.to_json(),
        "rank_correlation": found.rank_correlation,
        "p_value": found.p_value,
        "captured": found.captured.mean,
        "nulls": {null.name: null_record(null) for null in nulls if null is not None},
    }


def _rank_correlation(values: np.ndarray, others: np.ndarray, draws: int, seed: int) -> tuple[float, float]:
    """Spearman's rank correlation and its p-value by permutation; no correlation where a side is constant."""
    if np.ptp(values) == 0 or np.ptp(others) == 0:
        return 0.0, 1.0

    found = float(stats.spearmanr(values, others).statistic)
    tested = stats.permutation_test(
        (values,),
        lambda order: stats.spearmanr(order, others).statistic,
        permutation_type="pairings",
        n_resamples=draws,
        rng=np.random.default_rng(seed),
    )
    return found, float(tested.pvalue)
