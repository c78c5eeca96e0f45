"""What a section is made of, and how a picture of one is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thalweg.show import numbers, plots, svg
from thalweg.show.messages import Words
from thalweg.tables import Table

WIDTH = 360.0
"""Width of every picture in SVG units, about one CSS pixel each on a phone."""
BOTTOM, TOP = 42, 8
"""Margins below and above the axes of every picture."""
SENTENCE_NAME = 48


@dataclass(frozen=True)
class Picture:
    """One panel, drawn when it is asked for.

    Attributes:
        name: unique on the page; begins the ids of its SVG.
        heading: stands above it.
        alternative: what it says, for those who do not see it.
        draw: draws it on given axes.
        height: in SVG units; its width is `WIDTH`.
        left: margin for the labels, in SVG units.
        right: likewise.
    """

    name: str
    heading: str
    alternative: str
    draw: Callable[[Axes], None]
    height: float = 260
    left: float = 54
    right: float = 12

    @property
    def svg(self) -> Markup:
        """The inline SVG."""
        with matplotlib.rc_context(svg.SETTINGS):
            drawn = svg.figure(WIDTH, self.height)
            self.draw(self.axes(drawn))
            return svg.inline(drawn, self.name, numbers.clean(self.alternative))

    def axes(self, drawn: Figure, x: float = 0.0, y: float = 0.0) -> Axes:
        """Its axes on a figure, the panel's lower left corner there; all in SVG units, the same for every language."""
        width, height = (72 * inches for inches in drawn.get_size_inches())
        across, up = WIDTH - self.left - self.right, self.height - BOTTOM - TOP
        return drawn.add_axes(((x + self.left) / width, (y + BOTTOM) / height, across / width, up / height))


@dataclass(frozen=True)
class Key:
    """One entry of a legend.

    Attributes:
        mark: its shape in `marks.html.j2`: "disc", "ring", "square", "triangle", "wedge", "diamond", "tick", "bar",
            "line", "dash" or "dots"; a "step" is part of a scale, and nothing makes it a heading.
        hue: its class in the palette.
        text: what it stands for.
    """

    mark: str
    hue: str
    text: str


@dataclass(frozen=True)
class Grid:
    """A table on the page.

    Attributes:
        caption: stands above it.
        table: its cells, already worded.
        leading: how many columns at the left hold words; the others hold numbers.
        folded: whether it opens only when asked.
    """

    caption: str
    table: Table
    leading: int = 1
    folded: bool = True


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        name: its anchor.
        title: its heading.
        lead: its sentences.
        pictures: panels side by side.
        legend: what the marks in them stand for.
        reading: terms and texts: what it shows, chance, method, limits.
        grids: its tables.
        items: a list of statements.
        code: a command to copy.
    """

    name: str
    title: str
    lead: tuple[Markup, ...] = ()
    pictures: tuple[Picture, ...] = ()
    legend: tuple[Key, ...] = ()
    reading: tuple[tuple[str, Markup], ...] = ()
    grids: tuple[Grid, ...] = ()
    items: tuple[Markup, ...] = ()
    code: str = ""


def reading(words: Words, section: str, **values: object) -> tuple[tuple[str, Markup], ...]:
    """The four things that are said of every figure."""
    return tuple((words(f"reading.{part}"), words(f"{section}.{part}", **values)) for part in READING)


READING = ("what", "null", "how", "not")


def name(value: str, width: int = SENTENCE_NAME) -> Markup:
    """A name from the user's model inside a sentence: isolated, so that its direction cannot turn the text."""
    return Markup('<bdi class="name">{}</bdi>').format(escape(numbers.clip(value, width)))


def final(analysis: Mapping[str, Any]) -> Mapping[str, Any]:
    """The last stage, or an empty one."""
    stages = analysis.get("stages") or [{}]
    last: Mapping[str, Any] = stages[-1]
    return last


def own_rows(stage: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The lines of a stage's agreement whose components come from its own window."""
    rows = list(stage.get("agreement") or ())
    return [row for row in rows if plots.is_own(row, rows)]


def span(window: Any) -> dict[str, str]:
    """First and last step of a half-open window."""
    if not window:
        return {"first": numbers.DASH, "last": numbers.DASH}
    return {"first": numbers.count(window[0]), "last": numbers.count(window[1] - 1)}


def grid(words: Words, key: str, columns: list[str], rows: Sequence[tuple[str, ...]], **options: Any) -> Grid:
    """A table whose column names and caption come from the catalogue."""
    section = key.split(".")[0]
    heads = tuple(words.plain(f"{section}.column.{column}") for column in columns)
    return Grid(words.plain(key), Table(heads, tuple(rows)), **options)
