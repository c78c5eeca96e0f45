"""Lightning's Trainer, in real short runs."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from tests.integrations.conftest import Noted, assert_recorded, trainable_vector
from thalweg.errors import InputError, MissingExtraError
from thalweg.integrations import lightning as module_under_test
from thalweg.integrations.lightning import ThalwegCallback
from thalweg.recording import open_run

pl = pytest.importorskip("pytorch_lightning")

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning_fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*litlogger.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*"),
]


class Net(pl.LightningModule):  # type: ignore[misc, name-defined]
    """Learns with one optimizer, automatically."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        self.noted = Noted()
        self.losses: list[float] = []
        self.fails_at = -1

    def training_step(self, batch: Any, index: int) -> Tensor:
        if index == self.fails_at:
            raise ValueError("the data end here")
        loss = mse_loss(self.net(batch[0]), batch[1])
        self.losses.append(float(loss.detach()))
        self.log("twice", 2 * loss.detach())
        self.log("mean", loss.detach(), on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("held_out", mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        self.noted.watch(self, optimizer)
        return optimizer


class Alternating(Net):
    """Two optimizers, each stepped by hand; the second one's step ends a step of the run."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(mse_loss(self.net(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        first = torch.optim.SGD(self.net[0].parameters(), lr=0.1)
        second = torch.optim.Adam(self.net[2].parameters(), lr=0.01)
        first.register_step_pre_hook(lambda *_: self.noted._note_first(self))
        second.register_step_post_hook(lambda *_: self.noted.after.append(trainable_vector(self)))
        return first, second


def loader() -> DataLoader[Any]:
    inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(3))
    return DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=4)


def make_trainer(callback: Any, **settings: Any) -> Any:
    settings = {"max_epochs": 2, "accelerator": "cpu", "logger": False, **settings}
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(callbacks=[callback], **{**quiet, **settings})


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, 12),
        ({"accumulate_grad_batches": 4}, 4),
        ({"precision": "bf16-mixed"}, 12),
        ({"precision": "bf16-true"}, 12),
        ({"gradient_clip_val": 0.1}, 12),
    ],
    ids=str,
)
def test_the_weights_after_each_step(tmp_path: Path, settings: dict[str, Any], steps: int) -> None:
    net = Net()
    make_trainer(ThalwegCallback(tmp_path / "run"), **settings).fit(net, loader())
    t = assert_recorded(tmp_path / "run", net.noted)
    assert len(t) == steps
    assert json.loads((tmp_path / "run" / "closed.json").read_text())["reason"] == "closed"


def test_two_optimizers_stepped_by_hand(tmp_path: Path) -> None:
    net = Alternating()
    make_trainer(ThalwegCallback(tmp_path / "run")).fit(net, loader())
    assert len(assert_recorded(tmp_path / "run", net.noted)) == 12


def test_every_and_a_budget_reach_the_recorder(tmp_path: Path) -> None:
    net = Net()
    callback = ThalwegCallback(tmp_path / "run", every=5, budget="1MiB")
    make_trainer(callback).fit(net, loader())
    assert callback.recorder.forecast.steps == 12
    t = open_run(tmp_path / "run").trajectory
    assert t.steps.tolist() == [4, 9, 11]
    assert torch.equal(t.weights(9), net.noted.after[9])
    assert t.manifest["budget"] == 2**20


def test_numbers_stand_with_the_step_they_belong_to(tmp_path: Path) -> None:
    net = Net()
    make_trainer(ThalwegCallback(tmp_path / "run")).fit(net, loader(), loader())
    kept = open_run(tmp_path / "run").trajectory.scalars
    expected = torch.tensor(net.losses)
    torch.testing.assert_close(kept["loss"].float(), expected)
    torch.testing.assert_close(kept["twice"].float(), 2 * expected)
    for name in ("mean", "held_out"):  # at the end of each epoch, and not repeated in the next
        assert (~torch.isnan(kept[name])).nonzero()[:, 0].tolist() == [5, 11], name
    torch.testing.assert_close(kept["mean"][[5, 11]].float(), expected.view(2, 6).mean(dim=1))


def test_accumulated_batches_do_not_write_into_the_step_before(tmp_path: Path) -> None:
    net = Net()
    make_trainer(ThalwegCallback(tmp_path / "run"), accumulate_grad_batches=3).fit(net, loader())
    kept = open_run(tmp_path / "run").trajectory.scalars["loss"]
    torch.testing.assert_close(kept.float(), torch.tensor(net.losses)[[2, 5, 8, 11]])


def test_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    torch.manual_seed(5)
    net = Net()
    alone = Net()
    alone.load_state_dict(net.state_dict())
    make_trainer(ThalwegCallback(tmp_path / "run")).fit(net, loader())
    make_trainer(pl.Callback()).fit(alone, loader())
    assert torch.equal(net.noted.after[-1], alone.noted.after[-1])


def test_each_fit_is_a_run_of_its_own(tmp_path: Path) -> None:
    callback = ThalwegCallback(tmp_path / "run")
    net = Net()
    trainer = make_trainer(callback)
    trainer.fit(net, loader())
    first, net.noted = net.noted, Noted()
    trainer.fit_loop.max_epochs = 3
    trainer.fit(net, loader())
    assert callback.folders == (tmp_path / "run", tmp_path / "run-2")
    assert_recorded(tmp_path / "run", first)
    assert len(assert_recorded(tmp_path / "run-2", net.noted)) == 6
    other = ThalwegCallback(tmp_path / "run")  # another process finds both and leaves them alone
    make_trainer(other, max_epochs=1).fit(Net(), loader())
    assert other.folders == (tmp_path / "run-3",)
    assert_recorded(tmp_path / "run", first)


def test_with_resume_a_second_fit_goes_on_in_the_same_run(tmp_path: Path) -> None:
    callback = ThalwegCallback(tmp_path / "run", resume=True)
    net = Net()
    trainer = make_trainer(callback, max_epochs=1)
    trainer.fit(net, loader())
    trainer.fit_loop.max_epochs = 2
    trainer.fit(net, loader())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert len(assert_recorded(tmp_path / "run", net.noted)) == 12


def test_what_was_recorded_before_an_exception_is_kept(tmp_path: Path) -> None:
    net = Net()
    net.fails_at = 3
    callback = ThalwegCallback(tmp_path / "run")
    with pytest.raises(ValueError, match="the data end here"):
        make_trainer(callback).fit(net, loader())
    assert callback.recorder is not None
    assert callback.recorder.closed
    assert len(assert_recorded(tmp_path / "run", net.noted)) == 3
    assert json.loads((tmp_path / "run" / "closed.json").read_text())["reason"] == "left by ValueError"


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    net = Net()
    with pytest.warns(RuntimeWarning, match="does not record this training: .*cannot be written") as caught:
        make_trainer(ThalwegCallback(tmp_path / "file" / "run")).fit(net, loader())
    assert len([w for w in caught if "thalweg" in str(w.message)]) == 1
    assert len(net.noted.after) == 12
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # even then training goes on
        make_trainer(ThalwegCallback(tmp_path / "file" / "run")).fit(net, loader())
    assert len(net.noted.after) == 24


def test_other_ranks_record_nothing(tmp_path: Path) -> None:
    callback = ThalwegCallback(tmp_path / "run")
    rank = types.SimpleNamespace(global_step=0, is_global_zero=False, optimizers=[], callback_metrics={})
    callback.on_train_start(rank, None)
    callback.on_train_epoch_end(rank, None)
    callback.on_train_end(rank, None)
    assert callback.recorder is None
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every=0: give a whole number"),
        ({"budget": "much"}, "budget='much'"),
        ({"evry": 2}, "thalweg.watch takes no 'evry'; the nearest are 'every'"),
    ],
)
def test_wrong_arguments_are_refused_before_training(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ThalwegCallback(tmp_path / "run", **arguments)


def test_both_import_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    callback = ThalwegCallback(tmp_path / "run")
    assert isinstance(callback, pl.Callback)
    assert isinstance(callback, ThalwegCallback)
    other = types.ModuleType("lightning.pytorch")
    other.Callback = type("Callback", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning.pytorch", other)
    both = ThalwegCallback(tmp_path / "run")
    assert isinstance(both, pl.Callback)
    assert isinstance(both, other.Callback)
    monkeypatch.delitem(sys.modules, "pytorch_lightning")
    alone = ThalwegCallback(tmp_path / "run")
    assert isinstance(alone, other.Callback)
    assert not isinstance(alone, pl.Callback)


def test_a_callback_can_be_sent_to_another_process(tmp_path: Path) -> None:
    sent = pickle.loads(pickle.dumps(ThalwegCallback(tmp_path / "run", every=3)))
    assert isinstance(sent, pl.Callback)
    net = Net()
    make_trainer(sent, max_epochs=1).fit(net, loader())
    assert open_run(tmp_path / "run").trajectory.steps.tolist() == [2, 5]


def test_without_lightning_the_module_imports_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_under_test.ThalwegCallback, "places", (("no_such_lightning", "Callback"),))
    with pytest.raises(
        MissingExtraError, match=r"no_such_lightning is not installed; pip install 'thalweg\[lightning\]'"
    ):
        ThalwegCallback("run")
    program = "import sys, thalweg.integrations.lightning; print('pytorch_lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.prove
def test_one_of_two_processes_records(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.integrations.ddp_script", str(tmp_path / "run"), str(tmp_path)]
    root = Path(__file__).parents[2]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600, env=settings)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.safetensors", "1.safetensors", "run"]
    notes = [load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)]
    t = open_run(tmp_path / "run").trajectory
    assert t.steps.tolist() == list(range(6))
    for step in range(6):
        assert torch.equal(t.weights(step), notes[0][str(step)])
        assert torch.equal(t.weights(step), notes[1][str(step)])
    assert (~torch.isnan(t.scalars["held_out"])).nonzero()[:, 0].tolist() == [2, 5]
