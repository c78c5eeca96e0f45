"""Operations whose second derivative torch computes in dozens of passes, replaced while a loss is computed.

A replacement has the same value and the same derivatives; it only saves, when the graph is built, what every product
would otherwise compute anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Replacements = Mapping[Any, Callable[..., Tensor]]
"""By one of torch's functions what replaces it: of the same signature, for a first argument with a graph."""


@contextmanager
def replacing(table: Replacements) -> Iterator[None]:
    """Compute a loss in here with the replacements, and differentiate it outside.

    A loss that differentiates the model itself, in here, gets torch's own derivatives, of any order.
    """
    _Replacing.active += 1
    try:
        with _Replacing(table):
            yield
    finally:
        _Replacing.active -= 1


@contextmanager
def by_torch() -> Iterator[None]:
    """Nothing is replaced in here."""
    _Replacing.bypassed += 1
    try:
        yield
    finally:
        _Replacing.bypassed -= 1


def inside_a_loss() -> bool:
    """Whether a loss is being computed, so that a backward pass now belongs to the loss."""
    return _Replacing.active > 0


class _Replacing(TorchFunctionMode):
    active = 0
    """How many losses are being computed; a class's own number, since backward passes may run on other threads."""

    bypassed = 0

    def __init__(self, table: Replacements) -> None:
        super().__init__()
        self.table = table

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        replacement = None if _Replacing.bypassed else self.table.get(func)
        if replacement is not None and torch.is_grad_enabled() and _has_graph(args[0] if args else named.get("input")):
            return replacement(*args, **named)
        return func(*args, **named)


def _has_graph(x: Any) -> bool:
    return type(x) in (Tensor, torch.nn.Parameter) and bool(x.requires_grad) and bool(x.is_floating_point())
