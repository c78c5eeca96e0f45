"""Sums over long float32 vectors against float64; at once they are off by some 1e-3 at these lengths."""

from __future__ import annotations

import pytest
import torch

from thalweg import sums
from thalweg.operators.base import FunctionOperator
from thalweg.solvers.basis import Basis
from thalweg.sums import dot, inner_products, length, times


def test_long_sums_are_exact_to_their_rounding() -> None:
    vector = torch.randn(30_000_000, generator=torch.Generator().manual_seed(0))
    true = float(torch.linalg.vector_norm(vector.double()))
    assert length(vector) == pytest.approx(true, rel=1e-5)
    assert dot(vector, vector) == pytest.approx(true**2, rel=1e-5)
    assert float(times(vector[None], vector)[0]) == pytest.approx(true**2, rel=1e-5)
    assert float(inner_products(vector, vector)) == pytest.approx(true**2, rel=1e-12)
    rows = Basis(FunctionOperator(lambda v: v, len(vector), torch.float32), 1)
    rows.put(0, vector / true)
    assert float(rows.inner(vector, 1)[0]) == pytest.approx(true, rel=1e-5)


def test_inner_products_are_accumulated_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "_CHUNK", 7)
    a = torch.full((1, 1001), 1e4, dtype=torch.float32)
    a[0, 0] = 1e-4
    b = torch.ones(1, 1001)
    assert float(inner_products(a, b)) == pytest.approx(1e7 + 1e-4, rel=1e-15)
    assert inner_products(a, b[0]).shape == (1,)


def test_inner_products_over_no_entries_are_zero() -> None:
    one, two = torch.empty(3, 0), torch.empty(2, 0)
    assert torch.equal(inner_products(one, two), torch.zeros(3, 2, dtype=torch.float64))
    assert torch.equal(inner_products(one, torch.empty(0)), torch.zeros(3, dtype=torch.float64))
