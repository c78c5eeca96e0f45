"""Small nets and tasks in float64, for dense truths."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import thalweg as tw

LOSS = tw.Loss(
    lambda model, batch: model(batch[0]), lambda output, batch: nn.functional.cross_entropy(output, batch[1])
)


def perceptron(bias: bool = True, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(6, 8, bias=bias), nn.Tanh(), nn.Linear(8, 5, bias=bias), nn.ReLU(inplace=True), nn.Linear(5, 3)
        ).double()


def convolution(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 3)
        ).double()


def batches(seed: int, shape: tuple[int, ...] = (6,), counts: tuple[int, ...] = (12, 7)) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, *shape, generator=draw).double(), torch.randint(0, 3, (n,), generator=draw)) for n in counts
    ]


def problem(model: nn.Module, seed: int = 1, shape: tuple[int, ...] = (6,)) -> tw.Problem:
    return tw.Problem(model, LOSS, batches(seed, shape))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 2, steps: int = 30) -> None:
    """On another task, with one batch."""
    ((inputs, labels),) = batches(seed, tuple(_shape(model)), (20,))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)


def _shape(model: nn.Module) -> list[int]:
    return [2, 4, 4] if isinstance(next(iter(model)), nn.Conv2d) else [6]  # type: ignore[call-overload]
