"""How directions are held: the five operations through which everything else is computed, and a plain tensor of them.

Coefficients over a recorded trajectory (`thalweg.recording.span`), products of two vectors (`thalweg.rank_one`) and
parts that ranks hold (`thalweg.solvers.split_rows`) are other ways. Inner products are in float64 whatever the dtype.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from thalweg.described import Part
from thalweg.errors import InputError
from thalweg.space import ParameterSpace
from thalweg.sums import inner_products

DENSE_LIMIT = 4 * 2**30
"""Bytes up to which `Directions.vectors` makes a dense copy of rows that are held otherwise."""


class Rows(ABC):
    """How k directions of length P are held.

    Implementations say what the rows are; everything else is computed through these five operations.
    """

    space: ParameterSpace | None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """`(k, P)`."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of dense rows."""

    @abstractmethod
    def inner(self, vectors: Tensor) -> Tensor:
        """Inner products in float64 on the CPU: `(P,)` gives `(k,)`, `(b, P)` gives `(k, b)`."""

    @abstractmethod
    def combine(self, coefficients: Tensor) -> Tensor:
        """Linear combinations: `(k,)` gives `(P,)`, `(j, k)` gives `(j, P)`."""

    @abstractmethod
    def grams(self) -> Tensor:
        """Inner products of the rows within each layer: float64 `(layers, k, k)`; their sum is the Gram."""

    @abstractmethod
    def head(self, count: int) -> Rows:
        """The first `count` rows."""

    def part(self) -> tuple[Tensor, Part] | None:
        """What this rank has of rows that ranks hold parts of, and which part it is; None of whole rows."""
        return None

    def dense(self, index: int) -> Tensor:
        """Row `index` as a vector `(P,)`."""
        unit = torch.zeros(self.shape[0], dtype=torch.float64)
        unit[index] = 1.0
        return self.combine(unit)

    @property
    def freedom(self) -> tuple[int, ...] | None:
        """How many independent numbers stand for each layer; None: one for each of its entries."""
        return None

    def layer_energy(self) -> Tensor:
        """Squared length of each row within each layer: float64 `(k, layers)`."""
        return torch.diagonal(self.grams(), dim1=1, dim2=2).T.contiguous()

    def cross(self, other: Rows) -> Tensor:
        """Inner products with the rows of `other`: float64 `(k, other k)`."""
        if isinstance(other, DenseRows):
            return self.inner(other.tensor)
        return torch.stack([self.inner(other.dense(i)) for i in range(other.shape[0])], dim=1)


@dataclass(frozen=True, eq=False)
class DenseRows(Rows):
    """Rows held as a tensor `(k, P)`."""

    tensor: Tensor
    space: ParameterSpace | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """`(k, P)`."""
        return self.tensor.shape[0], self.tensor.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The tensor's dtype."""
        return self.tensor.dtype

    def inner(self, vectors: Tensor) -> Tensor:
        """Inner products in float64 on the CPU: `(P,)` gives `(k,)`, `(b, P)` gives `(k, b)`.

        Raises:
            InputError: if the vectors have another length.
        """
        if vectors.shape[-1] != self.shape[1]:
            raise InputError(f"vectors of length {vectors.shape[-1]} against directions of length {self.shape[1]}")
        return inner_products(self.tensor, vectors)

    def combine(self, coefficients: Tensor) -> Tensor:
        """Linear combinations in the tensor's dtype."""
        return coefficients.to(self.tensor) @ self.tensor

    def grams(self) -> Tensor:
        """Float64 `(layers, k, k)`; without a space the whole vector counts as one layer. Computed once."""
        return self._grams

    @cached_property
    def _grams(self) -> Tensor:
        spans = [layer.span for layer in self.space.layers] if self.space else [slice(None)]
        return torch.stack([inner_products(self.tensor[:, s], self.tensor[:, s]) for s in spans])

    def head(self, count: int) -> DenseRows:
        """The first `count` rows, a view."""
        return DenseRows(self.tensor[:count], self.space)

    def dense(self, index: int) -> Tensor:
        """Row `index`, a view."""
        return self.tensor[index]

    def cross(self, other: Rows) -> Tensor:
        """Inner products with the rows of `other`: float64 `(k, other k)`."""
        return self.inner(other.tensor) if isinstance(other, DenseRows) else other.inner(self.tensor).T
