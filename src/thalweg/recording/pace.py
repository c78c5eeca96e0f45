"""How many steps a row sums, and what a recording may cost: the share of waiting, and the bytes on disk."""

from __future__ import annotations

import time

from thalweg.errors import RunError
from thalweg.recording.block import Block
from thalweg.recording.forecast import ROOM, Forecast
from thalweg.recording.keeping import SKETCH
from thalweg.recording.optimizers import Standing

WAIT_SHARE = 0.1
"""The training waits for the disk for at most this share of the time since its first step."""
WAIT_GRACE = 0.5
"""Seconds of waiting that are allowed however short that time is."""


class BudgetError(RunError):
    """The budget is used up."""


class Pace:
    """Steps to a row: as many as asked for, and twice as many each time that the disk cannot follow.

    Args:
        every: as asked for.

    Attributes:
        every: as it is now.
        since: steps since the last row.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.since = 0
        self._asked = every
        self._began = time.monotonic()
        self._doubled_for = -1

    @property
    def coarser(self) -> bool:
        """Whether rows sum more steps than asked for."""
        return self.every > self._asked

    def begin(self) -> None:
        """The training's time begins."""
        self._began = time.monotonic()

    def may_wait(self, waited: float) -> float:
        """Seconds that the training may still wait now, after having waited so long."""
        return max(WAIT_GRACE, WAIT_SHARE * (time.monotonic() - self._began)) - waited

    def slow_down(self, row: int) -> bool:
        """Twice the steps to a row, once for each segment (`row` is its first); whether that is for the first time."""
        if self._doubled_for == row:
            return False
        self._doubled_for = row
        self.every *= 2
        return self.every == 2 * self._asked


class Budget:
    """The bytes on disk that a run may take.

    Args:
        limit: in bytes; None: as many as there are.
        spent: by segments that are there already.
        cost: of rows, and of what stands beside them.
    """

    def __init__(self, limit: int | None, spent: int, cost: Forecast) -> None:
        self._limit = limit
        self._cost = cost
        self._vector = cost.space.size * cost.item
        self._row = cost.keeping.row_bytes(cost.space, cost.item)
        self._planned: float = spent  # bytes of all segments, as far as known
        if cost.keeping.form == SKETCH:  # an anchor before the first row, and a sum after the last
            self._planned += self._vector + 2 * cost.space.size

    def plan(self, block: Block, written: int) -> None:
        """Count one more row of a block; if it does not fit, do without the optimizers' state, or stop.

        Raises:
            BudgetError: where the budget ends.
        """
        if self._limit is None:
            return
        row = self._row + 8 * (3 + 2 * block.columns + len(block.scalars))
        spent = max(self._planned, written + (block.count + 1) * self._row)
        head = 0.0 if block.count else self._head(block)
        if spent + row + head > self._limit - ROOM and block.count == 0 and block.standing.state:
            block.standing = Standing(block.standing.buffers, block.standing.groups)
            head = self._head(block)
        if spent + row + head > self._limit - ROOM:
            raise BudgetError(
                f"the budget of {self._limit:,} bytes is used up; next time give a larger budget= or every=, or steps= "
                "with the budget, and what fits is chosen"
            )
        self._planned += row + head

    def _head(self, block: Block) -> float:
        """What a block adds beside its rows."""
        head = block.head_bytes + ROOM
        if self._cost.keeping.form == SKETCH:
            return head + self._cost.keeping.shared_bytes(self._cost.space, self._cost.item, block.capacity)
        return head + (self._vector if block.anchored else 0)
