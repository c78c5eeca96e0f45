"""The table of layers against dense blocks, and its intervals against batches drawn by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import classification_batches, classify, classify_summed, dense_truth, small_case
from thalweg.analysis.drift import drift
from thalweg.analysis.layer_ranking import rank_layers
from thalweg.errors import InputError
from thalweg.problem import Problem
from thalweg.recording import open_run, watch


def test_gains_and_costs_are_those_of_the_dense_blocks() -> None:
    case = small_case()
    problem = Problem(case.model, classify, case.batches)
    table = rank_layers(problem, probes=400, seed=1)
    weights, true = problem.weights(), case.truth
    for row, layer in zip(table, problem.space.layers, strict=True):
        gradient, block = true.gradient[layer.span], true.hessian[layer.span, layer.span]
        square = float(gradient @ gradient)
        gain = square**2 / (2 * float(gradient @ block @ gradient))
        assert row["gain"] == pytest.approx(gain, rel=1e-8)
        assert row["trace"] == pytest.approx(float(block.trace()), abs=4 * row["trace_error"])
        scale = float(weights[layer.span].square().sum()) / layer.size / 2
        assert row["noise_cost"] == pytest.approx(row["trace"] * scale, rel=1e-9)
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
        assert row["update_energy"] is None
        assert row["drift_share"] is None
    assert sorted(table["fine_tuning"]) == [1, 2]
    first = int(np.argmax(table["gain"]))
    assert table["fine_tuning"][first] == 1
    cheapest = int(
        np.argmin([cost / size for cost, size in zip(table["noise_cost"], table["parameters"], strict=True)])
    )
    assert table["compression"][cheapest] == 1


def test_a_summed_loss_says_the_same() -> None:
    case = small_case()
    mean = rank_layers(Problem(case.model, classify, case.batches), seed=3)
    total = rank_layers(Problem(case.model, classify_summed, case.batches, reduction="sum"), seed=3)
    for a, b in zip(mean, total, strict=True):
        for name in ("gain", "trace", "noise_cost", "gain_high"):
            assert a[name] == pytest.approx(b[name], rel=1e-8)


def test_intervals_over_batches_widen_with_their_scatter() -> None:
    case = small_case()
    batches = classification_batches((20,) * 12, 4, 3, seed=4)
    alike = Problem(case.model, classify, [batches[0]] * 12)
    table = rank_layers(alike, seed=0)
    for row in table:
        assert row["gain_low"] == pytest.approx(row["gain_high"], rel=1e-9)
        assert row["fine_tuning_low"] == row["fine_tuning_high"] == row["fine_tuning"]
    scattered = rank_layers(Problem(case.model, classify, batches), seed=0)
    assert all(row["gain_high"] > 1.05 * row["gain_low"] for row in scattered)
    alone = rank_layers(Problem(case.model, classify, batches[:1]), seed=0)
    assert all(row["gain_low"] is None for row in alone)


def test_the_interval_covers_what_further_data_says() -> None:
    """90 % intervals from 16 batches, against the gain on very many."""
    case = small_case()
    reference = classification_batches((4000,), 4, 3, seed=50)
    inputs, labels = reference[0]
    true = dense_truth(case.model, lambda call: nn.functional.cross_entropy(call(inputs), labels))
    problem = Problem(case.model, classify, reference)
    layer = problem.space.layers[0]
    gradient, block = true.gradient[layer.span], true.hessian[layer.span, layer.span]
    gain = float(gradient @ gradient) ** 2 / (2 * float(gradient @ block @ gradient))
    hits = 0
    for seed in range(20):
        batches = classification_batches((200,) * 16, 4, 3, seed=100 + seed)
        row = next(iter(rank_layers(Problem(case.model, classify, batches), probes=2, seed=seed)))
        hits += row["gain_low"] <= gain <= row["gain_high"]
    assert hits >= 14


def line(model: nn.Module, batch: Tensor) -> Tensor:
    """Bends down along the first layer's gradient."""
    return (batch * (model[0].weight.sum() - model[0].weight.square().sum() + model[1].weight.square().sum())).mean()


def test_a_layer_that_bends_down_has_no_best_step_and_comes_last() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)).double()
    table = rank_layers(Problem(model, line, [torch.ones(2, dtype=torch.float64)] * 2))
    assert table["gain"][0] is None
    assert table["fine_tuning"] == [2, 1]


def test_updates_and_drift_of_a_run(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    batches = classification_batches((20,) * 5, 4, 3)
    with watch(model, optimizer, tmp_path / "run"):
        for step in range(150):
            optimizer.zero_grad()
            classify(model, batches[step % 5]).backward()
            optimizer.step()
    t = open_run(tmp_path / "run").trajectory
    found = drift(t, level=1.0)  # whatever it is, its shares are told
    table = rank_layers(Problem(model, classify, batches), t, drift=found)
    updates = t.updates(0, 150)
    for row, layer in zip(table, t.space.layers, strict=True):
        share = float(updates[:, layer.span].square().sum() / updates.square().sum())
        assert row["update_energy"] == pytest.approx(share, rel=1e-6)
        assert row["update_energy_low"] <= share <= row["update_energy_high"]
        direction = found.direction.rows.dense(0)
        assert row["drift_share"] == pytest.approx(float(direction[layer.span].square().sum()), rel=1e-5)


def test_bad_input() -> None:
    case = small_case()
    with pytest.raises(InputError, match="probes=1"):
        rank_layers(Problem(case.model, classify, case.batches), probes=1)
