"""How many products the peers need: one Lanczos run on kept graphs, from the vector that they too start with.

Lanczos and ARPACK see nothing of a matrix but its Krylov space, so the tridiagonal matrix of one such run foretells how
many steps or how large a basis just reaches the residual. To find that with the peers' own products took many minutes.
What is foretold is checked by the run itself: a contestant that misses is given one more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmarks.peer_measure import say
from benchmarks.workloads import Loaded, problem_of
from torch import Tensor

SEED = 0
AIM = 0.97e-3
"""What a contestant's own estimate is tuned to, since rounding adds a little to the true residual."""

FURTHER = 4
"""Steps beyond the needed ones, for what ARPACK's basis is tried on."""

LEFT_TO_SOLVER = 0.1
"""ARPACK's tolerance: with a basis of just the needed size it stops at its first look."""

Tridiagonal = tuple[list[float], list[float]]
"""Diagonal and off-diagonal, each of length m; the last entry leads out of the space."""


def start_vector(size: int) -> Tensor:
    """Where Lanczos starts: what hessian-eigenthings draws for this seed."""
    return torch.randn(size, generator=torch.Generator().manual_seed(SEED))


def reference(workload: Loaded, k: int) -> dict[str, Any]:
    """Diagonal, off-diagonal and the number of steps that do, for the k largest eigenpairs.

    Args:
        workload: model and data.
        k: pairs.
    """
    hessian = problem_of(workload).hessian()
    say(f"    reference: Lanczos on chunks of {hessian.describe().get('chunk') or 'the given size'}")
    alphas, betas = lanczos(hessian.matvec, start_vector(hessian.shape[0]), k, AIM, FURTHER)
    steps = next(m for m in range(k, len(alphas) + 1) if _converged((alphas[:m], betas[:m]), k, AIM))
    say(f"    reference: {steps} steps do for {k} pairs")
    return {"alphas": alphas, "betas": betas, "steps": steps}


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, k: int, limit: float, further: int = 0) -> Tridiagonal:
    """The tridiagonal matrix of the shortest Lanczos run whose k largest Ritz pairs have converged.

    Args:
        product: of a symmetric matrix.
        start: where to begin.
        k: pairs.
        limit: largest residual over the largest value.
        further: steps after that.
    """
    basis = [start / start.norm()]
    alphas: list[float] = []
    betas: list[float] = []
    left = further
    while len(alphas) < min(1000, len(start)):
        vector = product(basis[-1])
        alphas.append(float(vector.double() @ basis[-1].double()))
        rows = torch.stack(basis)
        for _ in range(2):
            vector = vector - rows.T @ (rows @ vector)
        betas.append(float(vector.norm()))
        if len(alphas) == len(start) or betas[-1] <= 1e-6 * max(map(abs, alphas)):
            return alphas, [*betas[:-1], 0.0]  # the space holds no more
        basis.append(vector / betas[-1])
        if len(alphas) >= k and (left < further or _converged((alphas, betas), k, limit)):
            if left == 0:
                return alphas, betas
            left -= 1
    raise ArithmeticError("1,000 Lanczos steps are not enough")


def ritz(tridiagonal: Tridiagonal) -> tuple[Tensor, Tensor]:
    """Ritz values, descending, and their signed residuals, in float64."""
    values, vectors = torch.linalg.eigh(matrix(tridiagonal))
    return values.flip(0), vectors[-1].flip(0) * tridiagonal[1][-1]


def matrix(tridiagonal: Tridiagonal) -> Tensor:
    """The symmetric `(m, m)` matrix, in float64."""
    diagonal = torch.tensor(tridiagonal[0], dtype=torch.float64)
    off = torch.tensor(tridiagonal[1][:-1], dtype=torch.float64)
    return torch.diag(diagonal) + torch.diag(off, 1) + torch.diag(off, -1)


def least_basis(tridiagonal: Tridiagonal, k: int) -> int:
    """The size of basis with which ARPACK reaches the residual in the fewest products.

    On the tridiagonal matrix, from its first unit vector, ARPACK does what it would do on the whole one, as long as it
    makes fewer products than that has rows.

    Args:
        tridiagonal: of a Lanczos run that goes on a little longer.
        k: pairs.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    small = matrix(tridiagonal).numpy()
    rows = len(small)
    count = 0

    def counted(vector: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        return small @ vector

    operator = LinearOperator(small.shape, matvec=counted, dtype=np.float64)
    found: dict[int, int] = {}
    for size in range(k + 2, rows):
        count = 0
        try:
            values, vectors = eigsh(
                operator, k, which="LA", ncv=size, tol=LEFT_TO_SOLVER, v0=np.eye(rows)[0], maxiter=rows
            )
        except ArpackNoConvergence:
            continue
        apart = np.linalg.norm(small @ vectors - vectors * values, axis=0).max()
        if count < rows and apart <= AIM * values.max():
            found[size] = count
    return min(found, key=lambda size: found[size], default=max(k + 2, rows - FURTHER))


def _converged(tridiagonal: Tridiagonal, k: int, limit: float) -> bool:
    values, last = ritz(tridiagonal)
    return float(last[:k].abs().max()) <= limit * float(values[0].abs())
