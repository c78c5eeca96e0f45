"""What principal components look like where there is nothing to see.

The PCA of *any* random walk in many dimensions looks low-dimensional: the first component of the positions holds
about 60 % of the variance and the path in the plane of the first two is a smooth arc (Antognini and Sohl-Dickstein,
arXiv 1806.08805). The reference here takes the recorded run's own step lengths and makes their directions
independent, in the limit of infinitely many dimensions, where no two steps have anything in common: their Gram
matrix is diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import InputError


@dataclass(frozen=True, eq=False)
class RandomWalk:
    """A random walk with given step lengths.

    Attributes:
        weights_explained: float64 `(k,)`, shares of variance of the PCA of its positions.
        updates_explained: float64 `(k,)`, of the PCA of its steps (not centred; equal lengths give 1/T each).
        path: float64 `(T + 1, 2)`, its positions in the plane of the first two components, from the origin.
    """

    weights_explained: Tensor
    updates_explained: Tensor
    path: Tensor


def random_walk(squared_lengths: Tensor, k: int = 10) -> RandomWalk:
    """The reference for a run of T steps.

    Args:
        squared_lengths: `(T,)`, squared length of each update: the diagonal of the run's Gram matrix.
        k: how many shares of variance.

    Raises:
        InputError: if there are fewer than three steps.
    """
    energy = squared_lengths.double()
    count = len(energy)
    if count < 3:
        raise InputError(f"a random walk of {count} steps has no picture; record at least 3")
    moves = torch.tril(torch.ones(count, count, dtype=torch.float64)) * energy.sqrt()
    positions = torch.cat([torch.zeros(1, count, dtype=torch.float64), moves])
    centered = positions - positions.mean(dim=0)
    left, singular, _ = torch.linalg.svd(centered, full_matrices=False)
    points = left[:, :2] * singular[:2]
    variance = singular**2
    return RandomWalk(
        weights_explained=(variance / variance.sum())[:k].clone(),
        updates_explained=(energy.sort(descending=True).values / energy.sum())[:k].clone(),
        path=points - points[0],
    )
