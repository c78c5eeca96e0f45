"""`kill -9` at random moments under Lightning and HuggingFace's Trainer: what was finished opens, every row is true."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.integrations.kill_trainers import by_hand
from thalweg.recording import open_run

ROOT = Path(__file__).parents[2]
NOTED = 1500
LIBRARIES = {"lightning": "pytorch_lightning", "transformers": "transformers"}

pytestmark = pytest.mark.filterwarnings("ignore")


def killed_runs(library: str, folder: Path, count: int, seed: int) -> list[Path]:
    """Run folders of trainings that were killed at random moments after their first segment."""
    moments = random.Random(seed)
    made: list[Path] = []
    command = [sys.executable, "-m", "tests.integrations.kill_trainers", library]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=settings,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for number in range(count):
            made.append(folder / f"{library}-{number}")
            parent.stdin.write(f"{made[-1]}\n")
            parent.stdin.flush()
            process = int(next(line for line in parent.stdout if line.startswith("pid ")).split()[1])
            deadline = time.monotonic() + 60
            while not list(made[-1].glob("segments/*.safetensors")):
                assert time.monotonic() < deadline, "no segment after a minute"
                time.sleep(0.005)
            time.sleep(moments.uniform(0.0, 0.4))
            os.kill(process, signal.SIGKILL)
            assert next(line for line in parent.stdout if line == "gone\n")
        parent.stdin.close()
    return made


def check(library: str, folders: list[Path]) -> int:
    """Every row of every run is the training's; the number of rows."""
    truth = by_hand(library, NOTED)
    rows = 0
    for folder in folders:
        t = open_run(folder).trajectory
        assert t.damaged == ()
        assert t.gaps == ()
        assert not (folder / "closed.json").exists()
        assert len(t) >= 3
        assert t.steps.tolist() == list(range(len(t)))
        for step in t.steps.tolist()[:NOTED]:
            assert torch.equal(t.weights(step), truth[step]), (folder, step)
        rows += len(t)
    return rows


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the trainings are forked")
@pytest.mark.parametrize("library", LIBRARIES)
def test_killed_trainings_leave_what_was_finished(tmp_path: Path, library: str) -> None:
    pytest.importorskip(LIBRARIES[library])
    assert check(library, killed_runs(library, tmp_path, 2, seed=1)) > 0


@pytest.mark.prove
@pytest.mark.parametrize("library", LIBRARIES)
def test_fifty_killed_trainings(tmp_path: Path, library: str) -> None:
    rows = check(library, killed_runs(library, tmp_path, 50, seed=2))
    print(f"\n{library}: 50 trainings killed, {rows} rows, every one true")
