"""Activations with a light second derivative: the same function and derivatives as torch's, of every order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.conftest import dense_truth, random_vector, relative_error, true_products
from thalweg import Problem
from thalweg.memory import nodes_behind
from thalweg.operators.activations import GELU, SILU, TANH_GELU, Elementwise
from thalweg.operators.light import light_operations

KINDS = {"gelu": GELU, "tanh gelu": TANH_GELU, "silu": SILU}
MODULES: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "tanh gelu": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_derivatives_are_torchs(kind: Elementwise) -> None:
    x = torch.linspace(-9, 9, 301, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(kind.value(x).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(kind.slope(x.detach()), slope.detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(kind.bend(x.detach()), bend, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES.keys())
def test_hessians_are_the_dense_ones_by_the_light_way(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), make(), nn.Linear(5, 4), make(), nn.Linear(4, 3)).double()
    inputs, targets = torch.randn(9, 4).double(), torch.randint(0, 3, (9,))
    truth = dense_truth(model, lambda call: functional.cross_entropy(call(inputs), targets))
    problem = Problem(model, lambda m, b: functional.cross_entropy(m(b[0]), b[1]), [(inputs, targets)])
    vectors = random_vector(problem.space.size, columns=3)
    assert relative_error(problem.hessian() @ vectors, truth.hessian @ vectors) < 1e-14
    block = problem.hessian(layers="2")
    rows = problem.space.positions(block.space)
    assert relative_error(block @ vectors[rows], truth.hessian[rows][:, rows] @ vectors[rows]) < 1e-14
    with light_operations():
        outside = functional.cross_entropy(model(inputs), targets)
    assert "_ValueBackward" in {node.name() for node in nodes_behind([outside])}


def test_losses_that_differentiate_the_model_keep_torchs_derivatives() -> None:
    """Such a loss needs the third derivative of the activation."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 5), nn.GELU(), nn.Linear(5, 4), nn.SiLU(), nn.Linear(4, 1)).double()
    inputs = torch.randn(6, 2).double()

    def slope_is_one(call: Callable[[Tensor], Tensor]) -> Tensor:
        x = inputs.clone().requires_grad_()
        (slope,) = torch.autograd.grad(call(x).sum(), x, create_graph=True)
        return (slope[:, 0] - 1).square().mean()

    problem = Problem(model, lambda m, _: slope_is_one(m), [inputs], weight=lambda _: 1.0)
    vectors = random_vector(problem.space.size, columns=3)
    value, gradient, products = true_products(model, slope_is_one, vectors)
    assert problem.loss() == pytest.approx(value, rel=1e-14)
    assert relative_error(problem.gradient(), gradient) < 1e-13
    assert relative_error(problem.hessian(chunk=None) @ vectors, products) < 1e-13


@pytest.mark.parametrize(
    "call",
    [
        lambda x: functional.silu(x * 1.0, inplace=True),
        lambda x: functional.gelu(input=x, approximate="tanh"),
        lambda x: functional.gelu(x, approximate="none"),
        lambda x: functional.silu(input=x),
    ],
)
def test_every_way_of_calling_gives_torchs_value(call: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(7, dtype=torch.float64, requires_grad=True)
    with light_operations():
        light = call(x)
    torch.testing.assert_close(light, call(x), rtol=0, atol=0)
    assert not any(node.name() == "_ValueBackward" for node in nodes_behind([call(x)]))
