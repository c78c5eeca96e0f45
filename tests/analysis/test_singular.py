"""Curvature of singular directions against dense Hessians, and controls that chance alone explains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.conftest import classification_batches, classify, small_case
from thalweg.analysis.singular import MOST_MATRICES, singular_curvature, singular_record
from thalweg.directions import Directions, random_directions
from thalweg.errors import InputError
from thalweg.problem import Problem
from thalweg.solvers.lanczos import eigenpairs
from thalweg.solvers.svd import weight_svd


@pytest.fixture(scope="module")
def case():  # type: ignore[no-untyped-def]
    return small_case()


def test_curvatures_are_the_dense_ones(case) -> None:  # type: ignore[no-untyped-def]
    problem = Problem(case.model, classify, case.batches)
    found = weight_svd(case.model, 3)
    table = singular_curvature(problem, found, controls=300, seed=1)
    for number, row in enumerate(table):
        vector = found.rows.dense(number)
        assert row["curvature"] == pytest.approx(float(vector @ case.truth.hessian @ vector), rel=1e-8)
        span = next(p.span for p in problem.space.parameters if p.name == row["parameter"])
        block = case.truth.hessian[span, span]
        # the mean over random outer products is the mean of the diagonal
        expected = float(block.trace()) / len(block)
        assert row["control"] == pytest.approx(expected, abs=4 * row["control_error"] / 300**0.5)
        assert row["ratio"] == pytest.approx(row["curvature"] / row["control"])
        assert row["captured"] is None


def test_how_far_they_lie_in_the_layers_eigenvectors(case) -> None:  # type: ignore[no-untyped-def]
    problem = Problem(case.model, classify, case.batches)
    found = weight_svd(case.model, 2)
    blocks = {layer.name: eigenpairs(problem.hessian(layer.name), 3, tol=1e-9) for layer in problem.space.layers}
    table = singular_curvature(problem, found, blocks, controls=2)
    for number, row in enumerate(table):
        layer = problem.space.layer(row["layer"])
        _, vectors = torch.linalg.eigh(case.truth.hessian[layer.span, layer.span])
        part = found.rows.dense(number)[layer.span]
        assert row["captured"] == pytest.approx(float((vectors[:, -3:].T @ part).square().sum()), rel=1e-5)
        assert row["captured_by_chance"] == 3 / layer.size


def test_of_many_matrices_the_largest_are_measured() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(18)), nn.Linear(3, 4), nn.Linear(4, 4)).double()
    batches = classification_batches((6,), 3, 4)
    table = singular_record(Problem(model, classify, batches))
    assert len(table) == MOST_MATRICES
    assert {"18.weight", "19.weight"} <= set(table["parameter"])
    assert set(table["controls"]) == {5}
    more = singular_record(Problem(model, classify, batches), products=10 * MOST_MATRICES)
    assert len(more) == 3 * MOST_MATRICES
    assert set(more["controls"]) == {7}


def test_bad_input(case) -> None:  # type: ignore[no-untyped-def]
    problem = Problem(case.model, classify, case.batches)
    with pytest.raises(InputError, match="no singular directions"):
        singular_curvature(problem, random_directions(problem.space, 2))
    with pytest.raises(InputError, match="controls=1"):
        singular_curvature(problem, weight_svd(case.model), controls=1)
    with pytest.raises(InputError):
        singular_curvature(problem, weight_svd(nn.Linear(3, 3)))
    with pytest.raises(InputError, match="length 7"):
        singular_curvature(problem, weight_svd(case.model), {"0": Directions(torch.ones(1, 7))}, controls=2)
