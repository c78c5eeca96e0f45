"""`kill -9` at random moments: the run opens with every segment that was finished, and every row is true."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.recording.conftest import Script
from tests.recording.kill_writer import DIRECT, by_hand, toy
from thalweg.recording import Trajectory, open_run, watch
from thalweg.recording.rounding import STEP

ROOT = Path(__file__).parents[2]
FINISHED = re.compile(r"\d{6}-\d{6}\.[0-9a-f]{8}\.safetensors")


def kill_some(tmp_path: Path, count: int, seed: int, keep: str = "exact") -> dict[str, int]:
    """Kill recordings at random moments after their first sign of life and check each; how many there were of what."""
    draw = random.Random(seed)
    figures = {
        "kills": 0,
        "opened": 0,
        "segments": 0,
        "rows": 0,
        "in the middle of a file": 0,
        "without a segment": 0,
    }
    with Script("kill_writer.py") as script:
        for number in range(count):
            folder = tmp_path / f"run{number}"
            script.tell(folder, keep)
            process = int(script.answer())
            while not (folder / "manifest.json").is_file():
                time.sleep(0.001)
            time.sleep(draw.random() ** 2 * 0.4)
            before = finished(folder)
            os.kill(process, signal.SIGKILL)
            assert script.answer() == "gone\n"
            figures["kills"] += 1
            check(folder, before, figures, keep)
    return figures


def finished(folder: Path) -> set[str]:
    """Names of the segments that have their final name now."""
    segments = folder / "segments"
    return {p.name for p in segments.iterdir() if FINISHED.fullmatch(p.name)} if segments.is_dir() else set()


def check_rows(t: Trajectory, keep: str = "exact") -> None:
    """Every row is the truth of the steps that it sums (more than one where the disk could not follow)."""
    assert t.starts.tolist() == [0, *(t.steps[:-1] + 1).tolist()][: len(t)]
    if len(t):
        truth = by_hand(int(t.steps[-1]) + 1, keep)
        assert torch.equal(t.updates(0, int(t.steps[-1]) + 1), truth[t.steps + 1] - truth[t.starts])
        for step in (-1, int(t.steps[0]), int(t.steps[len(t) // 2]), int(t.steps[-1])):
            assert torch.equal(t.weights(step), truth[step + 1])


def check_rounded_rows(t: Trajectory) -> None:
    """Rows in bfloat16 are true to two roundings, and weights to one of one update."""
    if len(t):
        truth = by_hand(int(t.steps[-1]) + 1)
        updates = t.updates(0, int(t.steps[-1]) + 1)
        before = torch.cat([torch.zeros(1, updates.shape[1]), updates[:-1]]).abs()
        error = (updates - (truth[t.steps + 1] - truth[t.starts])).abs()
        assert bool((error <= STEP * (updates.abs() + before) + 1e-6).all())
        for step in (-1, int(t.steps[0]), int(t.steps[len(t) // 2]), int(t.steps[-1])):
            assert float((t.weights(step) - truth[step + 1]).abs().max()) <= STEP * float(updates.abs().max()) + 1e-6


def check_sketched_rows(t: Trajectory) -> None:
    """Rows are sketches of the truth, and weights where sums end are true to their rounding."""
    if len(t):
        truth = by_hand(int(t.steps[-1]) + 1)
        assert t.sketch is not None
        drawn = t.sketch.of(truth[t.steps + 1] - truth[t.starts])
        scale = float(torch.diagonal(t.gram()).max())
        assert float((t.gram() - drawn @ drawn.T).abs().max()) <= 1e-4 * scale
        moved = (truth[1:] - truth[:-1]).abs().sum(dim=0).max()
        for step in t.known_steps.tolist():
            assert float((t.weights(step) - truth[step + 1]).abs().max()) <= STEP * float(moved)


CHECKS = {
    "exact": check_rows,
    DIRECT: partial(check_rows, keep=DIRECT),
    "bfloat16": check_rounded_rows,
    "sketch": check_sketched_rows,
}


def check(folder: Path, before: set[str], figures: dict[str, int], keep: str) -> None:
    t = open_run(folder).trajectory
    figures["opened"] += 1
    assert t.damaged == ()
    assert t.gaps == ()
    assert before <= {segment.path.name for segment in t.segments} == finished(folder)
    assert t.starts.tolist() == [0, *(t.steps[:-1] + 1).tolist()][: len(t)]
    CHECKS[keep](t)
    figures["without a segment"] += not t.segments
    figures["segments"] += len(t.segments)
    figures["rows"] += len(t)
    figures["in the middle of a file"] += any(p.name.startswith(".") for p in (folder / "segments").iterdir())
    with watch(*toy(keep), folder, overwrite=True):  # the lock went with the process
        pass
    assert not list((folder / "segments").iterdir())


def test_a_few_kills(tmp_path):
    figures = kill_some(tmp_path, 5, seed=1)
    assert figures["opened"] == 5
    assert figures["segments"] > 0


@pytest.mark.parametrize("keep", [DIRECT, "bfloat16", "sketch"])
def test_a_few_kills_of_other_runs(tmp_path, keep):
    figures = kill_some(tmp_path, 2, seed=3, keep=keep)
    assert figures["opened"] == 2
    assert figures["segments"] > 0


@pytest.mark.prove
@pytest.mark.parametrize("keep", [DIRECT, "bfloat16", "sketch"])
def test_twenty_five_kills_of_other_runs(tmp_path, keep):
    figures = kill_some(tmp_path, 25, seed=4, keep=keep)
    print("\n", keep, figures)
    assert figures["opened"] == 25


@pytest.mark.prove
def test_fifty_kills(tmp_path):
    figures = kill_some(tmp_path, 50, seed=2)
    print("\n", figures)
    assert figures["opened"] == 50
    assert figures["in the middle of a file"] >= 5
