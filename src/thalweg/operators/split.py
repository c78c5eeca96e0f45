"""The Hessian of a model whose gradient is split over ranks, by central differences of gradients.

    H v ≈ (g(w + h v) − g(w − h v)) / 2h,

whose step h is chosen when the operator is built, and whose error is measured there and stated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from thalweg.collectives import Layout
from thalweg.errors import InputError, StaleOperatorError
from thalweg.operators.base import Operator
from thalweg.space import LayerChoice, ParameterSpace

STEPS = (-4, -3, -2, -1, 0, 1, 2)
"""Powers of four times the usual step that are tried."""

DRAWN = 2**16
"""Entries of a random vector that one generator draws."""

ROUGH = 0.05
"""Relative error of products from which on an operator is refused."""


class SplitGradients(Protocol):
    """The small part of a problem that the operator is built on; of every vector a rank has its entries."""

    space: ParameterSpace
    layout: Layout

    def locals(self) -> list[Tensor]:
        """This rank's rows of each parameter: views of what is trained."""
        ...

    def weights(self) -> Tensor:
        """This rank's entries of the weights, copied."""
        ...

    def gradient(self) -> Tensor:
        """This rank's entries of the gradient."""
        ...

    def describe(self) -> dict[str, Any]:
        """What was measured on."""
        ...


@dataclass(frozen=True)
class _Tried:
    step: float
    product: Tensor


class ShardedHessian(Operator):
    """The Hessian of a split model's loss, or its block on some layers, by central differences of gradients.

    Attributes:
        step: by how much the parameter that moves most is moved, relative to the length of its weights.
        product_error: how far products at this step are from those at a step four times as long, relatively, or the
            asymmetry if that is larger: an estimate of the error from above.
        asymmetry: `|aᵀHb − bᵀHa| / |Hb|` of two random vectors.
    """

    def __init__(
        self,
        problem: SplitGradients,
        layers: LayerChoice | None = None,
        seed: int = 0,
        near: ShardedHessian | None = None,
    ) -> None:
        self.problem = problem
        self.space: ParameterSpace = problem.space.select(layers)
        self.layers = None if layers is None else [layer.name for layer in problem.space.chosen(layers)]
        self.shape = (self.space.size, self.space.size)
        self.ranks = problem.layout.ranks
        self._home = problem.weights()
        self.dtype, self.device = self._home.dtype, self._home.device
        own = set(self.space.names)
        self._used = [name in own for name in problem.space.names]
        self._sizes = [tensor.numel() for tensor in problem.locals()]
        lengths = self._each_length(self._own(self._home))
        self._lengths = [max(length, 1e-3 * max(lengths)) for length in lengths]
        self.step, self.product_error, self.asymmetry = self._found_step(seed, near)
        if not self.precision < ROUGH:
            raise InputError(
                f"products by differences are {self.precision:.0%} off at every step that was tried; they need "
                "gradients in float32 or better (no 16-bit MixedPrecisionPolicy, no TF32), and nets with kinks (ReLU) "
                "want float64, or a smooth activation"
            )

    @cached_property
    def layout(self) -> Layout:
        """Of each parameter the rows that a rank holds."""
        whole = [one for one, used in zip(self.problem.space.parameters, self._used, strict=True) if used]
        moves = [one.offset - entry.offset for one, entry in zip(whole, self.space.parameters, strict=True)]
        every = [
            tuple(
                slice(span.start - move, span.stop - move)
                for span, move in zip(itertools.compress(spans, self._used), moves, strict=True)
            )
            for spans in self.problem.layout.every
        ]
        return Layout(self.space.size, self.ranks, tuple(every))

    @property
    def precision(self) -> float:
        """The error of a product."""
        return max(self.product_error, super().precision)

    def draw(self, generator: torch.Generator) -> Tensor:
        """This rank's entries of a random vector, the same whatever the number of ranks; no rank draws a whole one."""
        seed = int(torch.randint(2**62, (1,), generator=generator))
        pieces = [self._drawn(seed, span) for span in self.layout.own]
        return torch.cat(pieces).to(self.device)

    def _drawn(self, seed: int, span: slice) -> Tensor:
        """Some entries of the vector of a seed: every `DRAWN` of it come from a generator of their own."""
        blocks = range(span.start // DRAWN, -(-span.stop // DRAWN))
        drawn = [
            torch.randn(DRAWN, generator=torch.Generator().manual_seed((seed + block) % 2**63), dtype=self.dtype)
            for block in blocks
        ]
        if not drawn:
            return torch.zeros(0, dtype=self.dtype)
        first = blocks[0] * DRAWN
        return torch.cat(drawn)[span.start - first : span.stop - first]

    def part_of_product(self, part: Tensor) -> Tensor:
        """This rank's entries of the product with a vector of which each rank gives its own.

        Raises:
            StaleOperatorError: if the weights changed since this was built.
        """
        if not torch.equal(self.problem.weights(), self._home):
            raise StaleOperatorError("weights changed since this operator was built; call problem.hessian() again")
        return self._product(part.to(dtype=self.dtype, device=self.device), self.step)

    def multiply(self, vectors: Tensor) -> Tensor:
        """Products with the rows of `(b, P)`, put together on every rank."""
        rows = [self.layout.whole(self.part_of_product(self.layout.take(vector))) for vector in vectors]
        return torch.stack(rows)

    def describe(self) -> dict[str, Any]:
        """The data, and how far the products can be trusted."""
        return {
            "operator": "hessian",
            "layers": self.layers,
            "products": "central differences",
            "step": self.step,
            "product_error": self.product_error,
            "asymmetry": self.asymmetry,
            **self.problem.describe(),
        }

    def _product(self, part: Tensor, step: float) -> Tensor:
        moved = max((one / whole for one, whole in zip(self._each_length(part), self._lengths, strict=True)), default=0)
        if moved == 0:
            return torch.zeros_like(part)
        reach, home = step / moved, self._own(self._home)
        try:
            self._move(home + reach * part)
            ahead = self._own(self.problem.gradient())
            self._move(home - reach * part)
            return (ahead - self._own(self.problem.gradient())) / (2 * reach)
        finally:
            self._move(home)

    def _own(self, entries: Tensor) -> Tensor:
        """Of this rank's entries of a vector over all layers those of this operator's."""
        if all(self._used):
            return entries
        return torch.cat(list(itertools.compress(torch.split(entries, self._sizes), self._used)))

    def _pieces(self, part: Tensor) -> tuple[Tensor, ...]:
        return torch.split(part, list(itertools.compress(self._sizes, self._used)))

    def _move(self, weights: Tensor) -> None:
        with torch.no_grad():
            tensors = itertools.compress(self.problem.locals(), self._used)
            for tensor, value in zip(tensors, self._pieces(weights), strict=True):
                tensor.copy_(value.view_as(tensor))

    def _each_length(self, part: Tensor) -> list[float]:
        """The length of each parameter over all ranks."""
        squares = self.ranks.add_up([float(piece.double().square().sum()) for piece in self._pieces(part)])
        return [math.sqrt(square) for square in squares]

    def _found_step(self, seed: int, near: ShardedHessian | None) -> tuple[float, float, float]:
        """As `_calibrated`, with few products where another operator's step does."""
        if near is not None:
            found = self._calibrated(seed, (near.step, 4 * near.step))
            if found[1] <= 10 * near.product_error:
                return found
        usual = torch.finfo(self.dtype).eps ** (1 / 3)
        return self._calibrated(seed, [usual * 4.0**power for power in STEPS])

    def _calibrated(self, seed: int, steps: Sequence[float]) -> tuple[float, float, float]:
        """The best of some steps, each held against the next, with the error and the asymmetry of its products."""
        generator = torch.Generator().manual_seed(seed)
        one, two = self.draw(generator), self.draw(generator)
        tried = [_Tried(step, self._product(one, step)) for step in steps]
        errors = [
            self.ranks.length(short.product - long.product) / max(self.ranks.length(long.product), 1e-300)
            for short, long in itertools.pairwise(tried)
        ]
        best = min(range(len(errors)), key=errors.__getitem__)
        other = self._product(two, tried[best].step)
        apart = abs(self.ranks.dot(two, tried[best].product) - self.ranks.dot(one, other))
        size = self.ranks.length(other) * self.ranks.length(one)
        asymmetry = apart / size if size else 0.0
        return tried[best].step, max(errors[best], asymmetry), asymmetry
