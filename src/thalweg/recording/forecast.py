"""What a recording will keep, cost and lose, said before the first step; and the choice that a budget leaves.

Forms are tried from the most to the least faithful: every update exactly, in bfloat16, as a sketch with sums (wide
sketches first), and at last rows that sum more and more steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from thalweg.errors import InputError
from thalweg.memory import in_bytes
from thalweg.recording.keeping import ANCHOR_ROWS, BFLOAT16, EXACT, FORMS, SKETCH, WIDTH, Keeping
from thalweg.recording.writer import PENDING
from thalweg.space import ParameterSpace

WIDTHS = (16384, 8192, 4096, 2048, 1024)
SUMS = (64, 128, 256, 512, 1024)
LEAST_SUMS = 8
"""A sketched run has so many sums at the least: weights are known at their ends only."""
COARSEST = 2**20
"""Steps to a row at the most."""
SKETCH_PAYS = 4
"""A sketch is tried where its rows are at least so many times as short as the updates."""
BLOCK_BYTES = 2**25
"""A block is no larger than this, but for one that holds a single row."""
CACHED_BYTES = 2**23
"""Three blocks of this size stay in a large cache: no more rows to a block if it has a few tens of them anyway."""
FEW_ROWS = 32
BLOCKS = 1 + PENDING
"""In memory: one that fills, and those that wait for the disk."""
ROOM = 4096
"""Bytes of a segment beside its rows, buffers and state, about."""


@dataclass(frozen=True)
class Forecast:
    """What a recording will keep, cost and lose. `print` it.

    Attributes:
        space: what is recorded.
        keeping: how.
        every: steps to a row.
        item: bytes of a weight.
        rows: of one segment, at the most.
        beside: bytes of buffers that stand with a segment.
        moments: whether the optimizers' state is kept too, for which up to a tenth more is written if the budget lets.
        budget: in bytes; None where there is none.
        steps: that the training will make; None where that was not said.
    """

    space: ParameterSpace
    keeping: Keeping
    every: int
    item: int
    rows: int
    beside: int = 0
    moments: bool = False
    budget: int | None = None
    steps: int | None = None

    def kept(self, keeping: Keeping) -> Forecast:
        """The same with updates kept in another way; of a sketched run whole segments make up a sum."""
        rows = self.rows
        if keeping.form == SKETCH:
            rows = keeping.sum_rows // -(-keeping.sum_rows // rows)
        return replace(self, keeping=keeping, rows=rows)

    @property
    def row_bytes(self) -> float:
        """Bytes on disk for each row, its share of what stands beside included."""
        together = self.rows if self.anchor_rows == 1 else ANCHOR_ROWS
        shared = self.keeping.shared_bytes(self.space, self.item, together) / together
        return self.keeping.row_bytes(self.space, self.item) + shared + self.beside / self.rows

    @property
    def vector_bytes(self) -> float:
        """Bytes of a row's vectors alone, of a sketched run with its share of a sum."""
        if self.keeping.form == SKETCH:
            kept = self.keeping.columns(self.space).size * self.item
            return kept + 2 * self.space.size / self.keeping.sum_rows
        return self.space.size * (2 if self.keeping.form == BFLOAT16 else self.item)

    @property
    def anchor_rows(self) -> int:
        """Rows that lie between two anchors at the least; 1: each segment begins with one."""
        return ANCHOR_ROWS if rows_of_a_block(self.space.size * self.item) < ANCHOR_ROWS else 1

    @property
    def least_bytes(self) -> float:
        """Bytes on disk that it takes however few rows there are: the first anchor, and of a sketched run a sum."""
        more = 2 if self.keeping.form == SKETCH else 0
        return self.space.size * (self.item + more) + self.beside + 3 * ROOM

    @property
    def memory_bytes(self) -> float:
        """Bytes in memory at the most: blocks of weights and, for rounding and sketching, where they have led.

        Copies of the optimizers' state come on top until they are written; how large it is, the first step shows.
        """
        vector = self.space.size * self.item
        blocks = BLOCKS * (self.rows + 1) * vector
        if self.keeping.form == SKETCH:
            return blocks + 3 * vector + self.rows * self.keeping.columns(self.space).size * self.item
        return blocks + (vector + 2 * self.rows * self.space.size if self.keeping.form == BFLOAT16 else 0)

    def bytes_for(self, steps: int) -> float:
        """Bytes on disk for so many steps."""
        return self.least_bytes + self.row_bytes * -(-steps // self.every)

    @property
    def lasts(self) -> int | None:
        """Steps for which the budget lasts, about; None without one."""
        if self.budget is None:
            return None
        return max(0, int((self.budget - self.least_bytes) / self.row_bytes)) * self.every

    @property
    def lost(self) -> list[str]:
        """What cannot be had from such a run, one sentence each."""
        return self.keeping.lost(self.every)

    def __str__(self) -> str:
        form = {
            EXACT: "every update, bit for bit",
            BFLOAT16: "every update in bfloat16, and exact anchors",
            SKETCH: f"a sketch of every update (at most {self.keeping.width} numbers a layer), its sum over "
            f"{self.keeping.sum_rows} rows in bfloat16, and a few exact anchors",
        }[self.keeping.form]
        rows = "" if self.every == 1 else f" A row sums {self.every} steps."
        cost = f"On disk about {in_bytes(self.row_bytes)} a row"
        if self.steps is not None:
            cost += f", {in_bytes(self.bytes_for(self.steps))} for {self.steps:,} steps"
        if self.budget is not None:
            cost += f"; the budget of {in_bytes(self.budget)} lasts for about {self.lasts:,} steps"
        memory = (
            f"In memory at most {in_bytes(self.memory_bytes)}, {self.memory_bytes / self._vector:.1f} times the weights"
            + (", and copies of the optimizer's state until they are written" if self.moments else "")
        )
        cost += " (and up to a tenth more for the optimizer's state)" if self.moments else ""
        lost = f" Lost: {'; '.join(self.lost)}." if self.lost else " Nothing is lost."
        return f"thalweg keeps {form}.{rows} {cost}. {memory}.{lost}"

    @property
    def _vector(self) -> int:
        return self.space.size * self.item


def rows_of_a_block(row: int) -> int:
    """How many rows of so many bytes go into a block: the fewer, the more anchors; the more, the colder the cache."""
    return max(1, CACHED_BYTES // row, min(FEW_ROWS, BLOCK_BYTES // row - 1))


def choose(forecast: Forecast, keep: str | None, width: int = WIDTH) -> Forecast:
    """The most faithful way of recording that the budget allows for the steps to come.

    Args:
        forecast: for exact rows, with the budget and steps as they were given.
        keep: what was asked for: one of `FORMS`; None or "auto": what fits, which is exact rows where budget or steps
            are not known.
        width: of the sketch that was asked for.

    Raises:
        InputError: if `keep` is none of these, or nothing fits the budget.
    """
    if keep is not None and keep not in (*FORMS, "auto"):
        raise InputError(f"keep={keep!r}: give one of {', '.join(map(repr, (*FORMS, 'auto')))}")
    if keep in FORMS:
        keeping = Keeping.sketched(width) if keep == SKETCH else Keeping(keep)
        return forecast.kept(keeping)
    if forecast.budget is None or forecast.steps is None:
        if keep == "auto":
            raise InputError("keep='auto' chooses by the budget and the steps to come; give budget= and steps=")
        return forecast
    for candidate in _candidates(forecast):
        if candidate.bytes_for(forecast.steps) <= forecast.budget:
            return candidate
    least = replace(forecast, keeping=Keeping(BFLOAT16), every=forecast.steps)
    raise InputError(
        f"budget={forecast.budget:,} bytes does not even hold one row of {forecast.space.size:,} weights that sums all "
        f"{forecast.steps:,} steps; give {int(least.bytes_for(forecast.steps)):,} or more"
    )


def _candidates(forecast: Forecast) -> Iterator[Forecast]:
    """Ways to record, from the most faithful on; a run has `LEAST_SUMS` sums in each, so that it can be analysed."""
    assert forecast.steps is not None
    every = forecast.every
    yield forecast
    while every <= COARSEST:
        yield replace(forecast.kept(Keeping(BFLOAT16)), every=every)
        rows = -(-forecast.steps // every)
        for sum_rows in [s for s in SUMS if LEAST_SUMS * s <= rows] or [max(1, rows // LEAST_SUMS)]:
            for width in WIDTHS:
                keeping = Keeping.sketched(width, sum_rows=sum_rows)
                if keeping.columns(forecast.space).size * SKETCH_PAYS <= forecast.space.size:
                    yield replace(forecast.kept(keeping), every=every)
        every *= 2
