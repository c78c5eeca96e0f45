"""The gradients that a recorded run of SGD stepped with, as linear combinations of its updates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import InputError
from thalweg.recording.trajectory import Trajectory
from thalweg.solvers.points import refuse_gaps

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

SGD = "torch.optim.sgd.SGD"

Combination = dict[int, float]
"""Coefficients of rows."""


def gradient_map(t: Trajectory, rows: Tensor) -> csr_matrix:
    """D, sparse float64 `(n, T)`, with `g = D U`: the gradients that led to the updates of these rows.

    PyTorch's SGD: `m_t = β_t m_{t−1} + (1 − d) g_t` with `m_0 = g_0`, and `u_t = −η_t m_t`, or with Nesterov
    `u_t = −η_t (g_t + β_t m_t)`. Without Nesterov `m_t = −u_t/η_t` needs the row before; with it, m is carried on
    from the first step of all, and a row of D is as long as the run so far. A run that was resumed with a new optimizer
    begins with `m = g` there again.

    Raises:
        InputError: if every > 1, another optimizer, groups with different settings, a learning rate of zero, or
            missing steps make it impossible.
    """
    settings = _sgd_settings(t)
    rates, betas = t.learning_rates[:, 0], t.momenta[:, 0]
    dampening = float(settings["dampening"])
    nesterov, sign = bool(settings["nesterov"]), -1.0 if settings["maximize"] else 1.0
    needs_before = bool((betas[rows] != 0).any())
    first, anew = int(rows[0]), _rows_begun_anew(t)
    begin = first
    if needs_before and first not in anew:
        begin = max((row for row in anew if row < first), default=0) if nesterov else max(first - 1, 0)
    used = torch.arange(begin, int(rows[-1]) + 1)
    if needs_before and bool((betas[used] == 0).any()):
        raise InputError("the momentum was 0 in some steps only; choose a window in which it was not, or always was")
    _check_rows_show_gradients(t, used)
    if needs_before:
        _check_momentum_known(t, used, (nesterov or begin == first) and begin not in anew)
    if int(t.starts[begin]) == 0:
        anew = anew | {begin}
    momentum: Combination = {}
    out: list[Combination] = []
    for row in used.tolist():
        beta = float(betas[row])
        share = 1.0 if beta == 0 or row in anew else 1.0 - dampening
        if row in anew:
            momentum = {}
        applied = {row: -1.0 / float(rates[row])}
        if nesterov:
            whole = 1.0 + beta * share
            gradient = _sum((1.0 / whole, applied), (-beta * beta / whole, momentum))
            momentum = _sum((beta, momentum), (share, gradient))
        else:
            gradient = _sum((1.0 / share, applied), (-beta / share, momentum))
            momentum = applied
        out.append(_sum((sign, gradient)))
    return _matrix(out[first - begin :], len(t))


def _sum(*parts: tuple[float, Combination]) -> Combination:
    """Multiples of combinations, added up."""
    total: Combination = {}
    for factor, part in parts:
        for row, value in part.items() if factor else ():
            total[row] = total.get(row, 0.0) + factor * value
    return total


def _matrix(combinations: list[Combination], count: int) -> csr_matrix:
    """Combinations as the rows of a matrix `(n, count)`."""
    from scipy.sparse import csr_matrix  # here, since it takes a while to import

    ends = np.cumsum([0, *map(len, combinations)])
    columns = [row for one in combinations for row in one]
    values = [value for one in combinations for value in one.values()]
    return csr_matrix((values, columns, ends), shape=(len(combinations), count), dtype=np.float64)


def _rows_begun_anew(t: Trajectory) -> set[int]:
    """The rows at which a resumed run began with an optimizer that had made no step."""
    firsts = {int(r["first_row"]) for r in t.manifest.get("resumed", ()) if not r.get("state_at_start", True)}
    found, row = set(), 0
    for segment in t.segments:
        if segment.first_row in firsts:
            found.add(row)
        row += len(segment)
    return found


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


def _check_rows_show_gradients(t: Trajectory, used: Tensor) -> None:
    """Each row must be one step's, with a learning rate."""
    sums = used[t.starts[used] != t.steps[used]]
    if len(sums):
        raise InputError(
            f"the row of step {int(t.steps[sums[0]])} sums several steps, which hides their gradients; choose a window "
            "without it"
        )
    still = used[t.learning_rates[used, 0] == 0]
    if len(still):
        raise InputError(f"step {int(t.steps[still[0]])} had learning rate 0, so its update says nothing of a gradient")


def _check_momentum_known(t: Trajectory, used: Tensor, from_start: bool) -> None:
    """The rows used must follow each other, and the momentum before the first must be known or not be needed."""
    start = int(t.starts[used[0]])
    refuse_gaps(t, used, "gradients", 1)
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
