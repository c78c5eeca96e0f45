"""What is said of a run: figures against those of the training, and every kind of damage in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recording.conftest import net, train
from thalweg.errors import RunError
from thalweg.recording import watch
from thalweg.recording.inspection import inspect_run
from thalweg.show.folders import in_bytes, inspection_text, shown


@pytest.fixture
def seen(record: Any) -> Any:
    return record(steps=20)


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "segments").iterdir())


def spoil(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)


def test_a_whole_run(seen: Any) -> None:
    found = inspect_run(seen.folder)
    assert found["healthy"] is True
    assert found["health"] == ["whole: every segment has its checksum, no step is missing, every row is finite"]
    assert found["state"]["word"] == "closed"
    assert found["trajectory"] | {"seconds": 0.0} == {
        "rows": 20,
        "every": 1,
        "keep": {"form": "exact"},
        "lost": [],
        "steps_with_weights": 21,
        "segments": 3,
        "first_step": 0,
        "last_step": 19,
        "seconds": 0.0,
        "learning_rates": [[0.1], [0.1]],
    }
    assert found["trajectory"]["seconds"] >= 0
    assert found["space"]["parameters"] == 66
    assert found["space"]["layers"] == 2
    assert found["optimizer"]["class"] == "torch.optim.sgd.SGD"
    assert found["optimizer"]["groups"][0]["momentum"] == 0.9
    sizes = [path.stat().st_size for path in segments(seen.folder)]
    assert found["bytes"]["segments"] == sum(sizes)
    assert found["bytes"]["folder"] > sum(sizes)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_damage_and_what_is_missing(seen: Any) -> None:
    first, second, _ = segments(seen.folder)
    second.unlink()
    found = inspect_run(seen.folder)
    assert (found["healthy"], found["gaps"], found["damaged"]) == (False, [[7, 14]], [])
    spoil(first)
    found = inspect_run(seen.folder)
    assert found["healthy"] is False
    assert [item["file"] for item in found["damaged"]] == [first.name]
    assert found["gaps"] == [[0, 14]]
    words = "\n".join(found["health"])
    assert f"segment {first.name} is damaged and left out: its bytes do not have the checksum" in words
    assert "steps 0 to 13 are missing" in words


def test_rows_that_are_not_finite(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def after(step: int, loss: float) -> None:
        if step == 3:
            with torch.no_grad():
                model[0].weight[0, 0] = torch.inf

    with watch(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 6, after)
    found = inspect_run(tmp_path / "run")
    assert found["not_finite"] == [4, 5]
    assert found["healthy"] is False
    assert found["health"] == ["2 rows hold NaN or infinity, the first at step 4; training diverged there"]


def test_scalars_that_were_logged(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, tmp_path / "run") as recorder:
        train(model, optimizer, 6, lambda step, loss: recorder.log(even=step) if step % 2 == 0 else None)
    assert inspect_run(tmp_path / "run")["scalars"] == [{"name": "even", "values": 3, "first": 0.0, "last": 4.0}]


def test_a_run_under_way_and_one_that_was_killed(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = watch(model, optimizer, tmp_path / "run", segment_rows=3)
    train(model, optimizer, 8)
    found = inspect_run(tmp_path / "run")
    assert found["state"] == {"word": "recording", "process": os.getpid()}
    assert any(f"process {os.getpid()} seems to be recording" in line for line in found["health"])
    recorder.close()
    assert inspect_run(tmp_path / "run")["state"]["word"] == "closed"
    program = (
        "import os, sys, torch, thalweg\n"
        "from tests.recording.conftest import net, train\n"
        "model = net()\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "recorder = thalweg.watch(model, optimizer, sys.argv[1], segment_rows=3)\n"
        "train(model, optimizer, 8)\n"
        "recorder._writer._queue.put(None); recorder._writer._thread.join()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "killed")], timeout=120)
    assert done.returncode == -9
    (tmp_path / "killed" / "segments" / ".000006-000009.tmp77").write_bytes(b"x" * 100)
    found = inspect_run(tmp_path / "killed")
    assert found["state"]["word"] == "interrupted"
    assert found["trajectory"]["rows"] == 6
    assert found["bytes"]["unfinished"] == 100
    assert found["healthy"] is True  # what is there is whole
    assert any("the recording is not closed" in line for line in found["health"])
    assert "a segment was never finished; its file can be removed" in found["health"]


def test_a_recording_that_ended_before_training_did(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(RuntimeWarning, match="budget"), watch(model, optimizer, tmp_path / "run", budget=30_000):
        train(model, optimizer, 200)
    words = inspect_run(tmp_path / "run")["health"]
    assert "the recording ended before training did (budget)" in words


def test_a_run_without_a_row(tmp_path: Path) -> None:
    model = net()
    watch(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path / "run").close()
    found = inspect_run(tmp_path / "run")
    assert found["healthy"] is False
    assert found["health"][0].startswith("no row is there")
    assert "no step" in inspection_text(found)


def test_what_is_no_run_or_is_damaged(seen: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run: it does not exist"):
        inspect_run(tmp_path / "nowhere")
    (seen.folder / "closed.json").write_text("{")
    assert inspect_run(seen.folder)["state"] == {"word": "interrupted", "reason": "closed.json is damaged"}
    manifest = seen.folder / "manifest.json"
    about = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(about | {"optimizer": {"class": 3, "groups": [7]}}))
    assert inspect_run(seen.folder)["optimizer"] == {"class": "3", "groups": []}
    manifest.write_text(json.dumps({key: value for key, value in about.items() if key != "space"}))
    with pytest.raises(RunError, match="lacks something"):
        inspect_run(seen.folder)


def test_no_stored_name_steers_a_terminal(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, tmp_path / "run") as recorder:
        train(model, optimizer, 2, lambda step, loss: recorder.log(**{"\x1b[2Jl\u202eoss\n": loss, "[bold]b": loss}))
    manifest = tmp_path / "run" / "manifest.json"
    about = json.loads(manifest.read_text()) | {"model": "evil\x1b]0;title\x07\r"}
    manifest.write_text(json.dumps(about))
    text = inspection_text(inspect_run(tmp_path / "run"))
    assert all(c.isprintable() for c in text.replace("\n", ""))
    assert r"\x1b[2Jl\u202eoss\n" in text
    assert r"evil\x1b]0;title\x07\r" in text
    assert "[bold]b" in text


def test_shown_text_and_bytes() -> None:
    assert shown("größe 漢字 λ₁") == "größe 漢字 λ₁"
    assert shown("a\tb\u200b\ud800") == r"a\tb\u200b\ud800"
    assert [in_bytes(n) for n in (0, 1023, 1536, 5 * 2**20, 3 * 2**30, 2**41)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 GiB",
        "2.0 TiB",
    ]
