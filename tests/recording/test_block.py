"""Copying weights into a row: the short way through NumPy is taken only where it sees the same memory."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.recording.conftest import flat, net, trainable
from thalweg.recording import block, open_run, watch
from thalweg.recording.block import Block, Sources
from thalweg.recording.forecast import rows_of_a_block


def change_in_place(model):
    model[0].weight.data.add_(1.0)


def new_memory(model):
    model[0].weight.data = model[0].weight.data * 2


def new_strides_in_new_memory(model):
    model[0].weight.data = model[0].weight.data.T.contiguous().T + 1.0


def new_strides_on_the_same_memory(model):
    model[2].weight.data = model[2].weight.data.T


def new_dtype(model):
    model[0].weight.data = model[0].weight.data.to(torch.float16) + 1.0


def bfloat16(model):
    model.to(torch.bfloat16)


def memory_that_comes_again(model):
    """Give the memory back and take as much again: it may lie at the same address."""
    for _ in range(3):
        kept = model[0].weight.data.clone()
        model[0].weight.data = torch.empty(0)
        model[0].weight.data = kept + 1.0


CHANGES = (
    change_in_place,
    new_memory,
    new_strides_in_new_memory,
    new_strides_on_the_same_memory,
    new_dtype,
    bfloat16,
    memory_that_comes_again,
)


def square():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 7))


@pytest.mark.parametrize("short_way", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_row_is_what_the_parameters_are(tmp_path, monkeypatch, change, short_way):
    if not short_way:
        monkeypatch.setattr(block, "SMALL", 0)
    model = square()
    seen = []
    with watch(model, None, tmp_path / "run") as recorder:
        for number in range(6):
            (change_in_place if number % 3 else change)(model)
            recorder.step()
            seen.append(flat(trainable(model)).float())
    t = open_run(tmp_path / "run").trajectory
    for step, weights in enumerate(seen):
        assert torch.equal(t.weights(step), weights)


def test_the_short_way_is_taken_for_plain_small_parameters_only():
    model = net()
    parameters = trainable(model)
    sources = Sources([p.shape for p in parameters])
    row = np.zeros(66, dtype=np.float32)
    assert sources.copy_into(row, parameters)
    assert np.array_equal(row, flat(parameters).numpy())
    assert not sources.copy_into(np.zeros(66, dtype=np.float64), list(net(torch.float16).parameters()))
    assert not Sources([torch.Size([2**18 + 1])]).copy_into(np.zeros(2**18 + 1, np.float32), [torch.zeros(2**18 + 1)])

    class Special(torch.Tensor):
        pass

    special = torch.zeros(3).as_subclass(Special)
    assert not Sources([torch.Size([3])]).copy_into(np.zeros(3, np.float32), [special])


def test_blocks_that_follow_share_what_they_know_of_the_parameters():
    first = Block(2, [torch.Size([3])], 1, torch.float64)
    assert first.another().sources is first.sources
    assert first.weights.dtype == torch.float64
    assert first.weights.shape == (3, 3)


@pytest.mark.parametrize(("row", "rows"), [(68_904, 121), (1_077_736, 30), (4_080_000, 7), (2**25, 1), (2**30, 1)])
def test_blocks_stay_in_the_cache_and_hold_a_few_tens_of_rows_if_they_can(row, rows):
    assert rows_of_a_block(row) == rows
