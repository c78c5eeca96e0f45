"""Eigenpairs of a symmetric operator by Lanczos, with a certificate (`thalweg.solvers.certify`).

Lanczos grows one Krylov space (`thalweg.solvers.krylov`) until every wanted Ritz pair has a small residual, k pairs or
not: what comes back is always k pairs, each with its residual and whether it converged, and the reason why the search
ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.directions import Directions, as_generator, check_count
from thalweg.errors import InputError
from thalweg.operators.base import Operator
from thalweg.progress import Progress, shown
from thalweg.solvers.basis import STORAGES, Storage
from thalweg.solvers.certify import LOOK_OUTSIDE, Certificate, Found, certified
from thalweg.solvers.checkpoint import Checkpoint
from thalweg.solvers.krylov import KrylovSpace, Ritz
from thalweg.solvers.search import Pairs, Search, Settings
from thalweg.solvers.split_rows import SplitRows
from thalweg.solvers.wanted import Wanted, Which

__all__ = ["LOOK_OUTSIDE", "Certificate", "Which", "eigenpairs"]

_MIXED_IN = 0.1
"""Length of the random part in a warm start. Without it, a direction that is new since the earlier pairs were found
would have no share in the start, and the old pairs would converge without it."""

_LIES_BELOW = 2.0**-12
"""Residuals relative to the largest wanted value that the recurrence of a rounded basis cannot speak of any more."""

_LESS_GAIN, _CHECKS = 0.9, 5
"""A rounded basis gives no more when in so many checks the worst residual has not fallen to this share of the best."""


def eigenpairs(
    operator: Operator,
    k: int = 10,
    which: Which = "LA",
    tol: float = 1e-3,
    seed: int | torch.Generator = 0,
    certify: Certificate = "estimate",
    *,
    start: Tensor | Directions | None = None,
    max_matvecs: int | None = None,
    basis: Storage = "memory",
    basis_budget: int | None = None,
    basis_folder: str | Path | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = 60.0,
    progress: Callable[[Progress], None] | bool = False,
) -> Directions:
    """The k eigenpairs at one end, or at both ends, of the spectrum of a symmetric operator.

    Where several ranks make the products, each holds its part of every vector, here and in what comes back.

    Ctrl-C while a product is made ends the search: what was found by then comes back, checked with one product more. A
    second Ctrl-C is raised as usual.

    Args:
        operator: `problem.hessian()`, or any `Operator`.
        k: how many pairs; that many always come back.
        which: "LA" largest, descending; "SA" smallest (most negative), ascending; "LM" largest in magnitude; "BE" both
            ends, k // 2 from below and the rest from above, all in one descending column (ARPACK's choice; ARPACK
            returns it ascending).
        tol: stop when every wanted residual is at most `tol` times the largest wanted magnitude (or is rounding).
        seed: for the start vectors.
        certify: "estimate", "full" or "complete"; see `thalweg.solvers.certify`.
        start: `(P,)` where to begin, an earlier eigenvector say; or earlier Directions, of which the sum weighted by
            their values is taken, with a tenth of a random vector. Promise yourself little: Lanczos spends its products
            on telling the wanted values from the rest, and that work is the same from any start. On digits, at weights
            10 to 300 steps apart, it saved at most two of 23 to 26 products for k = 10 and three of 8 to 10 for k = 1,
            and sometimes cost one or two more.
        max_matvecs: give up after so many products; what has not converged by then is marked.
        basis: "memory"; "bfloat16", half the memory of float32, where each pair is then measured with a product of its
            own, whatever `certify` (at tol=1e-3 that is k products more; at 1e-4 it takes up to twice the products of
            "memory", at 1e-5 three to four times); or "disk", a file in `basis_folder`, in full precision.
        basis_budget: bytes for the basis; half of what is free unless given. At that size it is restarted.
        basis_folder: where the file of basis="disk" is made; the system's temporary folder unless given.
        checkpoint: a file in which the search is kept, basis and all. A later call with the same file and operator goes
            on from there, then `seed` and `start` are not used again; k, tol and certify may be others. Costs one
            product in each call. The file is removed when all pairs have converged, and stays otherwise. What is kept
            is the search; checks, and the search of the complement, are made anew.
        checkpoint_every: seconds between two writings of the file.
        progress: called after every product; True shows a line with the residual and the time left.

    Returns:
        Directions with `.values` (k,) in the wanted order, `.vectors` (k, P) orthonormal, `.residuals` (k,),
        `.converged` (k,) and `.matvecs`. `.provenance` holds the certificate that was reached, the gap of each value to
        its nearest neighbour that was seen, the angle bound `asin(residual / gap)` of Davis and Kahan in radians,
        "interrupted", and the "reason" why the search ended: "converged", "max_matvecs", "interrupted", "exhausted"
        (the basis can give no more: it spans the whole space, or its bfloat16 hides the rest) or "unconfirmed" (the
        recurrence had converged, but the check does not bear it out). Interrupted before it had k pairs, the rest are
        random directions with value NaN and residual infinity.

    Raises:
        InputError: if k > P, for unknown words, an operator that is not symmetric or not finite, a basis that does not
            fit, or a checkpoint of another operator.
        RunError: if the checkpoint is damaged.
    """
    check_count(k, operator.shape[0], "eigenpairs")
    _check_words(tol, certify, basis)
    wanted, settings = Wanted(which, k), Settings(tol, max_matvecs, basis, basis_budget, basis_folder)
    generator = as_generator(seed)
    keep = None if checkpoint is None else Checkpoint(checkpoint, checkpoint_every)
    with shown(progress, f"{k} eigenpairs") as tell:
        search = Search(operator, wanted, settings, generator, tell)
        space = search.space(k, _started(start, operator, generator))
        resumed = keep.resume(search, space) if keep else 0
        found, reason = _run(search, space, keep)
        del space  # its basis, before the complement gets one
        sure = certified(search, found, certify)
    pairs = _filled(sure.pairs, k, generator, operator)
    scale = float(np.abs(sure.pairs.values).max(initial=0.0))
    accepted = pairs.residuals <= max(tol * scale, search.floor)
    if search.interrupted:
        reason = "interrupted"
    elif reason == "converged" and not accepted.all():
        reason = "unconfirmed"
    if keep and accepted.all() and not search.interrupted:
        keep.remove()
    gaps = _gaps(pairs.values, found.others)
    alone = operator.ranks.alone
    return Directions(
        pairs.vectors if alone else SplitRows(pairs.vectors, operator.layout, operator.space),
        pairs.values,
        label="Hessian eigenvectors" if operator.describe().get("operator") == "hessian" else "eigenvectors",
        space=operator.space if alone else None,
        residuals=torch.as_tensor(pairs.residuals),
        converged=torch.as_tensor(accepted),
        matvecs=search.matvecs,
        provenance={
            "which": which,
            "tol": tol,
            "certificate": sure.level,
            "reason": reason,
            "interrupted": search.interrupted,
            "basis": basis,
            "resumed_after": resumed,
            "missed_and_found": sure.missed,
            "complement_searched": sure.level == "complete",
            "gaps": [float(gap) for gap in gaps],
            "angles": [_angle(r, gap) for r, gap in zip(pairs.residuals, gaps, strict=True)],
            **operator.describe(),
            **({} if alone else {"ranks": operator.ranks.size}),
        },
    )


def _run(search: Search, space: KrylovSpace, keep: Checkpoint | None) -> tuple[Found, str]:
    """Lanczos until the k wanted pairs have converged, or products have run out; and why it ended."""
    watch = _Measuring(search)
    reason: str | None = None
    try:
        while reason is None:
            reason = _assessed(search, space, watch)
            if reason is None:
                search.step(space)
                if keep:
                    keep.write_if_due(search, space)
    except KeyboardInterrupt:
        if space.moving:
            raise
        search.interrupted, reason = True, "interrupted"
    if keep and reason in ("interrupted", "max_matvecs"):
        keep.write(search, space)
    k = search.wanted.k
    ritz = space.ritz(search.wanted.order)
    vectors = space.combine(ritz.coefficients[:, :k])
    last = space.beta * ritz.coefficients[space.size - 1, :k] if space.size else ritz.values
    follow = vectors.new_zeros(search.operator.width) if space.exhausted else space.next.clone()
    residuals = ritz.residuals[:k] if watch.residuals is None else watch.residuals
    pairs = Pairs(ritz.values[:k], vectors, residuals)
    return Found(pairs, watch.residuals is not None, ritz.values[k:], follow, last), reason


def _assessed(search: Search, space: KrylovSpace, watch: _Measuring) -> str | None:
    """Why the search should end here, or None; a full space is restarted."""
    k = search.wanted.k
    least = min(2 * k + 2, space.dimension)  # after a breakdown k vectors alone need not hold the wanted end
    if space.size < k or not (search.spent or (space.size >= least and search.due(space) and space.waiting == 0)):
        return None
    ritz = space.ritz(search.wanted.order)
    scale, worst = float(np.abs(ritz.values[:k]).max()), float(ritz.residuals[:k].max())
    search.tell("lanczos", worst / scale if scale else 0.0)
    search.floor = max(search.floor, space.rounding)
    limit = max(search.settings.tol * scale, search.floor)
    done = space.exhausted or search.spent
    if done or worst <= max(limit, _LIES_BELOW * scale if space.rounded else 0.0):
        if not space.rounded or search.spent:
            return _why(space.exhausted, worst <= limit)
        if space.size < watch.rests_until and not (done or space.size >= space.capacity):
            return None
        reason = watch.measure(space, ritz, limit)
        if reason:
            return reason
    elif space.size >= space.capacity:
        search.restart_if_full(space, ritz, k)
    return None


def _why(exhausted: bool, converged: bool) -> str:
    return "exhausted" if exhausted else "converged" if converged else "max_matvecs"


class _Measuring:
    """Measures the wanted pairs of a rounded basis, and lets the space grow by what is left of them."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.residuals: np.ndarray | None = None  # of the pairs that the search ends with
        self.rests_until = 0  # size of the space before which measuring again would cost more than it tells
        self._best, self._idle = math.inf, 0

    def measure(self, space: KrylovSpace, ritz: Ritz, limit: float) -> str | None:
        """Why the search should end, or None: then the space has been given the residuals to grow by."""
        k = self.search.wanted.k
        vectors = space.combine(ritz.coefficients[:, :k])
        residuals = np.zeros(k)
        for index, value in enumerate(ritz.values[:k]):
            vectors[index] = self.search.rest(float(value), vectors[index])  # in place: k vectors, not 2k
            residuals[index] = self.search.length(vectors[index])
        worst = float(residuals.max())
        self._idle = 0 if worst <= _LESS_GAIN * self._best else self._idle + 1
        self._best = min(self._best, worst)
        reason = None
        if worst <= limit:
            reason = _why(space.exhausted, converged=True)
        elif space.exhausted or self._idle >= _CHECKS:
            reason = "exhausted"
        elif self.search.spent:
            reason = "max_matvecs"
        else:
            open_ = vectors[torch.as_tensor(residuals > limit, device=vectors.device)]
            if space.capacity - space.size < len(open_):
                space.restart(ritz, min(k + max(8, (space.capacity - k) // 2), space.capacity - len(open_)))
            if not space.take(open_):
                reason = "exhausted"
            self.rests_until = space.size + space.waiting + k
        self.residuals = residuals if reason else None
        return reason


def _check_words(tol: float, certify: str, basis: str) -> None:
    if certify not in ("estimate", "full", "complete"):
        raise InputError(f"certify={certify!r} is unknown; use 'estimate', 'full' or 'complete'")
    if basis not in STORAGES:
        raise InputError(f"basis={basis!r} is unknown; use 'memory', 'bfloat16' or 'disk'")
    if not tol > 0:
        raise InputError(f"tol={tol} is not positive; 1e-3 is usual, 1e-6 fine, below 1e-7 needs float64")


def _started(start: Tensor | Directions | None, operator: Operator, generator: torch.Generator) -> Tensor | None:
    """The user's start vector in the operator's dtype and place."""
    if start is None:
        return None
    vector = start
    if isinstance(start, Directions):
        if start.size != operator.shape[0]:
            raise InputError(f"start holds directions of length {start.size}, the operator has {operator.shape[0]}")
        vector = _sum_of(start, generator)
    assert isinstance(vector, Tensor)
    if tuple(vector.shape) != (operator.shape[0],):
        raise InputError(f"start has shape {tuple(vector.shape)}, expected ({operator.shape[0]},)")
    if not bool(torch.isfinite(vector).all()):
        raise InputError("start holds values that are not finite; leave it out for a random start")
    return operator.layout.take(vector.detach()).to(dtype=operator.dtype, device=operator.device)


def _sum_of(pairs: Directions, generator: torch.Generator) -> Tensor:
    """The sum of the vectors, weighted by their values where they are known, with a random part; of length near 1."""
    weights = torch.ones(len(pairs), dtype=torch.float64) if pairs.values is None else pairs.values.nan_to_num()
    if not bool(weights.any()):
        weights = torch.ones_like(weights)
    total = pairs.rows.combine(weights).double()
    draw = torch.randn(pairs.size, generator=generator, dtype=torch.float64).to(total)
    warm: Tensor = total / torch.linalg.vector_norm(total) + _MIXED_IN * draw / torch.linalg.vector_norm(draw)
    return warm


def _filled(pairs: Pairs, k: int, generator: torch.Generator, operator: Operator) -> Pairs:
    """k pairs: those there are, then random vectors of which nothing is known."""
    more = k - len(pairs.values)
    if not more:
        return pairs
    if not operator.ranks.alone:  # so few vectors are put together for once
        rows = [operator.layout.whole(row) for row in pairs.vectors]
        there = torch.stack(rows) if rows else pairs.vectors.new_zeros(0, operator.shape[0])
        pairs = _with_more(replace(pairs, vectors=there), more, generator)
        return replace(pairs, vectors=operator.layout.take(pairs.vectors).contiguous())
    return _with_more(pairs, more, generator)


def _with_more(pairs: Pairs, more: int, generator: torch.Generator) -> Pairs:
    draws = torch.randn(more, pairs.vectors.shape[1], generator=generator, dtype=torch.float64).to(pairs.vectors)
    for _ in range(2):
        draws = draws - (draws @ pairs.vectors.T) @ pairs.vectors
        draws = torch.linalg.qr(draws.T).Q.T
    values = np.append(pairs.values, np.full(more, np.nan))
    return Pairs(values, torch.cat([pairs.vectors, draws]), np.append(pairs.residuals, np.full(more, np.inf)))


def _gaps(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each value to the nearest other one that was seen; 0 where the value is not known."""
    everything = np.concatenate([values, others])
    distances = np.abs(values[:, None] - everything[None, :])
    distances[range(len(values)), range(len(values))] = np.inf
    nearest: np.ndarray = np.where(np.isnan(distances), np.inf, distances).min(axis=1)
    return np.where(np.isnan(values), 0.0, np.where(np.isfinite(nearest), nearest, np.abs(values)))


def _angle(residual: Any, gap: Any) -> float:
    """The bound on the angle to the true eigenvector, at most a right angle."""
    return float(math.asin(min(1.0, residual / gap))) if gap > 0 else math.pi / 2


def pass_on_interrupt(pairs: Directions) -> None:
    """Raise KeyboardInterrupt if Ctrl-C ended the search: for callers to whom half a result is of no use."""
    if pairs.provenance.get("interrupted"):
        raise KeyboardInterrupt
