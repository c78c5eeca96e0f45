"""Reading a recorded trajectory: its steps, its Gram matrix in one pass, weights at any step, inner products.

Everything is streamed from the segments in column blocks and accumulated in float64. With the updates as rows of U,
`G = U Uᵀ` is summed over layers; directions in the trajectory's span are their coefficients C, since
`(C_a U)(C_b U)ᵀ = C_a G C_bᵀ`: no vector of length P is made.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.directions import DENSE_LIMIT, DenseRows, Directions, Rows
from thalweg.errors import InputError, RunError
from thalweg.recording.manifest import CLOSED
from thalweg.recording.store import SEGMENTS, Segment, read_segments
from thalweg.runs import Run, read_json, read_manifest
from thalweg.space import Layer, ParameterSpace

Window = tuple[int, int]
"""A half-open interval of optimizer steps."""

STREAM_BYTES = 2**26
"""Size of one float64 block of columns while streaming."""
MINIMUM_COLUMNS = 256
GRAM_LIMIT = 2**31
"""Bytes up to which the Gram matrices of all layers are kept; beyond, each is streamed when asked for."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The recorded steps of a run; T rows, each the change of the weights over one or more optimizer steps.

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

    def __repr__(self) -> str:
        return f"Trajectory({str(self.folder)!r}, T={len(self)}, P={self.space.size:,})"

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
        return _dtype(self.manifest)

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

    # -- vectors -------------------------------------------------------------------------------------------

    def updates(self, start: int, stop: int) -> Tensor:
        """The updates in the window `(start, stop)` of optimizer steps: `(n, P)`, in the run's dtype.

        Raises:
            InputError: if they would take more than `directions.DENSE_LIMIT` bytes.
        """
        rows = self.rows_in((start, stop))
        need = len(rows) * self.space.size * self.dtype.itemsize
        if need > DENSE_LIMIT:
            raise InputError(f"these {len(rows)} updates take {need / 2**30:.1f} GiB; ask for a shorter window")
        if not len(rows):
            return torch.empty(0, self.space.size, dtype=self.dtype)
        return torch.cat(list(self._pieces(int(rows[0]), int(rows[-1]) + 1, slice(0, self.space.size))))

    def weights(self, step: int) -> Tensor:
        """The weights `(P,)` after an optimizer step, exactly as they were; `step=-1` is before the first.

        Raises:
            InputError: if no row ends with that step; the nearest that do are named.
        """
        return self._segment_at(step).weights(step)

    def buffers(self, step: int) -> tuple[dict[str, Tensor], int]:
        """The model's buffers nearest after a step, and the step after which they stood.

        They are kept at the end of each segment, so the step may be later than the one asked for.
        """
        segment = self._segment_at(step)
        return segment.buffers(), int(segment.steps[-1])

    def inner(self, directions: Directions | Rows | Tensor) -> Tensor:
        """Inner products of every update with k directions: float64 `(T, k)`, in one pass over the file.

        Raises:
            InputError: if the directions have another length than the updates.
        """
        rows = directions.rows if isinstance(directions, Directions) else directions
        if isinstance(rows, TrajectoryRows) and rows.trajectory is self:
            return (rows.coefficients @ self.gram(rows.layer)).T
        if isinstance(rows, Rows):
            rows = rows.tensor if isinstance(rows, DenseRows) else Directions(rows).vectors
        return self.inner_within(rows, slice(0, self.space.size))

    def inner_within(self, vectors: Tensor, columns: slice) -> Tensor:
        """Inner products over some columns only: `(k, P)` or `(P,)` gives float64 `(T, k)`.

        Raises:
            InputError: if the vectors have another length than the updates.
        """
        if vectors.shape[-1] != self.space.size or vectors.ndim not in (1, 2):
            raise InputError(
                f"directions of shape {tuple(vectors.shape)} against updates of length {self.space.size}; give (k, P)"
            )
        vectors = vectors.detach().reshape(-1, self.space.size)
        out = torch.zeros(len(self), len(vectors), dtype=torch.float64)
        for here, block in self.stream(columns):
            out += block @ vectors[:, here].to("cpu", torch.float64).T
        return out

    # -- the Gram matrix -----------------------------------------------------------------------------------

    def gram(self, layer: str | None = None) -> Tensor:
        """`U Uᵀ` over all columns or one layer's: float64 `(T, T)`. The first call reads the file once.

        Raises:
            InputError: if there is no layer of that name.
        """
        layers = self.space.layers
        chosen = None if layer is None else layers.index(self.space.layer(layer))
        if len(layers) * len(self) ** 2 * 8 <= GRAM_LIMIT:
            return self._gram if chosen is None else self._layer_grams[chosen]
        span = slice(0, self.space.size) if chosen is None else layers[chosen].span
        return self._streamed_grams([Layer("", 0, span.start, span.stop)])[0]

    @cached_property
    def _gram(self) -> Tensor:
        return self._layer_grams.sum(dim=0)

    @cached_property
    def _layer_grams(self) -> Tensor:
        return self._streamed_grams(self.space.layers)

    def _streamed_grams(self, layers: tuple[Layer, ...] | list[Layer]) -> Tensor:
        grams = torch.zeros(len(layers), len(self), len(self), dtype=torch.float64)
        for here, block in self.stream(slice(layers[0].start, layers[-1].stop)):
            for gram, layer in zip(grams, layers, strict=True):
                start, stop = max(layer.start, here.start), min(layer.stop, here.stop)
                if start < stop:
                    part = block[:, start - here.start : stop - here.start]
                    gram.addmm_(part, part.T)
        return grams

    # -- reading -------------------------------------------------------------------------------------------

    def stream(self, columns: slice, first: int = 0, last: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of columns of the rows `first` to `last`: which columns, and float64 `(rows, columns)`."""
        last = len(self) if last is None else last
        width = max(MINIMUM_COLUMNS, STREAM_BYTES // (8 * max(last - first, 1)))
        for start in range(columns.start, columns.stop, width) if last > first else ():
            here = slice(start, min(start + width, columns.stop))
            yield here, torch.cat([piece.double() for piece in self._pieces(first, last, here)])

    def _pieces(self, first: int, last: int, columns: slice) -> Iterator[Tensor]:
        begin = 0
        for segment in self.segments:
            start, stop = max(first - begin, 0), min(last - begin, len(segment))
            if start < stop:
                yield segment.updates(slice(start, stop), columns)
            begin += len(segment)

    def _segment_at(self, step: int) -> Segment:
        for segment in self.segments:
            if bool((segment.steps == step).any()):
                return segment
        for segment in self.segments:
            if segment.before == step:
                return segment
        known = sorted({s.before for s in self.segments} | set(self.steps.tolist()), key=lambda s: abs(s - step))[:3]
        there = "no row at all" if not known else f"the nearest are {', '.join(map(str, sorted(known)))}"
        raise InputError(f"{self.folder} has no weights after step {step!r}: {there}; ask for one of trajectory.steps")

    def _no_rates(self) -> Tensor:
        return torch.empty(0, len(self.optimizer["groups"]), dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class TrajectoryRows(Rows):
    """Directions `C U` in the span of a trajectory's updates, held as their coefficients.

    Attributes:
        trajectory: where the updates are.
        coefficients: C, float64 `(k, T)`.
        layer: the one layer that the directions live in; elsewhere they are zero. None: the whole network.
    """

    trajectory: Trajectory
    coefficients: Tensor
    layer: str | None = None

    @property
    def space(self) -> ParameterSpace:  # type: ignore[override]
        """The trajectory's parameter space."""
        return self.trajectory.space

    @property
    def shape(self) -> tuple[int, int]:
        """`(k, P)`."""
        return len(self.coefficients), self.space.size

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of dense rows: the run's."""
        return self.trajectory.dtype

    @property
    def columns(self) -> slice:
        """The entries that may differ from zero."""
        return slice(0, self.space.size) if self.layer is None else self.space.layer(self.layer).span

    def head(self, count: int) -> TrajectoryRows:
        """The first `count` rows."""
        return TrajectoryRows(self.trajectory, self.coefficients[:count], self.layer)

    def inner(self, vectors: Tensor) -> Tensor:
        """Inner products in float64, streamed: `(P,)` gives `(k,)`, `(b, P)` gives `(k, b)`."""
        found = self.coefficients @ self.trajectory.inner_within(vectors, self.columns)
        return found[:, 0] if vectors.ndim == 1 else found

    def combine(self, coefficients: Tensor) -> Tensor:
        """Linear combinations in one pass, in the run's dtype, on the CPU: `(k,)` gives `(P,)`, `(j, k)` `(j, P)`."""
        wanted = coefficients.detach().to("cpu", torch.float64)
        weights = wanted.reshape(-1, len(self.coefficients)) @ self.coefficients
        out = torch.zeros(len(weights), self.space.size, dtype=self.dtype)
        used = weights.any(dim=0).nonzero()[:, 0]
        if len(used):
            first, last = int(used[0]), int(used[-1]) + 1
            for here, block in self.trajectory.stream(self.columns, first, last):
                out[:, here] = (weights[:, first:last] @ block).to(self.dtype)
        return out[0] if coefficients.ndim == 1 else out

    def grams(self) -> Tensor:
        """`C G_l Cᵀ` for every layer: float64 `(layers, k, k)`."""
        k = len(self.coefficients)
        nothing = torch.zeros(k, k, dtype=torch.float64)
        return torch.stack(
            [
                self._between(self, layer.name) if self.layer in (None, layer.name) else nothing
                for layer in self.space.layers
            ]
        )

    def cross(self, other: Rows) -> Tensor:
        """Inner products with other rows: float64 `(k, other k)`. Of the same trajectory: `C_a G C_bᵀ`."""
        if not isinstance(other, TrajectoryRows) or other.trajectory is not self.trajectory:
            return super().cross(other)
        if None not in (self.layer, other.layer) and self.layer != other.layer:
            return torch.zeros(len(self.coefficients), len(other.coefficients), dtype=torch.float64)
        return self._between(other, self.layer or other.layer)

    def _between(self, other: TrajectoryRows, layer: str | None) -> Tensor:
        return self.coefficients @ self.trajectory.gram(layer) @ other.coefficients.T


def open_run(folder: str | Path, verify: bool = True) -> Run[Trajectory]:
    """Open a recorded run. It may still be written to: what is finished now is what is seen.

    Args:
        folder: the run folder.
        verify: when the trajectory is first used, compare every byte with the checksums.

    Raises:
        RunError: if the folder is not a run, or its manifest is damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        ParameterSpace.from_json(manifest["space"])
        _dtype(manifest), str(manifest["run"]), int(manifest["every"]), len(manifest["optimizer"]["groups"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{folder} has a manifest that lacks something ({type(error).__name__}: {error}); it is damaged, "
            "record the run again"
        ) from error
    return Run(folder, manifest, functools.partial(read_trajectory, verify=verify))


def read_trajectory(folder: Path, manifest: Mapping[str, Any], verify: bool = True) -> Trajectory:
    """The trajectory of an opened run; damaged segments are named in one warning and left out."""
    space = ParameterSpace.from_json(manifest["space"])
    segments, damaged = read_segments(folder / SEGMENTS, manifest["run"], space.size, _dtype(manifest), verify)
    if damaged:
        names = "; ".join(f"{name}: {reason}" for name, reason in damaged)
        warnings.warn(f"{folder}: {len(damaged)} segment(s) left out. {names}", RuntimeWarning, stacklevel=2)
    return Trajectory(folder, manifest, space, segments, damaged)


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


def _dtype(manifest: Mapping[str, Any]) -> torch.dtype:
    kinds = {"float32": torch.float32, "float64": torch.float64}
    return kinds[manifest["dtype"]]
