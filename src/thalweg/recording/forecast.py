"""What a recording will keep, cost and lose, said before the first step; and the choice that a budget leaves.

Forms are tried from the most to the least faithful: every update exactly, in bfloat16, as a sketch with sums (wide
sketches first), and at last rows that sum more and more steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from thalweg.errors import InputError
from thalweg.recording.keeping import ANCHOR_ROWS, BFLOAT16, EXACT, FORMS, SKETCH, WIDTH, Keeping
from thalweg.space import ParameterSpace

WIDTHS = (16384, 8192, 4096, 2048, 1024)
SUMS = (64, 128, 256, 512, 1024)
COARSEST = 2**20
"""Steps to a row at the most."""
SKETCH_PAYS = 4
"""A sketch is tried where its rows are at least so many times as short as the updates."""
BLOCK_BYTES = 2**25
"""A block is no larger than this, but for one that holds a single row."""
CACHED_BYTES = 2**23
"""Three blocks of this size stay in a large cache: no more rows to a block if it has a few tens of them anyway."""
FEW_ROWS = 32
BLOCKS = 3
"""In memory: one that fills, and two that wait for the disk, see `writer.PENDING`."""


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
        return self.space.size * (self.item + more) + self.beside + 3 * 4096

    @property
    def memory_bytes(self) -> float:
        """Bytes in memory at the most: blocks of weights and, for rounding and sketching, where they have led."""
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
        cost = f"On disk about {size(self.row_bytes)} a row"
        if self.steps is not None:
            cost += f", {size(self.bytes_for(self.steps))} for {self.steps:,} steps"
        if self.budget is not None:
            cost += f"; the budget of {size(self.budget)} lasts for about {self.lasts:,} steps"
        memory = (
            f"In memory at most {size(self.memory_bytes)} ({self.memory_bytes / self._vector:.1f} times the weights)"
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
        return replace(forecast, keeping=keeping)
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
    yield replace(forecast, keeping=Keeping())
    yield replace(forecast, keeping=Keeping(BFLOAT16))
    sketches = [
        Keeping.sketched(width, sum_rows=rows)
        for rows in SUMS
        for width in WIDTHS
        if Keeping.sketched(width).columns(forecast.space).size * SKETCH_PAYS <= forecast.space.size
    ]
    yield from (replace(forecast, keeping=keeping) for keeping in sketches)
    every = 2 * forecast.every
    while every <= COARSEST:
        yield replace(forecast, keeping=sketches[-1] if sketches else Keeping(BFLOAT16), every=every)
        if sketches:
            yield replace(forecast, keeping=Keeping(BFLOAT16), every=every)
        every *= 2


def size(count: float) -> str:
    """Bytes as people say them: 1.5 GB is 1.5e9."""
    for unit, power in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= power:
            return f"{count / power:.3g} {unit}"
    return f"{count:.0f} bytes"
