"""The Hessian by differences of gradients, for losses that torch cannot differentiate twice.

    H v ≈ (g(w + r v) - g(w - r v)) / 2r

whose error is `r² |D³g[v, v, v]| / 6` from what is left out of the Taylor series, and about `ε |g| / r` from rounding.
The step r that makes their sum small is known up to the third derivative, which differs from vector to vector: moves of
one length change a function the more, the fewer and the smaller the weights that they move. So r is chosen for each v
such that the layer which moves most, relative to the length of its own weights, moves by τ. Measured on perceptrons,
convolutions and a transformer, with random vectors, eigenvectors of both ends and unit vectors, the best τ then lay
within a factor of four to eight of `0.1 ε^(1/3)` for smooth losses, in float32 and in float64. In float64 that leaves
errors of 1e-10, which is more than anybody needs, while a ReLU net of 18 convolutions came out wrong by 70 %: some kink
lies within every such step, and adds a jump of the gradient divided by 2r. A step shorter by 256 met none, with errors
of 2e-7; so in float64 that is where τ begins, and it stays there if the error is small.

Otherwise τ is sought by halving and doubling. The products of three vectors at τ and at 2τ differ by three times the
error of the Taylor series and by about the error of rounding; where that difference is least is the step, and the
difference is the error that the operator states. The vectors are a random one, its product, which lies along the
directions of high curvature, and what the product of that has of a third direction. It is an estimate and no bound:
where it was the series that erred, the true errors of random vectors were 0.5 to 1.7 times the stated one, those of
eigenvectors of both ends, relative to the largest eigenvalue, 0.2 to 1.2 times, and 10 times for the lowest of a net
with batch norm. A kink that only other vectors meet is not in it. `KrylovSpace` then finds the products unsymmetric.

Gradients are added up in float64. The weights are moved by giving each parameter other storage for the time of a
gradient, so that its own is never written to: what is put back is what was there, after an error or Ctrl-C too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import InputError, StaleOperatorError
from thalweg.operators.base import BatchLosses, Operator
from thalweg.operators.chunking import Chunking
from thalweg.operators.graphs import weights_state
from thalweg.operators.twice import custom_functions
from thalweg.shares import Share
from thalweg.space import LayerChoice, ParameterSpace

_SHORTER, _LONGER = -6, 10
"""Powers of two by which the step may differ from the usual one."""

_GOOD = 1e-5
"""Error, relative to the largest product, at which no better step is sought: a longer one would meet more kinks."""

_SHORT = {torch.float64: 2.0**-8}
"""How much shorter than the best for smooth losses the step begins, where rounding leaves room for that."""

_LEAST_SHARE = 0.1
"""A layer counts as no shorter than this share of what the weights have on average: new biases are zero."""

_ROUGH = 0.01
"""Error above which every step is tried: kinks make a valley with several bottoms."""

_TELLING = 0.05
"""Error above which differences tell nothing."""


class FiniteDifferenceHessian(Operator):
    """The Hessian of the weighted mean loss, or its block on some layers, by central differences of gradients.

    A product costs two gradients, and is the Hessian's only up to the stated error; it is symmetric and linear up to
    the same. Products with the same vector are the same. Building one takes 12 gradients in float64 and some 30 in
    float32, to find the step, and 102 where the gradient jumps.

    Args:
        losses: the batch losses, at the weights that the model has now.
        layers: globs, names or a function of the layer's name; all layers unless given.
        chunking: how the data was cut, for the record.
        seed: for the vector that the step is found with.
        share: what these losses count among those of all ranks; all unless given.
        refuse: whether to refuse where no step gives an error, relative to the largest product, below 5 %.

    Attributes:
        step: τ, by how much the layer that moves most is moved, relative to the length of its weights.
        product_error: the estimated relative error of a product, `|difference - H v| / |H v|`: the largest of a random
            vector's and of two that were made from its product. For vectors whose product is small beside the largest
            it is larger.
        asymmetry: `|aᵀHb - bᵀHa| / |H b|` of the first two of them.

    Raises:
        InputError: if a gradient at the weights or near them is not finite, or the differences are too rough.
    """

    def __init__(
        self,
        losses: BatchLosses,
        layers: LayerChoice | None = None,
        chunking: Chunking | None = None,
        seed: int = 0,
        refuse: bool = True,
        share: Share | None = None,
    ) -> None:
        self.losses = losses
        self.share = share or Share()
        self.whole = losses.space
        self.space: ParameterSpace = self.whole.select(layers)
        self.shape = (self.space.size, self.space.size)
        self.ranks = self.share.ranks
        self.chunking = chunking or Chunking(None, "given", {})
        self.parameters = losses.parameters()
        self._state = weights_state(self.parameters)
        chosen = set(self.space.names)
        self._moved = [p for name, p in zip(self.whole.names, self.parameters, strict=True) if name in chosen]
        self.device = self._moved[0].device
        self.dtype = self._moved[0].dtype
        for tensor in self._moved:
            self.dtype = torch.promote_types(self.dtype, tensor.dtype)
        self._wide = self.dtype if self.device.type == "mps" else torch.float64  # MPS has no float64
        self._lengths = _layer_lengths(self.space, self._moved)
        self._precision = 0.0
        self.step, self.product_error, self.asymmetry = self._calibrated(seed)
        if refuse and self._precision > _TELLING:
            raise InputError(_too_rough(self._precision, self.dtype))

    @property
    def precision(self) -> float:
        """The error of a product, relative to the largest product with a vector of the same length."""
        return max(self._precision, super().precision)

    def multiply(self, vectors: Tensor) -> Tensor:
        """Products with the rows of `(b, P)`, by two gradients each.

        Raises:
            StaleOperatorError: if the weights changed since this was built.
            InputError: if a gradient near the weights is not finite.
        """
        if weights_state(self.losses.parameters()) != self._state:
            raise StaleOperatorError(
                "weights changed since this operator was built; call problem.hessian(finite_differences=True) again"
            )
        return torch.stack([self._product(vector, self.step) for vector in vectors]).to(self.dtype)

    def describe(self) -> dict[str, Any]:
        """The layers and the data, and how far the products can be trusted."""
        return {
            "operator": "hessian",
            "layers": None if self.space is self.whole else [layer.name for layer in self.space.layers],
            "products": "central differences",
            "step": self.step,
            "product_error": self.product_error,
            "product_error_of_largest": self.precision,
            "asymmetry": self.asymmetry,
            **self.chunking.describe(),
            **self.losses.describe(),
        }

    def _product(self, vector: Tensor, step: float) -> Tensor:
        """`H v` by a central difference of relative length `step`, in the widest precision: `(P,)`."""
        moved = max(float(torch.linalg.vector_norm(vector[span])) / length for span, length in self._lengths)
        if moved == 0.0:
            return torch.zeros(self.space.size, dtype=self._wide, device=self.device)
        reach = step / moved
        with self._at(vector, reach):
            ahead = self._gradient()
        with self._at(vector, -reach):
            return ahead.sub_(self._gradient()).div_(2 * reach)

    @contextmanager
    def _at(self, vector: Tensor, distance: float) -> Iterator[None]:
        """The weights moved by `distance * vector` in here."""
        own = [tensor.data for tensor in self._moved]
        try:
            for parameter, tensor, start in zip(self.space.parameters, self._moved, own, strict=True):
                there = vector[parameter.span].view(parameter.shape).to(self._wide).mul(distance).add_(start)
                tensor.data = there.to(tensor.dtype)
            yield
        finally:
            _put_back(self._moved, own)

    def _gradient(self) -> Tensor:
        """The gradient at the weights as they are now, added up in the widest precision: `(P,)`."""
        total = torch.zeros(self.space.size, dtype=self._wide, device=self.device)
        with self.losses.evaluating():
            for term in self.losses.terms():
                loss = term.loss()
                if not loss.requires_grad:
                    continue
                pieces: Sequence[Tensor | None] = torch.autograd.grad(loss, self._moved, allow_unused=True)
                for parameter, piece in zip(self.space.parameters, pieces, strict=True):
                    if piece is None:
                        continue
                    if not bool(torch.isfinite(piece).all()):
                        raise InputError(
                            f"the gradient of batch {term.index} is not finite in {parameter.name!r}, at weights moved "
                            f"by {self.step:.1e} of their length; look for an operation without a finite derivative"
                        )
                    total[parameter.span].add_(piece.detach().reshape(-1).to(total), alpha=term.coefficient)
        return self.share.together(total)

    def _calibrated(self, seed: int) -> tuple[float, float, float]:
        """The step, the relative error of a product at it, and the asymmetry."""
        usual = 0.1 * torch.finfo(self.dtype).eps ** (1 / 3) * _SHORT.get(self.dtype, 1.0)
        self.step = usual
        vectors, products = self._trial_vectors(seed)
        if not vectors:  # the gradient does not change: the loss is linear
            return usual, 0.0, 0.0
        rungs = {0: products}

        def rung(power: int) -> list[Tensor]:
            if power not in rungs:
                rungs[power] = [self._product(vector, usual * 2.0**power) for vector in vectors]
            return rungs[power]

        def difference(power: int) -> float:
            apart = [_length(a - b) for a, b in zip(rung(power), rung(power + 1), strict=True)]
            return max(apart) / max(_length(a) for a in rung(power))

        best = _lowest(difference)
        self._precision = difference(best)
        here = rung(best)
        error = max(_length(a - b) / _length(a) for a, b in zip(here, rung(best + 1), strict=True))
        skew = abs(float(torch.dot(vectors[0], here[1])) - float(torch.dot(vectors[1], here[0])))
        return usual * 2.0**best, error, skew / _length(here[1])

    def _trial_vectors(self, seed: int) -> tuple[list[Tensor], list[Tensor]]:
        """A random unit vector and two Lanczos vectors after it, which lie along high curvature; and their products."""
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(self.space.size, generator=generator, dtype=torch.float64).to(self._wide).to(self.device)
        vectors, products = [draw / torch.linalg.vector_norm(draw)], [self._product(draw / _length(draw), self.step)]
        if _length(products[0]) == 0.0:
            return [], []
        for _ in range(2):
            rest = products[-1]
            if len(vectors) > 1:
                rest = rest - torch.dot(rest, vectors[-1]) * vectors[-1]
            length = _length(rest)
            if length <= 1e-3 * _length(products[-1]):
                break  # an eigenvector already
            vectors.append(rest / length)
            products.append(self._product(vectors[-1], self.step))
        return vectors, products


@dataclass(frozen=True)
class HessianCheck:
    """An exact Hessian product held against differences of gradients.

    Attributes:
        difference: `|H v - D v| / |D v|` for one random vector v, D by central differences.
        error: how far D may be off by itself.
        agrees: whether the difference is within ten times that error (or within `10 √ε` of the dtype); None where the
            differences are too rough to tell (more than 5 % off by themselves).
        custom_functions: the custom functions (`autograd.Function`) in the loss, with their modules: where to look if
            the two do not agree.
    """

    difference: float
    error: float
    agrees: bool | None
    custom_functions: tuple[str, ...]


def compared(exact: Operator, measured: FiniteDifferenceHessian, seed: int = 0) -> HessianCheck:
    """Hold one exact product against one by differences.

    Args:
        exact: the Hessian, or a block.
        measured: the same by differences.
        seed: for the vector.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(exact.shape[0], generator=generator, dtype=torch.float64)
    vector = draw.to(dtype=exact.dtype, device=exact.device)
    one, two = exact.matvec(vector).double(), measured.matvec(vector).double()
    length = float(torch.linalg.vector_norm(two))
    apart = float(torch.linalg.vector_norm(one - two))
    difference = apart / length if length else float(apart > 0)
    allowed = max(10 * measured.product_error, 10 * math.sqrt(torch.finfo(exact.dtype).eps))
    agrees = None if measured.product_error > _TELLING else difference <= allowed
    return HessianCheck(difference, measured.product_error, agrees, tuple(custom_functions(measured.losses)))


def _length(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector))


def _too_rough(error: float, dtype: torch.dtype) -> str:
    told = f"differences of gradients are off by {error:.1%} of the largest product at the best step; "
    if dtype == torch.float64:
        return told + "the gradient jumps near these weights (a kink, a threshold, rounding inside an operation)"
    return told + (
        f"in {str(dtype).removeprefix('torch.')} the steps that rounding allows cross kinks (of ReLU, say): give the "
        "model and the data in float64"
    )


def _lowest(difference: Callable[[int], float]) -> int:
    """The power of two for the step: 0 if it is good; else the bottom of its valley, or of all if that is high."""
    best, least = 0, difference(0)
    if least <= _GOOD:
        return best
    for way, end in ((-1, _SHORTER), (1, _LONGER)):
        power = best + way
        while power != end + way and difference(power) < least:
            best, least = power, difference(power)
            power += way
        if best:
            break
    if least > _ROUGH:
        best = min(range(_SHORTER, _LONGER + 1), key=difference)
    return best


def _layer_lengths(space: ParameterSpace, tensors: Sequence[Tensor]) -> list[tuple[slice, float]]:
    """Where each layer's entries stand, and the length of its weights; very short ones count as longer."""
    squares: dict[str, float] = {}
    for parameter, tensor in zip(space.parameters, tensors, strict=True):
        square = float(torch.linalg.vector_norm(tensor.detach())) ** 2
        squares[parameter.layer] = squares.get(parameter.layer, 0.0) + square
    mean = math.sqrt(math.fsum(squares.values()) / space.size) or 1.0
    return [
        (layer.span, max(math.sqrt(squares[layer.name]), _LEAST_SHARE * mean * math.sqrt(layer.size)))
        for layer in space.layers
    ]


def _put_back(tensors: Sequence[Tensor], own: Sequence[Tensor]) -> None:
    """Give each parameter its own storage again, whatever happens meanwhile."""
    try:
        for tensor, data in zip(tensors, own, strict=True):
            tensor.data = data
    except KeyboardInterrupt:
        for tensor, data in zip(tensors, own, strict=True):
            tensor.data = data
        raise
