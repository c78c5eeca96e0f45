"""The trainings of the study: which task, how long, with which optimizers, and how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from thalweg.recording.watch import watch
from thalweg.task import Task
from thalweg.tasks.characters import characters_task
from thalweg.tasks.digits import digits_task, train
from thalweg.tasks.lstm import lstm_task
from thalweg.tasks.resnet import resnet_task
from thalweg.tasks.tabular import tabular_task


@dataclass(frozen=True)
class Training:
    """A task of the study.

    Attributes:
        make: from a seed to the task.
        steps: of a training.
        batch: samples of a step.
        rates: learning rate of each optimizer.
        seeds: how many in the whole study.
    """

    make: Callable[[int], Task]
    steps: int
    batch: int
    rates: dict[str, float]
    seeds: int = 5


TRAININGS: dict[str, Training] = {
    "digits": Training(lambda seed: digits_task(seed=seed), 900, 64, {"sgd": 0.1, "adamw": 1e-3}),
    "tabular": Training(lambda seed: tabular_task(seed=seed), 900, 32, {"sgd": 0.02, "adamw": 2e-3}),
    "lstm": Training(lambda seed: lstm_task(seed=seed), 900, 32, {"sgd": 0.5, "adamw": 3e-3}),
    "resnet": Training(
        lambda seed: resnet_task(samples=512, held_out=512, batch=128, seed=seed),
        400,
        32,
        {"sgd": 0.05, "adamw": 2e-3},
        3,
    ),
    "transformer": Training(lambda seed: characters_task(seed=seed), 400, 16, {"sgd": 0.1, "adamw": 1e-3}, 3),
}

OPTIMIZERS: dict[str, Callable[[nn.Module, float], torch.optim.Optimizer]] = {
    "sgd": lambda model, rate: torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9),
    "adamw": lambda model, rate: torch.optim.AdamW(model.parameters(), lr=rate),
}

QUICK = ("digits", "tabular")
"""Tasks of a quick study, with two seeds and a third of the steps."""


def record(name: str, optimizer: str, seed: int, scratch: Path, quick: bool = False) -> tuple[Task, int]:
    """Train a task of the study, recorded; the task with its trained model, and how many steps were asked for.

    Args:
        name: of the task.
        optimizer: "sgd" or "adamw".
        seed: of data, weights and order.
        scratch: the run folder; what is there is replaced.
        quick: a third of the steps.
    """
    training = TRAININGS[name]
    task = training.make(seed)
    steps = training.steps // 3 if quick else training.steps
    stepper = OPTIMIZERS[optimizer](task.model, training.rates[optimizer])
    samples = sum(len(batch[0]) for batch in task.train)
    epochs = max(1, round(steps * training.batch / samples))
    with watch(task.model, stepper, scratch, overwrite=True):
        train(task, stepper, epochs, batch=training.batch, seed=seed)
    return task, steps
