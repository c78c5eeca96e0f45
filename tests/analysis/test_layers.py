"""Layer spectra and halves against dense Hessians in float64; the random walk against a real one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import pooled_function
from thalweg.analysis.layers import layer_spectra
from thalweg.analysis.random_walk import random_walk
from thalweg.analysis.sampling import halves
from thalweg.errors import InputError
from thalweg.problem import Problem
from thalweg.solvers.lanczos import eigenpairs


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)).double()


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 5, generator=generator).double(), torch.randint(0, 3, (n,), generator=generator))
        for n in (11, 2, 30)
    ]


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def dense_hessian(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    inputs, labels = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    total, flat = pooled_function(model, lambda call: nn.functional.cross_entropy(call(inputs), labels))
    hessian: Tensor = torch.autograd.functional.hessian(total, flat)
    return hessian


def test_every_block_against_the_dense_hessian(net: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    problem = Problem(net, cross_entropy, batches)
    dense = dense_hessian(net, batches)
    table = layer_spectra(problem, k=3, tol=1e-9)
    for record in list(table)[:-1]:
        span = problem.space.layer(record["layer"]).span
        truth = torch.linalg.eigvalsh(dense[span, span]).flip(0)[:3]
        np.testing.assert_allclose(record["values"], truth, rtol=1e-9)
        assert record["parameters"] == span.stop - span.start
    whole = list(table)[-1]
    truth = torch.linalg.eigvalsh(dense).flip(0)
    np.testing.assert_allclose(whole["values"], truth[:3], rtol=1e-9)
    assert all(share <= 1 + 1e-9 for share in table["share_of_net"])  # interlacing
    assert table["depth"] == [0, 1, 2, None]


def test_known_pairs_of_the_whole_are_not_computed_again(net: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    problem = Problem(net, cross_entropy, batches)
    pairs = eigenpairs(problem.hessian(), 2, tol=1e-6)
    seen: list[str] = []
    table = layer_spectra(problem, whole=pairs, progress=lambda name, number, of: seen.append(f"{name} {number}/{of}"))
    assert list(table)[-1]["matvecs"] == pairs.matvecs
    assert seen == ["0 1/3", "2 2/3", "4 3/3"]


def test_layer_spectra_refuses_no_eigenvalues(net: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    with pytest.raises(InputError, match="k=0"):
        layer_spectra(Problem(net, cross_entropy, batches), k=0)


def test_halves_against_dense(net: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    problem = Problem(net, cross_entropy, batches)
    found = halves(problem, 3, tol=1e-9, seed=5)
    first, second = problem.split(5)
    dense_a, dense_b = dense_hessian(net, list(first.data)), dense_hessian(net, list(second.data))
    values, vectors = torch.linalg.eigh(dense_a)
    top = vectors.flip(1)[:, :3]
    np.testing.assert_allclose(found.half_values, values.flip(0)[:3], rtol=1e-8)
    np.testing.assert_allclose(found.other_half, torch.diagonal(top.T @ dense_b @ top), rtol=1e-6)
    top_b = torch.linalg.eigh(dense_b).eigenvectors.flip(1)[:, :3]
    assert found.subspace.mean == pytest.approx(float(((top.T @ top_b) ** 2).sum() / 3), rel=1e-6)
    assert sum(found.samples) == 43


def test_random_walk_reference_equals_a_walk_in_many_dimensions() -> None:
    steps = torch.randn(60, 40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = torch.linspace(2, 0.5, 60, dtype=torch.float64)
    steps *= (lengths / steps.norm(dim=1))[:, None]
    positions = torch.cat([torch.zeros(1, steps.shape[1], dtype=torch.float64), steps.cumsum(dim=0)])
    centered = positions - positions.mean(dim=0)
    left, singular, _ = torch.linalg.svd(centered, full_matrices=False)
    found = random_walk(lengths**2, 4)
    truth = (singular**2 / (singular**2).sum())[:4]
    np.testing.assert_allclose(found.weights_explained, truth, rtol=0.05)
    assert found.weights_explained[0] > 0.5  # nothing to see, and yet one component holds most of it
    path = left[:, :2] * singular[:2]
    path = path - path[0]
    for axis in range(2):
        sign = torch.sign((path[:, axis] * found.path[:, axis]).sum())
        np.testing.assert_allclose(sign * path[:, axis], found.path[:, axis], atol=0.1 * float(singular[0] / 8))


@pytest.mark.parametrize("k", [1, 2, 12])
def test_a_few_components_of_a_long_walk_are_those_of_all(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    squares = torch.rand(200, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    squares[17:40] = 0
    whole = random_walk(squares, k)
    monkeypatch.setattr("thalweg.analysis.random_walk.DENSE_ROWS", 10)
    few = random_walk(squares, k)
    np.testing.assert_allclose(few.weights_explained, whole.weights_explained, rtol=1e-10)
    np.testing.assert_allclose(few.updates_explained, whole.updates_explained)
    for axis in range(2):
        sign = torch.sign((few.path[:, axis] * whole.path[:, axis]).sum())
        np.testing.assert_allclose(sign * few.path[:, axis], whole.path[:, axis], atol=1e-8)


def test_random_walk_needs_steps() -> None:
    with pytest.raises(InputError, match="2 steps"):
        random_walk(torch.ones(2))
