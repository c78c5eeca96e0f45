"""The README's code is run as it stands, on a small net and a shuffling loader."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, loader: Iterable[Any]) -> None:
    for _ in range(64):
        for inputs, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()


def test_the_readme_opens_with_the_two_commands_and_shows_the_report() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert [line.split("#")[0].strip() for line in lines[3:5]] == ["make demo", "make test"]
    picture = re.search(r"\]\((docs/[^)]+\.png)\)", README.read_text(encoding="utf-8"))
    assert picture is not None
    assert (README.parent / picture[1]).stat().st_size > 10_000


def test_the_japanese_readme_shows_the_same_code_and_figures() -> None:
    japanese = (README.parent / "README.ja.md").read_text(encoding="utf-8")
    code = re.compile(r"```(?:sh|python)\n.*?```", flags=re.DOTALL)
    assert code.findall(japanese) == code.findall(README.read_text(encoding="utf-8"))
    table = re.search(r"\| updates \| ([\d.]+) / [\d.]+ / ([\d.]+)", README.read_text(encoding="utf-8"))
    assert table is not None
    assert f"{table[1]}〜{table[2]}" in japanese
    assert "README.ja.md" in README.read_text(encoding="utf-8")
    assert "README.md" in japanese


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target


def test_the_code_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own_model, pieces, guarded = blocks("python")
    assert len([line for line in own_model.splitlines() if line.strip()]) < 15
    torch.manual_seed(0)
    inputs = torch.randn(96, 6)
    data = TensorDataset(inputs, (inputs[:, :3]).argmax(dim=1))
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
    names: dict[str, Any] = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "loader": DataLoader(data, batch_size=20, shuffle=True),
        "train": train,
        "held_out": [(inputs.flip(1), inputs.flip(1)[:, :3].argmax(dim=1))],
    }
    exec(own_model, names)
    assert sorted(path.name for path in Path("runs/a").glob("report.*")) == ["report.en.html", "report.ja.html"]
    exec(pieces, names)
    assert bool(names["pairs"].converged.all())
    assert names["t"].steps[-1] == 64 * 5 - 1
    before = names["problem"].weights()
    names |= {"old_problem": names["problem"], "new_problem": names["problem"], "new_loader": names["held_out"]}
    exec(guarded, names)
    assert Path("old-task.safetensors").stat().st_size > 1000
    assert float((names["problem"].weights() - before).norm()) > 0.01
