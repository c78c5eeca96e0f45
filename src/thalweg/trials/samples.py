"""What a trial trains on and is judged by, sample by sample: batches in random order, and no sample on both sides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from thalweg.batches import divisible, fingerprint, joined, rows, sample_count, take
from thalweg.errors import InputError

FEW_DOUBLES = 0.02
"""Share of held-out samples that may be training samples too: collected data has a few doubles."""


class Samples:
    """Training batches in random order: of single samples where they can be told apart, else of whole batches."""

    def __init__(self, data: Iterable[Any], size: int) -> None:
        batches = list(data)
        whole = joined(batches) if all(divisible(batch) for batch in batches) else None
        self.batches, self.size, self.whole = batches, size, whole
        self.mixed = whole is not None

    def draw(self, seed: int) -> Iterator[Any]:
        """Batches without end, shuffled anew each time all have been seen; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        if self.whole is None:
            while True:
                yield from (self.batches[i] for i in torch.randperm(len(self.batches), generator=generator).tolist())
        count = sample_count(self.whole)
        size = min(self.size, count)
        while True:
            for chosen in torch.split(torch.randperm(count, generator=generator), size):
                if len(chosen) == size:  # a smaller rest would make steps of another kind
                    yield take(self.whole, chosen.tolist(), count)


def refuse_overlap(train: Iterable[Any], held_out: Iterable[Any]) -> float:
    """The share of held-out samples (or batches) that stand in the training data as well.

    Raises:
        InputError: if it is more than `FEW_DOUBLES`.
    """
    both, count = doubled(train, held_out)
    if both > FEW_DOUBLES * count:
        raise InputError(
            f"{both} of {count} held-out samples are training samples as well, so nothing could be judged on "
            "them; give held-out data that training never saw"
        )
    return both / max(count, 1)


def doubled(train: Iterable[Any], held_out: Iterable[Any]) -> tuple[int, int]:
    """How many held-out samples stand in the training data as well, by fingerprint, and how many there are.

    Batches count as wholes where their samples cannot be told apart.
    """
    known = set(_prints(train))
    found = list(_prints(held_out))
    return sum(code in known for code in found), len(found)


def _prints(data: Iterable[Any]) -> Iterator[int]:
    for batch in data:
        if divisible(batch):
            for i in range(sample_count(batch)):
                yield fingerprint(rows(batch, i, i + 1))
        else:
            yield fingerprint(batch)
