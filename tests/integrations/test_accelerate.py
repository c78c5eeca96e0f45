"""Plain loops under Accelerate: what `prepare` returns is what `watch` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.integrations.conftest import Noted, assert_recorded, trainable_vector
from thalweg.recording import open_run, watch

accelerate = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def fresh_accelerator() -> None:
    """Accelerate keeps its settings for the whole process."""
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def prepared(**settings: Any) -> tuple[Any, nn.Module, Any, Any, torch.optim.Optimizer]:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    inputs = torch.randn(24, 3)
    loader = DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=4)
    accelerator = accelerate.Accelerator(cpu=True, **settings)
    return accelerator, *accelerator.prepare(model, optimizer, loader), optimizer


@pytest.mark.parametrize("accumulated", [1, 4])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_weights_after_each_step(tmp_path: Path, accumulated: int, precision: str) -> None:
    accelerator, model, optimizer, loader, inner = prepared(
        gradient_accumulation_steps=accumulated, mixed_precision=precision
    )
    assert optimizer is not inner
    noted = Noted()
    noted.watch(model, inner)
    with watch(model, optimizer, tmp_path / "run"):
        for _ in range(2):
            for inputs, targets in loader:
                with accelerator.accumulate(model):
                    accelerator.backward((model(inputs) - targets).pow(2).mean())
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
    steps = {1: 12, 4: 4}[accumulated]  # the last two batches of an epoch make a step of their own
    t = assert_recorded(tmp_path / "run", noted)
    assert len(t) == steps
    assert t.optimizer["class"] == "torch.optim.adamw.AdamW"
    assert torch.equal(t.weights(steps - 1), trainable_vector(model))


class Skipping(torch.amp.GradScaler):
    """A scaler that finds infinite gradients in every third step, as the real one does on a GPU now and then."""

    def __init__(self) -> None:
        super().__init__("cpu", enabled=False)
        self.calls = 0

    def step(self, optimizer: Any, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        return None if self.calls % 3 == 0 else optimizer.step(*arguments, **named)


def test_a_skipped_step_is_none(tmp_path: Path) -> None:
    _, model, optimizer, loader, inner = prepared()
    optimizer.scaler = Skipping()
    optimizer._accelerate_step_called = False
    optimizer._optimizer_original_step_method = inner.step
    optimizer._optimizer_patched_step_method = accelerate.optimizer.patch_optimizer_step(optimizer, inner.step)
    noted = Noted()
    noted.watch(model, inner)
    skipped = []
    with watch(model, optimizer, tmp_path / "run"):
        for inputs, targets in loader:
            (model(inputs) - targets).pow(2).mean().backward()
            optimizer.step()
            skipped.append(optimizer.step_was_skipped)
            optimizer.zero_grad()
    assert skipped == [False, False, True] * 2
    assert len(assert_recorded(tmp_path / "run", noted)) == 4


def test_the_wrapper_can_go_and_the_training_go_on(tmp_path: Path) -> None:
    _, model, optimizer, loader, inner = prepared()
    recorder = watch(model, optimizer, tmp_path / "run")
    del optimizer
    for inputs, targets in loader:
        inner.zero_grad()
        (model(inputs) - targets).pow(2).mean().backward()
        inner.step()
    recorder.close()
    assert len(open_run(tmp_path / "run").trajectory) == 6
