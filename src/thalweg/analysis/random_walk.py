"""What principal components look like where there is nothing to see.

The PCA of *any* random walk in many dimensions looks low-dimensional: the first component of the positions holds
about 60 % of the variance and the path in the plane of the first two is a smooth arc (Antognini and Sohl-Dickstein,
arXiv 1806.08805). The reference here takes the recorded run's own step lengths and makes their directions
independent, in the limit of infinitely many dimensions, where no two steps have anything in common: their Gram
matrix is diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import InputError

DENSE_ROWS = 1500
"""Steps up to which all components are computed, by a dense decomposition."""


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
    left, singular, total = (_dense if count <= DENSE_ROWS else _few)(energy.sqrt(), k)
    points = left[:, :2] * singular[:2]
    variance = singular**2
    return RandomWalk(
        weights_explained=(variance / total)[:k].clone(),
        updates_explained=(energy.sort(descending=True).values / energy.sum())[:k].clone(),
        path=points - points[0],
    )


def _dense(lengths: Tensor, k: int) -> tuple[Tensor, Tensor, float]:
    """Left singular vectors and singular values of the centred positions, and the sum of all squares."""
    moves = torch.tril(torch.ones(len(lengths), len(lengths), dtype=torch.float64)) * lengths
    positions = torch.cat([torch.zeros(1, len(lengths), dtype=torch.float64), moves])
    left, singular, _ = torch.linalg.svd(positions - positions.mean(dim=0), full_matrices=False)
    return left, singular, float((singular**2).sum())


def _few(lengths: Tensor, k: int) -> tuple[Tensor, Tensor, float]:
    """The first k (two at least) of the same: products with the positions are cumulative sums.

    The step j is in the positions after it, a share m of all, so that its centred column has the square
    `|u_j|² (T + 1) m (1 − m)`.
    """
    from scipy.sparse.linalg import LinearOperator, svds  # here, since it takes a while to import

    steps = lengths.numpy()
    count = len(steps)

    def positions(weights: np.ndarray) -> np.ndarray:
        path = np.concatenate([[0.0], np.cumsum(steps * weights.reshape(-1))])
        return np.asarray(path - path.mean())

    def back(path: np.ndarray) -> np.ndarray:
        flat = path.reshape(-1) - path.mean()
        return np.asarray(steps * (flat.sum() - np.cumsum(flat))[:-1])

    operator = LinearOperator((count + 1, count), matvec=positions, rmatvec=back, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(count)
    left, singular, _ = svds(operator, k=max(k, 2), v0=start)
    order = np.argsort(-singular)
    share = (count - np.arange(count)) / (count + 1)
    total = float((steps**2 * (count + 1) * share * (1 - share)).sum())
    return torch.from_numpy(left[:, order].copy()), torch.from_numpy(singular[order].copy()), total
