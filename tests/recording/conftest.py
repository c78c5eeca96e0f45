"""Trainings of tiny nets, recorded and, beside that, copied by hand."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import thalweg.recording as recording

ROOT = Path(__file__).parents[2]


class Script:
    """A script of this folder that is told folders, a line each, and answers in lines; see `kill_writer`."""

    def __init__(self, name: str) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
        command = [sys.executable, str(ROOT / "tests/recording" / name)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> "Script":
        return self

    def __exit__(self, *of: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with self._process:
            pass

    def tell(self, *parts: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join(map(str, parts)) + "\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@dataclass
class ByHand:
    """What a plain loop saw: weights before the first and after each step, and the gradients it stepped with."""

    weights: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    buffers: list[dict[str, Tensor]] = field(default_factory=list)

    @property
    def updates(self) -> Tensor:
        return torch.stack([b - a for a, b in zip(self.weights, self.weights[1:], strict=False)])


def net(dtype: torch.dtype = torch.float32, norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        middle = [nn.BatchNorm1d(7)] if norm else []
        return nn.Sequential(nn.Linear(5, 7), *middle, nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def trainable(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).clone()


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    after: Callable[[int, float], None] = lambda step, loss: None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> ByHand:
    seen = ByHand([flat(trainable(model))])
    dtype = next(model.parameters()).dtype
    generator = torch.Generator().manual_seed(11)
    for step in range(steps):
        x = torch.randn(9, 5, generator=generator, dtype=dtype)
        y = torch.randint(3, (9,), generator=generator)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        seen.gradients.append(flat([p.grad for p in trainable(model)]))
        optimizer.step()
        seen.weights.append(flat(trainable(model)))
        seen.buffers.append({name: b.clone() for name, b in model.named_buffers()})
        after(step, float(loss.detach()))
        if scheduler:
            scheduler.step()
    return seen


def wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is busy the recorder would sum steps, and tests would see fewer rows than they made."""
    monkeypatch.setattr("thalweg.recording.pace.WAIT_GRACE", 1e6)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test of this folder waits for the disk, but for those that set the grace themselves."""
    wait_for_the_disk(monkeypatch)


@dataclass
class Recorded:
    trajectory: recording.Trajectory
    hand: ByHand
    folder: Path


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recorded]:
    wait_for_the_disk(monkeypatch)

    def make(
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        steps: int = 40,
        dtype: torch.dtype = torch.float32,
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        model: nn.Module | None = None,
        folder: str = "run",
        **options: object,
    ) -> Recorded:
        model = model or net(dtype)
        made = optimizer(trainable(model)) if optimizer else torch.optim.SGD(trainable(model), lr=0.1, momentum=0.9)
        options = {"segment_rows": 7} | options
        with recording.watch(model, made, tmp_path / folder, **options):
            hand = train(model, made, steps, scheduler=schedule(made) if schedule else None)
        return Recorded(recording.open_run(tmp_path / folder).trajectory, hand, tmp_path / folder)

    return make
