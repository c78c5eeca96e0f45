"""What the curvature is beyond the training data and its units: on held-out data, under noise, relative to weights."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from thalweg.analysis.held_out import held_out_spectrum
from thalweg.analysis.noise import robustness
from thalweg.analysis.sharpness import Scale, relative_sharpness
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.measurement.base import Measurement
from thalweg.operators.hessian import GradientGraphs
from thalweg.problem import Problem

SCALES: tuple[Scale, ...] = ("filter", "entry")


def held_out(m: Measurement, there: Problem, pairs: Directions) -> dict[str, Any] | None:
    """Eigenpairs on held-out data, and what the training eigenvectors are there; None without such data."""
    if m.held_out is None:
        return None
    m.say("the same on held-out data")
    with m.costs.timed("held out"):
        found = held_out_spectrum(
            there,
            m.held_out,
            train=pairs,
            tol=m.settings.tol,
            seed=m.settings.seed,
            certify=m.settings.certificate,
            memory_budget=m.memory_budget,
        )
    m.costs.products += found.matvecs
    own = found.pairs
    assert own.values is not None
    assert own.residuals is not None
    assert own.converged is not None
    null = found.subspace.layer_matched
    return {
        "curvature": found.across.tolist(),
        "values": own.values.tolist(),
        "residuals": own.residuals.tolist(),
        "converged": own.converged.tolist(),
        "certificate": own.provenance["certificate"],
        "subspace": found.subspace.mean,
        "subspace_by_chance": found.subspace.uniform.expected,
        "subspace_by_layer": None if null is None else null.expected,
        "captured": found.subspace.captured.tolist(),
        **there.on(m.held_out.data).describe(),
    }


def noise(m: Measurement, there: Problem) -> dict[str, Any] | None:
    """Loss and largest curvature under noise, or why there are none; None where they are not wanted."""
    if m.settings.noise_draws == 0:
        return None
    m.say("noise on inputs and labels")
    with m.costs.timed("noise"):
        try:
            table = robustness(
                there, m.held_out, draws=m.settings.noise_draws, seed=m.settings.seed, memory_budget=m.memory_budget
            )
        except InputError as error:
            return {"reason": str(error)}
    m.costs.products += sum(table["matvecs"])
    return {"rows": table.to_json()}


def sharpness(m: Measurement, there: Problem, graphs: GradientGraphs, pairs: Directions) -> dict[str, Any]:
    """The largest eigenvalue as it is, and for steps relative to the weights."""
    m.say("sharpness relative to the weights")
    assert pairs.values is not None
    out: dict[str, Any] = {"raw": float(pairs.values[0])}
    with m.costs.timed("sharpness"):
        for scale in SCALES:
            try:
                found = relative_sharpness(there, scale, tol=m.settings.tol, seed=m.settings.seed, graphs=graphs)
            except InputError as error:
                out[scale] = {"reason": str(error)}
                continue
            m.costs.products += found.matvecs
            out[scale] = asdict(found)
    return out
