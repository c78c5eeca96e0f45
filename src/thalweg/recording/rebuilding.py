"""Weights and directions out of segments: replayed row by row from an anchor, or from the sums of a sketched run.

Under a sketch the rows themselves are gone. Of a direction `c U` the nearest combination `a B` of the sums B is taken,
nearest in inner products as the sketch gives them: with the sums' rows `B = M U` that is `a = c G Mᵀ (M G Mᵀ)⁺`, and
the share of its squared length that comes back is `(a M G Mᵀ aᵀ) / (c G cᵀ)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import InputError
from thalweg.recording.store import Segment

RANK = 1e-8
"""Sums are told apart where an eigenvalue of their Gram matrix is more than this share of the largest."""


def known_steps(segments: Sequence[Segment], sketched: bool) -> dict[int, tuple[Segment, ...]]:
    """After which steps the weights are known, and the segments that lead there, the first one with an anchor."""
    return _from_sums(segments) if sketched else _from_rows(segments)


def _from_rows(segments: Sequence[Segment]) -> dict[int, tuple[Segment, ...]]:
    found: dict[int, tuple[Segment, ...]] = {}
    way: tuple[Segment, ...] = ()
    for segment in segments:
        if segment.anchored:
            way = (segment,)
            found[segment.before] = way
        elif way and way[-1].first_row + len(way[-1]) == segment.first_row and int(way[-1].steps[-1]) == segment.before:
            way = (*way, segment)
        else:
            way = ()  # what lies before is missing
        if way:
            found.update(dict.fromkeys(segment.steps.tolist(), way))
    return found


def _from_sums(segments: Sequence[Segment]) -> dict[int, tuple[Segment, ...]]:
    found: dict[int, tuple[Segment, ...]] = {}
    for segment in segments:
        if segment.anchored:
            found[segment.before] = (segment,)
        if segment.sum_after is not None and segment.sum_after in found:
            way = found[segment.sum_after]
            found[int(segment.steps[-1])] = way if segment is way[-1] and len(way) == 1 else (*way, segment)
    return found


def weights_after(way: Sequence[Segment], step: int, sketched: bool) -> Tensor:
    """The weights `(P,)` after a step, along a way that `known_steps` gave for it."""
    weights = way[0].tensor("anchor").clone()  # what was read is the file's own memory
    if sketched:
        for segment in way:
            if segment.sum_after is not None and int(segment.steps[-1]) <= step:
                weights += segment.tensor("sum")
        return weights
    for segment in way:
        _replay(segment, weights, step)
    return weights


def _replay(segment: Segment, weights: Tensor, step: int) -> None:
    """Add the rows up to a step one by one and put the patches in; exact rows give every bit back."""
    patched = "patch_rows" in segment.names
    if patched:
        rows, columns, values = (segment.tensor(f"patch_{part}") for part in ("rows", "columns", "values"))
    for row in range(int((segment.steps <= step).sum())):
        weights += segment.updates(slice(row, row + 1))[0]
        if patched:
            here = rows == row
            weights[columns[here]] = values[here]


@dataclass(frozen=True, eq=False)
class Sums:
    """The sums of a sketched run.

    Attributes:
        segments: that hold one each, in order.
        members: float64 `(sums, T)`, 1 where a row is in a sum.
    """

    segments: tuple[Segment, ...]
    members: Tensor

    def combine(self, coefficients: Tensor, out: Tensor) -> None:
        """`a B` for a of shape `(j, sums)` into `(j, P)`; one sum is in memory at a time."""
        for number, segment in enumerate(self.segments):
            if bool(coefficients[:, number].any()):
                out.addcmul_(coefficients[:, number, None].to(out.dtype), segment.tensor("sum").to(out.dtype)[None])


def sums_of(segments: Sequence[Segment], usable: Tensor) -> Sums:
    """The sums whose rows are all there and finite.

    Args:
        segments: of the run.
        usable: `(T,)` bool.

    Raises:
        InputError: if there is none.
    """
    steps = torch.cat([segment.steps for segment in segments])
    starts = torch.cat([torch.cat([torch.tensor([s.before]), s.steps[:-1]]) + 1 for s in segments])
    kept, members = [], []
    for segment in segments:
        if segment.sum_after is None:
            continue
        first, last = segment.sum_after + 1, int(segment.steps[-1])
        inside = (starts >= first) & (steps <= last)
        whole = int((steps - starts + 1)[inside].sum()) == last - first + 1
        if whole and bool(usable[inside].all()):
            kept.append(segment)
            members.append(inside)
    if not kept:
        raise InputError("no sum of this sketched run is whole, so that no direction can be rebuilt; record longer")
    return Sums(tuple(kept), torch.stack(members).double())


def nearest_combination(cross: Tensor, gram: Tensor) -> Tensor:
    """a `(j, sums)`: the sums' combinations nearest to directions, from `c G Mᵀ` `(j, sums)` and `M G Mᵀ`."""
    values, vectors = torch.linalg.eigh(gram)
    inside = values > RANK * values[-1].clamp(min=0)
    vectors = vectors[:, inside]
    nearest: Tensor = (cross @ vectors / values[inside]) @ vectors.T
    return nearest
