"""Weights to updates, in place, and what adding them up again does not give back.

`w + fl(w' - w)` is `w'` except where a weight's sign or size changes much (Sterbenz). Those few entries are the
patches. A tile of rows and columns goes through all passes while it is in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE_BYTES = 2**21
"""Of one tile; two more of this size are scratch. Small enough for the last cache; much smaller ones would make the
thread that writes ask for the interpreter so often that training waits for it."""

_BITS: dict[int, Any] = {4: np.int32, 8: np.int64}


@dataclass(frozen=True)
class Patches:
    """What the updates alone do not tell.

    Attributes:
        rows: `(m,)` int64, with `columns`: the entries at which `w + fl(w' - w)` is not `w'`.
        columns: `(m,)` int64.
        values: `(m,)`, w' there.
        finite: `(n,)` bool, whether every entry of the row's update is a finite number.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[Any]
    finite: NDArray[np.bool_]


def to_updates(weights: NDArray[Any]) -> Patches:
    """Turn weights `(n + 1, P)` into the first row and n differences, in place, from the last row to the first."""
    count, size = weights.shape[0] - 1, weights.shape[1]
    width = max(1, min(size, TILE_BYTES // weights.itemsize))
    height = max(1, min(count, TILE_BYTES // (width * weights.itemsize)))
    scratch = np.empty((2, height, width), dtype=weights.dtype)
    marks = np.empty((height, width), dtype=np.bool_)
    found: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    sums = np.zeros(count, dtype=weights.dtype)
    with np.errstate(all="ignore"):
        for stop in range(count, 0, -height):
            first = max(stop - height, 0)
            for start in range(0, size, width):
                part = weights[first : stop + 1, start : start + width]
                update, again = scratch[:, : stop - first, : part.shape[1]]
                missed = _tile(part, update, again, marks[: stop - first, : part.shape[1]])
                if len(missed[0]):
                    found.append((missed[0] + first, missed[1] + start, part[1:][missed]))
                sums[first:stop] += update.sum(axis=1)
                part[1:] = update
    finite = np.isfinite(sums)
    for row in np.flatnonzero(~finite):  # a sum of finite numbers may overflow
        finite[row] = np.isfinite(weights[row + 1]).all()
    none = np.empty(0, dtype=np.int64)
    found.append((none, none, np.empty(0, dtype=weights.dtype)))
    rows, columns, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Patches(rows, columns, values, finite)


def _tile(
    part: NDArray[Any], update: NDArray[Any], again: NDArray[Any], marks: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Differences of one tile into `update`; where adding them misses: rows and columns in the tile."""
    bits = _BITS[part.itemsize]
    np.subtract(part[1:], part[:-1], out=update)
    np.add(part[:-1], update, out=again)
    np.not_equal(again.view(bits), part[1:].view(bits), out=marks)
    missed = np.flatnonzero(marks)
    return np.divmod(missed, marks.shape[1])
