"""Rows being recorded: a preallocated block of weights, which the writer turns into a segment."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.errors import RunError
from thalweg.recording.store import SegmentContent


class Block:
    """Weights after each recorded step, below the weights before the first.

    Attributes:
        weights: `(capacity + 1, P)`; row 0 is the anchor.
        rates: `(2, capacity, groups)` float64, learning rates and momenta.
        shapes: of the parameters that make up a row.
        count: rows filled.
        first_row: number of the first row in the run.
        before: the step after which the anchor's weights stood; -1 before any step.
        sealed: no row will be added; the block goes to the writer with the next step.
        began: `time.monotonic()` when the block began.
        buffers: of the model, after the last row.
    """

    def __init__(self, capacity: int, shapes: Sequence[torch.Size], groups: int, dtype: torch.dtype) -> None:
        self.capacity = capacity
        self.shapes = shapes
        self.weights = torch.empty(capacity + 1, sum(map(math.prod, shapes)), dtype=dtype)
        self._targets: dict[int, list[Tensor]] = {}
        self.steps = np.zeros(capacity, dtype=np.int64)
        self.rates = np.full((2, capacity, groups), np.nan)
        self.times = np.zeros(capacity)
        self.scalars: dict[str, NDArray[np.float64]] = {}
        self.buffers: dict[str, Tensor] = {}
        self.first_row = 0
        self.before = -1
        self._restart()

    def _restart(self) -> None:
        self.count = 0
        self.sealed = False
        self.began = time.monotonic()
        self.scalars = {}
        self.buffers = {}

    def targets(self, row: int) -> list[Tensor]:
        """A row of `weights` as views of the parameters' shapes, made once."""
        if row not in self._targets:
            pieces = torch.split(self.weights[row], [math.prod(shape) for shape in self.shapes])
            self._targets[row] = [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
        return self._targets[row]

    def another(self) -> Block:
        """An empty block of the same measures."""
        return Block(self.capacity, self.shapes, self.rates.shape[2], self.weights.dtype)

    def follow(self, full: Block) -> None:
        """Begin anew at the last weights of another block."""
        self._restart()
        self.weights[0].copy_(full.weights[full.count])
        self.before = int(full.steps[full.count - 1])
        self.first_row = full.first_row + full.count

    def end_row(self, step: int, rates: Sequence[tuple[float, float]]) -> None:
        """The row whose weights have just been put in ends with this step."""
        self.steps[self.count] = step
        self.times[self.count] = time.time()
        for group, pair in enumerate(rates[: self.rates.shape[2]]):
            self.rates[0, self.count, group], self.rates[1, self.count, group] = pair
        self.count += 1

    def put(self, name: str, number: float) -> None:
        """Keep a scalar with the last row."""
        if name not in self.scalars:
            self.scalars[name] = np.full(self.capacity, np.nan)
        self.scalars[name][self.count - 1] = number

    def content(self, run: str) -> SegmentContent:
        """What the segment of this block holds; views, so the block may not be used until it is written."""
        n = self.count
        return SegmentContent(
            run,
            self.first_row,
            self.before,
            self.weights[: n + 1],
            self.steps[:n],
            self.rates[0, :n],
            self.rates[1, :n],
            self.times[:n],
            {name: column[:n] for name, column in self.scalars.items()},
            self.buffers,
        )


def rates_of(groups: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Learning rate and momentum (or first beta) of each parameter group; NaN where it has none."""
    found = []
    for group in groups:
        momentum = group.get("momentum")
        if momentum is None:
            momentum = group["betas"][0] if "betas" in group else math.nan
        found.append((float(group.get("lr", math.nan)), float(momentum)))
    return found


def gather(parameters: list[Tensor], targets: list[Tensor]) -> None:
    """Copy parameters into the pieces of one row, whatever their device, dtype and memory format.

    Raises:
        RunError: if a parameter has another shape than when the recording began.
    """
    for position, (parameter, target) in enumerate(zip(parameters, targets, strict=True)):
        if parameter.shape != target.shape:
            raise RunError(
                f"trainable parameter {position} changed its shape from {tuple(target.shape)} to "
                f"{tuple(parameter.shape)}"
            )
    with torch.no_grad():
        torch._foreach_copy_(targets, parameters)
