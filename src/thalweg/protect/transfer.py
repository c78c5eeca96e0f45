"""What was kept and what was gained over a stream of tasks, as the field measures it.

`R[i, j]` is the accuracy on task j once tasks 0 to i were learned. Sources: D. Lopez-Paz, M. Ranzato, *Gradient
Episodic Memory*, NeurIPS 2017, arXiv 1706.08840 (average accuracy, backward and forward transfer); A. Chaudhry et al.,
ECCV 2018, arXiv 1801.10112 (forgetting).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from thalweg.errors import InputError
from thalweg.tables import Table, Tabular, quantities


@dataclass(frozen=True)
class Transfer(Tabular):
    """How a stream of T tasks was learned; shares of 1.

    Attributes:
        accuracy: the mean over all tasks at the end, `mean_j R[T−1, j]`.
        backward: `mean_{j<T−1} (R[T−1, j] − R[j, j])`; negative where later tasks cost the earlier ones.
        forward: `mean_{j>0} (R[j−1, j] − b_j)`, what a task gains before it is learned; None without a start.
        forgetting: `mean_{j<T−1} max_{i<T−1} (R[i, j] − R[T−1, j])`.
        learning: `mean_j R[j, j]`, each task just after it was learned: what the protection left of learning.
    """

    accuracy: float
    backward: float
    forward: float | None
    forgetting: float
    learning: float

    def to_table(self) -> Table:
        """A row for each of them."""
        return quantities(**asdict(self))


def transfer(matrix: ArrayLike, start: ArrayLike | None = None) -> Transfer:
    """Average accuracy, backward and forward transfer, forgetting.

    Args:
        matrix: R `(T, T)`, rows by what was learned last; entries above the diagonal are needed for forward transfer.
        start: b `(T,)`, the accuracies of the untrained net.

    Raises:
        InputError: if R is not square with at least two tasks, or holds values outside of 0 to 1.
    """
    found = np.asarray(matrix, dtype=float)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or len(found) < 2:
        raise InputError(f"the matrix has shape {found.shape}, expected (tasks, tasks) with two tasks or more")
    lower = found[np.tril_indices(len(found))]
    if not ((lower >= 0) & (lower <= 1)).all():
        raise InputError("accuracies are shares from 0 to 1; an entry on or below the diagonal is not")
    last, own = found[-1, :-1], np.diag(found)
    best = np.array([found[j:-1, j].max() for j in range(len(found) - 1)])
    forward = None
    if start is not None:
        begun = np.asarray(start, dtype=float)
        if begun.shape != (len(found),):
            raise InputError(f"start has shape {begun.shape}, expected ({len(found)},)")
        forward = float((np.diag(found, 1) - begun[1:]).mean())
    return Transfer(
        float(found[-1].mean()),
        float((last - own[:-1]).mean()),
        forward,
        float((best - last).mean()),
        float(own.mean()),
    )
