"""Streams of pictures: Permuted, Rotated and Split Fashion-MNIST, and the net that learns them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.study.forgetting.lessons import Lesson, Pair
from thalweg.tasks.fashion_mnist import read

TRAIN, VALID, TEST = 6000, 2000, 2000
"""Pictures of each task: to learn from, to tune on, to judge on."""

RESERVE = 10000
"""The last pictures of the training part, from which validation is drawn and nothing else."""

TURN = 10.0
"""Degrees between neighbouring tasks of the rotated stream."""

PARTS = ("train", "valid", "test")

Change = Callable[[Tensor], Tensor]


def permuted(seed: int, tasks: int) -> list[Lesson]:
    """The same pictures' pixels in another order in each task but the first.

    Args:
        seed: of pictures and permutations.
        tasks: how many.

    Raises:
        InputError: if Fashion-MNIST is not on this machine; likewise below.
    """
    draw = torch.Generator().manual_seed(seed)
    lessons = []
    for number in range(tasks):
        parts = [_drawn(part, draw) for part in PARTS]
        order = torch.randperm(784, generator=draw) if number else torch.arange(784)
        lessons.append(_lesson([(inputs[:, order], labels) for inputs, labels in parts]))
    return lessons


def rotated(seed: int, tasks: int) -> list[Lesson]:
    """Each task's pictures turned by 10° more than those of the one before."""
    draw = torch.Generator().manual_seed(seed)
    return [
        _lesson([(turned(inputs, TURN * number), labels) for inputs, labels in (_drawn(p, draw) for p in PARTS)])
        for number in range(tasks)
    ]


def split(seed: int, tasks: int) -> list[Lesson]:
    """Two classes in each task, and a sample's task is known: task-incremental."""
    draw = torch.Generator().manual_seed(seed)
    pairs = [(2 * number, 2 * number + 1) for number in range(tasks)]
    return [_lesson([_drawn(part, draw, pair) for part in PARTS], pair) for pair in pairs]


def split_unknown(seed: int, tasks: int) -> list[Lesson]:
    """The same, and a sample's task is not known: class-incremental."""
    return [Lesson(lesson.train, lesson.valid, lesson.test) for lesson in split(seed, tasks)]


def perceptron(seed: int, widths: Sequence[int] = (784, 100, 100, 10)) -> nn.Module:
    """A perceptron without biases, as in the published comparisons."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for start, stop in itertools.pairwise(widths):
            layers += [nn.Linear(start, stop, bias=False), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def narrow(seed: int) -> nn.Module:
    """A perceptron with a fifth of the width."""
    return perceptron(seed, (784, 20, 20, 10))


def pictures(part: str, count: int, seed: int) -> Pair:
    """So many pictures of a part, "train", "valid" or "test": pixels from 0 to 1 `(count, 784)`, and labels."""
    inputs, labels = _all(part)
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
    return inputs[chosen], labels[chosen]


def turned(inputs: Tensor, degrees: float) -> Tensor:
    """Pictures `(n, 784)`, turned about their middles."""
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
    places = functional.affine_grid(turn.expand(len(inputs), 2, 3), [len(inputs), 1, 28, 28], align_corners=False)
    return functional.grid_sample(inputs.view(-1, 1, 28, 28), places, align_corners=False).reshape(-1, 784)


def _lesson(parts: Sequence[Pair], classes: tuple[int, ...] | None = None) -> Lesson:
    train, valid, test = parts
    return Lesson(train, valid, test, classes)


@cache
def _all(part: str) -> Pair:
    images, labels = read("t10k" if part == "test" else "train")
    inputs, labels = images.reshape(-1, 784).float() / 255, labels.long()
    if part == "test":
        return inputs, labels
    chosen = slice(-RESERVE, None) if part == "valid" else slice(0, -RESERVE)
    return inputs[chosen], labels[chosen]


def _drawn(part: str, draw: torch.Generator, classes: tuple[int, ...] | None = None) -> Pair:
    count = {"train": TRAIN, "valid": VALID, "test": TEST}[part]
    inputs, labels = _all(part)
    there = torch.arange(len(labels))
    if classes is not None:
        there = torch.isin(labels, torch.tensor(classes)).nonzero()[:, 0]
    chosen = there[torch.randperm(len(there), generator=draw)[:count]]
    return inputs[chosen], labels[chosen]
