"""Streams of tasks: Permuted, Rotated and Split Fashion-MNIST, and the net that learns them.

*Domain-incremental*: the same ten classes under other inputs, one head, and nobody says which task a sample is of
(permuted, rotated). *Task-incremental*: other classes, one output for each, and a sample's task is known (split).
*Class-incremental* learning, where it is not, is measured by nobody here and promised by nobody.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.errors import InputError, nearest
from thalweg.losses import Loss
from thalweg.problem import Problem
from thalweg.tasks.fashion_mnist import read

TRAIN, VALID, TEST = 6000, 2000, 2000
"""Pictures of each task: to learn from, to tune on, to judge on."""

RESERVE = 10000
"""The last pictures of the training part, from which validation is drawn and nothing else."""

KINDS = {"permuted": 10, "rotated": 10, "split": 5}
"""Streams and how many tasks each has."""

TURN = 10.0
"""Degrees between neighbouring tasks of the rotated stream."""

FAR = -1e9
"""Output of a class that a task does not have."""

Pictures = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Lesson:
    """One task of a stream.

    Attributes:
        train: inputs `(n, 784)` and labels `(n,)`.
        valid: likewise, of a reserve of the training part that no training sees, in no task.
        test: likewise, of the test part.
        classes: those that the task has, where that is known; None for all ten.
    """

    train: Pictures
    valid: Pictures
    test: Pictures
    classes: tuple[int, ...] | None = None

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
        return functional.cross_entropy(self.outputs(model, inputs), labels)

    def accuracy(self, model: nn.Module, pictures: Pictures) -> float:
        """Share of right answers."""
        with torch.no_grad():
            return float((self.outputs(model, pictures[0]).argmax(1) == pictures[1]).double().mean())

    def problem(self, model: nn.Module, samples: int) -> Problem:
        """The loss on the first training samples, as a problem."""
        loss = Loss(
            lambda network, batch: self.outputs(network, batch[0]),
            lambda output, batch: functional.cross_entropy(output, batch[1]),
        )
        inputs, labels = (part[:samples] for part in self.train)
        batches = [(inputs[n : n + 500], labels[n : n + 500]) for n in range(0, len(labels), 500)]
        return Problem(model, loss, batches)


def stream(kind: str, seed: int, tasks: int | None = None) -> list[Lesson]:
    """The tasks of a stream in their order.

    Args:
        kind: "permuted", "rotated" or "split".
        seed: of pictures and permutations.
        tasks: the first so many; all unless given.

    Raises:
        InputError: if there is no such stream, or Fashion-MNIST is not on this machine.
    """
    if kind not in KINDS:
        raise InputError(f"there is no stream {kind!r}; choose from {nearest(kind, KINDS)}")
    draw = torch.Generator().manual_seed(seed)
    lessons = []
    for number in range(tasks or KINDS[kind]):
        classes = (2 * number, 2 * number + 1) if kind == "split" else None
        parts = [_drawn(part, count, draw, classes) for part, count in zip(PARTS, (TRAIN, VALID, TEST), strict=True)]
        if kind == "permuted":
            order = torch.randperm(784, generator=draw) if number else torch.arange(784)
            parts = [(inputs[:, order], labels) for inputs, labels in parts]
        elif kind == "rotated":
            parts = [(_turned(inputs, TURN * number), labels) for inputs, labels in parts]
        train, valid, test = parts
        lessons.append(Lesson(train, valid, test, classes))
    return lessons


def fresh_net(seed: int, widths: Sequence[int] = (784, 100, 100, 10)) -> nn.Module:
    """A perceptron without biases, as in the published comparisons."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for start, stop in itertools.pairwise(widths):
            layers += [nn.Linear(start, stop, bias=False), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


PARTS = ("train", "valid", "test")


@cache
def _all(part: str) -> Pictures:
    images, labels = read("t10k" if part == "test" else "train")
    inputs, labels = images.reshape(-1, 784).float() / 255, labels.long()
    if part == "test":
        return inputs, labels
    chosen = slice(-RESERVE, None) if part == "valid" else slice(0, -RESERVE)
    return inputs[chosen], labels[chosen]


def _drawn(part: str, count: int, draw: torch.Generator, classes: tuple[int, ...] | None) -> Pictures:
    inputs, labels = _all(part)
    there = torch.arange(len(labels))
    if classes is not None:
        there = torch.isin(labels, torch.tensor(classes)).nonzero()[:, 0]
    chosen = there[torch.randperm(len(there), generator=draw)[:count]]
    return inputs[chosen], labels[chosen]


def _turned(inputs: Tensor, degrees: float) -> Tensor:
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
    places = functional.affine_grid(turn.expand(len(inputs), 2, 3), [len(inputs), 1, 28, 28], align_corners=False)
    return functional.grid_sample(inputs.view(-1, 1, 28, 28), places, align_corners=False).reshape(-1, 784)
