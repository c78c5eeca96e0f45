"""The study of forgetting: its streams, its rivals against their definitions, and its bookkeeping."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import thalweg as tw
from thalweg.cli.text import forgetting_text
from thalweg.show.forgetting import write_forgetting
from thalweg.study import forgetting
from thalweg.study.forgetting import FOLLOWS, GRIDS, RATES, TUNING, interval, run_cell, settings_of, study
from thalweg.study.forgetting import learners as rivals
from thalweg.study.forgetting import streams as made
from thalweg.study.forgetting.learners import EWC, GPM, LEARNERS, MAS, OGD, SI, OnlineEWC
from thalweg.study.forgetting.streams import KINDS, Lesson, fresh_net, stream


def pictures(part: str) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(len(part))
    count = 600 if part == "train" else 300
    labels = torch.arange(count) % 10
    kinds = torch.randint(0, 256, (10, 28, 28), generator=torch.Generator().manual_seed(0))
    noise = torch.randint(0, 128, (count, 28, 28), generator=draw)
    return ((kinds[labels] + noise) // 2).to(torch.uint8), labels.to(torch.uint8)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn pictures in the place of Fashion-MNIST, which a machine need not have."""
    made._all.cache_clear()
    monkeypatch.setattr(made, "read", pictures)
    for name, value in (("TRAIN", 200), ("VALID", 60), ("TEST", 80), ("RESERVE", 150)):
        monkeypatch.setattr(made, name, value)
    monkeypatch.setattr(rivals, "SAMPLES", 60)


@pytest.mark.parametrize("kind", KINDS)
def test_streams_are_what_they_say(kind: str) -> None:
    lessons = stream(kind, 3, tasks=3)
    again = stream(kind, 3, tasks=3)
    for one, other in zip(lessons, again, strict=True):
        assert torch.equal(one.train[0], other.train[0])
        assert not {tuple(row) for row in one.train[0].tolist()} & {tuple(row) for row in one.valid[0].tolist()}
    assert not torch.equal(lessons[0].train[0], stream(kind, 4, tasks=1)[0].train[0])
    if kind == "permuted":
        whole = {tuple(row) for row in made._all("train")[0].sort(dim=1).values.tolist()}
        own = {tuple(row) for row in lessons[1].train[0].sort(dim=1).values.tolist()}
        assert own <= whole  # a permutation keeps what a picture is made of
        assert not {tuple(row) for row in lessons[1].train[0].tolist()} & {
            tuple(r) for r in made._all("train")[0].tolist()
        }
    reserved = {tuple(row) for row in made._all("valid")[0].sort(dim=1).values.tolist()}
    if kind != "rotated":
        for lesson in lessons:  # what one task is tuned on, no task is trained on
            assert not reserved & {tuple(row) for row in lesson.train[0].sort(dim=1).values.tolist()}
    if kind == "split":
        assert [lesson.classes for lesson in lessons] == [(0, 1), (2, 3), (4, 5)]
        outputs = lessons[1].outputs(fresh_net(0), lessons[1].test[0])
        assert set(outputs.argmax(1).tolist()) <= {2, 3}
    assert len(stream(kind, 0)) == KINDS[kind]


def test_a_rotation_by_nothing_changes_nothing_and_ninety_degrees_are_a_transpose() -> None:
    inputs = pictures("train")[0][:4].reshape(-1, 784).float()
    assert torch.allclose(made._turned(inputs, 0.0), inputs, atol=1e-3)
    turned = made._turned(inputs, 90.0).view(-1, 28, 28)
    whole = inputs.view(-1, 28, 28)
    assert min(float((turned - torch.rot90(whole, k, (1, 2))).abs().mean()) for k in (1, 3)) < 1e-2


def test_there_is_no_other_stream() -> None:
    with pytest.raises(tw.InputError, match="no stream 'permutd'; choose from 'permuted'"):
        stream("permutd", 0)


def learned(kind: str = "permuted", seed: int = 0) -> tuple[torch.nn.Module, Lesson]:
    return fresh_net(seed, (784, 12, 10)), stream(kind, seed, tasks=1)[0]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@pytest.mark.parametrize("kind", ["permuted", "split"])
def test_ewcs_importance_is_the_fishers_diagonal(kind: str) -> None:
    model, lesson = learned(kind)
    found = flat(rivals._fisher(model, lesson))
    operator = lesson.problem(model, 60).fisher(layers="2")
    diagonal = torch.stack([operator.matvec(row)[n] for n, row in enumerate(torch.eye(operator.shape[0]))])
    assert torch.allclose(found[-120:], diagonal, rtol=1e-3, atol=1e-7)
    first = lesson.problem(model, 60).fisher(layers="0")
    for n in (3, 5000, 9000):
        unit = torch.zeros(first.shape[0])
        unit[n] = 1.0
        assert float(found[n]) == pytest.approx(float(first.matvec(unit)[n]), rel=1e-3, abs=1e-7)


def test_ewcs_two_tasks_are_the_sum_of_two_penalties() -> None:
    model, lesson = learned()
    method = EWC(strength=5.0)
    method.end(model, lesson, 0)
    first, home = [t.clone() for t in method.importance or []], [t.clone() for t in method.home or []]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    second, here = rivals._fisher(model, lesson), [p.detach().clone() for p in model.parameters()]
    method.end(model, lesson, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    before = flat([p.detach().clone() for p in model.parameters()]).double()
    method.after_step(model, rate=0.1)
    pull = [0.1 * 5.0 * flat(f).double() for f in (first, second)]
    wanted = (before + pull[0] * flat(home).double() + pull[1] * flat(here).double()) / (1 + pull[0] + pull[1])
    assert torch.allclose(flat([p.detach() for p in model.parameters()]).double(), wanted, atol=1e-6)
    online = OnlineEWC(5.0)
    online.end(model, lesson, 0)
    once = flat(online.importance or [])
    online.end(model, lesson, 0)
    assert torch.allclose(flat(online.importance or []), 2 * once)


def test_gpm_leaves_the_old_inputs_outputs_alone() -> None:
    model, lesson = learned()
    method = GPM(threshold=0.999999, growth=0.0)
    method.SAMPLES = 20  # type: ignore[misc]
    method.end(model, lesson, 0)
    assert method.bases is not None
    assert torch.allclose(method.bases[0].T @ method.bases[0], torch.eye(method.bases[0].shape[1]), atol=1e-5)
    before = model(lesson.train[0][:20])
    other = stream("permuted", 9, tasks=2)[1]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        other.loss(model, *other.train).backward()  # type: ignore[no-untyped-call]
        method.before_step(model)
        optimizer.step()
    assert float((model(lesson.train[0][:20]) - before).detach().abs().max()) < 0.05 * float(
        before.detach().abs().max()
    )
    held = [basis.shape[1] for basis in method.bases]
    method.end(model, other, 1)
    assert all(now.shape[1] >= before for now, before in zip(method.bases, held, strict=True))


def test_ogd_steps_are_orthogonal_to_the_old_outputs_gradients() -> None:
    model, lesson = learned()
    method = OGD(each=6)
    method.end(model, lesson, 0)
    lesson.loss(model, *lesson.valid).backward()  # type: ignore[no-untyped-call]
    method.before_step(model)
    step = flat([p.grad for p in model.parameters() if p.grad is not None])
    for one, label in zip(lesson.train[0][:6].split(1), lesson.train[1][:6], strict=True):  # type: ignore[no-untyped-call]
        gradient = flat(list(torch.autograd.grad(model(one)[0, int(label)], list(model.parameters()))))
        assert abs(float(gradient @ step)) < 1e-5 * float(gradient.norm()) * float(step.norm())
    assert float(step.norm()) > 0
    assert method.nbytes == 6 * step.nbytes


def test_sis_path_adds_up_to_the_loss_that_fell() -> None:
    model, lesson = learned()
    optimizer, method = torch.optim.SGD(model.parameters(), lr=0.002), SI(strength=50.0)
    method.home = [p.detach().clone() for p in model.parameters()]
    method.importance = [torch.ones_like(p) for p in method.home]  # the path is that of the pulled weights
    method.begin(model, optimizer)
    begun = float(lesson.loss(model, *lesson.train).detach())
    for _ in range(20):
        optimizer.zero_grad()
        lesson.loss(model, *lesson.train).backward()  # type: ignore[no-untyped-call]
        method.before_step(model)
        optimizer.step()
        method.after_step(model, 0.002)
    fell = begun - float(lesson.loss(model, *lesson.train).detach())
    assert float(flat(method._path).sum()) == pytest.approx(fell, rel=0.05)
    method.end(model, lesson, 0)
    assert float(flat(method.importance or []).min()) >= 0


def test_mas_is_the_gradient_of_the_squared_output() -> None:
    model, lesson = learned("split")
    method = MAS(1.0)
    method.end(model, lesson, 0)
    total = 0.0
    for one in lesson.train[0][:12]:
        outputs = model(one.unsqueeze(0))[0, list(lesson.classes or ())]
        total += abs(float(torch.autograd.grad((outputs**2).sum(), model[2].weight)[0][0, 3])) / 12
    assert method.importance is not None
    assert float(method.importance[-1][0, 3]) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("method", GRIDS)
def test_every_method_learns_a_stream(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "EPOCHS", 12)
    settings = settings_of(FOLLOWS.get(method, method))[-1] | ({"k": 3} if method in ("hessian", *FOLLOWS) else {})
    cell = run_cell("split", method, settings, 0, tasks=2)
    assert np.shape(cell["test"]) == (2, 2)
    assert cell["steps"] == 2 * 12 * (len(stream("split", 0, tasks=1)[0].train[1]) // 32)
    assert cell["nbytes"] > 0 or method in ("none", "l2")
    assert cell["test"][0][0] > 0.6  # the first task is learned by all, whatever comes later
    assert set(LEARNERS) >= set(GRIDS)


def test_grids_are_of_one_size() -> None:
    for method in GRIDS:
        assert len(settings_of(method)) == len(RATES) * (1 if method == "none" else 3)


def test_a_study_goes_on_where_it_was_and_says_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, int]] = []

    def run(one: tuple[str, str, dict[str, float], int]) -> dict[str, object]:
        kind, method, settings, seed = one
        ran.append((method, seed))
        best = 1 - min(abs(math.log2(settings["rate"] / 0.4)), 4) / 4
        high = 0.6 + 0.2 * best + 0.01 * (seed % 5) + 0.1 * (method == "gpm")
        return {
            "stream": kind, "method": method, "settings": settings, "seed": seed, "start": [0.1, 0.1],
            "test": [[0.9, 0.1], [high, 0.9]], "valid": high, "seconds": 2.0, "steps": 10, "nbytes": 5,
            "ending_seconds": 1.0,
        }  # fmt: skip

    class Here:
        def __init__(self, workers: int) -> None: ...
        def __enter__(self) -> Here:
            return self

        def __exit__(self, *arguments: object) -> None: ...

        map = staticmethod(map)

    monkeypatch.setattr(forgetting, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(forgetting, "_safely", run)
    board = study(tmp_path, ["split"], ["none", "gpm"], range(3))
    rows = {row["method"]: row for row in board["streams"]["split"]}
    assert rows["none"]["settings"] == {"rate": 0.4}  # beyond the grid, whose edge was best
    assert rows["gpm"]["settings"]["rate"] == 0.4
    mean, half = interval([(0.9 + 0.8 + 0.01 * seed) / 2 for seed in range(3)])
    assert rows["none"]["accuracy"] == pytest.approx(mean)
    assert rows["none"]["accuracy_half"] == pytest.approx(half)
    assert rows["gpm"]["backward"] == pytest.approx(0.01)
    tuned, judged = [one for one in ran if one[1] in TUNING], [one for one in ran if one[1] not in TUNING]
    assert len(judged) == 2 * 3
    assert {seed for _, seed in judged} == {0, 1, 2}
    assert len(tuned) == 3 + 9 + 2 * 2  # twice doubled: 0.4 is inside once 0.8 was tried
    again = study(tmp_path, ["split"], ["none", "gpm"], range(3))
    assert len(ran) == len(tuned) + len(judged)
    assert again == board == json.loads((tmp_path / "forgetting.json").read_text())
    page, picture = write_forgetting(board, tmp_path, "thalweg forget")
    lines = page.read_text().splitlines()
    (told,) = [line for line in lines if line.startswith("| GPM")]
    assert f"| {rows['gpm']['accuracy']:.3f} ± {rows['gpm']['accuracy_half']:.3f} |" in told
    assert "| 0.010 ± " in told
    assert "GPM" in "".join(ElementTree.parse(picture).getroot().itertext())
    text = forgetting_text(board)
    assert text.index("gpm") < text.index("none")
    with pytest.raises(tw.InputError, match="there is no 'gmp'; choose from 'gpm'"):
        study(tmp_path, ["split"], ["gmp"])


def test_intervals_are_students() -> None:
    assert interval([1.0, 2.0, 3.0]) == (2.0, pytest.approx(4.303 / math.sqrt(3), rel=1e-3))
    assert math.isnan(interval([1.0])[1])


def test_the_published_table_follows_from_the_published_board() -> None:
    docs = Path(__file__).parents[1] / "docs"
    board, page = json.loads((docs / "study/forgetting/board.json").read_text()), (docs / "forgetting.md").read_text()
    for kind, rows in board["streams"].items():
        section = page.split(f"## {kind.capitalize()}\n")[1].split("\n## ")[0]
        for row in rows:
            mean, half = interval(row["accuracies"])
            assert len(row["accuracies"]) == len(board["seeds"])
            assert f"| {mean:.3f} ± {half:.3f} |" in section
