"""The leading eigenpairs of `A = X Xᵀ` from a few products with blocks of vectors, each one pass over the file.

A block of k + OVERSAMPLE random vectors is multiplied by A again and again, each time made orthogonal to what there is;
the eigenpairs are those of A within the span of all blocks. That is the randomised range finder with power iterations
(Halko, Martinsson and Tropp, SIAM Review 2011) in the form that keeps all iterates (Halko, Martinsson, Shkolnisky and
Tygert, SIAM J. Sci. Comput. 2011, made for data that do not fit into memory; Musco and Musco, NeurIPS 2015): the blocks
are of length n and cost nothing beside the passes, and the error falls with the square of their number.

A times every block is known, so each residual `‖A v − λ v‖` is computed and not estimated: some eigenvalue of A lies
within it of λ. That it is the wanted one, and none was missed, holds with high probability only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.directions import as_generator, check_count
from thalweg.errors import InputError

OVERSAMPLE = 10


@dataclass(frozen=True, eq=False)
class LeadingPairs:
    """What `leading_pairs` found.

    Attributes:
        vectors: float64 `(n, k)`, orthonormal columns.
        values: float64 `(k,)`, descending.
        residuals: float64 `(k,)`, `‖A v − λ v‖`.
        passes: products with a block.
    """

    vectors: Tensor
    values: Tensor
    residuals: Tensor
    passes: int


def leading_pairs(
    product: Callable[[Tensor], Tensor],
    count: int,
    k: int,
    seed: int | torch.Generator = 0,
    tol: float = 1e-4,
    passes: int = 8,
) -> LeadingPairs:
    """The k largest eigenpairs of a positive semidefinite matrix that is known by its products.

    Args:
        product: A times float64 `(n, b)`.
        count: n.
        k: how many.
        seed: of the first block.
        tol: it stops when every residual is at most `tol` times the largest value.
        passes: products at the most.

    Raises:
        InputError: if k is not between 1 and n, or tol or passes is no positive number.
    """
    check_count(k, count, "components")
    if not tol > 0 or passes < 1:
        raise InputError(f"tol={tol!r}, passes={passes!r}: give a positive tolerance and at least one pass")
    width = min(k + OVERSAMPLE, count)
    draw = torch.randn(count, width, generator=as_generator(seed), dtype=torch.float64)
    block = torch.linalg.qr(draw).Q
    basis = images = torch.empty(count, 0, dtype=torch.float64)
    made = 0
    while made < passes and block.shape[1]:
        made += 1
        image = product(block)
        basis, images = torch.cat([basis, block], dim=1), torch.cat([images, image], dim=1)
        small = basis.T @ images
        values, inside = torch.linalg.eigh((small + small.T) / 2)
        values, inside = values.flip(0)[:k], inside.flip(1)[:, :k]
        vectors = basis @ inside
        residuals = torch.linalg.vector_norm(images @ inside - vectors * values, dim=0)
        if float(residuals.max()) <= tol * float(values[0]):
            break
        block = _beyond(basis, image, float(values[0]))
    return LeadingPairs(vectors, values, residuals, made)


def _beyond(basis: Tensor, image: Tensor, scale: float) -> Tensor:
    """An orthonormal basis of what a block has beyond another's span; columns that are only rounding are dropped."""
    for _ in range(2):
        image = image - basis @ (basis.T @ image)
    vectors, sizes, _ = torch.linalg.svd(image, full_matrices=False)
    floor = 10 * len(basis) * torch.finfo(torch.float64).eps * scale
    vectors = vectors[:, sizes > floor][:, : max(len(basis) - basis.shape[1], 0)]
    vectors = vectors - basis @ (basis.T @ vectors)
    found: Tensor = torch.linalg.qr(vectors).Q
    return found
