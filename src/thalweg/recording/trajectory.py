"""Reading a recorded trajectory: its steps, its Gram matrix in one pass, weights at any step, inner products.

Everything is streamed from the segments in columns (`columns`) and summed in float64 (`products`). With the updates as
rows of U, `G = U Uᵀ` is summed over layers and kept in the run folder (`grams`); directions in the trajectory's span
are their coefficients (`span`). A row with an entry that is not finite takes no part: `Trajectory.finite` says which.

A run may keep sketches of its updates (`keeping`). Then U stands for the sketched rows wherever inner products are
meant, given vectors are sketched likewise, and vectors come from the sums that were kept (`rebuilding`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from thalweg.described import Part
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.recording import products
from thalweg.recording.columns import parts_of, tiles
from thalweg.recording.grams import WHOLE_LIMIT, Grams, cached_rows, kept_layers, make_grams, run_grams
from thalweg.recording.keeping import BFLOAT16, EXACT
from thalweg.recording.rebuilding import known_steps, nearest_combination, sums_of, weights_after
from thalweg.recording.record import Record, Window
from thalweg.recording.rounding import STEP
from thalweg.recording.span import TrajectoryRows, centered_rows
from thalweg.recording.store import Segment
from thalweg.rows import DENSE_LIMIT, DenseRows, Rows
from thalweg.space import Layer

EXACT_ROWS = 1024
"""Rows up to which the Gram matrix is made for a single question. From about 500 on, a few passes over the file would
cost less; but the matrix then serves all other questions too, and is kept."""


@dataclass(frozen=True, eq=False)
class Trajectory(Record):
    """A record with its vectors; each row is the change of the weights, `Record` says what stands beside it."""

    def __repr__(self) -> str:
        form = "" if self.keeping.form == EXACT else f", {self.keeping.form}"
        return f"Trajectory({str(self.folder)!r}, T={len(self)}, P={self.space.size:,}{form})"

    # -- vectors -------------------------------------------------------------------------------------------

    def updates(self, start: int, stop: int) -> Tensor:
        """The updates in the window `(start, stop)` of optimizer steps: `(n, P)`, in the run's dtype.

        Raises:
            InputError: if they would take more than `rows.DENSE_LIMIT` bytes, or only their sketch was kept.
        """
        if self.sketch is not None:
            raise InputError(
                f"{self.folder} keeps a sketch of its updates and no update itself; the weights are known after the "
                "steps in trajectory.known_steps, and inner products everywhere"
            )
        rows = self.rows_in((start, stop))
        need = len(rows) * self.space.size * self.dtype.itemsize
        if need > DENSE_LIMIT:
            raise InputError(f"these {len(rows)} updates take {need / 2**30:.1f} GiB; ask for a shorter window")
        if not len(rows):
            return torch.empty(0, self.space.size, dtype=self.dtype)
        parts = parts_of(self.segments, int(rows[0]), int(rows[-1]) + 1)
        return torch.cat([segment.updates(chosen) for segment, chosen in parts]).to(self.dtype)

    @cached_property
    def known_steps(self) -> Tensor:
        """int64, ascending: the steps after which the weights are known; -1 is before the first."""
        return torch.tensor(sorted(self._ways), dtype=torch.int64)

    def weights(self, step: int) -> Tensor:
        """The weights `(P,)` after an optimizer step, `step=-1` before the first: exactly as they were.

        Of a run kept in bfloat16 or as a sketch: to one rounding of one row or sum, and exactly at its anchors.

        Raises:
            InputError: if they are not known after that step; the nearest where they are are named.
        """
        if step not in self._ways:
            near = sorted(sorted(self._ways, key=lambda s: abs(s - step))[:3])
            there = f"the nearest are {', '.join(map(str, near))}" if near else "there is no row at all"
            ask = "trajectory.known_steps" if self.sketch is not None else "trajectory.steps"
            raise InputError(f"{self.folder} has no weights after step {step!r}: {there}; ask for one of {ask}")
        return weights_after(self._ways[step], step, self.sketch is not None)

    @cached_property
    def _ways(self) -> dict[int, tuple[Segment, ...]]:
        return known_steps(self.segments, self.sketch is not None)

    def rebuild(self, coefficients: Tensor, layer: str | None = None) -> tuple[Tensor, Tensor]:
        """The vectors `C U` of a sketched run out of its sums, as far as they hold them, see `rebuilding`.

        Args:
            coefficients: C, float64 `(k, T)`.
            layer: this layer's entries only, from the combination nearest there; zero elsewhere.

        Returns:
            The vectors `(k, P)` in the run's dtype, and the share of each one's squared length that they have.

        Raises:
            InputError: if no sum is whole.
        """
        sums = sums_of(self.segments, self.usable)
        wanted, held = TrajectoryRows(self, coefficients, layer), TrajectoryRows(self, sums.members, layer)
        gram = held.cross(held)
        nearest = nearest_combination(wanted.cross(held), gram)
        out = torch.zeros(len(coefficients), self.space.size, dtype=self.dtype)
        sums.combine(nearest, out)
        if layer is not None:
            span = self.space.layer(layer).span
            out[:, : span.start], out[:, span.stop :] = 0.0, 0.0
        lengths = torch.diagonal(wanted.cross(wanted))
        return out, ((nearest @ gram) * nearest).sum(dim=1) / lengths

    def buffers(self, step: int) -> tuple[dict[str, Tensor], int]:
        """The model's buffers nearest after a step, and the step after which they stood.

        They are kept at the end of each segment, so the step may be later than the one asked for.

        Raises:
            InputError: if the step was not recorded.
        """
        for segment in self.segments:
            if segment.before < step <= int(segment.steps[-1]):
                return segment.buffers(), int(segment.steps[-1])
        for segment in self.segments:
            if segment.before == step:
                return segment.buffers(), int(segment.steps[-1])
        raise InputError(f"{self.folder} has no row with step {step!r}; ask for one of trajectory.steps")

    def inner(
        self,
        directions: Directions | Rows | Tensor,
        window: Window | None = None,
        layer: str | None = None,
        center: bool = False,
    ) -> Tensor:
        """Inner products of the updates with k directions: float64 `(T, k)`, in one pass over the file.

        Args:
            directions: `(k, P)` or `(P,)`.
            window: half-open interval of optimizer steps: `(n, k)` for its n rows, see `rows_in`.
            layer: over this layer's entries only.
            center: subtract the rows' mean update first.

        Returns:
            Zeros for the rows that are not finite.

        Raises:
            InputError: if the directions have another length than the updates, or window or layer is none.
        """
        chosen = self.rows_in(window)
        rows = directions.rows if isinstance(directions, Directions) else directions
        if isinstance(rows, TrajectoryRows) and rows.trajectory is self:
            found = rows.inner_rows(layer)[chosen]
        else:
            if isinstance(rows, Rows):
                rows = rows.tensor if isinstance(rows, DenseRows) else Directions(rows).vectors
            columns = self.columns_of(layer)
            begin, end = (int(chosen[0]), int(chosen[-1]) + 1) if len(chosen) else (0, 0)
            found = self.inner_within(rows, columns, begin, end)
        return centered_rows(found, self.usable[chosen]) if center else found

    def inner_within(self, vectors: Tensor, columns: slice, first: int = 0, last: int | None = None) -> Tensor:
        """Inner products over some columns and some rows only: `(k, P)` or `(P,)` gives float64 `(rows, k)`.

        With a sketch the columns are the sketch's, and the inner products its estimates.

        Raises:
            InputError: if the vectors have another length than the updates.
        """
        self.check_length(vectors)
        last = len(self) if last is None else last
        vectors = vectors.detach().reshape(-1, self.space.size)
        vectors = vectors if self.sketch is None else self.sketch.of(vectors)
        return products.inner(self.stream(columns, first, last), vectors, last - first)

    def check_length(self, vectors: Tensor) -> None:
        """Raise an InputError unless the vectors, `(k, P)` or `(P,)`, are as long as the updates."""
        if vectors.shape[-1] != self.space.size or vectors.ndim not in (1, 2):
            raise InputError(
                f"directions of shape {tuple(vectors.shape)} against updates of length {self.space.size}; give (k, P)"
            )

    def combined(self, coefficients: Tensor, layer: str | None) -> Tensor:
        """`C U` in one pass over the file, in the run's dtype: float64 `(j, T)` gives `(j, P)`.

        Args:
            coefficients: C.
            layer: this layer's entries only; zero elsewhere.
        """
        out = torch.zeros(len(coefficients), self.space.size, dtype=self.dtype)
        used = coefficients.any(dim=0).nonzero()[:, 0]
        if len(used):
            first, last = int(used[0]), int(used[-1]) + 1
            products.combine(self.stream(self.columns_of(layer), first, last), coefficients[:, first:last], out)
        return out

    def parts_of_rows(self, coefficients: Tensor, layer: str | None) -> tuple[Tensor, Part] | None:
        """What this rank has of `C U`, where ranks hold parts of the updates; else None."""
        return None

    @property
    def freedom(self) -> tuple[int, ...] | None:
        """Of a sketched run, how many numbers stand for each layer: no more than the sketch's width."""
        return None if self.sketch is None else tuple(layer.size for layer in self.columns.layers)

    # -- the Gram matrix -----------------------------------------------------------------------------------

    def gram(self, layer: str | None = None, window: Window | None = None, center: bool = False) -> Tensor:
        """`U Uᵀ` over all columns or one layer's: float64 `(T, T)`. The first call reads the file once.

        It is kept in the run folder, so that later only rows that are new are multiplied.

        Args:
            layer: over this layer's entries only.
            window: half-open interval of optimizer steps: `(n, n)` for its n rows, see `rows_in`.
            center: subtract the rows' mean update first.

        Returns:
            Zeros in the rows and columns of updates that are not finite.

        Raises:
            InputError: if there is no layer of that name, or the matrix would exceed `grams.WHOLE_LIMIT` bytes.
        """
        chosen = self.rows_in(window)
        first, last = (int(chosen[0]), int(chosen[-1]) + 1) if len(chosen) else (0, 0)
        found, usable = self.gram_between(first, last, layer), self.usable[first:last]
        return centered_rows(centered_rows(found, usable).T, usable) if center else found

    def gram_between(self, first: int, last: int, layer: str | None = None) -> Tensor:
        """The same for the rows `first` to `last`: of a long run, only these are read.

        Raises:
            InputError: as `gram` does.
        """
        chosen = None if layer is None else self.kept_layer(layer)
        part = (first, last) != (0, len(self)) and not self.prefers_gram()
        need = 8 * (last - first if part else len(self)) ** 2
        if need > WHOLE_LIMIT:
            raise InputError(
                f"a Gram matrix of {math.isqrt(need // 8):,} rows takes {need / 1e6:,.0f} MB, more than the limit of "
                f"{WHOLE_LIMIT / 1e6:,.0f} MB; choose a window, or do without by update_pca(..., method='randomized')"
            )
        if part:
            return make_grams(self.segments, (chosen or Layer("", 0, 0, self.columns.size),), first, last).whole
        found = self.grams.whole if chosen is None else self._layer_gram(chosen)
        return found[first:last, first:last]

    def energies(self, layer: str | None = None, window: Window | None = None) -> Tensor:
        """Squared length of each row, over all columns or one layer's: float64 `(n,)`, the diagonal of `gram`.

        For any number of rows: without a Gram matrix it takes one pass over the file, for all layers together.

        Args:
            layer: over this layer's entries only.
            window: half-open interval of optimizer steps.

        Raises:
            InputError: if there is no layer of that name.
        """
        rows = self.rows_in(window)
        place = None if layer is None else self.columns.layers.index(self.kept_layer(layer))
        return self._energies.sum(dim=0)[rows] if place is None else self._energies[place][rows]

    @cached_property
    def _energies(self) -> Tensor:
        """Squared lengths of all rows in each layer: float64 `(layers, T)`."""
        if kept_layers(self.columns, len(self)) == self.columns.layers and self.prefers_gram():
            return torch.stack([torch.diagonal(matrix) for matrix in self.grams.matrices])
        out = torch.zeros(len(self.columns.layers), len(self), dtype=torch.float64)
        for columns, tile in self.stream(slice(0, self.columns.size)):
            for total, layer in zip(out, self.columns.layers, strict=True):
                start, stop = max(layer.start, columns.start), min(layer.stop, columns.stop)
                if start < stop:
                    total += tile[:, start - columns.start : stop - columns.start].square().sum(dim=1)
        return out

    @property
    def has_room_for_gram(self) -> bool:
        """Whether the Gram matrix of all rows stays within `grams.WHOLE_LIMIT` bytes."""
        return 8 * len(self) ** 2 <= WHOLE_LIMIT

    @cached_property
    def grams(self) -> Grams:
        """The Gram matrices of the layers, or of all columns where those of the layers would take too much."""
        return run_grams(self.folder, str(self.manifest["run"]), self.segments, self.columns)

    def gram_error(self) -> Tensor:
        """How far the entries of `gram()` may be off: float64 `(T, T)`; zero where updates are kept exactly.

        bfloat16: a bound, from errors of a row `|e_i| ≤ 2^-8 (|u_i| + |u_{i-1}|)` by Cauchy and Schwarz, for updates
        that are large beside the rounding of the weights themselves. A sketch: the standard deviation, see `sketches`.
        """
        lengths = torch.diagonal(self.gram()).clamp(min=0).sqrt()
        if self.keeping.form == BFLOAT16:
            before = torch.cat([lengths.new_zeros(1), lengths[:-1]])
            errors = STEP * (lengths + before)
            products = errors[:, None] * lengths
            return products + products.T + errors[:, None] * errors
        nothing = torch.zeros(len(self), len(self), dtype=torch.float64)
        if self.sketch is None:
            return nothing
        return nothing + self.sketch.error_variance(lambda layer, _: self.gram(layer.name)).sqrt()

    def _layer_gram(self, layer: Layer) -> Tensor:
        if layer in kept_layers(self.columns, len(self)):
            return self.grams.of(layer)
        return make_grams(self.segments, (layer,)).whole

    def prefers_gram(self, rows: int | None = None) -> bool:
        """Whether a question about so many rows, all unless given, is answered from a Gram matrix.

        It is if they are few, or if the whole matrix is there already.
        """
        if (len(self) if rows is None else rows) <= EXACT_ROWS or "grams" in vars(self):
            return True
        return cached_rows(self.folder, str(self.manifest["run"]), self.segments, self.columns) == len(self)

    # -- reading -------------------------------------------------------------------------------------------

    def stream(self, columns: slice, first: int = 0, last: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Tiles of the rows `first` to `last`: which columns, and float64 `(rows, columns)`; see `columns.tiles`.

        Rows that are not finite are zeros.
        """
        last = len(self) if last is None else last
        return tiles(parts_of(self.segments, first, last), columns, ~self.usable[first:last])
