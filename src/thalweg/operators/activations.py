"""Activations whose second derivative torch computes in dozens of passes, with one that takes two.

The double backward of GELU took 28 % of a transformer's Hessian product. An elementwise function f needs of it only
`f'(x)` and `g f''(x)`, with g the gradient that comes in; both stay the same from product to product, so they are
computed once, when the graph is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


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


@contextmanager
def light_activations() -> Iterator[None]:
    """Compute a loss in here and differentiate it outside: GELU and SiLU then have the light second derivative.

    A loss that differentiates the model itself, in here, gets torch's own derivatives, of any order.
    """
    _Activations.active += 1
    try:
        with _Activations():
            yield
    finally:
        _Activations.active -= 1


class _Activations(TorchFunctionMode):
    active = 0
    """How many losses are being computed; a class's own number, since backward passes may run on other threads."""

    bypassed = 0
    """How many backward passes inside a loss are calling torch's own function."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _FUNCTIONS and not _Activations.bypassed:
            light = _light(func, args, dict(kwargs or {}))
            if light is not None:
                return light
        return func(*args, **(kwargs or {}))


_FUNCTIONS = {functional.gelu, functional.silu, torch._C._nn.silu}


def _light(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The function with its light derivative, or None where it is called in another way than is known here."""
    x = args[0] if args else kwargs.pop("input", None)
    if type(x) not in (Tensor, torch.nn.Parameter) or not x.requires_grad or not x.is_floating_point() or args[1:]:
        return None
    if func is functional.gelu:
        kind = {"none": GELU, "tanh": TANH_GELU}.get(kwargs.pop("approximate", "none"))
    else:
        kind = None if kwargs.pop("inplace", False) else SILU
    if kind is None or kwargs or not torch.is_grad_enabled():
        return None
    result: Tensor = _Value.apply(x, kind)  # type: ignore[no-untyped-call]
    return result


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
        if _Activations.active:
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
    _Activations.bypassed += 1
    try:
        value = kind.value(x)
    finally:
        _Activations.bypassed -= 1
    (product,) = torch.autograd.grad(value, x, gradient, create_graph=True)
    return product
