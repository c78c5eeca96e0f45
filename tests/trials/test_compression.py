"""Compressed layers and single steps: against what they must be, and against losses that are really measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

import thalweg as tw
from tests.trials.planted import regression
from thalweg.tasks.digits import digits_task, train
from thalweg.trials.arms import controls_of, make_way
from thalweg.trials.compression import compression, compression_of, compression_orders, quantised, truncated
from thalweg.trials.ground import make_ground
from thalweg.trials.lines import line_steps
from thalweg.trials.training import run_cell


@pytest.fixture(scope="module")
def task() -> tw.Task:
    found = digits_task(hidden=(24, 16))
    optimizer = torch.optim.SGD(found.model.parameters(), lr=0.1, momentum=0.9)
    train(found, optimizer, epochs=10)
    return found


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_quantised_values_are_the_nearest_of_so_many(bits: int) -> None:
    tensor = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    found = quantised(tensor, bits)
    for row, original in zip(found, tensor, strict=True):
        levels = original.abs().max() / (2 ** (bits - 1) - 1) * torch.arange(-(2 ** (bits - 1) - 1), 2 ** (bits - 1))
        nearest = levels[(original[:, None] - levels).abs().argmin(dim=1)]
        torch.testing.assert_close(row, nearest)
        assert len(row.unique()) <= 2**bits - 1


def test_truncated_is_eckart_and_young() -> None:
    tensor = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.svdvals(tensor)
    found = truncated(tensor, 0.5)
    assert int(torch.linalg.matrix_rank(found)) == 3
    assert float((tensor - found).norm()) == pytest.approx(float(values[3:].norm()))
    kernel = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    assert truncated(kernel, 0.5).shape == kernel.shape


def test_biases_and_other_layers_stay(task: tw.Task) -> None:
    problem = task.problem()
    change = problem.space.unflatten(compression_of(problem, ["2"], 4))
    assert {name for name, part in change.items() if part.any()} == {"2.weight"}


def test_the_foretold_loss_is_the_measured_one_where_the_change_is_small(task: tw.Task) -> None:
    table = compression(task.problem(), task.problem(held_out=True), [6, 4, 2])
    fine = [row for row in table if row["to"] == 6]
    for row in fine:
        assert row["predicted"] == pytest.approx(row["measured"], rel=0.3, abs=2e-5)
    assert all(row["predicted"] == pytest.approx(row["slope"] + row["bend"]) for row in table)
    correlation = stats.spearmanr(table["predicted"], table["measured"]).statistic
    assert correlation > 0.8
    weights = task.problem().weights()
    row = next(row for row in table if (row["layer"], row["to"]) == ("2", 2))
    there = task.problem(held_out=True).at(weights + compression_of(task.problem(), ["2"], 2)).loss()
    assert row["held_out"] == pytest.approx(there - task.problem(held_out=True).loss())


def test_orders_end_where_all_are_compressed(task: tw.Task) -> None:
    found = compression_orders(task.problem(), task.problem(held_out=True), 3, draws=10)
    ends = {round(order["losses"][-1], 9) for order in found["orders"].values()}
    assert len(ends) == 1
    for order in found["orders"].values():
        assert sorted(order["layers"]) == sorted(found["parameters"])
        sizes = [found["parameters"][name] for name in order["layers"]]
        assert order["mean"] == pytest.approx(np.average(order["losses"], weights=sizes))
        assert 0 <= order["better_than"] <= 1
    best = min(found["random"])
    assert found["orders"]["predicted"]["mean"] <= best * 1.5


def test_the_line_search_finds_what_a_parabola_foretells() -> None:
    """On squared error of a linear model the loss is a parabola, exactly."""
    task, _ = regression(3)
    problem = task.problem()
    directions = tw.random_directions(problem.space, 5, seed=2)
    table = line_steps(problem, directions, task.problem(held_out=True), radius=5.0)
    for row in table:
        assert row["step"] == pytest.approx(-row["slope"] / row["curvature"], rel=1e-4)
        assert row["predicted"] == pytest.approx(row["slope"] ** 2 / (2 * row["curvature"]), rel=1e-4)
        assert row["measured"] == pytest.approx(row["predicted"], rel=1e-3)
        assert row["best"] == pytest.approx(row["predicted"], rel=1e-2)
        assert row["best_step"] == pytest.approx(row["step"], rel=0.05)
    short = line_steps(problem, directions, radius=1e-3)
    assert all(abs(step) <= 1e-3 for step in short["step"])
    assert short["held_out"] == [None] * 5
    with pytest.raises(tw.InputError, match="radius=0"):
        line_steps(problem, directions, radius=0.0)


def test_the_arms_that_jump(task: tw.Task) -> None:
    ground = make_ground(task)
    way = make_way(ground, "line:eigenvectors:3", torch.Generator())
    assert way.jump is not None
    jump = way.jump(ground, way)
    assert way.basis is not None
    basis = way.basis.vectors
    assert (jump - (basis @ jump) @ basis).norm() < 1e-4 * jump.norm()
    for name in ("line:eigenvectors:3", "compress:cheap:1:4"):
        cell = run_cell(ground, name, 1, 1.0, (4, 8), "judging")
        assert cell.loss == cell.losses[1]  # nothing is trained after the jump
        assert cell.loss != cell.losses[0]
    problem = ground.judging.at(ground.start + jump)
    assert run_cell(ground, "line:eigenvectors:3", 1, 1.0, (4,), "judging").loss == pytest.approx(
        problem.loss(), rel=1e-5
    )
    shorter = run_cell(ground, "line:eigenvectors:3", 1, 0.0, (4,), "judging")
    assert shorter.loss == pytest.approx(shorter.losses[0])
    assert controls_of(ground, "line:eigenvectors:3")[0] == "line:eigenvectors:3/random"
    control = make_way(ground, "line:eigenvectors:3/random", torch.Generator().manual_seed(3))
    assert control.basis is not None
    assert control.jump is not None
    other = control.jump(ground, control)
    inside = control.basis.vectors
    assert (other - (inside @ other) @ inside).norm() < 1e-4 * other.norm()


def test_bad_compression(task: tw.Task) -> None:
    ground = make_ground(task)
    for name in ("compress:cheap:1:1", "compress:cheap:1:2.5", "compress:cheap:1:0"):
        with pytest.raises(tw.InputError, match="bits from 2 to 32"):
            make_way(ground, name, torch.Generator())
    with pytest.raises(tw.InputError, match="give one"):
        make_way(ground, "extrapolate:10", torch.Generator())
