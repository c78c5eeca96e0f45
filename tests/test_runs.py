from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import thalweg.runs as runs_module
from tests.conftest import random_vector
from thalweg.directions import Directions
from thalweg.errors import RunError
from thalweg.runs import Run, read_json, read_manifest, write_atomically
from thalweg.space import ParameterSpace


def opened(folder: Path, manifest: dict[str, Any] | None = None) -> Run[str]:
    calls: list[int] = []

    def trajectory(where: Path, what: object) -> str:
        calls.append(1)
        return f"trajectory {len(calls)}"

    return Run(folder, manifest or {}, trajectory)


def test_results_come_back_by_name(tmp_path: Path) -> None:
    run = opened(tmp_path)
    value = {"text": "図", "none": None, "numbers": [1, 0.1, 1e-300]}
    assert run.save("eigen-pairs_1", value) == tmp_path / "results" / "eigen-pairs_1.json"
    assert run.load("eigen-pairs_1") == value
    run.save("eigen-pairs_1", {"new": True})
    assert run.load("eigen-pairs_1") == {"new": True}


def test_directions_come_back_by_name(tmp_path: Path) -> None:
    run = opened(tmp_path)
    directions = Directions(random_vector(2, 0, 5), [2.0, 1.0])
    run.save_directions("pairs", directions)
    assert torch.equal(run.load_directions("pairs").vectors, directions.vectors)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["pairs.safetensors"]


def test_the_space_and_the_trajectory_are_read_when_asked_for(tmp_path: Path) -> None:
    space = ParameterSpace.of(torch.nn.Linear(2, 2))
    run = opened(tmp_path, {"space": space.to_json()})
    assert run.space == space
    assert (run.trajectory, run.trajectory) == ("trajectory 1", "trajectory 1")


def test_an_unknown_result_is_answered_with_what_there_is(tmp_path: Path) -> None:
    run = opened(tmp_path)
    with pytest.raises(RunError, match=r"no result 'overlap' \(there are: none\); run: thalweg analyse"):
        run.load("overlap")
    run.save("overlaps", {})
    with pytest.raises(RunError, match=r"no result 'overlap' \(there are: 'overlaps'\)"):
        run.load("overlap")


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "Upper", "x" * 65, "a.json"])
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    run = opened(tmp_path)
    with pytest.raises(RunError, match=r"is no name for a result; use small letters"):
        run.save(name, {})
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_finite_becomes_none(tmp_path: Path) -> None:
    run = opened(tmp_path)
    path = run.save("some", {"value": float("nan"), "list": [1.0, float("-inf")]})
    assert "NaN" not in path.read_text()
    assert run.load("some") == {"value": None, "list": [1.0, None]}


@pytest.mark.parametrize("content", ["", "{", "[1]", "\ud800".encode("utf-8", "surrogatepass")])
def test_damaged_json_is_named(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunError, match=r"bad.json .*no file of thalweg"):
        read_json(path)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run: it has no manifest.json; record one with thalweg.watch"):
        read_manifest(tmp_path)
    with pytest.raises(RunError, match=r"absent is not a run: it does not exist"):
        read_manifest(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("no run")
    with pytest.raises(RunError, match=r"notes.txt is a file, not a run; give the folder that thalweg.watch wrote"):
        read_manifest(tmp_path / "notes.txt")
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(RunError, match=r"has format 99, this version reads 1; update thalweg"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "more": 2}))
    assert read_manifest(tmp_path)["more"] == 2


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_files_are_readable_by_others_as_usual(tmp_path: Path) -> None:
    write_atomically(tmp_path / "deep" / "file.json", b"x")
    assert (tmp_path / "deep" / "file.json").stat().st_mode & 0o777 == 0o644
