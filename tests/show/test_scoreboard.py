"""The scoreboard's page says what the board holds."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tests.test_study import TASKS, cell
from thalweg.show.scoreboard import write_page
from thalweg.study import scoreboard


def test_the_page_and_its_picture(tmp_path: Path) -> None:
    board = scoreboard([cell(task, optimizer, 0) for task in TASKS for optimizer in ("sgd", "adamw")])
    page, picture = write_page(board, tmp_path, "study", "thalweg claims --out out")
    text = page.read_text()
    for row in board["claims"]:
        line = next(line for line in text.splitlines() if line.startswith(f"| **{row['claim']}**"))
        assert f"**{row['verdict']}**" in line
        if row["interval"] is not None:
            assert "{:.3g} to {:.3g}".format(*row["interval"]) in line
    assert "`thalweg claims --out out`" in text
    assert "(study.svg)" in text
    assert "| digits sgd |" in text
    drawn = "".join(ElementTree.parse(picture).getroot().itertext())
    assert all(f"{row['claim']}: {row['verdict']}" in drawn for row in board["claims"])


def test_an_empty_board_is_still_a_page(tmp_path: Path) -> None:
    page, _ = write_page(scoreboard([]), tmp_path, "study", "x")
    assert page.read_text().count("**no evidence**") == 13
