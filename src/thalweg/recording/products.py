"""Products of a trajectory's updates U `(T, P)`, summed in float64 over the tiles that `columns` makes.

Float64 is what the figures need: the singular values of U are the roots of the eigenvalues of `U Uᵀ`, so an error ε of
the first eigenvalue is an error `ε σ₁² / 2σ` of a singular value σ. With products in float32 (ε about 6e-8) a value of
1e-3·σ₁ would be wrong by 3e-5·σ₁; with float64 by 1e-13·σ₁, and none by more than about 1e-8·σ₁.

Few rows stand on the left of each product: `Mᵀ U` is up to five times as fast as `Uᵀ M`, of a tile stored by rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from thalweg.space import Layer

Tiles = Iterable[tuple[slice, Tensor]]

GRAM_COLUMNS = 2048
"""Columns of a tile for a Gram matrix, at the least: with fewer, the matrix's own traffic costs more than products."""
BLOCKS = 8
"""Into how many blocks of rows the Gram matrix is cut, of which one triangle is multiplied: 9/16 of the work."""
LEAST_ROWS, MOST_ROWS = 64, 512


def add_grams(grams: Tensor, tiles: Tiles, layers: Sequence[Layer], known: int = 0) -> None:
    """Fill in the Gram matrices `U_l U_lᵀ` of layers, as far as they are not known.

    Args:
        grams: float64 `(layers, T, T)`; zero but for the first `known` rows and columns of each.
        tiles: the columns from the first layer's to the last one's.
        layers: where each layer's columns are.
        known: rows whose products with each other are there already.
    """
    count = grams.shape[1]
    height = min(max(-(-(count - known) // BLOCKS), LEAST_ROWS), MOST_ROWS)
    blocks = [slice(a, min(a + height, count)) for a in range(known, count, height)]
    for here, tile in tiles:
        for gram, part in zip(grams, _split(here, tile, layers), strict=True):
            if part is None:
                continue
            for block in blocks:
                gram[block, : block.stop].addmm_(part[block], part[: block.stop].T)
    for gram in grams:
        for block in blocks:
            gram[: block.start, block] = gram[block, : block.start].T


def inner(tiles: Tiles, vectors: Tensor, rows: int) -> Tensor:
    """`U Eᵀ`, float64 `(rows, k)`, for E of shape `(k, P)`."""
    out = torch.zeros(len(vectors), rows, dtype=torch.float64)
    for here, tile in tiles:
        out.addmm_(vectors[:, here].to("cpu", torch.float64), tile.T)
    return out.T.contiguous()


def gram_times(tiles: Tiles, factor: Tensor) -> Tensor:
    """`U (Uᵀ M)`, float64 `(T, m)`, for M of shape `(T, m)`: one pass, and no T×T matrix."""
    left = factor.T.contiguous()
    out = torch.zeros_like(left)
    for _, tile in tiles:
        out.addmm_(left @ tile, tile.T)
    return out.T.contiguous()


def between(tiles: Tiles, left: Tensor, right: Tensor, layers: Sequence[Layer]) -> Tensor:
    """`(A U_l) (B U_l)ᵀ` for each layer, float64 `(layers, a, b)`, for A `(a, T)` and B `(b, T)`."""
    out = torch.zeros(len(layers), len(left), len(right), dtype=torch.float64)
    for here, tile in tiles:
        for total, part in zip(out, _split(here, tile, layers), strict=True):
            if part is not None:
                one = left @ part
                total.addmm_(one, (one if right is left else right @ part).T)
    return out


def combine(tiles: Tiles, weights: Tensor, out: Tensor) -> None:
    """`W U` for W of shape `(j, T)`, into the columns of `out` `(j, P)` that the tiles cover."""
    for here, tile in tiles:
        out[:, here] = (weights @ tile).to(out.dtype)


def _split(here: slice, tile: Tensor, layers: Sequence[Layer]) -> list[Tensor | None]:
    """Each layer's columns of a tile, None where it has none in it."""
    found: list[Tensor | None] = []
    for layer in layers:
        start, stop = max(layer.start, here.start), min(layer.stop, here.stop)
        found.append(tile[:, start - here.start : stop - here.start] if start < stop else None)
    return found
