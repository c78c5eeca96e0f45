"""The streams by name, the ways to learn them by name, and the settings that each way may choose from.

*Domain-incremental*: the same classes under other inputs, one head, and nobody says which task a sample is of
(permuted, rotated, texts, pretrained). *Task-incremental*: other classes, one output for each, and a sample's task is
known (split). *Class-incremental*, where it is not, is promised by nobody here and measured once (classes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from thalweg.study.forgetting import pretrained, streams, texts
from thalweg.study.forgetting.guarded import AlongDirections, Guarded
from thalweg.study.forgetting.lessons import Lesson
from thalweg.study.forgetting.rivals import EWC, GPM, L2, MAS, OGD, SI, Learner, OnlineEWC


@dataclass(frozen=True)
class Kind:
    """A stream, and how it is learned.

    Attributes:
        tasks: how many.
        lessons: makes them from a seed and a number of tasks.
        net: makes the net from a seed.
        rates: step sizes to choose from.
        adaptive: AdamW in the place of plain descent.
        epochs: passes over each task.
        batch: samples of a step.
        known: so many first tasks the net can already; they are measured and not learned.
        follows: the stream whose chosen settings are taken; "" where they are chosen on this one.
        methods: what is run unless methods are named; all where it is empty.
    """

    tasks: int
    lessons: Callable[[int, int], list[Lesson]]
    net: Callable[[int], nn.Module]
    rates: Sequence[float] = (0.05, 0.1, 0.2)
    adaptive: bool = False
    epochs: int = 2
    batch: int = 32
    known: int = 0
    follows: str = ""
    methods: Sequence[str] = ()

    def optimizer(self, model: nn.Module, rate: float) -> Optimizer:
        """A fresh one, as for each task."""
        if self.adaptive:
            return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
        return torch.optim.SGD(model.parameters(), lr=rate)


FEW = ("none", "online_ewc", "gpm", "guard")
"""Methods that are run where protection is expected to fail."""

WITHOUT_DIRECTIONS = (
    "none", "l2", "ewc", "online_ewc", "si", "mas", "ogd", "gpm", "guard", "guard_small",
)  # fmt: skip
"""On the rotated stream the Hessian's directions take two minutes a cell, so they and their controls are left out."""

KINDS: Mapping[str, Kind] = {
    "permuted": Kind(10, streams.permuted, streams.perceptron),
    "rotated": Kind(10, streams.rotated, streams.perceptron, methods=WITHOUT_DIRECTIONS),
    "split": Kind(5, streams.split, streams.perceptron),
    "texts": Kind(
        2, texts.prose_then_code, texts.transformer, rates=(1e-3, 2e-3, 4e-3), adaptive=True, epochs=1, batch=16,
        methods=("none", "l2", "ewc", "si", "mas", "gpm", "guard"),
    ),
    "pretrained": Kind(
        2, pretrained.digits_then_clothes, pretrained.reader, rates=(1e-4, 3e-4, 1e-3), adaptive=True, epochs=3,
        known=1, methods=("none", "l2", "ewc", "mas", "gpm", "guard"),
    ),
    "many": Kind(30, streams.permuted, streams.perceptron, follows="permuted", methods=FEW),
    "narrow": Kind(10, streams.permuted, streams.narrow, follows="permuted", methods=FEW),
    "classes": Kind(5, streams.split_unknown, streams.perceptron, follows="split", methods=FEW),
}  # fmt: skip
"""Every stream by its name; the last three are where protection is expected to fail."""

Make = Callable[[Mapping[str, Any]], Learner]

LEARNERS: Mapping[str, Make] = {
    "none": lambda s: Learner(),
    "l2": lambda s: L2(s["strength"]),
    "ewc": lambda s: EWC(s["strength"]),
    "online_ewc": lambda s: OnlineEWC(s["strength"]),
    "si": lambda s: SI(s["strength"]),
    "mas": lambda s: MAS(s["strength"]),
    "ogd": lambda s: OGD(s["each"]),
    "gpm": lambda s: GPM(s["threshold"], s["later"], s["growth"], s.get("rest", 1)),
    "hessian": lambda s: AlongDirections(s["k"], "hessian"),
    "random": lambda s: AlongDirections(s["k"], "random"),
    "layer_matched": lambda s: AlongDirections(s["k"], "layer_matched"),
    "guard": lambda s: Guarded(s["strength"], s["hard"]),
    "guard_small": lambda s: Guarded(s["strength"], s["hard"], rank=int(s["rank"])),
}
"""Every way by its name, made of its settings."""

OWN = ("guard", "guard_small")
"""What this library does."""

ALONG = ("hessian", "random", "layer_matched")
"""Directions of each old task, and their controls."""

GRIDS: Mapping[str, Sequence[Mapping[str, float]]] = {
    "none": [{}],
    "l2": [{"strength": value} for value in (0.003, 0.03, 0.3)],
    "ewc": [{"strength": value} for value in (3.0, 30.0, 300.0)],
    "online_ewc": [{"strength": value} for value in (3.0, 30.0, 300.0)],
    "si": [{"strength": value} for value in (0.1, 1.0, 10.0)],
    "mas": [{"strength": value} for value in (0.1, 1.0, 10.0)],
    "ogd": [{"each": value} for value in (5, 10, 20)],
    "gpm": [
        {"threshold": 0.95, "later": 0.99, "growth": 0.0},  # its authors' own for this net
        {"threshold": 0.94, "later": 0.94, "growth": 0.003},
        {"threshold": 0.97, "later": 0.97, "growth": 0.003},
    ],
    "hessian": [{"k": value} for value in (5, 10, 20)],
    "random": [{"k": value} for value in (5, 10, 20)],
    "layer_matched": [{"k": value} for value in (5, 10, 20)],
    "guard": [{"strength": s, "hard": h} for s, h in ((4.0, 0.9), (16.0, 0.9), (60.0, 0.8))],
    "guard_small": [{"strength": s, "hard": h, "rank": 150} for s, h in ((4.0, 0.9), (16.0, 0.9), (60.0, 0.8))],
}
"""Three settings for each method, times three step sizes. `guard_small` has about the memory of EWC, 0.7 MiB."""

OTHER_GRIDS: Mapping[tuple[str, str], Sequence[Mapping[str, float]]] = {
    (kind, "gpm"): [
        {"threshold": 0.95, "later": 0.95, "growth": 0.0, "rest": 1},
        {"threshold": 0.95, "later": 0.95, "growth": 0.0, "rest": 0},
        {"threshold": 0.98, "later": 0.98, "growth": 0.0, "rest": 0},
    ]
    for kind in ("texts", "pretrained")
}
"""Where nets have biases, norms and embeddings, GPM may let them stand still."""

FOLLOWS = {"random": "hessian", "layer_matched": "hessian"}
"""Controls take the settings of what they control, so that k is the same."""


def settings_of(kind: str, method: str) -> list[dict[str, Any]]:
    """Everything that the method's grid holds on a stream before it is extended."""
    own = OTHER_GRIDS.get((kind, method), GRIDS[method])
    return [{"rate": rate, **one} for rate in KINDS[kind].rates for one in own]
