"""From what was seen to what is kept, in the thread that writes.

A keeper takes the blocks of a recording one after the other and gives back the segments that are due. The exact one
gives each block as it is; the others know where the rows kept so far have led, one vector of length P.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.recording.keeping import BFLOAT16, SKETCH, Keeping
from thalweg.recording.rounding import round_rows, round_to
from thalweg.recording.segments import KeptRows, SegmentContent, digest, keep_exactly
from thalweg.recording.sketches import Sketch
from thalweg.space import ParameterSpace

LEAST_ROWS = 256
"""Sketched rows wait for each other until there are so many, a sum is due, or their time is up."""

Due = list[tuple[SegmentContent, KeptRows]]


class Keeper(Protocol):
    """Turns blocks into segments."""

    def take(self, content: SegmentContent) -> Due:
        """The segments that are due with one more block; once they are written its arrays are free again."""
        ...

    def finish(self) -> Due:
        """The segments that are left at the end."""
        ...


def keeper_of(keeping: Keeping, space: ParameterSpace, flush_seconds: float) -> Keeper:
    """The keeper that keeps updates in this way.

    Args:
        keeping: how.
        space: what the vectors are.
        flush_seconds: after which sketched rows are written even if they are few.
    """
    if keeping.form == SKETCH:
        return SketchKeeper(Sketch(space, keeping), keeping, flush_seconds)
    return RoundingKeeper() if keeping.form == BFLOAT16 else ExactKeeper()


class ExactKeeper:
    """Keeps every update bit for bit."""

    def take(self, content: SegmentContent) -> Due:
        """The block as a segment."""
        return [(content, keep_exactly(content))]

    def finish(self) -> Due:
        """Nothing."""
        return []


class RoundingKeeper:
    """Keeps updates in bfloat16, see `rounding`."""

    def __init__(self) -> None:
        self._reached: Tensor | None = None

    def take(self, content: SegmentContent) -> Due:
        """The block as a segment."""
        if self._reached is None or content.anchored:
            self._reached = content.weights[0].clone()
        updates, finite = round_rows(content.weights, self._reached)
        beside = {"anchor": content.weights[0]} if content.anchored else {}
        return [(content, KeptRows(updates, finite, beside, digest(content.weights[-1])))]

    def finish(self) -> Due:
        """Nothing."""
        return []


class SketchKeeper:
    """Keeps sketches of rows, their sums in bfloat16, and an exact anchor with every so many sums.

    A sum begins and ends with a block. Where a block comes with the optimizers' state, an anchor stands before it. The
    newest block always waits, so that a sum can be written with it at the end.

    Args:
        sketch: of the updates.
        keeping: how many rows to a sum and sums to an anchor.
        flush_seconds: after which sketched rows are written even if they are few.
    """

    def __init__(self, sketch: Sketch, keeping: Keeping, flush_seconds: float) -> None:
        self._sketch = sketch
        self._keeping = keeping
        self._flush_seconds = flush_seconds
        self._reached = torch.empty(0)  # where the last anchor and the sums since have led
        self._last = torch.empty(0)  # the weights after the newest row
        self._anchor_due = True
        self._sums = 0  # since the last anchor
        self._sum_rows = 0  # since the last sum
        self._sum_after = -1
        self._waiting: list[_Waiting] = []
        self._since = 0.0

    def take(self, content: SegmentContent) -> Due:
        """Nothing, until rows have waited long enough or make up a sum."""
        due: Due = []
        if content.state and self._sum_rows:
            due += self._give(self._waiting, summed=True)
        anchor = None
        if not self._sum_rows:
            self._sum_after = content.before
            if self._anchor_due or content.state:
                anchor, self._reached = content.weights[0].clone(), content.weights[0].clone()
                self._anchor_due, self._sums = False, 0
        if not self._waiting:
            self._since = time.monotonic()
        rows = self._sketch.of_differences(content.weights.numpy())
        self._last = content.weights[-1].clone()
        bare = replace(content, weights=self._last[:0], state=() if anchor is None else content.state)
        self._waiting.append(_Waiting(bare, rows, anchor))
        self._sum_rows += len(rows)
        if self._sum_rows >= self._keeping.sum_rows:
            due += self._give(self._waiting, summed=True)
        elif len(self._waiting) > 1 and self._old():
            due += self._give(self._waiting[:-1], summed=False)
        return due

    def finish(self) -> Due:
        """What has waited, with the sum of the rows since the last."""
        return self._give(self._waiting, summed=True) if self._waiting else []

    def _old(self) -> bool:
        return (
            sum(len(waiting.rows) for waiting in self._waiting) >= LEAST_ROWS
            or time.monotonic() - self._since >= self._flush_seconds
        )

    def _give(self, blocks: Sequence[_Waiting], summed: bool) -> Due:
        """Blocks that have waited as one segment, with the sum that ends with the last of them if one does."""
        rows = np.concatenate([block.rows for block in blocks])
        anchor = blocks[0].anchor
        beside = {} if anchor is None else {"anchor": anchor}
        end, sum_after = "", None
        if summed:
            total = torch.empty(len(self._last), dtype=torch.bfloat16)
            finite = round_to(self._last, self._reached, total)
            beside["sum"], sum_after, end = total, self._sum_after, digest(self._last)
            self._sums += 1
            self._sum_rows = 0
            self._anchor_due = self._sums >= self._keeping.anchor_sums or not finite
        self._waiting = self._waiting[len(blocks) :]
        self._since = time.monotonic()
        kept = KeptRows(torch.from_numpy(rows), np.isfinite(rows).all(axis=1), beside, end, sum_after)
        return [(_joined([block.content for block in blocks]), kept)]


@dataclass(frozen=True)
class _Waiting:
    """A block that waits: all but its weights, its rows' sketches, and the anchor before it if there is one."""

    content: SegmentContent
    rows: NDArray[Any]
    anchor: Tensor | None


def _joined(contents: Sequence[SegmentContent]) -> SegmentContent:
    """Blocks that follow each other as one, without their weights."""
    first, last = contents[0], contents[-1]
    names = dict.fromkeys(name for content in contents for name in content.scalars)
    return replace(
        last,
        first_row=first.first_row,
        before=first.before,
        steps=np.concatenate([content.steps for content in contents]),
        learning_rates=np.concatenate([content.learning_rates for content in contents]),
        momenta=np.concatenate([content.momenta for content in contents]),
        times=np.concatenate([content.times for content in contents]),
        scalars={
            name: np.concatenate([c.scalars.get(name, np.full(len(c.steps), np.nan)) for c in contents])
            for name in names
        },
        anchor_buffers=first.anchor_buffers,
        groups=first.groups,
        state=first.state,
    )
