"""A training that is there to be killed, and what a plain loop gives.

Run as a script it is a parent that imports torch once, then reads folder names from standard input, each with the way
in which updates are kept behind a tab, and forks a child for each: the child records a deterministic training without
end in tiny segments, so that it is nearly always in the middle of writing one. It prints the child's process id. The
child never finishes by itself. "direct" keeps exact rows of a larger model, written past the page cache.
"""

from __future__ import annotations

import os
import sys
import time

import torch
from torch import Tensor, nn

import thalweg.recording as recording
from thalweg.recording import direct

WIDTH = 20
DIRECT = "direct"


def toy(keep: str = "exact") -> tuple[nn.Module, torch.optim.Optimizer]:
    generator = torch.Generator().manual_seed(5)
    model = nn.Linear(1000 if keep == DIRECT else 30, 4)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    """One optimizer step with a gradient that is a plain function of the weights and the step's number."""
    for p in model.parameters():
        p.grad = p.detach() * 0.3 + 0.01 * (number % 17)
    optimizer.step()


def by_hand(steps: int, keep: str = "exact") -> Tensor:
    """Weights before the first and after each step: `(steps + 1, P)`; what was computed once is kept."""
    if (keep == DIRECT) not in _trainings:
        model, optimizer = toy(keep)
        _trainings[keep == DIRECT] = model, optimizer, [flat(model)]
    model, optimizer, seen = _trainings[keep == DIRECT]
    for number in range(len(seen) - 1, steps):
        step(model, optimizer, number)
        seen.append(flat(model))
    return torch.stack(seen[: steps + 1])


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


_trainings: dict[bool, tuple[nn.Module, torch.optim.Optimizer, list[Tensor]]] = {}


def kept(keep: str) -> str:
    """The way in which updates are kept; for "direct", everything that has a page in it is written past the cache."""
    if keep == DIRECT:
        direct.LEAST = 2 * direct.PAGE
    return "exact" if keep == DIRECT else keep


def child(folder: str, keep: str, pause: float = 0.0) -> None:
    model, optimizer = toy(keep)
    form = kept(keep)
    recording.watch(model, optimizer, folder, segment_rows=3, keep=form, sketch_width=WIDTH, flush_seconds=0.01)
    number = 0
    while True:
        step(model, optimizer, number)
        number += 1
        time.sleep(pause)


def main() -> None:
    torch.set_num_threads(1)
    step(*toy(), 0)  # what torch imports at the first step, it imports here once
    for line in sys.stdin:
        started = os.fork()
        if started == 0:
            try:
                child(*line.strip().split("\t"))
            finally:
                os._exit(1)
        print(started, flush=True)
        os.waitpid(started, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main()
