"""The report's figures for papers and slides: a section's panels side by side, their legend below, as a file."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thalweg.errors import InputError, nearest
from thalweg.runs import write_atomically
from thalweg.show import style, svg
from thalweg.show.messages import Words
from thalweg.show.palette import HUES, colour, tint
from thalweg.show.report import load_analysis
from thalweg.show.sections import sections
from thalweg.show.sections.base import WIDTH, Key, Picture, Section

FORMATS = ("svg", "pdf", "png")
ACROSS = 2
"""Panels in a row."""

HEADING, ENTRY = 24.0, 16.0
"""Height of a panel's heading and of a line of the legend, in points."""

COLUMNS = 58
"""Columns of a line in the legend of one panel's width, at half of them for a wide character."""

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "disc": {"marker": "o"},
    "ring": {"marker": "o", "markerfacecolor": "white"},
    "dot": {"marker": "o", "markersize": 3.5},
    "square": {"marker": "s"},
    "triangle": {"marker": "^"},
    "wedge": {"marker": "v"},
    "diamond": {"marker": "D"},
    "tick": {"marker": "|", "markersize": 10},
    "bar": {"marker": "_", "markersize": 9},
    "line": {"linestyle": "-"},
    "dash": {"linestyle": (0, (4, 3))},
    "dots": {"linestyle": (0, (1, 2))},
    "step": {"marker": "s", "markersize": 9},
    "": {},
}
"""How the marks of a legend are drawn here."""

JAPANESE = ("Noto Sans CJK JP", "Noto Sans JP", "Hiragino Sans", "Yu Gothic", "Meiryo", "IPAexGothic", "TakaoGothic")
"""Fonts with Japanese, the first that is installed is taken."""


def figure(run: str | Path | Mapping[str, Any], name: str, language: str = "en") -> Figure:
    """One figure of an analysed run, with its legend, to be saved or changed: a matplotlib figure.

    Args:
        run: the run folder, or what `analyse` returned.
        name: a section of the report, such as "eigenvalues", "density", "heat_map" or "trial".
        language: "en" or "ja".

    Returns:
        The figure, 360 points wide for each of up to two panels in a row.

    Raises:
        InputError: if the run has no such figure, or there is no such language.
        RunError: if the folder is no run, or has not been analysed.
    """
    analysis = run if isinstance(run, Mapping) else load_analysis(run)
    words = Words(language)
    return _drawn(_chosen(analysis, words, [name])[0], _settings(words))


def save_figures(
    run: str | Path,
    names: Sequence[str] = (),
    folder: str | Path | None = None,
    kind: str = "svg",
    language: str = "en",
) -> list[Path]:
    """Write figures of an analysed run as files of their own.

    Args:
        run: the run folder.
        names: sections of the report; all that have pictures unless given.
        folder: where they go; `figures` in the run folder unless given.
        kind: "svg" (its text stays text), "pdf" or "png" (at 200 dots per inch).
        language: "en" or "ja".

    Returns:
        The files written, `NAME.KIND`.

    Raises:
        InputError: if there is no such figure, format or language, or no font for it.
        RunError: if the folder is no run, or has not been analysed.
    """
    if kind not in FORMATS:
        raise InputError(f"there is no format {kind!r}; choose from {', '.join(FORMATS)}")
    words = Words(language)
    chosen = _chosen(load_analysis(run), words, names)
    if not chosen:
        raise InputError(f"{run} has no figure; run: thalweg analyse {run} --task TASK")
    target = Path(run) / "figures" if folder is None else Path(folder)
    settings = _settings(words, kind)
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    for section in chosen:
        path = target / f"{section.name}.{kind}"
        write_atomically(path, _bytes(_drawn(section, settings), kind, settings))
        paths.append(path)
    return paths


def _chosen(analysis: Mapping[str, Any], words: Words, names: Sequence[str]) -> list[Section]:
    there = {section.name: section for section in sections(analysis, words) if section.pictures}
    for name in names:
        if name not in there:
            raise InputError(f"the run has no figure {name!r}; there are {nearest(name, there)}")
    return [there[name] for name in names or there]


def _settings(words: Words, kind: str = "svg") -> dict[Any, Any]:
    """matplotlib's settings, with a font that has the language."""
    settings = {**svg.SETTINGS, "pdf.fonttype": 42}
    if words.language != "ja":
        return settings
    installed = {font.name for font in font_manager.fontManager.ttflist}
    found = [name for name in JAPANESE if name in installed]
    if not found and kind != "svg":
        raise InputError(f"no font with Japanese was found for {kind!r}; install Noto Sans CJK JP, or take svg")
    return {**settings, "font.family": [*found[:1], "DejaVu Sans"]}


def _drawn(section: Section, settings: Mapping[Any, Any]) -> Figure:
    """The panels in rows, the legend below them."""
    rows = [section.pictures[first : first + ACROSS] for first in range(0, len(section.pictures), ACROSS)]
    across = len(rows[0])
    keys = [(key, _wrapped(key.text)) for key in section.legend]
    columns = [keys[place::across] for place in range(across)]
    below = max(sum(text.count("\n") + 1 for _, text in column) for column in columns) * ENTRY + 8
    heights = [max(picture.height for picture in row) + HEADING for row in rows]
    height = sum(heights) + below
    with matplotlib.rc_context(dict(settings)):
        drawn = svg.figure(across * WIDTH, height)
        drawn.set_facecolor("white")
        FigureCanvasAgg(drawn)
        bottom = height
        for row, tall in zip(rows, heights, strict=True):
            bottom -= tall
            for place, picture in enumerate(row):
                _panel(drawn, picture, place * WIDTH, bottom, tall, across * WIDTH, height)
        for place, column in enumerate(columns):
            _legend(drawn, column, place / across, below / height)
    for part in drawn.findobj():
        if (part.get_gid() or "").startswith((style.TIPS, style.FRAME)):
            part.set_gid(None)  # what the page's script asks for
    return drawn


def _panel(drawn: Figure, picture: Picture, x: float, y: float, tall: float, width: float, height: float) -> None:
    picture.draw(picture.axes(drawn, x, y + tall - HEADING - picture.height))
    drawn.text((x + 12) / width, (y + tall - 6) / height, picture.heading, va="top", fontweight="bold", fontsize=10)


def _legend(drawn: Figure, column: Sequence[tuple[Key, str]], x: float, top: float) -> None:
    if not column:
        return
    marks = [_mark(key) for key, _ in column]
    drawn.legend(
        marks,
        [text for _, text in column],
        loc="upper left",
        bbox_to_anchor=(x, top),
        frameon=False,
        fontsize=9,
        labelcolor=colour("ink"),
        handlelength=1.8,
    )


def _mark(key: Key) -> Line2D:
    hue = tint(*_tint(key.hue)) if key.hue.rpartition("-")[0] in HUES else colour(key.hue)
    given = {"linestyle": "none", "markersize": 6, "linewidth": 1.8, "color": hue, **SHAPES[key.mark]}
    return Line2D([], [], **given)


def _tint(name: str) -> tuple[str, int]:
    hue, _, level = name.rpartition("-")
    return hue, int(level)


def _wrapped(text: str) -> str:
    wide = any(ord(letter) > 0x2E80 for letter in text)
    return "\n".join(textwrap.wrap(str(text), COLUMNS // 2 if wide else COLUMNS)) or " "


def _bytes(drawn: Figure, kind: str, settings: Mapping[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    metadata = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    with matplotlib.rc_context(dict(settings)), warnings.catch_warnings():
        if kind == "svg":
            warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the viewer's fonts draw the text
        drawn.savefig(buffer, format=kind, dpi=200 if kind == "png" else 72, metadata=metadata, facecolor="white")
    return buffer.getvalue()
