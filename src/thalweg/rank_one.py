"""Directions that are outer products `u vᵀ` in the entries of a parameter, held as their factors.

A singular direction of a weight matrix of m × n entries takes m + n numbers instead of P. A direction may be a sum of a
few outer products in different parameters, as that of a product of two factors is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from thalweg.errors import InputError
from thalweg.rows import DENSE_LIMIT, Rows
from thalweg.space import Parameter, ParameterSpace

Unfolding = Literal["channels", "spatial"]
"""How a convolution's kernel `(out, in, h, w)` becomes a matrix: `(out, in·h·w)`, or `(out·h, in·w)`."""


@dataclass(frozen=True, eq=False)
class Outer:
    """`u vᵀ`, laid into one parameter.

    Attributes:
        parameter: its name.
        left: u, `(m,)`.
        right: v, `(n,)`, for a parameter that unfolds to `(m, n)`.
    """

    parameter: str
    left: Tensor
    right: Tensor


def unfolded(tensor: Tensor, unfolding: Unfolding = "channels") -> Tensor:
    """A parameter `(..., *shape)` given as its own tensor, as a matrix `(m, n)`.

    Raises:
        InputError: for a tensor of fewer than two dimensions.
    """
    if tensor.ndim < 2:
        raise InputError(
            f"a tensor of shape {tuple(tensor.shape)} is no matrix; singular directions need two dimensions"
        )
    if unfolding == "spatial" and tensor.ndim == 4:
        out, into, height, width = tensor.shape
        return tensor.permute(0, 2, 1, 3).reshape(out * height, into * width)
    return tensor.reshape(tensor.shape[0], -1)


def folded(matrix: Tensor, shape: tuple[int, ...], unfolding: Unfolding = "channels") -> Tensor:
    """The opposite of `unfolded`."""
    if unfolding == "spatial" and len(shape) == 4:
        out, into, height, width = shape
        return matrix.reshape(out, height, into, width).permute(0, 2, 1, 3).reshape(shape)
    return matrix.reshape(shape)


@dataclass(frozen=True, eq=False)
class RankOneRows(Rows):
    """k directions, each a sum of outer products.

    Attributes:
        space: the parameter space.
        terms: of each direction.
        unfolding: of convolutions.
        kept_dtype: of dense rows.
    """

    space: ParameterSpace
    terms: tuple[tuple[Outer, ...], ...]
    unfolding: Unfolding = "channels"
    kept_dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, int]:
        """`(k, P)`."""
        return len(self.terms), self.space.size

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of dense rows."""
        return self.kept_dtype

    @property
    def numbers(self) -> int:
        """How many numbers are held."""
        return sum(term.left.numel() + term.right.numel() for terms in self.terms for term in terms)

    def head(self, count: int) -> RankOneRows:
        """The first `count` rows."""
        return replace(self, terms=self.terms[:count])

    def chosen(self, numbers: Iterable[int]) -> RankOneRows:
        """Some of the rows, in that order."""
        return replace(self, terms=tuple(self.terms[number] for number in numbers))

    def inner(self, vectors: Tensor) -> Tensor:
        """`uᵀ X v` summed over a direction's terms, X a vector's entries of the parameter: float64, on the CPU.

        Raises:
            InputError: if the vectors have another length.
        """
        if vectors.shape[-1] != self.space.size:
            raise InputError(f"vectors of length {vectors.shape[-1]} against directions of length {self.space.size}")
        many = vectors.reshape(-1, self.space.size)
        out = torch.zeros(len(self.terms), len(many), dtype=torch.float64)
        for parameter, group in self._groups.items():
            entry = self._parameters[parameter]
            for column, vector in enumerate(many):
                part = vector[entry.span].detach().to("cpu", torch.float64).view(entry.shape)
                image = group.left @ unfolded(part, self.unfolding)
                out[:, column].index_add_(0, group.rows, (image * group.right).sum(dim=1))
        return out[:, 0] if vectors.ndim == 1 else out

    def combine(self, coefficients: Tensor) -> Tensor:
        """Linear combinations, on the CPU: `(k,)` gives `(P,)`, `(j, k)` gives `(j, P)`.

        Raises:
            InputError: if they would take more than `rows.DENSE_LIMIT` bytes.
        """
        wanted = coefficients.detach().to("cpu", torch.float64).reshape(-1, len(self.terms))
        need = len(wanted) * self.space.size * self.dtype.itemsize
        if need > DENSE_LIMIT:
            raise InputError(f"{len(wanted)} dense vectors take {need / 2**30:.1f} GiB; make fewer at a time")
        out = torch.zeros(len(wanted), self.space.size, dtype=self.dtype)
        for parameter, group in self._groups.items():
            entry = self._parameters[parameter]
            for row, weights in enumerate(wanted):
                matrix = (group.left * weights[group.rows, None]).T @ group.right
                out[row, entry.span] = folded(matrix, entry.shape, self.unfolding).reshape(-1).to(self.dtype)
        return out[0] if coefficients.ndim == 1 else out

    def grams(self) -> Tensor:
        """`(u·u')(v·v')` within each layer: float64 `(layers, k, k)`."""
        places = {layer.name: place for place, layer in enumerate(self.space.layers)}
        out = torch.zeros(len(places), len(self.terms), len(self.terms), dtype=torch.float64)
        for parameter, group in self._groups.items():
            products = (group.left @ group.left.T) * (group.right @ group.right.T)
            total = out[places[self._parameters[parameter].layer]]
            total.index_put_((group.rows[:, None], group.rows[None, :]), products, accumulate=True)
        return out

    @cached_property
    def _parameters(self) -> dict[str, Parameter]:
        return {parameter.name: parameter for parameter in self.space.parameters}

    @cached_property
    def _groups(self) -> dict[str, _Group]:
        """The terms of each parameter."""
        found: dict[str, list[tuple[int, Outer]]] = defaultdict(list)
        for row, terms in enumerate(self.terms):
            for term in terms:
                if term.parameter not in self._parameters:
                    raise InputError(f"the parameter space has no {term.parameter!r}")
                found[term.parameter].append((row, term))
        return {name: _Group.of(self._parameters[name], pairs) for name, pairs in found.items()}


@dataclass(frozen=True, eq=False)
class _Group:
    """The terms in one parameter: their rows `(g,)`, and their factors `(g, m)` and `(g, n)`."""

    rows: Tensor
    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, parameter: Parameter, pairs: list[tuple[int, Outer]]) -> _Group:
        """Stack the factors.

        Raises:
            InputError: if they do not make the parameter.
        """
        left = torch.stack([term.left for _, term in pairs]).to("cpu", torch.float64)
        right = torch.stack([term.right for _, term in pairs]).to("cpu", torch.float64)
        if left.shape[1] * right.shape[1] != math.prod(parameter.shape):
            raise InputError(
                f"factors of {left.shape[1]} and {right.shape[1]} entries do not make {parameter.name!r} of shape "
                f"{parameter.shape}"
            )
        return cls(torch.tensor([row for row, _ in pairs]), left, right)
