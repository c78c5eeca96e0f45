"""Eigenpairs of a symmetric operator by Lanczos, with a certificate.

Residuals say how good each returned pair is; they cannot say that no pair was passed over. Hence three levels of
certainty, named in the result:

- *estimate*: the residuals `|beta s_mi|` of the recurrence, checked by one product: for random signs c, the vector
  `(H V^T - V^T L) c` is compared with the predicted `q (beta s·c)`, and the length of the difference is added to
  every residual. (Lanczos residuals are all parallel to q, so their lengths alone could cancel.)
- *full*: one product for each pair measures its residual.
- *complete*: as *full*, then Lanczos from a random start in the complement of what was found. A Ritz value beyond
  the last wanted one is a pair that was missed, a copy of a multiple eigenvalue say; it is taken in and the search
  goes on. That a random start hides a direction from view has probability zero, but no finite search proves it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from thalweg.directions import Directions, as_generator, check_count
from thalweg.errors import InputError
from thalweg.operators.base import Operator
from thalweg.operators.hessian import free_memory
from thalweg.progress import Progress, shown
from thalweg.solvers.krylov import KrylovSpace, Ritz

Which = Literal["LA", "SA", "LM"]
Certificate = Literal["estimate", "full", "complete"]

LOOK_OUTSIDE = 20
"""Least number of products before a search of the complement may say that nothing is there."""

_KEYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "LA": lambda values: values,
    "SA": lambda values: -values,
    "LM": np.abs,
}


@dataclass(frozen=True)
class _Found:
    """Converged or not: wanted pairs, with what the recurrence says of their residuals."""

    values: np.ndarray
    vectors: Tensor
    residuals: np.ndarray
    others: np.ndarray
    next: Tensor
    last: np.ndarray
    matvecs: int


def eigenpairs(
    operator: Operator,
    k: int = 10,
    which: Which = "LA",
    tol: float = 1e-3,
    seed: int | torch.Generator = 0,
    certify: Certificate = "estimate",
    *,
    start: Tensor | None = None,
    max_matvecs: int | None = None,
    basis_budget: int | None = None,
    progress: Callable[[Progress], None] | bool = False,
) -> Directions:
    """The k eigenpairs at one end of the spectrum of a symmetric operator.

    Args:
        operator: `problem.hessian()`, or any `Operator`.
        k: how many pairs; that many always come back.
        which: "LA" largest, "SA" smallest (most negative), "LM" largest in magnitude.
        tol: stop when every wanted residual is at most `tol` times the largest wanted magnitude (or is rounding).
        seed: for the start vectors.
        certify: "estimate", "full" or "complete"; see the module's words.
        start: `(P,)` where to begin, an earlier eigenvector say.
        max_matvecs: give up after so many products; what has not converged by then is marked.
        basis_budget: bytes for the basis; half of what is free unless given.
        progress: called after every product; True shows a line with the residual and the time left.

    Returns:
        Directions with `.values` (k,) in the wanted order, `.vectors` (k, P) orthonormal, `.residuals` (k,),
        `.converged` (k,) and `.matvecs`; `.provenance` holds the certificate, the gap of each value to its nearest
        neighbour that was seen and the angle bound `asin(residual / gap)` of Davis and Kahan, in radians.

    Raises:
        InputError: if k > P, for unknown words, or an operator that is not symmetric or not finite.
    """
    size = operator.shape[0]
    check_count(k, size, "eigenpairs")
    if which not in _KEYS:
        raise InputError(f"which={which!r} is unknown; use 'LA' (largest), 'SA' (smallest) or 'LM' (magnitude)")
    if certify not in ("estimate", "full", "complete"):
        raise InputError(f"certify={certify!r} is unknown; use 'estimate', 'full' or 'complete'")
    if not tol > 0:
        raise InputError(f"tol={tol} is not positive; 1e-3 is usual, 1e-6 fine, below 1e-7 needs float64")
    with shown(progress, f"{k} eigenpairs") as tell:
        search = _Search(operator, which, tol, as_generator(seed), max_matvecs, basis_budget, tell)
        found = search.run(k, None if start is None else _checked_start(start, operator))
        if certify == "estimate":
            residuals = found.residuals + search.defect(found)
        else:
            residuals = search.measured(found.values, found.vectors)
        values, vectors = found.values, found.vectors
        if certify == "complete":
            values, vectors, residuals = search.complete(values, vectors, residuals)
    gaps = _gaps(values, found.others)
    scale = float(np.abs(values).max())
    return Directions(
        vectors,
        values,
        label="Hessian eigenvectors" if operator.describe().get("operator") == "hessian" else "eigenvectors",
        space=operator.space,
        residuals=torch.as_tensor(residuals),
        converged=torch.as_tensor(residuals <= max(tol * scale, search.floor)),
        matvecs=search.matvecs,
        provenance={
            "which": which,
            "tol": tol,
            "certificate": certify,
            "missed_and_found": search.missed,
            "complement_searched": search.complement_searched,
            "gaps": [float(gap) for gap in gaps],
            "angles": [_angle(r, gap) for r, gap in zip(residuals, gaps, strict=True)],
            **operator.describe(),
        },
    )


class _Search:
    """One call of `eigenpairs`: its settings, and the products spent."""

    def __init__(
        self,
        operator: Operator,
        which: Which,
        tol: float,
        generator: torch.Generator,
        max_matvecs: int | None,
        basis_budget: int | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.operator = operator
        self.key = _KEYS[which]
        self.tol = tol
        self.generator = generator
        self.limit = math.inf if max_matvecs is None else max_matvecs
        budget = free_memory(operator.device) // 2 if basis_budget is None else basis_budget
        self.capacity = budget // (operator.shape[0] * operator.dtype.itemsize)
        self.progress = progress
        self.matvecs = 0
        self.missed = 0
        self.floor = 0.0  # rounding of the operator's products; no residual is asked to be smaller
        self.complement_searched = False

    def run(self, k: int, start: Tensor | None = None) -> _Found:
        """Lanczos until the k wanted pairs have converged, or products have run out."""
        space = self._space(k, start, None)
        least = min(2 * k + 2, space.dimension)  # after a breakdown k vectors alone need not hold the wanted end
        while True:
            self._step(space)
            if space.size < least and not self._spent():
                continue
            if space.size < k or not (self._due(space) or self._spent()):
                continue
            ritz = space.ritz(self.order)
            scale = float(np.abs(ritz.values[:k]).max())
            worst = float(ritz.residuals[:k].max())
            self._tell("lanczos", worst / scale if scale else 0.0)
            self.floor = max(self.floor, space.rounding)
            if worst <= max(self.tol * scale, self.floor) or space.exhausted or self._spent():
                break
            self._restart_if_full(space, ritz, k)
        vectors = space.combine(ritz.coefficients[:, :k])
        last = space.beta * ritz.coefficients[space.size - 1, :k]
        follow = torch.zeros_like(vectors[0]) if space.exhausted else space.next.clone()
        return _Found(ritz.values[:k], vectors, ritz.residuals[:k], ritz.values[k:], follow, last, self.matvecs)

    def defect(self, found: _Found) -> float:
        """How far one random combination of the residuals is from what the recurrence predicts."""
        k = len(found.values)
        signs = (torch.randint(0, 2, (k,), generator=self.generator) * 2 - 1).double()
        vector = found.vectors.T @ signs.to(found.vectors)
        weights = torch.as_tensor(found.values).double() * signs
        actual = self._product(vector) - found.vectors.T @ weights.to(found.vectors)
        predicted = found.next * float(np.dot(found.last, signs.numpy()))
        return float(torch.linalg.vector_norm((actual - predicted).double()))

    def measured(self, values: np.ndarray, vectors: Tensor) -> np.ndarray:
        """`|H v - value v|` of each pair, by a product each."""
        lengths = []
        for value, vector in zip(values, vectors, strict=True):
            difference = self._product(vector) - float(value) * vector
            lengths.append(float(torch.linalg.vector_norm(difference.double())))
        return np.array(lengths)

    def complete(
        self, values: np.ndarray, vectors: Tensor, residuals: np.ndarray
    ) -> tuple[np.ndarray, Tensor, np.ndarray]:
        """Search the complement, and take in what was missed, until nothing lies beyond the last wanted value."""
        k = len(values)
        while vectors.shape[0] < self.operator.shape[0] and not self._spent():
            value, vector = self._best_outside(values[:k], vectors)
            if vector is None:
                self.complement_searched = True
                break
            self.missed += 1
            values = np.append(values, value)
            residuals = np.append(residuals, self.measured(np.array([value]), vector.unsqueeze(0)))
            vectors = torch.cat([vectors, vector.unsqueeze(0)])
            ranked = self.order(values)
            values, residuals = values[ranked], residuals[ranked]
            vectors = vectors[torch.as_tensor(ranked.copy(), device=vectors.device)]
        else:
            self.complement_searched = vectors.shape[0] == self.operator.shape[0]
        return values[:k], vectors[:k], residuals[:k]

    def order(self, values: np.ndarray) -> np.ndarray:
        """Indices of the values in the wanted order."""
        return np.argsort(-self.key(values), kind="stable")

    def _best_outside(self, values: np.ndarray, locked: Tensor) -> tuple[float, Tensor | None]:
        """The best pair of the complement if it lies beyond the last wanted value, else None."""
        margin = max(self.tol * float(np.abs(values).max()), self.floor)
        last = float(self.key(values[-1:])[0])
        space = self._space(1, None, locked, scale=float(np.abs(values).max()))
        while True:
            self._step(space)
            if not (self._due(space) or self._spent()):
                continue
            ritz = space.ritz(self.order)
            value, residual = float(ritz.values[0]), float(ritz.residuals[0])
            ahead = float(self.key(ritz.values[:1])[0]) - last
            self._tell("complement", residual / margin * self.tol if margin else 0.0)
            nothing = space.size >= LOOK_OUTSIDE and ahead + residual <= 0
            if nothing or residual <= margin or space.exhausted or self._spent():
                break
            self._restart_if_full(space, ritz, 1)
        if ahead <= margin or residual > margin:
            return value, None
        vector = space.combine(ritz.coefficients[:, :1])[0]
        vector = vector - locked.T @ (locked @ vector)
        return value, vector / torch.linalg.vector_norm(vector)

    def _space(self, k: int, start: Tensor | None, locked: Tensor | None, scale: float = 0.0) -> KrylovSpace:
        least = min(2 * k + 10, self.operator.shape[0])
        if self.capacity < least:
            need = least * self.operator.shape[0] * self.operator.dtype.itemsize
            raise InputError(
                f"{k} pairs of a space of {self.operator.shape[0]:,} need a basis of {least} vectors, "
                f"{need / 2**30:.2f} GiB; raise basis_budget or ask for fewer pairs"
            )
        return KrylovSpace(self.operator, self.capacity, self.generator, start, locked, scale)

    def _restart_if_full(self, space: KrylovSpace, ritz: Ritz, k: int) -> None:
        if space.size >= space.capacity:
            space.restart(ritz, min(k + max(8, (space.capacity - k) // 2), space.capacity - 1))

    def _due(self, space: KrylovSpace) -> bool:
        """Whether to look at the Ritz pairs now: at each step while that is cheap, then every few."""
        return space.size % (1 + space.size // 100) == 0 or space.size >= space.capacity or space.exhausted

    def _step(self, space: KrylovSpace) -> None:
        space.grow()
        self.matvecs += 1

    def _product(self, vector: Tensor) -> Tensor:
        self.matvecs += 1
        self._tell("certify", 0.0)
        return self.operator.matvec(vector)

    def _spent(self) -> bool:
        return self.matvecs >= self.limit

    def _tell(self, stage: str, residual: float) -> None:
        if self.progress is not None:
            self.progress(Progress(stage, self.matvecs, residual, self.tol))


def _checked_start(start: Tensor, operator: Operator) -> Tensor:
    """The user's start vector in the operator's dtype and place."""
    if tuple(start.shape) != (operator.shape[0],):
        raise InputError(f"start has shape {tuple(start.shape)}, expected ({operator.shape[0]},)")
    if not bool(torch.isfinite(start).all()):
        raise InputError("start holds values that are not finite; leave it out for a random start")
    return start.detach().to(dtype=operator.dtype, device=operator.device)


def _gaps(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each value to the nearest other one that was seen."""
    everything = np.concatenate([values, others])
    distances = np.abs(values[:, None] - everything[None, :])
    distances[range(len(values)), range(len(values))] = np.inf
    nearest: np.ndarray = distances.min(axis=1)
    return np.where(np.isfinite(nearest), nearest, np.abs(values))


def _angle(residual: Any, gap: Any) -> float:
    """The bound on the angle to the true eigenvector, at most a right angle."""
    return float(math.asin(min(1.0, residual / gap))) if gap > 0 else math.pi / 2
