"""The course's lessons, run as they are printed; what their text says of the figures is held against them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_contributing import fenced

pytestmark = pytest.mark.xdist_group("course")  # its module's fixtures are made once

COURSE = Path(__file__).parents[1] / "docs" / "course"
LESSONS = sorted(COURSE.glob("[1-9]-*.md"))


@pytest.fixture(scope="module")
def classroom(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which lesson 1 has been done; the others stand on it."""
    folder = tmp_path_factory.mktemp("course")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(LESSONS[0])
        yield folder


def run(lesson: Path) -> dict[str, Any]:
    """What a lesson's code leaves behind."""
    names: dict[str, Any] = {}
    for block in fenced(lesson.read_text(encoding="utf-8")):
        exec(compile(block, lesson.name, "exec"), names)
    return names


def test_there_are_five_lessons_with_exercises_in_the_table_of_contents() -> None:
    assert len(LESSONS) == 5
    index = (COURSE / "index.md").read_text(encoding="utf-8")
    for number, lesson in enumerate(LESSONS, 1):
        text = lesson.read_text(encoding="utf-8")
        assert text.startswith(f"# Lesson {number}: ")
        assert "*You will*" in text
        assert re.search(r"## Exercises\n\n1\. .*\n(?:.*\n)*3\. ", text)
        assert lesson.stem in index


def test_lesson_1_finds_the_curvature_that_it_says(classroom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(classroom)
    found = run(LESSONS[0])
    assert found["pairs"].values.tolist() == pytest.approx([0.884, 0.620, 0.541, 0.398, 0.313], rel=0.03)
    assert bool((found["pairs"].residuals <= 1e-3 * found["pairs"].values[0]).all())
    assert float(found["first"].values[0]) == pytest.approx(0.882, rel=0.05)
    assert found["problem"].loss() == pytest.approx(0.030, rel=0.05)
    assert found["held_out"].loss() == pytest.approx(0.084, rel=0.05)


def test_lesson_2_is_no_more_than_a_random_walk_would_show(classroom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(classroom)
    found = run(LESSONS[1])
    assert len(found["t"]) == 460
    assert float(found["updates"].explained.sum()) == pytest.approx(0.90, abs=0.02)
    assert float(found["weights"].explained[:2].sum()) == pytest.approx(0.88, abs=0.02)
    assert float(found["energy"][:2].sum() / found["energy"].sum()) == pytest.approx(0.77, abs=0.02)


def test_lesson_3_orders_the_sources_as_it_says(classroom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import thalweg as tw

    monkeypatch.chdir(classroom)
    found = run(LESSONS[2])
    shares = [
        tw.overlap(found["pairs"], make(found["t"], k=10, window=found["late"])).mean
        for make in (tw.update_pca, tw.weight_pca, tw.gradient_pca)
    ]
    assert shares == pytest.approx([0.72, 0.49, 0.76], abs=0.03)
    assert found["found"].expected == pytest.approx(0.0041, abs=1e-4)
    assert found["matched"].p_value < 0.001


def test_lesson_4_tells_stiff_from_productive(classroom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(classroom)
    found = run(LESSONS[3])
    assert found["found"].p_value < 0.01
    assert found["found"].half_life is None
    rows = list(found["table"])
    assert rows[0]["label"] == "drift"
    (first,) = [row for row in rows if row["label"] == "Hessian eigenvectors" and row["index"] == 0]
    assert first["gain"] < rows[0]["gain"] / 30
    assert first["gain_held_out"] < 0


def test_lesson_5_ends_with_a_verdict_and_a_report(classroom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(classroom)
    found = run(LESSONS[4])
    assert set(found["found"].verdict) == set(found["arms"])
    assert set(found["found"].verdict.values()) <= {"invest", "guard", "harmful", "no evidence"}
    assert found["plan"].data["hash"] == found["found"].data["hash"]
    page = found["pages"][0].read_text(encoding="utf-8")
    assert 'id="decision"' in page
    assert "To say in a meeting" in page
