"""Batch norm as an affine map and folded into convolutions: the same function, with the same derivatives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.conftest import dense_truth, random_vector, relative_error
from thalweg import Problem
from thalweg.batch_norm import affine_batch_norm
from thalweg.evaluation import evaluating


class Branching(nn.Module):
    """A convolution whose output goes through a batch norm and past it, one that is changed in place, and others."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect", bias=bias)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2, stride=2, bias=bias)
        self.norm_after_change = nn.BatchNorm2d(4)
        self.third = nn.Conv2d(4, 4, 1, bias=bias)
        self.plain = nn.BatchNorm2d(4, affine=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        made = self.first(x)
        out = torch.tanh(self.norm(made)) + 0.3 * made
        out = self.second(out)
        out.mul_(1.5)
        out = torch.tanh(self.norm_after_change(out))
        scores: Tensor = self.head(self.plain(self.third(out)).square().mean((2, 3)))
        return scores


def trained(model: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 3.0)
            if module.affine:
                module.weight.data.normal_()
                module.bias.data.normal_()
    return model.double()


def sequence_net() -> nn.Module:
    body = nn.Sequential(nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Flatten(), nn.Linear(102, 3))
    return nn.Sequential(nn.Flatten(2), body)


CASES: dict[str, Callable[[], nn.Module]] = {
    "with bias": partial(Branching, True),
    "without": partial(Branching, False),
    "one-dimensional": sequence_net,
}


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1])


def batches() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(n, 1, 6, 6).double(), torch.randint(0, 3, (n,))) for n in (5, 2)]


@pytest.mark.parametrize("make", CASES.values(), ids=CASES.keys())
def test_hessian_with_folded_norms_is_the_dense_one(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(1)
    model = trained(make())
    data = [(x.reshape(len(x), 1, 36), y) for x, y in batches()] if make is sequence_net else batches()
    inputs, targets = (torch.cat([batch[index] for batch in data]) for index in (0, 1))
    truth = dense_truth(model, lambda call: cross_entropy(call(inputs), targets))
    hessian = Problem(model, loss, data).hessian()
    vectors = random_vector(hessian.shape[0], columns=3)
    assert relative_error(hessian @ vectors, truth.hessian @ vectors) < 1e-13
    assert not any("forward" in vars(module) for module in model.modules())


def test_only_norms_straight_behind_a_convolution_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    model = trained(Branching(True))
    runs: list[nn.Module] = []
    original = nn.Conv2d._conv_forward

    def counted(self: nn.Conv2d, *arguments: Tensor) -> Tensor:
        runs.append(self)
        return original(self, *arguments)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", counted)
    (inputs, _), _ = batches()
    with torch.no_grad(), evaluating(model):
        plain = model(inputs)
    assert runs == [model.first, model.second, model.third]
    runs.clear()
    with torch.no_grad(), evaluating(model, folded=True):
        folded = model(inputs)
    # the second convolution's output was changed in place, so its norm stays where it is
    assert runs == [model.first, model.first, model.second, model.third, model.third]
    torch.testing.assert_close(folded, plain, rtol=1e-12, atol=1e-12)


def test_subclasses_and_training_mode_are_left_alone() -> None:
    class Doubled(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = nn.Sequential(nn.Conv2d(1, 2, 1), Doubled(2), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    trained(model).eval()
    model[3].train()
    x = torch.randn(4, 1, 5, 5).double()
    means = model[3].running_mean.clone()
    expected = model(x)
    model[3].running_mean.copy_(means)
    with affine_batch_norm(model, folded=True):
        torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
