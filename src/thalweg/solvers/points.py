"""Families of vectors in the span of a trajectory's updates U: `X = A U`, with or without their mean.

A is never made where it is a choice of rows (updates) or sums of them (weights): only what it does to a few columns,
`A M`, and what its transpose does, `Aᵀ W`. Both are all that principal components need: `X Xᵀ W = A U Uᵀ Aᵀ W`.

A point that is made with an update that is not finite is left out: that update itself, every weight after it, the
gradients that follow from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from thalweg.errors import InputError
from thalweg.recording.record import Window, check_window
from thalweg.recording.trajectory import Trajectory

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True, eq=False)
class Points(ABC):
    """n points `A U`, less their mean if they are centred.

    Attributes:
        total: T, the rows of U.
        rows: the rows of U that the points belong to, ascending.
        center: whether the mean is subtracted.
        left_out: how many points are missing, because an update is not finite.
    """

    total: int
    rows: Tensor
    center: bool
    left_out: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def extent(self) -> tuple[int, int]:
        """The rows of U from the first to behind the last that the points are made of."""
        return int(self.rows[0]), int(self.rows[-1]) + 1

    def within(self, first: int, last: int) -> Points:
        """The same points of the rows `first` to `last` of U alone."""
        return replace(self, total=last - first, rows=self.rows - first)

    @abstractmethod
    def forward(self, matrix: Tensor) -> Tensor:
        """`A M` without centring: `(T, m)` gives `(n, m)`."""

    @abstractmethod
    def backward(self, matrix: Tensor) -> Tensor:
        """`Aᵀ W` without centring: `(n, m)` gives `(T, m)`."""

    def apply(self, matrix: Tensor) -> Tensor:
        """`A M`: `(T, m)` gives `(n, m)`."""
        out = self.forward(matrix)
        return out - out.mean(dim=0) if self.center else out

    def adjoint(self, matrix: Tensor) -> Tensor:
        """`Aᵀ W`: `(n, m)` gives `(T, m)`."""
        return self.backward(matrix - matrix.mean(dim=0) if self.center else matrix)

    def energy(self, matrix: Tensor) -> float:
        """The sum of the squares of `A M`."""
        out = self.forward(matrix)
        total = float(torch.linalg.vector_norm(out)) ** 2
        return total - len(self) * float(torch.linalg.vector_norm(out.mean(dim=0))) ** 2 if self.center else total


class Chosen(Points):
    """Some of the updates."""

    def forward(self, matrix: Tensor) -> Tensor:
        """The rows, a view where they follow each other."""
        first, last = self.extent
        return matrix[first:last] if last - first == len(self.rows) else matrix[self.rows]

    def backward(self, matrix: Tensor) -> Tensor:
        """Zeros but for the rows."""
        return torch.zeros(self.total, matrix.shape[1], dtype=matrix.dtype).index_copy_(0, self.rows, matrix)


class Path(Points):
    """The weights, from the point before the first row on: n + 1 of them for n rows, the first at the origin."""

    def __len__(self) -> int:
        return len(self.rows) + 1

    def forward(self, matrix: Tensor) -> Tensor:
        """Zeros and then the sums of the rows so far."""
        start = torch.zeros(1, matrix.shape[1], dtype=matrix.dtype)
        return torch.cat([start, matrix[self.rows].cumsum(dim=0)])

    def backward(self, matrix: Tensor) -> Tensor:
        """For each row the sum of the points from it on."""
        sums = matrix[1:].flip(0).cumsum(dim=0).flip(0)
        return torch.zeros(self.total, matrix.shape[1], dtype=matrix.dtype).index_copy_(0, self.rows, sums)


@dataclass(frozen=True, eq=False)
class Mapped(Points):
    """Any linear combinations.

    Attributes:
        matrix: A, sparse float64 `(n, T)`.
    """

    matrix: csr_matrix

    @property
    def extent(self) -> tuple[int, int]:
        """The rows of U from the first to behind the last that the points are made of."""
        used = self.matrix.indices[self.matrix.data != 0]
        return int(used.min()), int(used.max()) + 1

    def within(self, first: int, last: int) -> Mapped:
        """The same points of the rows `first` to `last` of U alone."""
        return replace(self, total=last - first, rows=self.rows - first, matrix=self.matrix[:, first:last])

    def forward(self, matrix: Tensor) -> Tensor:
        """`A M`."""
        return torch.from_numpy(self.matrix @ matrix.numpy())

    def backward(self, matrix: Tensor) -> Tensor:
        """`Aᵀ W`."""
        return torch.from_numpy(self.matrix.T @ matrix.numpy())


def chosen_updates(t: Trajectory, rows: Tensor, center: bool) -> Chosen:
    """The updates of these rows."""
    usable = t.usable[rows]
    return Chosen(len(t), rows[usable], center, len(rows) - int(usable.sum()))


def weights_after(t: Trajectory, rows: Tensor, center: bool) -> Path:
    """The weights before the first of these rows and after each of them, up to the first that is not finite.

    Raises:
        InputError: if steps are missing between them.
    """
    refuse_gaps(t, rows, "weights")
    known = int(t.usable[rows].long().cumprod(dim=0).sum())
    return Path(len(t), rows[:known], center, len(rows) - known)


def mapped(t: Trajectory, rows: Tensor, matrix: csr_matrix, center: bool) -> Mapped:
    """Combinations `matrix` `(n, T)` of updates that belong to these rows."""
    spoiled = abs(matrix) @ (~t.usable).double().numpy()
    made = torch.from_numpy(spoiled == 0)
    return Mapped(len(t), rows[made], center, len(rows) - int(made.sum()), matrix[made.numpy()])


def rows_for(t: Trajectory, k: int, window: Window | None) -> Tensor:
    """The rows of a window.

    Raises:
        InputError: if there are fewer than k + 1.
    """
    rows = t.rows_in(window)
    if len(rows) < k + 1:
        last = f"recorded are steps 0 to {int(t.steps[-1])}" if len(t) else "nothing is recorded"
        raise InputError(
            f"{_place(window)} holds {len(rows)} rows, k={k} needs {k + 1}; {last}: lower k or widen the window"
        )
    return rows


def check_enough(points: Points, k: int, window: Window | None) -> None:
    """Raise an InputError if fewer than k + 1 rows are left beside those that are not finite."""
    left = len(points.rows)
    if left < k + 1 and points.left_out:
        raise InputError(
            f"{_place(window)} holds {left} rows that can be used, k={k} needs {k + 1}; {points.left_out} more are "
            "left out, since updates that are not finite enter them: choose a window without those, or lower k"
        )


def refuse_gaps(t: Trajectory, rows: Tensor, what: str, later: int = 0) -> None:
    """Raise an InputError if steps are missing between these rows, with the windows in which `what` is known."""
    start, stop = int(t.starts[rows[0]]), int(t.steps[rows[-1]]) + 1
    for gap in t.gaps:
        if start < gap[1] and gap[0] < stop:
            raise InputError(
                f"steps {gap[0]} to {gap[1] - 1} are missing, and {what} after them need all of them; "
                f"choose a window that ends at {gap[0]} or begins at {gap[1] + later}"
            )


def _place(window: Window | None) -> str:
    return "the trajectory" if window is None else f"window={check_window(window)}"
