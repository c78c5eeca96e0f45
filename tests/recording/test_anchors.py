"""Anchors: what makes an old step the old function, and training from it the old training."""

import json

import pytest
import torch
from torch import nn

from tests.recording.conftest import flat, net, trainable
from thalweg.errors import RunError
from thalweg.recording import open_run, watch
from thalweg.recording.anchors import read_anchor
from thalweg.recording.optimizers import STATE_SHARE

ADAM = {"lr": 0.01, "weight_decay": 0.02, "betas": (0.8, 0.99)}


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(9, 5, generator=generator), torch.randint(3, (9,), generator=generator)


def go_on(model, optimizer, steps):
    """Train with a batch and a learning rate that are functions of the step's number; weights after each step."""
    after, buffers = [], []
    for step in steps:
        optimizer.param_groups[0]["lr"] = 0.01 / (1 + step)
        optimizer.zero_grad()
        inputs, targets = batch(step)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        after.append(flat(trainable(model)))
        buffers.append({name: b.clone() for name, b in model.named_buffers()})
    return after, buffers


def anchors_of(folder):
    return [read_anchor(segment) for segment in open_run(folder).trajectory.segments]


def restore(anchor, model, optimizer):
    """Put an anchor back into a new model and optimizer, by hand."""
    torch.nn.utils.vector_to_parameters(anchor.weights, model.parameters())
    for name, buffer in model.named_buffers():
        buffer.copy_(anchor.buffers[name])
    for group, settings in zip(optimizer.param_groups, anchor.groups, strict=True):
        group.update({key: value for key, value in settings.items() if key != "optimizer"})
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {key: value.clone() for key, value in anchor.state[name].items()}


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_training_from_an_anchor_is_the_old_training(tmp_path, kind):
    model = net(norm=True)
    optimizer = getattr(torch.optim, kind)(model.parameters(), **ADAM)
    with watch(model, optimizer, tmp_path / "run", segment_rows=30):
        after, _ = go_on(model, optimizer, range(75))
    found = anchors_of(tmp_path / "run")
    assert [anchor.step for anchor in found] == [-1, 29, 59]
    anchor = found[1]
    assert anchor.groups[0]["lr"] == 0.01 / 30
    assert anchor.groups[0]["weight_decay"] == 0.02
    assert set(anchor.state["0.weight"]) == {"step", "exp_avg", "exp_avg_sq"}
    again = net(norm=True)
    other = getattr(torch.optim, kind)(again.parameters(), lr=1.0)
    restore(anchor, again, other)
    repeated, _ = go_on(again, other, range(30, 75))
    for ours, theirs in zip(repeated, after[30:], strict=True):
        assert torch.equal(ours, theirs)


def test_an_old_anchor_is_the_old_function(tmp_path):
    model = net(norm=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    inputs, _ = batch(1000)
    outputs = []
    with watch(model, optimizer, tmp_path / "run", segment_rows=4):
        for step in range(12):
            go_on(model, optimizer, [step])
            model.eval()
            outputs.append(model(inputs))
            model.train()
    for anchor in anchors_of(tmp_path / "run")[1:]:
        again = net(norm=True).eval()
        torch.nn.utils.vector_to_parameters(anchor.weights, again.parameters())
        with_new_buffers = again(inputs)
        for name, buffer in again.named_buffers():
            buffer.copy_(anchor.buffers[name])
        assert torch.equal(again(inputs), outputs[anchor.step])
        assert not torch.equal(with_new_buffers, outputs[anchor.step])


def test_the_first_anchor_is_the_training_before_the_first_step(tmp_path):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    go_on(model, optimizer, range(5))  # before the recording
    state = {key: value.clone() for key, value in optimizer.state[model[2].weight].items()}
    with watch(model, optimizer, tmp_path / "run"):
        go_on(model, optimizer, range(5, 8))
    anchor = anchors_of(tmp_path / "run")[0]
    assert anchor.state["2.weight"].keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(anchor.state["2.weight"][key], value)
    assert anchor.state["2.weight"]["step"] == 5


def test_the_state_takes_its_share_of_the_disk_and_no_more(tmp_path):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with watch(model, optimizer, tmp_path / "run", segment_rows=4):
        go_on(model, optimizer, range(100))
    found = anchors_of(tmp_path / "run")
    assert len(found) == 25
    one = sum(t.nbytes for state in found[-1].state.values() for t in state.values()) or sum(
        value.nbytes for state in optimizer.state.values() for value in state.values()
    )
    kept = [position for position, anchor in enumerate(found) if anchor.state]
    rows = 4 * 66 * 4
    assert kept[0] == -(-one // int(STATE_SHARE * rows))
    assert len(kept) >= 3
    assert len(kept) * one <= STATE_SHARE * 100 * 66 * 4


def test_without_moments_no_state_is_kept(tmp_path):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with watch(model, optimizer, tmp_path / "run", segment_rows=30, moments=False):
        go_on(model, optimizer, range(65))
    assert [anchor.state for anchor in anchors_of(tmp_path / "run")] == [{}] * 3
    assert anchors_of(tmp_path / "run")[2].groups[0]["lr"] == 0.01 / 60


def test_a_budget_holds_with_buffers_and_state(tmp_path):
    model = net(norm=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    watch(model, optimizer, tmp_path / "run", segment_rows=30, budget=60_000)
    with pytest.warns(RuntimeWarning, match="budget of 60,000 bytes"):
        go_on(model, optimizer, range(300))
    size = sum(path.stat().st_size for path in (tmp_path / "run" / "segments").iterdir())
    assert 30_000 < size <= 60_000
    assert any(anchor.state for anchor in anchors_of(tmp_path / "run"))


def test_where_the_budget_is_short_rows_go_before_state(tmp_path):
    model = nn.Linear(100, 50)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for budget, state in ((75_000, False), (200_000, True)):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        folder = tmp_path / str(budget)
        with watch(model, optimizer, folder, budget=budget):
            optimizer.step()
            optimizer.step()
        assert len(open_run(folder).trajectory) == 2
        assert bool(anchors_of(folder)[0].state) == state
        assert sum(path.stat().st_size for path in (folder / "segments").iterdir()) <= budget


def test_numbers_in_the_state_and_names_of_any_kind(tmp_path):
    model = nn.ParameterDict({"a/b": torch.ones(3), 'c"\n<b>': torch.ones(2)})
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2, history_size=2)

    def closure():
        optimizer.zero_grad()
        loss = sum((p**2).sum() for p in model.parameters())
        loss.backward()
        return loss

    with watch(model, optimizer, tmp_path / "run", segment_rows=40):
        for _ in range(50):
            optimizer.step(closure)
    state = anchors_of(tmp_path / "run")[1].state
    assert list(state) == [next(iter(model))]
    assert state[next(iter(model))]["n_iter"] > 0


def test_two_optimizers_in_one_anchor(tmp_path):
    model = net()
    first = torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)
    last = torch.optim.Adam(model[2].parameters(), lr=0.01)
    with watch(model, [first, last], tmp_path / "run", segment_rows=25):
        for step in range(30):
            nn.functional.cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
            first.step()
            last.step()
            if step == 24:
                moment = first.state[model[0].weight]["momentum_buffer"].clone()
    anchor = anchors_of(tmp_path / "run")[1]
    assert [(group["optimizer"], group["lr"]) for group in anchor.groups] == [(0, 0.1), (1, 0.01)]
    assert torch.equal(anchor.state["0.weight"]["momentum_buffer"], moment)
    assert set(anchor.state["2.bias"]) == {"step", "exp_avg", "exp_avg_sq"}


def test_a_segment_that_is_gone_is_named(tmp_path):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, tmp_path / "run"):
        go_on(model, optimizer, range(3))
    segment = open_run(tmp_path / "run").trajectory.segments[0]
    assert json.loads((tmp_path / "run" / "closed.json").read_text())["rows"] == 3
    segment.path.unlink()
    with pytest.raises(RunError, match="cannot be read any more"):
        read_anchor(segment)
