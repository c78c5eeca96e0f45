"""Leading eigenpairs from products with blocks, against dense matrices with known spectra."""

import pytest
import torch

from thalweg.errors import InputError
from thalweg.solvers.randomized import OVERSAMPLE, leading_pairs

F64 = torch.float64


def matrix(values):
    generator = torch.Generator().manual_seed(5)
    vectors = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=F64)).Q
    return (vectors * values) @ vectors.T, vectors


DECAY = 1 / torch.arange(1, 301, dtype=F64) ** 2


def test_values_vectors_and_residuals():
    a, vectors = matrix(DECAY)
    found = leading_pairs(lambda block: a @ block, 300, 6, tol=1e-9)
    torch.testing.assert_close(found.values, DECAY[:6], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((found.vectors.T @ vectors[:, :6]).abs(), torch.eye(6, dtype=F64), rtol=0, atol=1e-6)
    true = torch.linalg.vector_norm(a @ found.vectors - found.vectors * found.values, dim=0)
    torch.testing.assert_close(found.residuals, true, rtol=1e-3, atol=1e-14)
    assert float(found.residuals.max()) <= 1e-9
    assert found.passes <= 8


def test_few_passes_are_honest():
    a, _ = matrix(DECAY)
    errors = []
    for passes in (1, 2, 3):
        found = leading_pairs(lambda block: a @ block, 300, 6, tol=1e-12, passes=passes)
        assert found.passes == passes
        true = torch.linalg.vector_norm(a @ found.vectors - found.vectors * found.values, dim=0)
        torch.testing.assert_close(found.residuals, true)
        errors.append(float((found.values - DECAY[:6]).abs().max()))
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[0] > 0.01  # one product is no answer


def test_all_iterates_are_kept():
    """Plain power iteration on the last block alone reaches less with the same products."""
    values = torch.cat([torch.linspace(1.1, 1.0, 6, dtype=F64), torch.full((294,), 0.8, dtype=F64) ** 0.5])
    a, _ = matrix(values)
    found = leading_pairs(lambda block: a @ block, 300, 6, tol=1e-12, passes=6)
    block = torch.linalg.qr(torch.randn(300, 16, generator=torch.Generator().manual_seed(0), dtype=F64)).Q
    for _ in range(5):
        block = torch.linalg.qr(a @ block).Q
    plain = torch.linalg.eigvalsh(block.T @ a @ block).flip(0)[:6]
    assert float((found.values - values[:6]).abs().max()) < 0.1 * float((plain - values[:6]).abs().max())


def test_copies_of_an_eigenvalue_are_all_found():
    a, _ = matrix(torch.tensor([10.0, 10, 10, 9, 8] + [0.1] * 95, dtype=F64))
    found = leading_pairs(lambda block: a @ block, 100, 5, tol=1e-10)
    torch.testing.assert_close(found.values, torch.tensor([10.0, 10, 10, 9, 8], dtype=F64))


@pytest.mark.parametrize("count", [3, 5, 13, 25])
def test_spaces_as_small_as_the_block(count):
    a, _ = matrix(DECAY[:count])
    found = leading_pairs(lambda block: a @ block, count, 3, tol=1e-14, passes=50)
    torch.testing.assert_close(found.values, DECAY[:3], rtol=1e-12, atol=1e-13)
    assert found.passes <= -(-count // min(3 + OVERSAMPLE, count)) + 1


def test_few_dimensions_are_noticed_as_such():
    values = torch.zeros(200, dtype=F64)
    values[:2] = torch.tensor([3.0, 1.0])
    a, _ = matrix(values)
    found = leading_pairs(lambda block: a @ block, 200, 4, tol=1e-18, passes=50)
    torch.testing.assert_close(found.values, torch.tensor([3.0, 1.0, 0.0, 0.0], dtype=F64), rtol=1e-13, atol=1e-13)
    assert found.passes <= 3


def test_wrong_arguments():
    for options in ({"k": 0}, {"k": 11}, {"k": 2, "tol": 0.0}, {"k": 2, "passes": 0}):
        with pytest.raises(InputError):
            leading_pairs(lambda block: block, 10, **options)
