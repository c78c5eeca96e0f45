"""HuggingFace's Trainer, in real short runs; peft models and the products of their LoRA pairs."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tests.integrations.conftest import Noted, assert_recorded
from thalweg.errors import InputError, MissingExtraError, RunError
from thalweg.integrations import transformers as module_under_test
from thalweg.integrations.peft import lora_delta_weights, lora_pairs
from thalweg.integrations.transformers import ThalwegCallback
from thalweg.recording import open_run, watch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
peft = pytest.importorskip("peft")


class Rows(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x = torch.sin(torch.arange(3, dtype=torch.float32) + index)
        return {"x": x, "labels": x.sum().view(1)}


class Net(nn.Module):
    def __init__(self, fails_at: int = -1) -> None:
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.last = nn.Linear(6, 1)
        self.calls = 0
        self.fails_at = fails_at

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls == self.fails_at:
            raise ValueError("the data end here")
        output = self.last(torch.tanh(self.first(x)))
        return {"loss": nn.functional.mse_loss(output, labels), "logits": output}


class NotingTrainer(transformers.Trainer):  # type: ignore[misc, name-defined]
    """Notes the weights at each step of the optimizer that it makes."""

    def create_optimizer(self, *arguments: Any, **named: Any) -> Any:
        made = super().create_optimizer(*arguments, **named)
        self.noted = Noted()
        self.noted.watch(self.model, made)
        return made


def make_trainer(folder: Path, model: nn.Module, callback: Any, held_out: Any = None, **settings: Any) -> NotingTrainer:
    settings = {"max_steps": 9, "logging_steps": 2, **settings}
    arguments = transformers.TrainingArguments(
        str(folder / "output"),
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        learning_rate=0.05,
        **settings,
    )
    return NotingTrainer(model=model, args=arguments, train_dataset=Rows(), eval_dataset=held_out, callbacks=[callback])


@pytest.fixture
def lora() -> Any:
    """A tiny net with LoRA factors whose second one is not zero, so that products differ from the start."""
    torch.manual_seed(2)
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["first", "last"], init_lora_weights=False)
    return peft.get_peft_model(Net(), config)


@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}, {"max_grad_norm": 0.01}, {"optim": "sgd"}],
    ids=str,
)
def test_the_weights_after_each_step(tmp_path: Path, settings: dict[str, Any]) -> None:
    trainer = make_trainer(tmp_path, Net(), ThalwegCallback(tmp_path / "run"), **settings)
    trainer.train()
    assert len(assert_recorded(tmp_path / "run", trainer.noted)) == 9
    assert json.loads((tmp_path / "run" / "closed.json").read_text())["reason"] == "closed"


def test_numbers_stand_with_the_step_before(tmp_path: Path) -> None:
    evaluated = {"eval_strategy": "steps", "eval_steps": 3, "eval_on_start": True}
    trainer = make_trainer(tmp_path, Net(), ThalwegCallback(tmp_path / "run"), Rows(), **evaluated)
    trainer.train()
    kept = open_run(tmp_path / "run").trajectory.scalars
    for name in ("loss", "eval_loss"):
        logged = {entry["step"] - 1: entry[name] for entry in trainer.state.log_history if name in entry}
        logged.pop(-1, None)  # before the first step
        there = (~torch.isnan(kept[name])).nonzero()[:, 0].tolist()
        assert there == sorted(logged), name
        assert kept[name][there].tolist() == pytest.approx([float(logged[step]) for step in there])


def test_each_training_is_a_run_of_its_own(tmp_path: Path) -> None:
    callback = ThalwegCallback(tmp_path / "run")
    trainer = make_trainer(tmp_path, Net(), callback)
    trainer.train()
    first = trainer.noted
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.train()
    assert callback.folders == (tmp_path / "run", tmp_path / "run-2")
    assert_recorded(tmp_path / "run", first)
    assert_recorded(tmp_path / "run-2", trainer.noted)
    assert torch.equal(open_run(tmp_path / "run-2").trajectory.weights(-1), first.after[-1])


def test_with_a_budget_what_fits_the_steps_to_come_is_kept(tmp_path: Path) -> None:
    callback = ThalwegCallback(tmp_path / "run", budget="1MiB")
    make_trainer(tmp_path, Net(), callback, max_steps=3).train()
    assert callback.recorder.forecast.steps == 3
    callback = ThalwegCallback(tmp_path / "other", budget="1MiB", keep="bfloat16")
    make_trainer(tmp_path, Net(), callback, max_steps=3).train()
    assert callback.recorder.forecast.steps is None
    assert callback.recorder.forecast.keeping.form == "bfloat16"


def test_overwrite_removes_the_run_in_the_way_and_not_the_one_just_made(tmp_path: Path) -> None:
    make_trainer(tmp_path, Net(), ThalwegCallback(tmp_path / "run"), max_steps=3).train()
    callback = ThalwegCallback(tmp_path / "run", overwrite=True)
    trainer = make_trainer(tmp_path, Net(), callback)
    trainer.train()
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.train()
    assert callback.folders == (tmp_path / "run", tmp_path / "run-2")
    assert [len(open_run(folder).trajectory) for folder in callback.folders] == [9, 9]


def test_after_an_exception_the_next_training_closes_what_was_open(tmp_path: Path) -> None:
    callback = ThalwegCallback(tmp_path / "run")
    trainer = make_trainer(tmp_path, Net(fails_at=5), callback)
    with pytest.raises(ValueError, match="the data end here"):
        trainer.train()
    first = trainer.noted
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.train()
    assert len(assert_recorded(tmp_path / "run", first)) == 4
    assert len(assert_recorded(tmp_path / "run-2", trainer.noted)) == 9


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    trainer = make_trainer(tmp_path, Net(), ThalwegCallback(tmp_path / "file" / "run"))
    with pytest.warns(RuntimeWarning, match="does not record this training: .*cannot be written"):
        trainer.train()
    assert len(trainer.noted.after) == 9


def test_the_library_takes_the_callback_for_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = ThalwegCallback(tmp_path / "run")
    assert isinstance(callback, transformers.TrainerCallback)
    assert isinstance(callback, ThalwegCallback)
    assert isinstance(pickle.loads(pickle.dumps(callback)), transformers.TrainerCallback)
    with pytest.raises(InputError, match=r"thalweg\.watch takes no 'segments'"):
        ThalwegCallback(tmp_path / "run", segments=3)
    monkeypatch.setattr(module_under_test.ThalwegCallback, "places", (("no_such_library", "TrainerCallback"),))
    with pytest.raises(MissingExtraError, match=r"pip install 'thalweg\[transformers\]'"):
        ThalwegCallback(tmp_path / "run")


# -- peft --------------------------------------------------------------------------------------------------


def peft_truth(model: Any) -> dict[str, Tensor]:
    """What peft itself says of each layer's delta weight now."""
    return {
        f"{name}.default": module.get_delta_weight("default").detach().clone()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def test_lora_products_of_a_recorded_training(tmp_path: Path, lora: Any) -> None:
    truths = [peft_truth(lora)]
    trainer = make_trainer(tmp_path, lora, ThalwegCallback(tmp_path / "run"))
    create = trainer.create_optimizer

    def noting(*arguments: Any, **named: Any) -> Any:
        made = create(*arguments, **named)
        made.register_step_post_hook(lambda *_: truths.append(peft_truth(lora)))
        return made

    trainer.create_optimizer = noting  # type: ignore[method-assign]
    trainer.train()
    t = assert_recorded(tmp_path / "run", trainer.noted)
    assert all("lora_" in name for name in t.space.names)
    assert len(truths) == 10
    for step, truth in enumerate(truths, start=-1):
        found = lora_delta_weights(t, step)
        assert set(found) == {"base_model.model.first.default", "base_model.model.last.default"}
        for name, product in truth.items():
            torch.testing.assert_close(found[name], product, rtol=1e-6, atol=1e-7)
    first, last = (truth["base_model.model.first.default"] for truth in (truths[0], truths[-1]))
    assert float((first - last).norm()) > 0.05 * float(first.norm())


def test_without_kept_scalings_the_model_is_asked_for(tmp_path: Path, lora: Any) -> None:
    optimizer = torch.optim.SGD([p for p in lora.parameters() if p.requires_grad], lr=0.1)
    with watch(lora, optimizer, tmp_path / "run"):
        lora(Rows()[0]["x"], Rows()[0]["labels"])["loss"].backward()
        optimizer.step()
    t = open_run(tmp_path / "run").trajectory
    with pytest.raises(RunError, match="keeps no scalings of LoRA pairs; give lora_delta_weights"):
        lora_delta_weights(t, 0)
    for name, product in peft_truth(lora).items():
        torch.testing.assert_close(lora_delta_weights(t, 0, lora)[name], product)


def test_a_frozen_factor_comes_from_the_model(tmp_path: Path, lora: Any) -> None:
    for name, parameter in lora.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    make_trainer(tmp_path, lora, ThalwegCallback(tmp_path / "run")).train()
    t = open_run(tmp_path / "run").trajectory
    with pytest.raises(InputError, match=r"lora_A.default.weight' is not among the weights"):
        lora_delta_weights(t, 8)
    for name, product in peft_truth(lora).items():
        torch.testing.assert_close(lora_delta_weights(t, 8, lora)[name], product)


def test_damaged_scalings_are_no_data(tmp_path: Path, lora: Any) -> None:
    make_trainer(tmp_path, lora, ThalwegCallback(tmp_path / "run"), max_steps=2).train()
    kept = tmp_path / "run" / "results" / "lora.json"
    about = json.loads(kept.read_text())
    assert [pair["scaling"] for pair in about["pairs"]] == [3.0, 3.0]
    for damage in ({"scaling": None}, {"scaling": "NaN"}):
        kept.write_text(json.dumps({"pairs": [about["pairs"][0] | damage]}))
        with pytest.raises(RunError, match="keeps damaged LoRA pairs"):
            lora_delta_weights(open_run(tmp_path / "run").trajectory, 1)


class Mixed(nn.Module):
    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.conv = nn.Conv2d(4, 6, 3)
        self.point = nn.Conv2d(6, 5, 1)
        self.grouped = nn.Conv2d(4, 8, 3, groups=groups)


def named_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_embeddings_and_convolutions() -> None:
    config = peft.LoraConfig(
        r=4, lora_alpha=2, use_rslora=True, target_modules=["embedding", "conv", "point"], init_lora_weights=False
    )
    model = peft.get_peft_model(Mixed(), config)
    truth = peft_truth(model)
    pairs = lora_pairs(model)
    assert {pair.name for pair in pairs} == set(truth)
    for pair in pairs:
        assert pair.scaling == 1.0  # alpha / sqrt(r)
        torch.testing.assert_close(pair.delta_weight(named_weights(model)), truth[pair.name])


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer")
def test_grouped_convolutions_are_left_out_with_a_warning() -> None:
    config = peft.LoraConfig(r=2, target_modules=["conv", "grouped"], init_lora_weights=False)
    model = peft.get_peft_model(Mixed(groups=2), config)
    with pytest.warns(RuntimeWarning, match="base_model.model.grouped"):
        pairs = lora_pairs(model)
    assert [pair.layer for pair in pairs] == ["base_model.model.conv"]


def test_layers_that_keep_their_weight_transposed() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c_attn = transformers.pytorch_utils.Conv1D(6, 4)

    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    model = peft.get_peft_model(Block(), config)
    (pair,) = lora_pairs(model)
    assert pair.transposed
    product = pair.delta_weight(named_weights(model))
    assert product.shape == (4, 6)
    torch.testing.assert_close(product, peft_truth(model)["base_model.model.c_attn.default"])


def test_a_model_without_pairs_keeps_nothing_and_is_told_so(tmp_path: Path) -> None:
    net = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_trainer(tmp_path, net, ThalwegCallback(tmp_path / "run"), max_steps=2).train()
    assert not (tmp_path / "run" / "results").exists()
    with pytest.raises(InputError, match="this model has no LoRA pair"):
        lora_delta_weights(open_run(tmp_path / "run").trajectory, 1, net)
