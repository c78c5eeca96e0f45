"""A linear sketch of long vectors that nearly keeps inner products: CountSketch, layer by layer.

Of a layer with more than d entries the sketch keeps d numbers, each the sum of the entries that a hash puts there,
with random signs (Charikar, Chen & Farach-Colton, 2002): `⟨Su, Sv⟩` is `⟨u, v⟩` on average, with a variance of at most
`(|u|²|v|² + ⟨u, v⟩²) / d`. A layer of at most d entries is kept as it is. Layers have numbers of their own, so that the
errors of a sum over layers are those of its terms and no more.

The hash: the layer is cut into pieces of d; entry j of piece c goes to `(j + r_c) mod d` with sign `s_c t_j`. Within
a piece nothing collides, and two entries of different pieces do with probability 1/d. The r_c of d pieces that follow
each other, a *round*, all differ, and each round has signs t of its own: equal shifts with equal signs would let
pieces that are alike collide as a whole. A row is read once from front to back, and the hash takes about P/d numbers
of memory. Random bits come from PCG64, whose stream NumPy promises to keep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.recording.keeping import Keeping
from thalweg.space import Layer, ParameterSpace


@dataclass(frozen=True)
class _Hash:
    """Of one layer.

    Attributes:
        shifts: `(pieces,)`, r.
        flips: `(pieces,)` bool, where s is -1.
        signs: `(rounds, d)` ±1, t.
    """

    shifts: NDArray[np.int64]
    flips: NDArray[np.bool_]
    signs: NDArray[Any]


class Sketch:
    """S, a random linear map from flat vectors `(P,)` to `(D,)`.

    Args:
        space: what the vectors are.
        keeping: width and seed.

    Attributes:
        layers: where each layer's numbers are.
        size: D.
        width: d.
    """

    def __init__(self, space: ParameterSpace, keeping: Keeping) -> None:
        columns = keeping.columns(space)
        self.layers, self.size = columns.layers, columns.size
        self.width = keeping.width
        self._from = space.layers
        self._hashes = [
            None if kept.size == layer.size else _hash(layer, number, keeping)
            for number, (layer, kept) in enumerate(zip(space.layers, self.layers, strict=True))
        ]

    def of_differences(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Sketches of the differences of rows: `(n + 1, P)` gives `(n, D)` in the same dtype."""

        def piece(columns: slice) -> NDArray[Any]:
            found: NDArray[Any] = weights[1:, columns] - weights[:-1, columns]
            return found

        return self._apply(piece, len(weights) - 1, weights.dtype)

    def of_rows(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Sketches of rows: `(n, P)` gives `(n, D)` in the same dtype."""

        def piece(columns: slice) -> NDArray[Any]:
            found: NDArray[Any] = rows[:, columns]
            return found

        return self._apply(piece, len(rows), rows.dtype)

    def of(self, vectors: Tensor) -> Tensor:
        """Sketches of vectors `(k, P)`: float64 `(k, D)`, on the CPU."""

        def piece(columns: slice) -> NDArray[Any]:
            found: NDArray[Any] = vectors[:, columns].detach().to("cpu", torch.float64).numpy()
            return found

        return torch.from_numpy(self._apply(piece, len(vectors), np.dtype(np.float64)))

    def error_variance(self, gram_of: Callable[[Layer, Layer], Tensor]) -> Tensor:
        """Variance of the entries of a sketched Gram matrix, at most: float64 `(T, T)`.

        `Σ_l (G_l,ii G_l,jj + G_l,ij²) / d_l` over the layers that are no longer whole, with the sketched for the true.

        Args:
            gram_of: a layer's Gram matrix `(T, T)`, from the layer and from where its numbers are.
        """
        total = torch.zeros((), dtype=torch.float64)
        for layer, kept in zip(self._from, self.layers, strict=True):
            if kept.size < layer.size:
                gram = gram_of(layer, kept)
                squares = torch.diagonal(gram)
                total = total + (squares[:, None] * squares + gram**2) / kept.size
        return total

    def _apply(self, piece: Callable[[slice], NDArray[Any]], count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        out = np.zeros((count, self.size), dtype=dtype)
        with np.errstate(all="ignore"):
            for layer, kept, hashed in zip(self._from, self.layers, self._hashes, strict=True):
                if hashed is None:
                    out[:, kept.span] = piece(layer.span)
                else:
                    self._add(out[:, kept.span], piece, layer, hashed)
        return out

    def _add(self, out: NDArray[Any], piece: Callable[[slice], NDArray[Any]], layer: Layer, hashed: _Hash) -> None:
        signs = hashed.signs.astype(out.dtype)
        for number, start in enumerate(range(layer.start, layer.stop, self.width)):
            values = piece(slice(start, min(start + self.width, layer.stop)))
            length, shift = values.shape[1], int(hashed.shifts[number])
            values = values * signs[number // self.width, :length]
            if hashed.flips[number]:
                np.negative(values, out=values)
            before = min(length, self.width - shift)
            out[:, shift : shift + before] += values[:, :before]
            if length > before:
                out[:, : length - before] += values[:, before:]


def _hash(layer: Layer, number: int, keeping: Keeping) -> _Hash:
    """The hash of one layer, the `number`-th."""
    bits = np.random.PCG64([keeping.seed, number])
    width = keeping.width
    pieces = -(-layer.size // width)
    rounds = -(-pieces // width)
    shifts = np.concatenate([np.argsort(bits.random_raw(width), kind="stable") for _ in range(rounds)])
    flips = (bits.random_raw(pieces) >> np.uint64(63)).astype(np.bool_)
    signs = 1 - 2 * (bits.random_raw(rounds * width) >> np.uint64(63)).astype(np.int8)
    return _Hash(shifts[:pieces], flips, signs.reshape(rounds, width))
