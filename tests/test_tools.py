"""`thalweg inspect`, `export` and `import` as a person meets them, in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.recording.conftest import net, train
from tests.test_cli import TASK, thalweg
from thalweg.recording import open_run, watch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, the same with a damaged segment, and checkpoints of a task's model."""
    here = tmp_path_factory.mktemp("tools")
    for name in ("run", "damaged"):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watch(model, optimizer, here / name, segment_rows=7) as recorder:
            train(model, optimizer, 20, lambda step, loss, to=recorder: to.log(loss=loss))
    segment = sorted((here / "damaged" / "segments").iterdir())[1]
    segment.write_bytes(segment.read_bytes()[:-9])
    (here / "my_task.py").write_text(TASK)
    (here / "checkpoints").mkdir()
    for step in (0, 50, 100, 150):
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        save_file(model.state_dict() | {"extra": torch.ones(2)}, str(here / "checkpoints" / f"step-{step}.safetensors"))
    (here / "empty").mkdir()
    return here


def test_inspect_a_whole_run_and_a_damaged_one(folder: Path) -> None:
    done = thalweg("inspect", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "20 rows of 1 steps, steps 0 to 19, 3 segments" in done.stdout
    assert "66 parameters in 2 layers" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("whole: ")
    done = thalweg("inspect", "damaged", cwd=folder)
    assert done.returncode == 1
    assert "is damaged and left out" in done.stdout
    assert "steps 7 to 13 are missing" in done.stdout
    assert done.stderr == ""
    found = json.loads(thalweg("inspect", "damaged", "--json", cwd=folder).stdout)
    assert found["healthy"] is False
    assert found["gaps"] == [[7, 14]]


def test_export_in_each_format(folder: Path) -> None:
    t = open_run(folder / "run").trajectory
    done = thalweg("export", "run", "--to", "npz", "--out", "out/run.npz", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("npz: out/run.npz, ")
    with np.load(folder / "out" / "run.npz") as kept:
        assert np.array_equal(kept["updates"], t.updates(0, 20).numpy())
    done = thalweg(
        "export", "run", "--to", "checkpoints", "--steps", "first,5:8", "--out", "steps", "--json", cwd=folder
    )
    assert json.loads(done.stdout)["steps"] == [-1, 5, 6, 7]
    assert len(list((folder / "steps").glob("*.safetensors"))) == 4
    done = thalweg("export", "run", "--to", "jsonl", "--out", "out/run.jsonl", cwd=folder)
    lines = (folder / "out" / "run.jsonl").read_text().splitlines()
    assert [json.loads(line)["scalars"]["loss"] for line in lines] == t.scalars["loss"].tolist()


def test_import_with_and_without_a_model(folder: Path) -> None:
    done = thalweg("import", "checkpoints", "--out", "guessed", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "run: guessed, 3 rows between steps 0 and 150, 23 parameters" in done.stdout
    assert "by their names; --model TASK does so by the network" in done.stdout
    arguments = ("import", "checkpoints", "--out", "imported", "--model", "my_task.py:task", "--json")
    done = thalweg(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["parameters"] == 21
    assert result["left_out"] == ["extra"]
    done = thalweg("inspect", "imported", cwd=folder)
    assert done.returncode == 0
    assert "closed (imported from 4 checkpoints)" in done.stdout
    order = ("--order", "step-100.safetensors,step-0.safetensors")
    done = thalweg("import", "checkpoints", "--out", "backwards", *order, "--json", cwd=folder)
    assert json.loads(done.stdout)["steps"] == [0, 1]


def test_an_imported_run_is_analysed_like_any_other(folder: Path) -> None:
    thalweg("import", "checkpoints", "--out", "analysed", "--model", "my_task.py:task", cwd=folder)
    arguments = ("analyse", "analysed", "--task", "my_task.py:task", "--k", "1", "--stages", "1", "--lang", "en")
    done = thalweg(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "top eigenvalues after step 150" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "nowhere"], "nowhere is not a run: it does not exist"),
        (["inspect"], "Missing argument"),
        (["export", "run", "--to", "csv", "--out", "x"], "--to 'csv' is no format\n         choose one of npz, zarr"),
        (["export", "run", "--to", "npz", "--out", "run"], "run exists already\n         choose another --out"),
        (["export", "run", "--to", "checkpoints", "--steps", "77", "--out", "x"], "no row ends with step 77"),
        (["export", "nowhere", "--to", "npz", "--out", "x"], "nowhere is not a run"),
        (["import", "nowhere", "--out", "x"], "'nowhere' is no folder"),
        (["import", "empty", "--out", "x"], "'empty' holds 0 checkpoints"),
        (["import", "checkpoints", "--out", "run"], "run exists already"),
        (["import", "checkpoints", "--out", "x", "--order", "../a,b"], "--order names '../a'"),
        (["import", "checkpoints", "--out", "x", "--model", "my_task.py:task", "--set", "width=5"], "of shape (4, 3)"),
    ],
)
def test_wrong_usage_ends_with_two_and_the_mend(folder: Path, arguments: list[str], message: str) -> None:
    done = thalweg(*arguments, cwd=folder)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (folder / "x").exists()


def test_names_in_messages_do_not_steer_a_terminal(folder: Path) -> None:
    evil = folder / "evil"
    evil.mkdir()
    for name in ("a\x1b[31m-1.pt", "b-2.pt"):
        torch.save({"w": torch.ones(2), "\x1b]0;t\x07": 3}, evil / name)
    done = thalweg("import", "evil", "--out", "x", cwd=folder)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert r"\x1b[31m-1.pt" in done.stderr
