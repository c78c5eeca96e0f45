"""How much of a spectrum belongs to the sample of data that it was measured on.

Residuals certify the least important error: with other samples from the same source the eigenvalues are others. The
data is split in two halves at random. The top values on half A are biased up, since their vectors were fitted to A;
the same vectors' curvature on half B is biased down. In expectation the two bracket the population's largest
eigenvalue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.analysis.overlap import Overlap, overlap
from thalweg.problem import Problem
from thalweg.progress import Progress
from thalweg.solvers.lanczos import eigenpairs, pass_on_interrupt
from thalweg.tables import Table, Tabular


@dataclass(frozen=True, eq=False)
class Halves(Tabular):
    """Eigenvalues on two halves of the data.

    Attributes:
        half_values: float64 `(k,)`, eigenvalues on half A.
        other_half: float64 `(k,)`, `e^T H_B e` for A's eigenvectors e on half B.
        subspace: overlap of A's and B's top eigenspaces.
        samples: samples in A and in B.
        seed: that drew the halves.
        matvecs: products spent, each over half of the data.
    """

    half_values: Tensor
    other_half: Tensor
    subspace: Overlap
    samples: tuple[int, int]
    seed: int
    matvecs: int

    def to_table(self) -> Table:
        """A row for each direction of half A: its curvature there, and on half B."""
        columns = zip(self.half_values.tolist(), self.other_half.tolist(), strict=True)
        return Table.of([{"half": a, "other_half": b} for a, b in columns])


def halves(
    problem: Problem,
    k: int = 10,
    *,
    tol: float = 1e-2,
    seed: int = 0,
    memory_budget: int | None = None,
    progress: Callable[[Progress], None] | bool = False,
) -> Halves:
    """Measure the top k pairs on two random halves of the data.

    Args:
        problem: model, loss and data.
        k: pairs on each half.
        tol: relative residual; the sampling error is far larger than 1e-2 on most problems.
        seed: draws the halves and the start vectors.
        memory_budget: bytes for kept gradient graphs.
        progress: called after every product.

    Raises:
        InputError: if the data holds fewer than two samples.
    """
    first, second = problem.split(seed)
    hessian_a, hessian_b = first.hessian(memory_budget=memory_budget), second.hessian(memory_budget=memory_budget)
    pairs_a = eigenpairs(hessian_a, k, tol=tol, seed=seed, progress=progress)
    pass_on_interrupt(pairs_a)
    pairs_b = eigenpairs(hessian_b, k, tol=tol, seed=seed, progress=progress)
    pass_on_interrupt(pairs_b)
    vectors = pairs_a.vectors
    there = torch.stack([(vector.double() * (hessian_b @ vector).double()).sum() for vector in vectors])
    assert pairs_a.values is not None
    return Halves(
        half_values=pairs_a.values,
        other_half=there.cpu(),
        subspace=overlap(pairs_a, pairs_b, seed=seed),
        samples=(first.describe()["samples"], second.describe()["samples"]),
        seed=seed,
        matvecs=(pairs_a.matvecs or 0) + (pairs_b.matvecs or 0) + k,
    )
