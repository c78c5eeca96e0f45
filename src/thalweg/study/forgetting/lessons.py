"""Lessons: the tasks of a stream, and what is asked of a net at each of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.losses import Loss
from thalweg.problem import Problem

FAR = -1e9
"""Output of a class that a task does not have."""

AT_ONCE = 500
"""Samples of one batch to measure on."""

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Lesson:
    """One task of a stream.

    Attributes:
        train: inputs `(n, ...)` and labels `(n, ...)`, one for each prediction.
        valid: likewise, of what no training sees, in no task.
        test: likewise, of the test part.
        classes: those that the task has, where that is known; None for all.
        samples: training samples that the learned task is measured on.
    """

    train: Pair
    valid: Pair
    test: Pair
    classes: tuple[int, ...] | None = None
    samples: int = 1000

    def outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """The model's outputs, without the classes that the task does not have."""
        found: Tensor = model(inputs)
        if self.classes is None:
            return found
        away = torch.full_like(found[0], FAR)
        away[list(self.classes)] = 0.0
        return found + away

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """The mean cross entropy."""
        return _cross_entropy(self.outputs(model, inputs), labels)

    def accuracy(self, model: nn.Module, pair: Pair) -> float:
        """Share of right answers."""
        right = 0
        with torch.no_grad():
            for inputs, labels in zip(*(torch.split(part, AT_ONCE) for part in pair), strict=True):
                right += int((self.outputs(model, inputs).argmax(-1) == labels).sum())
        return right / pair[1].numel()

    def measured(self) -> Pair:
        """The training samples that the learned task is measured on."""
        inputs, labels = (part[: self.samples] for part in self.train)
        return inputs, labels

    def problem(self, model: nn.Module) -> Problem:
        """The loss on those, as a problem."""
        loss = Loss(
            lambda network, batch: self.outputs(network, batch[0]),
            lambda output, batch: _cross_entropy(output, batch[1]),
        )
        batches = list(zip(*(torch.split(part, AT_ONCE) for part in self.measured()), strict=True))
        return Problem(model, loss, batches)


def _cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, -2), labels.flatten())
