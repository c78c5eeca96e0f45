"""Overlaps against dense projections and SciPy's principal angles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from torch import nn

from thalweg.analysis.overlap import overlap
from thalweg.directions import Directions, random_directions
from thalweg.errors import InputError
from thalweg.space import ParameterSpace


@pytest.fixture
def space() -> ParameterSpace:
    return ParameterSpace.of(nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3)))


def test_captured_angles_and_matrix_of_skewed_sets(space: ParameterSpace) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, space.size, dtype=torch.float64, generator=generator)
    b = torch.randn(7, space.size, dtype=torch.float64, generator=generator)
    found = overlap(Directions(5 * a, space=space), Directions(0.1 * b, space=space))
    q = np.linalg.qr(b.numpy().T)[0]
    projected = a.numpy() @ q
    np.testing.assert_allclose(found.captured, (projected**2).sum(1) / (a.numpy() ** 2).sum(1), rtol=1e-10)
    np.testing.assert_allclose(np.sort(found.angles), np.sort(subspace_angles(a.numpy().T, b.numpy().T)), atol=1e-7)
    unit_a, unit_b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(found.matrix, (unit_a @ unit_b.T) ** 2, rtol=1e-10)
    basis = np.linalg.qr(a.numpy().T)[0]
    assert found.mean == pytest.approx(((basis.T @ q) ** 2).sum() / 3, rel=1e-10)


def test_a_set_lies_in_itself(space: ParameterSpace) -> None:
    a = random_directions(space, 4, seed=3, dtype=torch.float64)
    found = overlap(a, a)
    assert found.mean == pytest.approx(1.0, abs=1e-12)
    assert float(found.angles.max()) < 1e-6
    assert found.log10_p < -10


def test_both_nulls_stand_side_by_side_and_the_chosen_one_speaks(space: ParameterSpace) -> None:
    a, b = random_directions(space, 2, seed=1), random_directions(space, 5, seed=2)
    by_uniform, by_layer = overlap(a, b), overlap(a, b, null="layer_matched")
    assert by_uniform.expected == 5 / space.size
    assert by_layer.layer_matched is not None
    assert by_layer.expected == by_layer.layer_matched.expected != by_uniform.expected
    assert by_uniform.layer_matched == by_layer.layer_matched


def test_without_layers_only_the_uniform_null_is_known() -> None:
    a, b = random_directions(30, 2, seed=1), random_directions(30, 3, seed=2)
    assert overlap(a, b).layer_matched is None
    with pytest.raises(InputError, match=r"space=problem\.space"):
        _ = overlap(a, b, null="layer_matched").p_value


def test_plain_tensors_take_part() -> None:
    found = overlap(torch.eye(6)[:2], torch.eye(6)[1:4])
    assert found.captured.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("b", "message"),
    [
        (torch.ones(2, 6), "linearly dependent"),
        (torch.eye(7)[:2], "a has length 6 and b 7"),
        (torch.zeros(1, 6), "length zero"),
    ],
)
def test_bad_sets_are_refused(b: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        overlap(torch.eye(6)[:2], b)


def test_unknown_null_is_refused() -> None:
    with pytest.raises(InputError, match="'gauss'"):
        overlap(torch.eye(4)[:1], torch.eye(4)[:2], null="gauss")  # type: ignore[arg-type]


def test_known_inner_products_are_used_and_checked(space: ParameterSpace) -> None:
    a, b = random_directions(space, 2, seed=1), random_directions(space, 5, seed=2)
    assert overlap(a, b, cross=a.rows.cross(b.rows)).mean == pytest.approx(overlap(a, b).mean)
    with pytest.raises(InputError, match=r"\(5, 2\), expected \(2, 5\)"):
        overlap(a, b, cross=b.rows.cross(a.rows))
