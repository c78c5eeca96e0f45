"""Directions of which each rank holds its part of the entries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from thalweg.collectives import Layout, Ranks
from thalweg.described import Part
from thalweg.errors import InputError
from thalweg.rows import Rows
from thalweg.space import ParameterSpace
from thalweg.sums import inner_products


@dataclass(frozen=True, eq=False)
class SplitRows(Rows):
    """Rows of length P, of which this rank holds its entries.

    Every operation but `shape`, `dtype` and `head` is one for all ranks at once: each makes the same call, and all get
    the same.

    Attributes:
        tensor: this rank's entries `(k, width)`.
        layout: which entries each rank holds.
        space: the parameter space of whole rows.
    """

    tensor: Tensor
    layout: Layout
    space: ParameterSpace | None = None

    @property
    def ranks(self) -> Ranks:
        """The processes that hold the parts."""
        return self.layout.ranks

    @property
    def shape(self) -> tuple[int, int]:
        """`(k, P)`."""
        return self.tensor.shape[0], self.layout.size

    @property
    def dtype(self) -> torch.dtype:
        """The tensor's dtype."""
        return self.tensor.dtype

    def part(self) -> tuple[Tensor, Part]:
        """This rank's entries, and which they are."""
        spans = [(span.start, span.stop) for span in self.layout.own]
        return self.tensor, Part(self.ranks.rank, self.ranks.size, ("vectors",), spans)

    def inner(self, vectors: Tensor) -> Tensor:
        """Inner products in float64 on the CPU: `(P,)` gives `(k,)`, `(b, P)` gives `(k, b)`.

        Args:
            vectors: whole, the same on every rank.

        Raises:
            InputError: if the vectors have another length.
        """
        if vectors.shape[-1] != self.layout.size:
            raise InputError(f"vectors of length {vectors.shape[-1]} against directions of length {self.layout.size}")
        return self.ranks.sum(inner_products(self.tensor, self.layout.take(vectors)))

    def combine(self, coefficients: Tensor) -> Tensor:
        """Linear combinations, put together on every rank: `(k,)` gives `(P,)`, `(j, k)` gives `(j, P)`."""
        own = coefficients.to(self.tensor) @ self.tensor
        if own.ndim == 1:
            return self.layout.whole(own)
        return torch.stack([self.layout.whole(row) for row in own])

    def grams(self) -> Tensor:
        """Float64 `(layers, k, k)`; without a space the whole vector counts as one layer. Computed once."""
        return self._grams

    @cached_property
    def _grams(self) -> Tensor:
        spans = [layer.span for layer in self.space.layers] if self.space else [slice(0, self.layout.size)]
        return self.ranks.sum(torch.stack([self._gram(span) for span in spans]))

    def _gram(self, span: slice) -> Tensor:
        """What this rank's entries add to the inner products within a span."""
        total, place = torch.zeros(len(self.tensor), len(self.tensor), dtype=torch.float64), 0
        for own in self.layout.own:
            start, stop = max(span.start, own.start), min(span.stop, own.stop)
            if start < stop:
                inside = self.tensor[:, place + start - own.start : place + stop - own.start]
                total += inner_products(inside, inside)
            place += own.stop - own.start
        return total

    def head(self, count: int) -> SplitRows:
        """The first `count` rows, a view."""
        return SplitRows(self.tensor[:count], self.layout, self.space)

    def cross(self, other: Rows) -> Tensor:
        """Inner products with the rows of `other`: float64 `(k, other k)`."""
        if isinstance(other, SplitRows) and other.layout == self.layout:
            return self.ranks.sum(inner_products(self.tensor, other.tensor))
        return super().cross(other)
