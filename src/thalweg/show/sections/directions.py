"""Every direction in one table: what one step along it is predicted to gain, how curved it is, what it is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thalweg.show.messages import Words
from thalweg.show.numbers import DASH, clean, count, number, percent
from thalweg.show.sections.base import Grid, Section, grid, reading

COLUMNS = (
    "direction",
    "words",
    "layers",
    "gain",
    "gain_held_out",
    "curvature",
    "curvature_held_out",
    "slope",
    "noise",
    "alignment",
    "update_share",
)
WORDS = ("stiff", "drifting", "sloppy")


def directions(analysis: Mapping[str, Any], words: Words) -> Section:
    """The table of directions, with the words counted in the lead."""
    rows = analysis["directions"]
    counted = ", ".join(
        words.plain("directions.counted", word=words.known("word", word), number=count(_many(rows, word)))
        for word in WORDS
    )
    best = rows[0]
    lead = [
        words("directions.lead", number=count(len(rows)), counted=counted),
        words(
            "directions.best",
            direction=_label(best, words),
            gain=number(best["gain"]),
            loss=number((analysis.get("loss") or {}).get("train")),
        ),
        words("directions.untested"),
    ]
    if best.get("gain_held_out") is not None:
        lead.insert(2, words("directions.held_out", gain=number(best["gain_held_out"])))
    return Section(
        "directions",
        words("directions.title"),
        lead=tuple(lead),
        reading=reading(words, "directions"),
        grids=(_table(rows, words),),
    )


def _many(rows: list[Mapping[str, Any]], word: str) -> int:
    return sum(word in row["words"].split(", ") for row in rows)


def _label(row: Mapping[str, Any], words: Words) -> str:
    label = words.known("label", clean(row["label"]))
    return label if row["label"] in ("drift", "gradient") else f"{label} {row['index'] + 1}"


def _table(rows: list[Mapping[str, Any]], words: Words) -> Grid:
    cells = [
        (
            _label(row, words),
            ", ".join(words.known("word", word) for word in row["words"].split(", ") if word) or DASH,
            clean(row["layers"]),
            number(row["gain"]) + (words.plain("directions.bounded") if row["bounded"] else ""),
            number(row["gain_held_out"]),
            number(row["curvature"]),
            number(row["curvature_held_out"]),
            number(row["slope"]),
            number(row["noise"], 2),
            percent(row["alignment"]),
            percent(row["update_share"]),
        )
        for row in rows
    ]
    return grid(words, "directions.table", list(COLUMNS), cells, leading=3)
