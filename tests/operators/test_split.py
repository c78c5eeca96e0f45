"""The Hessian by differences of gradients that ranks hold in parts; here one process holds all parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.collectives import ALONE, Layout
from thalweg.operators import split
from thalweg.operators.split import DRAWN, ShardedHessian


class Whole:
    """A problem as a split model gives it, on one process; counts its gradients."""

    def __init__(self, model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> None:
        self.problem = tw.Problem(model, lambda net, batch: nn.functional.mse_loss(net(batch[0]), batch[1]), data)
        self.space = self.problem.space
        spans = tuple(slice(entry.offset, entry.offset + entry.size) for entry in self.space.parameters)
        self.layout = Layout(self.space.size, ALONE, (spans,))
        self.gradients = 0

    def locals(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self.problem.parameters()]

    def weights(self) -> Tensor:
        return self.problem.weights()

    def gradient(self) -> Tensor:
        self.gradients += 1
        return self.problem.gradient()

    def describe(self) -> dict[str, Any]:
        return {}


def net(dtype: torch.dtype = torch.float64, act: type[nn.Module] = nn.Tanh) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), act(), nn.Linear(7, 3)).to(dtype)


def data(dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(4)
    return [(torch.randn(n, 5, generator=draw).to(dtype), torch.randn(n, 3, generator=draw).to(dtype)) for n in (9, 4)]


def dense(whole: Whole) -> tw.Problem:
    """The same problem at the same weights, on a model that nothing moves."""
    return whole.problem.at(whole.weights())


def test_products_are_those_of_the_exact_operator_and_so_is_the_stated_error() -> None:
    whole = Whole(net(), data())
    hessian, exact = ShardedHessian(whole), dense(whole).hessian()
    before = whole.weights()
    for seed in range(5):
        vector = torch.randn(whole.space.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        wanted = exact @ vector
        error = float((hessian @ vector - wanted).norm() / wanted.norm())
        assert error < 3 * hessian.product_error < 1e-6
    assert torch.equal(whole.weights(), before)
    pairs, true = tw.eigenpairs(hessian, 4, tol=1e-6), tw.eigenpairs(exact, 4, tol=1e-8)
    assert pairs.values is not None
    assert true.values is not None
    assert torch.allclose(pairs.values, true.values, rtol=1e-7)


@pytest.mark.parametrize("layers", ["0", "2", ["0", "2"]])
def test_a_block_is_the_exact_one_and_takes_over_the_step(layers: Any) -> None:
    whole = Whole(net(), data())
    near = ShardedHessian(whole)
    spent = whole.gradients
    block = ShardedHessian(whole, layers, near=near)
    assert whole.gradients - spent == 6  # two steps and one product more, two gradients each
    assert spent == 2 * (len(split.STEPS) + 1)
    exact = dense(whole).hessian(layers=layers)
    vector = torch.linspace(-1, 1, exact.shape[0], dtype=torch.float64)
    assert block.shape == exact.shape
    assert torch.allclose(block @ vector, exact @ vector, rtol=1e-6, atol=1e-8)
    assert block.describe()["layers"] == (layers if isinstance(layers, list) else [layers])


def test_a_step_that_does_badly_in_a_block_is_sought_again() -> None:
    whole = Whole(net(), data())
    near = ShardedHessian(whole)
    near.step *= 1e-8  # rounding is all that is left at this step
    spent = whole.gradients
    block = ShardedHessian(whole, "0", near=near)
    assert whole.gradients - spent == 6 + 2 * (len(split.STEPS) + 1)
    assert block.product_error < 1e-6


def test_rough_products_are_refused_and_moved_weights_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(split, "ROUGH", 1e-6)
        with pytest.raises(tw.InputError, match="% off at every step that was tried; they need gradients in float32"):
            ShardedHessian(Whole(net(torch.float32), data(torch.float32)))
    whole = Whole(net(), data())
    hessian = ShardedHessian(whole)
    with torch.no_grad():
        whole.locals()[0][0, 0] += 1e-3
    with pytest.raises(tw.StaleOperatorError):
        hessian @ torch.ones(whole.space.size, dtype=torch.float64)


def test_a_vector_of_nothing_stays_nothing() -> None:
    hessian = ShardedHessian(Whole(net(), data()))
    assert not bool((hessian @ torch.zeros(hessian.shape[0], dtype=torch.float64)).any())


def test_random_entries_do_not_depend_on_who_draws_them() -> None:
    hessian = ShardedHessian(Whole(net(), data()))
    size = 3 * DRAWN + 17
    whole = hessian._drawn(7, slice(0, size))
    assert len(whole) == size
    for start, stop in ((0, 5), (DRAWN - 2, DRAWN + 2), (DRAWN, 2 * DRAWN), (2 * DRAWN + 1, size), (9, 9)):
        assert torch.equal(hessian._drawn(7, slice(start, stop)), whole[start:stop])
    assert abs(float(whole.mean())) < 4 / size**0.5
    assert abs(float(whole.var()) - 1) < 4 * (2 / size) ** 0.5
    assert not torch.equal(hessian._drawn(8, slice(0, 50)), whole[:50])
    assert float(whole[:DRAWN] @ whole[DRAWN : 2 * DRAWN]) < 4 * DRAWN**0.5  # blocks do not repeat each other
