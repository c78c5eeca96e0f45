"""A search that is killed goes on from its checkpoint, and does exactly what it would have done."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import diagonal_operator
from tests.solvers.kill_search import ROWS, SIZE, SPECTRUM, settings
from tests.solvers.test_lanczos import values_of
from thalweg.errors import InputError, RunError
from thalweg.operators.base import FunctionOperator
from thalweg.solvers.lanczos import eigenpairs

ROOT = Path(__file__).parent.parent.parent


class Counting(FunctionOperator):
    def __init__(self, spectrum: Tensor = SPECTRUM, interrupt: int = 0) -> None:
        super().__init__(self.counted, len(spectrum), spectrum.dtype)
        self.spectrum, self.interrupt, self.count = spectrum, interrupt, 0

    def counted(self, vector: Tensor) -> Tensor:
        self.count += 1
        if self.count == self.interrupt:
            raise KeyboardInterrupt
        return self.spectrum * vector


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@pytest.mark.parametrize(
    ("basis", "when"), [("memory", "40"), ("memory", "10"), ("memory", "writing"), ("bfloat16", "50"), ("disk", "40")]
)
def test_it_goes_on_after_a_kill(basis: str, when: str, tmp_path: Path) -> None:
    path = tmp_path / "search"
    command = [sys.executable, "-m", "tests.solvers.kill_search", str(path), basis, when]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert path.exists()
    asides = list(tmp_path.glob(".search.tmp*"))
    assert len(asides) == (1 if when == "writing" else 0)

    whole = eigenpairs(diagonal_operator(SPECTRUM), **settings(basis))
    operator = Counting()
    resumed = eigenpairs(operator, checkpoint=path, **{**settings(basis), "seed": 99})
    assert torch.equal(resumed.vectors, whole.vectors)  # bit by bit, restarts and random draws included
    assert torch.equal(resumed.values, whole.values)
    assert whole.matvecs is not None
    assert whole.matvecs > ROWS + 10
    assert resumed.matvecs == whole.matvecs + 2  # the operator was recognised twice
    before = 3 if when == "writing" else int(when) - 1  # finished products, the first recognised the operator
    assert operator.count == resumed.matvecs - before
    assert resumed.provenance["resumed_after"] == before
    assert bool(resumed.converged.all())
    assert list(tmp_path.iterdir()) == []  # removed at success, with what the kill left beside it


@pytest.mark.parametrize("basis", ["memory", "bfloat16", "disk"])
def test_it_goes_on_after_ctrl_c_and_after_too_few_products(basis: str, tmp_path: Path) -> None:
    path = tmp_path / "search"
    whole = eigenpairs(diagonal_operator(SPECTRUM), **settings(basis))
    first = eigenpairs(Counting(interrupt=35), checkpoint=path, **settings(basis))
    assert first.provenance["reason"] == "interrupted"
    assert path.exists()
    second = eigenpairs(Counting(), checkpoint=path, max_matvecs=45, **settings(basis))
    assert second.provenance["reason"] == "max_matvecs"
    assert second.provenance["resumed_after"] == 34
    assert path.exists()
    third = eigenpairs(Counting(), checkpoint=path, **settings(basis))
    assert bool(third.converged.all())
    assert values_of(third) == pytest.approx(values_of(whole), rel=1e-7)
    assert not path.exists()


def test_without_a_file_the_search_is_the_same(tmp_path: Path) -> None:
    whole = eigenpairs(diagonal_operator(SPECTRUM), **settings("memory"))
    kept = eigenpairs(Counting(), checkpoint=tmp_path / "search", **settings("memory"))
    assert torch.equal(kept.vectors, whole.vectors)
    assert kept.provenance["resumed_after"] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_later_call_may_ask_for_more(tmp_path: Path) -> None:
    path = tmp_path / "search"
    eigenpairs(Counting(), k=3, tol=1e-9, max_matvecs=20, checkpoint=path)
    more = eigenpairs(Counting(), k=5, tol=1e-6, certify="complete", checkpoint=path)
    assert values_of(more) == pytest.approx(sorted(SPECTRUM.tolist(), reverse=True)[:5], rel=1e-9)
    assert more.provenance["certificate"] == "complete"


def test_it_is_written_every_so_many_seconds(tmp_path: Path) -> None:
    path = tmp_path / "search"
    seen: list[bool] = []
    operator = FunctionOperator(lambda v: seen.append(path.exists()) or SPECTRUM * v, SIZE)  # type: ignore[func-returns-value]
    eigenpairs(operator, k=2, checkpoint=path, checkpoint_every=3600)
    assert not any(seen)
    seen.clear()
    eigenpairs(operator, k=2, checkpoint=path, checkpoint_every=0)
    assert seen[:3] == [False, False, True]  # the operator is known, the first step is made, it is written


def kept(path: Path, **asked: Any) -> None:
    eigenpairs(Counting(), checkpoint=path, **{"max_matvecs": 13, **settings("memory"), **asked})
    assert path.exists()


@pytest.mark.parametrize(
    ("spectrum", "asked", "words"),
    [
        (SPECTRUM * 1.001, {}, r"belongs to another operator: .* differs by 1.0e-03 of its length"),
        (SPECTRUM.flip(0), {}, r"belongs to another operator: .*Remove the file to begin anew"),
        (SPECTRUM[:-1], {}, r"holds a search with size of the operator 300, this one has 299"),
        (SPECTRUM.float(), {}, r"holds a search with dtype 'torch.float64', this one has 'torch.float32'"),
        (SPECTRUM, {"which": "SA"}, r"holds a search with which 'LA', this one has 'SA'; give the same"),
        (SPECTRUM, {"basis": "disk"}, r"holds a search with basis 'memory', this one has 'disk'"),
        (SPECTRUM, {"k": 1, "basis_budget": 12 * SIZE * 8}, r"holds a basis of 15 vectors, more than the 12 that fit"),
    ],
)
def test_another_search_is_refused(spectrum: Tensor, asked: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "search"
    kept(path, max_matvecs=15)
    before = path.read_bytes()
    with pytest.raises(InputError, match=words):
        eigenpairs(Counting(spectrum), checkpoint=path, **{**settings("memory"), **asked})
    assert path.read_bytes() == before


def test_the_same_operator_to_rounding_is_taken(tmp_path: Path) -> None:
    kept(tmp_path / "search")
    pairs = eigenpairs(Counting(SPECTRUM * (1 + 1e-12)), checkpoint=tmp_path / "search", **settings("memory"))
    assert pairs.provenance["resumed_after"] == 13


@pytest.mark.parametrize("cut", [0, 10, 2000])
def test_a_damaged_file_is_named(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "search"
    kept(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(RunError, match=r"search cannot be read .*; remove it to begin anew"):
        eigenpairs(Counting(), checkpoint=path, **settings("memory"))


def test_another_kind_of_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(3)}, str(path))
    with pytest.raises(InputError, match=r"model.safetensors is no checkpoint of eigenpairs; name another file"):
        eigenpairs(Counting(), checkpoint=path)
    assert path.exists()


def test_bad_places_and_times_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder .*absent'; make it first"):
        eigenpairs(Counting(), checkpoint=tmp_path / "absent" / "search")
    with pytest.raises(InputError, match=r"checkpoint_every=-1 is no number of seconds; 60 is usual"):
        eigenpairs(Counting(), checkpoint=tmp_path / "search", checkpoint_every=-1)
