"""Spectra and agreement at the stages of training, the loss, sampling, layers."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thalweg.analysis.agreement import agreement_row
from thalweg.analysis.approximation import SOURCES
from thalweg.analysis.drift import Drift
from thalweg.analysis.layer_ranking import PROBES, rank_layers
from thalweg.analysis.layers import layer_spectra
from thalweg.analysis.overlap import overlap
from thalweg.analysis.sampling import halves
from thalweg.analysis.stages import stage_name
from thalweg.analysis.tracking import moment
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.measurement.base import Measurement
from thalweg.operators.hessian import GradientGraphs, HessianOperator
from thalweg.problem import Problem
from thalweg.recording.record import Window
from thalweg.solvers.density import SpectralDensity, spectral_density
from thalweg.solvers.lanczos import eigenpairs, pass_on_interrupt
from thalweg.trials.price import usual_seconds

GRID = 241
"""Places at which the spectral density is kept."""

LEVELS = 61
"""Levels above and below which eigenvalues are counted."""

LEAST = 1e-4
"""Share of the largest eigenvalue at which levels begin."""

STIFF = 0.01
"""Share of the largest eigenvalue from which eigenvalues are told in words."""

SURE = 4.0
"""How far apart the bounds of a number may lie, as a ratio, for it to be told in words."""

ROUNDING = 1e-5
"""Of the largest magnitude: what a negative eigenvalue must have to be told from a zero in float32."""

TRACKED = ("persistence", "threshold", "of_threshold", "participation", "layer", "layer_share")
"""What a stage keeps of its row in a table of `track_curvature`."""


def stage_at(m: Measurement, number: int, window: Window) -> tuple[Problem, dict[str, Any]]:
    """The problem at the end of a window, and the head of its record."""
    step = window[1] - 1
    buffers, stood = m.trajectory.buffers(step)
    there = m.problem.at(m.trajectory.weights(step), buffers)
    return there, {
        "name": stage_name(number, m.settings.stages),
        "step": step,
        "window": list(window),
        "exact": not buffers or stood == step,
        "loss": there.loss(),
    }


def spectrum(
    m: Measurement, stage: dict[str, Any], graphs: GradientGraphs, before: Directions | None = None
) -> Directions:
    """Certified eigenpairs, begun at those of the stage before, and what is known of them in the stage's record."""
    m.say(f"{m.settings.k} eigenpairs after step {stage['step']}")
    with m.costs.timed("spectrum"):
        operator = HessianOperator(graphs)
        pairs = eigenpairs(
            operator,
            m.settings.k,
            tol=m.settings.tol,
            seed=m.settings.seed,
            certify=m.settings.certificate,
            start=before,
            progress=m.progress,
        )
    pass_on_interrupt(pairs)
    m.costs.products += pairs.matvecs or 0
    assert pairs.values is not None
    assert pairs.residuals is not None
    assert pairs.converged is not None
    stage["spectrum"] = {
        "values": pairs.values.tolist(),
        "residuals": pairs.residuals.tolist(),
        "converged": pairs.converged.tolist(),
        "matvecs": pairs.matvecs,
        **{key: pairs.provenance[key] for key in ("gaps", "angles", "certificate", "missed_and_found")},
        "complement_searched": pairs.provenance["complement_searched"],
    }
    with m.costs.timed("tracking"):
        row = moment(m.trajectory, stage["step"], operator, pairs, before, tol=m.settings.tol, seed=m.settings.seed)
    m.costs.products += row["products"] - (pairs.matvecs or 0)
    stage["tracking"] = {key: row[key] for key in TRACKED}
    return pairs


def agreement(m: Measurement, stage: dict[str, Any], pairs: Directions, window: Window, so_far: Window) -> None:
    """Share of the top eigenspace in the components of each source, over this stage's window and so far."""
    m.say(f"overlaps after step {stage['step']}")
    rows: list[dict[str, Any]] = []
    with m.costs.timed("overlaps"):
        projections = m.trajectory.inner(pairs)
        named = {"this stage": window, "whole run": so_far} if window != so_far else {"whole run": so_far}
        for window_name, span in named.items():
            for source in SOURCES:
                found = m.found(source, span)
                if isinstance(found, str):
                    continue
                possible = [count for count in m.settings.components if count <= len(found)] or [len(found)]
                for count in possible:
                    head = found.first(count)
                    cross = (head.rows.coefficients @ projections).T  # type: ignore[attr-defined]
                    measured = overlap(pairs, head, draws=m.settings.draws, seed=m.settings.seed, cross=cross)
                    rows.append(agreement_row(source, span, window_name, count, measured))
    stage["agreement"] = rows


def density(m: Measurement, there: Problem, graphs: GradientGraphs) -> dict[str, Any] | None:
    """Where all eigenvalues lie; None where the settings leave it out, or why it is not known.

    The density p at a place becomes a number of eigenvalues, `P w √(2π) p` for a Gaussian of width w: a lone eigenvalue
    has a peak of height 1.
    """
    if not m.settings.density_steps:
        return None
    m.say("where all eigenvalues lie")
    try:
        with m.costs.timed("density"):
            found = spectral_density(
                HessianOperator(graphs),
                m.settings.density_probes,
                m.settings.density_steps,
                seed=m.settings.seed,
                progress=m.progress,
            )
    except InputError as error:
        return {"absent": "refused", "reason": str(error)}
    m.costs.products += found.matvecs
    width, size, largest = found.resolution, there.space.size, found.largest
    if not width > 0 or not largest > 0:
        return {"absent": "no_spread"}
    room = width * math.sqrt(2 * math.log(max(10 * size, 10)))
    grid = torch.linspace(found.smallest - room, largest + room, GRID, dtype=torch.float64)
    near, unit = found.density(grid, width), size * width * math.sqrt(2 * math.pi)
    least = min(max(_next_to_bulk(found), LEAST * largest), largest / 2)
    levels = torch.logspace(math.log10(least), math.log10(largest), LEVELS, dtype=torch.float64)[:-1]
    above, below = _counted(found, levels, size), _counted(_mirrored(found), levels, size)
    told = [n for n, (low, high) in enumerate(zip(above["low"], above["high"], strict=True)) if high <= SURE * low]
    wanted = [n for n in told if float(levels[n]) >= STIFF * largest]
    stiff = wanted[0] if wanted else told[-1] if told else None
    return {
        "grid": grid.tolist(),
        "width": width,
        "near": (near.value * unit).tolist(),
        "near_error": (near.error * unit).tolist(),
        "levels": levels.tolist(),
        "above": above,
        "below": below,
        "stiff": stiff,
        "clearly_negative": found.smallest < -ROUNDING * float(found.nodes.abs().max()),
        "smallest": found.smallest,
        "largest": largest,
        "probes": len(found.nodes),
        "steps": found.nodes.shape[1],
        "matvecs": found.matvecs,
    }


def _next_to_bulk(found: SpectralDensity) -> float:
    """The magnitude of the nodes next to the heaviest one, which stands for all eigenvalues around it."""
    magnitudes = found.nodes.abs().clone()
    magnitudes[torch.arange(len(magnitudes)), found.weights.argmax(dim=1)] = math.inf
    return float(magnitudes.min(dim=1).values.max())


def _mirrored(found: SpectralDensity) -> SpectralDensity:
    return replace(found, nodes=-found.nodes.flip(-1), weights=found.weights.flip(-1))


def _counted(found: SpectralDensity, levels: Tensor, size: int) -> dict[str, list[float]]:
    """Eigenvalues above each level, and between what their number lies, two standard errors of the probes included."""
    own, least, most = found.share_above(levels)
    low, high = (least.value - 2 * least.error).clamp(min=0.0), (most.value + 2 * most.error).clamp(max=1.0)
    counts = {"count": own.value, "low": low, "high": high}
    return {name: (share * size).tolist() for name, share in counts.items()}


def losses(m: Measurement, there: Problem) -> dict[str, Any]:
    """Loss and gradient on the training data, and the loss on held-out data."""
    m.say("loss and gradient")
    start = time.perf_counter()
    norm = float(there.gradient().double().norm())
    m.gradient_seconds = time.perf_counter() - start
    held_out = None
    if m.held_out is not None:
        m.trial_seconds, held_out = usual_seconds(there, there.on(m.held_out.data))
    return {"train": there.loss(), "held_out": held_out, "gradient_norm": norm}


def sampling(m: Measurement, there: Problem) -> dict[str, Any] | None:
    """The same on two halves of the data; None for fewer than four samples."""
    if there.describe()["samples"] < 4:
        return None
    m.say("the same on two halves of the data")
    with m.costs.timed("sampling"):
        found = halves(
            there,
            m.settings.k,
            seed=m.settings.seed,
            memory_budget=m.memory_budget,
        )
    m.costs.products += found.matvecs
    return {
        "half_values": found.half_values.tolist(),
        "other_half": found.other_half.tolist(),
        "subspace_overlap": found.subspace.mean,
        "samples": list(found.samples),
        "seed": found.seed,
    }


def layers(
    m: Measurement, there: Problem, graphs: GradientGraphs, pairs: Directions, found: Drift | None
) -> list[dict[str, Any]]:
    """Every layer's own curvature, the orders for tuning and compression, and what each layer holds."""
    m.say("every layer's own curvature")
    with m.costs.timed("layers"):
        table = layer_spectra(there, 1, whole=pairs, tol=m.settings.tol, seed=m.settings.seed, graphs=graphs)
        ranked = rank_layers(there, drift=found, seed=m.settings.seed, memory_budget=m.memory_budget)
    orders = {record["layer"]: record for record in ranked.to_json()}
    m.costs.products += len(orders) + PROBES
    energy = {layer.name: float(m.trajectory.energies(layer.name).sum()) for layer in there.space.layers}
    weights = there.weights().double()
    squares = {layer.name: float((weights[layer.span] ** 2).sum()) for layer in there.space.layers}
    shares = pairs.layer_energy().mean(dim=0)
    stiff = {layer.name: float(share) for layer, share in zip(there.space.layers, shares, strict=True)}
    out = []
    for record in table:
        if record["layer"] == "(network)":
            continue
        m.costs.products += record.pop("matvecs")
        name = record["layer"]
        record["update_energy"] = energy[name] / (sum(energy.values()) or 1.0)
        record["weight_energy"] = squares[name] / (sum(squares.values()) or 1.0)
        record["eigenvector_energy"] = stiff[name]
        record |= {key: value for key, value in orders[name].items() if not key.startswith("update_energy")}
        out.append(record)
    return out
