"""Principal components of a recorded trajectory, by algebra on its Gram matrix.

With the updates as rows of U and `G = U Uᵀ`, every family of vectors analysed here is `X = A U` for a small matrix
A: a window, with or without its mean, of the updates themselves, of the weights (cumulative sums) or of the
gradients (where the optimizer is linear in them). Then `X Xᵀ = A G Aᵀ`, its eigenvectors V and values λ give the
components `E = λ^(-1/2) Vᵀ X = (λ^(-1/2) Vᵀ A) U`, and nothing of length P is made (Jolliffe, *Principal Component
Analysis*, §3.5: the singular vectors of X from the smaller of its two products).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.directions import Directions, check_count
from thalweg.errors import InputError
from thalweg.recording.trajectory import Trajectory, TrajectoryRows, Window, check_window

SGD = "torch.optim.sgd.SGD"


@dataclass(frozen=True, eq=False)
class Components:
    """What `principal_components` found in a Gram matrix `X Xᵀ` of n vectors.

    Attributes:
        coefficients: c, float64 `(k, n)`; the components are `c X`, orthonormal: `c G cᵀ = I`.
        values: float64 `(k,)`, eigenvalues of G, descending: squared singular values of X.
        explained: float64 `(k,)`, each value's share of the trace.
    """

    coefficients: Tensor
    values: Tensor
    explained: Tensor


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
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    values, vectors = values.flip(0), vectors.flip(1)
    floor = 10 * count * torch.finfo(torch.float64).eps * float(values[0])
    rank = int((values > max(floor, 0.0)).sum())
    if rank < k:
        raise InputError(f"k={k} components were asked for, but these {count} vectors span {rank} dimensions; lower k")
    coefficients = vectors[:, :k].T / values[:k, None].sqrt()
    largest = coefficients.gather(1, coefficients.abs().argmax(dim=1, keepdim=True))
    return Components(
        coefficients=coefficients * largest.sign(),
        values=values[:k].clone(),
        explained=values[:k] / values.clamp(min=0).sum(),
    )


def update_pca(
    t: Trajectory, k: int = 10, window: Window | None = None, layer: str | None = None, center: bool = True
) -> Directions:
    """Principal components of the updates.

    Args:
        t: the trajectory.
        k: how many.
        window: half-open interval of optimizer steps; None for all. It must hold at least k + 1 rows.
        layer: look at this layer's entries only; the components are zero elsewhere.
        center: subtract the window's mean update first.

    Returns:
        Directions held as coefficients over the updates, with `values` (k,), the variance along each: eigenvalue
        divided by n − 1 for n rows, or by n without centring (then the mean square); and `explained` (k,), shares
        of the sum over all components.

    Raises:
        InputError: if the window is too short, the layer is unknown, or an update is not finite.
    """
    rows = _rows(t, k, window)
    return _components(t, _selection(t, rows), k, _About("updates", window, layer, center, len(rows)))


def weight_pca(
    t: Trajectory, k: int = 10, window: Window | None = None, layer: str | None = None, center: bool = True
) -> Directions:
    """Principal components of the weights: the window's first point and the weights after each of its n rows.

    Arguments, result and errors are as for `update_pca`, for n + 1 points. Without centring, positions are counted
    from the first point.

    Raises:
        InputError: also if steps are missing inside the window, since the weights are sums of all updates before.
    """
    rows = _rows(t, k, window)
    _refuse_gaps(t, rows, "weights")
    return _components(t, _path(t, rows), k, _About("weights", window, layer, center, len(rows)))


def gradient_pca(
    t: Trajectory, k: int = 10, window: Window | None = None, layer: str | None = None, center: bool = True
) -> Directions:
    """Principal components of the gradients, rebuilt from the updates of `torch.optim.SGD`.

    What is rebuilt is the gradient as the optimizer used it: after accumulation and clipping, with the weight
    decay's `decay · w` in it. Learning rate and momentum may change from step to step; they are recorded.
    Arguments, result and errors are as for `update_pca`.

    Raises:
        InputError: also if the gradients do not follow from what was recorded; the message says why.
    """
    rows = _rows(t, k, window)
    return _components(t, gradient_map(t, rows), k, _About("gradients", window, layer, center, len(rows)))


def weight_path(t: Trajectory, components: Directions, window: Window | None = None) -> Tensor:
    """Where the weights went, in the given directions: float64 `(n + 1, k)`, for two components a picture's x and y.

    Row 0 is the window's first point, at the origin; the others are the weights after each row, as inner products of
    `w − w_first` with each direction. For components of the same trajectory it is algebra on the Gram matrix.

    Raises:
        InputError: if the window holds no row, or steps are missing inside it.
    """
    rows = _rows(t, 0, window)
    _refuse_gaps(t, rows, "weights")
    moves = t.inner(components)[rows]
    return torch.cat([torch.zeros(1, moves.shape[1], dtype=torch.float64), moves.cumsum(dim=0)])


def gradient_map(t: Trajectory, rows: Tensor) -> Tensor:
    """D, float64 `(n, T)`, with `g = D U`: the gradients that led to the updates of these rows.

    PyTorch's SGD: `m_t = β_t m_{t−1} + (1 − d) g_t` with `m_0 = g_0`, and `u_t = −η_t m_t`, or with Nesterov
    `u_t = −η_t (g_t + β_t m_t)`. Without Nesterov `m_t = −u_t/η_t` needs the row before; with it, m is carried on
    from the first step of all.

    Raises:
        InputError: if every > 1, another optimizer, groups with different settings, a learning rate of zero, or
            missing steps make it impossible.
    """
    settings = _sgd_settings(t)
    rates, betas = t.learning_rates[:, 0], t.momenta[:, 0]
    dampening = float(settings["dampening"])
    nesterov, sign = bool(settings["nesterov"]), -1.0 if settings["maximize"] else 1.0
    needs_before = bool((betas[rows] != 0).any())
    first = int(rows[0])
    begin = (0 if nesterov else max(first - 1, 0)) if needs_before else first
    used = torch.arange(begin, int(rows[-1]) + 1)
    if needs_before and bool((betas[used] == 0).any()):
        raise InputError("the momentum was 0 in some steps only; choose a window in which it was not, or always was")
    still = used[rates[used] == 0]
    if len(still):
        raise InputError(f"step {int(t.steps[still[0]])} had learning rate 0, so its update says nothing of a gradient")
    if needs_before:
        _check_momentum_known(t, used, nesterov or begin == first)
    fresh = int(t.starts[begin]) == 0
    momentum = torch.zeros(len(t), dtype=torch.float64)
    out = []
    for row in used.tolist():
        beta = float(betas[row])
        share = 1.0 if beta == 0 or (fresh and row == begin) else 1.0 - dampening
        applied = torch.zeros(len(t), dtype=torch.float64)
        applied[row] = -1.0 / float(rates[row])
        if nesterov:
            gradient = (applied - beta * beta * momentum) / (1.0 + beta * share)
            momentum = beta * momentum + share * gradient
        else:
            gradient = (applied - beta * momentum) / share
            momentum = applied
        out.append(sign * gradient)
    return torch.stack(out)[first - begin :]


@dataclass(frozen=True)
class _About:
    kind: str
    window: Window | None
    layer: str | None
    center: bool
    rows: int


def _components(t: Trajectory, points: Tensor, k: int, about: _About) -> Directions:
    """Components of `points @ U`, where `points` is (n, T)."""
    if about.center:
        points = points - points.mean(dim=0)
    used = (points != 0).any(dim=0).nonzero()[:, 0]
    gram = t.gram(about.layer)[used][:, used]
    bad = used[~torch.isfinite(torch.diagonal(gram))]
    if len(bad):
        raise InputError(
            f"the update of step {int(t.steps[bad[0]])} is not finite ({len(bad)} of {len(used)} are not); "
            "choose a window without it"
        )
    small = points[:, used]
    found = principal_components(small @ gram @ small.T, k)
    coefficients = torch.zeros(k, len(t), dtype=torch.float64)
    coefficients[:, used] = found.coefficients @ small
    steps = [int(t.starts[used[0]]), int(t.steps[used[-1]]) + 1]
    return Directions(
        TrajectoryRows(t, coefficients, about.layer),
        found.values / (len(points) - 1 if about.center else len(points)),
        label=f"PCA of {about.kind}" + (f" in {about.layer}" if about.layer else ""),
        explained=found.explained,
        provenance={
            "method": "pca",
            "kind": about.kind,
            "window": list(about.window) if about.window else steps,
            "layer": about.layer,
            "centered": about.center,
            "rows": about.rows,
            "every": t.every,
        },
    )


def _rows(t: Trajectory, k: int, window: Window | None) -> Tensor:
    rows = t.rows_in(window)
    where = "the trajectory" if window is None else f"window={check_window(window)}"
    if len(rows) < k + 1:
        last = f"recorded are steps 0 to {int(t.steps[-1])}" if len(t) else "nothing is recorded"
        raise InputError(f"{where} holds {len(rows)} rows, k={k} needs {k + 1}; {last}: lower k or widen the window")
    return rows


def _selection(t: Trajectory, rows: Tensor) -> Tensor:
    return torch.eye(len(t), dtype=torch.float64)[rows]


def _path(t: Trajectory, rows: Tensor) -> Tensor:
    """C with `w_s − w_first = C U`: (n + 1, T), zeros and then cumulative sums."""
    moves = _selection(t, rows).cumsum(dim=0)
    return torch.cat([torch.zeros(1, len(t), dtype=torch.float64), moves])


def _refuse_gaps(t: Trajectory, rows: Tensor, what: str, later: int = 0) -> None:
    start, stop = int(t.starts[rows[0]]), int(t.steps[rows[-1]]) + 1
    for gap in t.gaps:
        if start < gap[1] and gap[0] < stop:
            raise InputError(
                f"steps {gap[0]} to {gap[1] - 1} are missing, and {what} after them need all of them; "
                f"choose a window that ends at {gap[0]} or begins at {gap[1] + later}"
            )


def _sgd_settings(t: Trajectory) -> dict[str, Any]:
    kind = str(t.optimizer["class"])
    groups = t.optimizer["groups"]
    if t.every > 1:
        raise InputError(f"this run sums {t.every} steps in a row, which hides their gradients; record with every=1")
    if kind != SGD:
        raise InputError(f"gradients follow from updates for torch.optim.SGD only, and this run used {kind}")
    same = ("dampening", "nesterov", "maximize")
    alike = all(torch.equal(column[:, :1].expand_as(column), column) for column in (t.learning_rates, t.momenta))
    if not alike or any(group[key] != groups[0][key] for group in groups for key in same):
        raise InputError("the parameter groups differ in learning rate or momentum; gradients need them alike")
    if float(groups[0]["dampening"]) == 1.0:
        raise InputError("with dampening 1 the gradient does not enter the update")
    return {key: groups[0][key] for key in same}


def _check_momentum_known(t: Trajectory, used: Tensor, from_start: bool) -> None:
    """The rows used must follow each other, and the momentum before the first must be known or not be needed."""
    start = int(t.starts[used[0]])
    _refuse_gaps(t, used, "gradients", 1)
    if from_start and start > 0:
        raise InputError(
            f"the momentum before step {start} is unknown, since the rows before it are missing; begin the window "
            f"at {start + 1} (with Nesterov momentum the recording must be whole from step 0)"
        )
    if from_start and t.optimizer["state_at_start"]:
        raise InputError(
            "recording began on an optimizer that had made steps before, so its first momentum is unknown; begin the "
            "window at 1 (with Nesterov momentum, record from the optimizer's first step)"
        )
