"""The clock of a training: how far a unit gradient would have moved the weights, and what the optimizer explains.

On the clock `τ = Σ η_eff`, with `η_eff = η (1 − dampening) / (1 − β)` for SGD, a quadratic well's drift decays as
`e^(−κτ)` with κ = curvature + weight decay, whatever the schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import InputError
from thalweg.recording.trajectory import Trajectory
from thalweg.solvers.gradients import SGD

ADAPTIVE = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "Adafactor")
"""Optimizers that scale each parameter's step, so that the plain Hessian is not what they see."""

DECOUPLED = ("AdamW",)
"""Optimizers whose weight decay is a step of its own: `−η · decay · w`."""


@dataclass(frozen=True, eq=False)
class Clock:
    """Step sizes of some rows of a run.

    Attributes:
        rates: η of each row's last step, `(n,)`; ones where the run knows none.
        momenta: how much of a row the row before explains, `(n,)`.
        effective: η_eff, `(n,)`.
        before: the clock before the first of the rows; None where the training's beginning was not recorded.
        elapsed: the clock after each row, from the first row's beginning on, `(n,)`.
        steps: optimizer steps of each row, `(n,)`.
        optimizer: its class, without the module.
        weight_decay: the one of all groups, None where they differ or it is not known.
        known: whether step sizes are known at all.
    """

    rates: np.ndarray
    momenta: np.ndarray
    effective: np.ndarray
    before: float | None
    elapsed: np.ndarray
    steps: np.ndarray
    optimizer: str
    weight_decay: float | None
    known: bool

    @property
    def adaptive(self) -> bool:
        """Whether the optimizer scales each parameter's step."""
        return self.optimizer in ADAPTIVE

    def middle(self, first: int, length: int, count: int, summed: int = 1) -> np.ndarray:
        """The clock in the middle of blocks of rows, from the training's beginning where that is known.

        Args:
            first: the row at which the first block begins.
            length: of a block, in units of `summed` rows.
            count: of blocks.
            summed: rows of a unit.
        """
        edges = first + summed * length * np.arange(count + 1)
        ticks = np.concatenate([[0.0], self.elapsed])[edges]
        found: np.ndarray = (self.before or 0.0) + (ticks[1:] + ticks[:-1]) / 2
        return found


def clock_of(t: Trajectory, rows: Tensor) -> Clock:
    """The clock of some rows of a trajectory; parameter groups count as the first of them.

    Raises:
        InputError: if the learning rate is zero in one of the rows.
    """
    all_rates, all_momenta = t.learning_rates[:, 0].numpy(), t.momenta[:, 0].numpy()
    known = bool(np.isfinite(all_rates[rows.numpy()]).all())
    groups = t.optimizer["groups"]
    kind = str(t.optimizer["class"])
    steps = (t.steps - t.starts + 1).numpy()
    if known and not (all_rates[rows.numpy()] > 0).all():
        still = int(t.steps[rows[(t.learning_rates[rows, 0] <= 0)][0]])
        raise InputError(f"step {still} had learning rate 0, so nothing could drift there; choose a window without it")
    rates = np.where(np.isfinite(all_rates), all_rates, 1.0) if known else np.ones(len(t))
    momenta = np.nan_to_num(all_momenta)
    gain = np.ones(len(t))
    if kind == SGD:
        dampening = float(groups[0].get("dampening") or 0.0)
        gain = np.where(momenta > 0, (1 - dampening) / np.maximum(1 - momenta, 1e-12), 1.0)
    ticks = rates * gain * steps
    chosen = rows.numpy()
    whole = int(t.starts[0]) == 0 and not any(gap[0] < int(t.starts[chosen[0]]) for gap in t.gaps)
    fresh = whole and not t.optimizer.get("state_at_start", False)
    decays = {float(group["weight_decay"]) for group in groups if group.get("weight_decay") is not None}
    return Clock(
        rates[chosen],
        momenta[chosen] ** steps[chosen],
        (rates * gain)[chosen],
        float(ticks[: chosen[0]].sum()) if fresh else None,
        np.cumsum(ticks[chosen]),
        steps[chosen],
        kind.rpartition(".")[2],
        decays.pop() if len(decays) == 1 else (None if decays else 0.0),
        known,
    )


def decay_removed(t: Trajectory, rows: Tensor, clock: Clock, layer: str | None) -> np.ndarray | None:
    """The Gram matrix `(n, n)` of these rows without what weight decay did to them; None where that is not known.

    Decoupled: `u_t + η_t λ w_t`. In SGD decay is part of the gradient, so it passes through momentum:
    `q_t / η_t = β q_{t−1} / η_{t−1} − (1 − d) λ w_t`, in balance before the first row; what is left is `u_t − q_t`. The
    weights before a row are those before the first plus the updates since, so all of it is algebra on inner products.
    """
    decay, count = clock.weight_decay, len(rows)
    coupled = clock.optimizer == "SGD"
    if not decay or not clock.known or not (coupled or clock.optimizer in DECOUPLED) or (clock.steps != 1).any():
        return None
    before = int(t.starts[rows[0]]) - 1
    contiguous = int(rows[-1]) - int(rows[0]) + 1 == count
    if not contiguous or before not in set(t.known_steps.tolist()) or any(g[1] > before for g in t.gaps):
        return None
    start = t.weights(before)
    columns = slice(0, t.space.size) if layer is None else t.space.layer(layer).span
    part = torch.zeros_like(start)
    part[columns] = start[columns]
    first = int(rows[0])
    gram = t.gram_between(first, first + count, layer).numpy()
    inner = t.inner_within(part, t.columns_of(layer), first, first + count).numpy()
    joined = np.zeros((count + 1, count + 1))
    joined[:count, :count], joined[count, count] = gram, float(part.double().square().sum())
    joined[:count, count] = joined[count, :count] = inner[:, 0]
    gain = float(clock.effective[0] / clock.rates[0])
    share = gain * (1 - clock.momenta[0])  # 1 − dampening
    matrix = np.eye(count, count + 1)
    here = np.zeros(count + 1)  # the weights before a row
    here[count] = 1.0
    pushed = -gain * decay * here
    for row in range(count):
        if coupled:
            pushed = clock.momenta[row] * pushed - share * decay * here if row else pushed
            matrix[row] -= clock.rates[row] * pushed
        else:
            matrix[row] += clock.rates[row] * decay * here
        here[row] += 1.0
    found: np.ndarray = matrix @ joined @ matrix.T
    return found
