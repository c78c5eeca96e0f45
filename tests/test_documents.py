"""Documents that stay true: links lead somewhere, decisions have their form, code compiles, the frame fits together."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import thalweg
from tests.test_contributing import fenced
from thalweg.cli import app
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
    pages = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
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
    assert {"demo", "test", "lint", "docs", "prove", "bench", "study", "clean"} <= targets


@pytest.mark.skipif(sys.platform == "win32", reason="executable bits are POSIX")
def test_continuous_integration_calls_make_test_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make test"]


# -- the site ----------------------------------------------------------------------------------------------


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        str(ROOT / "docs"),
        str(tmp_path),
    ]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index", "reference/spectra", "course/5-trial", "concepts/not-tune-me", "compare"):
        assert (tmp_path / f"{page}.html").stat().st_size > 5_000
    asked = [
        (page.name, address)
        for page in tmp_path.rglob("*.html")
        for address in re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]+)"', page.read_text(encoding="utf-8")
        )
    ]
    assert asked == []  # no page asks for anything from elsewhere
    spectra = (tmp_path / "reference" / "spectra.html").read_text(encoding="utf-8")
    assert "thalweg.eigenpairs" in spectra
    assert "Raises" in spectra


def test_every_public_name_stands_in_the_reference_once() -> None:
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md")]
    shown = [
        name for page in pages for name in re.findall(r"^\.\. auto(?:class|function):: thalweg\.(\w+)", page, re.M)
    ]
    assert sorted(shown) == sorted(name for name in thalweg.__all__ if not name.startswith("__"))


def commands() -> list[tuple[str, list[str]]]:
    """Every line of a shell block that calls thalweg, by page."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["thalweg"] and len(words) > 1:
                    found.append((page.relative_to(ROOT).as_posix(), words[1:]))
    return found


def wrong(words: list[str]) -> list[str]:
    """Commands and options that there are not."""
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if words[0].startswith("-"):
        return []
    if words[0] not in known:
        return [words[0]]
    options = {name for parameter in known[words[0]].params for name in parameter.opts}
    return [word for word in words[1:] if word.startswith("--") and word not in {*options, "--debug"}]


def test_the_commands_in_the_pages_are_those_that_there_are() -> None:
    found = commands()
    assert len(found) > 15
    assert {words[0] for _, words in found} >= {"init", "doctor", "analyse", "report", "trial", "demo", "inspect"}
    assert [(page, wrong(words)) for page, words in found if wrong(words)] == []


def test_a_wrong_command_is_found() -> None:
    assert wrong(["analyze", "RUN"]) == ["analyze"]
    assert wrong(["analyse", "RUN", "--tasks", "a.py:task"]) == ["--tasks"]
