"""The LSTM and the tabular regression: whole, deterministic, and they learn."""

from __future__ import annotations

import math

import pytest
import torch

from tests.conftest import dense_truth, pooled
from thalweg.errors import InputError
from thalweg.problem import Problem
from thalweg.solvers.lanczos import eigenpairs
from thalweg.tasks.digits import train
from thalweg.tasks.lstm import lstm_task
from thalweg.tasks.tabular import squared_error, tabular_task


def test_the_lstm_learns_to_foretell() -> None:
    task = lstm_task(samples=128, held_out=32)
    assert sum(p.numel() for p in task.model.parameters()) == 37_504
    assert task.optimizer is not None
    assert task.evaluate is not None
    before = task.evaluate(task.model)["bits_per_character"]
    assert before == pytest.approx(math.log2(128), abs=0.3)
    train(task, task.optimizer(task.model), epochs=12, batch=32)
    assert task.evaluate(task.model)["bits_per_character"] < before - 1.5


def test_the_lstm_sees_no_future() -> None:
    task = lstm_task(width=8, embedding=4, samples=8, held_out=4)
    text = next(iter(task.train))[0][:1]
    other = text.clone()
    other[0, 10] = (other[0, 10] + 1) % 128
    with torch.no_grad():
        change = (task.model(text) - task.model(other)).abs().amax(dim=(0, 2))
    assert float(change[:10].max()) == 0
    assert float(change[10:].min()) > 0


def test_the_regression_learns() -> None:
    task = tabular_task()
    assert sum(p.numel() for p in task.model.parameters()) == 4_929
    assert task.optimizer is not None
    assert task.evaluate is not None
    assert task.evaluate(task.model)["explained"] < 0.1
    train(task, task.optimizer(task.model), epochs=40, batch=32)
    assert task.evaluate(task.model)["explained"] > 0.3
    inputs, targets = pooled(list(task.train))
    assert torch.allclose(inputs.mean(dim=0), torch.zeros(10), atol=1e-5)
    assert float(targets.std()) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("make", [tabular_task, lstm_task])
def test_the_same_seed_makes_the_same_task(make) -> None:  # type: ignore[no-untyped-def]
    state = torch.get_rng_state()
    one, two, three = make(seed=3), make(seed=3), make(seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.problem().loss() == two.problem().loss() != three.problem().loss()
    assert one.held_out is not None
    seen = {tuple(row.tolist()) for batch in one.train for row in batch[0]}
    fresh = [tuple(row.tolist()) for batch in one.held_out for row in batch[0]]
    assert sum(row in seen for row in fresh) <= len(fresh) // 50


def test_the_regression_s_hessian_is_the_dense_one() -> None:
    task = tabular_task(hidden=(4,))
    task.model.double()
    batches = [(x.double(), y.double()) for x, y in task.train]
    problem = Problem(task.model, task.loss, batches)
    inputs, targets = pooled(batches)
    true = dense_truth(task.model, lambda call: squared_error(call(inputs), (inputs, targets)))
    found = eigenpairs(problem.hessian(), 3, tol=1e-8)
    assert found.values is not None
    assert found.values.tolist() == pytest.approx(true.eigenvalues[:3].tolist(), rel=1e-6)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="hidden='64'"):
        tabular_task(hidden="64")
