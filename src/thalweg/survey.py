"""One pass over some data: how many batches there are, what each weighs, and how to tell that they have changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from thalweg.batches import fingerprint, sample_count
from thalweg.errors import InputError, NotDeterministicError


@dataclass(frozen=True)
class Survey:
    """What one pass over the data found: a fingerprint, weight and number of samples for each batch."""

    prints: tuple[int, ...]
    weights: tuple[float, ...]
    samples: tuple[int, ...]


def surveyed(data: Iterable[Any], weight: Callable[[Any], float], allow_random: bool = False) -> Survey:
    """Read the data once, and its first batch again.

    Args:
        data: a re-iterable of batches.
        weight: `batch -> number`.
        allow_random: take data that is another one when read again.

    Raises:
        InputError: if there is no batch, or a weight is not positive in total.
        NotDeterministicError: if the first batch is another one when read again.
    """
    prints, weights, samples = [], [], []
    for index, batch in enumerate(data):
        prints.append(fingerprint(batch))
        share = float(weight(batch))
        if not math.isfinite(share) or share < 0:
            raise InputError(f"the weight of batch {index} is {share}; weights are finite and not negative")
        weights.append(share)
        samples.append(_samples_or_one(batch))
    again = next(iter(data), None)  # a shuffling loader draws a new order here
    if not prints:
        raise InputError("the data holds no batch; give a list or a DataLoader that yields at least one")
    if math.fsum(weights) <= 0:
        raise InputError("the weights of all batches are zero; nothing would be measured")
    if not allow_random and (again is None or fingerprint(again) != prints[0]):
        raise NotDeterministicError(changed(0))
    return Survey(tuple(prints), tuple(weights), tuple(samples))


def changed(index: int) -> str:
    """What to say, and to do, where a batch is not what it was."""
    return (
        f"batch {index} is not what it was when the data was first read, so every product would belong to another "
        "loss. Use a DataLoader with shuffle=False, or freeze the batches once with list(loader); an iterator can "
        "be read only once. To measure all the same: Problem(..., allow_random=True)"
    )


def _samples_or_one(batch: Any) -> int:
    try:
        return sample_count(batch)
    except InputError:
        return 1
