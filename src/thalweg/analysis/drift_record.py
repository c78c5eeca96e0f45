"""The drift of a run as plain values, for its results and its report."""

from __future__ import annotations

from typing import Any

import numpy as np

from thalweg.analysis.drift import LEVEL, Drift, drift, drift_scan, window_test
from thalweg.analysis.drift_test import LEAST_ROWS
from thalweg.analysis.innovations import FEW_ROWS
from thalweg.analysis.nulls import holm
from thalweg.directions import Directions
from thalweg.problem import Problem
from thalweg.recording.record import Window
from thalweg.recording.trajectory import Trajectory

CURVE_POINTS = 61
"""At which the fitted laws are kept for the picture."""


def late_window(t: Trajectory) -> Window | None:
    """The last half of the rows after the last gap, or as many as the test likes to have; None if there are too few."""
    start = max((gap[1] for gap in t.gaps if gap[1] <= int(t.steps[-1])), default=0)
    rows = t.rows_in((start, int(t.steps[-1]) + 1))
    if len(rows) < LEAST_ROWS:
        return None
    wanted = rows[-max(len(rows) // 2, min(FEW_ROWS, len(rows))) :]
    return int(t.starts[wanted[0]]), int(t.steps[wanted[-1]]) + 1


def drift_record(
    t: Trajectory, pairs: Directions | None, problem: Problem | None, held_out: Problem | None, seed: int = 0
) -> tuple[Drift | None, dict[str, Any]]:
    """The drift late in a run, when it sets in, and which layers hold it.

    Args:
        t: the trajectory.
        pairs: the stiffest directions at its end, which the drift is held against.
        problem: see `drift`.
        held_out: see `drift`.
        seed: of the random directions.

    Returns:
        What was found, and the same as plain values; None and a reason where the run is too short.
    """
    window = late_window(t)
    if window is None:
        return None, {"reason": f"the run has {len(t)} usable rows, and the drift test needs {LEAST_ROWS}"}
    found = drift(t, window, problem=problem, held_out=held_out, seed=seed)
    record = plain(found)
    record["scan"] = drift_scan(t).to_json()
    record["layers"] = layer_records(t, window)
    if pairs is not None:
        cross = pairs.rows.cross(found.direction.rows)[:, 0]
        record["in_stiff"] = float(cross.square().sum())
        record["in_stiff_by_chance"] = len(pairs) / t.space.size
    return found, record


def layer_records(t: Trajectory, window: Window) -> list[dict[str, Any]]:
    """The test in every layer that moves, with Holm's correction over them."""
    records: list[dict[str, Any]] = []
    for layer in sorted(t.space.layers, key=lambda one: (one.depth, one.start)):
        if not float(t.energies(layer.name, window).sum()) > 0:
            continue
        one = window_test(t, window, layer.name)
        records.append(
            {"layer": layer.name, "p_value": one.test.p_value, "share": one.share, "share_error": one.share_error}
        )
    for record, corrected in zip(records, holm([record["p_value"] for record in records]), strict=True):
        record["p_holm"] = corrected
        record["found"] = corrected < LEVEL
    return records


def plain(found: Drift) -> dict[str, Any]:
    """A drift as plain JSON values; `speeds` are relative to their mean, `clock` to the window's end."""
    pace, steady = found.speeds, found.persistence
    mean = float(abs(pace.values).mean()) or 1.0
    ticks = np.linspace(pace.clock[0], pace.clock[-1], CURVE_POINTS)
    fits = [
        {
            "name": law.name,
            "rate": law.rate,
            "interval": list(law.interval),
            "amplitude": law.amplitude / mean,
            "aicc": law.aicc,
            "curve": (law.amplitude / mean * pace.relative(law.name, ticks)).tolist(),
        }
        for law in pace.fits
    ]
    ahead = found.ahead
    return {
        "found": found.found,
        "p_value": found.p_value,
        "level": found.level,
        "cosine": found.cosine,
        "share": found.share,
        "share_error": found.share_error,
        "persistence": {
            "cosine": steady.cosine,
            "corrected": steady.corrected,
            "interval": None if steady.interval is None else list(steady.interval),
        },
        "speed": found.speed,
        "model": found.model,
        "half_life": found.half_life,
        "half_life_interval": None if found.half_life_interval is None else list(found.half_life_interval),
        "half_life_word": found.half_life_word,
        "reason": found.reason,
        "distance_left": found.distance_left,
        "curvature": found.curvature,
        "curvature_held_out": None if ahead is None else ahead.curvature_held_out,
        "slope": None if ahead is None else ahead.slope,
        "rate": found.rate,
        "rate_expected": found.rate_expected,
        "optimizer_is_adaptive": found.clock.adaptive,
        "loss_gain_left": found.loss_gain_left,
        "p_value_without_decay": found.p_value_without_decay,
        "ahead": [] if ahead is None else ahead.losses.to_json(),
        "speeds": {
            "clock": pace.clock.tolist(),
            "values": (pace.values / mean).tolist(),
            "ticks": ticks.tolist(),
            "fits": fits,
        },
        **found.provenance,
    }
