"""The three workloads of the benchmarks: real data, trained for a fixed number of seeded steps, kept as plain tensors.

`prepare` trains and writes weights and data as safetensors; `load` gives every contestant the same model and samples,
in whichever process and environment it runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from thalweg.losses import Loss
from thalweg.problem import Problem
from thalweg.task import Task
from thalweg.tasks.characters import characters_task
from thalweg.tasks.digits import cross_entropy_of_output, output_of_inputs, train
from thalweg.tasks.fashion_mnist import fashion_mnist_task
from thalweg.tasks.resnet import resnet_task

Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Workload:
    """How a workload is made.

    Attributes:
        title: for the table.
        task: makes the untrained task.
        quick: its settings for a check in seconds.
        epochs: passes of training.
        batch: samples of a training step.
    """

    title: str
    task: Callable[..., Task]
    quick: Mapping[str, Any]
    epochs: int
    batch: int


WORKLOADS = {
    "mlp": Workload(
        "MLP 784-256-256-10, Fashion-MNIST, N=3,840",
        fashion_mnist_task,
        {"hidden": (16, 16), "samples": 64, "held_out": 8, "batch": 16},
        epochs=5,
        batch=64,
    ),
    "resnet": Workload(
        "ResNet-20 with batch norm, Fashion-MNIST, N=704",
        resnet_task,
        {"depth": 1, "widths": (4, 8), "samples": 64, "held_out": 8, "batch": 16},
        epochs=10,
        batch=64,
    ),
    "transformer": Workload(
        "4-layer character transformer, 176 sequences of 64",
        characters_task,
        {"layers": 1, "width": 16, "heads": 2, "context": 16, "samples": 64, "held_out": 8, "batch": 16},
        epochs=10,
        batch=16,
    ),
}


@dataclass(frozen=True)
class Loaded:
    """A prepared workload.

    Attributes:
        name: one of WORKLOADS.
        title: for the table.
        model: with the trained weights, in evaluation mode.
        inputs: samples first.
        targets: samples first.
        batch: samples of a batch as given; divides the number of samples.
        facts: sizes and training, for the table.
    """

    name: str
    title: str
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    batch: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.inputs)

    def batches(self, size: int | None = None) -> Batches:
        """Batches of equal size.

        Args:
            size: samples of a batch; as given unless said.
        """
        size = size or self.batch
        if self.samples % size:
            raise ValueError(f"{self.samples} samples do not make equal batches of {size}")
        return list(zip(self.inputs.split(size), self.targets.split(size), strict=True))

    def parameters(self) -> list[nn.Parameter]:
        """In the order of `named_parameters`, which is every contestant's order."""
        return list(self.model.parameters())

    def batch_sizes(self) -> list[int]:
        """Sizes of equal batches worth trying: the given one, and divisors a factor of 1.7 or more apart."""
        if self.facts["given_only"]:
            return [self.batch]
        chosen = [self.samples]
        for size in range(self.samples - 1, max(self.samples // 64, 4) - 1, -1):
            if self.samples % size == 0 and size * 1.7 <= chosen[-1]:
                chosen.append(size)
        return sorted({*chosen, self.batch})

    def few_batch_sizes(self) -> list[int]:
        """The given size, all samples, and the divisors nearest to 64 and 256: what a peer may choose among."""
        if self.facts["given_only"]:
            return [self.batch]
        divisors = [size for size in range(1, self.samples + 1) if self.samples % size == 0]
        near = [min(divisors, key=lambda size: max(size / wish, wish / size)) for wish in (64, 256)]
        return list(dict.fromkeys([self.batch, *near, self.samples]))


class Flat(nn.Module):
    """A model whose scores come out as `(n, classes)`, as the peers' loss functions want them.

    Args:
        model: may have scores `(n, length, classes)`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores `(n * length, classes)`."""
        scores = self.model(inputs)
        return scores.reshape(-1, scores.shape[-1])


def problem_of(workload: Loaded, batch: int | None = None) -> Problem:
    """thalweg's problem on a workload.

    Args:
        workload: model and data.
        batch: samples of a batch; as given unless said.
    """
    return Problem(workload.model, Loss(output_of_inputs, cross_entropy_of_output), workload.batches(batch))


def prepare(name: str, home: Path, quick: bool, given_only: bool = False, checkpoints: Sequence[int] = ()) -> Path:
    """Make and train a workload, and write it to a folder that `load` reads.

    Args:
        name: one of WORKLOADS.
        home: where the folder comes to be.
        quick: the small one.
        given_only: nobody is to try other batches than the given ones.
        checkpoints: numbers of steps before the last one, whose weights are kept too.
    """
    workload = WORKLOADS[name]
    task = workload.task(**(dict(workload.quick) if quick else {}))
    folder = home / f"{name}-quick" if quick else home / name
    folder.mkdir(parents=True, exist_ok=True)
    inputs, targets = (torch.cat([batch[i] for batch in task.train]) for i in (0, 1))
    last = workload.epochs * math.ceil(len(inputs) / workload.batch) - 1
    losses: list[float] = []

    def after_step(step: int, value: float) -> None:
        losses.append(value)
        if last - step in {0, *checkpoints}:
            weights = {key: tensor.contiguous() for key, tensor in task.model.state_dict().items()}
            save_file(weights, folder / _weights(last - step))

    train(task, task.optimizer(task.model), epochs=workload.epochs, batch=workload.batch, after_step=after_step)
    save_file({"inputs": inputs, "targets": targets}, folder / "data.safetensors")
    facts = {
        "name": name,
        "quick": quick,
        "given_only": given_only,
        "batch": len(task.train[0][1]),
        "samples": len(inputs),
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "training_steps": len(losses),
        "last_training_loss": losses[-1],
    }
    (folder / "workload.json").write_text(json.dumps(facts))
    return folder


def load(folder: Path, steps_before: int = 0) -> Loaded:
    """What `prepare` wrote.

    Args:
        folder: its folder.
        steps_before: which of the checkpoints, 0 the end of training.
    """
    facts = json.loads((folder / "workload.json").read_text())
    workload = WORKLOADS[facts["name"]]
    settings = dict(workload.quick) if facts["quick"] else {}
    model = workload.task(**settings).model.eval()
    model.load_state_dict(load_file(folder / _weights(steps_before)))
    data = load_file(folder / "data.safetensors")
    title = f"{workload.title} (quick: N={facts['samples']})" if facts["quick"] else workload.title
    return Loaded(facts["name"], title, model, data["inputs"], data["targets"], facts["batch"], facts)


def _weights(steps_before: int) -> str:
    return f"weights-{steps_before}-steps-before.safetensors"


def mean_loss(model: nn.Module, batch: Any) -> Tensor:
    """Mean cross-entropy of a batch, over samples or over characters."""
    scores = model(batch[0])
    return functional.cross_entropy(scores.reshape(-1, scores.shape[-1]), batch[1].reshape(-1))


def gradient(model: nn.Module, batches: Batches) -> list[Tensor]:
    """The gradient of the mean loss over all samples: the unit of cost.

    Args:
        model: in evaluation mode.
        batches: of any sizes.
    """
    parameters = list(model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    samples = sum(len(batch[1]) for batch in batches)
    for batch in batches:
        pieces = torch.autograd.grad(mean_loss(model, batch), parameters)
        for sums, piece in zip(total, pieces, strict=True):
            sums.add_(piece, alpha=len(batch[1]) / samples)
    return total
