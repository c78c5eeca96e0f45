"""Trainings under Lightning and under HuggingFace's Trainer that are there to be killed.

Run as a script, with `lightning` or `transformers` as its argument, it imports the library once, then reads folder
names from standard input and forks a child for each, which trains and records there in tiny segments until it is
killed. It prints the child's process id, and "gone" when there is none any more. The parent itself trains nothing:
torch refuses to differentiate in a fork of a process that has.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import warnings
from typing import Any

import torch
from torch import Tensor, nn

ENDLESS = 10**6


def net() -> nn.Module:
    torch.manual_seed(6)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def rows() -> list[dict[str, Tensor]]:
    inputs = torch.sin(torch.arange(72.0).view(24, 3))
    return [{"x": row, "labels": row.sum().view(1)} for row in inputs]


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.mse_loss(model(batch["x"]), batch["labels"])


def train_lightning(callback: Any, steps: int, note: Any = None) -> None:
    import pytorch_lightning as pl

    class Module(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return loss_of(self.net, batch)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
            if note is not None:
                optimizer.register_step_post_hook(lambda *_: note(self))
            return optimizer

    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    loader = torch.utils.data.DataLoader(rows(), batch_size=4)  # type: ignore[arg-type]
    limits = {"max_steps": steps, "max_epochs": ENDLESS, "logger": False, "accelerator": "cpu"}
    pl.Trainer(callbacks=[callback] if callback else [], **limits, **quiet).fit(Module(), loader)


def train_transformers(callback: Any, steps: int, note: Any = None) -> None:
    import transformers

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": loss_of(self.net, {"x": x, "labels": labels})}

    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    if note is not None:
        optimizer.register_step_post_hook(lambda *_: note(model))
    with tempfile.TemporaryDirectory() as output:
        arguments = transformers.TrainingArguments(
            output, max_steps=steps, per_device_train_batch_size=4, use_cpu=True, report_to=[], disable_tqdm=True,
            save_strategy="no", logging_strategy="no", lr_scheduler_type="constant",
        )  # fmt: skip
        transformers.Trainer(
            model,
            arguments,
            train_dataset=rows(),
            callbacks=[callback] if callback else [],
            optimizers=(optimizer, None),
        ).train()


TRAININGS = {"lightning": train_lightning, "transformers": train_transformers}


def by_hand(library: str, steps: int) -> list[Tensor]:
    """The weights after each step of the same training, which nothing records."""
    seen: list[Tensor] = []
    TRAININGS[library](
        None, steps, lambda m: seen.append(nn.utils.parameters_to_vector(m.parameters()).detach().clone())
    )
    return seen


def child(library: str, folder: str) -> None:
    module = importlib.import_module(f"thalweg.integrations.{library}")
    TRAININGS[library](module.ThalwegCallback(folder, segment_rows=3), ENDLESS)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    made = importlib.import_module(f"thalweg.integrations.{sys.argv[1]}")
    made.ThalwegCallback("never made")  # imports the library
    for line in sys.stdin:
        started = os.fork()
        if started == 0:
            try:
                child(sys.argv[1], line.strip())
            finally:
                os._exit(1)
        print("pid", started, flush=True)
        os.waitpid(started, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main()
