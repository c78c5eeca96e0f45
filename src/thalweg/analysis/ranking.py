"""Every direction of a run in one table: what it costs to move along it, what it would gain, what it is called.

The words can be measured: *stiff* directions hold at least a tenth of the largest curvature; *drifting* ones lie along
a drift that was found; *sloppy* ones are nearly flat and the weights do not move along them more than by chance.
Whether a direction is *productive* only a trial can tell, so that stays a question here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.analysis.drift import Drift
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.operators.base import Operator
from thalweg.operators.hessian import GradientGraphs, HessianOperator
from thalweg.problem import Problem
from thalweg.recording.record import Window
from thalweg.recording.span import TrajectoryRows
from thalweg.recording.trajectory import Trajectory
from thalweg.tables import Table

STIFF = 0.1
"""Share of the largest curvature from which on a direction is stiff."""

FLAT = 0.01
"""Share of the largest curvature below which a direction may be sloppy."""

ALONG = 0.5
"""Squared cosine with a drift from which on a direction drifts."""

MOVES = 10.0
"""How many times a random direction's share of the updates' energy counts as moving."""

TOGETHER = 8
"""Directions that are made as vectors at once."""

HOLDS = 0.1
"""Share of a direction's energy from which on a layer is named as one that holds it."""


@dataclass(frozen=True)
class _Along:
    """One direction on one set of data."""

    slope: float
    curvature: float
    noise: float | None


def rank_directions(
    problem: Problem,
    directions: Directions | Sequence[Directions],
    held_out: Problem | None = None,
    *,
    trajectory: Trajectory | None = None,
    window: Window | None = None,
    drift: Drift | None = None,
    top: float | None = None,
    radius: float | None = None,
    graphs: GradientGraphs | None = None,
    memory_budget: int | None = None,
) -> Table:
    """Rank directions by what one optimal step along each is predicted to gain.

    With slope `γ = gᵀd` and curvature `λ = dᵀHd` of a unit direction the best step is `−γ/λ` and gains `γ²/2λ`, where
    λ > 0 and the step is within the radius; elsewhere the step ends at the radius and gains what the quadratic says
    there. What the gradient's sampling noise adds to γ² on average, `dᵀCd / N`, is taken off first. The same step's
    gain on held-out data uses that data's slope and curvature.

    Args:
        problem: model, loss and training data at the weights to look at.
        directions: one set or several; each is normalised, none need be orthogonal to another.
        held_out: the same model and loss on data that training never saw.
        trajectory: the run, for the share of the updates' energy along each direction and for the radius.
        window: of the run; None for all of it.
        drift: what was found there, see `tw.drift`.
        top: the largest curvature of the network, which words are relative to; the largest in the table unless given.
        radius: how far a step may go; the length of the window's net displacement unless given.
        graphs: gradient graphs of the training data to share; built otherwise.
        memory_budget: bytes for kept gradient graphs.

    Returns:
        A table, the largest predicted gain first, with the columns label, index, curvature, slope, gradient_share
        (`γ²/|g|²`), noise (standard deviation of γ by sampling, None where single samples' gradients are not to be
        had), alignment (`(wᵀd)²/|w|²`), alignment_by_chance (1/P), gain, bounded (whether the radius ended the step),
        curvature_held_out, gain_held_out (None without held-out data), update_share (None without a trajectory),
        layers, words and productive.

    Raises:
        InputError: if no directions are given, or they live in another space than the problem.
    """
    sets = [directions] if isinstance(directions, Directions) else list(directions)
    if not sets:
        raise InputError("no directions were given; pass tw.eigenpairs(...), tw.update_pca(...) or several in a list")
    for one in sets:
        if one.size != problem.space.size:
            raise InputError(f"{one.label!r} has length {one.size:,}, the problem {problem.space.size:,} parameters")
    if trajectory is not None:
        trajectory.space.require_same(problem.space, "the problem's model")
    other = None if held_out is None else problem.on(held_out.data)
    measure = _Measure(problem, graphs or problem.graphs(memory_budget), memory_budget)
    beside = None if other is None else _Measure(other, other.graphs(memory_budget), memory_budget)
    weights = problem.weights().double().cpu()
    radius = radius if radius is not None else _radius(trajectory, window)
    energy = None if trajectory is None else _energy(trajectory, window)
    records: list[dict[str, Any]] = []
    drifts: list[bool] = []
    for one in sets:
        moved = None if energy is None else _shares(trajectory, one, window, energy)
        drifts += _lie_along(one, drift)
        for index, unit in enumerate(_units(one)):
            here = measure.along(unit)
            step, gain, bounded = best_step(here.slope, here.curvature, here.noise, radius)
            there = None if beside is None else beside.along(unit)
            records.append(
                {
                    "label": one.label,
                    "index": index,
                    "curvature": here.curvature,
                    "slope": here.slope,
                    "gradient_share": here.slope**2 / measure.square if measure.square else 0.0,
                    "noise": here.noise,
                    "alignment": float(weights @ unit) ** 2 / float(weights @ weights),
                    "alignment_by_chance": 1.0 / one.size,
                    "gain": gain,
                    "bounded": bounded,
                    "curvature_held_out": None if there is None else there.curvature,
                    "gain_held_out": None if there is None else -(there.slope * step + there.curvature * step**2 / 2),
                    "update_share": None if moved is None else moved[index],
                    "layers": _holders(problem, unit),
                    "words": "",
                    "productive": "untested",
                }
            )
    largest = max(float(record["curvature"]) for record in records) if top is None else top
    for record, drifting in zip(records, drifts, strict=True):
        record["words"] = _words(record, largest, drifting, 1.0 / problem.space.size)
    return Table.of(sorted(records, key=lambda record: -float(record["gain"])))


def best_step(slope: float, curvature: float, noise: float | None, radius: float | None) -> tuple[float, float, bool]:
    """The step along a unit direction, its predicted gain, and whether the radius ended it.

    Args:
        slope: γ.
        curvature: λ.
        noise: standard deviation of γ; its square is taken off `γ²`.
        radius: the longest step; None for no bound where λ > 0, and no step where it is not.
    """
    square = max(slope**2 - (noise or 0.0) ** 2, 0.0)
    if curvature > 0 and (radius is None or abs(slope) / curvature <= radius):
        return -slope / curvature, square / (2 * curvature), False
    if radius is None:
        return 0.0, 0.0, True
    return -math.copysign(radius, slope), math.sqrt(square) * radius - curvature * radius**2 / 2, True


class _Measure:
    """Slopes and curvatures of one problem."""

    def __init__(self, problem: Problem, graphs: GradientGraphs, memory_budget: int | None) -> None:
        self.problem = problem
        self.hessian = HessianOperator(graphs)
        self.gradient = problem.gradient().double().cpu()
        self.square = float(self.gradient @ self.gradient)
        self.samples = int(problem.describe()["samples"])
        self.covariance: Operator | None = None
        if problem.loss_in_parts:
            self.covariance = problem.gradient_covariance(memory_budget=memory_budget)

    def along(self, unit: Tensor) -> _Along:
        """What a float64 unit vector on the CPU meets."""
        vector = unit.to(self.hessian.device, self.hessian.dtype)
        curvature = float(unit @ (self.hessian @ vector).double().cpu())
        noise = None
        if self.covariance is not None:
            variance = float(unit @ (self.covariance @ vector).double().cpu())
            noise = math.sqrt(max(variance, 0.0) / self.samples)
        return _Along(float(self.gradient @ unit), curvature, noise)


def _units(directions: Directions) -> Iterator[Tensor]:
    """The directions as float64 unit vectors on the CPU; some at a time, for rows of a run are read from its file."""
    count = len(directions)
    for start in range(0, count, TOGETHER):
        several = torch.eye(count, dtype=torch.float64)[start : start + TOGETHER]
        for index, vector in enumerate(directions.rows.combine(several).detach().double().cpu(), start):
            length = float(vector.norm())
            if not length > 0:
                raise InputError(f"direction {index} of {directions.label!r} has length zero; leave it out")
            yield vector / length


def _holders(problem: Problem, unit: Tensor) -> str:
    """The layers that hold the direction, with their shares."""
    shares = sorted(
        ((float(unit[layer.span].square().sum()), layer.name) for layer in problem.space.layers), reverse=True
    )
    return ", ".join(f"{name} {share:.0%}" for share, name in shares if share >= HOLDS) or shares[0][1]


def _words(record: dict[str, Any], largest: float, drifts: bool, chance: float) -> str:
    """What the direction is called."""
    curvature, moved = float(record["curvature"]), record["update_share"]
    words = []
    if largest > 0 and curvature >= STIFF * largest:
        words.append("stiff")
    if drifts:
        words.append("drifting")
    still = moved is not None and moved < MOVES * chance
    if still and not drifts and abs(curvature) < FLAT * largest:
        words.append("sloppy")
    return ", ".join(words)


def _lie_along(directions: Directions, drift: Drift | None) -> list[bool]:
    """Which of the directions lie along a drift that was found."""
    if drift is None or not drift.found:
        return [False] * len(directions)
    cross = directions.rows.cross(drift.direction.rows)[:, 0]
    lengths = torch.diagonal(directions.rows.grams().sum(dim=0))
    length = float(drift.direction.rows.grams().sum())
    return [bool(share >= ALONG) for share in cross**2 / lengths / length]


def _energy(t: Trajectory, window: Window | None) -> float:
    return float(t.energies(window=window).sum())


def _radius(t: Trajectory | None, window: Window | None) -> float | None:
    """Length of the net displacement in a window."""
    if t is None:
        return None
    every = torch.zeros(1, len(t), dtype=torch.float64)
    every[0, t.rows_in(window)] = 1.0
    return math.sqrt(max(float(TrajectoryRows(t, every).grams().sum()), 0.0))


def _shares(t: Trajectory | None, directions: Directions, window: Window | None, energy: float) -> list[float]:
    """Share of the updates' energy along each direction."""
    assert t is not None
    along = t.inner(directions, window).square().sum(dim=0)
    lengths = torch.diagonal(directions.rows.grams().sum(dim=0))
    return [float(share) for share in along / lengths / energy] if energy > 0 else [0.0] * len(directions)
