"""Layer norm with a light second derivative: the dense Hessian, in every form that torch allows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.conftest import dense_truth, random_vector, relative_error, true_products
from thalweg import Problem
from thalweg.memory import nodes_behind
from thalweg.operators.light import light_operations

NORMS: dict[str, Callable[[], nn.Module]] = {
    "affine": lambda: nn.LayerNorm(5),
    "without bias": lambda: nn.LayerNorm(5, bias=False),
    "plain": lambda: nn.LayerNorm(5, elementwise_affine=False),
    "two axes": lambda: nn.LayerNorm((2, 5)),
    "large eps": lambda: nn.LayerNorm(5, eps=0.3),
}


def net(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), norm, nn.Tanh(), nn.Linear(5, 5), nn.LayerNorm(5), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model


def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(6, 2, 4).double(), torch.randint(0, 3, (6, 2))


def loss(model: Callable[[Tensor], Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


@pytest.mark.parametrize("make", NORMS.values(), ids=NORMS.keys())
def test_products_are_those_of_the_dense_hessian(make: Callable[[], nn.Module]) -> None:
    model, batch = net(make()), data()
    truth = dense_truth(model, lambda call: loss(call, batch))
    problem = Problem(model, loss, [batch])
    vectors = random_vector(problem.space.size, columns=3)
    assert relative_error(problem.hessian() @ vectors, truth.hessian @ vectors) < 1e-13
    for layer in problem.space.layers:  # each block asks for another selection of derivatives
        rows = torch.arange(layer.start, layer.stop)
        block = problem.hessian(layers=lambda name, wanted=layer.name: name == wanted)
        expected = truth.hessian[rows][:, rows] @ vectors[rows]
        assert float((block @ vectors[rows] - expected).norm()) < 1e-13 * float(truth.hessian.norm())


def test_frozen_scales_change_nothing() -> None:
    model, batch = net(nn.LayerNorm(5)), data()
    model[1].weight.requires_grad_(False)
    model[4].bias.requires_grad_(False)
    truth = dense_truth(model, lambda call: loss(call, batch))
    problem = Problem(model, loss, [batch])
    vectors = random_vector(problem.space.size, columns=3)
    assert relative_error(problem.hessian() @ vectors, truth.hessian @ vectors) < 1e-13


def test_the_light_way_is_taken_and_has_torchs_values() -> None:
    model, (inputs, _) = net(nn.LayerNorm(5)), data()
    plain = model(inputs)
    with light_operations():
        light = model(inputs)
        bare = functional.layer_norm(inputs, (4,))
    assert torch.equal(light, plain)
    assert "_NormBackward" in {node.name() for node in nodes_behind([light])}
    assert "_NormBackward" not in {node.name() for node in nodes_behind([plain])}
    assert not bare.requires_grad


def test_losses_that_differentiate_the_model_keep_torchs_derivatives() -> None:
    model, (inputs, _) = net(nn.LayerNorm(5)), data()

    def steepness(call: Callable[[Tensor], Tensor]) -> Tensor:
        x = inputs.clone().requires_grad_()
        (slope,) = torch.autograd.grad(call(x).square().sum(), x, create_graph=True)
        return slope.square().mean()

    problem = Problem(model, lambda m, _: steepness(m), [inputs], weight=lambda _: 1.0)
    vectors = random_vector(problem.space.size, columns=2)
    _, gradient, products = true_products(model, steepness, vectors)
    assert relative_error(problem.gradient(), gradient) < 1e-12
    assert relative_error(problem.hessian(chunk=None) @ vectors, products) < 1e-12
