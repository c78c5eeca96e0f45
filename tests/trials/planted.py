"""Small regressions in which it is known what a trial should find."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg import Directions, Task
from thalweg.trials.arms import Way, arm
from thalweg.trials.ground import Ground

SIZE = 40
"""P."""

KNOWN = 4
"""Directions in which start and truth differ, where anything is planted."""

TRAIN, HELD_OUT, BATCH = 60, 400, 20


class Line(nn.Module):
    """`x · w`."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weights


def regression(
    seed: int, planted: bool = True, noise: float = 1.0, distance: float = 1.0, momentum: float = 0.0
) -> tuple[Task, Tensor]:
    """A regression, and the directions `(4, 40)` in which its start is wrong.

    Args:
        seed: of everything.
        planted: whether start and truth differ in four directions only; else in all of them alike.
        noise: of the targets.
        distance: from the start to the truth.
        momentum: of the optimizer.
    """
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(SIZE, KNOWN, generator=draw)).Q.T
    truth = torch.randn(SIZE, generator=draw)
    way = torch.randn(KNOWN, generator=draw) @ basis if planted else torch.randn(SIZE, generator=draw)
    start = truth + distance * way / way.norm()
    inputs = torch.randn(TRAIN + HELD_OUT, SIZE, generator=draw)
    targets = inputs @ truth + noise * torch.randn(len(inputs), generator=draw)
    data = [(inputs[a:b], targets[a:b]) for a, b in ((0, TRAIN), (TRAIN, TRAIN + HELD_OUT))]
    task = Task(
        model=Line(start),
        loss=lambda model, batch: functional.mse_loss(model(batch[0]), batch[1]),
        train=data[:1],
        held_out=data[1:],
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum),
    )
    return task, basis.contiguous()


BASES: dict[str, Tensor] = {}
"""The planted directions that the arm `known` trains in, by a word that stands for the problem."""


@arm("known")
def known(ground: Ground, draw: torch.Generator, word: str = "") -> Way:
    """Train in the planted directions."""
    return Way(Directions(BASES[str(word)], label="known", space=ground.training.space))


@arm("guess")
def guess(ground: Ground, draw: torch.Generator, k: int = 4) -> Way:
    """Train in random directions, as the control does: an A/A arm."""
    basis = torch.linalg.qr(torch.randn(SIZE, k, generator=draw)).Q.T.contiguous()
    return Way(Directions(basis, label="guess", space=ground.training.space))


@arm("twin")
def twin(ground: Ground, draw: torch.Generator, word: str = "", number: int = 0) -> Way:
    """Train in the planted directions and two random ones; arms that differ by number alone are alike."""
    extra = torch.randn(SIZE, 2, generator=draw)
    basis = torch.linalg.qr(torch.cat([BASES[str(word)].T, extra], dim=1)).Q.T.contiguous()
    return Way(Directions(basis, label="twin", space=ground.training.space))
