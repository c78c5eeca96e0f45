"""The command line as a person meets it, in processes of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import thalweg as tw

TASK = """
import torch
from thalweg import Task


def task(width=4):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))
    inputs = torch.randn(30, 3)
    batches = [(inputs[:20], inputs[:20].sum(1, keepdim=True)), (inputs[20:], inputs[20:].sum(1, keepdim=True))]
    others = torch.randn(10, 3)
    held_out = [(others, others.sum(1, keepdim=True))]
    return Task(model, lambda m, b: torch.nn.functional.mse_loss(m(b[0]), b[1]), batches, held_out)
"""

TRAIN = """
import sys, torch, thalweg
from my_task import task
t = task()
optimizer = torch.optim.SGD(t.model.parameters(), lr=0.05)
recorder = thalweg.watch(t.model, optimizer, sys.argv[1])
for step in range(30):
    optimizer.zero_grad()
    t.loss(t.model, t.train[step % 2]).backward()
    optimizer.step()
"""


def thalweg(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "thalweg", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


pytestmark = pytest.mark.xdist_group("cli")  # its module's fixtures are made once


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a user's task and a run that their script recorded without closing the recorder."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_task.py").write_text(TASK)
    (folder / "train.py").write_text(TRAIN)
    done = subprocess.run([sys.executable, "train.py", "run"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_analyse_and_report_a_users_own_task(recorded: Path) -> None:
    arguments = ("run", "--task", "my_task.py:task", "--k", "3", "--stages", "2")
    done = thalweg("analyse", *arguments, "--json", cwd=recorded)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # progress goes to a terminal only
    result = json.loads(done.stdout)
    assert len(result["stages"][-1]["spectrum"]["values"]) == 3
    assert result["command"] == "thalweg analyse run --task my_task.py:task --k 3 --stages 2 --json"
    kept = json.loads((recorded / "run" / "results" / "analysis.json").read_text())
    assert {key: result[key] for key in kept} == kept
    for language in ("en", "ja"):
        (recorded / "run" / f"report.{language}.html").unlink()
    (recorded / "my_task.py").rename(recorded / "gone.py")
    try:
        again = thalweg("report", "run", "--lang", "ja", cwd=recorded)
    finally:
        (recorded / "gone.py").rename(recorded / "my_task.py")
    assert again.returncode == 0, again.stderr
    assert "report.ja.html" in again.stdout
    assert (recorded / "run" / "report.ja.html").is_file()
    assert not (recorded / "run" / "report.en.html").exists()


def test_the_same_seed_gives_the_same_numbers(recorded: Path) -> None:
    arguments = ("analyse", "run", "--task", "my_task:task", "--k", "2", "--stages", "1", "--json")
    first, second = (json.loads(thalweg(*arguments, cwd=recorded).stdout) for _ in range(2))
    for result in (first, second):
        for key in ("created", "cost"):
            del result[key]
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["analyse", "nowhere", "--task", "my_task.py:task"],
            "nowhere is not a run: it does not exist\n         record one",
        ),
        (["analyse", "run", "--task", "no_module:task"], "'no_module' does not import"),
        (["analyse", "run", "--task", "my_task.py:task", "--set", "width=5"], "shape (5, 3), expected (4, 3)"),
        (["analyse", "run", "--task", "my_task.py:task", "--k", "400"], "k=400"),
        (["analyse", "run", "--task", "my_task.py:task", "--stages", "20"], "--stages 10"),
        (["analyse", "run", "--task", "my_task.py:task", "--certify", "maybe"], "certify='maybe'"),
        (["report", "."], ". is not a run: it has no manifest.json"),
        (["report", "run", "--lang", "fr"], "fr"),
        (["analyse", "run"], "--task"),
    ],
)
def test_wrong_usage_ends_with_two_and_the_mend(recorded: Path, arguments: list[str], message: str) -> None:
    done = thalweg(*arguments, cwd=recorded)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


USER_ERRORS = """
import thalweg

def task(kind="raise"):
    if kind == "raise":
        return {}["absent"]
    import torch
    model = torch.nn.Linear(3, 1)
    data = [(torch.ones(2, 3), torch.zeros(2, 1))]
    return thalweg.Task(model, lambda m, b: m(b[0][:, :2]).mean(), data)
"""


@pytest.mark.parametrize(("kind", "line"), [("raise", 6), ("shapes", 10)])
def test_an_error_of_the_users_code_is_told_in_two_lines(recorded: Path, kind: str, line: int) -> None:
    (recorded / "broken.py").write_text(USER_ERRORS)
    arguments = ("analyse", "run", "--task", "broken.py:task", "--set", f"kind={kind}")
    what, mend = thalweg(*arguments, cwd=recorded).stderr.strip().splitlines()
    assert what.startswith("thalweg: KeyError: 'absent'" if kind == "raise" else "thalweg: RuntimeError: mat1 and mat2")
    assert f"broken.py:{line}" in mend
    assert "--debug" in mend
    whole = thalweg(*arguments, "--debug", cwd=recorded).stderr  # anywhere on the line
    assert "Traceback" in whole
    assert f'broken.py", line {line}' in whole


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="nobody can write there, root neither")
@pytest.mark.parametrize("arguments", [("init", "/proc/task.py"), ("demo", "--out", "/proc/demo", "--epochs", "1")])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = thalweg(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    what, mend = done.stderr.strip().splitlines()
    assert "/proc/" in what
    assert "not foreseen" not in mend


def test_the_doctor_ends_with_the_next_command_or_with_one(recorded: Path) -> None:
    sound = thalweg("doctor", "my_task.py:task", "--set", "width=4", "--run", "run", cwd=recorded)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    following = sound.stdout.strip().splitlines()[-1]
    assert following == "next: thalweg analyse run --task my_task.py:task --set width=4"
    (recorded / "broken.py").write_text(USER_ERRORS)
    ill = thalweg("doctor", "broken.py:task", "--set", "kind=shapes", "--json", cwd=recorded)
    assert ill.returncode == 1
    found = json.loads(ill.stdout)
    assert not found["healthy"]
    assert [check["name"] for check in found["checks"] if check["state"] == "bad"] == ["loss"]


def test_version_and_help(tmp_path: Path) -> None:
    assert thalweg("--version", cwd=tmp_path).stdout.strip()
    shown = thalweg("--help", cwd=tmp_path).stdout
    assert all(name in shown for name in ("demo", "analyse", "report"))


def test_a_short_demo_from_nothing(tmp_path: Path) -> None:
    done = thalweg("demo", "--out", "demo", "--epochs", "3", "--no-trial", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["run"]["parameters"] == 17_226
    assert result["run"]["rows"] == 69
    assert [Path(path).name for path in result["reports"]] == ["report.en.html", "report.ja.html"]
    assert (tmp_path / "demo" / "report.en.html").stat().st_size < 2_000_000


def test_a_run_without_its_task_says_what_it_can_still_answer(digits_run: Path) -> None:
    done = thalweg("analyse", "run", cwd=digits_run)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "add --task module:function" in line
    rows = len(tw.open_run(digits_run / "run").trajectory)
    assert f"the {rows} recorded rows of run still say how the weights moved" in line
    trajectory = tw.open_run(digits_run / "run").trajectory
    named = re.findall(r"(\w+)\(t\)", line)
    assert len(named) == 5
    for name in named:  # what it names is there, and answers, or says what it lacks
        if name.startswith("drift"):
            with pytest.raises(tw.InputError, match="82"):
                getattr(tw, name)(trajectory)
        else:
            assert len(getattr(tw, name)(trajectory)) == 10
    lost = thalweg("analyse", "nowhere", cwd=digits_run)
    assert (lost.returncode, "is not a run" in lost.stderr) == (2, True)


DIGITS = ("--task", "thalweg.tasks.digits:digits_task", "--set", "hidden=(12,)")


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    script = """
import torch, thalweg
from thalweg.tasks.digits import digits_task, train
task = digits_task(hidden=(12,))
optimizer = task.optimizer(task.model)
with thalweg.watch(task.model, optimizer, "run"):
    train(task, optimizer, epochs=2)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_trial_is_planned_asked_for_and_run(digits_run: Path) -> None:
    how = ("run", *DIGITS, "--arms", "updates:3", "--seeds", "6", "--steps", "6")
    planned = thalweg("trial", "plan", *how, "--json", cwd=digits_run)
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert plan["stage"] == "pilot"
    assert plan["plan"]["arms"] == ["updates:3"]
    unasked = thalweg("trial", *how, cwd=digits_run)
    assert unasked.returncode == 2
    assert "go on with --yes" in unasked.stderr
    done = thalweg("trial", *how, "--yes", "--json", cwd=digits_run)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["hash"] == plan["hash"]
    assert found["stage"] == "confirm"
    assert found["reused"] > 0  # the pilot was not run again
    (verdict,) = found["stages"]["confirm"]["verdicts"]
    assert verdict["word"] in ("invest", "guard", "harmful", "no evidence")
    kept = json.loads((digits_run / "run" / "results" / "trial.json").read_text())
    assert kept["hash"] == found["hash"]
    words = thalweg("trial", *how, "--yes", cwd=digits_run)
    assert f"updates:3: {verdict['word']}" in words.stdout


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--seeds", "3"), "use at least 6 seeds"),
        (("--arms", "updatez:3"), "the nearest are 'updates'"),
        (("--question", "best"), "'better' or 'as good'"),
        (("--stage", "all"), "there are pilot, confirm, full"),
    ],
)
def test_a_trial_that_cannot_be(digits_run: Path, options: tuple[str, ...], why: str) -> None:
    asked = () if "--arms" in options else ("--arms", "updates:3")
    done = thalweg("trial", "run", *DIGITS, *asked, *options, "--yes", cwd=digits_run)
    assert done.returncode == 2
    assert why in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2  # what is wrong, and how to mend it
