"""A Krylov space with full reorthogonalisation and thick restart (Wu and Simon 2000).

`H Q = Q T + beta q e_m^T`: the rows of one basis are orthonormal, T is the projection of H on them, kept in float64 on
the CPU. Every new vector is orthogonalised against *all* earlier ones by matrix-vector products, to rounding; without
that Lanczos returns ghosts, copies of pairs it has already found. On breakdown (an invariant subspace was found) it
goes on from a fresh random vector orthogonal to the basis.

With a basis held as bfloat16 the rows are what rounding leaves. T and the Gram matrix G of *those* rows are kept, and
`T s = θ G s` is solved: Ritz values and vectors are those of the rows as they are. But rounding took the new row out of
the Krylov space, so `|beta s_mi|` says too little; whoever uses the space measures its residuals and lets it grow by
them (`take`), which is how it comes to hold what the rounding had lost.
"""

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
from thalweg.solvers.basis import Basis, Storage
from thalweg.sums import dot, length, times

_PASSES = 8
_HALVED, _SHORTENED = 0.5, 0.7


@dataclass(frozen=True)
class Ritz:
    """Ritz pairs of a Krylov space, in the wanted order.

    Attributes:
        values: all Ritz values `(m,)`.
        coefficients: columns `(m, m)`: the Ritz vectors in the basis.
        residuals: `|beta s_mi|`, `(m,)`.
    """

    values: np.ndarray
    coefficients: np.ndarray
    residuals: np.ndarray


class KrylovSpace:
    """Grows a Krylov space of a symmetric operator, one product at a time.

    Args:
        operator: the map.
        capacity: rows that the basis may take; at that size it is restarted with the best Ritz vectors.
        generator: draws the start vectors, on the CPU.
        start: `(P,)` where to begin; random unless given.
        locked: `(l, P)` orthonormal rows whose complement is searched.
        scale: size of the operator as far as it is known; rounding is judged against it.
        storage: where the basis is held.
        folder: for a basis on disk.
    """

    def __init__(
        self,
        operator: Operator,
        capacity: int,
        generator: torch.Generator,
        start: Tensor | None = None,
        locked: Tensor | None = None,
        scale: float = 0.0,
        storage: Storage = "memory",
        folder: str | Path | None = None,
    ) -> None:
        self.operator = operator
        self.ranks = operator.ranks
        self.generator = generator
        self.locked = locked
        self.dimension = operator.shape[0] - (0 if locked is None else locked.shape[0])
        self.capacity = min(capacity, self.dimension)
        self.projection = np.zeros((self.capacity, self.capacity))
        self.matvecs = 0
        self.scale = scale
        self.waiting = 0  # rows given by `take` that have not had their product yet
        self.linked = False  # whether beta predicts an entry of the next column
        self.edge = (0, 0.0)  # size and beta; replaced at once, so that an interrupt never sees half a step
        self.moving = False  # while a restart moves the rows; an interrupt then leaves nothing of use
        self.rows = Basis(operator, self.capacity + 1, storage, folder)
        side = self.capacity + 1 if self.rounded else 0
        self.gram = np.zeros((side, side))
        self._place(0, self._fresh(start, 0))

    @property
    def size(self) -> int:
        """Rows that have had their product."""
        return self.edge[0]

    @property
    def beta(self) -> float:
        """Length of what the last product left outside the basis."""
        return self.edge[1]

    @property
    def rounded(self) -> bool:
        """Whether the rows are held in fewer bits than the operator's."""
        return self.rows.rounded

    @property
    def basis(self) -> Tensor:
        """The orthonormal rows `(size, P)`, as they are held, on the CPU."""
        return self.rows.held(self.size)

    @property
    def next(self) -> Tensor:
        """The vector q that the space would grow by `(P,)`."""
        return self.rows.row(self.size)

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans everything, so that nothing is left to find."""
        return self.size == self.dimension

    @property
    def rounding(self) -> float:
        """Length below which a vector of products is nothing but rounding, for this dtype and operator."""
        precision = max(10 * float(torch.finfo(self.operator.dtype).eps), self.operator.precision)
        return precision * math.sqrt(self.size + 1) * self.scale

    def grow(self) -> None:
        """One product: the next vector enters the basis, and a new next vector is made.

        Raises:
            InputError: if the product is not finite, or shows that the operator is not symmetric.
        """
        step, count = self.size, self.size + 1
        product = self.operator.part_of_product(self.next)
        self.matvecs += 1
        rest, inside, left = self._orthogonalised(product, count)
        column = inside.double().cpu().numpy()
        if not (math.isfinite(left) and np.isfinite(column).all()):
            raise InputError(f"product {self.matvecs} of the operator is not finite; check the loss at these weights")
        self.scale = max(self.scale, float(np.abs(column).max()), left)
        self._check_symmetric(step, column)
        self.projection[:count, step] = column
        self.projection[step, :count] = column
        self._extend(count, rest, left)

    def _extend(self, count: int, rest: Tensor, left: float) -> None:
        if self.waiting > 1 or count == self.dimension:  # another row waits in the next place, or none is left
            self.waiting = max(self.waiting - 1, 0)
            self.linked, self.edge = False, (count, 0.0)
            return
        beta = left if left > self.rounding else 0.0
        self._place(count, rest / left if beta else self._fresh(None, count))
        self.waiting, self.linked, self.edge = 0, True, (count, beta)

    def ritz(self, order: Callable[[np.ndarray], np.ndarray]) -> Ritz:
        """Ritz pairs in the order that `order(values)` gives as indices."""
        m = self.size
        if self.rounded:
            whiten = np.linalg.inv(np.linalg.cholesky(self.gram[:m, :m]))
            values, vectors = _eigh(whiten @ self.projection[:m, :m] @ whiten.T)
            vectors = whiten.T @ vectors
        else:
            values, vectors = _eigh(self.projection[:m, :m])
        ranked = order(values)
        values, vectors = values[ranked], vectors[:, ranked]
        return Ritz(values, vectors, np.abs(self.beta * vectors[m - 1]) if m else values)

    def restart(self, ritz: Ritz, keep: int) -> None:
        """Shrink the basis to the first `keep` Ritz vectors and the next vector."""
        self.moving = True
        follow = self.next.clone()
        ends = self.beta * ritz.coefficients[self.size - 1, :keep]
        meant, kept = self.rows.rotate(ritz.coefficients[:, :keep])
        projection = np.diag(ritz.values[:keep])
        if self.rounded:  # X̃ = X + D holds what rounding made of X: X̃ H X̃ᵀ to first order in D
            aside = self.rows.inner(follow, keep).double().cpu().numpy()
            moved = ritz.values[:keep, None] * (meant - np.eye(keep)) + np.outer(ends, aside)
            projection = projection + moved + moved.T
            self.gram[:keep, :keep] = kept
        self.projection[:] = 0.0
        self.projection[:keep, :keep] = projection
        self._place(keep, follow)
        self.waiting, self.linked, self.edge = 0, False, (keep, self.beta)
        self.moving = False

    def take(self, vectors: Tensor) -> int:
        """Let the space grow by these rows `(n, P)` next, in place of the next vector, as far as there is room.

        Returns:
            How many were taken; what lies in the space already is left out, and 0 leaves everything as it was.
        """
        taken = 0
        for vector in vectors[: self.capacity - self.size]:
            whole = self.ranks.length(vector)
            rest, _, left = self._orthogonalised(vector / whole if whole else vector, self.size + taken)
            if left > 1e-3:
                self._place(self.size + taken, rest / left)
                taken += 1
        if taken:
            self.waiting, self.linked, self.edge = taken, False, (self.size, 0.0)
        return taken

    def combine(self, coefficients: np.ndarray) -> Tensor:
        """Rows `coefficients.T @ basis`, `(n, P)`, for columns `(size, n)`."""
        return self.rows.combine(coefficients)

    def _orthogonalised(self, vector: Tensor, count: int) -> tuple[Tensor, Tensor, float]:
        """What is left of a vector outside the first `count` rows, its coefficients in them, and the length left.

        Of orthonormal rows the last two are taken off first, which is most of what a product has in them; one pass
        over all of them is then enough unless it shortens the vector to below 0.7 (the criterion of Daniel, Gragg,
        Kaufman and Stewart 1976), and two always are. Rounded rows are orthonormal to some 1e-3 only, which is the
        share of what lies inside that each pass leaves behind: so it takes as many as shorten the vector by half or
        more. There the coefficients are the plain inner products.
        """
        if not self.ranks.alone:
            return self._orthogonalised_together(vector, count)
        inside = vector.new_zeros(count)
        if not self.rounded:
            for index in range(max(count - 2, 0), count):
                row = self.rows.row(index)
                inside[index] = along = dot(row, vector)
                vector = vector - along * row
        before = length(vector)
        for turn in range(_PASSES if self.rounded else 2):
            if self.locked is not None:
                vector = vector - self.locked.T @ times(self.locked, vector)
            part = self.rows.inner(vector, count)
            vector = self.rows.without(vector, part)
            if turn == 0 or not self.rounded:
                inside += part
            now = length(vector)
            if now > before * (_HALVED if self.rounded else _SHORTENED) and (turn or not self.rounded):
                break
            before = now
        return vector, inside, length(vector)

    def _orthogonalised_together(self, vector: Tensor, count: int) -> tuple[Tensor, Tensor, float]:
        """The same over ranks that hold parts of the vectors: two passes, each with one sum of `count` numbers and one.

        The length before each pass comes with its inner products, and what it takes away is known by Pythagoras, so
        that lengths cost no sums of their own.
        """
        inside = vector.new_zeros(count)
        now = 0.0
        for turn in range(_PASSES if self.rounded else 2):
            if self.locked is not None:
                vector = vector - self.locked.T @ self.ranks.sum(times(self.locked, vector))
            part, square = self.rows.inner_and_square(vector, count)
            vector = self.rows.without(vector, part)
            if turn == 0 or not self.rounded:
                inside += part
            taken = float(part.double().square().sum())
            now = math.sqrt(max(square - taken, 0.0))
            if turn and now > _HALVED * math.sqrt(square):
                break
        return vector, inside, now

    def _fresh(self, start: Tensor | None, count: int) -> Tensor:
        """A unit vector orthogonal to the first `count` rows: the given one, or a random one."""
        for _ in range(5):
            if start is None:
                start = self.operator.draw(self.generator)
            rest, _, left = self._orthogonalised(start / self.ranks.length(start), count)
            if left > 1e-3:
                rest, _, left = self._orthogonalised(rest / left, count)
                return rest / self.ranks.length(rest)
            start = None
        raise InputError("no vector outside the subspace found so far could be drawn; ask for fewer pairs")

    def _place(self, index: int, vector: Tensor) -> None:
        self.rows.put(index, vector)
        if self.rounded:
            products = self.rows.inner(self.rows.row(index), index + 1).double().cpu().numpy()
            self.gram[index, : index + 1] = products
            self.gram[: index + 1, index] = products

    def _check_symmetric(self, step: int, column: np.ndarray) -> None:
        if not self.linked:
            return
        precision = max(torch.finfo(self.operator.dtype).eps ** 0.5, self.operator.precision)
        tolerance = 10 * max(precision, 2.0**-8 if self.rounded else 0.0) * self.scale
        if abs(column[step - 1] - self.beta) > tolerance:
            raise InputError(
                f"the operator is not symmetric, or not the same from one product to the next: <q, H p> = "
                f"{column[step - 1]:.6g} but <p, H q> = {self.beta:.6g}"
            )


def _eigh(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, ascending, and eigenvectors in columns, on torch's threads.

    NumPy's BLAS has threads of its own, which go on spinning for a while after each call and take the cores from the
    next product: on two cores that made products 1.3 times slower.
    """
    values, vectors = torch.linalg.eigh(torch.from_numpy(np.ascontiguousarray(matrix)))
    return values.numpy(), vectors.numpy()
