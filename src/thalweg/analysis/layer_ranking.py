"""Every layer in one table: how stiff it is, what it could gain, what noise in it would cost, and in which order to go.

Two orders: for *fine-tuning* the layer first in which one best step along its own gradient is predicted to lower the
loss most; for *compression* the layer first in which noise of its own weights' size costs least for each parameter.
Both are predictions of a quadratic at one point; a trial can hold them against the truth.

Intervals are of two kinds: over batches of the data, for what the loss says, and over blocks of steps, for what the
updates say. Both are percentiles of the bootstrap, and the order's are those of the ranks in each draw.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.analysis.drift import Drift
from thalweg.analysis.layers import only
from thalweg.directions import as_generator, as_numpy_generator
from thalweg.errors import InputError
from thalweg.operators.hessian import HessianOperator
from thalweg.problem import Problem
from thalweg.recording.record import Window
from thalweg.recording.trajectory import Trajectory
from thalweg.space import Layer
from thalweg.tables import Table

DRAWS = 1000
"""Of the bootstrap."""

LEVEL = 0.9
"""Of the intervals."""

PROBES = 8
"""Random signs for the traces."""

BLOCKS = 20
"""Blocks of steps that are drawn."""


@dataclass(frozen=True, eq=False)
class _Batches:
    """What each batch says of each layer, and what it weighs.

    Attributes:
        shares: `(B,)`, sum to one.
        slopes: `(B, L)`, along the layer's unit gradient of all data.
        curvatures: `(B, L)`, along the same.
        traces: `(B, L)`, of the layer's block, by random signs.
        errors: `(L,)`, standard error of the traces by the signs alone.
        products: Hessian products, in passes over all data.
    """

    shares: np.ndarray
    slopes: np.ndarray
    curvatures: np.ndarray
    traces: np.ndarray
    errors: np.ndarray
    products: int


def rank_layers(
    problem: Problem,
    trajectory: Trajectory | None = None,
    window: Window | None = None,
    drift: Drift | None = None,
    *,
    probes: int = PROBES,
    draws: int = DRAWS,
    seed: int = 0,
    memory_budget: int | None = None,
) -> Table:
    """Rank the layers for fine-tuning and for compression.

    With the layer's gradient g, its unit vector d and its block H the best step along d gains `(gᵀd)²/(2 dᵀHd)`. Noise
    of the size of the layer's weights w, spread evenly over its n entries, costs `½ tr(H) |w|²/n` times the square of
    its relative size.

    Args:
        problem: model, loss and data at the weights to look at.
        trajectory: the run, for the updates' energy; None leaves it out.
        window: of the run.
        drift: what was found there, for the layers that hold it.
        probes: random signs for the traces; one product each.
        draws: of the bootstrap.
        seed: of signs and bootstrap.
        memory_budget: bytes for kept gradient graphs.

    Returns:
        A table in order of depth with the columns layer, depth, parameters, gain, gain_low, gain_high (90 %, over
        batches; None for a single batch), fine_tuning (rank, 1 is first), fine_tuning_low, fine_tuning_high, trace,
        trace_error, noise_cost, noise_cost_low, noise_cost_high, compression, compression_low, compression_high,
        update_energy, update_energy_low, update_energy_high (shares; None without a trajectory), drift_share (of the
        drift's direction; None without one that was found). A layer whose curvature along its gradient is not positive
        has no best step: its gain is None and its rank last.

    Raises:
        InputError: if probes or draws are fewer than 2.
    """
    if probes < 2 or draws < 2:
        raise InputError(f"probes={probes} and draws={draws}: both are at least 2")
    layers = sorted(problem.space.layers, key=lambda layer: (layer.depth, layer.start))
    measured = _measure(problem, layers, probes, seed, memory_budget)
    generator = as_numpy_generator(seed)
    count = len(measured.shares)
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=draws) * measured.shares
    drawn /= drawn.sum(axis=1, keepdims=True)
    weights = problem.weights().double()
    sizes = np.array([layer.size for layer in layers])
    scale = np.array([float(weights[layer.span].square().sum()) for layer in layers]) / sizes / 2
    gains, gains_drawn = _gains(measured, measured.shares[None])[0], _gains(measured, drawn)
    costs = measured.shares @ measured.traces * scale
    costs_drawn = drawn @ measured.traces * scale
    tuning, tuning_drawn = _ranks(-gains[None])[0], _ranks(-gains_drawn)
    shrinking, shrinking_drawn = _ranks((costs / sizes)[None])[0], _ranks(costs_drawn / sizes)
    energy, energy_drawn = _energies(trajectory, window, layers, draws, generator)
    held = None if drift is None or not drift.found else _held(drift, layers)
    several = count > 1
    records = []
    for place, layer in enumerate(layers):
        finite = bool(np.isfinite(gains[place]))
        records.append(
            {
                "layer": layer.name,
                "depth": layer.depth,
                "parameters": layer.size,
                "gain": float(gains[place]) if finite else None,
                **_interval("gain", gains_drawn[:, place], several and finite),
                "fine_tuning": int(tuning[place]),
                **_interval("fine_tuning", tuning_drawn[:, place], several),
                "trace": float(measured.shares @ measured.traces[:, place]),
                "trace_error": float(measured.errors[place]),
                "noise_cost": float(costs[place]),
                **_interval("noise_cost", costs_drawn[:, place], several),
                "compression": int(shrinking[place]),
                **_interval("compression", shrinking_drawn[:, place], several),
                "update_energy": None if energy is None else float(energy[place]),
                **_interval("update_energy", None if energy_drawn is None else energy_drawn[:, place], True),
                "drift_share": None if held is None else held[place],
            }
        )
    return Table.of(records)


def _measure(problem: Problem, layers: list[Layer], probes: int, seed: int, memory_budget: int | None) -> _Batches:
    """Slopes, curvatures and traces of every batch."""
    gradient = problem.gradient()
    units = []
    for layer in layers:
        unit = torch.zeros_like(gradient)
        part = gradient[layer.span]
        length = float(part.double().norm())
        unit[layer.span] = part / length if length > 0 else 0.0
        units.append(unit)
    generator = as_generator(seed)
    signs = torch.randint(0, 2, (probes, problem.space.size), generator=generator).to(gradient) * 2 - 1
    survey = problem.survey
    ranks = problem.share.ranks
    weights, slopes, curvatures, traces, spread = [], [], [], [], []
    for batch, weight in zip(problem.data if problem.share.part else (), survey.weights, strict=False):
        one = problem.by_itself([batch])
        graphs = one.graphs(memory_budget, chunk=None)
        here = one.gradient()
        weights.append(weight)
        slopes.append([_dot(here, unit) for unit in units])
        curvatures.append([_curvature(graphs, layer, unit) for layer, unit in zip(layers, units, strict=True)])
        whole = HessianOperator(graphs)
        each = []
        for sign in signs:
            image = (whole @ sign).double() * sign.double()
            each.append([float(image[layer.span].sum()) for layer in layers])
        traces.append(np.mean(each, axis=0))
        spread.append(each)
    if not ranks.alone:
        every = ranks.gathered((weights, slopes, curvatures, traces, spread))
        weights, slopes, curvatures, traces, spread = (
            _interleaved([one[place] for one in every]) for place in range(5)
        )
    shares = np.array(weights) / float(sum(weights))  # a batch alone is a mean over itself, whatever the reduction
    by_probe = np.einsum("b,bpl->pl", shares, np.array(spread))
    return _Batches(
        shares,
        np.array(slopes),
        np.array(curvatures),
        np.array(traces),
        by_probe.std(axis=0, ddof=1) / np.sqrt(probes),
        len(layers) + probes,
    )


def _interleaved(each: list[list[Any]]) -> list[Any]:
    """The first of every rank, then the second, as the batches were dealt out."""
    missing = object()
    return [row for several in itertools.zip_longest(*each, fillvalue=missing) for row in several if row is not missing]


def _curvature(graphs: Any, layer: Layer, unit: Tensor) -> float:
    """`dᵀHd` within a layer."""
    block = HessianOperator(graphs, only(layer.name))
    part = unit[layer.span]
    return _dot(part, block @ part)


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double())


def _gains(measured: _Batches, shares: np.ndarray) -> np.ndarray:
    """`(n, L)` for n choices of shares; minus infinity where there is no best step."""
    slopes, curvatures = shares @ measured.slopes, shares @ measured.curvatures
    with np.errstate(divide="ignore", invalid="ignore"):
        found = slopes**2 / (2 * curvatures)
    return np.where(curvatures > 0, found, -np.inf)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Places in ascending order, from 1, in each row."""
    found: np.ndarray = values.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable") + 1
    return found


def _interval(name: str, values: np.ndarray | None, known: bool) -> dict[str, float | None]:
    if values is None or not known:
        return {f"{name}_low": None, f"{name}_high": None}
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def _energies(
    t: Trajectory | None, window: Window | None, layers: list[Layer], draws: int, generator: np.random.Generator
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Each layer's share of the updates' energy, and the same for blocks of steps drawn with replacement."""
    if t is None:
        return None, None
    each = np.stack([t.energies(layer.name, window).numpy() for layer in layers], axis=1)
    blocks = np.stack([part.sum(axis=0) for part in np.array_split(each, min(BLOCKS, len(each)))])
    chosen = generator.multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), size=draws) @ blocks
    whole = each.sum(axis=0)
    if not whole.sum() > 0:
        return np.zeros(len(layers)), None
    return whole / whole.sum(), chosen / chosen.sum(axis=1, keepdims=True)


def _held(drift: Drift, layers: list[Layer]) -> list[float]:
    """Share of the drift's direction in each layer."""
    shares: Mapping[str, float] = {
        layer.name: float(share)
        for layer, share in zip(
            drift.direction.parameter_space().layers, drift.direction.layer_energy()[0], strict=True
        )
    }
    return [shares[layer.name] for layer in layers]
