"""What one search for eigenpairs works with: its settings, the products spent, and how far they go."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import InputError
from thalweg.operators.base import Operator
from thalweg.progress import Progress
from thalweg.solvers.basis import Storage, capacity
from thalweg.solvers.krylov import KrylovSpace, Ritz
from thalweg.solvers.wanted import Wanted


@dataclass(frozen=True)
class Settings:
    """What the user asked for.

    Attributes:
        tol: residual at which a pair counts as converged, relative to the largest wanted magnitude.
        max_matvecs: products after which to give up.
        storage: where the basis is held.
        budget: bytes for it, None for half of what is free.
        folder: for a basis on disk.
    """

    tol: float
    max_matvecs: int | None = None
    storage: Storage = "memory"
    budget: int | None = None
    folder: str | Path | None = None


@dataclass(frozen=True)
class Pairs:
    """Pairs of a value and a vector.

    Attributes:
        values: `(n,)`.
        vectors: `(n, P)`, orthonormal rows.
        residuals: `(n,)`, `|H v − value v|` or a bound of it.
    """

    values: np.ndarray
    vectors: Tensor
    residuals: np.ndarray


class Search:
    """Spends products, and counts them.

    Args:
        operator: the map.
        wanted: which pairs.
        settings: what was asked for.
        generator: draws start vectors and signs.
        progress: called after products.
    """

    def __init__(
        self,
        operator: Operator,
        wanted: Wanted,
        settings: Settings,
        generator: torch.Generator,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.operator = operator
        self.wanted = wanted
        self.settings = settings
        self.generator = generator
        self.capacity = capacity(operator, settings.storage, settings.budget, settings.folder)
        self.matvecs = 0
        self.floor = 0.0  # rounding of the operator's products; no residual is asked to be smaller
        self.interrupted = False
        self._limit = math.inf if settings.max_matvecs is None else settings.max_matvecs
        self._progress = progress

    @property
    def spent(self) -> bool:
        """Whether the products that were allowed have been made."""
        return self.matvecs >= self._limit

    def space(self, k: int, start: Tensor | None, locked: Tensor | None = None, scale: float = 0.0) -> KrylovSpace:
        """A new Krylov space in which k pairs can be searched.

        Raises:
            InputError: if the basis that this needs does not fit the budget.
        """
        least = min(2 * k + 10, self.operator.shape[0])
        if self.capacity < least:
            itemsize = 2 if self.settings.storage == "bfloat16" else self.operator.dtype.itemsize
            need = least * self.operator.width * itemsize
            raise InputError(
                f"{k} pairs of a space of {self.operator.shape[0]:,} need a basis of {least} vectors, "
                f"{need / 2**30:.2f} GiB; raise basis_budget or ask for fewer pairs, or hold it elsewhere with "
                "basis='bfloat16' or basis='disk'"
            )
        storage, folder = self.settings.storage, self.settings.folder
        return KrylovSpace(self.operator, self.capacity, self.generator, start, locked, scale, storage, folder)

    def step(self, space: KrylovSpace) -> None:
        """One product, by which the space grows."""
        space.grow()
        self.matvecs += 1

    def product(self, vector: Tensor) -> Tensor:
        """One product for a check: of a vector and of it the entries that this rank holds."""
        self.matvecs += 1
        self.tell("certify", 0.0)
        return self.operator.part_of_product(vector)

    def length(self, vector: Tensor) -> float:
        """The length of a vector of which each rank has its entries."""
        return self.operator.ranks.length(vector)

    def rest(self, value: float, vector: Tensor) -> Tensor:
        """`H v − value v`, by one product: `(P,)`."""
        return self.product(vector) - value * vector

    def due(self, space: KrylovSpace) -> bool:
        """Whether to look at the Ritz pairs now: at each step while that is cheap, then every few."""
        return space.size % (1 + space.size // 40) == 0 or space.size >= space.capacity or space.exhausted

    def restart_if_full(self, space: KrylovSpace, ritz: Ritz, k: int) -> None:
        """Shrink a full space to its best Ritz vectors."""
        if space.size >= space.capacity:
            space.restart(ritz, min(k + max(8, (space.capacity - k) // 2), space.capacity - 1))

    def tell(self, stage: str, residual: float) -> None:
        """Say where the search stands."""
        if self._progress is not None:
            self._progress(Progress(stage, self.matvecs, residual, self.settings.tol))
