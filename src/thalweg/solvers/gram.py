"""Principal components of a recorded trajectory: exact by algebra on its Gram matrix, or by a few passes over the file.

With the updates as rows of U and `G = U Uᵀ`, every family of vectors analysed here is `X = A U` for a small matrix
A: a window, with or without its mean, of the updates themselves, of the weights (cumulative sums) or of the
gradients (where the optimizer is linear in them). Then `X Xᵀ = A G Aᵀ`, its eigenvectors V and values λ give the
components `E = λ^(-1/2) Vᵀ X = (λ^(-1/2) Vᵀ A) U`, and nothing of length P is made (Jolliffe, *Principal Component
Analysis*, §3.5: the singular vectors of X from the smaller of its two products). With many rows G costs more than a few
products `U (Uᵀ M)`, see `randomized`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.directions import Directions, check_count
from thalweg.errors import InputError
from thalweg.recording.products import gram_times
from thalweg.recording.record import Window
from thalweg.recording.span import TrajectoryRows
from thalweg.recording.trajectory import Trajectory
from thalweg.solvers.gradients import gradient_map
from thalweg.solvers.points import Points, check_enough, chosen_updates, mapped, rows_for, weights_after
from thalweg.solvers.randomized import leading_pairs

Method = Literal["auto", "exact", "randomized"]

TOLERANCE = 1e-4
"""Residual of a randomised component, as a share of the largest value, at which no further pass is made."""
PASSES = 8


@dataclass(frozen=True, eq=False)
class Components:
    """What `principal_components` found in a Gram matrix `X Xᵀ` of n vectors.

    Attributes:
        coefficients: c, float64 `(k, n)`; the components are `c X`, orthonormal: `c G cᵀ = I`.
        values: float64 `(k,)`, eigenvalues of G, descending: squared singular values of X.
        explained: float64 `(k,)`, each value's share of the trace.
        residuals: float64 `(k,)`, `‖G v − λ v‖` of the unit eigenvectors v.
    """

    coefficients: Tensor
    values: Tensor
    explained: Tensor
    residuals: Tensor


def principal_components(gram: Tensor, k: int) -> Components:
    """The first k principal components of n vectors from their Gram matrix `(n, n)`.

    An eigenvalue counts as zero below `10 n ε` times the largest (ε of float64): squaring the singular values lets
    nothing smaller be told from rounding. Each component's sign makes its largest coefficient positive.

    Raises:
        InputError: if k is not between 1 and n, the matrix is not finite, or fewer than k values differ from zero.
    """
    count = gram.shape[0]
    if gram.ndim != 2 or gram.shape[1] != count:
        raise InputError(f"a Gram matrix is square, got {tuple(gram.shape)}")
    check_count(k, count, "components")
    if not bool(torch.isfinite(gram).all()):
        raise InputError("the Gram matrix holds values that are not finite; leave out the vectors that cause them")
    gram = gram.to("cpu", torch.float64)
    gram = (gram + gram.T) / 2
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0), vectors.flip(1)[:, :k]
    total = float(values.clamp(min=0).sum())
    values = _refuse_rank(values, k, count)
    residuals = torch.linalg.vector_norm(gram @ vectors - vectors * values, dim=0)
    return _scaled(vectors, values, total, residuals)


def _refuse_rank(values: Tensor, k: int, count: int) -> Tensor:
    """The first k values, if they differ from zero."""
    floor = 10 * count * torch.finfo(torch.float64).eps * float(values[0])
    rank = int((values > max(floor, 0.0)).sum())
    if rank < k:
        raise InputError(f"k={k} components were asked for, but these {count} vectors span {rank} dimensions; lower k")
    return values[:k].clone()


def _scaled(vectors: Tensor, values: Tensor, total: float, residuals: Tensor) -> Components:
    """Unit eigenvectors `(n, k)` as coefficients of orthonormal components, signs fixed."""
    coefficients = vectors.T / values[:, None].sqrt()
    largest = coefficients.gather(1, coefficients.abs().argmax(dim=1, keepdim=True))
    return Components(coefficients * largest.sign(), values, values / total, residuals)


def update_pca(
    t: Trajectory,
    k: int = 10,
    window: Window | None = None,
    layer: str | None = None,
    center: bool = True,
    *,
    method: Method = "auto",
    seed: int = 0,
    tol: float = TOLERANCE,
    passes: int = PASSES,
) -> Directions:
    """Principal components of the updates.

    Args:
        t: the trajectory.
        k: how many.
        window: half-open interval of optimizer steps; None for all. It must hold at least k + 1 rows.
        layer: look at this layer's entries only; the components are zero elsewhere.
        center: subtract the window's mean update first.
        method: "exact", from the Gram matrix (one pass, T²P/2 multiply-adds, and T² numbers in memory: 800 MB for
            10,000 rows); "randomized", from a few passes of 2 T P (k + 10) each; "auto", exact where the Gram
            matrix is there already or the window has at most `trajectory.EXACT_ROWS` rows.
        seed: of the randomised way.
        tol: the randomised way stops when each residual is at most `tol` times the largest value,
        passes: or after so many passes over the file.

    Returns:
        Directions held as coefficients over the updates, with `values` (k,), the variance along each: eigenvalue
        divided by n − 1 for n rows, or by n without centring (then the mean square); `explained` (k,), shares of the
        sum over all components; `residuals` (k,) `‖X Xᵀ c − λ c‖`, divided likewise; and `converged`, whether they are
        within `tol`. Updates that are not finite are left out; `provenance["rows_left_out"]` counts them.

    Raises:
        InputError: if the window is too short, the layer is unknown, or the exact way would take too much memory.
    """
    rows = rows_for(t, k, window)
    points = chosen_updates(t, rows, center)
    return _components(t, points, k, _About("updates", window, layer, method, seed, tol, passes))


def weight_pca(
    t: Trajectory,
    k: int = 10,
    window: Window | None = None,
    layer: str | None = None,
    center: bool = True,
    *,
    method: Method = "auto",
    seed: int = 0,
    tol: float = TOLERANCE,
    passes: int = PASSES,
) -> Directions:
    """Principal components of the weights: the window's first point and the weights after each of its n rows.

    Arguments, result and errors are as for `update_pca`, for n + 1 points. Without centring, positions are counted
    from the first point. All points after an update that is not finite are left out.

    Raises:
        InputError: also if steps are missing inside the window, since the weights are sums of all updates before.
    """
    rows = rows_for(t, k, window)
    points = weights_after(t, rows, center)
    return _components(t, points, k, _About("weights", window, layer, method, seed, tol, passes))


def gradient_pca(
    t: Trajectory,
    k: int = 10,
    window: Window | None = None,
    layer: str | None = None,
    center: bool = True,
    *,
    method: Method = "auto",
    seed: int = 0,
    tol: float = TOLERANCE,
    passes: int = PASSES,
) -> Directions:
    """Principal components of the gradients, rebuilt from the updates of `torch.optim.SGD`.

    What is rebuilt is the gradient as the optimizer used it: after accumulation and clipping, with the weight
    decay's `decay · w` in it. Learning rate and momentum may change from step to step; they are recorded.
    Arguments, result and errors are as for `update_pca`. With Nesterov's momentum the gradient of a late step is made
    of all updates before it, which takes n² numbers.

    Raises:
        InputError: also if the gradients do not follow from what was recorded; the message says why.
    """
    rows = rows_for(t, k, window)
    points = mapped(t, rows, gradient_map(t, rows), center)
    return _components(t, points, k, _About("gradients", window, layer, method, seed, tol, passes))


def weight_path(t: Trajectory, components: Directions, window: Window | None = None) -> Tensor:
    """Where the weights went, in the given directions: float64 `(n + 1, k)`, for two components a picture's x and y.

    Row 0 is the window's first point, at the origin; the others are the weights after each row, as inner products of
    `w − w_first` with each direction. The path ends before the first update that is not finite. For components of the
    same trajectory it is algebra on the Gram matrix.

    Raises:
        InputError: if the window holds no row, or steps are missing inside it.
    """
    path = weights_after(t, rows_for(t, 0, window), center=False)
    return path.apply(t.inner(components))


@dataclass(frozen=True)
class _About:
    kind: str
    window: Window | None
    layer: str | None
    method: Method
    seed: int = 0
    tol: float = TOLERANCE
    passes: int = PASSES


def _components(t: Trajectory, points: Points, k: int, about: _About) -> Directions:
    """Components of the points, and what is known about them."""
    if about.method not in ("auto", "exact", "randomized"):
        raise InputError(f"method={about.method!r}: give 'auto', 'exact' or 'randomized'")
    check_enough(points, k, about.window)
    first, last = points.extent
    local = points.within(first, last)
    if about.method == "exact" or (about.method == "auto" and t.prefers_gram(last - first)):
        gram = t.gram_between(first, last, about.layer)
        found = principal_components(local.apply(local.apply(gram).T), k)
        how: dict[str, Any] = {"algorithm": "exact"}
    else:
        found, used = _randomized(t, local, (first, last), k, about)
        how = {"algorithm": "randomized", "seed": about.seed, "passes": used, "tol": about.tol}
    share = len(points) - 1 if points.center else len(points)
    steps = [int(t.starts[points.rows[0]]), int(t.steps[points.rows[-1]]) + 1]
    coefficients = torch.zeros(k, len(t), dtype=torch.float64)
    coefficients[:, first:last] = local.adjoint(found.coefficients.T).T
    return Directions(
        TrajectoryRows(t, coefficients, about.layer),
        found.values / share,
        label=f"PCA of {about.kind}" + (f" in {about.layer}" if about.layer else ""),
        explained=found.explained,
        residuals=found.residuals / share,
        converged=found.residuals <= about.tol * found.values[0],
        provenance={
            "method": "pca",
            "kind": about.kind,
            "window": list(about.window) if about.window else steps,
            "layer": about.layer,
            "centered": points.center,
            "rows": len(points.rows),
            "rows_left_out": points.left_out,
            "every": t.every,
            **how,
        },
    )


def _randomized(t: Trajectory, points: Points, rows: tuple[int, int], k: int, about: _About) -> tuple[Components, int]:
    """Components of points that are made of the rows `first` to `last`, and how often these were read."""
    columns = t.columns_of(about.layer)
    squares: list[float] = []

    def watched() -> Iterator[tuple[slice, Tensor]]:
        """The tiles; on the first pass the squared lengths of the points are summed on the way."""
        first = not squares
        for here, tile in t.stream(columns, *rows):
            if first:
                squares.append(points.energy(tile))
            yield here, tile

    def product(block: Tensor) -> Tensor:
        return points.apply(gram_times(watched(), points.adjoint(block)))

    pairs = leading_pairs(product, len(points), k, about.seed, about.tol, about.passes)
    values = _refuse_rank(pairs.values, k, len(points))
    return _scaled(pairs.vectors, values, sum(squares), pairs.residuals), pairs.passes
