"""Exported runs, read back by the libraries whose formats they are."""

from __future__ import annotations

import json
import sys
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from tests.conftest import TiedNet
from tests.recording.conftest import net, train
from thalweg.errors import InputError, MissingExtraError, RunError
from thalweg.recording import exporting, open_run, watch
from thalweg.recording.exporting import choose_steps, export
from thalweg.recording.importing import import_checkpoints


@pytest.fixture
def seen(record: Any) -> Any:
    return record(steps=20, model=net(norm=True))


def record_with_scalars(folder: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, folder) as recorder:

        def after(step: int, loss: float) -> None:
            recorder.log(**{"train/loss": loss, "../up": float(step)} if step != 3 else {"../up": float(step)})

        train(model, optimizer, 6, after)


def lose_a_segment(folder: Path) -> None:
    sorted((folder / "segments").iterdir())[1].unlink()


# -- arrays ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2**26])
def test_npz_holds_every_row(seen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(exporting, "CHUNK_BYTES", chunk)
    result = export(seen.folder, "npz", tmp_path / "out.npz")
    t = seen.trajectory
    with np.load(tmp_path / "out.npz", allow_pickle=False) as kept:
        assert np.array_equal(kept["updates"], seen.hand.updates.numpy())
        assert np.array_equal(kept["weights"], seen.hand.weights[0].numpy()[None])
        assert kept["weights_steps"].tolist() == [-1]
        assert kept["steps"].tolist() == list(range(20))
        assert kept["learning_rates"].tolist() == [[0.1]] * 20
        assert kept["names"].tolist() == list(t.space.names)
        assert [tuple(json.loads(shape)) for shape in kept["shapes"]] == [p.shape for p in t.space.parameters]
        assert kept["offsets"].tolist() == [p.offset for p in t.space.parameters]
        assert kept["scalars"].shape == (20, 0)
    assert result["bytes"] == (tmp_path / "out.npz").stat().st_size


def test_npz_can_be_mapped_into_memory(seen: Any, tmp_path: Path) -> None:
    export(seen.folder, "npz", tmp_path / "out.npz")
    with zipfile.ZipFile(tmp_path / "out.npz") as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert all("/" not in entry.filename for entry in archive.infolist())


def test_after_missing_steps_the_weights_are_there_again(seen: Any, tmp_path: Path) -> None:
    lose_a_segment(seen.folder)
    export(seen.folder, "npz", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as kept:
        assert kept["weights_steps"].tolist() == [-1, 13]
        assert np.array_equal(kept["weights"], torch.stack([seen.hand.weights[0], seen.hand.weights[14]]).numpy())
        assert kept["starts"].tolist() == [*range(7), *range(14, 20)]


def test_no_more_than_a_chunk_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(1000, 100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, tmp_path / "run", segment_rows=8):
        for _ in range(48):
            optimizer.zero_grad()
            model(torch.randn(2, 1000)).pow(2).sum().backward()
            optimizer.step()
    monkeypatch.setattr(exporting, "CHUNK_BYTES", 2**20)
    whole = 48 * 100_100 * 4
    blocks = [block.nbytes for block in exporting.row_blocks(open_run(tmp_path / "run").trajectory)]
    assert sum(blocks) == whole
    assert max(blocks) <= 2**20
    tracemalloc.start()
    export(tmp_path / "run", "npz", tmp_path / "out.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < whole / 2


def test_zarr_holds_the_same(seen: Any, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    export(seen.folder, "zarr", tmp_path / "out.zarr")
    export(seen.folder, "npz", tmp_path / "out.npz")
    group = zarr.open_group(str(tmp_path / "out.zarr"), mode="r")
    with np.load(tmp_path / "out.npz") as kept:
        for name in kept:
            if kept[name].dtype.kind == "U":
                assert group.attrs[name] == kept[name].tolist()
            else:
                assert np.array_equal(group[name][...], kept[name]), name
                assert group[name].dtype == kept[name].dtype


@pytest.mark.parametrize(("to", "package"), [("zarr", "zarr"), ("tensorboard", "tensorboard")])
def test_a_missing_package_is_named(
    seen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package} is not installed; pip install 'thalweg\[{package}\]'"):
        export(seen.folder, to, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


# -- checkpoints -------------------------------------------------------------------------------------------


def test_checkpoints_load_into_the_model(seen: Any, tmp_path: Path) -> None:
    result = export(seen.folder, "checkpoints", tmp_path / "out", "-1,0,13,last")
    assert result["steps"] == [-1, 0, 13, 19]
    assert result["load"] == "strict=True"
    for step in (-1, 0, 13, 19):
        name = f"step-{step:06d}.safetensors" if step >= 0 else "step--1.safetensors"
        fresh = net(norm=True)
        fresh.load_state_dict(load_file(tmp_path / "out" / name))
        assert torch.equal(nn.utils.parameters_to_vector(fresh.parameters()), seen.hand.weights[step + 1])
        with safe_open(str(tmp_path / "out" / name), "pt") as file:
            at = int(file.metadata()["buffers_after_step"])
        expected = {-1: -1, 0: 6, 13: 13, 19: 19}[step]  # segments hold seven rows
        assert at == expected
        seen_after = max(at, 0)  # the run begins when the optimizer first steps, which is after the first forward pass
        assert torch.equal(fresh[1].running_mean, seen.hand.buffers[seen_after]["1.running_mean"])


def test_tied_frozen_and_lower_precision(tmp_path: Path) -> None:
    model = TiedNet().bfloat16()
    model.hidden.bias.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    with watch(model, optimizer, tmp_path / "run"):
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randint(6, (5, 3))).float().pow(2).mean().backward()
            optimizer.step()
    result = export(tmp_path / "run", "checkpoints", tmp_path / "out")
    assert result["frozen_left_out"] == ["hidden.bias"]
    assert result["load"] == "strict=False"
    state = load_file(tmp_path / "out" / "step-000002.safetensors")
    expected = {name: tensor for name, tensor in model.state_dict().items() if name != "hidden.bias"}
    assert set(state) == set(expected)
    for name, tensor in expected.items():
        assert state[name].dtype == torch.bfloat16
        assert torch.equal(state[name], tensor), name


def test_exported_checkpoints_import_again(seen: Any, tmp_path: Path) -> None:
    export(seen.folder, "checkpoints", tmp_path / "out", "0:20")
    import_checkpoints(tmp_path / "out", tmp_path / "again", model=net(norm=True))
    t = open_run(tmp_path / "again").trajectory
    assert torch.equal(t.updates(1, 20), seen.hand.updates[1:])
    assert torch.equal(t.weights(0), seen.hand.weights[1])


def test_buffers_that_are_in_no_state_dict_are_left_out(tmp_path: Path) -> None:
    model = net(norm=True)
    model[0].register_buffer("scratch", torch.ones(3), persistent=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 4, lambda step, loss: None)
    export(tmp_path / "run", "checkpoints", tmp_path / "out")
    (path,) = (tmp_path / "out").iterdir()
    state = load_file(path)
    assert set(state) == set(model.state_dict())
    model.load_state_dict(state, strict=True)


def test_steps_in_words(record: Any) -> None:
    t = record(steps=20, every=3).trajectory
    known = [2, 5, 8, 11, 14, 17, 19]
    assert choose_steps(t, "all") == [-1, *known]
    assert choose_steps(t, "first") == [-1]
    assert choose_steps(t, " last, 5 ,5") == [5, 19]
    assert choose_steps(t, "3:15") == [5, 8, 11, 14]
    assert choose_steps(t, "::3") == [2, 11, 19]
    assert choose_steps(t, ":9") == [2, 5, 8]
    with pytest.raises(InputError, match="no row ends with step 6; the nearest are 2, 5, 8"):
        choose_steps(t, "6")
    with pytest.raises(InputError, match="the stride is 0"):
        choose_steps(t, "::0")
    with pytest.raises(InputError, match="holds no recorded step; they go from -1 to 19"):
        choose_steps(t, "100:")
    for words in ("", "five", "1-4", "2,,5", "2:-1"):
        with pytest.raises(InputError, match="give steps, first, last, all or start:stop:stride"):
            choose_steps(t, words)


# -- scalars -----------------------------------------------------------------------------------------------


def test_json_lines(tmp_path: Path) -> None:
    record_with_scalars(tmp_path / "run")
    export(tmp_path / "run", "jsonl", tmp_path / "out.jsonl")
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    t = open_run(tmp_path / "run").trajectory
    assert [row["step"] for row in rows] == list(range(6))
    assert [row["learning_rates"] for row in rows] == [[0.1]] * 6
    assert [row["scalars"].get("train/loss") for row in rows] == [
        None if step == 3 else float(t.scalars["train/loss"][step]) for step in range(6)
    ]
    assert "train/loss" not in rows[3]["scalars"]
    assert [row["time"] for row in rows] == t.times.tolist()


def test_tensorboard_reads_the_scalars(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    record_with_scalars(tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(tmp_path / "run", "tensorboard", tmp_path / "out")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        read = EventAccumulator(str(tmp_path / "out"))
        read.Reload()
    t = open_run(tmp_path / "run").trajectory
    events = read.Scalars("train/loss")
    assert [event.step for event in events] == [0, 1, 2, 4, 5]
    kept = t.scalars["train/loss"][[0, 1, 2, 4, 5]]
    assert [event.value for event in events] == pytest.approx(kept.tolist(), rel=1e-6)
    assert [event.wall_time for event in events] == pytest.approx(t.times[[0, 1, 2, 4, 5]].tolist())
    assert [event.value for event in read.Scalars("learning_rate/0")] == pytest.approx([0.1] * 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]  # no name led elsewhere


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["npz", "zarr", "checkpoints", "jsonl", "tensorboard"])
def test_what_is_there_is_left_alone(seen: Any, tmp_path: Path, to: str) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RunError, match="exists already; choose another --out"):
        export(seen.folder, to, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
    with pytest.raises(RunError, match="cannot be written"):
        export(seen.folder, to, tmp_path / "out" / "below")


def test_after_a_failure_nothing_is_left(seen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError("no space left on device")

    monkeypatch.setattr(exporting, "small_arrays", full)
    with pytest.raises(RunError, match=r"cannot be written \(no space left on device\); choose another --out"):
        export(seen.folder, "npz", tmp_path / "out.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_wrong_words(seen: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--to 'csv' is no format; choose one of npz, zarr"):
        export(seen.folder, "csv", tmp_path / "out")
    with pytest.raises(InputError, match="--steps '3' is for --to checkpoints"):
        export(seen.folder, "npz", tmp_path / "out", "3")
    with pytest.raises(InputError, match="no row ends with step 99"):
        export(seen.folder, "checkpoints", tmp_path / "out", "99")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    for path in (seen.folder / "segments").iterdir():
        path.unlink()
    with pytest.raises(RunError, match="holds no row to export; see: thalweg inspect"):
        export(seen.folder, "npz", tmp_path / "out")
