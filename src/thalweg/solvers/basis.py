"""Where the rows of a Krylov basis are held: in memory, in memory as bfloat16, or in a file that is mapped.

Rows are given and taken in the operator's dtype and place. Held as bfloat16 they come back rounded, by 2⁻⁹ at most in
each entry and by about 1e-3 of their length: whoever asks for such a basis works with the rounded rows, and measures.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import InputError
from thalweg.memory import free_memory
from thalweg.operators.base import Operator
from thalweg.sums import length, pieces, total

Storage = Literal["memory", "bfloat16", "disk"]

STORAGES: tuple[Storage, ...] = ("memory", "bfloat16", "disk")

_FIRST_ROWS = 64


class Basis:
    """Rows of length P, of which the first `count` are worked with; of their entries those that this rank holds.

    Args:
        operator: whose P, dtype and place the rows have.
        most: how many rows may come to be held; room is taken as they come.
        storage: "memory", "bfloat16" or "disk".
        folder: for the file of "disk"; the system's temporary folder unless given. The file has no name there, so
            that nothing is left behind by a process that is killed (on Windows it is removed at the end).
    """

    def __init__(
        self, operator: Operator, most: int, storage: Storage = "memory", folder: str | Path | None = None
    ) -> None:
        self.most = most
        self.storage = storage
        self.width, self.ranks = operator.width, operator.ranks
        self.dtype, self.device = operator.dtype, operator.device
        self.rounded = storage == "bfloat16" and self.dtype != torch.bfloat16
        self._folder = Path(tempfile.gettempdir() if folder is None else folder)
        self._file = tempfile.TemporaryFile(dir=folder) if storage == "disk" else None  # noqa: SIM115 - as long as self
        if self._file is not None:
            weakref.finalize(self, self._file.close)
        self._rows = self._allocated(min(most, _FIRST_ROWS))

    def __len__(self) -> int:
        return self._rows.shape[0]

    def row(self, index: int) -> Tensor:
        """Row `index` `(P,)` as it is held; a view where that is possible."""
        return self._rows[index].to(dtype=self.dtype, device=self.device)

    def put(self, index: int, vector: Tensor) -> None:
        """Hold a vector `(P,)` as row `index`, at most the first one that is not held yet."""
        if index == len(self):
            self._grow(min(2 * index, self.most))
        self._rows[index].copy_(vector)

    def held(self, count: int) -> Tensor:
        """The first `count` rows in the dtype that they are held in: a view `(count, P)`."""
        return self._rows[:count]

    def load(self, rows: Tensor) -> None:
        """Hold these rows `(n, P)`, of the dtype of `held`, from the first on."""
        if rows.shape[0] > len(self):
            self._grow(min(max(rows.shape[0], _FIRST_ROWS), self.most))
        self._rows[: rows.shape[0]].copy_(rows)

    def inner(self, vector: Tensor, count: int) -> Tensor:
        """Inner products of the first `count` rows with a vector: `(count,)`."""
        return self.ranks.sum(self._inner(vector, count)).to(vector.dtype)

    def inner_and_square(self, vector: Tensor, count: int) -> tuple[Tensor, float]:
        """The same, and the vector's squared length, in one sum over the ranks."""
        own = self._inner(vector, count)
        both = self.ranks.sum(torch.cat([own, own.new_tensor([length(vector) ** 2])]))
        return both[:-1].to(vector.dtype), float(both[-1])

    def _inner(self, vector: Tensor, count: int) -> Tensor:
        if not (count and self.width):
            return torch.zeros(count, dtype=torch.float64, device=vector.device)
        return total([self._part(count, span) @ vector[span] for span in pieces(self.width)])

    def without(self, vector: Tensor, coefficients: Tensor) -> Tensor:
        """The vector less the rows times their coefficients `(count,)`: `(P,)`."""
        count = len(coefficients)
        out = torch.empty_like(vector)
        for span in pieces(self.width):
            torch.addmv(vector[span], self._part(count, span).T, coefficients, alpha=-1, out=out[span])
        return out

    def combine(self, mix: np.ndarray) -> Tensor:
        """The rows `mix.T @ rows` for columns `(count, n)`: `(n, P)`."""
        weights = self._weights(mix)
        out = torch.empty(weights.shape[0], self.width, dtype=self.dtype, device=self.device)
        for span in pieces(self.width):
            out[:, span] = weights @ self._part(weights.shape[1], span)
        return out

    def rotate(self, mix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Replace the first n rows by `mix.T @ rows`.

        Returns:
            For a rounded basis the inner products of what the new rows should be with what they are, and of what they
            are with each other, float64 `(n, n)` each; empty for the other kinds.
        """
        weights = self._weights(mix)
        count, before = weights.shape
        side = count if self.rounded else 0
        meant, kept = np.zeros((side, side)), np.zeros((side, side))
        for span in pieces(self.width):
            exact = weights @ self._part(before, span)
            self._rows[:count, span] = exact.to(self._rows)
            if self.rounded:
                now = self._part(count, span).double()
                meant += (exact.double() @ now.T).cpu().numpy()
                kept += (now @ now.T).cpu().numpy()
        if self.rounded and not self.ranks.alone:
            meant, kept = self.ranks.sum(torch.from_numpy(np.stack([meant, kept]))).numpy()
        return meant, kept

    def _weights(self, mix: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(mix.T)).to(dtype=self.dtype, device=self.device)

    def _part(self, count: int, span: slice) -> Tensor:
        return self._rows[:count, span].to(dtype=self.dtype, device=self.device)

    def _grow(self, rows: int) -> None:
        if self._file is not None:
            self._rows = self._allocated(rows)  # the same file, longer
            return
        grown = self._allocated(rows)
        grown[: len(self)] = self._rows
        self._rows = grown

    def _allocated(self, rows: int) -> Tensor:
        if self._file is None:
            dtype = torch.bfloat16 if self.storage == "bfloat16" else self.dtype
            return torch.empty(rows, self.width, dtype=dtype, device=self.device)
        length = rows * self.width * self.dtype.itemsize
        try:  # take the room now: a full disk found while writing to a mapping kills the process
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file.fileno(), 0, length)
            else:
                self._file.truncate(length)
        except OSError as error:
            raise InputError(
                f"no room for a basis of {rows} vectors, {length / 2**30:.2f} GiB, in {self._folder} ({error}); "
                "name another basis_folder, or lower basis_budget"
            ) from error
        mapped = np.memmap(self._file, dtype=np.uint8, mode="r+", shape=(length,))
        return torch.from_numpy(mapped).view(self.dtype).view(rows, self.width)


def capacity(operator: Operator, storage: Storage, budget: int | None, folder: str | Path | None) -> int:
    """How many rows fit a budget in bytes; half of what is free in memory, or on the disk, unless given.

    Raises:
        InputError: if the folder does not exist.
    """
    place = Path(tempfile.gettempdir() if folder is None else folder)
    if storage == "disk" and not place.is_dir():
        raise InputError(f"basis_folder={str(place)!r} is no folder; make it, or leave it out for a temporary one")
    if budget is None:
        budget = (shutil.disk_usage(place).free if storage == "disk" else free_memory(operator.device)) // 2
    itemsize = torch.bfloat16.itemsize if storage == "bfloat16" else operator.dtype.itemsize
    return budget // (max(operator.width, 1) * itemsize)
