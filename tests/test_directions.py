from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import thalweg.directions as directions_module
from tests.conftest import AdversarialNet, random_vector, relative_error
from thalweg.directions import (
    DenseRows,
    Directions,
    Rows,
    as_generator,
    as_numpy_generator,
    layer_matched_directions,
    random_directions,
)
from thalweg.errors import InputError, RunError
from thalweg.space import ParameterSpace
from thalweg.sums import inner_products

SPACE = ParameterSpace.of(AdversarialNet())


class SpannedRows(Rows):
    """Rows held as coefficients over a few vectors: what a trajectory does."""

    def __init__(self, coefficients: torch.Tensor, span: torch.Tensor, space: ParameterSpace | None = None) -> None:
        self.coefficients = coefficients
        self.span = span
        self.space = space

    @property
    def shape(self) -> tuple[int, int]:
        return self.coefficients.shape[0], self.span.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.span.dtype

    def inner(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.coefficients @ inner_products(self.span, vectors)

    def combine(self, coefficients: torch.Tensor) -> torch.Tensor:
        return coefficients @ self.coefficients @ self.span

    def head(self, count: int) -> Rows:
        return SpannedRows(self.coefficients[:count], self.span, self.space)

    def grams(self) -> torch.Tensor:
        return DenseRows(self.coefficients @ self.span, self.space).grams()


def spanned() -> tuple[SpannedRows, torch.Tensor]:
    rows = SpannedRows(random_vector(3, 1, 4).double(), random_vector(4, 2, SPACE.size), SPACE)
    return rows, rows.coefficients @ rows.span


def test_anybodys_vectors_take_part() -> None:
    directions = Directions(random_vector(2, 0, SPACE.size), [2.0, 1.0], label="mine", space=SPACE)
    assert (len(directions), directions.size) == (2, SPACE.size)
    assert directions.values is not None
    assert directions.values.dtype == torch.float64
    assert repr(directions) == "Directions('mine', k=2, P=109, values 2 … 1)"
    assert set(directions.named(1)) == set(SPACE.names)
    assert torch.equal(directions.named(1)["last.bias"], directions.vectors[1, -4:])
    assert len(Directions(torch.ones(5))) == 1


def test_rows_held_in_another_way_give_the_same_numbers() -> None:
    rows, dense = spanned()
    lazy, plain = Directions(rows), Directions(dense, space=SPACE)
    assert relative_error(lazy.vectors, dense) < 1e-14
    assert relative_error(lazy.rows.dense(2), dense[2]) < 1e-14
    assert relative_error(lazy.layer_energy(), plain.layer_energy()) < 1e-12
    other = DenseRows(random_vector(2, 5, SPACE.size))
    assert relative_error(rows.cross(other), dense @ other.tensor.T) < 1e-12
    assert relative_error(other.cross(rows), other.tensor @ dense.T) < 1e-12
    assert relative_error(rows.cross(rows), dense @ dense.T) < 1e-12
    assert relative_error(lazy.first(2).vectors, dense[:2]) < 1e-14


def test_layer_energy_is_a_share_of_each_layer() -> None:
    vectors = torch.zeros(2, SPACE.size)
    vectors[0, SPACE.layer("first").span] = 1.0
    vectors[1, SPACE.layer("norm").start] = 3.0
    vectors[1, SPACE.layer("last").start] = 4.0
    energy = Directions(vectors, space=SPACE).layer_energy()
    assert torch.allclose(energy, torch.tensor([[0, 1, 0, 0], [0, 0, 9 / 25, 16 / 25]]).double())
    grams = DenseRows(vectors, SPACE).grams()
    assert relative_error(grams.sum(dim=0), vectors.double() @ vectors.double().T) < 1e-14


def test_columns_are_cut_with_the_rows() -> None:
    directions = Directions(
        random_vector(3, 0, 9),
        [3.0, 2.0, 1.0],
        residuals=torch.tensor([0.1, 0.2, 0.3]),
        converged=torch.tensor([True, False, True]),
        explained=torch.tensor([0.5, 0.3, 0.2]),
        matvecs=7,
        provenance={"which": "LA"},
    ).first(2)
    for column, expected in (
        (directions.values, [3.0, 2.0]),
        (directions.residuals, [0.1, 0.2]),
        (directions.explained, [0.5, 0.3]),
        (directions.converged, [True, False]),
    ):
        assert column is not None
        assert column.tolist() == pytest.approx(expected)
    assert (directions.matvecs, directions.provenance) == (7, {"which": "LA"})


def test_saved_directions_come_back(tmp_path: Path) -> None:
    directions = Directions(
        random_vector(2, 0, SPACE.size),
        [2.0, 1.0],
        label="kept 図",
        space=SPACE,
        residuals=torch.tensor([0.1, 0.2]),
        converged=torch.tensor([True, False]),
        matvecs=12,
        provenance={"angles": [0.1, None]},
    )
    directions.save(tmp_path / "some.safetensors")
    again = Directions.load(tmp_path / "some.safetensors")
    assert torch.equal(again.vectors, directions.vectors)
    assert (again.label, again.matvecs, again.provenance) == ("kept 図", 12, {"angles": [0.1, None]})
    assert again.space == SPACE
    assert again.converged is not None
    assert again.converged.tolist() == [True, False]
    assert again.explained is None


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"bad.safetensors holds no directions that can be read"):
        Directions.load(path)
    with pytest.raises(RunError, match=r"compute them again"):
        Directions.load(tmp_path / "absent.safetensors")


def test_a_dense_copy_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, dense = spanned()
    monkeypatch.setattr(directions_module, "DENSE_LIMIT", 1000)
    with pytest.raises(InputError, match=r"3 dense directions of length 109 take .* use directions.rows.inner"):
        _ = Directions(rows).vectors
    assert Directions(dense).vectors is not None  # no copy, no limit


# -- random directions -------------------------------------------------------------------------------------


def test_random_directions_are_orthonormal_and_reproducible() -> None:
    first, again, other = (random_directions(SPACE, 5, seed, torch.float64) for seed in (3, 3, 4))
    assert torch.equal(first.vectors, again.vectors)
    assert not torch.equal(first.vectors, other.vectors)
    assert float((first.vectors @ first.vectors.T - torch.eye(5)).abs().max()) < 1e-14
    assert random_directions(4, 4).vectors.dtype == torch.float32
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(random_directions(SPACE, 5, generator, torch.float64).vectors, first.vectors)


def test_random_directions_have_no_preferred_entry() -> None:
    """Mean squared entries are 1/P in every place, so the frame carries no trace of the axes or of the order."""
    energy = sum(random_directions(6, 2, seed, torch.float64).vectors[0] ** 2 for seed in range(4000)) / 4000
    assert isinstance(energy, torch.Tensor)
    assert float((energy - 1 / 6).abs().max()) < 0.015  # five standard errors


def test_layer_matched_directions_have_the_same_energy_in_each_layer() -> None:
    real = Directions(random_vector(3, 0, SPACE.size), space=SPACE, label="real")
    matched = layer_matched_directions(real, seed=1)
    assert relative_error(matched.layer_energy(), real.layer_energy()) < 1e-12
    assert torch.allclose(matched.vectors.norm(dim=1), torch.ones(3).double())
    assert float(torch.nn.functional.cosine_similarity(matched.vectors, real.vectors).abs().max()) < 0.5
    assert torch.equal(matched.vectors, layer_matched_directions(real, seed=1).vectors)


def test_seeds_never_touch_the_global_generators() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    random_directions(SPACE, 2, 0)
    layer_matched_directions(Directions(random_vector(1, 0, SPACE.size), space=SPACE))
    as_numpy_generator(3).random()
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    generator = torch.Generator()
    assert as_generator(generator) is generator


# -- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (torch.zeros(0, 4), r"shape \(k, P\), got \(0, 4\)"),
        (torch.zeros(1, 2, 3), r"got \(1, 2, 3\)"),
        (torch.ones(2, 3, dtype=torch.long), r"got torch.int64; call .float\(\) first"),
        (torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]), r"direction 1 holds values that are not finite"),
    ],
)
def test_bad_vectors_are_refused(vectors: torch.Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Directions(vectors)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"length 5, but the parameter space has 109"):
        Directions(torch.ones(2, 5), space=SPACE)
    with pytest.raises(InputError, match=r"values has shape \(3,\) for 2 directions"):
        Directions(torch.ones(2, 5), [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match=r"asked for the first 3 of 2 directions"):
        Directions(torch.ones(2, 5)).first(3)
    with pytest.raises(InputError, match=r"'mine' has no parameter space.*space=problem.space"):
        Directions(torch.ones(2, 5), label="mine").layer_energy()
    with pytest.raises(InputError, match=r"vectors of length 4 against directions of length 5"):
        Directions(torch.ones(2, 5)).rows.inner(torch.ones(4))
    with pytest.raises(InputError, match=r"k=6 directions were asked for in a space of dimension 5"):
        random_directions(5, 6)
