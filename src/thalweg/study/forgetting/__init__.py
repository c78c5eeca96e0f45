"""The study of claim C8: does protecting directions reduce forgetting, beside the methods that keep no data?

Every method learns the same streams with the same net, batches and number of steps. Its settings are chosen from a grid
of its own, which is extended while its edge is best, by the accuracy on validation samples at the end of the stream,
on seeds that the result does not use. What is reported is then measured on test samples, over other seeds. The guard
was developed on the picture streams with one seed (docs/decisions/0016), so there the seeds are fresh and the streams
are not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from thalweg.errors import InputError, nearest
from thalweg.measurement.base import Say
from thalweg.protect.transfer import transfer
from thalweg.runs import write_atomically
from thalweg.study.forgetting.cells import Wanted, run_cells
from thalweg.study.forgetting.kinds import ALONG, FOLLOWS, GRIDS, KINDS, OWN, settings_of

STRETCHED = {"rate": 2.0, "strength": 6.0}
"""What is extended while its edge is best, and by which factor; k and each are bounded by memory and time."""

ROUNDS = 4
"""Extensions of a grid at the most."""

TUNING, JUDGING, FINAL = (100,), (0, 1, 2, 3, 4), tuple(range(10))
"""Seeds: of the choice of settings, of the result, and of the result of the finalists."""

RIVALS = 2
"""So many of the best rivals are finalists, beside this library's own."""

STRENGTHS, SHARES, MANY = (1.0, 4.0, 16.0, 60.0), (0.0, 0.9, 0.99), (1, 5, 20)
"""Of the curves: strengths and hard shares of the guard, and numbers of directions of each old task."""

CURVED, CURVED_SEEDS = ("permuted",), 2
"""Streams on which curves are drawn, and over how many of the seeds."""

FAILING_SEEDS = 3
"""Seeds where protection is expected to fail."""


def study(
    out: str | Path,
    kinds: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = JUDGING,
    final: Sequence[int] = FINAL,
    curves: bool = True,
    workers: int = 2,
    say: Say | None = None,
) -> dict[str, Any]:
    """Tune every method on every stream, run it on the seeds of the result, and put it on a board.

    What is in the folder is not run again, so a study goes on where it was stopped.

    Args:
        out: the folder; cells go into `cells/`.
        kinds: streams; all unless given.
        methods: ways to learn them; those of each stream unless given.
        seeds: of the result.
        final: those of the finalists: this library's own methods and, stream by stream, the best rivals.
        curves: also how the guard depends on its strength and hard share, and directions on their number.
        workers: processes.
        say: called with a line for each cell.

    Returns:
        `streams`, for each a row for each method; `leads`, the guard's over each rival, seed by seed; `curves`.

    Raises:
        InputError: if there is no such stream or method, or what a stream is made of is not on this machine.
    """
    kinds = list(kinds or KINDS)
    for name, known in ((kinds, KINDS), (list(methods or ()), GRIDS)):
        for one in name:
            if one not in known:
                raise InputError(f"there is no {one!r}; choose from {nearest(one, known)}")
    folder = Path(out) / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    asked = [] if methods is None else list(methods)
    ways = {
        kind: [one for one in GRIDS if one in (asked or KINDS[kind].methods or GRIDS)] for kind in dict.fromkeys(kinds)
    }
    for kind in ways:  # what is not on this machine is said before hours are spent
        KINDS[kind].net(seeds[0])
        KINDS[kind].lessons(seeds[0], 1)
    chosen = _chosen(folder, ways, workers, say)
    own_seeds = {kind: list(seeds)[: FAILING_SEEDS if KINDS[kind].follows else None] for kind in ways}
    wanted = [(*which, settings, seed) for which, settings in chosen.items() for seed in own_seeds[which[0]]]
    found = run_cells(folder, wanted, workers, say)
    rows = {kind: [_row(found, kind, method, chosen[kind, method]) for method in ways[kind]] for kind in ways}
    longer = [
        (kind, method, chosen[kind, method], seed)
        for kind in ways
        for method in finalists(rows[kind])
        for seed in sorted({*seeds, *final})
        if KINDS[kind].tasks > 2 and not KINDS[kind].follows  # a cell of a pair takes too long
    ]
    found += run_cells(folder, longer, workers, say)
    rows = {kind: [_row(found, kind, method, chosen[kind, method]) for method in ways[kind]] for kind in ways}
    board: dict[str, Any] = {
        "streams": rows,
        "leads": {kind: leads(rows[kind]) for kind in ways},
        "seeds": list(seeds),
        "tuning_seeds": list(TUNING),
    }
    if curves:
        board["curves"] = {
            kind: _curves(folder, kind, chosen, list(seeds)[:CURVED_SEEDS], workers, say)
            for kind in CURVED
            if kind in ways
        }
    write_atomically(Path(out) / "forgetting.json", json.dumps(board, indent=1).encode())
    return board


def _chosen(
    folder: Path, ways: Mapping[str, Sequence[str]], workers: int, say: Say | None
) -> dict[tuple[str, str], dict[str, Any]]:
    """The settings of each method on each stream."""
    source = {
        (kind, method): (KINDS[kind].follows or kind, FOLLOWS.get(method, method))
        for kind, methods in ways.items()
        for method in methods
    }
    tried = {which: settings_of(*which) for which in source.values()}
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for _ in range(ROUNDS + 1):
        wanted: list[Wanted] = [
            (*which, settings, seed) for which, many in tried.items() for settings in many for seed in TUNING
        ]
        tuned = run_cells(folder, wanted, workers, say)
        best = {which: _best(tuned, *which) for which in tried}
        more = {which: stretched(best[which], many) for which, many in tried.items()}
        if not any(more.values()):
            break
        tried = {which: many + more[which] for which, many in tried.items()}
    return {which: best[tuned] for which, tuned in source.items()}


def stretched(best: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings beyond the edge at which the best one lies; none where it lies inside.

    The edge is that among the settings which differ from the best in nothing else.
    """
    beyond = []
    for name, factor in STRETCHED.items():
        if name in best:
            rest = {key: value for key, value in best.items() if key != name}
            values = [one[name] for one in tried if {key: value for key, value in one.items() if key != name} == rest]
            if best[name] == max(values):
                beyond.append({**best, name: best[name] * factor})
            if best[name] == min(values):
                beyond.append({**best, name: best[name] / factor})
    return [settings for settings in beyond if settings not in tried]


def finalists(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those of a stream that are run on more seeds: this library's own, and the rivals with the best accuracy."""
    rivals = sorted((row for row in rows if row["method"] not in OWN), key=lambda row: -row["accuracy"])
    own = [row["method"] for row in rows if row["method"] in OWN]
    return [*own, *(row["method"] for row in rivals[:RIVALS])] if own else []


def leads(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How far each of this library's own is ahead of each rival, over the seeds that both have.

    Returns:
        For each pair `own`, `rival`, `lead` in accuracy, `half` of its interval, and `word`: "ahead" or "behind" where
        the interval leaves out zero, else "equal".
    """
    out = []
    for own in rows:
        for rival in rows:
            if own["method"] in OWN and rival["method"] not in OWN:
                pairs = zip(own["accuracies"], rival["accuracies"], strict=False)  # both begin with the same seeds
                mean, half = interval([mine - other for mine, other in pairs])
                word = "equal" if not abs(mean) > half else "ahead" if mean > 0 else "behind"
                out.append({"own": own["method"], "rival": rival["method"], "lead": mean, "half": half, "word": word})
    return out


def _curves(
    folder: Path, kind: str, chosen: Mapping[tuple[str, str], dict[str, Any]], seeds: Sequence[int], workers: int,
    say: Say | None,
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """The guard by strength and hard share, and directions by their number, at the step sizes that were chosen."""
    plans: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    if (kind, "guard") in chosen:
        rate = chosen[kind, "guard"]["rate"]
        plans["strength"] = [
            ("guard", {"rate": rate, "strength": strength, "hard": hard}) for hard in SHARES for strength in STRENGTHS
        ]
    plans["k"] = [
        (method, {"rate": chosen[kind, method]["rate"], "k": k})
        for method in ALONG
        if (kind, method) in chosen
        for k in MANY
    ]
    out: dict[str, list[dict[str, Any]]] = {}
    for name, points in plans.items():
        found = run_cells(folder, [(kind, *point, seed) for point in points for seed in seeds], workers, say)
        out[name] = [_row(found, kind, method, settings) for method, settings in points]
    return out


def _best(tuned: Sequence[Mapping[str, Any]], kind: str, method: str) -> dict[str, Any]:
    """The settings with the best mean validation accuracy at the end."""
    found: dict[str, list[float]] = {}
    named: dict[str, dict[str, Any]] = {}
    for cell in tuned:
        if (cell["stream"], cell["method"]) == (kind, method):
            key = json.dumps(cell["settings"], sort_keys=True)
            named[key] = cell["settings"]
            found.setdefault(key, []).append(cell["valid"])
    return named[max(found, key=lambda key: float(np.mean(found[key])))]


def _row(found: Sequence[Mapping[str, Any]], kind: str, method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    own = {
        cell["seed"]: cell
        for cell in found
        if (cell["stream"], cell["method"]) == (kind, method) and cell["settings"] == dict(settings)
    }
    many = [own[seed] for seed in sorted(own)]
    measured = [transfer(cell["test"], cell["start"]) for cell in many]
    row: dict[str, Any] = {"method": method, "settings": dict(settings), "seeds": len(many)}
    for key in asdict(measured[0]):
        row[key], row[f"{key}_half"] = interval([getattr(one, key) for one in measured])
    row["nbytes"] = max(cell["nbytes"] for cell in many)
    row["ending_seconds"] = float(np.median([cell["ending_seconds"] / len(cell["test"]) for cell in many]))
    row["step_seconds"] = float(np.median([cell["seconds"] / cell["steps"] for cell in many]))
    row["accuracies"] = [one.accuracy for one in measured]
    matrix = np.mean([cell["test"] for cell in many], axis=0)
    row["so_far"] = [float(line[: place + 1].mean()) for place, line in enumerate(matrix)]
    row["last"] = matrix[-1].tolist()
    return row


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean and half the length of its interval, by Student's t over seeds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return mean, float(half)
