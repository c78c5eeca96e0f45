"""Sums over the entries of long vectors.

Over 124 million entries at once float32 sums came out wrong: norms by 1.3 %, inner products by 0.3 %, a matrix times a
vector by 2.7 %. So pieces are summed in the vectors' own precision, and what comes out of them in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

PIECE = 2**16
"""Entries that are summed in the vectors' own precision at a time."""

GPU_PIECE = 2**21
"""The same on a GPU, which sums in trees of its own and waits for each piece to be asked for."""

_CHUNK = 2**20


def pieces(width: int, device: torch.device | None = None) -> list[slice]:
    """The entries of a vector of some width, a piece at a time; one empty piece of none."""
    step = GPU_PIECE if device is not None and device.type == "cuda" else PIECE
    return [slice(start, start + step) for start in range(0, max(width, 1), step)]


def dot(one: Tensor, two: Tensor) -> float:
    """The inner product of two vectors `(P,)`."""
    return float(total([torch.dot(one[piece], two[piece]) for piece in pieces(len(one), one.device)]))


def length(vector: Tensor) -> float:
    """The Euclidean length of a vector `(P,)`."""
    parts = [torch.linalg.vector_norm(vector[piece]) for piece in pieces(len(vector), vector.device)]
    return float(torch.linalg.vector_norm(_wide(parts)))


def times(rows: Tensor, vector: Tensor) -> Tensor:
    """`rows @ vector` for `(k, P)` and `(P,)`: `(k,)`, in the vector's dtype."""
    return total([rows[:, piece] @ vector[piece] for piece in pieces(len(vector), vector.device)]).to(vector.dtype)


def total(parts: list[Tensor]) -> Tensor:
    """The sum of what came out of the pieces, in float64."""
    return _wide(parts).sum(dim=0)


def inner_products(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b.T` over the last axis, all of it in float64 and in chunks; the result is on the CPU.

    Over no entries, as where a rank holds none of a layer's, they are zeros.
    """
    found: Tensor | None = None
    for start in range(0, max(a.shape[-1], 1), _CHUNK):
        right = b[..., start : start + _CHUNK].to(a.device).double()
        part = a[..., start : start + _CHUNK].double() @ right.movedim(-1, 0)
        found = part if found is None else found + part
    assert found is not None
    return found.cpu()


def _wide(parts: list[Tensor]) -> Tensor:
    """Partial results, stacked, in float64 where the device has that; MPS does not."""
    stacked = torch.stack(parts)
    return stacked if stacked.device.type == "mps" else stacked.double()
