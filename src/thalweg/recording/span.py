"""Directions in the span of a trajectory's updates, held as their coefficients.

With the updates as rows of U and `G = U Uᵀ`, the inner products of `C_a U` and `C_b U` are `C_a G C_bᵀ`: no vector of
length P is made. Where there are too many rows for G, `(C_a U)(C_b U)ᵀ` is summed in one pass over the file instead.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from thalweg.described import Part
from thalweg.recording import products
from thalweg.rows import Rows
from thalweg.space import Layer, ParameterSpace

if TYPE_CHECKING:
    from thalweg.recording.trajectory import Trajectory


REBUILT = 0.9


@dataclass(frozen=True, eq=False)
class TrajectoryRows(Rows):
    """Directions `C U` in the span of a trajectory's updates, held as their coefficients.

    Attributes:
        trajectory: where the updates are.
        coefficients: C, float64 `(k, T)`.
        layer: the one layer that the directions live in; elsewhere they are zero. None: the whole network.
    """

    trajectory: Trajectory
    coefficients: Tensor
    layer: str | None = None

    @property
    def space(self) -> ParameterSpace:  # type: ignore[override]
        """The trajectory's parameter space."""
        return self.trajectory.space

    @property
    def shape(self) -> tuple[int, int]:
        """`(k, P)`."""
        return len(self.coefficients), self.space.size

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of dense rows: the run's."""
        return self.trajectory.dtype

    @property
    def freedom(self) -> tuple[int, ...] | None:
        """Of a sketched run, how many numbers stand for each layer."""
        return self.trajectory.freedom

    @property
    def columns(self) -> slice:
        """The trajectory's columns that may differ from zero."""
        return self.trajectory.columns_of(self.layer)

    def head(self, count: int) -> TrajectoryRows:
        """The first `count` rows."""
        return TrajectoryRows(self.trajectory, self.coefficients[:count], self.layer)

    def inner(self, vectors: Tensor) -> Tensor:
        """Inner products in float64, streamed: `(P,)` gives `(k,)`, `(b, P)` gives `(k, b)`."""
        found = self.coefficients @ self.trajectory.inner_within(vectors, self.columns)
        return found[:, 0] if vectors.ndim == 1 else found

    def combine(self, coefficients: Tensor) -> Tensor:
        """Linear combinations in one pass, in the run's dtype, on the CPU: `(k,)` gives `(P,)`, `(j, k)` `(j, P)`.

        Of a sketched run they are rebuilt from its sums, with one warning where these hold less than `REBUILT` of one.
        """
        wanted = coefficients.detach().to("cpu", torch.float64)
        weights = wanted.reshape(-1, len(self.coefficients)) @ self.coefficients
        if self.trajectory.sketch is not None:
            rebuilt = self._rebuilt(weights)
            return rebuilt[0] if coefficients.ndim == 1 else rebuilt
        out = self.trajectory.combined(weights, self.layer)
        return out[0] if coefficients.ndim == 1 else out

    def part(self) -> tuple[Tensor, Part] | None:
        """What this rank has of the rows, where ranks hold parts of the updates."""
        return self.trajectory.parts_of_rows(self.coefficients, self.layer)

    def _rebuilt(self, weights: Tensor) -> Tensor:
        vectors, shares = self.trajectory.rebuild(weights, self.layer)
        if float(shares.min()) < REBUILT:
            warnings.warn(
                f"{self.trajectory.folder} keeps a sketch and sums of its updates: of these {len(shares)} directions "
                f"the sums hold between {float(shares.min()):.0%} and {float(shares.max()):.0%} of the squared length",
                RuntimeWarning,
                stacklevel=3,
            )
        return vectors

    def grams(self) -> Tensor:
        """`C G_l Cᵀ` for every layer: float64 `(layers, k, k)`."""
        return self._between(self, self.layer, list(self.space.layers))

    def cross(self, other: Rows) -> Tensor:
        """Inner products with other rows: float64 `(k, other k)`. Of the same trajectory: `C_a G C_bᵀ`."""
        if not isinstance(other, TrajectoryRows) or other.trajectory is not self.trajectory:
            return super().cross(other)
        if None not in (self.layer, other.layer) and self.layer != other.layer:
            return torch.zeros(len(self.coefficients), len(other.coefficients), dtype=torch.float64)
        return self._between(other, self.layer or other.layer)[0]

    def inner_rows(self, layer: str | None = None) -> Tensor:
        """Inner products with every update, over one layer's entries or all: float64 `(T, k)`.

        Raises:
            InputError: if there is no layer of that name.
        """
        if layer is not None:
            self.space.layer(layer)
        if None not in (self.layer, layer) and self.layer != layer:
            return torch.zeros(len(self.trajectory), len(self.coefficients), dtype=torch.float64)
        where = self.layer or layer
        if self.trajectory.prefers_gram():
            return self.trajectory.gram(where) @ self.coefficients.T
        columns = self.trajectory.columns_of(where)
        return products.gram_times(self.trajectory.stream(columns), self.coefficients.T.contiguous())

    def _between(self, other: TrajectoryRows, layer: str | None, layers: list[Layer] | None = None) -> Tensor:
        """`C_a G_l C_bᵀ` for each layer, zero in others than `layer`; without `layers` over all columns at once."""
        left, right = self.coefficients, other.coefficients
        if self.trajectory.prefers_gram():
            if layers is None:
                return (left @ self.trajectory.gram(layer) @ right.T)[None]
            out = torch.zeros(len(layers), len(left), len(right), dtype=torch.float64)
            for total, one in zip(out, layers, strict=True):
                if layer in (None, one.name):
                    total.copy_(left @ self.trajectory.gram(one.name) @ right.T)
            return out
        columns = self.trajectory.columns_of(layer)
        parts = [Layer("", 0, columns.start, columns.stop)] if layers is None else self.trajectory.columns.layers
        return products.between(self.trajectory.stream(columns), left, right, parts)


def centered_rows(matrix: Tensor, usable: Tensor) -> Tensor:
    """The rows `(n, m)` less their mean; rows that are not usable count for nothing and stay zero."""
    count = int(usable.sum())
    if not count:
        return matrix
    return matrix - usable[:, None] * (matrix.sum(dim=0) / count)
