"""Layer norm with a second derivative in some twenty passes, where torch takes forty.

With `x̂ = (x - mean) r`, r the reciprocal of the standard deviation, m(·) the mean over a row and h = g γ,

    dx = r (h - m(h) - x̂ c),  c = m(h x̂);   dγ = Σ g x̂;   dβ = Σ g    (Ba, Kiros and Hinton, arXiv 1607.06450)

Their derivatives in the directions v, a and b follow from `δx̂ = r P(δx)` and `δr = -r² m(x̂ δx)`, where
`P(z) = z - m(z) - x̂ m(x̂ z)` is symmetric:

    by g   γ r P(v) + a x̂ + b
    by γ   Σ g r P(v)
    by x   r (P(z) - x̂ m(v dx) - dx m(v x̂)),  z = a g - r c v
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from thalweg.operators.replacing import Replacements, by_torch, inside_a_loss


def _layer_norm(
    input: Tensor,  # noqa: A002 - torch's own name
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    shape = list(normalized_shape)
    if list(input.shape[-len(shape) :]) != shape or any(
        t is not None and t.dtype != input.dtype for t in (weight, bias)
    ):
        return functional.layer_norm(input, shape, weight, bias, eps)
    result: Tensor = _Norm.apply(input, weight, bias, shape, eps)  # type: ignore[no-untyped-call]
    return result


REPLACEMENTS: Replacements = {functional.layer_norm: _layer_norm}


class _Norm(torch.autograd.Function):
    """`x̂ γ + β`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: list[int], eps: float
    ) -> Tensor:
        value, mean, scale = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.shape, ctx.eps = shape, eps
        ctx.save_for_backward(x, weight, bias, mean, scale)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, scale = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return (*_first(gradient, x, weight, bias, mean, scale, ctx.shape), None, None)
        if inside_a_loss():
            with by_torch():
                value = functional.layer_norm(x, ctx.shape, weight, bias, ctx.eps)
            inputs = [tensor for tensor in (x, weight, bias) if tensor is not None and tensor.requires_grad]
            found = iter(torch.autograd.grad(value, inputs, gradient, create_graph=True))
            of = [next(found) if t is not None and t.requires_grad else None for t in (x, weight, bias)]
            return (*of, None, None)
        found = _Slope.apply(gradient, x, weight, bias, mean, scale, ctx.shape)  # type: ignore[no-untyped-call]
        return (*found, None, None)


class _Slope(torch.autograd.Function):
    """dx, dγ and dβ; differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        scale: Tensor,
        shape: list[int],
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        by_x, by_weight, by_bias = _first(gradient, x, weight, bias, mean, scale, shape)
        width = weight.numel() if weight is not None else torch.Size(shape).numel()
        rows, scale = (-1, width), scale.reshape(-1, 1)
        normal = (x.reshape(rows) - mean.reshape(-1, 1)) * scale
        flat = gradient.reshape(rows)
        bent = flat if weight is None else flat * weight.reshape(-1)
        across = scale * (bent * normal).mean(1, keepdim=True)  # r c
        ctx.like = x.shape
        ctx.save_for_backward(flat, weight, normal, scale, by_x, across)
        return by_x, by_weight, by_bias

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, v: Tensor | None, a: Tensor | None, b: Tensor | None) -> tuple[Tensor | None, ...]:
        gradient, weight, normal, scale, by_x, across = ctx.saved_tensors
        slope = by_x.reshape(gradient.shape)
        v = None if v is None else v.reshape(gradient.shape)
        a = None if a is None else a.reshape(-1)
        along = None if v is None else (v * normal).mean(1, keepdim=True)  # m(v x̂)
        aimed = None if v is None or along is None else scale * _projected(v, normal, along)
        by_gradient = by_weight = by_input = None
        if ctx.needs_input_grad[0]:
            parts = [] if aimed is None else [aimed if weight is None else aimed * weight.reshape(-1)]
            parts += [] if a is None else [a * normal]
            parts += [] if b is None else [b.reshape(-1).expand_as(gradient)]
            by_gradient = _total(parts)
        if ctx.needs_input_grad[2] and aimed is not None:
            by_weight = (gradient * aimed).sum(0).reshape(weight.shape)
        if ctx.needs_input_grad[1]:
            by_input = _by_x(gradient, normal, scale, slope, across, v, a, along)
        shaped = [None if found is None else found.reshape(ctx.like) for found in (by_gradient, by_input)]
        return (*shaped, by_weight, None, None, None, None)


def _by_x(
    gradient: Tensor,
    normal: Tensor,
    scale: Tensor,
    slope: Tensor,
    across: Tensor,
    v: Tensor | None,
    a: Tensor | None,
    along: Tensor | None,
) -> Tensor | None:
    """`r (P(z) - x̂ m(v dx) - dx m(v x̂))`, the last mean being `along`."""
    if v is None or along is None:
        if a is None:
            return None
        z = a * gradient
        return scale * _projected(z, normal, (z * normal).mean(1, keepdim=True))
    z = -across * v if a is None else torch.addcmul(a * gradient, across, v, value=-1)
    shares = (z * normal).mean(1, keepdim=True) + (v * slope).mean(1, keepdim=True)
    return torch.addcmul(_projected(z, normal, shares), slope, along, value=-1).mul_(scale)


def _projected(z: Tensor, normal: Tensor, along: Tensor) -> Tensor:
    """`z - m(z) - x̂ along`."""
    return torch.addcmul(z - z.mean(1, keepdim=True), normal, along, value=-1)


def _total(parts: list[Tensor]) -> Tensor | None:
    total = None
    for part in parts:
        total = part if total is None else total + part
    return total


def _first(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    scale: Tensor,
    shape: list[int],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """dx, dγ and dβ by torch's own kernel."""
    wanted = [True, weight is not None, bias is not None]
    by_x, by_weight, by_bias = torch.ops.aten.native_layer_norm_backward(
        gradient.contiguous(), x.contiguous(), shape, mean, scale, weight, bias, wanted
    )
    return by_x, by_weight if weight is not None else None, by_bias if bias is not None else None
