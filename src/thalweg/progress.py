"""What a long computation tells while it runs.

Numerics only call `tell(Progress(...))`; how it is shown is decided here: a line on standard error, in a terminal or
a notebook, with the residual and the time left. Nothing is shown unless asked for.
"""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """Where a solver stands.

    Attributes:
        stage: "lanczos", "certify", "complement", "trace" or "density".
        matvecs: products so far.
        residual: the largest wanted residual relative to the largest wanted value; 0 where there is none to tell.
        tolerance: what it has to fall to.
        planned: how many products there will be at most; None where that is not known.
    """

    stage: str
    matvecs: int
    residual: float = 0.0
    tolerance: float = 0.0
    planned: int | None = None


OFTEN = 0.2
"""Seconds between two changes of what stands below a notebook's cell."""

Tell = Callable[[Progress], None]

_STAGES = {
    "lanczos": "searching",
    "certify": "checking",
    "complement": "looking for missed pairs",
    "trace": "multiplying",
    "density": "multiplying",
}


@contextmanager
def shown(progress: Tell | bool, label: str) -> Iterator[Tell | None]:
    """The function to call after each product: the user's own, a line on standard error for True, None for False."""
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield None
    else:
        with progress_line(label) as tell:
            yield tell


@contextmanager
def progress_line(label: str) -> Iterator[Tell]:
    """A line on standard error that says products, residual and time left, and goes away at the end."""
    with _line(label) as update:
        clock = Countdown()

        def tell(event: Progress) -> None:
            done = event.matvecs / event.planned if event.planned else None
            update(f"{label}: {describe(event, clock.left(event))}", done)

        yield tell


@contextmanager
def _line(label: str) -> Iterator[Callable[[str, float | None], None]]:
    """A line that is written anew again and again and goes away at the end; called with its text and the share done."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_jupyter:  # rich would need ipywidgets there
        with _cell_line(label) as update:
            yield update
        return
    from rich.status import Status

    with Status(label, console=console) as status:
        yield lambda text, done: status.update(text)


@contextmanager
def _cell_line(label: str) -> Iterator[Callable[[str, float | None], None]]:
    """The same below a notebook's cell, with a bar."""
    import IPython.display

    show: Callable[..., Any] = IPython.display.display
    handle = show(_shown_in_cell(label, None), raw=True, display_id=True)
    last = [time.monotonic()]

    def update(text: str, done: float | None) -> None:
        if time.monotonic() - last[0] >= OFTEN:
            last[0] = time.monotonic()
            handle.update(_shown_in_cell(text, done), raw=True)

    try:
        yield update
    finally:
        handle.update({"text/plain": "", "text/html": ""}, raw=True)


def _shown_in_cell(text: str, done: float | None) -> dict[str, str]:
    bar = "" if done is None else f'<progress max="1" value="{min(done, 1.0):.3f}"></progress> '
    return {"text/plain": text, "text/html": f"<div>{bar}{html.escape(text)}</div>"}


class Countdown:
    """Estimates the time left: from the products, where it is known how many there will be.

    Otherwise from how fast the residual has been falling, a straight line in its logarithm.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._first: tuple[float, float] | None = None
        self._stage = ""

    def left(self, event: Progress) -> float | None:
        """Seconds until all products are made or the residual reaches its tolerance; None while that is not known."""
        if event.stage != self._stage:
            self._stage, self._first = event.stage, None
        if event.planned is not None:
            here, to_go = (self._now(), float(-event.matvecs)), float(event.planned - event.matvecs)
        elif 0 < event.residual < math.inf:
            here = self._now(), math.log(event.residual)
            to_go = here[1] - math.log(event.tolerance)
        else:
            return None
        if self._first is None:
            self._first = here
            return None
        elapsed, fallen = here[0] - self._first[0], self._first[1] - here[1]
        if fallen <= 0 or elapsed <= 0:
            return None
        return max(0.0, to_go * elapsed / fallen)


def describe(event: Progress, left: float | None) -> str:
    """One line about where a solver stands."""
    products = f"{event.matvecs} products" if event.planned is None else f"{event.matvecs} of {event.planned} products"
    parts = [_STAGES[event.stage], products]
    if event.residual > 0:
        parts.append(f"residual {event.residual:.1e} → {event.tolerance:.0e}")
    if left is not None:
        parts.append(f"about {left:.0f} s left")
    return ", ".join(parts)


@contextmanager
def counting(label: str, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A line on standard error that says how many units of a part are done and how long the rest will take.

    Args:
        label: what is counted.
        shown: whether there is such a line at all.
    """
    if not shown:
        yield lambda done, planned: None
        return
    with _line(label) as update:
        begun = [time.monotonic()]

        def tell(done: int, planned: int) -> None:
            if not done:
                begun[0] = time.monotonic()
            text = f"{label}: {share_done(done, planned, time.monotonic() - begun[0])}"
            update(text, done / planned if planned else None)

        yield tell


def share_done(done: int, planned: int, seconds: float) -> str:
    """How many are done, and about how long the rest takes at the same pace."""
    left = f", about {seconds / done * (planned - done):.0f} s left" if done else ""
    return f"{done} of {planned}{left}"
