"""The trace of a symmetric operator by XTrace (Epperly, Tropp and Webber 2024, algorithm 2.1, with their resphering).

With n test vectors as columns of `W`, uniform on the sphere of radius √P, and `Y = H W`, let `Q_i` be an orthonormal
basis of the columns of Y other than the i-th. Since w_i is independent of `Q_i`,

    t_i = tr(Q_iᵀ H Q_i) + u_iᵀ H u_i · (P − rank Q_i) / |u_i|²,      u_i = (I − Q_i Q_iᵀ) w_i

is an unbiased estimate for each i, and their mean is the answer: every test vector serves once for the error and n − 1
times for the subspace. One orthonormal basis Q of all of Y holds them all, `Q_i Q_iᵀ = Q (I − s_i s_iᵀ) Qᵀ` with s_i
the unit vector orthogonal to the other columns of `Qᵀ Y`, so 2n products are enough: `H W` and `H Q`.

The error. The paper takes the spread of the t_i as if they were independent, `Σ (t_i − t)² / (n (n − 1))`. But they
share their test vectors: for the mean of a symmetric function of *pairs* of them, which is what is left once the
subspace has taken its part, the true variance is twice that. Measured over 300 draws, the paper's error was 1.1 (flat
spectrum) to 1.4 times too small (decaying ones). So it is multiplied by √2: right for the latter, on the safe side for
the former.

Source: E. N. Epperly, J. A. Tropp, R. J. Webber, *XTrace: making the most of every sample in stochastic trace
estimation*, SIAM J. Matrix Anal. Appl. 45(1), 2024, arXiv 2301.07825.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from thalweg.collectives import Ranks
from thalweg.directions import as_generator
from thalweg.errors import InputError
from thalweg.operators.base import Operator, all_finite
from thalweg.progress import Progress, Tell, shown
from thalweg.sums import inner_products, pieces
from thalweg.tables import Table, Tabular, quantities

LEAST_MATVECS = 6
"""Three test vectors: fewer leave nothing to judge the spread by."""


@dataclass(frozen=True, eq=False)
class TraceEstimate(Tabular):
    """An estimate of `tr H`, the sum of all eigenvalues.

    Attributes:
        value: the estimate, in the operator's unit.
        error: its standard error, in the same unit: `sqrt(2 Σ (t_i − value)² / (n (n − 1)))`, and no less than the
            rounding of the products (which is what is left where the operator's rank is below n).
        matvecs: products spent.
        samples: float64 `(n,)`, the estimates t_i whose mean is `value`; they share a subspace, so are not independent.
        provenance: plain JSON values that say how it was found.
    """

    value: float
    error: float
    matvecs: int
    samples: Tensor
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_table(self) -> Table:
        """A row for each of its figures."""
        return quantities(value=self.value, error=self.error, products=self.matvecs)


def trace(
    operator: Operator, matvecs: int = 60, seed: int | torch.Generator = 0, progress: Tell | bool = False
) -> TraceEstimate:
    """The trace of a symmetric operator, with a standard error, by XTrace.

    The error falls as 1/n for n = matvecs / 2 where Hutchinson's falls as 1/√n, and much faster where the spectrum
    decays. Holds three arrays of n vectors of length P; of several ranks each holds its entries of them.

    Args:
        operator: `problem.hessian()`, or any `Operator`.
        matvecs: products to spend; an odd one is left unused. From P on the diagonal is summed instead, by P products.
        seed: for the test vectors.
        progress: called after every product; True shows a line with the products and the time left.

    Returns:
        The estimate. It is exact to rounding where the operator's rank is below matvecs / 2.

    Raises:
        InputError: if there are too few products, or a product is not finite.
    """
    size = operator.shape[0]
    about = {"seed": seed if isinstance(seed, int) else None, **operator.describe()}
    if matvecs >= size >= 1:
        with shown(progress, "trace") as tell:
            diagonal = _diagonal(operator, tell)
        rounding = _rounding(operator, diagonal)
        return TraceEstimate(float(diagonal.sum()), rounding, size, diagonal, {"method": "diagonal", **about})
    if matvecs < LEAST_MATVECS:
        raise InputError(f"matvecs={matvecs} leave no error estimate; use {LEAST_MATVECS} or more, 60 is usual")
    with shown(progress, "trace") as tell:
        samples, rounding = _leave_one_out(operator, matvecs // 2, as_generator(seed), tell)
    count = len(samples)
    return TraceEstimate(
        value=float(samples.mean()),
        error=max(math.sqrt(2 / count) * float(samples.std()), rounding),
        matvecs=2 * count,
        samples=samples,
        provenance={"method": "xtrace", **about},
    )


def _leave_one_out(
    operator: Operator, count: int, generator: torch.Generator, tell: Tell | None
) -> tuple[Tensor, float]:
    """The estimates t_i, float64 `(count,)`, and the rounding of the products in them."""
    size, ranks = operator.shape[0], operator.ranks
    tests = torch.empty(count, operator.width, dtype=operator.dtype, device=operator.device)
    for row in tests:
        row.copy_(operator.draw(generator))
    images = _products(operator, tests, 0, 2 * count, tell)
    basis, inside = _orthonormal(images, ranks)
    del images
    rank = basis.shape[0]
    products = _products(operator, basis, count, count + rank, tell)
    drop, lost = _left_out(inside)
    overlaps, core = ranks.sum(inner_products(basis, tests)), ranks.sum(inner_products(basis, products))
    shares = overlaps - drop * (drop * overlaps).sum(dim=0)  # columns: coefficients of Q_i Q_iᵀ w_i in Q
    quadratic, squared = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for span in pieces(operator.width, operator.device):
        rows, shifted = basis[:, span].double().cpu(), products[:, span].double().cpu()
        outside = tests[:, span].double().cpu() - shares.T @ rows  # u_i
        moved = inside.T @ rows - shares.T @ shifted  # H u_i = H w_i − H Q c_i
        quadratic += (outside * moved).sum(dim=1)
        squared += (outside * outside).sum(dim=1)
    quadratic, squared = ranks.sum(quadratic), ranks.sum(squared)
    captured = torch.trace(core) - (drop * (core @ drop)).sum(dim=0)  # tr(Q_iᵀ H Q_i)
    left = (size - rank + lost.double()) / squared.clamp(min=torch.finfo(torch.float64).tiny)
    samples = captured + torch.where(squared > 0, quadratic * left, torch.zeros_like(left))
    return samples, _rounding(operator, core)


def _rounding(operator: Operator, entries: Tensor) -> float:
    """Size of the rounding in a sum of these entries, float64 on the CPU; errors of measured products may be alike."""
    precision = max(10 * torch.finfo(operator.dtype).eps, operator.precision * math.sqrt(len(entries)))
    return precision * float(torch.linalg.vector_norm(entries))


def _orthonormal(images: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Orthonormal rows `(r, P)` that span the given rows, and `Qᵀ Y` `(r, n)`; r is the numerical rank.

    Where each rank has its entries of the rows: the triangles of the ranks' own factors, one below the other, are
    factored once more (TSQR; Demmel, Grigori, Hoemmen and Langou 2012), and what decides is the first rank's.
    """
    frame, triangle = torch.linalg.qr(images.T)
    triangle = triangle.double().cpu()
    triangles = ranks.gathered(triangle)
    joint, triangle = torch.linalg.qr(torch.cat(triangles))
    place = sum(len(one) for one in triangles[: ranks.rank])
    left, sizes, right = torch.linalg.svd(triangle)
    joint, left, sizes, right = ranks.gathered((joint, left, sizes, right))[0]
    floor = 10 * len(sizes) * torch.finfo(images.dtype).eps * float(sizes[0])
    rank = int((sizes > floor).sum())
    own = joint[place : place + len(triangles[ranks.rank])] @ left[:, :rank]
    return own.T.to(frame) @ frame.T, sizes[:rank, None] * right[:rank]


def _left_out(inside: Tensor) -> tuple[Tensor, Tensor]:
    """For each column of `Qᵀ Y` the unit vector s_i orthogonal to all others `(r, n)`, and whether there is one.

    The rows of the pseudo-inverse of `Qᵀ Y`, normalised; there is none where the other columns span everything, which
    is where the i-th leverage `(B⁺ B)_ii` is below 1.
    """
    inverse = torch.linalg.pinv(inside, rtol=1e-15)  # what is rounding was cut off before
    leverage = (inverse * inside.T).sum(dim=1)
    lost = leverage > 1 - 1e-9
    lengths = torch.linalg.vector_norm(inverse, dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(lost, inverse.T / lengths, 0.0), lost


def _products(operator: Operator, rows: Tensor, before: int, planned: int, tell: Tell | None) -> Tensor:
    """Products with the rows, after `before` others of those planned; of each this rank's entries."""
    out = torch.empty_like(rows)
    for index, row in enumerate(rows):
        product = operator.part_of_product(row)
        if operator.ranks.add_up([float(all_finite(product))])[0] < operator.ranks.size:
            raise InputError(
                f"product {before + index + 1} of the operator is not finite; check the loss at these weights"
            )
        out[index] = product
        if tell is not None:
            tell(Progress("trace", before + index + 1, planned=planned))
    return out


def _diagonal(operator: Operator, tell: Tell | None) -> Tensor:
    """All diagonal entries, float64 `(P,)`, by a product each."""
    size = operator.shape[0]
    places = operator.layout.take(torch.arange(size))
    entries = []
    for index in range(size):
        unit = (places == index)[None].to(dtype=operator.dtype, device=operator.device)
        entries.append(operator.ranks.sum((unit * _products(operator, unit, index, size, tell)).double().cpu().sum()))
    return torch.stack(entries)
