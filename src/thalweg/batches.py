"""What a batch is: moved to a device, counted, halved, fingerprinted.

A batch is a tensor, or tuples, lists, dictionaries, dataclasses or dict-likes (a tokenizer's output) of such.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


def widened(leaf: Any) -> Any:
    """A leaf in float32 if it is a tensor of 16-bit floating-point numbers."""
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in (torch.bfloat16, torch.float16) else leaf


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
            if flat.numel() == 1:  # one number counts as contiguous whatever its stride
                flat = flat.clone(memory_format=torch.contiguous_format).as_strided((1,), (1,))
            code = zlib.crc32(flat.view(torch.uint8).numpy().data if flat.numel() else b"", code)
        elif isinstance(leaf, np.ndarray):
            code = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), code)
        else:
            code = zlib.crc32(repr(leaf).encode() if isinstance(leaf, (str, int, float, bool)) else b"?", code)
    return code


def joined(batches: Sequence[Any]) -> Any:
    """Several batches as one, sample after sample, or None where their shapes or other contents forbid it."""
    first, counts = batches[0], [sample_count(batch) for batch in batches]
    if len(batches) == 1:
        return first
    columns = [list(leaves(batch)) for batch in batches]
    if len({len(column) for column in columns}) != 1:
        return None
    merged = []
    for column in zip(*columns, strict=True):
        tensors = [leaf for leaf in column if isinstance(leaf, Tensor)]
        alike = len({(leaf.dtype, leaf.shape[1:], leaf.device) for leaf in tensors if leaf.ndim}) == 1
        if len(tensors) < len(column) or not alike or [leaf.shape[0] for leaf in tensors if leaf.ndim] != counts:
            return None  # numbers, strings, other shapes: what belongs to a batch as a whole stays with it
        merged.append(torch.cat(tensors))
    pieces = iter(merged)
    return map_batch(lambda leaf: next(pieces), first)


def divisible(batch: Any) -> bool:
    """Whether every leaf of a batch is a tensor with one row for each sample, so that rows can be told apart."""
    count = sample_count(batch)
    return all(isinstance(leaf, Tensor) and leaf.ndim >= 1 and leaf.shape[0] == count for leaf in leaves(batch))


def rows(batch: Any, start: int, stop: int) -> Any:
    """The samples `start` to `stop` of a divisible batch, as views."""
    return map_batch(lambda leaf: leaf[start:stop], batch)


class Chunks:
    """The same samples in the same order, in chunks of `size`; batches are cut and joined where their shapes allow.

    Iterating again gives the same chunks. Batches that cannot be cut are passed on as they are.
    """

    def __init__(self, data: Iterable[Any], size: int) -> None:
        self.data = data
        self.size = size

    def __iter__(self) -> Iterator[Any]:
        waiting: Any = None
        for batch in self.data:
            if not divisible(batch):
                if waiting is not None:
                    yield waiting
                    waiting = None
                yield batch
                continue
            together = batch if waiting is None else joined([waiting, batch])
            if together is None:
                yield waiting
                together = batch
            count = sample_count(together)
            whole = count // self.size * self.size
            for start in range(0, whole, self.size):
                yield rows(together, start, start + self.size)
            waiting = rows(together, whole, count) if whole < count else None
        if waiting is not None:
            yield waiting


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
