"""Addresses of tasks, and the built-in digits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from thalweg.errors import InputError
from thalweg.tasks.digits import digits_task, train
from thalweg.tasks.loading import load_task, parse_settings

TASK = """
import torch
from thalweg import Task

def small(width=3):
    model = torch.nn.Linear(2, width)
    return Task(model, lambda m, b: m(b).pow(2).mean(), [torch.ones(4, 2)])

def broken():
    raise TypeError("inside")

def number():
    return 7
"""


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_task.py"
    path.write_text(TASK)
    return path


def test_a_function_in_a_file(task_file: Path) -> None:
    task = load_task(f"{task_file}:small", {"width": 5})
    assert task.model.out_features == 5
    assert task.problem().loss() > 0


def test_a_function_in_a_module() -> None:
    assert (
        load_task("thalweg.tasks.digits:digits_task", {"hidden": (4,)}).problem().space.size == 64 * 4 + 4 + 4 * 10 + 10
    )


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nothing", "module:function"),
        ("no_such_module_here:f", "'no_such_module_here' does not import: ModuleNotFoundError"),
        ("nowhere/task.py:f", r"there is no file nowhere/task\.py"),
        ("{file}:smal", "nearest are 'small'"),
        ("{file}:number", "returned int"),
    ],
)
def test_bad_addresses_say_what_to_do(task_file: Path, address: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_task(address.format(file=task_file))


def test_settings_that_do_not_fit(task_file: Path) -> None:
    with pytest.raises(InputError, match=r"does not take these settings .*'depth'.*--set"):
        load_task(f"{task_file}:small", {"depth": 2})


def test_errors_inside_the_users_function_are_theirs(task_file: Path) -> None:
    with pytest.raises(TypeError, match="inside"):
        load_task(f"{task_file}:broken")


def test_a_file_that_does_not_import(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import no_such_thing_at_all\n")
    with pytest.raises(InputError, match=r"bad\.py does not import: ModuleNotFoundError"):
        load_task(f"{path}:f")


def test_settings_are_literals_where_they_read_so() -> None:
    assert parse_settings(["a=3", "b=[1, 2]", "c=tanh", "d=True"]) == {"a": 3, "b": [1, 2], "c": "tanh", "d": True}
    with pytest.raises(InputError, match="'width' is not key=value"):
        parse_settings(["width"])


def test_digits_learn_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    task = digits_task(seed=1)
    assert task.optimizer is not None
    assert task.evaluate is not None
    before = task.evaluate(task.model)["accuracy"]
    train(task, task.optimizer(task.model), epochs=3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert before < 0.3
    assert task.evaluate(task.model)["accuracy"] > 0.85
    assert sum(len(batch[1]) for batch in task.train) == 1437
    again = digits_task(seed=1)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(task.train, again.train, strict=True))


@pytest.mark.parametrize("hidden", [3, "128", (16, 0), (2.5,)])
def test_digits_want_widths(hidden: object) -> None:
    with pytest.raises(InputError, match=r"hidden=.*--set 'hidden=\(128, 64\)'"):
        digits_task(hidden=hidden)  # type: ignore[arg-type]
