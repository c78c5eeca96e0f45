"""Going on with a run: what is appended, what is refused, what is named as missing."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.recording.conftest import flat, net, train, trainable
from tests.recording.kill_writer import by_hand, step, toy
from tests.recording.test_kill import check_rows
from thalweg.errors import InputError, RunError
from thalweg.recording import open_run, watch

ROOT = Path(__file__).parents[2]


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def test_a_closed_run_goes_on_without_a_gap(tmp_path):
    model = net()
    optimizer = sgd(model)
    with watch(model, optimizer, tmp_path / "run", segment_rows=4):
        one = train(model, optimizer, 10)
    with watch(model, optimizer, tmp_path / "run", segment_rows=4, resume=True):
        assert not (tmp_path / "run" / "closed.json").exists()
        other = train(model, optimizer, 7)
    t = open_run(tmp_path / "run").trajectory
    assert t.steps.tolist() == list(range(17))
    assert t.gaps == ()
    assert [s.first_row for s in t.segments] == [0, 4, 8, 10, 14]
    assert torch.equal(t.updates(0, 17), torch.cat([one.updates, other.updates]))
    assert torch.equal(t.weights(16), other.weights[-1])
    closed = json.loads((tmp_path / "run" / "closed.json").read_text())
    assert (closed["rows"], closed["last_step"], closed["steps_seen"]) == (17, 16, 7)
    resumed = open_run(tmp_path / "run").manifest["resumed"]
    assert [(entry["first_row"], entry["after_step"], entry["pid"]) for entry in resumed] == [(10, 9, os.getpid())]


def test_without_a_run_resume_begins_one(tmp_path):
    model = net()
    optimizer = sgd(model)
    with watch(model, optimizer, tmp_path / "run", resume=True):
        hand = train(model, optimizer, 3)
    t = open_run(tmp_path / "run").trajectory
    assert torch.equal(t.updates(0, 3), hand.updates)
    assert "resumed" not in t.manifest


def test_other_weights_are_a_gap_that_is_named(tmp_path):
    model = net()
    optimizer = sgd(model)
    with watch(model, optimizer, tmp_path / "run"):
        one = train(model, optimizer, 5)
    train(model, optimizer, 3)  # not recorded
    with (
        pytest.warns(RuntimeWarning, match="goes on at step 6 with other weights than .* after step 4") as caught,
        watch(model, optimizer, tmp_path / "run", resume=True),
    ):
        other = train(model, optimizer, 4)
    assert len(caught) == 1
    t = open_run(tmp_path / "run").trajectory
    assert t.steps.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert t.gaps == ((5, 6),)
    assert torch.equal(t.updates(0, 99), torch.cat([one.updates, other.updates]))
    assert torch.equal(t.weights(4), one.weights[-1])
    assert torch.equal(t.weights(5), other.weights[0])
    assert torch.equal(t.weights(9), other.weights[-1])


def test_weights_loaded_after_watch_decide_whether_there_is_a_gap(tmp_path):
    model = net()
    optimizer = sgd(model)
    with watch(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 5)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fresh = net()
    optimizer = sgd(fresh)
    with watch(fresh, optimizer, tmp_path / "run", resume=True):
        fresh.load_state_dict(kept)
        train(fresh, optimizer, 2)
    assert open_run(tmp_path / "run").trajectory.gaps == ()


def test_weights_that_are_nan_on_both_sides_are_the_same(tmp_path):
    model = net()
    optimizer = sgd(model)
    with watch(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 2)
        model[0].weight.data[0, 0] = math.nan
        train(model, optimizer, 2)
    with watch(model, optimizer, tmp_path / "run", resume=True):
        train(model, optimizer, 2)
    assert open_run(tmp_path / "run").trajectory.gaps == ()


def test_a_loop_of_its_own_goes_on_too(tmp_path):
    model = net()
    for _ in range(2):
        with watch(model, None, tmp_path / "run", resume=True) as recorder:
            for _ in range(3):
                model[0].weight.data += 0.5
                recorder.step()
    t = open_run(tmp_path / "run").trajectory
    assert t.steps.tolist() == list(range(6))
    assert t.gaps == ()


def test_the_number_of_the_first_step_may_be_told(tmp_path):
    model = net()
    optimizer = sgd(model)
    with watch(model, optimizer, tmp_path / "run", first_step=3):
        train(model, optimizer, 5)
    with pytest.raises(InputError, match="first_step=7: give a whole number greater than 7"):
        watch(model, optimizer, tmp_path / "run", resume=True, first_step=7)
    train(model, optimizer, 2)
    with (
        pytest.warns(RuntimeWarning, match="goes on at step 10"),
        watch(model, optimizer, tmp_path / "run", resume=True, first_step=10),
    ):
        train(model, optimizer, 2)
    t = open_run(tmp_path / "run").trajectory
    assert t.steps.tolist() == [3, 4, 5, 6, 7, 10, 11]
    assert (8, 10) in t.gaps


def test_the_budget_counts_what_is_there_already(tmp_path):
    model = net()
    optimizer = sgd(model)
    with watch(model, optimizer, tmp_path / "run", budget=60_000):
        train(model, optimizer, 60)
    watch(model, optimizer, tmp_path / "run", resume=True)  # the run's own budget
    with pytest.warns(RuntimeWarning, match="budget of 60,000 bytes"):
        train(model, optimizer, 300)
    size = sum(path.stat().st_size for path in (tmp_path / "run" / "segments").iterdir())
    assert 30_000 < size <= 60_000
    assert open_run(tmp_path / "run").trajectory.gaps == ()


# -- what is refused ---------------------------------------------------------------------------------------


def other_shape():
    model = net()
    model[2] = nn.Linear(7, 4)
    return model, sgd(model)


def other_names():
    model = net()
    model.append(nn.Linear(3, 3))
    return model, sgd(model)


def other_frozen():
    model = net()
    model[0].bias.requires_grad_(False)
    return model, sgd(model)


def other_dtype():
    model = net(torch.float64)
    return model, sgd(model)


def other_optimizer():
    model = net()
    return model, torch.optim.Adam(model.parameters())


def more_optimizers():
    model = net()
    return model, [sgd(model[0]), sgd(model[2])]


REFUSED = {
    other_shape: r"'2\.weight' of shape \(4, 7\), expected \(3, 7\)",
    other_names: r"the model has the parameter '3\.weight'",
    other_frozen: r"the model lacks the parameter '0\.bias'",
    other_dtype: r"'0\.weight' is float64 and was float32",
    other_optimizer: r"the optimizer is torch\.optim\.adam\.Adam and was torch\.optim\.sgd\.SGD",
    more_optimizers: r"sgd\.SGD and torch\.optim\.sgd\.SGD and was torch\.optim\.sgd\.SGD",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_another_training_is_refused_and_the_run_stays_as_it_was(record, make):
    seen = record(steps=10)
    before = {path: path.read_bytes() for path in seen.folder.rglob("*") if path.is_file() and "lock" not in path.name}
    with pytest.raises(RunError, match=f"cannot be resumed: .*{REFUSED[make]}"):
        watch(*make(), seen.folder, resume=True)
    after = {path: path.read_bytes() for path in seen.folder.rglob("*") if path.is_file() and "lock" not in path.name}
    assert before == after
    model = net()
    with watch(model, sgd(model), seen.folder, resume=True):  # the lock is free
        pass


def test_resume_and_overwrite_together_are_refused(tmp_path):
    model = net()
    with pytest.raises(InputError, match="give one of them"):
        watch(model, sgd(model), tmp_path / "run", resume=True, overwrite=True)


def test_a_run_whose_manifest_is_damaged_is_not_resumed(record):
    seen = record(steps=5)
    path = seen.folder / "manifest.json"
    whole = json.loads(path.read_text())
    model = net()
    for text, match in (
        ("{", "cannot be read"),
        (json.dumps({k: v for k, v in whole.items() if k != "dtypes"}), "damaged manifest"),
    ):
        path.write_text(text)
        with pytest.raises(RunError, match=match):
            watch(model, sgd(model), seen.folder, resume=True)
    path.unlink()
    with pytest.raises(RunError, match="is not a run"):
        watch(model, sgd(model), seen.folder, resume=True)


def test_a_run_of_the_version_before_goes_on(record):
    seen = record(steps=5)
    path = seen.folder / "manifest.json"
    old = json.loads(path.read_text())
    del old["optimizer"]["classes"]
    for group in old["optimizer"]["groups"]:
        del group["optimizer"]
    path.write_text(json.dumps(old))
    model = net()
    optimizer = sgd(model)
    torch.nn.utils.vector_to_parameters(seen.hand.weights[-1], model.parameters())
    with watch(model, optimizer, seen.folder, resume=True):
        train(model, optimizer, 3)
    assert len(open_run(seen.folder).trajectory) == 8


# -- after damage and kills --------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:100]])
def test_rows_of_a_damaged_last_segment_are_not_numbered_again(record, damage):
    seen = record(steps=10)
    last = sorted((seen.folder / "segments").iterdir())[-1]
    last.write_bytes(damage(last.read_bytes()))
    (seen.folder / "closed.json").unlink()
    model = net()
    optimizer = sgd(model)
    torch.nn.utils.vector_to_parameters(seen.hand.weights[-1], model.parameters())
    with pytest.warns(RuntimeWarning, match="goes on at step 11"), watch(model, optimizer, seen.folder, resume=True):
        hand = train(model, optimizer, 3)
    with pytest.warns(RuntimeWarning, match="1 segment"):
        t = open_run(seen.folder).trajectory
    assert t.steps.tolist() == [*range(7), 11, 12, 13]
    assert t.gaps == ((7, 11),)
    assert torch.equal(t.weights(13), hand.weights[-1])


WRITER = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/src"]
from tests.recording.kill_writer import child
child({folder!r}, "exact", pause=0.002)
"""


@pytest.fixture
def writer(tmp_path):
    """A process that records without end, and its folder."""
    code = WRITER.format(root=str(ROOT), folder=str(tmp_path / "run"))
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not list((tmp_path / "run").glob("segments/0*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    yield process, tmp_path / "run"
    if process.poll() is None:
        process.kill()
    process.wait()


def test_reading_while_another_process_writes(writer):
    process, folder = writer
    lengths = []
    while len(lengths) < 20 or len(set(lengths)) < 8:
        t = open_run(folder).trajectory
        lengths.append(len(t))
        assert t.damaged == ()
        assert t.gaps == ()
        check_rows(t)
        assert process.poll() is None
    assert lengths == sorted(lengths)
    model, optimizer = toy()
    with pytest.raises(RunError, match=f"being recorded by process {process.pid}"):
        watch(model, optimizer, folder, resume=True)


def test_a_killed_run_goes_on(writer):
    process, folder = writer
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (folder / "segments" / ".000999-001002.tmp1").write_bytes(b"half")
    t = open_run(folder).trajectory
    kept = int(t.steps[-1]) + 1
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)

    model, optimizer = toy()  # trained again up to the last recorded step
    for number in range(kept):
        step(model, optimizer, number)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorder = watch(model, optimizer, folder, resume=True)
    for number in range(kept, kept + 10):
        step(model, optimizer, number)
    recorder.close()
    t = open_run(folder).trajectory
    assert t.gaps == ()
    assert int(t.steps[-1]) == kept + 9
    check_rows(t)
    assert not [path for path in (folder / "segments").iterdir() if path.name.startswith(".")]

    for number in range(kept + 10, kept + 13):  # from a checkpoint that is younger than what was written
        step(model, optimizer, number)
    recorder = watch(model, optimizer, copy, resume=True)
    with pytest.warns(RuntimeWarning, match=f"after step {kept - 1}"):
        step(model, optimizer, kept + 13)
    recorder.close()
    t = open_run(copy).trajectory
    assert t.gaps == ((kept, kept + 1),)
    assert torch.equal(t.weights(kept), by_hand(kept + 13)[-1])
    assert torch.equal(t.weights(kept + 1), flat(trainable(model)))
