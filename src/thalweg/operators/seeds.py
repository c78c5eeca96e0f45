"""Backward passes that start from vectors, without torch's own way of taking them.

`torch.autograd.grad(outputs, inputs, grad_outputs)` imports sympy at its first call, half a second in a process that
wants ten products of 40 ms. A node that hands out a vector as the gradient of its input starts the same pass from a
scalar, for which torch needs no `grad_outputs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.memory import graph_nodes


class Seeds:
    """Named places of a graph from which backward passes start, with vectors that change from pass to pass.

    Neither the values at these places nor the vectors are kept.

    Args:
        places: the tensors where the graph ends, by name; those without a graph are left out.
    """

    def __init__(self, places: Mapping[str, Tensor | None]) -> None:
        self._vectors: dict[str, Tensor] = {}
        live = {name: place for name, place in places.items() if place is not None and place.requires_grad}
        with torch.enable_grad():
            self._starts: dict[str, Tensor] = {
                name: _Start.apply(place, self._vectors, name)  # type: ignore[no-untyped-call]
                for name, place in live.items()
            }

    def __contains__(self, name: str) -> bool:
        return name in self._starts

    @property
    def nodes(self) -> int:
        """How many nodes the graph has."""
        return graph_nodes(self._starts.values())

    def pull(self, vectors: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """`sum_n (d place_n / d input)ᵀ vector_n` for each input, None where none depends on it; the graph is kept.

        Args:
            vectors: by the names of some places, each of its place's shape and dtype.
            inputs: leaves of the graph.
        """
        self._vectors.update(vectors)
        try:
            starts = [self._starts[name] for name in vectors]
            return torch.autograd.grad(starts, inputs, retain_graph=True, allow_unused=True)
        finally:
            self._vectors.clear()


class _Start(torch.autograd.Function):
    """A scalar whose gradient is whatever vector lies ready under a name."""

    @staticmethod
    def forward(ctx: Any, place: Tensor, vectors: dict[str, Tensor], name: str) -> Tensor:
        ctx.vectors, ctx.name = vectors, name
        return place.new_zeros(())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.vectors[ctx.name], None, None
