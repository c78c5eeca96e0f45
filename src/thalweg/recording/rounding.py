"""Updates in bfloat16 whose errors do not add up.

What is rounded is the way from where the rounded updates have led so far to where the weights are: an error of one row
is made good by the next. So the weights are known to one rounding of one update, however many rows there are, and each
row is wrong by the difference of two roundings, of at most 2^-8 of the entry and of the entry before.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TILE = 2**14
"""Entries that go through at once: in the cache, and too few for torch to wake other threads."""
STEP = 2.0**-8
"""Largest error of rounding to bfloat16, as a share of what is stored."""


def round_rows(weights: Tensor, reached: Tensor) -> tuple[Tensor, NDArray[np.bool_]]:
    """The rows of updates of weights `(n + 1, P)`: bfloat16 `(n, P)`, and which of them are finite.

    Args:
        weights: those before the first row, and after each.
        reached: `(P,)` where the rounded rows have led so far; it is moved on.
    """
    count, size = len(weights) - 1, weights.shape[1]
    out = torch.empty(count, size, dtype=torch.bfloat16)
    finite = np.ones(count, dtype=np.bool_)
    for start in range(0, size, TILE):
        columns = slice(start, min(start + TILE, size))
        for row in range(count):
            finite[row] &= _tile(weights[row + 1, columns], reached[columns], out[row, columns])
    return out, finite


def round_to(weights: Tensor, reached: Tensor, out: Tensor) -> bool:
    """The way to some weights `(P,)` as one row, into `out`; whether it is finite. `reached` is moved on."""
    finite = True
    for start in range(0, len(weights), TILE):
        columns = slice(start, start + TILE)
        finite &= _tile(weights[columns], reached[columns], out[columns])
    return finite


def _tile(weights: Tensor, reached: Tensor, out: Tensor) -> bool:
    out.copy_(weights - reached)
    if bool(out.isfinite().all()):
        reached += out
        return True
    reached.copy_(weights)
    return False
