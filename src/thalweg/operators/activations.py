"""Activations whose second derivative torch computes in dozens of passes, with one that takes two.

The double backward of GELU took 28 % of a transformer's Hessian product. An elementwise function f needs of it only
`f'(x)` and `g f''(x)`, with g the gradient that comes in; both stay the same from product to product, so they are
computed once, when the graph is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from thalweg.operators.replacing import Replacements, by_torch, inside_a_loss


@dataclass(frozen=True)
class Elementwise:
    """A function of each entry.

    Attributes:
        value: torch's own, differentiable as often as torch can.
        slope: its first derivative.
        bend: its second derivative.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    bend: Callable[[Tensor], Tensor]


def _density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


GELU = Elementwise(
    functional.gelu,
    lambda x: torch.special.ndtr(x) + x * _density(x),
    lambda x: (2 - x * x) * _density(x),
)
"""`x Φ(x)` with the normal distribution's Φ (Hendrycks and Gimpel, arXiv 1606.08415)."""

_INNER, _CUBIC = math.sqrt(2 / math.pi), 0.044715


def _tanh_slope(x: Tensor) -> Tensor:
    t = torch.tanh(_INNER * (x + _CUBIC * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * _INNER * (1 + 3 * _CUBIC * x * x)


def _tanh_bend(x: Tensor) -> Tensor:
    t = torch.tanh(_INNER * (x + _CUBIC * x**3))
    first = _INNER * (1 + 3 * _CUBIC * x * x)
    return (1 - t * t) * (first + 0.5 * x * (6 * _CUBIC * _INNER * x - 2 * t * first * first))


TANH_GELU = Elementwise(lambda x: functional.gelu(x, approximate="tanh"), _tanh_slope, _tanh_bend)
"""The same with a hyperbolic tangent in the place of Φ (the same paper, section 2)."""


def _silu_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def _silu_bend(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


SILU = Elementwise(functional.silu, _silu_slope, _silu_bend)
"""`x σ(x)` with the logistic σ (the same paper, section 2, footnote)."""


def _gelu(input: Tensor, approximate: str = "none") -> Tensor:  # noqa: A002 - torch's own name
    kind = {"none": GELU, "tanh": TANH_GELU}.get(approximate)
    if kind is None:
        return functional.gelu(input, approximate=approximate)
    return _value(input, kind)


def _silu(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002 - torch's own name
    return functional.silu(input, inplace=True) if inplace else _value(input, SILU)


def _value(x: Tensor, kind: Elementwise) -> Tensor:
    result: Tensor = _Value.apply(x, kind)  # type: ignore[no-untyped-call]
    return result


REPLACEMENTS: Replacements = {functional.gelu: _gelu, functional.silu: _silu}


class _Value(torch.autograd.Function):
    """f(x); its gradient is `g f'(x)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: Elementwise) -> Tensor:
        ctx.kind = kind
        ctx.save_for_backward(x, kind.slope(x))
        return kind.value(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, slope = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return gradient * slope, None
        if inside_a_loss():
            return _of_torch(ctx.kind, x, gradient), None
        bent: Tensor = _Slope.apply(gradient, x, slope, ctx.kind)  # type: ignore[no-untyped-call]
        return bent, None


class _Slope(torch.autograd.Function):
    """`g f'(x)`; its derivatives in the direction v are `v f'(x)` and `v g f''(x)`."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, slope: Tensor, kind: Elementwise) -> Tensor:
        ctx.save_for_backward(slope, gradient * kind.bend(x))
        return gradient * slope

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, vector: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        slope, bent = ctx.saved_tensors
        by_gradient, by_x = ctx.needs_input_grad[:2]
        return vector * slope if by_gradient else None, vector * bent if by_x else None, None, None


def _of_torch(kind: Elementwise, x: Tensor, gradient: Tensor) -> Tensor:
    """`g f'(x)` as torch computes it, with the graph of x and g."""
    with by_torch():
        value = kind.value(x)
    (product,) = torch.autograd.grad(value, x, gradient, create_graph=True)
    return product
