"""`guard`: every step of an optimizer, changed so that what is remembered stays in place."""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.protect.finding import space_of_directions, tensors_of
from thalweg.protect.knowledge import Knowledge
from thalweg.protect.remember import direction_shield
from thalweg.protect.shields import DiagonalShield, DirectionShield, Shield, working
from thalweg.recording.optimizers import skipped, unwrap

What = Knowledge | Directions | str | Path
"""What can be protected."""

STRENGTH = 10.0
EVERY = 10
"""The soft part is taken in one of so many steps (docs/decisions/0016)."""
OFTEN = 10
"""The step size of an adaptive optimizer is measured in every step at first, then in one of so many."""

_GUARDED: weakref.WeakKeyDictionary[Optimizer, Guard] = weakref.WeakKeyDictionary()


class Guard:
    """A guard at work; `remove()` ends it, and so does leaving it as a context.

    Attributes:
        shields: what is protected.
        strength: λ.
        every: the soft part is taken in one of so many steps.
        steps: optimizer steps guarded so far.
        seconds: spent on them.
    """

    def __init__(
        self, optimizers: Sequence[Optimizer], named: Mapping[str, Tensor], shields: Sequence[Shield], strength: float,
        every: int,
    ) -> None:  # fmt: skip
        self.shields = tuple(shields)
        self.strength, self.every = strength, every
        self.steps, self.seconds = 0, 0.0
        names = dict.fromkeys(name for shield in self.shields for name in shield.names)
        self._tensors = {name: named[name] for name in names}
        self._home = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}
        self._groups = {name: _group_of(optimizers, tensor) for name, tensor in self._tensors.items()}
        self._stride: dict[tuple[int, int], list[float]] = {}
        self._before: dict[str, Tensor] = {}
        self._pending = 0
        self._rates: dict[str, float] = {}
        self._lost: dict[str, Tensor] = {}
        self._handles = []
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_pre_hook(_quietly(self._ahead)))
            self._handles.append(optimizer.register_step_post_hook(_quietly(self._measure)))
            _GUARDED[optimizer] = self
        self._handles.append(optimizers[-1].register_step_post_hook(_quietly(self._after)))
        self._optimizers = [weakref.ref(optimizer) for optimizer in optimizers]

    def __repr__(self) -> str:
        kinds = ", ".join(sorted({shield.kind for shield in self.shields}))
        return f"Guard({kinds}, {len(self._tensors)} parameters, strength {self.strength:g}, {self.steps} steps)"

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with nullcontext() if kind is None else suppress(InputError):  # it would hide what went wrong first
            self.remove()

    def remove(self) -> None:
        """End the protection, after the soft part of the last steps; the weights then stay as they are.

        Raises:
            InputError: if the last steps were not finite.
        """
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for reference in self._optimizers:
            optimizer = reference()
            if optimizer is not None and _GUARDED.get(optimizer) is self:
                del _GUARDED[optimizer]
        if self._pending:
            self._shrink(self._pending)

    # -- the steps ---------------------------------------------------------------------------------------------

    def _ahead(self, optimizer: Optimizer) -> None:
        """Before a step: what an adaptive optimizer's step is measured against, where that is due."""
        if self.steps >= OFTEN and self.steps % OFTEN:
            return
        for name, tensor in self._tensors.items():
            group = self._groups[name]
            if group.optimizer() is optimizer and not group.plain:
                self._before[name] = tensor.detach().clone()

    def _measure(self, optimizer: Optimizer) -> None:
        """Each group's length of a step over its gradient's and its learning rate, smoothed."""
        sums: dict[tuple[int, int], list[float]] = {}
        for name in [name for name in self._before if self._groups[name].optimizer() is optimizer]:
            before, tensor, group = self._before.pop(name), self._tensors[name], self._groups[name]
            rate = float(group.settings["lr"])
            if tensor.grad is None or skipped(optimizer) or not rate > 0:
                continue
            gradient = tensor.grad.coalesce().values() if tensor.grad.is_sparse else tensor.grad
            own = sums.setdefault(group.key, [0.0, 0.0])
            own[0] += _square(tensor.detach() - before) / rate**2
            own[1] += _square(gradient)
        for key, now in sums.items():
            if now[1] > 0 and all(math.isfinite(value) for value in now):
                old = self._stride.get(key, now)
                self._stride[key] = [0.9 * past + 0.1 * new for past, new in zip(old, now, strict=True)]

    def _after(self, optimizer: Optimizer) -> None:
        if skipped(optimizer):
            return
        begun = time.perf_counter()
        self.steps += 1
        self._pending += 1
        self._rates = {shield.names[0]: self._rate(shield.names[0]) for shield in self.shields}
        due = math.isinf(self.strength) or self.steps % self.every == 0
        self._shrink(self._pending if due else 0)
        self._pending = 0 if due else self._pending
        self.seconds += time.perf_counter() - begun

    def _rate(self, name: str) -> float:
        """The step size: with what momentum makes of it for SGD, else lr times what was measured."""
        group = self._groups[name]
        rate = float(group.settings["lr"])
        if group.plain:
            momentum, damped = float(group.settings["momentum"]), float(group.settings["dampening"])
            return rate * (1 - damped * (momentum > 0)) / max(1 - momentum, 1e-3)
        step, gradient = self._stride.get(group.key, (0.0, 1.0))
        return rate * math.sqrt(step / gradient)

    @torch.no_grad()
    def _shrink(self, steps: int) -> None:
        """Take the hard part off, and the soft part of so many steps."""
        for number, shield in enumerate(self.shields):
            if not steps and isinstance(shield, DiagonalShield):
                continue  # nothing of it is hard
            first = self._tensors[shield.names[0]]
            shield = self._there(number, first)
            moved = {name: self._moved(name) for name in shield.names}
            tau = 0.0 if not steps else self.strength * self._rates[shield.names[0]] * steps
            tau = math.inf if steps and math.isinf(self.strength) else tau
            kept = shield.shrink(moved, tau)
            if not math.isfinite(float(torch.stack([new.sum() for new in kept.values()]).sum())):
                self._not_finite(moved)
            for name, new in kept.items():
                there = self._home[name].to(new.dtype) + new
                self._tensors[name].copy_(there)
                if self._tensors[name].dtype != there.dtype:  # a pull may be smaller than what such weights can hold
                    self._lost[name] = there - self._tensors[name].to(there.dtype)

    def _there(self, number: int, like: Tensor) -> Shield:
        """A shield where the weights are now."""
        shield = self.shields[number]
        held = next(iter(shield.tensors().values()))
        if held.device != like.device or held.dtype != working(like.dtype):
            shield = shield.to(like)
            self.shields = (*self.shields[:number], shield, *self.shields[number + 1 :])
        return shield

    def _moved(self, name: str) -> Tensor:
        tensor = self._tensors[name].detach()
        if self._home[name].device != tensor.device:
            self._home[name] = self._home[name].to(tensor.device)
        exact = working(tensor.dtype)
        lost = self._lost.get(name)
        there = tensor.to(exact) if lost is None else tensor.to(exact) + lost.to(tensor.device)
        return there - self._home[name].to(exact)

    def _not_finite(self, moved: Mapping[str, Tensor]) -> None:
        name = next((name for name, step in moved.items() if not bool(torch.isfinite(step).all())), next(iter(moved)))
        raise InputError(
            f"the step to {name!r} at step {self.steps} is not finite: the new task's loss or its step size is to "
            "blame, not the protection. The guard has changed nothing in it; take a smaller step size"
        )


def guard(
    optimizer: Optimizer | Sequence[Optimizer],
    what: What | Sequence[What],
    *,
    model: nn.Module | None = None,
    strength: float = STRENGTH,
    every: int = EVERY,
    moved: bool = False,
) -> Guard:
    """Protect what was learned while something else is learned, with any torch optimizer.

    ```python
    thalweg.remember(old_problem, "old-task.safetensors")
    ...                                  # months later, with the old weights loaded
    protecting = thalweg.guard(optimizer, "old-task.safetensors", model=model)
    ...                                  # the training loop on the new data, unchanged
    protecting.remove()                  # or `with guard(...):`
    ```

    After each `optimizer.step()` the whole displacement of the weights since here, with momentum, preconditioning and
    weight decay in it, is shrunk: to nothing along what is hard, by a penalty taken implicitly along the rest
    (`thalweg.protect.shields`). Memory: what is known, and one copy of the protected weights.

    Args:
        optimizer: the one whose steps train, or several in the order in which they step.
        what: knowledge, its file, or directions (hard, or soft along the `values` they have); several of them.
        model: the model; only needed where the optimizer's parameters cannot be told by order, names or shapes.
        strength: λ of the soft part, against a loss that is a mean over samples; infinity makes it hard.
        every: the soft part is taken in one of so many steps, for all of them at once, which is cheaper; the hard part
            is taken in every step.
        moved: protect around the present weights, though they are not those that were remembered.

    Raises:
        InputError: if the knowledge is of another model or of other weights, an optimizer is guarded already, or an
            argument cannot be worked with; later, if a step is not finite.
        RunError: if a file cannot be read.
    """
    optimizers = unwrap(optimizer)
    if not optimizers:
        raise InputError("optimizer=None cannot be guarded; give the optimizer whose step() trains")
    if any(one in _GUARDED for one in optimizers):
        raise InputError(
            "this optimizer is guarded already; give everything at once, guard(optimizer, [one, other]), or end the "
            "first guard with its remove()"
        )
    if not strength >= 0 or every < 1:
        raise InputError(f"strength={strength}, every={every}: give a strength of 0 or more, and every=1 or more")
    given: list[What] = list(what) if isinstance(what, (list, tuple)) else [what]  # type: ignore[list-item]
    if not given:
        raise InputError("nothing to protect was given; give knowledge, its file, or directions")
    shields: list[Shield] = []
    named: dict[str, Tensor] = {}
    along: DirectionShield | None = None
    for one in given:
        loaded = one if isinstance(one, (Knowledge, Directions)) else Knowledge.load(one)
        space = loaded.space if isinstance(loaded, Knowledge) else space_of_directions(loaded, optimizers, model)
        found = tensors_of(space, optimizers, model)
        if isinstance(loaded, Knowledge):
            loaded.check_weights(found, shapes_only=moved)
            shields += loaded.shields
        else:
            own = direction_shield(loaded, space)
            along = own if along is None else along.stacked(own)
        named |= found
    shields += [] if along is None else [along]
    _check_shared(shields)
    _check_rates(optimizers, named, shields)
    ready = [shield.to(named[shield.names[0]]) for shield in shields]
    protecting = Guard(optimizers, named, ready, strength, every)
    logging.getLogger("thalweg").info("%r", protecting)
    return protecting


def _check_shared(shields: Sequence[Shield]) -> None:
    """One after the other, two shields of the same parameters would be no penalty that anybody could name."""
    owners: dict[str, str] = {}
    for shield in shields:
        for name in shield.names:
            if name in owners:
                raise InputError(
                    f"{name!r} is protected twice, as {owners[name]} and as {shield.kind}; merge knowledge with "
                    "remember(..., earlier=...), and give directions for other layers"
                )
            owners[name] = shield.kind


def _check_rates(optimizers: Sequence[Optimizer], named: Mapping[str, Tensor], shields: Sequence[Shield]) -> None:
    """One shield, one step size: a penalty over parameters that move at different paces is another penalty."""
    for shield in shields:
        rates = {float(_group_of(optimizers, named[name]).settings["lr"]) for name in shield.names}
        if len(rates) > 1:
            raise InputError(
                f"{shield.names[0]!r} and others that are protected together have the learning rates "
                f"{', '.join(f'{rate:g}' for rate in sorted(rates))}; give them one, or protect with method='diagonal'"
            )


@dataclass(frozen=True)
class _Group:
    """A parameter group by its place, which outlives a `load_state_dict`, and the optimizer that steps it."""

    optimizer: weakref.ref[Optimizer]
    place: int

    @property
    def key(self) -> tuple[int, int]:
        """Tells it from other groups."""
        return id(self.optimizer()), self.place

    @property
    def settings(self) -> Mapping[str, Any]:
        """Learning rate and the like, as they are now."""
        optimizer = self.optimizer()
        assert optimizer is not None  # its own step called
        found: Mapping[str, Any] = optimizer.param_groups[self.place]
        return found

    @property
    def plain(self) -> bool:
        """Whether the step size is known without measuring."""
        return type(self.optimizer()) is torch.optim.SGD


def _group_of(optimizers: Sequence[Optimizer], tensor: Tensor) -> _Group:
    for optimizer in optimizers:
        for place, group in enumerate(optimizer.param_groups):
            if any(tensor is p for p in group["params"]):
                return _Group(weakref.ref(optimizer), place)
    raise AssertionError("checked before")


def _square(tensor: Tensor) -> float:
    return float(tensor.detach().to(working(tensor.dtype)).square().sum())


def _quietly(work: Any) -> Any:
    """A hook that takes what torch gives hooks and returns nothing."""

    def hook(optimizer: Optimizer, arguments: Any, keywords: Any) -> None:
        work(optimizer)

    return hook
