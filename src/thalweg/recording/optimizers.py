"""What a recording needs of the optimizers: which steps count, each step's rates, and what stands with an anchor."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.errors import InputError
from thalweg.recording.manifest import settings_of, storable
from thalweg.space import plain_name

STATE_SHARE = 0.1
"""The optimizers' state is kept with an anchor once it is no more than this share of the rows since the last time."""

StateOf = tuple[int, str, str]
"""Number of the optimizer, name of the parameter, key."""


@dataclass(frozen=True)
class Standing:
    """What stands beside the weights: `SegmentContent` says what each field is."""

    buffers: Mapping[str, Tensor]
    groups: Sequence[Mapping[str, Any]]
    state: Sequence[tuple[StateOf, Tensor]] = ()

    @property
    def state_bytes(self) -> int:
        """Of the state."""
        return sum(tensor.nbytes for _, tensor in self.state)


NOTHING = Standing({}, ())


class Optimizers:
    """The optimizers of one model, held weakly. A step of the last one is a step of the run.

    Args:
        optimizers: in the order in which the user gave them; none for a loop that says itself when it has stepped.
        columns: parameter groups of each that have a column of rates; as many as they have now unless said.
    """

    def __init__(self, optimizers: Sequence[Optimizer], columns: Sequence[int] | None = None) -> None:
        counts = [len(optimizer.param_groups) for optimizer in optimizers] if columns is None else columns
        self._held = [(weakref.ref(o), count) for o, count in zip(optimizers, counts, strict=True)]
        self.columns = sum(counts) if optimizers else 1

    def _alive(self) -> Iterator[tuple[int, Optimizer]]:
        for number, (reference, _) in enumerate(self._held):
            optimizer = reference()
            if optimizer is not None:
                yield number, optimizer

    def rates(self) -> tuple[list[tuple[float, float]], dict[str, float]]:
        """Learning rate and momentum (or first beta) of each column; learning rates of groups that came later."""
        pairs: list[tuple[float, float]] = []
        later: dict[str, float] = {}
        for number, (reference, columns) in enumerate(self._held):
            optimizer = reference()
            groups = [] if optimizer is None else optimizer.param_groups
            pairs += [rates_of(group) for group in groups[:columns]]
            if len(groups) != columns:
                pairs += [(math.nan, math.nan)] * (columns - len(groups))
                whose = f"optimizer_{number}_" if len(self._held) > 1 else ""
                for position in range(columns, len(groups)):
                    later[f"learning_rate_of_{whose}group_{position}"] = rates_of(groups[position])[0]
        return pairs or [(math.nan, math.nan)], later

    def groups(self) -> list[dict[str, Any]]:
        """Settings of every parameter group, as plain JSON values."""
        return [
            {"optimizer": number} | settings_of(group)
            for number, optimizer in self._alive()
            for group in optimizer.param_groups
        ]

    def state_bytes(self) -> int:
        """Of the state's tensors."""
        return sum(
            value.nbytes
            for _, optimizer in self._alive()
            for state in optimizer.state.values()
            for value in state.values()
            if type(value) is Tensor
        )

    def state(self, model: nn.Module) -> list[tuple[StateOf, Tensor]]:
        """Copies of the tensors and numbers that the optimizers keep for the model's parameters."""
        names = {id(p): plain_name(name) for name, p in model.named_parameters()}
        kept: list[tuple[StateOf, Tensor]] = []
        for number, optimizer in self._alive():
            for parameter, state in optimizer.state.items():
                for key, value in state.items() if id(parameter) in names else ():
                    if isinstance(value, (bool, int, float)):
                        value = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
                    if type(value) is Tensor and storable(value):
                        kept.append(((number, names[id(parameter)], str(key)), value.detach().to("cpu", copy=True)))
        return kept

    def hold(self, parameter: Tensor) -> bool:
        """Whether one of them trains this parameter."""
        return any(
            parameter is p
            for _, optimizer in self._alive()
            for group in optimizer.param_groups
            for p in group["params"]
        )


def unwrap(optimizer: Any) -> list[Optimizer]:
    """The optimizers that the user means, in order, out of the wrappers of Accelerate and Lightning.

    Raises:
        InputError: if something else than torch optimizers was given, or an empty list.
    """
    if optimizer is None:
        return []
    given = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
    found: list[Optimizer] = []
    for item in given:
        inner = item
        while not _has_hooks(inner) and hasattr(inner, "optimizer"):
            inner = inner.optimizer
        if not _has_hooks(inner):
            raise InputError(f"{type(item).__name__} is no torch.optim.Optimizer; give the one whose step() trains")
        item = inner
        if not any(item is other for other in found):
            found.append(item)
    if not found:
        raise InputError("optimizer=[]: give an optimizer, several, or None and call recorder.step() yourself")
    return found


def _has_hooks(optimizer: Any) -> bool:
    """Whether its own step() calls hooks; Accelerate's wrapper is of the class and does not."""
    return isinstance(optimizer, Optimizer) and "_optimizer_step_post_hooks" in optimizer.__dict__


def skipped(optimizer: Optimizer) -> bool:
    """Whether the step just made was none, since a gradient scaler told a fused optimizer of infinite gradients."""
    found = optimizer.__dict__.get("found_inf")
    return found is not None and float(found) != 0.0


def rates_of(group: Mapping[str, Any]) -> tuple[float, float]:
    """Learning rate and momentum (or first beta) of a parameter group; NaN where it has none."""
    momentum = group.get("momentum")
    if momentum is None:
        momentum = group["betas"][0] if "betas" in group else math.nan
    return float(group.get("lr", math.nan)), float(momentum)
