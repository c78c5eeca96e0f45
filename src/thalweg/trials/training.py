"""One cell of a trial: one arm, one seed, one step size, from the common start to the last step.

What is the same in every arm for the same seed: the start, the batches and their order, the draws of dropout, the
number of steps, one gradient each. The optimizer is the task's own, with every learning rate times the arm's factor;
what it does to the weights is then changed as the arm says, so SGD, momentum and Adam are treated alike. Time is that
of the steps, without evaluations.
"""

from __future__ import annotations

import copy
import math
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thalweg.evaluation import preserved_randomness
from thalweg.problem import Problem
from thalweg.space import plain_name
from thalweg.trials.arms import Way, make_way
from thalweg.trials.ground import Ground, loss_on

DIVERGED = 1000.0
"""A training loss so many times that of the start has diverged."""

Split = Literal["tuning", "judging"]


@dataclass(frozen=True)
class Cell:
    """What one training gave.

    Attributes:
        arm: its name.
        seed: of batches and draws.
        factor: of the learning rates of the task's optimizer, or of a jump where the arm has one.
        split: what it was evaluated on.
        steps: after which it was evaluated, the last one last; 0 is the start.
        losses: mean loss on the split after those steps; None for a diverged training.
        old_losses: on the data of an earlier task, or empty.
        seconds: of all steps together.
        wall: of everything, evaluations too.
        diverged: the step at which training stopped making sense, or None.
        age: steps since the basis was found, at the end.
        measures: at the end: `training loss` where arms are judged, the user's own by name, and those of the earlier
            task as `old NAME`.
    """

    arm: str
    seed: int
    factor: float
    split: Split
    steps: tuple[int, ...]
    losses: tuple[float | None, ...]
    old_losses: tuple[float | None, ...]
    seconds: float
    wall: float
    diverged: int | None
    age: int
    measures: Mapping[str, float]

    @property
    def loss(self) -> float | None:
        """After the last step; None for a diverged training."""
        return self.losses[-1]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cell:
        """What `to_json` gave."""
        columns = {name: tuple(data[name]) for name in ("steps", "losses", "old_losses")}
        return cls(**{**data, **columns})


def run_cell(
    ground: Ground,
    name: str,
    seed: int,
    factor: float,
    marks: Sequence[int],
    split: Split,
    refresh: int | None = None,
    old: Ground | None = None,
) -> Cell:
    """Train one arm.

    Args:
        ground: what it stands on.
        name: of the arm.
        seed: of batches and draws; together with the arm's name it gives the arm's random basis.
        factor: of the learning rates.
        marks: steps after which it is evaluated, ascending; the last is the last step.
        split: what it is evaluated on.
        refresh: find the basis again every so many steps, where the arm can.
        old: an earlier task, evaluated beside it.
    """
    begun = time.perf_counter()
    draw = torch.Generator().manual_seed(zlib.crc32(name.encode()) * 1_000_003 + seed)
    way = make_way(ground, name, draw)
    model = fresh_model(ground, way)
    problem = {"tuning": ground.tuning, "judging": ground.judging}[split]
    optimizer = fresh_optimizer(ground, model, 1.0 if way.jump is not None else factor)
    stepper = _Stepper(ground, model, optimizer, way, refresh)
    losses: list[float | None] = [loss_on(problem, model)]
    old_losses: list[float | None] = [] if old is None else [loss_on(old.judging, model)]
    bound = DIVERGED * max(abs(losses[0] or 0.0), 1e-3)
    done, diverged = 0, None
    batches = ground.samples.draw(seed)
    with preserved_randomness(ground.training.device):
        torch.manual_seed(seed)
        stepper.jump(factor)
        for mark in marks:
            while done < mark and diverged is None and not way.still:
                value = stepper.step(next(batches))
                done += 1
                if not value <= bound:
                    diverged = done
            found = _finite(loss_on(problem, model), bound) if diverged is None else None
            if found is None and diverged is None:
                diverged = done
            losses.append(found)
            if old is not None:
                old_losses.append(None if diverged else _finite(loss_on(old.judging, model), math.inf))
    measures = {} if diverged else _measures(ground, old, model)
    if split == "judging" and not diverged:
        measures["training loss"] = loss_on(ground.training, model)
    return Cell(
        arm=name,
        seed=seed,
        factor=factor,
        split=split,
        steps=(0, *marks),
        losses=tuple(losses),
        old_losses=tuple(old_losses),
        seconds=stepper.seconds,
        wall=time.perf_counter() - begun,
        diverged=diverged,
        age=stepper.age,
        measures=measures,
    )


def fresh_model(ground: Ground, way: Way) -> nn.Module:
    """A copy of the model at the start, in training mode, with the layers frozen that the arm does not train."""
    model = copy.deepcopy(ground.training.model)
    model.train()
    if way.layers is not None:
        trained = {p.name for p in ground.training.space.parameters if p.layer in way.layers}
        for name, parameter in model.named_parameters():
            if plain_name(name) not in trained:
                parameter.requires_grad_(False)
    return model


def fresh_optimizer(ground: Ground, model: nn.Module, factor: float) -> torch.optim.Optimizer:
    """The task's optimizer on a model, its learning rates times the factor, with the state that is carried on."""
    assert ground.task.optimizer is not None
    optimizer = ground.task.optimizer(model)
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * factor
    for name, parameter in model.named_parameters():
        kept = ground.state.get(plain_name(name))
        if kept and parameter.requires_grad:
            optimizer.state[parameter] = {
                key: value.clone() if value.ndim == 0 else value.to(parameter).reshape(parameter.shape).clone()
                for key, value in kept.items()
            }
    return optimizer


class _Stepper:
    """Steps of the optimizer, each update changed as the arm says."""

    def __init__(
        self, ground: Ground, model: nn.Module, optimizer: torch.optim.Optimizer, way: Way, refresh: int | None
    ) -> None:
        self.ground, self.model, self.optimizer, self.way = ground, model, optimizer, way
        self.refresh = refresh if way.again is not None else None
        self.tensors = ground.training.space.tensors(model) if way.changes or way.jump is not None else []
        self.seconds, self.age = 0.0, 0

    def jump(self, factor: float) -> None:
        """Move the weights as the arm says before training, the factor times as far."""
        if self.way.jump is not None:
            start = time.perf_counter()
            self._write(self._weights() + factor * self.way.jump(self.ground, self.way))
            self.seconds += time.perf_counter() - start

    def step(self, batch: Any) -> float:
        start = time.perf_counter()
        if self.refresh is not None and self.age == self.refresh:
            assert self.way.again is not None
            self.way, self.age = replace(self.way, basis=self.way.again(self._weights())), 0
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.ground.loss_of(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        before = self._weights() if self.way.changes else None
        self.optimizer.step()
        if before is not None:
            self._write(before + self.way.change(self._weights() - before))
        self.age += 1
        value = float(loss.detach())
        self.seconds += time.perf_counter() - start
        return value

    def _weights(self) -> Tensor:
        return torch.cat([tensor.detach().reshape(-1) for tensor in self.tensors])

    def _write(self, weights: Tensor) -> None:
        with torch.no_grad():
            offset = 0
            for tensor in self.tensors:
                tensor.copy_(weights[offset : offset + tensor.numel()].view_as(tensor))
                offset += tensor.numel()


def _finite(loss: float, bound: float) -> float | None:
    return loss if math.isfinite(loss) and loss <= bound else None


def _measures(ground: Ground, old: Ground | None, model: nn.Module) -> dict[str, float]:
    model.eval()
    found: dict[str, float] = {}
    for prefix, one in (("", ground), ("old ", old)):
        if one is not None and one.task.evaluate is not None:
            with preserved_randomness(ground.training.device):
                found |= {prefix + name: float(value) for name, value in one.task.evaluate(model).items()}
    return found


def marks_of(steps: int, count: int = 8) -> tuple[int, ...]:
    """The steps after which arms are evaluated: evenly spread, the last one last."""
    return tuple(sorted({math.ceil(steps * (i + 1) / count) for i in range(count)}))


def judged(problem: Problem) -> dict[str, int]:
    """How many samples and batches a split has."""
    return {"samples": sum(problem.survey.samples), "batches": len(problem.survey.prints)}
