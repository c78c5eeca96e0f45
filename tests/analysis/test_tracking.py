"""Curvature through training against dense Hessians at the recorded weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tests.conftest import classification_batches, classify, dense_truth, pooled
from thalweg.analysis.tracking import track_curvature
from thalweg.errors import InputError
from thalweg.problem import Problem
from thalweg.recording import open_run, watch
from thalweg.recording.anchors import read_anchor


def recorded(folder: Path, make, steps: int = 60, **options):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    batches = classification_batches((20, 20), 4, 3)
    optimizer = make(model.parameters())
    with watch(model, optimizer, folder, **options):
        for step in range(steps):
            optimizer.zero_grad()
            classify(model, batches[step % 2]).backward()
            optimizer.step()
    return open_run(folder).trajectory, Problem(model, classify, batches), batches


def truth_at(t, problem: Problem, batches, step: int):  # type: ignore[no-untyped-def]
    inputs, labels = pooled(batches)
    return dense_truth(problem.at(t.weights(step)).model, lambda call: cross_entropy(call(inputs), labels))


def test_values_persistence_and_threshold(tmp_path: Path) -> None:
    t, problem, batches = recorded(tmp_path / "run", lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.8))
    table = track_curvature(t, problem, [19, 39, 59], 3, tol=1e-9)
    spaces = []
    for row in table:
        true = truth_at(t, problem, batches, row["step"])
        assert row["values"] == pytest.approx(true.eigenvalues[:3].tolist(), rel=1e-7)
        assert row["threshold"] == pytest.approx(2 * 1.8 / 0.2)
        assert row["of_threshold"] == pytest.approx(row["values"][0] / 18, rel=1e-9)
        assert row["loss"] == pytest.approx(true.loss, rel=1e-12)
        vectors = torch.linalg.eigh(true.hessian)[1][:, -3:]
        spaces.append(vectors)
        first = vectors[:, -1]
        assert row["participation"] == pytest.approx(1 / float(len(first) * (first**4).sum()), rel=1e-5)
    assert table["persistence"][0] is None
    for number in (1, 2):
        true_share = float((spaces[number].T @ spaces[number - 1]).square().sum() / 3)
        assert table["persistence"][number] == pytest.approx(true_share, rel=1e-5)
    assert all(0 < value <= 1 for value in table["updates_captured"])


def test_steps_are_spread_to_the_last_one(tmp_path: Path) -> None:
    t, problem, _ = recorded(tmp_path / "run", lambda p: torch.optim.SGD(p, lr=0.2))
    table = track_curvature(t, problem, 4, 2)
    assert table["step"][-1] == 59
    assert len(table) == 4
    assert table["threshold"][0] == 10.0


def test_adam_is_held_against_its_preconditioned_threshold(tmp_path: Path) -> None:
    t, problem, batches = recorded(tmp_path / "run", lambda p: torch.optim.Adam(p, lr=0.01), segment_rows=40)
    table = track_curvature(t, problem, [59], 2, tol=1e-9)
    row = next(iter(table))
    assert row["threshold"] == pytest.approx(2 * 1.9 / (0.1 * 0.01))
    anchored = [s for s in t.segments if s.anchored]
    state = read_anchor(anchored[-1]).state
    assert state  # momenta stand with this anchor, else nothing below would be held against anything
    step = float(state[t.space.names[0]]["step"])
    scale = torch.cat([
        (state[name]["exp_avg_sq"].double() / (1 - 0.999**step)).sqrt().reshape(-1) + 1e-8 for name in t.space.names
    ])  # fmt: skip
    root = scale.rsqrt()
    true = torch.linalg.eigvalsh(root[:, None] * truth_at(t, problem, batches, 59).hessian * root)[-1]
    assert row["of_threshold"] == pytest.approx(float(true) / row["threshold"], rel=1e-6)


def test_other_optimizers_have_no_threshold_here(tmp_path: Path) -> None:
    t, problem, _ = recorded(tmp_path / "run", lambda p: torch.optim.RMSprop(p, lr=0.01), steps=20)
    assert track_curvature(t, problem, [19], 2)["threshold"] == [None]


def test_bad_input(tmp_path: Path) -> None:
    t, problem, _ = recorded(tmp_path / "run", lambda p: torch.optim.SGD(p, lr=0.2), steps=10)
    with pytest.raises(InputError, match="steps is empty"):
        track_curvature(t, problem, [])
    with pytest.raises(InputError, match="steps=0"):
        track_curvature(t, problem, 0)
    with pytest.raises(InputError, match="step 400"):
        track_curvature(t, problem, [400])
