"""Documents that stay true: links lead somewhere, decisions have their form, code compiles, the frame fits together."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.test_contributing import fenced
from thalweg.version import __version__

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def broken_links(page: Path) -> list[str]:
    """Relative links and pictures of a page that lead to no file."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    local = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    return [target for target in local if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere_and_code_compiles(page: Path) -> None:
    assert broken_links(page) == []
    for block in fenced(page.read_text(encoding="utf-8")):
        compile(block, str(page), "exec")


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](absent.md#part) [b](page.md) [c](https://example.org) ![d](no.svg)", encoding="utf-8")
    assert broken_links(page) == ["absent.md", "no.svg"]


def test_decisions_are_numbered_and_say_why() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04d}" for number in range(1, len(pages) + 1)]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {page.name[:4]} "), page.name
        assert "**Decided.**" in text, page.name
        assert "**Why" in text, page.name
        assert len(text.splitlines()) < 60, page.name


def test_the_changelog_knows_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text
    assert f"## [{__version__}]" in text


def test_every_target_that_is_promised_exists() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    assert {"demo", "test", "lint", "prove", "bench", "study", "clean"} <= targets


@pytest.mark.skipif(sys.platform == "win32", reason="executable bits are POSIX")
def test_continuous_integration_calls_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make test"]
