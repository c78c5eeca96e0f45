"""Gauss-Newton and empirical Fisher held against curvlinops, which goes forward by `jvp` and back by `vjp`."""

from __future__ import annotations

import pytest
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from tests.agreement.test_curvlinops import AGREEMENT, NETS, curvlinops, in_float32, multiplied
from tests.conftest import random_vector, recurrent_case, relative_error
from tests.operators.test_gauss_newton import CLASSIFY, predict, regression_case
from thalweg.losses import Loss
from thalweg.problem import Problem

PAIRS = {"gauss_newton": "GGNLinearOperator", "empirical_fisher": "EFLinearOperator"}


@pytest.mark.parametrize("ours", PAIRS)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_agrees(ours: str, name: str, reduction: str) -> None:
    """Batches of 9, 1 and 13 (of 5 and 2). Their sum over the data is N times the mean; so is their product."""
    model, batches, _ = in_float32(name)
    model.eval()
    loss = Loss(predict, lambda o, b: cross_entropy(o, b[1], reduction=reduction))
    operator = getattr(Problem(model, loss, batches, reduction=reduction), ours)()
    parameters = [tensor for tensor in model.parameters() if tensor.requires_grad]
    theirs = getattr(curvlinops, PAIRS[ours])(
        model, nn.CrossEntropyLoss(reduction=reduction), parameters, batches, check_deterministic=False
    )
    vectors = random_vector(operator.shape[0], 1, 3, parameters[0].dtype)
    factor = sum(len(batch[0]) for batch in batches) if reduction == "sum" else 1
    assert relative_error(factor * (operator @ vectors), multiplied(theirs, vectors)) < AGREEMENT


def test_gauss_newton_of_squared_errors_agrees() -> None:
    model, batches = regression_case()
    operator = Problem(model, Loss(predict, lambda o, b: mse_loss(o, b[1])), batches).gauss_newton()
    theirs = curvlinops.GGNLinearOperator(
        model, nn.MSELoss(), list(model.parameters()), batches, check_deterministic=False
    )
    vectors = random_vector(operator.shape[0], 1, 3)
    assert relative_error(operator @ vectors, multiplied(theirs, vectors)) < 1e-12


@pytest.mark.parametrize("ours", PAIRS)
def test_a_recurrent_net_agrees_in_float64(ours: str) -> None:
    case = recurrent_case()
    model = case.model.eval()
    operator = getattr(Problem(model, CLASSIFY, case.batches), ours)()
    theirs = getattr(curvlinops, PAIRS[ours])(
        model, nn.CrossEntropyLoss(), list(model.parameters()), case.batches, check_deterministic=False
    )
    vectors = random_vector(operator.shape[0], 1, 2)
    assert relative_error(operator @ vectors, multiplied(theirs, vectors)) < 1e-10
