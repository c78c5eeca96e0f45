"""The table of directions against gains and curvatures computed densely in float64."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.conftest import classification_batches, classify, small_case
from thalweg.analysis.drift import drift
from thalweg.analysis.ranking import best_step, rank_directions
from thalweg.directions import Directions, random_directions
from thalweg.errors import InputError
from thalweg.losses import Loss
from thalweg.problem import Problem
from thalweg.recording import open_run, watch
from thalweg.solvers.gram import update_pca
from thalweg.solvers.lanczos import eigenpairs

pytestmark = pytest.mark.xdist_group("ranking")  # its module's fixtures are made once

PARTS = Loss(lambda model, batch: model(batch[0]), lambda output, batch: cross_entropy(output, batch[1]))


@pytest.fixture(scope="module")
def case():  # type: ignore[no-untyped-def]
    return small_case()


@pytest.fixture(scope="module")
def problem(case) -> Problem:  # type: ignore[no-untyped-def]
    return Problem(case.model, PARTS, case.batches)


def test_slopes_curvatures_and_gains_are_the_dense_ones(case, problem: Problem) -> None:  # type: ignore[no-untyped-def]
    directions = random_directions(problem.space, 3, seed=1, dtype=torch.float64)
    table = rank_directions(problem, Directions(5 * directions.vectors, space=problem.space), radius=0.1)
    weights = problem.weights()
    for row in table:
        unit = directions.vectors[row["index"]]
        slope, curvature = float(case.truth.gradient @ unit), float(unit @ case.truth.hessian @ unit)
        assert row["slope"] == pytest.approx(slope, rel=1e-9)
        assert row["curvature"] == pytest.approx(curvature, rel=1e-9)
        assert row["gradient_share"] == pytest.approx(slope**2 / float(case.truth.gradient.square().sum()), rel=1e-9)
        assert row["alignment"] == pytest.approx(float(weights @ unit) ** 2 / float(weights @ weights), rel=1e-9)
        assert row["productive"] == "untested"
        assert row["gain_held_out"] is None
        assert row["update_share"] is None
    assert table["gain"] == sorted(table["gain"], reverse=True)


def test_the_noise_is_that_of_single_samples_gradients(case, problem: Problem) -> None:  # type: ignore[no-untyped-def]
    unit = random_directions(problem.space, 1, seed=2, dtype=torch.float64)
    slopes = []
    for inputs, labels in case.batches:
        for number in range(len(inputs)):
            one = Problem(case.model, classify, [(inputs[number : number + 1], labels[number : number + 1])])
            slopes.append(float(one.gradient() @ unit.vectors[0]))
    true = torch.tensor(slopes).double()
    expected = math.sqrt(float(true.var(unbiased=False)) / len(true))
    assert rank_directions(problem, unit)["noise"] == [pytest.approx(expected, rel=1e-6)]
    assert rank_directions(Problem(case.model, classify, case.batches), unit)["noise"] == [None]


@pytest.mark.parametrize("curvature", [2.0, -1.0, 0.0])
@pytest.mark.parametrize("radius", [0.05, 10.0, None])
def test_the_best_step_is_the_best_within_the_radius(curvature: float, radius: float | None) -> None:
    slope = 0.3
    step, gain, bounded = best_step(slope, curvature, None, radius)
    if radius is None and curvature <= 0:
        assert (step, gain, bounded) == (0.0, 0.0, True)
        return
    reach = radius if radius is not None else 10.0
    tried = torch.linspace(-reach, reach, 200_001, dtype=torch.float64)
    falls = -(slope * tried + curvature * tried**2 / 2)
    if curvature > 0 or radius is not None:
        assert gain == pytest.approx(float(falls.max()), rel=1e-5)
        assert step == pytest.approx(float(tried[falls.argmax()]), abs=2e-4 * reach)
    assert bounded == (curvature <= 0 or slope / curvature > reach)


def test_noise_takes_off_what_it_adds_on_average() -> None:
    assert best_step(0.3, 2.0, 0.1, None)[1] == pytest.approx((0.09 - 0.01) / 4)
    assert best_step(0.1, 2.0, 0.3, None)[1] == 0.0


def test_the_held_out_gain_is_of_the_same_step(case, problem: Problem) -> None:  # type: ignore[no-untyped-def]
    other = Problem(case.model, PARTS, classification_batches((11,), 4, 3, seed=9))
    unit = random_directions(problem.space, 1, seed=3, dtype=torch.float64)
    row = next(iter(rank_directions(problem, unit, other, radius=0.01)))
    vector = unit.vectors[0]
    step = best_step(row["slope"], row["curvature"], row["noise"], 0.01)[0]
    there = other.loss_along(vector, [0.0, step])
    assert row["gain_held_out"] == pytest.approx(float(there[0] - there[1]), rel=0.02)


def quadratic(model: nn.Module, batch: Tensor) -> Tensor:
    return batch.mean() * ((model.weight[0] * model.scale) * model.weight[0]).sum() / 2


def test_the_words(tmp_path: Path) -> None:
    """Stiff: noise and curvature; drifting: a steady slide without curvature; sloppy: neither."""
    size = 200
    model = nn.Linear(size, 1, bias=False, dtype=torch.float64)
    model.scale = torch.full((size,), 1e-5, dtype=torch.float64)
    model.scale[:5] = 1.0
    with torch.no_grad():
        model.weight.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    with watch(model, optimizer, tmp_path / "run"):
        for _ in range(200):
            model.weight.grad = (model.scale * model.weight.detach()).clone()
            model.weight.grad[0, :5] += torch.randn(5, generator=generator, dtype=torch.float64)
            model.weight.grad[0, 5] -= 0.1
            model.weight.grad[0, 6:] += 1e-4 * torch.randn(size - 6, generator=generator, dtype=torch.float64)
            optimizer.step()
    t = open_run(tmp_path / "run").trajectory
    found = drift(t)
    assert found.found
    problem = Problem(model, quadratic, [torch.ones(2, dtype=torch.float64)])
    units = torch.eye(size, dtype=torch.float64)[[0, 5, 150]]
    mine = Directions(units, label="mine", space=problem.space)
    table = rank_directions(problem, [mine, found.direction], trajectory=t, drift=found)
    words = {(row["label"], row["index"]): row["words"] for row in table}
    assert words == {("mine", 0): "stiff", ("mine", 1): "drifting", ("mine", 2): "sloppy", ("drift", 0): "drifting"}
    shares = {row["index"]: row["update_share"] for row in table if row["label"] == "mine"}
    updates = t.updates(0, 200)
    for index, unit in enumerate(units):
        assert shares[index] == pytest.approx(float((updates @ unit).square().sum() / updates.square().sum()), rel=1e-6)


def test_every_kind_of_direction_takes_part(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    batches = [(x.float(), y) for x, y in classification_batches((40,), 4, 3)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with watch(model, optimizer, tmp_path / "run"):
        for _ in range(100):
            optimizer.zero_grad()
            classify(model, batches[0]).backward()
            optimizer.step()
    t = open_run(tmp_path / "run").trajectory
    problem = Problem(model, classify, batches)
    table = rank_directions(
        problem, [eigenpairs(problem.hessian(), 2), update_pca(t, 3), drift(t).direction], problem, trajectory=t
    )
    assert len(table) == 6
    assert sorted(table["label"]) == ["Hessian eigenvectors"] * 2 + ["PCA of updates"] * 3 + ["drift"]
    for train, held_out in zip(table["curvature"], table["curvature_held_out"], strict=True):
        assert train == pytest.approx(held_out, rel=1e-4, abs=1e-7)
    first = next(row for row in table if row["label"] == "Hessian eigenvectors" and row["index"] == 0)
    pairs = eigenpairs(problem.hessian(), 2)
    share = float(pairs.layer_energy()[0].max())
    assert f"{share:.0%}" in first["layers"]


def test_bad_input(problem: Problem) -> None:
    with pytest.raises(InputError, match="no directions were given"):
        rank_directions(problem, [])
    with pytest.raises(InputError, match="has length 7"):
        rank_directions(problem, Directions(torch.ones(1, 7), label="other"))
    with pytest.raises(InputError, match="length zero"):
        rank_directions(problem, Directions(torch.zeros(1, problem.space.size, dtype=torch.float64)))
