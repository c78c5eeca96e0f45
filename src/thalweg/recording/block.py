"""Rows being recorded: a preallocated block of weights, which the writer turns into a segment."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thalweg.errors import RunError
from thalweg.recording.direct import empty_rows
from thalweg.recording.optimizers import NOTHING
from thalweg.recording.segments import SegmentContent

SMALL = 2**20
"""Bytes of a row up to which NumPy copies it: torch spends more on the calls than on the bytes, but uses all cores."""


class Sources:
    """The memory of small parameters on the CPU, seen through NumPy: a row is copied in a fifth of torch's time.

    Args:
        shapes: of the parameters.
    """

    def __init__(self, shapes: list[torch.Size]) -> None:
        ends = np.cumsum([math.prod(shape) for shape in shapes], dtype=np.int64).tolist()
        self._spans = [slice(end - math.prod(shape), end) for end, shape in zip(ends, shapes, strict=True)]
        self._shapes = shapes
        self._places: list[tuple[int, tuple[int, ...]]] = []
        self._arrays: list[NDArray[Any]] | None = None  # they hold the memory: nothing else can come to its address

    def copy_into(self, row: NDArray[Any], parameters: list[Tensor]) -> bool:
        """Copy all parameters into a row; false where that is not possible in this way."""
        if row.nbytes > SMALL or not all(type(parameter) in _PLAIN for parameter in parameters):
            return False
        if [parameter.shape for parameter in parameters] != self._shapes:
            return False
        places = [(parameter.data_ptr(), parameter.stride()) for parameter in parameters]
        if places != self._places:
            self._places, self._arrays = places, _arrays(parameters, row.dtype)
        if self._arrays is None:
            return False
        for span, array in zip(self._spans, self._arrays, strict=True):
            row[span] = array
        return True


_PLAIN = (Tensor, nn.Parameter)


def _arrays(parameters: list[Tensor], dtype: np.dtype[Any]) -> list[NDArray[Any]] | None:
    """The parameters as flat arrays on the same memory, if they are all of this dtype, on the CPU and contiguous."""
    wanted = torch.float64 if dtype == np.float64 else torch.float32
    if all(p.device.type == "cpu" and p.is_contiguous() and p.dtype == wanted for p in parameters):
        return [parameter.detach().view(-1).numpy() for parameter in parameters]
    return None


class Block:
    """Weights after each recorded step, below the weights before the first.

    Attributes:
        weights: `(capacity + 1, P)`; row 0 is the anchor.
        shapes: of the parameters that make up a row.
        columns: parameter groups whose rates are kept.
        count: rows filled.
        first_row: number of the first row in the run.
        before: the step after which the anchor's weights stood; -1 before any step.
        anchored: whether the weights before the first row are to be kept.
        sealed: no row will be added; the block goes to the writer with the next step.
        began: `time.monotonic()` when the block began.
        standing: what stands with the anchor.
        after: what stands after the last row.
    """

    def __init__(
        self,
        capacity: int,
        shapes: list[torch.Size],
        columns: int,
        dtype: torch.dtype,
        sources: Sources | None = None,
        anchor_rows: int = 1,
    ) -> None:
        self.capacity = capacity
        self.anchor_rows = anchor_rows
        self.shapes = shapes
        self.sources = Sources(shapes) if sources is None else sources
        self.columns = columns
        size = sum(map(math.prod, shapes))
        self._rows = empty_rows(capacity + 1, size, np.float64 if dtype == torch.float64 else np.float32)
        self.weights = torch.from_numpy(self._rows)  # NumPy asks for large pages, torch does not
        self._targets: dict[int, list[Tensor]] = {}
        self.first_row = 0
        self.before = -1
        self.restart()

    def restart(self) -> None:
        """Forget everything but the measures."""
        self.count = 0
        self.anchored = True
        self.since_anchor = 0  # rows
        self.sealed = False
        self.began = time.monotonic()
        self.steps: list[int] = []
        self.rates: list[list[tuple[float, float]]] = []
        self.times: list[float] = []
        self.scalars: dict[str, NDArray[np.float64]] = {}
        self.standing = NOTHING
        self.after = NOTHING

    def targets(self, row: int) -> list[Tensor]:
        """A row of `weights` as views of the parameters' shapes, made once."""
        if row not in self._targets:
            pieces = torch.split(self.weights[row], [math.prod(shape) for shape in self.shapes])
            self._targets[row] = [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]
        return self._targets[row]

    def another(self) -> Block:
        """An empty block of the same measures."""
        return Block(self.capacity, self.shapes, self.columns, self.weights.dtype, self.sources, self.anchor_rows)

    def follow(self, full: Block) -> None:
        """Begin anew where another block ended."""
        self.restart()
        self.weights[0].copy_(full.weights[full.count])
        self.before = full.steps[-1]
        self.first_row = full.first_row + full.count
        self.standing = full.after
        self.since_anchor = full.count + (0 if full.anchored else full.since_anchor)
        self.anchored = self.since_anchor >= self.anchor_rows or bool(self.standing.state)

    def gather(self, parameters: list[Tensor], row: int) -> None:
        """Copy parameters into a row, whatever their device, dtype and memory format.

        Raises:
            RunError: if a parameter has another shape than when the recording began.
        """
        if self.sources.copy_into(self._rows[row], parameters):
            return
        if [parameter.shape for parameter in parameters] != self.shapes:
            for position, (parameter, shape) in enumerate(zip(parameters, self.shapes, strict=True)):
                if parameter.shape != shape:
                    raise RunError(
                        f"trainable parameter {position} changed its shape from {tuple(shape)} to "
                        f"{tuple(parameter.shape)}"
                    )
        with torch.no_grad():
            torch._foreach_copy_(self.targets(row), parameters)

    def end_row(self, step: int, rates: list[tuple[float, float]]) -> None:
        """The row whose weights have just been put in ends with this step."""
        self.steps.append(step)
        self.times.append(time.time())
        self.rates.append(rates)
        self.count += 1

    def put(self, name: str, number: float) -> None:
        """Keep a scalar with the last row."""
        if name not in self.scalars:
            self.scalars[name] = np.full(self.capacity, np.nan)
        self.scalars[name][self.count - 1] = number

    @property
    def head_bytes(self) -> int:
        """What the segment holds once beside vectors: buffers twice, state."""
        buffers = sum(buffer.nbytes for buffer in self.standing.buffers.values())
        return 2 * buffers + self.standing.state_bytes

    def content(self, run: str) -> SegmentContent:
        """What the segment of this block holds; views, so the block may not be used until it is written."""
        n = self.count
        rates = np.array(self.rates, dtype=np.float64).reshape(n, self.columns, 2)
        return SegmentContent(
            run,
            self.first_row,
            self.before,
            self.weights[: n + 1],
            np.array(self.steps, dtype=np.int64),
            rates[:, :, 0].copy(),
            rates[:, :, 1].copy(),
            np.array(self.times),
            {name: column[:n] for name, column in self.scalars.items()},
            self.after.buffers,
            self.standing.buffers,
            self.standing.groups,
            self.standing.state,
            self.anchored,
        )
