"""A task: what the command line and trials need of a user's code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from thalweg.errors import InputError
from thalweg.losses import Reduction
from thalweg.problem import Problem


@dataclass(frozen=True)
class Task:
    """A user's model, loss and data, for the command line and for trials.

    Attributes:
        model: the network.
        loss: as `Problem` takes it; None for a HuggingFace model.
        train: batches to measure on, in a fixed order.
        held_out: batches that training never saw, or None.
        optimizer: makes the optimizer from the model.
        evaluate: `model -> dict of numbers`, the user's own measures.
        reduction: whether a batch loss is a mean or a sum.
        weight: `batch -> number`.
    """

    model: nn.Module
    loss: Any
    train: Iterable[Any]
    held_out: Iterable[Any] | None = None
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None
    reduction: Reduction = "mean"
    weight: Callable[[Any], float] | None = None

    def problem(self, held_out: bool = False) -> Problem:
        """The problem on the training data, or on the held-out data.

        Raises:
            InputError: if held-out data is asked for and there is none.
        """
        data = self.held_out if held_out else self.train
        if data is None:
            raise InputError("this task has no held-out data; give Task(..., held_out=batches)")
        return Problem(self.model, self.loss, data, reduction=self.reduction, weight=self.weight)
