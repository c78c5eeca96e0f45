"""Disks that fill, bytes that flip, manifests that end early: training goes on, damage is named, never read as data."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.recording.conftest import Script, net, train, trainable
from tests.recording.full_disks import STEPS
from tests.recording.kill_writer import DIRECT
from tests.recording.test_kill import CHECKS
from thalweg.errors import RunError
from thalweg.recording import open_run, watch
from thalweg.recording.manifest import CLOSED
from thalweg.recording.rounding import STEP

ROOT = Path(__file__).parents[2]
LARGER = {DIRECT: 25}
"""Disks and limits for rows that are larger by about so much."""


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of its own of so many bytes; whether that is allowed here."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "thalweg-test", str(folder)]
    mounted = shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            # lazily: a failed check holds the run's files open, and must not be hidden by a disk that is busy
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_disks(home: Path, count: int, seed: int, keep: str = "exact") -> dict[str, int]:
    """Train until each disk is full, and check what is there; how many of what."""
    draw = random.Random(seed)
    figures = {"runs": 0, "small file systems": 0, "limited file sizes": 0, "stopped": 0, "rows": 0}
    with Script("full_disks.py") as script:
        for number in range(count):
            size = 4096 * draw.randint(4, 24) if keep == "sketch" else 4096 * draw.randint(6, 60) * LARGER.get(keep, 1)
            with small_disk(home / f"disk{number}", size) as mounted:
                folder = home / f"disk{number}" / "run"
                limit = 0 if mounted and number % 2 == 0 else draw.randint(400, 5_500) * LARGER.get(keep, 1)
                script.tell(folder, limit, keep)
                told = json.loads(script.answer())
                assert told["steps"] == STEPS
                assert told["same"]
                figures["runs"] += 1
                figures["limited file sizes" if limit else "small file systems"] += 1
                figures["stopped"] += check_run(folder, told["warnings"], keep, figures)
    return figures


def check_run(folder: Path, said: list[str], keep: str, figures: dict[str, int]) -> bool:
    """Whether the recording had ended before the training did; then it said so once, and what it has is true.

    It also says so where every row found room and the note that it was closed did not.
    """
    t = open_run(folder).trajectory
    assert t.damaged == ()
    assert not [path for path in (folder / "segments").iterdir() if path.name.startswith(".")]
    noted = folder / CLOSED
    whole = noted.is_file() and json.loads(noted.read_text())["reason"] == "closed"
    stopped = len(t) == 0 or int(t.steps[-1]) < STEPS - 1
    assert len(said) == (not whole)
    assert not (stopped and whole)
    if said:
        assert "No space left" in said[0] or "File too large" in said[0]
    CHECKS[keep](t)
    figures["rows"] += len(t)
    return stopped


@pytest.mark.parametrize("keep", ["exact", DIRECT, "bfloat16", "sketch"])
def test_a_few_full_disks(tmp_path, keep):
    figures = fill_disks(tmp_path, 3, seed=1, keep=keep)
    assert figures["stopped"] > 0
    assert figures["rows"] > 0


@pytest.mark.prove
@pytest.mark.parametrize("keep", ["exact", DIRECT, "sketch"])
def test_fifty_full_disks(tmp_path, keep):
    figures = fill_disks(tmp_path, 50, seed=2, keep=keep)
    print("\n", keep, figures)
    assert figures["stopped"] >= 40


# -- flipped bytes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["exact", "bfloat16", "sketch"])
def test_flipped_bytes_in_a_hundred_segments_are_named_and_never_read(tmp_path, keep):
    model = net()
    optimizer = torch.optim.SGD(trainable(model), lr=0.1, momentum=0.9)
    options = {"keep": keep, "sketch_width": 16, "segment_rows": 2}
    if keep == "sketch":
        options["flush_seconds"] = 1e-9
    with watch(model, optimizer, tmp_path / "run", **options):
        train(model, optimizer, 300)
    whole = open_run(tmp_path / "run").trajectory
    files = sorted((tmp_path / "run" / "segments").iterdir())
    assert len(files) >= 120
    gram, weights = whole.gram(), {step: whole.weights(step) for step in whole.known_steps.tolist()}
    (tmp_path / "run" / "results" / "gram.cache.safetensors").unlink(missing_ok=True)
    largest = max(float((w - weights[-1]).abs().max()) for w in weights.values())
    draw = random.Random(5)
    hit = draw.sample(files, 100)
    rows = {segment.path: segment.steps.tolist() for segment in whole.segments}
    for file in hit:
        data = bytearray(file.read_bytes())
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        file.write_bytes(data)
    with pytest.warns(RuntimeWarning, match="segment\\(s\\) left out") as caught:
        t = open_run(tmp_path / "run").trajectory
    assert len(caught) == 1
    assert {name for name, _ in t.damaged} == {file.name for file in hit}
    assert all(file.name in str(caught[0].message) for file in hit)
    kept = [step for path, steps in rows.items() if path not in hit for step in steps]
    assert t.steps.tolist() == sorted(kept)
    places = [whole.steps.tolist().index(step) for step in kept]
    assert torch.allclose(t.gram(), gram[places][:, places], rtol=1e-12, atol=1e-15)
    for step in t.known_steps.tolist():
        if keep == "exact":
            assert torch.equal(t.weights(step), weights[step])
        else:  # the anchor that stood there may be lost: then they are known to one rounding of what came before
            assert float((t.weights(step) - weights[step]).abs().max()) <= STEP * largest


# -- a manifest that ends early ----------------------------------------------------------------------------


def test_a_manifest_cut_anywhere_is_named(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(trainable(model), lr=0.1)
    with watch(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 5)
    path = tmp_path / "run" / "manifest.json"
    text = path.read_bytes()
    for length in range(0, len(text.rstrip()) - 1, 7):
        path.write_bytes(text[:length])
        with pytest.raises(RunError, match="manifest"):
            open_run(tmp_path / "run")
    path.write_bytes(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_run(tmp_path / "run").trajectory) == 5
