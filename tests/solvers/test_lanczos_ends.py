"""Both ends of a spectrum, and where a search starts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor

from tests.conftest import SPECTRA, diagonal_operator, random_vector, spectrum_operator
from tests.solvers.test_lanczos import assert_orthonormal, distances_without_ghosts, residuals_of, values_of
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.operators.base import FunctionOperator
from thalweg.solvers.lanczos import eigenpairs
from thalweg.solvers.wanted import Wanted


def both_ends(spectrum: Tensor, k: int) -> np.ndarray:
    """The k // 2 smallest and the other largest, all descending."""
    ascending = np.sort(spectrum.numpy())
    return np.concatenate([ascending[::-1][: k - k // 2], ascending[: k // 2][::-1]])


@pytest.mark.parametrize("k", [1, 2, 5, 6])
@pytest.mark.parametrize("name", SPECTRA)
def test_both_ends_with_multiplicity(name: str, k: int) -> None:
    spectrum = SPECTRA[name]
    pairs = eigenpairs(spectrum_operator(spectrum), k=k, which="BE", tol=1e-9, certify="complete")
    scale = max(float(spectrum.abs().max()), 1e-300)
    assert values_of(pairs) == pytest.approx(both_ends(spectrum, k), abs=2e-9 * scale)
    assert_orthonormal(pairs)
    assert (np.diff(values_of(pairs)) <= 1e-9 * scale).all()
    assert pairs.provenance["certificate"] == "complete"


@pytest.mark.parametrize("k", [4, 5])
def test_the_same_values_as_arpack(k: int) -> None:
    spectrum = random_vector(80, 3)
    operator = spectrum_operator(spectrum)
    arpack, _ = eigsh(operator.to_scipy(), k=k, which="BE", v0=np.ones(80))
    assert values_of(eigenpairs(operator, k=k, which="BE", tol=1e-10)) == pytest.approx(arpack[::-1], abs=1e-9)


@pytest.mark.parametrize("certify", ["estimate", "full"])
def test_both_ends_with_less_certainty_have_no_ghosts(certify: str) -> None:
    pairs = eigenpairs(spectrum_operator(SPECTRA["indefinite"]), k=5, which="BE", tol=1e-9, certify=certify)
    assert distances_without_ghosts(values_of(pairs), SPECTRA["indefinite"]).max() < 1e-5
    assert values_of(pairs) == pytest.approx(both_ends(SPECTRA["indefinite"], 5), rel=1e-8)


def test_copies_at_both_ends_are_found_in_the_complement() -> None:
    spectrum = torch.cat([torch.tensor([5.0] * 3), torch.linspace(4, -3, 50), torch.tensor([-4.0] * 3)]).double()
    operator = diagonal_operator(spectrum)
    start = torch.ones(56, dtype=torch.float64)
    start[1:3] = start[-2:] = 0.0  # no share in two of three copies, above and below
    blind = eigenpairs(operator, k=6, which="BE", tol=1e-9, certify="full", start=start)
    assert float(np.abs(values_of(blind) - both_ends(spectrum, 6)).max()) > 0.5
    seeing = eigenpairs(operator, k=6, which="BE", tol=1e-9, certify="complete", start=start)
    assert values_of(seeing) == pytest.approx([5, 5, 5, -4, -4, -4], rel=1e-9)
    assert seeing.provenance["missed_and_found"] == 4
    assert_orthonormal(seeing)


def test_both_ends_under_thick_restart() -> None:
    spectrum = torch.sort(random_vector(300, 3), descending=True).values
    operator = diagonal_operator(spectrum)
    pairs = eigenpairs(operator, k=5, which="BE", tol=1e-10, basis_budget=22 * 300 * 8, certify="complete")
    assert values_of(pairs) == pytest.approx(both_ends(spectrum, 5), rel=1e-9)
    assert pairs.matvecs is not None
    assert pairs.matvecs > 45  # restarted in the search itself
    assert residuals_of(pairs).max() < 1e-9


@pytest.mark.parametrize(
    ("k", "first"), [(4, [0, 1, 8, 9]), (5, [0, 1, 2, 8, 9]), (1, [0]), (2, [0, 9]), (10, list(range(10)))]
)
def test_the_order_of_both_ends(k: int, first: list[int]) -> None:
    values = np.arange(10.0, 0, -1)
    order = Wanted("BE", k).order(values)
    assert order[:k].tolist() == first
    assert sorted(order.tolist()) == list(range(10))
    rest = values[order[k:]]  # the others from outside inwards: each lies between those before it
    assert all(rest[i + 2 :].size == 0 or rest[i + 2 :].max() < rest[: i + 2].max() for i in range(len(rest)))
    for count in range(1, k):  # fewer values than are wanted
        assert sorted(Wanted("BE", k).order(values[:count]).tolist()) == list(range(count))


def test_the_middle_comes_from_both_sides_alternately() -> None:
    assert Wanted("BE", 4).order(np.arange(10.0, 0, -1)).tolist() == [0, 1, 8, 9, 2, 7, 3, 6, 4, 5]


# -- starts ----------------------------------------------------------------------------------------------------


def test_a_warm_start_begins_at_the_sum_weighted_by_the_values() -> None:
    spectrum = torch.cat([torch.tensor([50.0, 30.0, 20.0]), torch.linspace(5, 0, 297)]).double()
    given: list[Tensor] = []

    def multiply(vector: Tensor) -> Tensor:
        given.append(vector.clone())
        return spectrum * vector

    before = eigenpairs(diagonal_operator(spectrum), k=3, tol=1e-6)
    warm = eigenpairs(FunctionOperator(multiply, 300), k=3, tol=1e-6, start=before)
    shares = before.vectors @ given[0]
    expected = before.values / before.values.norm() / math.sqrt(1.01)
    assert shares.numpy() == pytest.approx(expected.numpy(), abs=0.03)
    assert float(shares.square().sum()) == pytest.approx(1 / 1.01, abs=0.01)  # the rest is the random tenth
    assert values_of(warm) == pytest.approx([50, 30, 20], rel=1e-6)
    again = eigenpairs(FunctionOperator(multiply, 300), k=3, tol=1e-6, start=before)
    assert torch.equal(again.vectors, warm.vectors)


def test_a_warm_start_saves_products_for_one_pair() -> None:
    spectrum = torch.cat([torch.tensor([6.0]), torch.linspace(5, 0, 299)]).double()
    cold = eigenpairs(diagonal_operator(spectrum), k=1, tol=1e-3)
    warm = eigenpairs(diagonal_operator(spectrum), k=1, tol=1e-3, start=cold)
    assert cold.matvecs is not None
    assert warm.matvecs is not None
    assert warm.matvecs < cold.matvecs


def test_a_warm_start_does_not_hide_what_is_new() -> None:
    """The earlier pairs span an invariant subspace, and a larger eigenvalue has appeared outside it."""
    spectrum = torch.linspace(5, 0, 200).double()
    spectrum[:3] = torch.tensor([50.0, 30.0, 20.0])
    before = Directions(torch.eye(200, dtype=torch.float64)[:3], spectrum[:3])
    spectrum[100] = 60.0
    pairs = eigenpairs(diagonal_operator(spectrum), k=3, tol=1e-4, start=before)
    assert values_of(pairs) == pytest.approx([60, 50, 30], rel=1e-4)
    alone = eigenpairs(diagonal_operator(spectrum), k=3, tol=1e-4, start=before.vectors.T @ before.values)
    assert values_of(alone)[0] == pytest.approx(60, rel=1e-4)  # a breakdown, then a fresh random vector


@pytest.mark.parametrize("values", [None, torch.zeros(2), torch.tensor([-3.0, float("nan")])])
def test_a_warm_start_needs_no_values(values: Tensor | None) -> None:
    operator = diagonal_operator([9.0, 7.0] + [1.0 / i for i in range(1, 60)])
    before = Directions(torch.eye(61)[:2], values)
    assert values_of(eigenpairs(operator, k=2, tol=1e-8, start=before)) == pytest.approx([9, 7])


def test_directions_of_another_length_are_refused() -> None:
    before = Directions(torch.eye(59)[:2])
    with pytest.raises(InputError, match=r"start holds directions of length 59, the operator has 60"):
        eigenpairs(spectrum_operator(SPECTRA["separated"]), k=2, start=before)
