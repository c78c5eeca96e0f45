"""The trajectory of a model that is split over ranks, read by as many: each reads its own part and nothing else.

Inner products of whole vectors are sums over the parts', so Gram matrices, one for each layer, are summed over the
ranks; components, overlaps and the drift follow from those. With a sketch the sum of the parts' sketched products
stands for the whole one, since each part's errors are its own. A vector is only put together where one is asked for.

All ranks make the same calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.collectives import Layout, Ranks
from thalweg.described import Part
from thalweg.errors import InputError, RunError
from thalweg.recording.grams import Grams, kept_layers, make_grams
from thalweg.recording.keeping import Columns
from thalweg.recording.sketches import Sketch
from thalweg.recording.trajectory import Trajectory
from thalweg.space import Layer, ParameterSpace


@dataclass(frozen=True, eq=False)
class PartedTrajectory(Trajectory):
    """A trajectory of which this rank holds its rows of every parameter.

    Attributes:
        part: this rank's, a trajectory of its own.
        layout: which entries of whole vectors each rank has.
    """

    part: Trajectory = field(kw_only=True)
    layout: Layout = field(kw_only=True)

    @property
    def ranks(self) -> Ranks:
        """The processes that hold the parts."""
        return self.layout.ranks

    # -- what stands beside the rows -----------------------------------------------------------------------

    @cached_property
    def columns(self) -> Columns:
        """All layers, with the columns that this rank's part has of them; of some it may have none."""
        there = {layer.name: layer for layer in self.part.columns.layers}
        found, last = [], 0
        for layer in self.space.layers:
            kept = there.get(layer.name) or Layer(layer.name, layer.depth, last, last)
            found.append(Layer(layer.name, layer.depth, kept.start, kept.stop))
            last = kept.stop
        return Columns(tuple(found), self.part.columns.size)

    @cached_property
    def sketch(self) -> Sketch | None:
        """Of this rank's part."""
        return self.part.sketch

    @property
    def freedom(self) -> tuple[int, ...] | None:
        """Numbers that stand for each layer in all parts together, of a sketched run."""
        if self.sketch is None:
            return None
        return tuple(int(size) for size in self.ranks.add_up([float(layer.size) for layer in self.columns.layers]))

    @cached_property
    def finite(self) -> Tensor:
        """Rows that are finite in every part."""
        return self.ranks.sum((~self.part.finite).to(torch.int64)) == 0

    # -- vectors -------------------------------------------------------------------------------------------

    def updates(self, start: int, stop: int) -> Tensor:
        """The updates in a window, put together on every rank."""
        return torch.stack([self.layout.whole(row) for row in self.part.updates(start, stop)])

    @cached_property
    def known_steps(self) -> Tensor:
        """Steps after which every part knows its weights."""
        common = set.intersection(*map(set, self.ranks.gathered(self.part.known_steps.tolist())))
        return torch.tensor(sorted(common), dtype=torch.int64)

    def weights(self, step: int) -> Tensor:
        """The weights after a step, put together on every rank."""
        return self.layout.whole(self.part.weights(step))

    def combined(self, coefficients: Tensor, layer: str | None) -> Tensor:
        """`C U`, put together on every rank."""
        return torch.stack([self.layout.whole(row) for row in self._own_rows(coefficients, layer)])

    def parts_of_rows(self, coefficients: Tensor, layer: str | None) -> tuple[Tensor, Part]:
        """This rank's entries of `C U`, and which they are."""
        spans = [(span.start, span.stop) for span in self.layout.own]
        own = self._own_rows(coefficients, layer)
        return own, Part(self.ranks.rank, self.ranks.size, ("vectors",), spans)

    def _own_rows(self, coefficients: Tensor, layer: str | None) -> Tensor:
        if layer is not None and layer not in {one.name for one in self.part.space.layers}:
            return torch.zeros(len(coefficients), self.part.space.size, dtype=self.dtype)
        return self.part.combined(coefficients * self.usable, layer)

    def rebuild(self, coefficients: Tensor, layer: str | None = None) -> tuple[Tensor, Tensor]:
        """There is none: the sums of the parts end at different rows.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{self.folder} keeps sketches in parts, from which inner products follow, but no vectors; record with "
            "keep='exact' or 'bfloat16' for those"
        )

    def inner_within(self, vectors: Tensor, columns: slice, first: int = 0, last: int | None = None) -> Tensor:
        """Inner products with whole vectors, summed over the parts."""
        self.check_length(vectors)
        own = self.layout.take(vectors.detach().reshape(-1, self.space.size))
        return self.ranks.sum(self.part.inner_within(own, columns, first, last))

    def stream(self, columns: slice, first: int = 0, last: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """No pass over whole rows.

        Raises:
            InputError: always; a pass over one part would look like one.
        """
        raise InputError(
            f"{self.folder} is read in parts, whose Gram matrices are summed; use method='exact', with a window where "
            "there are too many rows for one matrix"
        )

    # -- the Gram matrix -----------------------------------------------------------------------------------

    @cached_property
    def grams(self) -> Grams:
        """The Gram matrices of the layers, summed over the ranks."""
        layers = kept_layers(self.columns, len(self))
        out = torch.zeros(len(layers), len(self), len(self), dtype=torch.float64)
        there = {layer.name for layer in self.part.columns.layers}
        for total, layer in zip(out, layers, strict=True):
            if not layer.name or layer.name in there:
                total += self.part.gram(layer.name or None)
        usable = self.usable.to(out)
        return Grams(layers, self.ranks.sum(out) * usable[:, None] * usable)

    def gram_error(self) -> Tensor:
        """How far the entries of `gram()` may be off; of sketches the standard deviation of the sum."""
        if self.sketch is None:
            return super().gram_error()
        return self.ranks.sum(self.part.gram_error() ** 2).sqrt()

    @cached_property
    def _energies(self) -> Tensor:
        if kept_layers(self.columns, len(self)) == self.columns.layers:
            return torch.stack([torch.diagonal(matrix) for matrix in self.grams.matrices])
        return torch.stack([torch.diagonal(self._layer_gram(layer)) for layer in self.columns.layers])

    def _layer_gram(self, layer: Layer) -> Tensor:
        if layer in kept_layers(self.columns, len(self)):
            return self.grams.of(layer)
        nothing = torch.zeros(len(self), len(self), dtype=torch.float64)
        own = make_grams(self.segments, (layer,)).whole if layer.size else nothing
        return self.ranks.sum(own) * self.usable[:, None] * self.usable

    def prefers_gram(self, rows: int | None = None) -> bool:
        """Always: that is what is sent."""
        return True


def joined(folder: Path, part: Trajectory, manifest: Mapping[str, Any], ranks: Ranks) -> PartedTrajectory:
    """The trajectory of a run of which each rank has opened its part.

    Args:
        folder: of all parts.
        part: this rank's.
        manifest: of the whole.
        ranks: as many as there are parts.

    Raises:
        RunError: on every rank, if the parts do not hold the same rows.
        InputError: likewise, if they are of different recordings.
    """
    ranks.agree(part.manifest["part"].get("job"), f"the recording that the parts in {folder} belong to")
    every = ranks.gathered((part.steps.tolist(), part.manifest["part"]["spans"]))
    ends = [steps[-1] if steps else -1 for steps, _ in every]
    if any(steps != every[0][0] for steps, _ in every):
        raise RunError(
            f"the parts in {folder} do not hold the same rows (they end after the steps "
            f"{', '.join(map(str, ends))}); thalweg merge keeps those that all have"
        )
    space = ParameterSpace.from_json(manifest["space"])
    spans = tuple(tuple(slice(*span) for span in own) for _, own in every)
    layout = Layout(space.size, ranks, spans)
    return PartedTrajectory(folder, manifest, space, part.segments, part.damaged, part=part, layout=layout)
