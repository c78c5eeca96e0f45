"""The approximated Hessian against the dense one."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import decaying, random_vector, spectrum_operator, symmetric_matrix
from thalweg.analysis.approximation import hessian_from
from thalweg.directions import Directions, random_directions
from thalweg.errors import InputError
from thalweg.solvers.lanczos import eigenpairs


def test_shares_are_those_of_the_dense_matrix() -> None:
    matrix = symmetric_matrix(decaying(), 1)
    hessian = spectrum_operator(decaying(), 1)
    skewed = Directions(random_vector(6 * 60, 3).view(6, 60))
    fresh = random_vector(4 * 60, 5).view(4, 60)
    pairs = eigenpairs(hessian, 4, tol=1e-10)
    table = hessian_from(hessian, skewed, pairs=pairs, trace=float(matrix.trace()), fresh=fresh, counts=(2, 5))
    assert table["k"] == [2, 5, 6]
    for row in table:
        basis = torch.linalg.qr(skewed.vectors[: row["k"]].T).Q.T
        middle = basis @ matrix @ basis.T
        assert row["trace_share"] == pytest.approx(float(middle.trace() / matrix.trace()), rel=1e-9)
        ritz = torch.linalg.eigvalsh(middle).flip(0)
        values = decaying()[: min(row["k"], 4)]
        assert row["top_value"] == pytest.approx(float(ritz[0]), rel=1e-8)
        assert row["top_share"] == pytest.approx(float(ritz[: len(values)].sum() / values.sum()), rel=1e-8)
        approximation = basis.T @ middle @ basis
        shares = ((fresh @ approximation) * fresh).sum(1) / ((fresh @ matrix) * fresh).sum(1)
        assert row["fresh_share"] == pytest.approx(float(shares.median()), rel=1e-8)
        assert row["products_saved"] == pairs.matvecs - row["k"]


def test_the_eigenvectors_themselves_hold_everything_they_can() -> None:
    hessian = spectrum_operator(decaying(), 2)
    pairs = eigenpairs(hessian, 5, tol=1e-11)
    table = hessian_from(hessian, pairs, pairs=pairs, trace=float(decaying().sum()))
    last = list(table)[-1]
    assert last["top_share"] == pytest.approx(1.0, rel=1e-9)
    assert last["trace_share"] == pytest.approx(float(decaying()[:5].sum() / decaying().sum()), rel=1e-8)
    inside = hessian_from(hessian, pairs, fresh=pairs.vectors[:2])
    assert list(inside)[-1]["fresh_share_diagonal"] == pytest.approx(1.0, rel=1e-8)


def test_random_directions_hold_their_share_of_the_trace() -> None:
    hessian = spectrum_operator(decaying(), 2)
    shares = [
        list(hessian_from(hessian, random_directions(60, 6, seed, torch.float64), trace=float(decaying().sum())))[-1]
        for seed in range(60)
    ]
    assert sum(row["trace_share"] for row in shares) / 60 == pytest.approx(0.1, rel=0.1)


def test_what_is_not_given_is_left_out() -> None:
    row = next(iter(hessian_from(spectrum_operator(decaying(), 2), random_directions(60, 1))))
    assert row["trace_share"] is row["top_share"] is row["fresh_share"] is row["products_saved"] is None


def test_bad_input() -> None:
    hessian = spectrum_operator(decaying(), 2)
    with pytest.raises(InputError, match="has length 7"):
        hessian_from(hessian, Directions(torch.ones(1, 7)))
    with pytest.raises(InputError, match="linearly dependent"):
        hessian_from(hessian, Directions(torch.ones(2, 60)))
    with pytest.raises(InputError, match="length zero"):
        hessian_from(hessian, Directions(torch.zeros(1, 60)))
