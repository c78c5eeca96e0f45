"""What a batch is: moved to a device, counted, halved, fingerprinted.

A batch is a tensor, or tuples, lists, dictionaries, dataclasses or dict-likes (a tokenizer's output) of such.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import InputError


def map_batch(change: Callable[[Any], Any], batch: Any) -> Any:
    """The same structure with `change` applied to every leaf; containers keep their type where that works."""
    if isinstance(batch, Mapping) or hasattr(batch, "keys"):
        changed = {key: map_batch(change, batch[key]) for key in batch.keys()}  # noqa: SIM118 - dict-likes
        if type(batch) is dict:
            return changed
        try:
            return type(batch)(changed)
        except TypeError:
            return changed
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_batch(change, item) for item in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(map_batch(change, item) for item in batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        fields = {f.name: map_batch(change, getattr(batch, f.name)) for f in dataclasses.fields(batch) if f.init}
        return dataclasses.replace(batch, **fields)
    return change(batch)


def leaves(batch: Any) -> Iterator[Any]:
    """Every leaf of a batch, in order."""
    found: list[Any] = []
    map_batch(lambda leaf: found.append(leaf), batch)
    return iter(found)


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on `device`; tensors that are there already are not copied."""
    return map_batch(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch)


def sample_count(batch: Any) -> int:
    """Number of samples: the length of the first tensor or array that has one.

    Raises:
        InputError: if nothing in the batch has a length.
    """
    for leaf in leaves(batch):
        if isinstance(leaf, (Tensor, np.ndarray)) and leaf.ndim >= 1:
            return int(leaf.shape[0])
    raise InputError(
        f"a batch of type {type(batch).__name__} holds no tensor with a first axis, so its samples cannot be "
        "counted; give Problem(..., weight=lambda batch: number)"
    )


def take(batch: Any, chosen: list[int], count: int) -> Any:
    """The chosen samples of a batch of `count`; leaves of another length are kept whole."""

    def pick(leaf: Any) -> Any:
        if isinstance(leaf, (Tensor, np.ndarray)) and leaf.ndim >= 1 and leaf.shape[0] == count:
            return leaf[chosen]
        return leaf

    return map_batch(pick, batch)


def fingerprint(batch: Any) -> int:
    """A number that changes when a batch's values, shapes or dtypes change (CRC-32)."""
    code = 0
    for leaf in leaves(batch):
        if isinstance(leaf, Tensor):
            code = zlib.crc32(f"{leaf.dtype}{tuple(leaf.shape)}".encode(), code)
            flat = leaf.detach().cpu().contiguous().reshape(-1)
            code = zlib.crc32(flat.view(torch.uint8).numpy().data if flat.numel() else b"", code)
        elif isinstance(leaf, np.ndarray):
            code = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), code)
        else:
            code = zlib.crc32(repr(leaf).encode() if isinstance(leaf, (str, int, float, bool)) else b"?", code)
    return code


class Half:
    """One half of some data, by samples: each batch is split at random, reproducibly.

    Iterating again gives the same half; the other half is `Half(data, seed, 1 - part)`.
    """

    def __init__(self, data: Iterable[Any], seed: int, part: int) -> None:
        self.data = data
        self.seed = seed
        self.part = part

    def __iter__(self) -> Iterator[Any]:
        extra = 0
        for index, batch in enumerate(self.data):
            count = sample_count(batch)
            order = np.random.default_rng([self.seed, index]).permutation(count)
            cut = (count + extra) // 2
            extra = (count + extra) % 2
            chosen = sorted(int(i) for i in (order[:cut] if self.part == 0 else order[cut:]))
            if chosen:
                yield take(batch, chosen, count)
