"""Two analysed runs side by side, as one HTML page for each language."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from thalweg.decision import decision
from thalweg.errors import InputError
from thalweg.runs import write_atomically
from thalweg.show.messages import Words
from thalweg.show.numbers import clean, count, number, p_value, percent
from thalweg.show.report import environment, load_analysis, policy, run_title, script, style_sheet
from thalweg.show.sections.base import Grid, final, grid, name
from thalweg.show.sections.decision import sentence

Figure = Callable[[Mapping[str, Any], Words], object]

EMPTY: Mapping[str, Any] = {}


def compare(
    runs: Sequence[str | Path], folder: str | Path = ".", languages: Sequence[str] = ("en", "ja")
) -> list[Path]:
    """Write a page that holds two or more analysed runs beside each other.

    Args:
        runs: their folders.
        folder: where the pages go.
        languages: "en", "ja".

    Returns:
        The files written, `comparison.en.html` and so on.

    Raises:
        InputError: for fewer than two runs, or a language that there is not.
        RunError: if a folder is no run, or has not been analysed.
    """
    if len(runs) < 2:
        raise InputError(f"{len(runs)} run cannot be compared; give two run folders")
    languages = tuple(dict.fromkeys(languages))
    catalogues = [Words(language) for language in languages]
    analyses = [load_analysis(run) for run in runs]
    pages = [render(analyses, words, languages) for words in catalogues]
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [Path(folder) / file_name(language) for language in languages]
    for path, page in zip(paths, pages, strict=True):
        write_atomically(path, page.encode())
    return paths


def file_name(language: str) -> str:
    """The page's file."""
    return f"comparison.{language}.html"


def render(analyses: Sequence[Mapping[str, Any]], words: Words, others: Sequence[str] = ()) -> str:
    """The page.

    Args:
        analyses: what `analyse` stored, with the trial where there is one.
        words: of one language.
        others: languages that stand beside it as files of their own.
    """
    style, code = style_sheet(), script()
    titles = [f"{chr(ord('A') + place)}: {run_title(one)}" for place, one in enumerate(analyses)]
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            language=words.language,
            words=words,
            style=Markup(style),
            script=Markup(code),
            policy=policy(style, code),
            title=words.plain("compare.title"),
            runs=[(title, sentence(one, decision(one), words)) for title, one in zip(titles, analyses, strict=True)],
            grids=(_figures(analyses, titles, words), _layers(analyses, titles, words)),
            links=[(other, file_name(other)) for other in others if other != words.language],
        )
    )


def _part(analysis: Mapping[str, Any], *keys: str) -> Any:
    """What stands under these keys, or None."""
    found: Any = analysis
    for key in keys:
        found = (found or EMPTY).get(key)
    return found


def _first(values: Sequence[float] | None) -> float | None:
    return values[0] if values else None


FIGURES: tuple[tuple[str, Figure], ...] = (
    ("parameters", lambda a, w: count(_part(a, "run", "parameters"))),
    ("steps", lambda a, w: count(_part(a, "run", "rows"))),
    ("optimizer", lambda a, w: name(str(_part(a, "run", "optimizer", "class") or "–"))),
    ("samples", lambda a, w: count(_part(a, "problem", "samples"))),
    ("loss", lambda a, w: number(_part(a, "loss", "train"))),
    ("loss_held_out", lambda a, w: number(_part(a, "loss", "held_out"))),
    ("largest", lambda a, w: number(_first(_part(final(a), "spectrum", "values")))),
    ("half", lambda a, w: number(_first(_part(a, "sampling", "half_values")))),
    ("other_half", lambda a, w: number(_first(_part(a, "sampling", "other_half")))),
    ("largest_held_out", lambda a, w: number(_first(_part(a, "held_out", "values")))),
    ("filter", lambda a, w: number(_part(a, "sharpness", "filter", "value"))),
    ("k", lambda a, w: count(_part(a, "settings", "k"))),
    ("components", lambda a, w: count(_part(a, "verdict", "components"))),
    ("captured", lambda a, w: percent(_part(a, "verdict", "captured"))),
    ("matched", lambda a, w: percent(_part(a, "verdict", "layer_matched"))),
    ("overlap", lambda a, w: percent(_part(a, "sampling", "subspace_overlap"))),
    ("drift_p", lambda a, w: p_value(_part(a, "drift", "p_value")).removeprefix("=").strip()),
    ("drift_share", lambda a, w: percent(_part(a, "drift", "share"))),
    ("stiffest", lambda a, w: name(str(_part(a, "verdict", "stiffest_layer") or "–"))),
    ("seconds", lambda a, w: w.duration(_part(a, "cost", "seconds", "total"))),
    ("products", lambda a, w: count(_part(a, "cost", "products"))),
)
"""What is set side by side, by the key of its name."""


def _figures(analyses: Sequence[Mapping[str, Any]], titles: Sequence[str], words: Words) -> Grid:
    rows = [(words.plain(f"compare.{key}"), *(str(figure(one, words)) for one in analyses)) for key, figure in FIGURES]
    plain = [tuple(Markup(cell).striptags() for cell in row) for row in rows]
    return _grid(words, "compare.figures", [words.plain("compare.figure"), *titles], plain)


def _layers(analyses: Sequence[Mapping[str, Any]], titles: Sequence[str], words: Words) -> Grid:
    """Largest curvature of each layer and its rank to be compressed, for layers of the same name."""
    found = [{clean(str(row["layer"])): row for row in one.get("layers") or ()} for one in analyses]
    names = list(dict.fromkeys(itertools.chain.from_iterable(found)))
    rows = [(layer, *(cell for rows in found for cell in _layer(rows.get(layer)))) for layer in names]
    heads = [words.plain("compare.layer")]
    for title in titles:
        heads += [f"λ₁, {title}", words.plain("compare.compression", run=title)]
    return _grid(words, "compare.layers", heads, rows)


def _layer(row: Mapping[str, Any] | None) -> tuple[str, str]:
    if row is None:
        return "–", "–"
    return number(_first(row.get("values"))), count(row.get("compression"))


def _grid(words: Words, key: str, heads: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Grid:
    made = grid(words, key, [], [], folded=False)
    return Grid(made.caption, type(made.table)(tuple(heads), tuple(rows)), leading=1, folded=False)
