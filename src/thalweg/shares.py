"""Which of the data a rank works on, and what it counts among all.

Every rank works on a share of the samples by itself; loss, gradient and products are then summed over the ranks, each
with its share of the weight: `L = Σ_r (w_r / w) L_r`.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.collectives import ALONE, Ranks
from thalweg.errors import InputError
from thalweg.survey import Survey


@dataclass(frozen=True, eq=False)
class Share:
    """What this rank has of the data.

    Attributes:
        ranks: the processes that work together.
        part: this rank's weight by all ranks' weight.
        samples: of all ranks.
        batches: of all ranks.
        weight: of all ranks.
    """

    ranks: Ranks = ALONE
    part: float = 1.0
    samples: int = 0
    batches: int = 0
    weight: float = 0.0

    def together(self, tensor: Tensor) -> Tensor:
        """The sum over ranks of `part` times what each has: means over a share become the mean over all."""
        return tensor if self.ranks.alone else self.ranks.sum(tensor * self.part)

    def added(self, tensor: Tensor) -> Tensor:
        """The sum over ranks of what each has added up over its samples; one that stands in adds nothing."""
        return tensor if self.ranks.alone else self.ranks.sum(tensor if self.part else torch.zeros_like(tensor))

    def scattered(self, tensor: Tensor) -> Tensor:
        """The same, and of it this rank's entries."""
        return tensor if self.ranks.alone else self.ranks.scattered(tensor * self.part)


class Every:
    """Every `step`-th batch of some data, from the `first` on; iterating again gives the same."""

    def __init__(self, data: Iterable[Any], first: int, step: int) -> None:
        self.data, self.first, self.step = data, first, step

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.data), self.first, None, self.step)


class StandIn:
    """The first batch, for a rank that there is none for: it is gone through like the others' and counts nothing."""

    def __init__(self, data: Iterable[Any]) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.data), 1)


def own_part(data: Iterable[Any], survey: Survey, ranks: Ranks) -> Iterable[Any]:
    """What this rank works on.

    Where every rank was given the same batches, as by a script that knows nothing of ranks, each takes every n-th.
    Where they were given different ones, as by a DistributedSampler, each keeps its own.

    Args:
        data: what this rank was given.
        survey: what a look at it found.
        ranks: the processes that work together.

    Raises:
        InputError: if some ranks were given the same and others not.
    """
    marks = ranks.gathered(zlib.crc32(repr(survey.prints).encode()))
    kinds = len(set(marks))
    if kinds == 1:
        few = len(survey.prints) <= ranks.rank
        return StandIn(data) if few else Every(data, ranks.rank, ranks.size)
    if kinds < len(marks):
        twice = next(rank for rank, mark in enumerate(marks) if marks.count(mark) > 1)
        raise InputError(
            f"rank {twice} was given the same batches as another rank, and others were given different ones; give "
            "every rank the same data, or every rank its own share"
        )
    return data


def changed_alike(data: Iterable[Any], change: Callable[[Iterable[Any]], Iterable[Any]]) -> Iterable[Any]:
    """This rank's part of changed data, where the change may depend on a batch's place among all batches."""
    if isinstance(data, Every):
        return Every(change(data.data), data.first, data.step)
    return StandIn(change(data.data)) if isinstance(data, StandIn) else change(data)


def all_of(data: Iterable[Any]) -> Iterable[Any]:
    """All batches, of which `own_part` gave this rank a part.

    Raises:
        InputError: if each rank was given data of its own.
    """
    if not isinstance(data, (Every, StandIn)):
        raise InputError(
            "each rank was given data of its own, and here each needs all of it; give every rank the same data"
        )
    return data.data


def counted(survey: Survey, data: Iterable[Any], ranks: Ranks) -> Share:
    """What this rank's part counts among all."""
    own, there = sum(survey.weights), 0.0 if isinstance(data, StandIn) else 1.0
    weight, samples, batches = ranks.add_up([there * own, there * sum(survey.samples), there * len(survey.prints)])
    return Share(ranks, there * own / weight, round(samples), round(batches), weight)
