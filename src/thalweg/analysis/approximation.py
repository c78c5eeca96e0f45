"""The Hessian out of a few directions: how much of it the recorded updates hold, and how many products that saves.

With k orthonormal directions P and their measured curvature the approximation is `Pᵀ C P`: C the whole `P H Pᵀ`, or its
diagonal alone, which is what "components scaled by their curvature" means. Either costs one product a direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.operators.base import Operator
from thalweg.recording.record import Window
from thalweg.recording.trajectory import Trajectory
from thalweg.solvers.gram import gradient_pca, update_pca, weight_pca
from thalweg.tables import Table

COUNTS = (1, 2, 5, 10, 20, 50, 100)

FRESH = 5
"""Updates that an analysis keeps out of the components."""

MOST = 20
"""Components of each source in an analysis."""

SOURCES: dict[str, Callable[..., Directions]] = {
    "updates": update_pca,
    "weights": weight_pca,
    "gradients": gradient_pca,
}


def hessian_from(
    hessian: Operator,
    directions: Directions,
    *,
    pairs: Directions | None = None,
    trace: float | None = None,
    fresh: Tensor | None = None,
    counts: Sequence[int] = COUNTS,
) -> Table:
    """How well the first k of some directions stand for a Hessian, for growing k.

    Args:
        hessian: the operator.
        directions: principal components, say, the most important first; they are made orthonormal in that order.
        pairs: its top eigenpairs, for their share; None leaves that out.
        trace: its trace, for the share; likewise.
        fresh: vectors `(n, P)` that the directions did not come from, such as later updates; likewise. A product each.
        counts: k, those up to the number of directions.

    Returns:
        A table with the columns k, trace_share (`tr(P H Pᵀ) / tr H`), top_share (sum of the largest Ritz values over
        that of as many eigenvalues), top_value (the largest Ritz value over the largest eigenvalue), fresh_share and
        fresh_share_diagonal (median over the fresh vectors of the approximation's quadratic form over the true one,
        with C and with its diagonal), products (k) and products_saved (what the eigenpairs cost less k; None without).

    Raises:
        InputError: if the directions are linearly dependent, or lengths differ.
    """
    if directions.size != hessian.shape[0]:
        raise InputError(f"{directions.label!r} has length {directions.size:,}, the operator {hessian.shape[0]:,}")
    basis = _orthonormal(directions)
    images = torch.stack([(hessian @ row.to(hessian.device, hessian.dtype)).double().cpu() for row in basis])
    middle = basis @ images.T
    middle = (middle + middle.T) / 2
    inside = truth = None
    if fresh is not None:
        vectors = fresh.detach().double().cpu().reshape(-1, hessian.shape[0])
        truth = torch.stack([v @ (hessian @ v.to(hessian.device, hessian.dtype)).double().cpu() for v in vectors])
        inside = vectors @ basis.T
    records = []
    for k in sorted({count for count in counts if count <= len(basis)} | {len(basis)}):
        part = middle[:k, :k]
        ritz = torch.linalg.eigvalsh(part).flip(0)
        known = None if pairs is None or pairs.values is None else pairs.values[: min(k, len(pairs))]
        records.append(
            {
                "k": k,
                "trace_share": None if trace is None else float(part.trace()) / trace,
                "top_share": None if known is None else float(ritz[: len(known)].sum() / known.sum()),
                "top_value": None if known is None else float(ritz[0] / known[0]),
                "fresh_share": _median_share(inside, truth, part, k),
                "fresh_share_diagonal": _median_share(inside, truth, torch.diag(part.diagonal()), k),
                "products": k,
                "products_saved": None if pairs is None or pairs.matvecs is None else pairs.matvecs - k,
            }
        )
    return Table.of(records)


def approximation_record(
    t: Trajectory,
    window: Window,
    hessian: Operator,
    pairs: Directions,
    trace: float | None,
) -> dict[str, list[dict[str, Any]]]:
    """The Hessian at the end of a window out of components of its updates, weights and gradients.

    The last `FRESH` updates of the window are kept out of the components: the quadratic form along them is the test.

    Args:
        t: the trajectory.
        window: of optimizer steps.
        hessian: at the window's end.
        pairs: its top eigenpairs.
        trace: its trace.

    Returns:
        For each source the rows of `hessian_from`; a source that has no components there is left out.
    """
    rows = t.rows_in(window)
    early = window[0], int(t.starts[rows[-FRESH]])
    fresh = t.updates(early[1], window[1])
    out: dict[str, list[dict[str, Any]]] = {}
    for source, components in SOURCES.items():
        count = min(MOST, len(t.rows_in(early)) - 1, t.space.size)
        try:
            found = components(t, count, early)
        except InputError:
            continue
        table = hessian_from(hessian, found, pairs=pairs, trace=trace, fresh=fresh)
        out[source] = table.to_json()
    return out


def _median_share(inside: Tensor | None, truth: Tensor | None, part: Tensor, k: int) -> float | None:
    """Of the quadratic forms along fresh vectors."""
    if inside is None or truth is None:
        return None
    found = ((inside[:, :k] @ part) * inside[:, :k]).sum(dim=1)
    return float((found / truth).median())


def _orthonormal(directions: Directions) -> Tensor:
    """Float64 rows on the CPU, made orthonormal in their order (twice, for the rounding of the first time)."""
    vectors = directions.vectors.detach().double().cpu()
    lengths = vectors.norm(dim=1, keepdim=True)
    if not bool((lengths > 0).all()):
        raise InputError(f"direction {int(lengths.argmin())} of {directions.label!r} has length zero; leave it out")
    basis, upper = torch.linalg.qr((vectors / lengths).T)
    if float(upper.diagonal().abs().min()) < 1e-6:
        raise InputError(
            f"the {len(vectors)} directions of {directions.label!r} are linearly dependent; leave some out"
        )
    found: Tensor = basis.T.contiguous()
    return found
