"""What measuring a task will take: time, memory and disk, from what single gradients and products took."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from thalweg.checkup.result import Check
from thalweg.measurement.base import Settings
from thalweg.memory import free_memory, in_bytes
from thalweg.problem import Problem
from thalweg.recording.forecast import Forecast, rows_of_a_block
from thalweg.recording.keeping import Keeping

PRODUCTS = 18
"""Products of an analysis for each eigenpair and stage: ten pairs at three stages took 300 to 690 in the study."""

DENSITY = Settings.density_steps * Settings.density_probes
"""Products of its spectral density."""

BASIS = 7
"""Vectors of P numbers that the solver holds for each eigenpair."""

RECORDED = 1000
"""Steps that a recording is reckoned for."""

LONG = 3600.0
"""Seconds of products from which a shorter way is pointed out."""


def reckoned(problem: Problem, costs: dict[str, float], k: int, stages: int) -> Iterator[Check]:
    """Checks of time, memory and disk; what they rest on is put into `costs`.

    Args:
        problem: on training data.
        costs: with `gradient_seconds` and `product_seconds`, and where they are known `graph_bytes` and
            `trial_seconds`.
        k: eigenpairs of the analysis.
        stages: points of training of it.
    """
    item = max(p.element_size() for p in problem.parameters())
    yield _time(costs, k, stages)
    yield _memory(problem, costs, k, item)
    yield _disk(problem, costs, item)


def _time(costs: dict[str, float], k: int, stages: int) -> Check:
    products = PRODUCTS * k * stages + DENSITY
    costs["analysis_products"] = products
    costs["analysis_seconds"] = products * costs["product_seconds"]
    trial = f", a trial of one arm about {_seconds(costs['trial_seconds'])}" if "trial_seconds" in costs else ""
    found = (
        f"gradient {_seconds(costs['gradient_seconds'])}, product {_seconds(costs['product_seconds'])}; the {products} "
        f"products of an analysis take about {_seconds(costs['analysis_seconds'])}{trial}"
    )
    shorter = "fewer samples in the task make both quicker; --k and --stages make an analysis shorter"
    return Check("time", "good", found, shorter if costs["analysis_seconds"] > LONG else "")


def _memory(problem: Problem, costs: dict[str, float], k: int, item: int) -> Check:
    costs["basis_bytes"] = float(max(BASIS * k, Settings.density_steps + 1) * problem.space.size * item)
    costs["free_bytes"] = float(free_memory(problem.device))
    graphs = costs.get("graph_bytes", 0.0)
    fits = costs["basis_bytes"] + graphs < costs["free_bytes"] / 2
    found = (
        f"{in_bytes(costs['basis_bytes'])} for the solver's vectors, {in_bytes(graphs)} for graphs; "
        f"{in_bytes(costs['free_bytes'])} are free"
    )
    return Check("memory", "good" if fits else "note", found, "" if fits else "graphs that do not fit are built anew")


def _disk(problem: Problem, costs: dict[str, float], item: int) -> Check:
    forecast = Forecast(problem.space, Keeping(), 1, item, rows_of_a_block(problem.space.size * item))
    costs["disk_bytes"] = float(forecast.bytes_for(RECORDED))
    costs["free_disk_bytes"] = float(shutil.disk_usage(Path.cwd()).free)
    room = costs["disk_bytes"] < costs["free_disk_bytes"] / 2
    kept, there = in_bytes(costs["disk_bytes"]), in_bytes(costs["free_disk_bytes"])
    found = f"{kept} for {RECORDED:,} recorded steps; {there} are free"
    mend = "" if room else 'give a budget: thalweg.watch(..., budget="2GiB", steps=the steps to come)'
    return Check("disk", "good" if room else "note", found, mend)


def _seconds(value: float) -> str:
    if value < 1:
        return f"{1000 * value:.2g} ms"
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
