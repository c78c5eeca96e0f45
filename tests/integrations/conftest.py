"""Weights noted at each step by a hook of the test's own, against which recordings are held."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.recording import Trajectory, open_run


@dataclass
class Noted:
    """The trainable weights before the first step and after each, as one flat vector each."""

    before: Tensor | None = None
    after: list[Tensor] = field(default_factory=list)

    def watch(self, model: nn.Module, optimizer: Optimizer) -> None:
        optimizer.register_step_pre_hook(lambda *_: self._note_first(model))
        optimizer.register_step_post_hook(lambda *_: self.after.append(trainable_vector(model)))

    def _note_first(self, model: nn.Module) -> None:
        if self.before is None:
            self.before = trainable_vector(model)


def trainable_vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().float().reshape(-1) for p in model.parameters() if p.requires_grad]).clone()


def assert_recorded(folder: Path, noted: Noted) -> Trajectory:
    """The run holds every step that was noted, exactly, and no other."""
    t = open_run(folder).trajectory
    assert len(noted.after) > 1
    assert not torch.equal(noted.after[0], noted.after[-1])
    assert t.steps.tolist() == list(range(len(noted.after)))
    assert noted.before is not None
    assert torch.equal(t.weights(-1), noted.before)
    for step, weights in enumerate(noted.after):
        assert torch.equal(t.weights(step), weights), step
    return t
