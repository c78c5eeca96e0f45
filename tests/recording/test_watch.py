import gc
import json
import os
import shutil
import subprocess
import sys
import textwrap
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.recording.conftest import flat, net, train, trainable
from thalweg.errors import InputError, RunError
from thalweg.recording import open_run, watch
from thalweg.recording.manifest import parse_bytes

ROOT = str(Path(__file__).parents[2])
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def run_python(code):
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_and_weights_are_those_of_a_plain_loop(record, name):
    seen = record(OPTIMIZERS[name], steps=30)
    t, hand = seen.trajectory, seen.hand
    assert t.steps.tolist() == list(range(30))
    assert torch.equal(t.updates(0, 30), hand.updates)
    for step in range(-1, 30):
        assert torch.equal(t.weights(step), hand.weights[step + 1])
    assert t.damaged == ()
    assert t.gaps == ()


def test_recording_does_not_change_the_training(record, tmp_path):
    seen = record(OPTIMIZERS["adam"])
    model = net()
    alone = train(model, torch.optim.Adam(model.parameters(), lr=0.01), 40)
    assert torch.equal(alone.weights[-1], seen.hand.weights[-1])


def test_every_sums_exactly_and_keeps_the_remainder(record):
    seen = record(steps=11, every=3, segment_rows=2)
    t, w = seen.trajectory, seen.hand.weights
    assert t.steps.tolist() == [2, 5, 8, 10]
    assert t.starts.tolist() == [0, 3, 6, 9]
    expected = torch.stack([w[3] - w[0], w[6] - w[3], w[9] - w[6], w[11] - w[9]])
    assert torch.equal(t.updates(0, 11), expected)
    assert torch.equal(t.weights(10), w[11])
    with pytest.raises(InputError, match="no weights after step 4: the nearest are"):
        t.weights(4)


def test_float64_parameters_are_kept_in_float64(record):
    seen = record(steps=9, dtype=torch.float64)
    assert seen.trajectory.updates(0, 9).dtype == torch.float64
    assert torch.equal(seen.trajectory.updates(0, 9), seen.hand.updates)


def test_frozen_tied_and_strided_parameters(record):
    model = net()
    model[0].bias.requires_grad_(False)
    model.append(nn.Linear(3, 3))
    model.append(nn.Linear(3, 3))
    model[4].weight = model[3].weight
    model[2].weight.data = model[2].weight.data.T.contiguous().T
    seen = record(model=model, steps=12)
    space = seen.trajectory.space
    assert space.frozen == ("0.bias",)
    assert space.tied == (("4.weight", "3.weight"),)
    assert torch.equal(seen.trajectory.weights(11), seen.hand.weights[-1])
    assert torch.equal(seen.trajectory.updates(0, 12), seen.hand.updates)


def test_buffers_of_the_segments_end(record):
    seen = record(model=net(norm=True), steps=12, segment_rows=5)
    buffers, step = seen.trajectory.buffers(6)
    assert step == 9
    assert set(buffers) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    for name, value in buffers.items():
        assert torch.equal(value, seen.hand.buffers[9][name])


def test_a_change_outside_the_optimizer_before_the_first_step_is_the_beginning(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, tmp_path / "run"):
        with torch.no_grad():
            model[0].weight.fill_(0.25)
        hand = train(model, optimizer, 3)
    t = open_run(tmp_path / "run").trajectory
    assert torch.equal(t.weights(-1), hand.weights[0])
    assert torch.equal(t.updates(0, 3), hand.updates)


def test_bfloat16_parameters_are_recorded_as_float32(tmp_path):
    model = net().to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, tmp_path / "run"):
        hand = train(model, optimizer, 4)
    assert torch.equal(open_run(tmp_path / "run").trajectory.weights(3), hand.weights[-1].float())


def test_scalars_learning_rates_and_times(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.02}], lr=0.1, momentum=0.5
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    losses = []
    recorder = watch(model, optimizer, tmp_path / "run", segment_rows=3)
    recorder.log(ahead=0.0)

    def after(step, loss):
        losses.append(loss)
        recorder.log(loss=torch.tensor(loss, dtype=torch.float64), ahead=step + 1)
        if step == 4:
            recorder.log(rare=7)

    train(model, optimizer, 8, after, schedule)
    recorder.close()
    t = open_run(tmp_path / "run").trajectory
    assert t.scalars["loss"].tolist() == losses
    assert t.scalars["ahead"].tolist() == list(range(8))
    assert t.scalars["rare"].isnan().tolist() == [step != 4 for step in range(8)]
    assert t.learning_rates[:, 0].tolist() == [0.1 * 0.5 ** (step // 2) for step in range(8)]
    assert t.learning_rates[:, 1].tolist() == [0.02 * 0.5 ** (step // 2) for step in range(8)]
    assert t.momenta.unique().tolist() == [0.5]
    assert bool((t.times.diff() >= 0).all())


def test_a_bad_scalar_warns_once_and_is_left_out(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = watch(model, optimizer, tmp_path / "run")
    with pytest.warns(RuntimeWarning, match="loss='high'") as caught:
        train(model, optimizer, 3, lambda step, loss: recorder.log(loss="high"))
    recorder.close()
    assert len(caught) == 1
    assert len(open_run(tmp_path / "run").trajectory) == 3


def test_nan_updates_are_recorded_and_weights_stay_exact(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def after(step, loss):
        if step == 2:
            model[0].weight.grad = None
            model[2].weight.data[0, 0] = torch.nan

    with watch(model, optimizer, tmp_path / "run"):
        hand = train(model, optimizer, 6, after)
    t = open_run(tmp_path / "run").trajectory
    assert t.updates(3, 4).isnan().any()
    for step in range(6):
        torch.testing.assert_close(t.weights(step), hand.weights[step + 1], rtol=0, atol=0, equal_nan=True)


def test_the_manifest_says_what_the_run_is(record):
    seen = record(lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.99)), steps=2)
    manifest = json.loads((seen.folder / "manifest.json").read_text())
    assert manifest["optimizer"]["class"] == "torch.optim.adam.Adam"
    group = manifest["optimizer"]["groups"][0]
    assert (group["lr"], group["betas"]) == (0.01, [0.8, 0.99])
    assert group["parameters"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert manifest["optimizer"]["state_at_start"] is False
    assert manifest["pid"] == os.getpid()
    assert manifest["versions"]["torch"] == torch.__version__
    assert set(manifest["dtypes"].values()) == {"float32"}
    assert list(manifest["dtypes"]) == [entry["name"] for entry in manifest["space"]["parameters"]]
    assert json.loads((seen.folder / "closed.json").read_text())["reason"] == "closed"


def test_a_compiled_model_is_unwrapped(tmp_path):
    model = net()
    wrapped = torch.compile(model, backend="eager")
    with watch(wrapped, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path / "run"):
        pass
    assert open_run(tmp_path / "run").space.names == ("0.weight", "0.bias", "2.weight", "2.bias")


def test_the_recording_ends_with_its_optimizer_and_keeps_no_model(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer, tmp_path / "run", every=2)
    hand = train(model, optimizer, 5)
    gone = weakref.ref(model)
    del model, optimizer
    gc.collect()
    assert gone() is None
    t = open_run(tmp_path / "run").trajectory
    assert t.steps.tolist() == [1, 3, 4]
    assert torch.equal(t.weights(4), hand.weights[-1])


def test_a_closed_recorder_is_silent(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = watch(model, optimizer, tmp_path / "run")
    train(model, optimizer, 2)
    recorder.close()
    recorder.close()
    recorder.log(loss=1.0)
    train(model, optimizer, 2)
    assert len(open_run(tmp_path / "run").trajectory) == 2


def test_it_closes_itself_at_exit(tmp_path):
    code = f"""
    import sys
    sys.path.insert(0, {ROOT!r})
    import torch
    from tests.recording.conftest import net, train
    from thalweg.recording import watch
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer, {str(tmp_path / "run")!r}, every=2)
    train(model, optimizer, 5)
    """
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert open_run(tmp_path / "run").trajectory.steps.tolist() == [1, 3, 4]


# -- budget ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"), [("2GiB", 2**31), ("500MB", 5 * 10**8), ("1e6", 10**6), (77, 77), ("1.5 kib", 1536)]
)
def test_budgets_in_words(given, expected):
    assert parse_bytes(given) == expected


@pytest.mark.parametrize("given", ["much", 0, -5, "0", True, float("nan"), "2GiB!", None.__class__])
def test_bad_budgets_are_named(given):
    with pytest.raises(InputError, match="budget="):
        parse_bytes(given)


def test_the_budget_stops_the_recording_and_not_the_training(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    budget = 40_000
    recorder = watch(model, optimizer, tmp_path / "run", budget=budget)
    with pytest.warns(RuntimeWarning, match="budget of 40,000 bytes") as caught:
        hand = train(model, optimizer, 200)
    assert len(caught) == 1
    assert recorder.closed
    size = sum(path.stat().st_size for path in (tmp_path / "run" / "segments").iterdir())
    assert budget / 2 < size <= budget
    t = open_run(tmp_path / "run").trajectory
    assert torch.equal(t.updates(0, 200), hand.updates[: len(t)])
    assert json.loads((tmp_path / "run" / "closed.json").read_text())["reason"] == "budget"


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"every": 1.5}, {"budget": "lots"}, {"budget": 10}, {"flush_seconds": 0}]
)
def test_bad_arguments_are_refused_and_leave_nothing(tmp_path, options):
    model = net()
    with pytest.raises(InputError, match=next(iter(options))):
        watch(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_an_optimizer_of_another_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds none of the 4 trainable parameters"):
        watch(net(), torch.optim.SGD(net().parameters(), lr=0.1), tmp_path / "run")
    with pytest.raises(InputError, match=r"no torch\.optim\.Optimizer"):
        watch(net(), object(), tmp_path / "run")
    model = net().requires_grad_(False)
    with pytest.raises(InputError, match="no trainable parameter"):
        watch(model, torch.optim.SGD(net().parameters(), lr=0.1), tmp_path / "run")


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    model = net()
    with pytest.raises(RunError, match="cannot be written"):
        watch(model, torch.optim.SGD(model.parameters(), lr=0.1), tmp_path / "run")


def test_a_folder_with_a_run_is_refused_unless_overwritten(record, tmp_path):
    seen = record(steps=5)
    (seen.folder / "notes.txt").write_text("mine")
    (seen.folder / "segments" / "mine.bin").write_text("mine")
    (seen.folder / "results").mkdir()
    (seen.folder / "results" / "old.json").write_text("{}")
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RunError, match="already holds a run; choose another folder, or overwrite=True"):
        watch(model, optimizer, seen.folder)
    assert len(open_run(seen.folder, verify=False).manifest["space"]["parameters"]) == 4
    with watch(model, optimizer, seen.folder, overwrite=True):
        hand = train(model, optimizer, 3)
    assert (seen.folder / "notes.txt").read_text() == "mine"
    assert not (seen.folder / "results" / "old.json").exists()
    (seen.folder / "segments" / "mine.bin").unlink()
    assert torch.equal(open_run(seen.folder).trajectory.updates(0, 3), hand.updates)


def test_a_second_writer_is_refused_with_the_holders_name(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    code = f"""
    import sys
    sys.path.insert(0, {ROOT!r})
    import torch
    from tests.recording.conftest import net
    from thalweg.recording import watch
    model = net()
    try:
        watch(model, torch.optim.SGD(model.parameters(), lr=0.1), {str(tmp_path / "run")!r}, overwrite=True)
    except Exception as error:
        print(type(error).__name__, error)
    """
    with watch(model, optimizer, tmp_path / "run"):
        train(model, optimizer, 2)
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
        )
        with pytest.raises(RunError, match=f"process {os.getpid()} on"):
            watch(model, optimizer, tmp_path / "run", overwrite=True)
    assert done.stdout.startswith("RunError"), done.stderr
    assert f"{tmp_path / 'run'} is being recorded by process {os.getpid()} on" in done.stdout
    assert len(open_run(tmp_path / "run").trajectory) == 2


# -- failures while training -------------------------------------------------------------------------------


def failing(tmp_path, spoil, steps=40, **options):
    """Train with something going wrong after step 19; what a plain loop gives; the warnings."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    recorder = watch(model, optimizer, tmp_path / "run", segment_rows=4, **options)

    def after(step, loss):
        if step == 19:
            while recorder._writer.rows < 16:
                pass
            spoil(model, tmp_path / "run")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hand = train(model, optimizer, steps, after)
        recorder.close()
    assert len(hand.weights) == steps + 1
    return hand, [str(w.message) for w in caught], recorder


def test_a_folder_removed_under_way_ends_the_recording_with_one_warning(tmp_path):
    def spoil(model, folder):
        shutil.rmtree(folder / "segments")

    _, messages, recorder = failing(tmp_path, spoil)
    assert len(messages) == 1
    assert "stopped recording" in messages[0]
    assert "No such file" in messages[0]
    assert recorder.closed


def test_a_folder_that_becomes_a_file(tmp_path):
    def spoil(model, folder):
        (folder / "segments").rename(tmp_path / "kept")
        (folder / "segments").write_text("in the way")

    hand, messages, _ = failing(tmp_path, spoil)
    assert len(messages) == 1
    (tmp_path / "run" / "segments").unlink()
    (tmp_path / "kept").rename(tmp_path / "run" / "segments")
    t = open_run(tmp_path / "run").trajectory
    assert len(t) >= 16
    assert torch.equal(t.updates(0, 40), hand.updates[: len(t)])


def test_a_parameter_that_changes_its_shape(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = watch(model, optimizer, tmp_path / "run")
    hand = train(model, optimizer, 6)
    model[2].bias.data = torch.zeros(1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with pytest.warns(RuntimeWarning, match=r"parameter 3 changed its shape from \(3,\) to \(1,\)") as caught:
        optimizer.step()
    optimizer.step()
    assert len(caught) == 1
    assert recorder.closed
    assert torch.equal(open_run(tmp_path / "run").trajectory.updates(0, 9), hand.updates)


def test_other_hooks_still_run_when_the_recording_fails(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer, tmp_path / "run")
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    model[2].bias.data = torch.zeros(1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with pytest.warns(RuntimeWarning, match="changed its shape"):
        optimizer.step()
    optimizer.step()
    assert calls == ["before", "after"] * 2


def test_a_warning_that_is_an_error_does_not_reach_the_training(tmp_path, capsys):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer, tmp_path / "run", budget=20_000, segment_rows=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, 100)
    assert "budget of 20,000 bytes" in capsys.readouterr().err


def test_a_full_disk(tmp_path):
    code = f"""
    import resource, sys, warnings
    sys.path.insert(0, {ROOT!r})
    import torch
    from tests.recording.conftest import net, train
    from thalweg.recording import watch
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recorder = watch(model, optimizer, {str(tmp_path / "run")!r}, segment_rows=4)
        def after(step, loss):
            if step == 19:
                while recorder._writer.rows < 16:
                    pass
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        hand = train(model, optimizer, 60, after)
        recorder.close()
    resource_free = [str(w.message) for w in caught]
    print(len(hand.gradients), len(resource_free), resource_free[0])
    """
    done = run_python(code)
    assert done.stdout.startswith("60 1 "), done.stdout + done.stderr
    assert "File too large" in done.stdout
    assert not [p for p in (tmp_path / "run" / "segments").iterdir() if p.name.startswith(".")]
    model = net()
    hand = train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 60)
    t = open_run(tmp_path / "run").trajectory
    assert len(t) >= 16
    assert torch.equal(t.updates(0, 60), hand.updates[: len(t)])


def test_a_forked_child_neither_records_nor_keeps_the_lock(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = watch(model, optimizer, tmp_path / "run")
    hand = train(model, optimizer, 3)
    child = os.fork()
    if child == 0:
        try:
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
            recorder.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert not recorder.closed
    recorder.close()
    assert torch.equal(open_run(tmp_path / "run").trajectory.updates(0, 9), hand.updates)
    assert torch.equal(flat(trainable(model)), hand.weights[-1])
