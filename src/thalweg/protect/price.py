"""What a protection takes from the new task, said before training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.problem import Problem
from thalweg.protect.guard import EVERY, STRENGTH
from thalweg.protect.knowledge import Knowledge
from thalweg.protect.remember import direction_shield
from thalweg.protect.shields import Shield, working
from thalweg.tables import Table, Tabular

STRENGTHS = (0.0, 0.1, 1.0, 10.0, 100.0, math.inf)


@dataclass(frozen=True)
class Price(Tabular):
    """What a protection leaves of the new task's first steps, at several strengths.

    Attributes:
        strengths: λ.
        kept: for each, the share of the first-order gain of `steps` steps along the present gradient that is left,
            `gᵀ d / gᵀ d₀` with the displacements d guarded and d₀ free.
        layers: for each, the same for each shield, by its parameters' names.
        asked: the strength that the sentence is about.
        steps: how many steps.
        rate: their step size.
    """

    strengths: tuple[float, ...]
    kept: tuple[float, ...]
    layers: tuple[dict[str, float], ...]
    asked: float
    steps: int
    rate: float

    def __str__(self) -> str:
        place = self.strengths.index(self.asked)
        kept, least = self.kept[place], min(self.layers[place].items(), key=lambda pair: pair[1])
        return (
            f"At strength {self.asked:g} the protection takes away {1 - kept:.0%} of what {self.steps} steps along the "
            f"new task's gradient would gain, most in {least[0]} ({1 - least[1]:.0%})."
        )

    def to_table(self) -> Table:
        """A row for each strength."""
        return Table.of([{"strength": s, "kept": k} for s, k in zip(self.strengths, self.kept, strict=True)])


def guard_price(
    problem: Problem,
    what: Knowledge | Directions | str | Path,
    *,
    strength: float = STRENGTH,
    rate: float = 0.01,
    steps: int = 100,
    every: int = EVERY,
    strengths: Sequence[float] = STRENGTHS,
) -> Price:
    """How much of the new task's gradient a protection takes away, before anything is trained.

    Steps of the step size η along the present gradient g are taken n times, each followed by the guard. With A the
    curvature that is protected the displacement becomes `−η Σ_j (1 + ηλA)⁻ʲ g` (for `every=1`), and what is left of
    the first-order gain is its share of `−η n g`. It says what the first steps lose; a new task finds other ways
    later, so the end may be better than this.

    Args:
        problem: the new task, at the weights that training will begin with.
        what: what is to be protected: knowledge, its file, or directions.
        strength: λ that the sentence is about.
        rate: η, the optimizer's step size.
        steps: n.
        every: of the guard.
        strengths: others for the curve.

    Raises:
        InputError: if the knowledge is of another model, or an argument cannot be worked with.
        RunError: if the file cannot be read.
    """
    if not rate > 0 or steps < 1 or every < 1:
        raise InputError(f"rate={rate}, steps={steps}, every={every}: give positive numbers")
    if not all(one >= 0 for one in (strength, *strengths)):
        raise InputError(f"strengths {strength}, {tuple(strengths)}: give numbers of 0 or more")
    loaded = what if isinstance(what, (Knowledge, Directions)) else Knowledge.load(what)
    if isinstance(loaded, Knowledge):
        space, shields = loaded.space, list(loaded.shields)
    else:
        space, shields = problem.space, [direction_shield(loaded, problem.space)]
    problem.space.positions(space)  # refuses what is no part of the model
    gradient = problem.space.unflatten(problem.gradient())
    chosen = tuple(dict.fromkeys([*sorted({*strengths, strength})]))
    kept, layers = [], []
    for one in chosen:
        whole = left = 0.0
        own: dict[str, float] = {}
        for shield in shields:
            part = {name: gradient[name].to(working(gradient[name].dtype)) for name in shield.names}
            free, guarded = _gains(shield.to(next(iter(part.values()))), part, one, rate, steps, every)
            whole, left = whole + free, left + guarded
            own[", ".join(shield.names)] = guarded / free if free else 1.0
        rest = {name: tensor for name, tensor in gradient.items() if not any(name in s.names for s in shields)}
        free = steps * sum(float(tensor.double().square().sum()) for tensor in rest.values())
        whole, left = whole + free, left + free
        kept.append(left / whole if whole else 1.0)
        layers.append(own)
    return Price(chosen, tuple(kept), tuple(layers), strength, steps, rate)


def _gains(
    shield: Shield, gradient: dict[str, Tensor], strength: float, rate: float, steps: int, every: int
) -> tuple[float, float]:
    """`n |g|²`, and `gᵀ d` with d by the guard's own steps."""
    free = steps * sum(float(tensor.double().square().sum()) for tensor in gradient.values())
    moved = {name: torch.zeros_like(tensor) for name, tensor in gradient.items()}
    pending = 0
    for step in range(1, steps + 1):
        pending += 1
        soft = math.isinf(strength) or step % every == 0 or step == steps
        tau = 0.0 if not soft else math.inf if math.isinf(strength) else strength * rate * pending
        pending = 0 if soft else pending
        moved = shield.shrink({name: moved[name] + tensor for name, tensor in gradient.items()}, tau)
    return free, sum(float((gradient[name].double() * moved[name].double()).sum()) for name in gradient)
