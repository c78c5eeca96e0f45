"""Robustness: loss and largest curvature where inputs are noisy or labels are wrong.

What a batch's inputs and labels are is told from its form: a tuple or list ends with its labels; a mapping holds them
under one of `LABELS`. Other forms need noise functions of the user's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from thalweg.batches import leaves, map_batch
from thalweg.errors import InputError
from thalweg.problem import Problem
from thalweg.shares import changed_alike
from thalweg.solvers.lanczos import eigenpairs, pass_on_interrupt
from thalweg.tables import Table

LABELS = ("labels", "label", "targets", "target", "y")
TOKENS = "input_ids"
UNUSED = -100
"""A label that counts for nothing."""

Change = Callable[[Any, float, torch.Generator], Any]
"""From a batch, a level and a generator to the noisy batch."""


def robustness(
    problem: Problem,
    held_out: Problem | None = None,
    *,
    levels: Sequence[float] = (0.1, 0.3),
    noises: Mapping[str, Change] | None = None,
    draws: int = 3,
    seed: int = 0,
    tol: float = 1e-2,
    memory_budget: int | None = None,
) -> Table:
    """Loss and largest eigenvalue of the Hessian under noise, on training and held-out data.

    Args:
        problem: model, loss and training data at the weights to look at.
        held_out: the same model and loss on data that training never saw.
        levels: how strong; see `input_noise` and `label_noise`.
        noises: functions by name; `input_noise` as "inputs" and `label_noise` as "labels" unless given.
        draws: of the noise, for the losses; the eigenvalue is that of the first.
        seed: of the noise.
        tol: relative residual of the eigenvalue.
        memory_budget: bytes for kept gradient graphs.

    Returns:
        A table with the columns noise ("none" in the first row), level, train, train_error, held_out, held_out_error
        (losses, means over the draws with their standard errors; None without held-out data), largest (eigenvalue on
        held-out data, else on training data) and matvecs.

    Raises:
        InputError: if draws < 1 or a level is no positive number; or if a noise finds nothing in a batch to change.
    """
    if draws < 1:
        raise InputError(f"draws={draws}: ask for at least one draw of the noise")
    for level in levels:
        if not (math.isfinite(level) and level > 0):
            raise InputError(f"level {level!r} is no positive number")
    sets = [problem] if held_out is None else [problem, problem.on(held_out.data)]
    kinds = {"inputs": input_noise, "labels": label_noise} if noises is None else dict(noises)
    records = []
    for name, level in [("none", 0.0), *((name, level) for name in kinds for level in levels)]:
        change = kinds.get(name)
        losses = [
            [_noisy(one, change, level, seed, draw).loss() for draw in range(draws if level else 1)] for one in sets
        ]
        noisy = _noisy(sets[-1], change, level, seed, 0)
        pairs = eigenpairs(noisy.hessian(memory_budget=memory_budget), 1, tol=tol, seed=seed)
        pass_on_interrupt(pairs)
        assert pairs.values is not None
        (train, train_error), (other, other_error) = (*map(_mean, losses), (None, None))[:2]
        records.append(
            {
                "noise": name,
                "level": level,
                "train": train,
                "train_error": train_error,
                "held_out": other,
                "held_out_error": other_error,
                "largest": float(pairs.values[0]),
                "matvecs": pairs.matvecs,
            }
        )
    return Table.of(records)


def input_noise(batch: Any, level: float, draw: torch.Generator) -> Any:
    """Noise on whatever is no label.

    Floating-point tensors get normal noise, `level` times their own standard deviation. Where there are none but whole
    numbers (tokens), a share `level` of the entries is exchanged for entries of other places; in a mapping only those
    under "input_ids".

    Raises:
        InputError: if there is nothing to change, or a mapping of real numbers does not say which its labels are.
    """
    entries = _entries(batch)
    label = _label(batch, entries)
    mapping = isinstance(batch, Mapping) or hasattr(batch, "keys")
    inputs = {key: value for key, value in entries.items() if key != label}
    tensors = [leaf for leaf in leaves(inputs) if isinstance(leaf, Tensor)]
    if any(leaf.is_floating_point() for leaf in tensors):
        if mapping and label is None:
            raise InputError(_unknown(batch, "inputs"))
        return _put(batch, entries | map_batch(lambda leaf: _shaken(leaf, level, draw), inputs))
    if mapping:
        inputs = {key: value for key, value in inputs.items() if key == TOKENS}
    if not any(_is_whole(leaf) for leaf in leaves(inputs)):
        raise InputError(
            f"a batch of type {type(batch).__name__} holds no inputs that noise could be put on; give "
            "noises={'inputs': lambda batch, level, generator: ...}"
        )
    exchange = partial(exchanged, level=level, draw=draw)
    return _put(batch, entries | map_batch(lambda leaf: exchange(leaf) if _is_whole(leaf) else leaf, inputs))


def label_noise(batch: Any, level: float, draw: torch.Generator) -> Any:
    """A share `level` of the labels, exchanged for labels of other places; those that are -100 stay.

    Raises:
        InputError: if the batch's form does not say which its labels are.
    """
    entries = _entries(batch)
    label = _label(batch, entries)
    if not isinstance(entries.get(label), Tensor):
        raise InputError(_unknown(batch, "labels"))
    return _put(batch, entries | {label: exchanged(entries[label], level, draw)})


def exchanged(tensor: Tensor, level: float, draw: torch.Generator) -> Tensor:
    """A tensor with a share `level` of its entries, or of its rows of real numbers, drawn anew; -100 stays.

    Raises:
        InputError: if the level is no share.
    """
    if not 0 <= level <= 1:
        raise InputError(f"level {level!r} is no share of labels or tokens, which lies between 0 and 1")
    real = tensor.is_floating_point()
    flat = tensor.reshape(len(tensor), -1) if real else tensor.reshape(-1, 1)
    free = torch.arange(len(flat)) if real else (flat[:, 0] != UNUSED).nonzero()[:, 0].cpu()
    count = round(level * len(free))
    places = free[torch.randperm(len(free), generator=draw)[:count]].to(tensor.device)
    sources = free[torch.randint(max(len(free), 1), (count,), generator=draw)].to(tensor.device)
    changed = flat.clone()
    changed[places] = flat[sources]
    return changed.reshape(tensor.shape)


@dataclass(frozen=True)
class Noisy:
    """Some data with noise on it, the same whenever it is read.

    Attributes:
        data: the batches.
        change: the noise.
        level: of it.
        seed: of it.
    """

    data: Iterable[Any]
    change: Change
    level: float
    seed: int

    def __iter__(self) -> Iterator[Any]:
        draw = torch.Generator().manual_seed(self.seed)
        for batch in self.data:
            yield self.change(batch, self.level, draw)


def _noisy(problem: Problem, change: Change | None, level: float, seed: int, draw: int) -> Problem:
    return (
        problem
        if change is None
        else problem.on(changed_alike(problem.data, lambda data: Noisy(data, change, level, 1000 * seed + draw)))
    )


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error; None from a single draw."""
    numbers = torch.tensor(values, dtype=torch.float64)
    error = float(numbers.std() / math.sqrt(len(values))) if len(values) > 1 else None
    return float(numbers.mean()), error


def _entries(batch: Any) -> dict[Any, Any]:
    """The parts of a batch by name or number."""
    if isinstance(batch, Mapping) or hasattr(batch, "keys"):
        return {key: batch[key] for key in batch.keys()}  # noqa: SIM118 - dict-likes
    return dict(enumerate(batch)) if isinstance(batch, (tuple, list)) else {0: batch}


def _label(batch: Any, entries: Mapping[Any, Any]) -> Any:
    """Name or number of the part that holds the labels; None where that cannot be told."""
    if isinstance(batch, (tuple, list)):
        return len(batch) - 1 if len(batch) > 1 else None
    return next((name for name in LABELS if name in entries), None)


def _unknown(batch: Any, noise: str) -> str:
    return (
        f"which part of a batch of type {type(batch).__name__} is its labels cannot be told (a tuple or list ends with "
        f"them, a mapping holds them under one of {', '.join(LABELS)}); give "
        f"noises={{'{noise}': lambda batch, level, generator: ...}}"
    )


def _put(batch: Any, entries: Mapping[Any, Any]) -> Any:
    """A batch of the same form with other parts."""
    if not isinstance(batch, (tuple, list)):
        return dict(entries) if isinstance(batch, Mapping) or hasattr(batch, "keys") else entries[0]
    items = list(entries.values())
    return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)


def _is_whole(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not leaf.is_floating_point() and leaf.dtype != torch.bool and leaf.ndim > 0


def _shaken(leaf: Any, level: float, draw: torch.Generator) -> Any:
    if not (isinstance(leaf, Tensor) and leaf.is_floating_point()):
        return leaf
    spread = float(leaf.double().std()) if leaf.numel() > 1 else 0.0
    noise = torch.randn(leaf.shape, generator=draw, dtype=torch.float64).to(leaf.device)
    return (leaf + level * spread * noise).to(leaf.dtype)
