"""Runs made of checkpoints: the weights of every file come back, and what is no checkpoint is refused."""

from __future__ import annotations

import collections
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.conftest import TiedNet
from thalweg.errors import InputError, RunError
from thalweg.recording.checkpoints import find_checkpoints, read_state, step_in
from thalweg.recording.importing import import_checkpoints
from thalweg.recording.opening import open_run
from thalweg.space import ParameterSpace

State = dict[str, Tensor]


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def trained(model: nn.Module, count: int, inputs: Callable[[], Tensor] = lambda: torch.randn(8, 3)) -> list[State]:
    """The state before training and after each step, copied."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    states = []
    for _ in range(count):
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        optimizer.zero_grad()
        model(inputs()).pow(2).mean().backward()
        optimizer.step()
    return states


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "checkpoints"
    made.mkdir()
    return made


def write(folder: Path, states: list[State], steps: list[int] | None = None, pattern: str = "step-{}.pt") -> None:
    for step, state in zip(steps or range(0, 10 * len(states), 10), states, strict=True):
        path = folder / pattern.format(step)
        path.parent.mkdir(exist_ok=True)
        save_file(state, str(path)) if path.suffix == ".safetensors" else torch.save(state, path)


def assert_weights(run: Path, states: dict[int, State]) -> None:
    t = open_run(run).trajectory
    for step, state in states.items():
        for name, weight in t.space.unflatten(t.weights(step)).items():
            assert torch.equal(weight, state[name].float()), (step, name)


def differences(states: list[State], names: tuple[str, ...]) -> Tensor:
    flat = [torch.cat([state[name].reshape(-1) for name in names]) for state in states]
    return torch.stack([later - earlier for earlier, later in itertools.pairwise(flat)])


@pytest.mark.parametrize("pattern", ["step-{}.pt", "step-{}.safetensors", "checkpoint-{}/model.safetensors"])
def test_every_checkpoint_comes_back_exactly(tmp_path: Path, folder: Path, pattern: str) -> None:
    states = trained(net(), 5)
    steps = [0, 9, 10, 100, 101]  # in the order of the alphabet, 10 comes before 9
    write(folder, states, steps, pattern)
    result = import_checkpoints(folder, tmp_path / "run")
    t = open_run(tmp_path / "run").trajectory
    assert_weights(tmp_path / "run", dict(zip(steps, states, strict=True)))
    assert t.steps.tolist() == steps[1:] == result["steps"][1:]
    assert t.starts.tolist() == [1, 10, 11, 101]
    assert torch.equal(t.updates(0, 200), differences(states, t.space.names))
    assert set(t.space.names) == {f"{layer}.{part}" for layer in (0, 1, 2) for part in ("weight", "bias")}
    assert set(result["kept_as_buffers"]) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    buffers, at = t.buffers(101)
    assert at == 101
    assert torch.equal(buffers["1.running_mean"], states[4]["1.running_mean"])


def test_many_checkpoints_make_several_segments(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.recording.importing.BLOCK_ROWS", 3)
    states = trained(net(), 9)
    write(folder, states)
    import_checkpoints(folder, tmp_path / "run")
    t = open_run(tmp_path / "run").trajectory
    assert [len(segment) for segment in t.segments] == [3, 3, 2]
    assert torch.equal(t.updates(0, 90), differences(states, t.space.names))
    assert t.gaps == ((0, 1),)  # nothing is known from before the first checkpoint
    assert_weights(tmp_path / "run", dict(zip(range(0, 90, 10), states, strict=True)))


def test_layers_are_counted_as_people_do(tmp_path: Path, folder: Path) -> None:
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(11)])
    write(folder, trained(model, 3), pattern="step-{}.safetensors")
    import_checkpoints(folder, tmp_path / "run")
    assert [layer.name for layer in open_run(tmp_path / "run").space.layers] == [str(n) for n in range(11)]


def test_a_model_tells_parameters_from_buffers(tmp_path: Path, folder: Path) -> None:
    model = net()
    model.register_buffer("table", torch.ones(3))  # of floating point, and no name tells
    model[2].bias.requires_grad_(False)
    states = trained(model, 3)
    write(folder, states, pattern="step-{}.safetensors")
    result = import_checkpoints(folder, tmp_path / "with", model=model)
    t = open_run(tmp_path / "with").trajectory
    assert t.space.to_json() == ParameterSpace.of(model).to_json()
    assert t.manifest["model"] == "torch.nn.modules.container.Sequential"
    assert result["parameters_by"] == "model"
    assert "table" in t.buffers(20)[0]
    assert "2.bias" in result["left_out"]
    assert_weights(tmp_path / "with", dict(zip((0, 10, 20), states, strict=True)))
    import_checkpoints(folder, tmp_path / "without")
    assert {"table", "2.bias"} <= set(open_run(tmp_path / "without").space.names)


@pytest.mark.parametrize("how", ["both names", "one name", "model"])
def test_tied_tensors_are_recorded_once(tmp_path: Path, folder: Path, how: str) -> None:
    model = TiedNet()
    states = trained(model, 3, lambda: torch.randint(6, (5, 3)))
    if how == "one name":  # as safetensors.torch.save_model does
        states = [{name: w for name, w in state.items() if name != "embedding.weight"} for state in states]
    write(folder, states, pattern="step-{}.safetensors")
    result = import_checkpoints(folder, tmp_path / "run", model=model if how != "both names" else None)
    t = open_run(tmp_path / "run").trajectory
    assert t.space.size == ParameterSpace.of(model).size
    found = t.space.unflatten(t.weights(20))
    name = "decoder.weight" if how == "both names" else "embedding.weight"
    assert torch.equal(found[name], states[2]["decoder.weight"])
    assert len(result["tied"]) == 1
    assert set(result["tied"][0]) == {"embedding.weight", "decoder.weight"}


def test_equal_tensors_that_never_change_are_not_taken_for_tied(tmp_path: Path, folder: Path) -> None:
    states = [{"a": torch.zeros(4), "b": torch.zeros(4), "c": torch.full((4,), float(n))} for n in range(3)]
    write(folder, states)
    assert import_checkpoints(folder, tmp_path / "run")["tied"] == []
    assert open_run(tmp_path / "run").space.size == 12


def test_wrapped_and_nested_states(tmp_path: Path, folder: Path) -> None:
    states = trained(net(), 3)
    for step, state in enumerate(states):
        named = {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}
        torch.save({"epoch": step, "model_state_dict": named, "rate": 0.1}, folder / f"epoch={step}.ckpt")
    import_checkpoints(folder, tmp_path / "run")
    assert_weights(tmp_path / "run", dict(enumerate(states)))


def test_lower_precision_is_kept_exactly(tmp_path: Path, folder: Path) -> None:
    states = [{name: w.bfloat16() if w.is_floating_point() else w for name, w in s.items()} for s in trained(net(), 3)]
    write(folder, states, pattern="step-{}.safetensors")
    import_checkpoints(folder, tmp_path / "run")
    t = open_run(tmp_path / "run").trajectory
    assert t.dtype == torch.float32
    assert t.manifest["dtypes"]["0.weight"] == "bfloat16"
    assert_weights(tmp_path / "run", dict(zip((0, 10, 20), states, strict=True)))
    double = tmp_path / "double"
    double.mkdir()
    write(double, [{"w": torch.rand(3, dtype=torch.float64)} for _ in range(2)])
    import_checkpoints(double, tmp_path / "run64")
    assert open_run(tmp_path / "run64").trajectory.dtype == torch.float64


def test_not_a_number_is_kept_and_said(tmp_path: Path, folder: Path) -> None:
    states = trained(net(), 4)
    states[2]["0.bias"][1] = torch.nan
    write(folder, states)
    with pytest.warns(RuntimeWarning, match=r"1 checkpoints hold NaN or infinity, the first is step-20.pt in '0.bias'"):
        result = import_checkpoints(folder, tmp_path / "run")
    assert result["not_finite"] == {"step-20.pt": ["0.bias"]}
    t = open_run(tmp_path / "run").trajectory
    assert t.finite.tolist() == [True, False, False]
    assert int(torch.isnan(t.weights(20)).sum()) == 1
    assert_weights(tmp_path / "run", {30: states[3]})


# -- order -------------------------------------------------------------------------------------------------


def test_the_order_can_be_given(tmp_path: Path, folder: Path) -> None:
    states = trained(net(), 3)
    for name, state in zip(("start", "middle", "end"), states, strict=True):
        torch.save(state, folder / f"{name}.pt")
    with pytest.raises(InputError, match=r"the name 'end.pt' holds no number; give the order: --order"):
        import_checkpoints(folder, tmp_path / "run")
    result = import_checkpoints(folder, tmp_path / "run", order=["start.pt", " middle.pt", "end.pt"])
    assert result["steps"] == [0, 1, 2]
    assert_weights(tmp_path / "run", dict(enumerate(states)))
    for name in ("../outside.pt", "/etc/passwd", "checkpoints/start.pt", "absent.pt"):
        with pytest.raises(InputError, match=f"--order names '{name}', which .* does not hold"):
            import_checkpoints(folder, tmp_path / "other", order=["start.pt", name])
    with pytest.raises(InputError, match=r"--order names 'end.pt' twice"):
        import_checkpoints(folder, tmp_path / "other", order=["end.pt", "start.pt", "end.pt"])
    with pytest.raises(InputError, match="--order names 1 checkpoints"):
        import_checkpoints(folder, tmp_path / "other", order=["end.pt"])


def test_numbers_in_names() -> None:
    assert step_in("epoch=3-step=400.ckpt") == 400
    assert step_in("model_v2_0100.safetensors") == 100
    assert step_in("checkpoint-500") == 500
    assert step_in("last.pt") is None
    assert step_in(f"{10**30}.pt") is None


def test_given_numbers_that_grow_are_the_steps(folder: Path) -> None:
    write(folder, [{"w": torch.ones(2)}] * 3)
    assert [c.step for c in find_checkpoints(folder, ["step-0.pt", "step-20.pt"])] == [0, 20]
    assert [c.step for c in find_checkpoints(folder, ["step-20.pt", "step-0.pt"])] == [0, 1]


# -- what is refused ---------------------------------------------------------------------------------------


def refuse(folder: Path, out: Path, message: str, **named: Any) -> None:
    with pytest.raises(InputError, match=message):
        import_checkpoints(folder, out, **named)
    assert not out.exists()
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


def test_folders_without_enough_checkpoints(tmp_path: Path, folder: Path) -> None:
    refuse(tmp_path / "absent", tmp_path / "run", "is no folder")
    refuse(folder, tmp_path / "run", "holds 0 checkpoints")
    write(folder, [{"w": torch.ones(2)}])
    (folder / "notes.txt").write_text("")
    refuse(folder, tmp_path / "run", "holds 1 checkpoints")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"w": torch.ones(3)}, r"'step-10.pt' has 'w' of shape \(3,\), and 'step-0.pt' of \(2,\)"),
        ({"v": torch.ones(2)}, "'step-10.pt' lacks 'w', which 'step-0.pt' has"),
        ({"w": torch.ones(2), "v": torch.ones(2)}, "'step-10.pt' has 'v', which 'step-0.pt' lacks"),
        ({"w": torch.ones(2), "rate": 0.1}, "'step-10.pt' has 'rate', which is no tensor"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "'step-10.pt' has 'w' as no plain dense numbers"),
        ({"w": torch.ones(2).to_sparse()}, "'step-10.pt' has 'w' as no plain dense numbers"),
        (torch.ones(2), "'step-10.pt' holds Tensor, expected a state_dict"),
        ({}, "'step-10.pt' holds dict, expected a state_dict"),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path: Path, folder: Path, second: Any, message: str) -> None:
    torch.save({"w": torch.ones(2)}, folder / "step-0.pt")
    torch.save(second, folder / "step-10.pt")
    refuse(folder, tmp_path / "run", message)


def test_equal_numbers_and_no_parameters(tmp_path: Path, folder: Path) -> None:
    write(folder, [{"count": torch.ones(2, dtype=torch.int64), "running_mean": torch.ones(2)}] * 2)
    refuse(folder, tmp_path / "run", "no tensor of these checkpoints can be a parameter")
    torch.save({}, folder / "again-10.pt")
    refuse(folder, tmp_path / "run", "'again-10.pt' and 'step-10.pt' have the same number 10")


def test_a_model_that_does_not_fit(tmp_path: Path, folder: Path) -> None:
    write(folder, trained(net(), 2))
    wider = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    refuse(folder, tmp_path / "run", r"'0.weight' of shape \(4, 3\), the model has \(5, 3\)", model=wider)
    deeper = nn.Sequential(*net(), nn.Linear(2, 2))
    refuse(folder, tmp_path / "run", "the checkpoints lack the parameter '3.weight'", model=deeper)


class Touch:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("wrapped", [True, False])
def test_what_needs_pickle_is_refused_and_not_executed(tmp_path: Path, folder: Path, wrapped: bool) -> None:
    touched = Touch(str(tmp_path / "touched"))
    torch.save({"w": torch.ones(2), "extra": touched} if wrapped else touched, folder / "step-0.pt")
    write(folder, [{"w": torch.ones(2)}], [10])
    refuse(
        folder, tmp_path / "run", r"'step-0.pt' holds more than plain tensors \(\S*mkdir\).*safetensors.torch.save_file"
    )
    assert not (tmp_path / "touched").exists()
    torch.load(folder / "step-0.pt", weights_only=False)  # it would have been
    assert (tmp_path / "touched").exists()


def test_whole_models_are_refused(tmp_path: Path, folder: Path) -> None:
    torch.save(net(), folder / "step-0.pt")
    torch.save(net(), folder / "step-1.pt")
    refuse(folder, tmp_path / "run", "'step-0.pt' holds more than plain tensors")


def test_plain_containers_are_no_reason_to_refuse(folder: Path) -> None:
    torch.save(collections.OrderedDict(w=torch.ones(2)), folder / "step-0.pt")
    write(folder, [{"w": torch.ones(2)}], [10])
    assert list(read_state(find_checkpoints(folder)[0])) == ["w"]


@pytest.mark.parametrize("name", ["step-0.pt", "step-0.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "empty", "words"])
def test_damaged_files_are_refused(tmp_path: Path, folder: Path, name: str, damage: str) -> None:
    write(folder, [{"w": torch.rand(999)}], [0], name.replace("0", "{}"))
    write(folder, [{"w": torch.rand(999)}], [10])
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes({"cut": raw[: len(raw) // 2], "empty": b"", "words": b"no checkpoint " * 99}[damage])
    refuse(folder, tmp_path / "run", f"'{name}' ")


def test_what_is_there_is_left_alone(tmp_path: Path, folder: Path) -> None:
    write(folder, trained(net(), 2))
    (tmp_path / "run").mkdir()
    with pytest.raises(RunError, match="exists already; choose another --out"):
        import_checkpoints(folder, tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        import_checkpoints(folder, tmp_path / "file" / "run")
    import_checkpoints(folder, tmp_path / "new" / "run")
    assert json.loads((tmp_path / "new" / "run" / "manifest.json").read_text())["every"] == 10
