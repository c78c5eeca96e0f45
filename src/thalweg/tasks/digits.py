"""Handwritten digits, 8 by 8 pixels: the task of the demo.

scikit-learn's copy of the test set of Alpaydin and Kaynak's *Optical Recognition of Handwritten Digits* (UCI, 1998):
1,797 images, of which 1,437 are for training here and 360 are held out. The network is fully connected,
64-128-64-10 with tanh, 17,226 parameters, trained by SGD with momentum.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.errors import InputError, MissingExtraError
from thalweg.losses import Loss
from thalweg.task import Task

HELD_OUT = 360


def digits_task(hidden: Sequence[int] = (128, 64), batch: int = 256, seed: int = 0) -> Task:
    """The untrained network with training and held-out batches in a fixed order.

    Args:
        hidden: widths of the hidden layers.
        batch: samples of one batch to measure on.
        seed: for the split of the data and the first weights.

    Raises:
        InputError: if `hidden` is no sequence of widths.
        MissingExtraError: if scikit-learn is not installed.
    """
    images, labels = digit_images()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], labels[order]
    return Task(
        model=fully_connected(64, hidden, 10, seed),
        loss=Loss(output_of_inputs, cross_entropy_of_output),
        train=_batches(images[HELD_OUT:], labels[HELD_OUT:], batch),
        held_out=_batches(images[:HELD_OUT], labels[:HELD_OUT], batch),
        optimizer=lambda network: torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        evaluate=lambda network: {"accuracy": accuracy(network, images[:HELD_OUT], labels[:HELD_OUT])},
    )


def fully_connected(inputs: int, hidden: Sequence[int], outputs: int, seed: int) -> nn.Sequential:
    """Linear layers with tanh between them.

    Args:
        inputs: width of what goes in.
        hidden: widths of the hidden layers.
        outputs: width of what comes out.
        seed: for the weights; torch's global generator is left as it was.

    Raises:
        InputError: if `hidden` is no sequence of widths.
    """
    if isinstance(hidden, (str, int)) or not all(isinstance(width, int) and width > 0 for width in hidden):
        raise InputError(f"hidden={hidden!r}: give the widths of the hidden layers, as in --set 'hidden=(128, 64)'")
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start, stop in itertools.pairwise([inputs, *hidden, outputs]):
            layers += [nn.Linear(start, stop), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def output_of_inputs(model: nn.Module, batch: Any) -> Tensor:
    """What the model makes of the inputs of a batch (inputs, targets)."""
    output: Tensor = model(batch[0])
    return output


def cross_entropy_of_output(output: Tensor, batch: Any) -> Tensor:
    """Mean cross-entropy; classes in the last dimension of the output, whatever stands before it."""
    return functional.cross_entropy(output.reshape(-1, output.shape[-1]), batch[1].reshape(-1))


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that get the right label."""
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == labels).double().mean())


def train(
    task: Task,
    optimizer: torch.optim.Optimizer,
    epochs: int = 40,
    batch: int = 64,
    seed: int = 0,
    after_step: Callable[[int, float], None] | None = None,
) -> None:
    """A plain training loop over a task whose batches are (inputs, targets), shuffled anew each epoch.

    Args:
        task: model, loss and training data.
        optimizer: steps the model.
        epochs: passes over the data.
        batch: samples of one step.
        seed: for the order of the samples.
        after_step: called with the step's number and its loss.
    """
    inputs = torch.cat([pair[0] for pair in task.train])
    targets = torch.cat([pair[1] for pair in task.train])
    generator = torch.Generator().manual_seed(seed)
    step = 0
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(inputs), generator=generator), batch):
            optimizer.zero_grad()
            loss = task.loss(task.model, (inputs[chosen], targets[chosen]))
            loss.backward()
            optimizer.step()
            if after_step is not None:
                after_step(step, float(loss.detach()))
            step += 1


def _batches(images: Tensor, labels: Tensor, batch: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(images, batch), torch.split(labels, batch), strict=True))


def digit_images() -> tuple[Tensor, Tensor]:
    """All 1,797 pictures, from 0 to 1, `(n, 64)`, and their labels.

    Raises:
        MissingExtraError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("the digits come with scikit-learn; pip install 'thalweg[demo]'") from error
    data = load_digits()
    return torch.as_tensor(data.data, dtype=torch.float32) / 16, torch.as_tensor(data.target)
