"""Tabular regression: how far diabetes went on within a year, from ten measurements of 442 patients.

scikit-learn's copy of the data of Efron, Hastie, Johnstone and Tibshirani (*Least Angle Regression*, 2004),
standardised with the training patients' means and deviations; 354 are for training, 88 held out. Fully connected,
10-64-64-1 with tanh, 4,929 parameters, squared error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.errors import MissingExtraError
from thalweg.losses import Loss
from thalweg.task import Task
from thalweg.tasks.digits import fully_connected, output_of_inputs
from thalweg.tasks.fashion_mnist import in_batches

HELD_OUT = 88


def tabular_task(hidden: Sequence[int] = (64, 64), batch: int = 118, seed: int = 0) -> Task:
    """The untrained network with training and held-out batches (measurements, progression).

    Args:
        hidden: widths of the hidden layers.
        batch: samples of one batch to measure on.
        seed: for the split of the data and the first weights.

    Raises:
        InputError: if `hidden` is no sequence of widths.
        MissingExtraError: if scikit-learn is not installed.
    """
    inputs, targets = _load()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    inputs, targets = inputs[order], targets[order]
    inputs, targets = (_standardised(values, values[HELD_OUT:]) for values in (inputs, targets))
    return Task(
        model=fully_connected(inputs.shape[1], hidden, 1, seed),
        loss=Loss(output_of_inputs, squared_error),
        train=in_batches(inputs[HELD_OUT:], targets[HELD_OUT:], batch),
        held_out=in_batches(inputs[:HELD_OUT], targets[:HELD_OUT], batch),
        optimizer=lambda network: torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9),
        evaluate=lambda network: {"explained": explained(network, inputs[:HELD_OUT], targets[:HELD_OUT])},
    )


def squared_error(output: Tensor, batch: Any) -> Tensor:
    """Mean squared error of outputs `(n, 1)`."""
    return functional.mse_loss(output, batch[1])


def explained(network: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Share of the targets' variance that the network explains."""
    with torch.no_grad():
        left = (network(inputs) - targets).square().mean()
    return float(1 - left / targets.var(unbiased=False))


def _standardised(values: Tensor, reference: Tensor) -> Tensor:
    return (values - reference.mean(dim=0)) / reference.std(dim=0)


def _load() -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_diabetes
    except ImportError as error:
        raise MissingExtraError("scikit-learn is not installed; pip install 'thalweg[demo]'") from error
    data = load_diabetes(scaled=False)
    return torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target, dtype=torch.float32)[:, None]
