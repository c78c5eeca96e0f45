"""The transformer on the standard library's source."""

from __future__ import annotations

import math
import sysconfig
from pathlib import Path

import pytest
import torch

from thalweg.errors import InputError
from thalweg.tasks.characters import CharacterTransformer, characters_task, library_text, sequences
from thalweg.tasks.digits import train


def small(**settings: int) -> dict[str, int]:
    return {"layers": 1, "width": 8, "heads": 2, "context": 16, "samples": 10, "held_out": 4, "batch": 4, **settings}


def test_sequences_are_text_and_what_follows_it() -> None:
    inputs, targets = sequences(0, 5, 32, seed=1)
    assert inputs.shape == targets.shape == (5, 32)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    text = bytes(library_text(0).tolist())
    assert all(bytes([*line.tolist(), int(last[-1])]) in text for line, last in zip(inputs, targets, strict=True))
    assert not torch.equal(inputs, sequences(0, 5, 32, seed=2)[0])


def test_held_out_text_comes_from_other_files() -> None:
    home = Path(sysconfig.get_paths()["stdlib"])
    tenth = sorted(home.glob("*.py"))[9]
    start = [code if code < 128 else ord("?") for code in tenth.read_bytes()[:400]]
    assert library_text(1)[: len(start)].tolist() == start
    assert bytes(start) not in bytes(library_text(0).tolist())


def test_the_future_is_not_seen() -> None:
    model = CharacterTransformer(layers=2, width=8, heads=2, context=16)
    text = sequences(0, 1, 16, seed=0)[0]
    other = text.clone()
    other[0, 10] = (other[0, 10] + 1) % 128
    with torch.no_grad():
        change = (model(text) - model(other)).abs().amax(dim=(0, 2))
    assert float(change[:10].max()) == 0
    assert float(change[10:].min()) > 0


def test_the_task_is_whole_and_learns() -> None:
    state = torch.get_rng_state()
    task = characters_task(**small(samples=64, batch=16))
    assert task.optimizer is not None
    assert task.evaluate is not None
    before = task.evaluate(task.model)["bits_per_character"]
    assert before == pytest.approx(7, abs=0.1)  # 128 characters, nothing learnt
    assert task.problem(held_out=True).loss() == pytest.approx(before * math.log(2), rel=1e-5)
    train(task, torch.optim.AdamW(task.model.parameters(), lr=1e-2), epochs=10, batch=16)
    assert task.evaluate(task.model)["bits_per_character"] < 5.5
    assert torch.equal(torch.get_rng_state(), state)


def test_sizes() -> None:
    assert sum(p.numel() for p in CharacterTransformer().parameters()) == 834_304
    assert [len(inputs) for inputs, _ in characters_task(**small()).train] == [4, 4, 2]
    with pytest.raises(InputError, match="width=8 is no multiple of heads=3"):
        characters_task(**small(heads=3))
    with pytest.raises(InputError, match="samples=0"):
        characters_task(**small(samples=0))


def test_a_python_without_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    library_text.cache_clear()
    with pytest.raises(InputError, match="source is not in"):
        characters_task(**small())
    library_text.cache_clear()
