"""The recipes of CONTRIBUTING.md work as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.test_house import breaches, unlisted_errors, unsafe_reads

ROOT = Path(__file__).parent.parent


def fenced(text: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def recipe(title: str) -> list[str]:
    """The code blocks below a heading of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    (section,) = [part for part in sections if part.startswith(title)]
    return fenced(section)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_add_an_operator(tmp_path: Path) -> None:
    module, contract, use = recipe("Add an operator")
    assert breaches({"operators/shifted.py": module}) == []
    assert unlisted_errors(module, "operators/shifted.py") == []
    assert unsafe_reads(module) == []

    (tmp_path / "added").mkdir()
    (tmp_path / "added" / "shifted.py").write_text(module, encoding="utf-8")
    # what `src/thalweg/operators/shifted.py` would be, without writing there
    found_in_place = f"import thalweg.operators\nthalweg.operators.__path__.append({str(tmp_path / 'added')!r})\n"
    (tmp_path / "test_shifted.py").write_text(found_in_place + contract, encoding="utf-8")
    (tmp_path / "use.py").write_text(found_in_place + use, encoding="utf-8")

    tested = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_shifted.py")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    passed = re.search(r"(\d+) passed", tested.stdout)
    assert passed is not None
    assert int(passed[1]) >= 10
    used = run(tmp_path, "use.py")
    assert used.returncode == 0, used.stdout + used.stderr


def test_add_a_trial_arm(tmp_path: Path) -> None:
    maker, use = recipe("Add a trial arm")
    (tmp_path / "quiet.py").write_text(maker + use, encoding="utf-8")
    done = run(tmp_path, "quiet.py")
    assert done.returncode == 0, done.stderr


def test_the_order_of_the_house_is_told_as_it_is() -> None:
    from tests.test_house import ORDER

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = re.findall(r"^```\n(version.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert [tuple(block.split()) for block in told] == [ORDER]
