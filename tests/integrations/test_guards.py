"""Guards under Lightning, under HuggingFace's Trainer and on LoRA weights, in real short runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg as tw
from tests.integrations.test_transformers import Net, Rows

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
peft = pytest.importorskip("peft")
pl = pytest.importorskip("pytorch_lightning")

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning_fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*litlogger.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]

OLD = [(torch.sin(torch.arange(15.0)).view(5, 3), torch.cos(torch.arange(5.0)).view(5, 1))]


def mse(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def assert_kept(before: Tensor, after: Tensor, kept: tw.Directions) -> None:
    moved = (after - before).double()
    assert float(moved.norm()) > 1e-3
    assert float((kept.vectors.double() @ moved).norm()) < 1e-4 * float(moved.norm())


def test_huggingfaces_trainer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net()
    space = tw.ParameterSpace.of(model)
    kept, before = tw.random_directions(space, 8, seed=1), space.vector(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=12, per_device_train_batch_size=4, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True, gradient_accumulation_steps=2,
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=settings, train_dataset=Rows(), optimizers=(optimizer, None))
    with tw.guard(optimizer, kept) as protecting:
        trainer.train()
    assert protecting.steps == 12
    assert_kept(before, space.vector(model), kept)


class Lit(pl.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self, known: Any) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        self.known = known

    def training_step(self, batch: Any, index: int) -> Tensor:
        return mse(self.net, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.protecting = tw.guard(optimizer, self.known, model=self.net)
        return optimizer


def test_lightnings_trainer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lit = Lit(None)
    loss = tw.Loss(lambda model, batch: model(batch[0]), lambda output, batch: nn.functional.mse_loss(output, batch[1]))
    lit.known = tw.remember(tw.Problem(lit.net, loss, OLD), tmp_path / "old.safetensors", hard=1.0)
    with torch.no_grad():
        before = lit.net(OLD[0][0][:1])
    data = DataLoader(TensorDataset(torch.randn(12, 3), torch.randn(12, 1)), batch_size=4)
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(lit, data)
    assert lit.protecting.steps == 9
    with torch.no_grad():
        assert torch.allclose(lit.net(OLD[0][0][:1]), before, atol=1e-4)


def test_lora_weights_are_remembered_and_guarded() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False))
    loss = tw.Loss(lambda net, batch: net(batch[0]), lambda output, batch: nn.functional.mse_loss(output, batch[1]))
    problem = tw.Problem(model, loss, [(OLD[0][0][:2], OLD[0][1][:2])])
    known = tw.remember(problem, hard=1.0)
    assert {shield.kind for shield in known.shields} == {"kronecker"}  # LoRA's pairs are linear maps
    with torch.no_grad():
        before = model(OLD[0][0][:2])
    trained = [p for p in model.parameters() if p.requires_grad]
    begun = torch.cat([p.detach().reshape(-1) for p in trained])
    optimizer = torch.optim.Adam(trained, lr=0.05)
    with tw.guard(optimizer, known, model=model):
        for _ in range(10):
            optimizer.zero_grad()
            mse(model, (torch.randn(8, 3), torch.ones(8, 1))).backward()
            optimizer.step()
    assert float((torch.cat([p.detach().reshape(-1) for p in trained]) - begun).norm()) > 0.05
    with torch.no_grad():
        assert torch.allclose(model(OLD[0][0][:2]), before, atol=1e-3)
