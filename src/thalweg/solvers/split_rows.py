"""Directions of which each rank holds its part of the entries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from thalweg.collectives import Ranks
from thalweg.described import Part
from thalweg.directions import Rows
from thalweg.errors import InputError
from thalweg.space import ParameterSpace
from thalweg.sums import inner_products


@dataclass(frozen=True, eq=False)
class SplitRows(Rows):
    """Rows of length P, of which this rank holds the entries `ranks.span(P)`.

    Every operation but `shape`, `dtype` and `head` is one for all ranks at once: each makes the same call, and all get
    the same.

    Attributes:
        tensor: this rank's entries `(k, width)`.
        size: P.
        ranks: the processes that hold the parts.
        space: the parameter space of whole rows.
    """

    tensor: Tensor
    size: int
    ranks: Ranks
    space: ParameterSpace | None = None

    @property
    def span(self) -> slice:
        """Which entries this rank holds."""
        return self.ranks.span(self.size)

    @property
    def shape(self) -> tuple[int, int]:
        """`(k, P)`."""
        return self.tensor.shape[0], self.size

    @property
    def dtype(self) -> torch.dtype:
        """The tensor's dtype."""
        return self.tensor.dtype

    def part(self) -> tuple[Tensor, Part]:
        """This rank's entries, and which they are."""
        return self.tensor, Part(self.ranks.rank, self.ranks.size, ("vectors",))

    def inner(self, vectors: Tensor) -> Tensor:
        """Inner products in float64 on the CPU: `(P,)` gives `(k,)`, `(b, P)` gives `(k, b)`.

        Args:
            vectors: whole, the same on every rank.

        Raises:
            InputError: if the vectors have another length.
        """
        if vectors.shape[-1] != self.size:
            raise InputError(f"vectors of length {vectors.shape[-1]} against directions of length {self.size}")
        return self.ranks.sum(_products(self.tensor, vectors[..., self.span]))

    def combine(self, coefficients: Tensor) -> Tensor:
        """Linear combinations, put together on every rank: `(k,)` gives `(P,)`, `(j, k)` gives `(j, P)`."""
        own = coefficients.to(self.tensor) @ self.tensor
        if own.ndim == 1:
            return self.ranks.whole(own, self.size)
        return torch.stack([self.ranks.whole(row, self.size) for row in own])

    def grams(self) -> Tensor:
        """Float64 `(layers, k, k)`; without a space the whole vector counts as one layer. Computed once."""
        return self._grams

    @cached_property
    def _grams(self) -> Tensor:
        spans = [layer.span for layer in self.space.layers] if self.space else [slice(0, self.size)]
        own = self.span
        parts = []
        for span in spans:
            start, stop = max(span.start, own.start) - own.start, min(span.stop, own.stop) - own.start
            inside = self.tensor[:, start : max(start, stop)] if stop > 0 else self.tensor[:, :0]
            parts.append(_products(inside, inside))
        return self.ranks.sum(torch.stack(parts))

    def head(self, count: int) -> SplitRows:
        """The first `count` rows, a view."""
        return SplitRows(self.tensor[:count], self.size, self.ranks, self.space)

    def cross(self, other: Rows) -> Tensor:
        """Inner products with the rows of `other`: float64 `(k, other k)`."""
        if isinstance(other, SplitRows) and other.ranks is self.ranks and other.size == self.size:
            return self.ranks.sum(_products(self.tensor, other.tensor))
        return super().cross(other)


def _products(one: Tensor, two: Tensor) -> Tensor:
    if one.shape[-1]:
        return inner_products(one, two)
    shape = (len(one), len(two)) if two.ndim == 2 else (len(one),)
    return torch.zeros(shape, dtype=torch.float64)
