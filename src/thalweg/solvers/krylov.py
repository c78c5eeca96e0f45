"""A Krylov space with full reorthogonalisation and thick restart (Wu and Simon 2000).

`H Q = Q T + beta q e_m^T`: the rows of one contiguous `(m, P)` basis are orthonormal, T is the projection of H on
them, kept in float64 on the CPU. Every new vector is orthogonalised against *all* earlier ones, twice, by
matrix-vector products; without that Lanczos returns ghosts, copies of pairs it has already found. On breakdown (an
invariant subspace was found) it goes on from a fresh random vector orthogonal to the basis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import InputError
from thalweg.operators.base import Operator

_CHUNK = 2**18


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
    """

    def __init__(
        self,
        operator: Operator,
        capacity: int,
        generator: torch.Generator,
        start: Tensor | None = None,
        locked: Tensor | None = None,
        scale: float = 0.0,
    ) -> None:
        self.operator = operator
        self.generator = generator
        self.locked = locked
        self.dimension = operator.shape[0] - (0 if locked is None else locked.shape[0])
        self.capacity = min(capacity, self.dimension)
        self.projection = np.zeros((self.capacity, self.capacity))
        self.size = 0
        self.beta = 0.0
        self.matvecs = 0
        self._scale = scale
        self._restarted = False
        rows = min(self.capacity + 1, 64)
        self._basis = torch.empty(rows, operator.shape[0], dtype=operator.dtype, device=operator.device)
        self._place(0, self._fresh(start))

    @property
    def basis(self) -> Tensor:
        """The orthonormal rows `(size, P)`."""
        return self._basis[: self.size]

    @property
    def next(self) -> Tensor:
        """The vector q that the space would grow by `(P,)`."""
        return self._basis[self.size]

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans everything, so that nothing is left to find."""
        return self.size == self.dimension

    @property
    def rounding(self) -> float:
        """Length below which a vector of products is nothing but rounding, for this dtype and operator."""
        return 10 * float(torch.finfo(self.operator.dtype).eps) * math.sqrt(self.size + 1) * self._scale

    def grow(self) -> None:
        """One product: the next vector enters the basis, and a new next vector is made.

        Raises:
            InputError: if the product is not finite, or shows that the operator is not symmetric.
        """
        step = self.size
        product = self.operator.matvec(self._basis[step])
        self.matvecs += 1
        self.size = step + 1
        rest, inside = self._orthogonalised(product)
        column = inside.double().cpu().numpy()
        length = float(torch.linalg.vector_norm(rest.double()))
        if not (math.isfinite(length) and np.isfinite(column).all()):
            raise InputError(f"product {self.matvecs} of the operator is not finite; check the loss at these weights")
        self._scale = max(self._scale, float(np.abs(column).max()), length)
        self._check_symmetric(step, column)
        self.projection[: step + 1, step] = column
        self.projection[step, : step + 1] = column
        self._restarted = False
        self._extend(rest, length)

    def _extend(self, rest: Tensor, length: float) -> None:
        if self.exhausted:
            self.beta = 0.0
            return
        self.beta = length if length > self.rounding else 0.0
        vector = rest / length if self.beta else self._fresh(None)
        self._place(self.size, vector)

    def ritz(self, order: Callable[[np.ndarray], np.ndarray]) -> Ritz:
        """Ritz pairs in the order that `order(values)` gives as indices."""
        m = self.size
        values, vectors = np.linalg.eigh(self.projection[:m, :m])
        ranked = order(values)
        values, vectors = values[ranked], vectors[:, ranked]
        return Ritz(values, vectors, np.abs(self.beta * vectors[m - 1]))

    def restart(self, ritz: Ritz, keep: int) -> None:
        """Shrink the basis to the first `keep` Ritz vectors and the next vector."""
        self.combine(ritz.coefficients[:, :keep], out=self._basis)
        self._basis[keep].copy_(self._basis[self.size])
        self.projection[:] = 0.0
        self.projection[range(keep), range(keep)] = ritz.values[:keep]
        self.size = keep
        self._restarted = True

    def combine(self, coefficients: np.ndarray, out: Tensor | None = None) -> Tensor:
        """Rows `coefficients.T @ basis`, in chunks so that `out` may be the basis itself."""
        count = coefficients.shape[1]
        if out is None:
            out = self._basis.new_empty(count, self._basis.shape[1])
        mix = torch.as_tensor(np.ascontiguousarray(coefficients.T)).to(self._basis)
        for start in range(0, self._basis.shape[1], _CHUNK):
            span = slice(start, start + _CHUNK)
            out[:count, span] = mix @ self._basis[: self.size, span]
        return out[:count]

    def _orthogonalised(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """What is left of a vector outside the basis, and its coefficients in it: two passes."""
        inside = vector.new_zeros(self.size)
        for _ in range(2):
            if self.locked is not None:
                vector = vector - self.locked.T @ (self.locked @ vector)
            part = self.basis @ vector
            vector = vector - self.basis.T @ part
            inside += part
        return vector, inside

    def _fresh(self, start: Tensor | None) -> Tensor:
        """A unit vector orthogonal to the basis: the given one, or a random one."""
        for _ in range(5):
            if start is None:
                draw = torch.randn(self.operator.shape[0], generator=self.generator, dtype=torch.float64)
                start = draw.to(self._basis)
            start = start / torch.linalg.vector_norm(start)
            rest, _ = self._orthogonalised(start)
            length = float(torch.linalg.vector_norm(rest))
            if length > 1e-3:
                rest = rest / length
                rest, _ = self._orthogonalised(rest)
                unit: Tensor = rest / torch.linalg.vector_norm(rest)
                return unit
            start = None
        raise InputError("no vector outside the subspace found so far could be drawn; ask for fewer pairs")

    def _place(self, row: int, vector: Tensor) -> None:
        if row == self._basis.shape[0]:
            more = min(2 * row, self.capacity + 1)
            grown = self._basis.new_empty(more, self._basis.shape[1])
            grown[:row] = self._basis
            self._basis = grown
        self._basis[row] = vector

    def _check_symmetric(self, step: int, column: np.ndarray) -> None:
        if step == 0 or self._restarted:
            return
        tolerance = 10 * math.sqrt(torch.finfo(self.operator.dtype).eps) * self._scale
        if abs(column[step - 1] - self.beta) > tolerance:
            raise InputError(
                f"the operator is not symmetric, or not the same from one product to the next: <q, H p> = "
                f"{column[step - 1]:.6g} but <p, H q> = {self.beta:.6g}"
            )
