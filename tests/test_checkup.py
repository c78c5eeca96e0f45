"""The doctor against tasks with a planted fault, and the task files that `init` writes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import thalweg as tw
from thalweg.checkup.look import doctor
from thalweg.checkup.result import Checkup
from thalweg.cli import app
from thalweg.tasks.loading import load_task
from thalweg.tasks.starting import KINDS, write_task_file


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def square(model: nn.Module, batch: Any) -> Tensor:
    return functional.mse_loss(model(batch[0]), batch[1])


def data(seed: int = 0, sizes: tuple[int, ...] = (20, 12)) -> list[tuple[Tensor, Tensor]]:
    return [(draw(seed + i, n, 3), draw(seed + 10 + i, n, 1)) for i, n in enumerate(sizes)]


def task(**changes: Any) -> tw.Task:
    sound: dict[str, Any] = {
        "model": net(),
        "loss": square,
        "train": data(),
        "held_out": data(50),
        "optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    }
    return tw.Task(**{**sound, **changes})


def states(found: Checkup) -> dict[str, str]:
    return {check.name: check.state for check in found.checks}


def test_a_sound_task_is_good_throughout_and_its_costs_are_measured() -> None:
    found = doctor(task(), address="my.py:task")
    assert found.healthy
    assert set(states(found).values()) == {"good"}
    assert list(states(found)) == [
        "model", "deterministic", "data", "loss", "gradient", "products", "held-out", "optimizer", "time", "memory",
        "disk",
    ]  # fmt: skip
    assert "weighed by their samples" in str(found)  # batches of 20 and 12
    assert f"{task().problem().loss():.4g}" in str(found)
    assert found.following.endswith("thalweg analyse runs/a --task my.py:task")
    assert all(value > 0 for value in found.costs.values())
    assert "trial_seconds" in found.costs
    # of 1,000 rows of 21 float32 weights, and some kilobytes for each of few segments
    assert 84_000 < found.costs["disk_bytes"] < 200_000
    assert found.costs["basis_bytes"] == 70 * 21 * 4


class Wrong(torch.autograd.Function):
    """Squares; its backward pass has a graph, but of another function."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return inputs**2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors
        return 2 * inputs.detach() * gradient


class Squares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, inputs: Tensor) -> Tensor:
        return Wrong.apply(self.inner(inputs))


class Distances(nn.Module):
    """`torch.cdist` has no second derivative for p = 3."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Parameter(draw(3, 2, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cdist(inputs, self.points, p=3.0).sum(dim=1, keepdim=True)


def random_loss(model: nn.Module, batch: Any) -> Tensor:
    return square(model, batch) * (1 + torch.rand(()))


def infinite(model: nn.Module, batch: Any) -> Tensor:
    return square(model, batch) / 0.0


def unrelated(model: nn.Module, batch: Any) -> Tensor:
    return batch[0].mean()


def raises(model: nn.Module, batch: Any) -> Tensor:
    raise KeyError("labels")


@pytest.mark.parametrize(
    ("changes", "name", "told"),
    [
        ({"loss": random_loss}, "deterministic", "something random is active"),
        ({"loss": infinite}, "loss", "inf"),
        ({"loss": unrelated}, "loss", "does not depend on the trainable parameters"),
        ({"loss": raises}, "loss", "test_checkup.py"),
        ({"train": []}, "loss", "no batch"),
        ({"model": Distances()}, "products", "cdist"),
        ({"held_out": data()}, "held-out", "training data as well"),
        ({"held_out": [(torch.full((4, 3), torch.nan), torch.zeros(4, 1))]}, "held-out", "nan"),
        ({"optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=-1)}, "optimizer", "-1"),
        ({"optimizer": lambda model: torch.optim.LBFGS(model.parameters())}, "optimizer", "LBFGS asks for the loss"),
        ({"evaluate": lambda model: {"accuracy": [][0]}}, "measures", "test_checkup.py"),
    ],
)
def test_a_fault_is_named_and_the_rest_is_still_told(changes: dict[str, Any], name: str, told: str) -> None:
    found = doctor(task(**changes))
    assert not found.healthy
    (bad,) = [check for check in found.checks if check.state == "bad"]
    assert bad.name == name
    assert told in f"{bad.found} {bad.mend}"
    assert bad.mend
    assert found.following == "mend that, then run doctor again"
    assert found.checks[0].name == "model"


def test_products_that_are_wrong_are_found() -> None:
    found = doctor(task(model=Squares()))
    (bad,) = [check for check in found.checks if check.state == "bad"]
    assert bad.name == "products"
    assert "differences of gradients" in bad.found
    assert "Wrong" in bad.mend


class Right(Wrong):
    """The same, with a backward pass that can be differentiated."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (inputs,) = ctx.saved_tensors
        return 2 * inputs * gradient


def test_a_custom_function_that_is_right_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Squares()
    monkeypatch.setattr(Squares, "forward", lambda self, inputs: Right.apply(self.inner(inputs)))
    found = doctor(task(model=model))
    assert found.healthy, str(found)
    (products,) = [check for check in found.checks if check.name == "products"]
    assert "Right" in products.found
    assert "as differences of gradients say" in products.found


def test_what_should_be_known_is_a_note() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    model.register_parameter("unused", nn.Parameter(torch.zeros(2)))
    found = doctor(task(model=model, held_out=None, optimizer=None))
    assert found.healthy
    notes = {check.name: check for check in found.checks if check.state == "note"}
    assert set(notes) == {"mode", "gradient", "held-out", "optimizer"}
    assert "trial" not in str(found).split("time ")[1].splitlines()[0]  # it could not be run
    assert "unused" in notes["gradient"].found
    assert "Dropout" in notes["mode"].found


def test_graphs_are_foreseen_as_they_will_be_however_the_data_is_cut() -> None:
    (batch,) = data(sizes=(512,))
    model = nn.Sequential(nn.Linear(3, 512), nn.Tanh(), nn.Linear(512, 1))  # wide: nodes take little beside numbers
    cut, whole = (
        doctor(task(model=model, train=batches)).costs["graph_bytes"]
        for batches in (list(zip(*(column.split(64) for column in batch), strict=True)), [batch])
    )
    assert cut == pytest.approx(whole, rel=0.5)


def test_the_users_model_is_left_as_it_was() -> None:
    model = net().train()
    before = [parameter.clone() for parameter in model.parameters()]
    state = torch.random.get_rng_state()
    doctor(task(model=model))
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


# -- init --------------------------------------------------------------------------------------------------

EDITS = {
    "plain": (
        "from torch.nn import Linear, ReLU, Sequential; "
        "return Sequential(Linear(3, 8), ReLU(), Linear(8, 8), ReLU(), Linear(8, 2))",
        "g = torch.Generator().manual_seed(int(train)); x = torch.randn(90, 3, generator=g); "
        "return x, (x.sum(1) > 0).long()",
    ),
    "huggingface": (
        "from transformers import BertConfig, BertForSequenceClassification as B; "
        "return B(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, "
        "intermediate_size=8, max_position_embeddings=8))",
        "g = torch.Generator().manual_seed(int(train)); x = torch.randint(20, (30, 6), generator=g); "
        "return {'input_ids': x, 'labels': (x[:, 0] > 9).long()}",
    ),
    "lightning": (
        "from my_lit import Lit; return Lit()",
        "from my_lit import pairs; return torch.utils.data.DataLoader(pairs(train), batch_size=16)",
    ),
}  # fmt: skip

LIT = """
import torch, pytorch_lightning as pl

class Lit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))

    def training_step(self, batch, index):
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        return {"loss": loss}

    def configure_optimizers(self):
        made = torch.optim.Adam(self.parameters(), lr=0.01)
        return [made], [torch.optim.lr_scheduler.StepLR(made, 10)]

def pairs(train):
    draw = torch.Generator().manual_seed(int(train))
    inputs = torch.randn(40, 3, generator=draw)
    return torch.utils.data.TensorDataset(inputs, (inputs[:, 0] > 0).long())
"""


def edited(path: Path, kind: str) -> None:
    """The two edits that the file asks for."""
    text = path.read_text()
    for number, code in enumerate(EDITS[kind], 1):
        (line,) = [one for one in text.splitlines() if f'raise NotImplementedError("edit {number} of 2' in one]
        text = text.replace(line, f"    {code}")
    path.write_text(text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_file_says_what_to_edit_and_runs_after_two_edits(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_lit.py").write_text(LIT)
    steps = write_task_file("own/thalweg_task.py", kind)
    assert [step[:11] for step in steps[:2]] == ["Edit 1 of 2", "Edit 2 of 2"]
    assert steps[2] == "thalweg doctor own/thalweg_task.py:task"
    address = steps[2].split()[-1]
    before = doctor(lambda: load_task(address))
    assert "edit 1 of 2 in own/thalweg_task.py" in before.checks[0].found
    edited(tmp_path / "own" / "thalweg_task.py", kind)
    sys.modules.pop("thalweg_task_thalweg_task", None)
    monkeypatch.syspath_prepend(str(tmp_path))
    after = doctor(lambda: load_task(address, {"samples": 20}))
    assert after.healthy, str(after)
    assert {check.name for check in after.checks} >= {"held-out", "optimizer", "disk"}


def test_the_lines_of_a_task_file_are_short() -> None:
    from importlib import resources

    for kind in KINDS:
        text = resources.files("thalweg.tasks").joinpath(f"templates/{kind}.py.txt").read_text()
        assert max(map(len, text.splitlines())) <= 120
        compile(text, kind, "exec")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("there.py",), "there already"),
        (("own.txt",), "ends in .py"),
        (("own.py", "--kind", "lightening"), "'lightning'"),
    ],
)
def test_a_task_file_that_cannot_be(arguments: tuple[str, ...], told: str, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.py").write_text("mine")
    done = CliRunner().invoke(app, ["init", *arguments])
    assert isinstance(done.exception, tw.InputError)
    assert told in str(done.exception)
    assert (tmp_path / "there.py").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.py"]
    replaced = CliRunner().invoke(app, ["init", "there.py", "--force"])
    assert replaced.exit_code == 0
    assert "def task(" in (tmp_path / "there.py").read_text()
