"""Runs side by side: every figure is that of its run, in both languages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.show.sample import analysis, trial
from tests.show.test_report import HOSTILE, Reader
from thalweg.errors import InputError, RunError
from thalweg.show.comparison import FIGURES, compare, render
from thalweg.show.messages import Words
from thalweg.show.numbers import number, percent


def other() -> dict[str, Any]:
    """A second run: half as curved, no held-out data, one layer less."""
    data = analysis()
    last = data["stages"][-1]
    last["spectrum"]["values"] = [value / 2 for value in last["spectrum"]["values"]]
    data["verdict"]["captured"] = 0.1234
    data["held_out"] = None
    data["run"]["folder"] = "runs/other"
    data["layers"] = data["layers"][1:]
    return data


def cells(row: str) -> list[str]:
    return [Reader(cell).text for cell in re.findall(r"<td.*?</td>", row, re.S)]


@pytest.mark.parametrize("language", ["en", "ja"])
def test_each_figure_stands_in_the_column_of_its_run(language: str) -> None:
    words, first, second = Words(language), analysis(), other()
    page = render([first, second], words, ("en", "ja"))
    figures, layers = re.findall(r"<table.*?</table>", page, re.S)
    rows = [cells(row) for row in re.findall(r"<tr>.*?</tr>", figures, re.S)[1:]]
    assert len(rows) == len(FIGURES)
    found = {row[0]: row[1:] for row in rows}
    value = first["stages"][-1]["spectrum"]["values"][0]
    assert found[words.plain("compare.largest")] == [number(value), number(value / 2)]
    captured = [percent(first["verdict"]["captured"]), percent(0.1234)]
    assert found[words.plain("compare.captured")] == captured
    assert found[words.plain("compare.largest_held_out")][1] == "–"
    assert "A: digits" in page
    assert "B: other" in page
    lost = first["layers"][0]["layer"]
    (row,) = [row for row in re.findall(r"<tr>.*?</tr>", layers, re.S) if cells(row)[:1] == [lost]]
    assert cells(row)[3:] == ["–", "–"]


def test_both_languages_hold_the_same_numbers() -> None:
    both = [{**analysis(), "trial": trial()}, other()]
    found = [
        sorted(re.findall(r"\d[\d.,]*\d|\d", Reader(render(both, Words(language))).text)) for language in ("en", "ja")
    ]
    assert found[0] == found[1]


def test_hostile_names_and_missing_parts_do_no_harm() -> None:
    data = other()
    data["layers"] = [{**data["layers"][0], "layer": name} for name in HOSTILE]
    data["run"]["optimizer"] = {"class": HOSTILE[0]}
    page = render([data, {"format": 1}, {**analysis(), "sampling": None}], Words("en"))
    assert page.count("<script") == 1
    assert "<img" not in page
    assert "\u202e" not in page
    Reader(page)


def test_pages_are_written_and_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    folders = []
    for name, data in (("a", analysis()), ("b", other())):
        folder = tmp_path / name
        (folder / "results").mkdir(parents=True)
        (folder / "manifest.json").write_text('{"format": 1}')
        (folder / "results" / "analysis.json").write_text(json.dumps(data))
        folders.append(folder)
    paths = compare(folders, tmp_path / "out")
    assert [path.name for path in paths] == ["comparison.en.html", "comparison.ja.html"]
    assert 'href="comparison.ja.html"' in paths[0].read_text(encoding="utf-8")
    with pytest.raises(InputError, match="two run folders"):
        compare(folders[:1])
    with pytest.raises(RunError, match="nowhere"):
        compare([folders[0], tmp_path / "nowhere"])
    with pytest.raises(InputError, match="'fr'"):
        compare(folders, tmp_path / "out", ["fr"])
