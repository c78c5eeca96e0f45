"""Where the rows of a Krylov basis are held: in memory, in memory as bfloat16, or in a file that is mapped.

Rows are given and taken in the operator's dtype and place. Held as bfloat16 they come back rounded, by 2⁻⁹ at most in
each entry and by about 1e-3 of their length: whoever asks for such a basis works with the rounded rows, and measures.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
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
_ROOM = 2**29
"""Bytes of a block of rows that is taken at once, or one row."""


class Basis:
    """Rows of length P, of which the first `count` are worked with; of their entries those that this rank holds.

    Args:
        operator: whose P, dtype and place the rows have.
        most: how many rows may come to be held; room is taken as they come, in blocks.
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
        self._aside = torch.empty(0, dtype=self.dtype)
        self._blocks: list[Tensor] = []
        self._grow(_FIRST_ROWS)

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks)

    def row(self, index: int) -> Tensor:
        """Row `index` `(P,)` as it is held; a view where that is possible."""
        return self._at(index).to(dtype=self.dtype, device=self.device)

    def put(self, index: int, vector: Tensor) -> None:
        """Hold a vector `(P,)` as row `index`, at most the first one that is not held yet."""
        if index == len(self):
            self._grow(2 * index)
        self._at(index).copy_(vector)

    def held(self, count: int) -> Tensor:
        """The first `count` rows in the dtype that they are held in, on the CPU: `(count, P)`."""
        return torch.cat([block[: max(count - first, 0)].cpu() for first, block in self._numbered()])

    def load(self, rows: Tensor) -> None:
        """Hold these rows `(n, P)`, of the dtype of `held`, from the first on."""
        while len(self) < len(rows):
            self._grow(len(rows))
        for first, block in self._numbered():
            part = rows[first : first + len(block)]
            block[: len(part)].copy_(part)

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
        spans = pieces(self.width, self.device)
        return total([torch.cat([rows @ vector[span] for _, rows in self._parts(count, span)]) for span in spans])

    def without(self, vector: Tensor, coefficients: Tensor) -> Tensor:
        """The vector less the rows times their coefficients `(count,)`: `(P,)`."""
        out = vector.clone()
        for span in pieces(self.width, self.device):
            for first, rows in self._parts(len(coefficients), span):
                out[span].addmv_(rows.T, coefficients[first : first + len(rows)], alpha=-1)
        return out

    def combine(self, mix: np.ndarray) -> Tensor:
        """The rows `mix.T @ rows` for columns `(count, n)`: `(n, P)`."""
        weights = self._weights(mix)
        out = torch.empty(weights.shape[0], self.width, dtype=self.dtype, device=self.device)
        for span in pieces(self.width, self.device):
            out[:, span] = self._mixed(weights, span)
        return out

    def rotate(self, mix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Replace the first n rows by `mix.T @ rows`.

        Returns:
            For a rounded basis the inner products of what the new rows should be with what they are, and of what they
            are with each other, float64 `(n, n)` each; empty for the other kinds.
        """
        weights = self._weights(mix)
        count = len(weights)
        side = count if self.rounded else 0
        meant, kept = np.zeros((side, side)), np.zeros((side, side))
        for span in pieces(self.width, self.device):
            exact = self._mixed(weights, span)
            for first, block in self._numbered():
                part = exact[first : first + len(block)]
                block[: len(part), span] = part.to(block)
            if self.rounded:
                now = torch.cat([rows.double() for _, rows in self._parts(count, span)])
                meant += (exact.double() @ now.T).cpu().numpy()
                kept += (now @ now.T).cpu().numpy()
        if self.rounded and not self.ranks.alone:
            meant, kept = self.ranks.sum(torch.from_numpy(np.stack([meant, kept]))).numpy()
        return meant, kept

    def _mixed(self, weights: Tensor, span: slice) -> Tensor:
        """`weights @ rows` over some entries: `(n, count)` gives `(n, entries)`."""
        n, count = weights.shape
        parts = [weights[:, i : i + len(rows)] @ rows for i, rows in self._parts(count, span)]
        if not parts:
            return weights.new_zeros(n, len(range(self.width)[span]))
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0)

    def _weights(self, mix: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(mix.T)).to(dtype=self.dtype, device=self.device)

    def _parts(self, count: int, span: slice) -> Iterator[tuple[int, Tensor]]:
        """Some entries of the first `count` rows, block by block: the number of the first row, and the rows.

        What is held otherwise than it is worked with is good until the next block: a processor takes new room for it
        so slowly, page by page, that sums over 40 rows took five times as long.
        """
        for first, block in self._numbered():
            if first < count:
                yield first, self._worked_with(block[: count - first, span])

    def _worked_with(self, rows: Tensor) -> Tensor:
        if not self.rounded or self.device.type != "cpu":
            return rows.to(dtype=self.dtype, device=self.device)
        if self._aside.numel() < rows.numel():
            self._aside = torch.empty(rows.numel(), dtype=self.dtype)
        return self._aside[: rows.numel()].view(rows.shape).copy_(rows)

    def _numbered(self) -> Iterator[tuple[int, Tensor]]:
        """The blocks with the numbers of their first rows."""
        first = 0
        for block in self._blocks:
            yield first, block
            first += len(block)

    def _at(self, index: int) -> Tensor:
        return next(block[index - first] for first, block in self._numbered() if index < first + len(block))

    def _grow(self, rows: int) -> None:
        """Take room for up to so many rows in all. A file grows; in memory nothing is moved, a block is added."""
        rows = min(rows, self.most)
        if self._file is not None:
            self._blocks = [self._allocated(rows)]  # the same file, longer
            return
        fit = max(_ROOM // max(self.width * self._held_as.itemsize, 1), 1)
        self._blocks.append(self._allocated(min(rows - len(self), fit)))

    @property
    def _held_as(self) -> torch.dtype:
        return torch.bfloat16 if self.storage == "bfloat16" else self.dtype

    def _allocated(self, rows: int) -> Tensor:
        if self._file is None:
            return torch.empty(rows, self.width, dtype=self._held_as, device=self.device)
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
