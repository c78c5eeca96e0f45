"""A disk that is slower than the training: the training goes on, memory is bounded, and updates still add up."""

import json
import os
import threading
import time
import warnings

import pytest
import torch

from tests.recording.conftest import net
from thalweg.recording import open_run, pace, recorder, watch, writer
from thalweg.recording.block import Block
from thalweg.recording.pace import Pace


@pytest.fixture(autouse=True)
def this_disk_does_not_count_and_nobody_is_patient(monkeypatch):
    monkeypatch.setattr(pace, "WAIT_GRACE", 0.5)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def slow_disk(monkeypatch):
    """Let each segment take so long to write."""
    write = writer.write_segment

    def slow(seconds):
        def wait_and_write(*content):
            time.sleep(seconds)
            return write(*content)

        monkeypatch.setattr(writer, "write_segment", wait_and_write)

    return slow


@pytest.fixture
def blocks(monkeypatch):
    """Every block that is made."""
    made = []

    class Counted(Block):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            if self.capacity:
                made.append(self)

    monkeypatch.setattr(recorder, "Block", Counted)
    monkeypatch.setattr("thalweg.recording.block.Block", Counted)
    return made


def count_up(recorder, model, steps, pause=0.0):
    """Add to one weight step by step, through powers of two so that every sum is exact; seconds that it took."""
    begun = time.monotonic()
    for _ in range(steps):
        model[0].bias.data[0] += 0.5
        model[2].bias.data += 0.25
        recorder.step()
        time.sleep(pause)
    return time.monotonic() - begun


def recorded(folder):
    t = open_run(folder).trajectory
    return t, (t.steps - t.starts + 1).tolist()


def test_a_slow_disk_lets_rows_sum_more_steps(tmp_path, monkeypatch, slow_disk, blocks):
    monkeypatch.setattr(pace, "WAIT_GRACE", 0.05)
    slow_disk(0.05)
    model = net()
    model[0].bias.data.zero_()
    recording = watch(model, None, tmp_path / "run", segment_rows=4)
    with pytest.warns(RuntimeWarning, match="rows sum 2 steps and, if need be, more") as caught:
        took = count_up(recording, model, 1500, pause=0.0005)
    waited = recording._writer.waited
    recording.close()
    assert len(caught) == 1
    assert waited <= max(0.05, 0.1 * took) + 0.1
    assert len(blocks) == 1 + writer.PENDING
    t, lengths = recorded(tmp_path / "run")
    assert t.gaps == ()
    assert sum(lengths) == 1500
    assert lengths[:4] == [1, 1, 1, 1]
    assert max(lengths) >= 2
    every = torch.tensor(lengths, dtype=torch.float32)
    assert torch.equal(t.updates(0, 1500)[:, 35], 0.5 * every)
    assert t.weights(1499)[35] == 0.5 * 1500
    closed = json.loads((tmp_path / "run" / "closed.json").read_text())
    assert closed["every_at_the_end"] >= 2
    assert closed["seconds_waited"] == pytest.approx(waited, abs=1e-3)


def test_without_the_share_the_training_would_have_waited(tmp_path, monkeypatch, slow_disk):
    monkeypatch.setattr(pace, "WAIT_GRACE", 100.0)
    slow_disk(0.05)
    model = net()
    recording = watch(model, None, tmp_path / "run", segment_rows=4)
    took = count_up(recording, model, 60)
    waited = recording._writer.waited
    recording.close()
    assert waited > 0.5 * took
    assert recorded(tmp_path / "run")[1] == [1] * 60


def test_a_disk_that_keeps_up_costs_no_resolution(tmp_path, slow_disk):
    slow_disk(0.005)
    model = net()
    recording = watch(model, None, tmp_path / "run", segment_rows=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count_up(recording, model, 200, pause=0.001)
    recording.close()
    assert recorded(tmp_path / "run")[1] == [1] * 200
    assert "every_at_the_end" not in json.loads((tmp_path / "run" / "closed.json").read_text())


def test_one_long_stall_is_one_long_row_and_halves_the_resolution_once(tmp_path, monkeypatch):
    monkeypatch.setattr(pace, "WAIT_GRACE", 0.0)
    monkeypatch.setattr(pace, "WAIT_SHARE", 0.0)
    write, gate = writer.write_segment, threading.Event()

    def when_open(*content):
        gate.wait()
        return write(*content)

    monkeypatch.setattr(writer, "write_segment", when_open)
    model = net()
    recording = watch(model, None, tmp_path / "run", segment_rows=4)
    with pytest.warns(RuntimeWarning, match="rows sum 2 steps"):
        count_up(recording, model, 100)  # three blocks of four rows, and then there is no room
    gate.set()
    for _ in range(10):
        while recording._writer._free._value < writer.PENDING:
            time.sleep(0.001)
        count_up(recording, model, 1)
    assert recording._writer.waited == 0.0
    recording.close()
    assert recorded(tmp_path / "run")[1] == [1] * 12 + [89] + [2] * 4 + [1]


def test_scalars_stay_with_the_row_that_sums_their_step(tmp_path, monkeypatch, slow_disk):
    monkeypatch.setattr(pace, "WAIT_GRACE", 0.0)
    slow_disk(0.03)
    model = net()
    recording = watch(model, None, tmp_path / "run", segment_rows=3)

    def go_on(steps):
        for step in range(steps):
            count_up(recording, model, 1, pause=0.001)
            recording.log(step=step)

    with pytest.warns(RuntimeWarning, match="slower than the training"):
        go_on(400)
    recording.close()
    t, lengths = recorded(tmp_path / "run")
    assert max(lengths) > 1
    assert t.scalars["step"].tolist() == t.steps.tolist()


def test_the_pace_doubles_once_for_each_segment():
    rate = Pace(3)
    assert rate.slow_down(0)
    assert (rate.every, rate.coarser) == (6, True)
    assert not rate.slow_down(0)
    assert rate.every == 6
    assert not rate.slow_down(4)
    assert rate.every == 12
