"""The spectrum on data that training never saw, and how far its top space is the training data's.

The training loss's eigenvectors were fitted to the training samples: their curvature on other data is a lower bound of
that data's largest eigenvalues (Courant-Fischer), which may lie along other directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.analysis.overlap import Overlap, overlap
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.problem import Problem
from thalweg.progress import Progress
from thalweg.solvers.lanczos import Certificate, eigenpairs, pass_on_interrupt
from thalweg.tables import Table, Tabular


@dataclass(frozen=True, eq=False)
class HeldOut(Tabular):
    """Eigenpairs on held-out data beside those on training data.

    Attributes:
        train: eigenpairs of the training loss, `k` of them.
        pairs: eigenpairs of the held-out loss, as many.
        across: float64 `(k,)`, `eᵀH'e` of the training eigenvectors e on held-out data.
        subspace: how far the training top space lies in the held-out one.
        matvecs: products spent on held-out data.
    """

    train: Directions
    pairs: Directions
    across: Tensor
    subspace: Overlap
    matvecs: int

    def to_table(self) -> Table:
        """A row for each pair: its value on training data, along the same direction held out, and held out itself."""
        assert self.train.values is not None
        assert self.pairs.values is not None
        columns = zip(self.train.values.tolist(), self.across.tolist(), self.pairs.values.tolist(), strict=True)
        return Table.of([{"train": a, "across": b, "held_out": c} for a, b, c in columns])


def held_out_spectrum(
    problem: Problem,
    held_out: Problem,
    k: int = 10,
    *,
    train: Directions | None = None,
    tol: float = 1e-3,
    seed: int = 0,
    certify: Certificate = "estimate",
    memory_budget: int | None = None,
    progress: Callable[[Progress], None] | bool = False,
) -> HeldOut:
    """The top k eigenpairs on held-out data, at the training problem's weights.

    Args:
        problem: model, loss and training data at the weights to look at.
        held_out: the same model and loss on data that training never saw; its weights do not matter.
        k: eigenpairs of each.
        train: eigenpairs on training data, where they are known already; computed otherwise.
        tol: relative residual.
        seed: of start vectors and of the overlap's null.
        certify: as in `eigenpairs`.
        memory_budget: bytes for kept gradient graphs.
        progress: called after every product.

    Raises:
        InputError: if the two problems' parameters differ, or k < 1.
    """
    if k < 1:
        raise InputError(f"k={k}: ask for at least one eigenpair")
    problem.space.require_same(held_out.space, "the held-out problem's model")
    if train is None:
        hessian = problem.hessian(memory_budget=memory_budget)
        train = eigenpairs(hessian, k, tol=tol, seed=seed, certify=certify, progress=progress)
        pass_on_interrupt(train)
    there = problem.on(held_out.data).hessian(memory_budget=memory_budget)
    pairs = eigenpairs(there, len(train), tol=tol, seed=seed, certify=certify, start=train, progress=progress)
    pass_on_interrupt(pairs)
    across = [(vector.double() * (there @ vector).double()).sum() for vector in train.vectors]
    return HeldOut(
        train=train,
        pairs=pairs,
        across=torch.stack(across).cpu(),
        subspace=overlap(train, pairs, seed=seed),
        matvecs=(pairs.matvecs or 0) + len(across),
    )
