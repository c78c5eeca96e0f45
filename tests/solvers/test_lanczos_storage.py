"""Where the basis is held: as bfloat16, whose recurrence lies, and in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import SPECTRA, diagonal_operator, random_vector, spectrum_operator
from tests.solvers.test_lanczos import (
    assert_orthonormal,
    distances_without_ghosts,
    residuals_of,
    true_residuals,
    values_of,
    wanted,
)
from thalweg.directions import as_generator
from thalweg.errors import InputError
from thalweg.operators.base import FunctionOperator
from thalweg.solvers import basis as basis_module
from thalweg.solvers.basis import Basis
from thalweg.solvers.krylov import KrylovSpace
from thalweg.solvers.lanczos import eigenpairs

SIZE = 1000
OUTLIERS = torch.cat([torch.tensor([40.0, 25.0, 17.0, 12.0, 9.0]), random_vector(SIZE - 5, 4)])


def descending(values: np.ndarray) -> np.ndarray:
    return np.argsort(-values)


# -- bfloat16 --------------------------------------------------------------------------------------------------


def test_the_recurrence_of_a_rounded_basis_lies() -> None:
    """The reason for all that follows: it claims next to nothing where the residual is 1e-4 and more."""
    operator = diagonal_operator(OUTLIERS)
    space = KrylovSpace(operator, 60, as_generator(0), storage="bfloat16")
    for _ in range(60):
        space.grow()
    ritz = space.ritz(descending)
    vectors = space.combine(ritz.coefficients[:, :3])
    true = ((operator @ vectors.T).T - torch.as_tensor(ritz.values[:3, None]) * vectors).norm(dim=1).numpy()
    assert (ritz.residuals[:3] < 0.01 * true).all()
    assert (true > 1e-5 * 40).all()
    assert (true < 1e-2 * 40).all()
    assert float((vectors @ vectors.T - torch.eye(3)).abs().max()) < 1e-12  # by the Gram matrix of the rounded rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tol", [1e-3, 1e-5])
@pytest.mark.parametrize("rows", [None, 24])
def test_a_rounded_basis_converges_by_measured_residuals(tol: float, rows: int | None, dtype: torch.dtype) -> None:
    exact = diagonal_operator(OUTLIERS)
    operator = diagonal_operator(OUTLIERS, dtype)
    budget = None if rows is None else rows * SIZE * 2
    pairs = eigenpairs(operator, k=5, tol=tol, basis="bfloat16", basis_budget=budget)
    true = true_residuals(exact, pairs)
    assert residuals_of(pairs) == pytest.approx(true, rel=0.02, abs=1e-4 if dtype == torch.float32 else 1e-12)
    assert true.max() <= 1.02 * tol * 40
    assert bool(pairs.converged.all())
    assert values_of(pairs) == pytest.approx([40, 25, 17, 12, 9], rel=1e-4)
    assert pairs.vectors.dtype == dtype
    assert_orthonormal(pairs, 1e-5 if dtype == torch.float32 else 1e-12)
    assert (pairs.provenance["certificate"], pairs.provenance["reason"]) == ("full", "converged")


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_a_rounded_basis_is_restarted_at_either_end(which: str) -> None:
    spectrum = torch.sort(random_vector(300, 3), descending=True).values
    pairs = eigenpairs(
        diagonal_operator(spectrum), k=4, which=which, tol=1e-4, basis="bfloat16", basis_budget=24 * 300 * 2
    )
    exact = eigenpairs(diagonal_operator(spectrum), k=4, which=which, tol=1e-10)
    assert bool(pairs.converged.all())
    assert pairs.matvecs is not None
    assert pairs.matvecs > 40  # restarted
    assert values_of(pairs) == pytest.approx(values_of(exact), abs=1e-4 * 3.2)


@pytest.mark.parametrize("certify", ["estimate", "complete"])
@pytest.mark.parametrize("name", SPECTRA)
def test_a_rounded_basis_has_no_ghosts(name: str, certify: str) -> None:
    spectrum = SPECTRA[name]
    pairs = eigenpairs(spectrum_operator(spectrum), k=6, tol=1e-5, basis="bfloat16", certify=certify)
    scale = max(float(spectrum.abs().max()), 1e-300)
    assert len(pairs) == 6
    assert_orthonormal(pairs)
    assert distances_without_ghosts(values_of(pairs), spectrum).max() <= 1e-4 * scale
    if certify == "complete":
        assert values_of(pairs) == pytest.approx(wanted(spectrum, 6, "LA"), abs=1e-4 * scale)


def test_a_rounded_basis_goes_far_below_its_own_rounding() -> None:
    pairs = eigenpairs(diagonal_operator(OUTLIERS), k=3, tol=1e-12, basis="bfloat16", max_matvecs=300)
    assert bool(pairs.converged.all())
    assert true_residuals(diagonal_operator(OUTLIERS), pairs).max() <= 1e-12 * 40


def test_what_bfloat16_hides_is_said() -> None:
    """At the edge of a bulk, restarted after 24 rows, each restart rounds away what was gained: no more is claimed."""
    spectrum = torch.cat([torch.tensor([9.0, 8.0, 7.0]), torch.linspace(5, -1, 297)]).double()
    pairs = eigenpairs(
        diagonal_operator(spectrum), k=4, tol=1e-6, basis="bfloat16", basis_budget=24 * 300 * 2, max_matvecs=2000
    )
    true = true_residuals(diagonal_operator(spectrum), pairs)
    assert pairs.provenance["reason"] == "exhausted"
    assert pairs.matvecs is not None
    assert pairs.matvecs < 500
    assert residuals_of(pairs) == pytest.approx(true, rel=1e-6)
    assert pairs.converged.tolist() == (true <= 1e-6 * 9).tolist()
    assert not bool(pairs.converged.all())


@pytest.mark.parametrize("limit", [9, 40])
def test_a_rounded_basis_gives_k_pairs_when_products_run_out(limit: int) -> None:
    pairs = eigenpairs(diagonal_operator(OUTLIERS), k=6, tol=1e-9, basis="bfloat16", max_matvecs=limit)
    true = true_residuals(diagonal_operator(OUTLIERS), pairs)
    assert len(pairs) == 6
    assert residuals_of(pairs) == pytest.approx(true, rel=1e-6)
    assert not bool(pairs.converged.all())
    assert pairs.matvecs is not None
    assert limit <= pairs.matvecs <= limit + 12
    assert pairs.provenance["reason"] == "max_matvecs"


def test_bfloat16_takes_a_quarter_of_float64() -> None:
    operator = diagonal_operator(OUTLIERS)
    memory, rounded = (Basis(operator, 50, storage) for storage in ("memory", "bfloat16"))
    assert memory.held(50).untyped_storage().nbytes() == 4 * rounded.held(50).untyped_storage().nbytes()


def test_the_projection_is_that_of_the_rounded_rows() -> None:
    """T and G of the rows as they are, through growth, a restart and residuals taken in."""
    operator = diagonal_operator(OUTLIERS)
    space = KrylovSpace(operator, 30, as_generator(0), storage="bfloat16")

    def errors() -> tuple[float, float]:
        rows, m = space.basis.double(), space.size
        projection = (rows @ (operator @ rows.T)).numpy() - space.projection[:m, :m]
        return abs(projection).max(), abs((rows @ rows.T).numpy() - space.gram[:m, :m]).max()

    for _ in range(30):
        space.grow()
    assert max(errors()) < 1e-12
    space.restart(space.ritz(descending), 12)
    assert errors()[1] < 1e-12
    assert errors()[0] < 40 * 3e-5  # to first order in the rounding, which is 1e-3
    taken = space.take(random_vector(SIZE, 8, 4).T)
    assert taken == space.waiting == 4
    for _ in range(18):
        space.grow()
    assert space.waiting == 0
    assert errors()[0] < 40 * 3e-5
    assert errors()[1] < 1e-12


@pytest.mark.parametrize("storage", ["memory", "bfloat16"])
def test_long_rows_take_room_as_they_come(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis_module, "_ROOM", 3 * SIZE * 8)
    rows = Basis(diagonal_operator(OUTLIERS), 200, storage)
    least = 3 if storage == "memory" else 12
    for index in range(50):
        rows.put(index, random_vector(SIZE, index))
        assert len(rows) <= index + least  # never more than a block beside what is needed, and nothing is moved
    blocks = [block.data_ptr() for block in rows._blocks]
    rows.put(50, random_vector(SIZE, 50))
    assert [block.data_ptr() for block in rows._blocks][: len(blocks)] == blocks
    whole = torch.stack([random_vector(SIZE, index) for index in range(51)])
    assert torch.equal(rows.held(51), whole.to(rows.held(1).dtype))
    other = Basis(diagonal_operator(OUTLIERS), 200, storage)
    other.load(rows.held(51))
    assert torch.equal(other.held(51), rows.held(51))


# -- disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("certify", ["estimate", "complete"])
@pytest.mark.parametrize("rows", [None, 24])
def test_a_basis_on_disk_gives_the_same_pairs(rows: int | None, certify: str, tmp_path: Path) -> None:
    spectrum = torch.sort(random_vector(300, 3), descending=True).values
    budget = None if rows is None else rows * 300 * 8
    settings = {"k": 4, "tol": 1e-8, "certify": certify, "basis_budget": budget}
    memory = eigenpairs(diagonal_operator(spectrum), **settings)
    disk = eigenpairs(diagonal_operator(spectrum), basis="disk", basis_folder=tmp_path, **settings)
    assert values_of(disk) == pytest.approx(values_of(memory), rel=1e-12)
    assert float((disk.vectors - memory.vectors).abs().max()) < 1e-6
    assert disk.matvecs == memory.matvecs
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at the process's own mappings")
def test_the_rows_are_in_a_file_of_the_folder(tmp_path: Path) -> None:
    rows = Basis(diagonal_operator(OUTLIERS), 200, "disk", tmp_path)
    for index in range(200):  # past the first 64, so that the file has grown
        rows.put(index, random_vector(SIZE, index))
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    for index in (0, 63, 64, 199):
        assert torch.equal(rows.row(index), random_vector(SIZE, index))
    assert list(tmp_path.iterdir()) == []  # without a name: a kill leaves nothing behind


def test_the_budget_of_a_disk_is_what_is_free_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 2 * 12 * SIZE * 8

    monkeypatch.setattr(basis_module.shutil, "disk_usage", lambda path: Usage())
    assert basis_module.capacity(diagonal_operator(OUTLIERS), "disk", None, tmp_path) == 12


def test_a_full_disk_is_said_before_it_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(basis_module.os, "posix_fallocate", full, raising=False)
    with pytest.raises(
        InputError, match=r"no room for a basis of 64 vectors.*No space left.*name another basis_folder"
    ):
        eigenpairs(diagonal_operator(OUTLIERS), k=3, basis="disk", basis_folder=tmp_path)


# -- both ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [2**29, 2 * 600_000 * 4])
@pytest.mark.parametrize("storage", ["memory", "bfloat16", "disk"])
def test_the_rows_combine_and_rotate(storage: str, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis_module, "_ROOM", room)  # in one block, or in blocks of two rows
    operator = FunctionOperator(lambda v: v, 600_000, torch.float32)  # more than one chunk
    rows = Basis(operator, 9, storage)
    for index in range(5):
        rows.put(index, random_vector(600_000, index, dtype=torch.float32))
    held = rows.held(5).double()
    vector, mix = random_vector(600_000, 9, dtype=torch.float32), random_vector(5, 1, 3).numpy()
    tolerance: dict[str, float] = {"rtol": 1e-4, "atol": 1e-2}
    assert torch.allclose(rows.inner(vector, 5).double(), held @ vector.double(), **tolerance)
    weights = random_vector(5, 2, dtype=torch.float32)
    left = vector.double() - held.T @ weights.double()
    assert float((rows.without(vector, weights).double() - left).abs().max()) < 1e-4
    mixed: Tensor = torch.as_tensor(mix.T) @ held
    assert float((rows.combine(mix).double() - mixed).abs().max()) < 1e-4
    rows.rotate(mix)
    error = float((rows.held(3).double() - mixed).norm() / mixed.norm())
    assert error < 2e-7 if storage != "bfloat16" else 1e-3 < error < 3e-3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"basis": "tape"}, r"basis='tape' is unknown; use 'memory', 'bfloat16' or 'disk'"),
        (
            {"basis": "disk", "basis_folder": "/absent"},
            r"basis_folder='/absent' is no folder; make it, or leave it out",
        ),
        ({"basis_budget": 1000}, r"or hold it elsewhere with basis='bfloat16' or basis='disk'"),
        ({"basis": "bfloat16", "basis_budget": 10 * SIZE * 2}, r"need a basis of 14 vectors"),
    ],
)
def test_bad_places_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        eigenpairs(diagonal_operator(OUTLIERS), k=2, **settings)
