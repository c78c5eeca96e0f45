"""What torch cannot differentiate twice: noticed before anything is computed from it, and named.

Three things happen to an operation without a second derivative. Most raise, in a backward pass, a RuntimeError that
does not say which part of the model it came from. A custom `autograd.Function` marked with `once_differentiable` raises
nothing where gradients are asked for by inputs: its error waits on a path that such a pass never takes, and the second
derivative is silently short of a term. So is that of a function whose backward leaves autograd (`no_grad`, NumPy, a
kernel of its own). The first is translated, the other two are found by looking at what every custom function returns.

A backward that uses its saved input as if it were a constant (`.detach()`, `.data`, `ctx.anything`) cannot be told from
a linear one this way; `check_hessian` in `thalweg.operators.differences` finds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from thalweg.errors import InputError, NoSecondDerivativeError
from thalweg.memory import nodes_behind
from thalweg.operators.base import BatchLosses

_MISSING = re.compile(r"derivative for .+ not implemented|double backward|differentiate twice|once_differentiable")
_OPERATION = re.compile(r"derivative for '?(?:aten::)?(\w+?)'? is not implemented")

REMEDY = (
    "the Hessian can be measured by central differences of gradients instead: problem.hessian(finite_differences=True)"
)


@contextmanager
def naming_operations(losses: BatchLosses) -> Iterator[None]:
    """Translate what torch raises about a second derivative in here.

    Args:
        losses: whose first batch is evaluated once more, to find the module.

    Raises:
        NoSecondDerivativeError: in place of torch's own error.
        InputError: if an operation has no first derivative either.
    """
    try:
        yield
    except RuntimeError as error:
        if not _MISSING.search(str(error)):
            raise
        found = _OPERATION.search(str(error))
        operation = found.group(1) if found else ""
        with losses.evaluating(), watched(losses) as spans:
            head = next(iter(losses.terms())).loss()
            _check_gradient(head, [tensor for tensor in losses.parameters() if tensor.requires_grad])
        made = [node for node in nodes_behind([head]) if operation and _plain(node.name()) == _plain(operation)]
        where = spans.where(made[0]) if made else ""
        shown = operation.removesuffix("_backward").lstrip("_") or f"an operation ({error})"
        raise NoSecondDerivativeError(_message(shown, where)) from error


def check_custom_functions(head: Tensor, inputs: Sequence[Tensor], spans: _Spans | None = None) -> None:
    """Refuse custom functions whose backward pass has no graph.

    Costs a walk through the graph, and a backward pass only if there is any custom function.

    Args:
        head: a loss or an output with its graph.
        inputs: the leaves that it is differentiated by.
        spans: which module made which node, where that is known.

    Raises:
        NoSecondDerivativeError: if there is one.
    """
    lost: list[Node] = []

    def watch(node: Node) -> Any:
        def look(results: tuple[Tensor | None, ...], _: tuple[Tensor | None, ...]) -> None:
            # the seed below requires a gradient, and a backward pass is linear in it: so must every result
            given = [result for result in results if result is not None and bool(result.detach().any())]
            if given and not any(_linked(result) for result in given):
                lost.append(node)

        return node.register_hook(look)

    custom = _custom(head)
    if not custom:
        return
    handles = [watch(node) for node in custom]
    try:
        seed = torch.ones_like(head, requires_grad=True)
        torch.autograd.grad((head * seed).sum(), list(inputs), create_graph=True, retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    if lost:
        name = f"the custom function {lost[0].name().removesuffix('Backward')}"
        raise NoSecondDerivativeError(_message(name, spans.where(lost[0]) if spans else ""))


def custom_functions(losses: BatchLosses) -> list[str]:
    """Names of the custom functions in the first batch's loss, with the modules that used them; each once."""
    with losses.evaluating(), watched(losses) as spans:
        head = next(iter(losses.terms())).loss()
    return sorted({node.name().removesuffix("Backward") + spans.where(node) for node in _custom(head)})


def _custom(head: Tensor) -> list[Node]:
    """The nodes of custom functions in a graph."""
    return [node for node in nodes_behind([head]) if issubclass(type(node), BackwardCFunction)]


class _Spans:
    """Which module made which node: every node is numbered, and so is the time at which a module begins and ends.

    Args:
        model: whose modules are watched while this is entered; None where it is not known.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self._model = model
        self._stack = ExitStack()
        self._begun: list[int] = []
        self._spans: list[tuple[int, int, str]] = []

    def __enter__(self) -> _Spans:
        modules = self._model.named_modules() if isinstance(self._model, nn.Module) else ()
        for name, module in modules:
            label = f" in module {name!r} ({type(module).__name__})" if name else f" in {type(module).__name__}"
            for handle in (
                module.register_forward_pre_hook(lambda *_: self._begun.append(_now())),
                module.register_forward_hook(lambda *_, label=label: self._end(label)),
            ):
                self._stack.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end(self, label: str) -> None:
        self._spans.append((self._begun.pop(), _now(), label))

    def where(self, node: Node) -> str:
        """The innermost module that ran when a node was made, in words; empty where none did."""
        number = node._sequence_nr()
        around = [(stop - start, label) for start, stop, label in self._spans if start <= number < stop]
        return min(around)[1] if around else ""


def watched(losses: BatchLosses) -> _Spans:
    """Watches the modules of the losses' model, where there is one, to say later which of them made a node."""
    return _Spans(getattr(losses, "model", None))


def _now() -> int:
    """The number of a node made now."""
    node = torch.zeros((), requires_grad=True).view(()).grad_fn
    number: int = node._sequence_nr()  # type: ignore[union-attr]
    return number


def _linked(result: Tensor) -> bool:
    """Whether the second derivative of a result can be had."""
    return result.grad_fn is not None and not result.grad_fn.name().endswith("Error")


def _plain(name: str) -> str:
    """What `_ctc_loss_backward` and `CtcLossBackward0` have in common."""
    return re.sub(r"backward|[_\d]", "", name.lower())


def _check_gradient(head: Tensor, inputs: Sequence[Tensor]) -> None:
    try:
        torch.autograd.grad(head, list(inputs), allow_unused=True)
    except RuntimeError as error:
        raise InputError(f"the loss has no gradient: {error}") from error


def _message(operation: str, where: str) -> str:
    plainly = ", or let attention be computed plainly, by attn_implementation='eager' in transformers"
    return f"torch cannot differentiate {operation}{where} twice; {REMEDY}" + plainly * ("attention" in operation)
