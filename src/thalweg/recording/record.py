"""What was recorded, but for the vectors: which steps, when, at which rates, what was logged, what is missing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import InputError, RunError
from thalweg.recording.columns import finite_rows
from thalweg.recording.keeping import SKETCH, Columns, Keeping
from thalweg.recording.manifest import CLOSED
from thalweg.recording.sketches import Sketch
from thalweg.recording.store import Segment
from thalweg.runs import read_json
from thalweg.space import Layer, ParameterSpace

Window = tuple[int, int]
"""A half-open interval of optimizer steps."""


@dataclass(frozen=True, eq=False)
class Record:
    """The recorded steps of a run: T rows, each of one or more optimizer steps.

    Attributes:
        folder: the run folder.
        manifest: what the run is.
        space: the parameter space.
        segments: the segments that can be used, in order.
        damaged: `(file name, reason)` of the ones that cannot, which are left out.
    """

    folder: Path
    manifest: Mapping[str, Any]
    space: ParameterSpace
    segments: tuple[Segment, ...]
    damaged: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return sum(len(segment) for segment in self.segments)

    # -- how updates are kept ------------------------------------------------------------------------------

    @cached_property
    def keeping(self) -> Keeping:
        """How the updates are kept."""
        return Keeping.read(self.manifest)

    @cached_property
    def sketch(self) -> Sketch | None:
        """The sketch that the rows are, in a run that keeps one."""
        return Sketch(self.space, self.keeping) if self.keeping.form == SKETCH else None

    @cached_property
    def columns(self) -> Columns:
        """What the columns of the rows are."""
        return self.keeping.columns(self.space)

    def kept_layer(self, layer: str) -> Layer:
        """Where a layer's columns are.

        Raises:
            InputError: if there is no layer of that name.
        """
        return self.columns.layers[self.space.layers.index(self.space.layer(layer))]

    def columns_of(self, layer: str | None) -> slice:
        """The columns of a layer, or all.

        Raises:
            InputError: if there is no layer of that name.
        """
        return slice(0, self.columns.size) if layer is None else self.kept_layer(layer).span

    # -- what was recorded beside the updates --------------------------------------------------------------

    @cached_property
    def steps(self) -> Tensor:
        """`(T,)` int64: the last optimizer step that each row sums, counted from 0."""
        return torch.cat([torch.empty(0, dtype=torch.int64), *(s.steps for s in self.segments)])

    @cached_property
    def starts(self) -> Tensor:
        """`(T,)` int64: the first optimizer step that each row sums."""
        parts = [torch.cat([torch.tensor([s.before]), s.steps[:-1]]) + 1 for s in self.segments]
        return torch.cat([torch.empty(0, dtype=torch.int64), *parts])

    @cached_property
    def times(self) -> Tensor:
        """`(T,)` float64: when each row ended, seconds since 1970."""
        return torch.cat([torch.empty(0, dtype=torch.float64), *(s.times for s in self.segments)])

    @cached_property
    def learning_rates(self) -> Tensor:
        """`(T, groups)` float64: the learning rate of each parameter group at the row's last step."""
        return torch.cat([self._no_rates(), *(s.learning_rates for s in self.segments)])

    @cached_property
    def momenta(self) -> Tensor:
        """`(T, groups)` float64: the momentum (Adam: first beta) of each group likewise; NaN where it has none."""
        return torch.cat([self._no_rates(), *(s.momenta for s in self.segments)])

    @cached_property
    def scalars(self) -> dict[str, Tensor]:
        """What was logged: name to `(T,)` float64, NaN where nothing was."""
        names = dict.fromkeys(name for segment in self.segments for name in segment.scalars)
        return {
            name: torch.cat(
                [s.scalars.get(name, torch.full((len(s),), torch.nan, dtype=torch.float64)) for s in self.segments]
            )
            for name in names
        }

    @cached_property
    def finite(self) -> Tensor:
        """`(T,)` bool: rows all of whose entries are finite. The others take no part in anything but `updates`."""
        return finite_rows(self.segments)

    @property
    def rows_left_out(self) -> int:
        """How many rows are not finite, and so take no part."""
        return len(self) - int(self.finite.sum())

    @cached_property
    def usable(self) -> Tensor:
        """The same as `finite`, with one warning where a row is left out."""
        gone = (~self.finite).nonzero()[:, 0]
        if len(gone):
            warnings.warn(
                f"{self.folder}: {len(gone)} of {len(self)} updates are not finite and are left out, the first after "
                f"step {int(self.steps[gone[0]])}",
                RuntimeWarning,
                stacklevel=3,
            )
        return self.finite

    @property
    def optimizer(self) -> Mapping[str, Any]:
        """The optimizer as it was when recording began: `class`, `groups` and `state_at_start`."""
        found: Mapping[str, Any] = self.manifest["optimizer"]
        return found

    @property
    def every(self) -> int:
        """Optimizer steps that a row sums (the last row may sum fewer)."""
        return int(self.manifest["every"])

    @property
    def dtype(self) -> torch.dtype:
        """Of updates and weights."""
        return dtype_of(self.manifest)

    @cached_property
    def gaps(self) -> tuple[Window, ...]:
        """Intervals of steps that are missing, because a segment is; the unwritten end of a killed run is none."""
        ends = [-1, *self.steps.tolist()]
        missing = [(a + 1, b) for a, b in zip(ends, self.starts.tolist(), strict=False) if b > a + 1]
        last = _last_step(self.folder)
        return (*missing, *([(ends[-1] + 1, last + 1)] if last > ends[-1] else []))

    def rows_in(self, window: Window | None = None) -> Tensor:
        """Numbers of the rows that lie wholly in a window of optimizer steps: int64 `(n,)`.

        Raises:
            InputError: if the window is no half-open interval `(start, stop)` of steps.
        """
        if window is None:
            return torch.arange(len(self))
        start, stop = check_window(window)
        return ((self.starts >= start) & (self.steps < stop)).nonzero()[:, 0]

    def _no_rates(self) -> Tensor:
        return torch.empty(0, len(self.optimizer["groups"]), dtype=torch.float64)


def check_window(window: Window) -> Window:
    """The window as two integers.

    Raises:
        InputError: if it is no half-open interval `(start, stop)` with `0 <= start < stop`.
    """
    try:
        start, stop = (int(edge) for edge in window)
    except (TypeError, ValueError):
        raise InputError(f"window={window!r}: give optimizer steps as (start, stop)") from None
    if not 0 <= start < stop:
        raise InputError(f"window={window!r}: give optimizer steps (start, stop) with 0 <= start < stop")
    return start, stop


def _last_step(folder: Path) -> int:
    """The last step that was written, if the recording was closed; else, or if that is not known, -1."""
    try:
        return int(read_json(folder / CLOSED)["last_step"])
    except (RunError, KeyError, TypeError, ValueError):
        return -1


def dtype_of(manifest: Mapping[str, Any]) -> torch.dtype:
    """The dtype of a run's updates and weights."""
    kinds = {"float32": torch.float32, "float64": torch.float64}
    return kinds[manifest["dtype"]]
