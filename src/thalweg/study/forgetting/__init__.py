"""The study of claim C8: does protecting directions reduce forgetting, beside the methods that keep no data?

Every method learns the same streams with the same net, batches and number of steps. Its settings are chosen from a grid
of its own, which is extended while its edge is best, by the accuracy on validation pictures at the end of the stream,
on seeds that the result does not use. What is reported is then measured on test pictures, over other seeds. The guard
was developed on these streams with one seed (docs/decisions/0016), so the seeds are fresh and the streams are not.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from thalweg.errors import InputError, nearest
from thalweg.measurement.base import Say
from thalweg.protect.transfer import transfer
from thalweg.runs import read_json, write_atomically
from thalweg.study.forgetting.learners import LEARNERS
from thalweg.study.forgetting.streams import KINDS, fresh_net, stream

RATES = (0.05, 0.1, 0.2)
"""Step sizes of plain descent, for every method."""

GRIDS: Mapping[str, Sequence[Mapping[str, float]]] = {
    "none": [{}],
    "l2": [{"strength": value} for value in (0.003, 0.03, 0.3)],
    "ewc": [{"strength": value} for value in (3.0, 30.0, 300.0)],
    "online_ewc": [{"strength": value} for value in (3.0, 30.0, 300.0)],
    "si": [{"strength": value} for value in (0.1, 1.0, 10.0)],
    "mas": [{"strength": value} for value in (0.1, 1.0, 10.0)],
    "ogd": [{"each": value} for value in (5, 10, 20)],
    "gpm": [
        {"threshold": 0.95, "later": 0.99, "growth": 0.0},  # its authors' own for this net
        {"threshold": 0.94, "later": 0.94, "growth": 0.003},
        {"threshold": 0.97, "later": 0.97, "growth": 0.003},
    ],
    "hessian": [{"k": value} for value in (5, 10, 20)],
    "random": [{"k": value} for value in (5, 10, 20)],
    "layer_matched": [{"k": value} for value in (5, 10, 20)],
    "guard": [{"strength": value, "hard": 0.9} for value in (1.0, 5.0, 30.0)],
    "guard_small": [{"strength": value, "hard": 0.9, "rank": 150} for value in (1.0, 5.0, 30.0)],
}
"""Three settings for each method, times three step sizes. `guard_small` has about the memory of EWC, 0.7 MiB."""

STRETCHED = {"rate": 2.0, "strength": 6.0}
"""What is extended while its edge is best, and by which factor; k and each are bounded by memory and time."""

ROUNDS = 4
"""Extensions of a grid at the most."""

FOLLOWS = {"random": "hessian", "layer_matched": "hessian"}
"""Controls take the settings of what they control, so that k is the same."""

TUNING, JUDGING = (100,), (0, 1, 2, 3, 4)
"""Seeds: of the choice of settings, and of the result."""

EPOCHS, BATCH = 2, 32


def run_cell(
    kind: str, method: str, settings: Mapping[str, Any], seed: int, tasks: int | None = None
) -> dict[str, Any]:
    """One stream learned by one method.

    Args:
        kind: the stream.
        method: of LEARNERS.
        settings: the method's, and "rate".
        seed: of pictures, weights and order.
        tasks: the first so many; all unless given.
    """
    torch.set_num_threads(1)
    lessons, model, learner = stream(kind, seed, tasks), fresh_net(seed), LEARNERS[method](settings)
    draw = torch.Generator().manual_seed(seed + 1)
    test, valid = [], []
    start = [lesson.accuracy(model, lesson.test) for lesson in lessons]
    training = ending = 0.0
    steps = 0
    for number, lesson in enumerate(lessons):
        optimizer = torch.optim.SGD(model.parameters(), lr=settings["rate"])
        begun = time.perf_counter()
        learner.begin(model, optimizer)
        for chosen in _batches(len(lesson.train[1]), draw):
            optimizer.zero_grad()
            lesson.loss(model, lesson.train[0][chosen], lesson.train[1][chosen]).backward()  # type: ignore[no-untyped-call]
            learner.before_step(model)
            optimizer.step()
            learner.after_step(model, settings["rate"])
            steps += 1
        training += time.perf_counter() - begun
        begun = time.perf_counter()
        learner.end(model, lesson, seed + number)
        ending += time.perf_counter() - begun
        test.append([one.accuracy(model, one.test) for one in lessons])
        valid.append([one.accuracy(model, one.valid) for one in lessons])
    return {
        "stream": kind, "method": method, "settings": dict(settings), "seed": seed, "test": test, "start": start,
        "valid": float(np.mean(valid[-1])), "seconds": training, "ending_seconds": ending, "steps": steps,
        "nbytes": learner.nbytes,
    }  # fmt: skip


def _batches(count: int, draw: torch.Generator) -> Iterator[torch.Tensor]:
    for _ in range(EPOCHS):
        yield from torch.split(torch.randperm(count, generator=draw)[: count // BATCH * BATCH], BATCH)


def settings_of(method: str) -> list[dict[str, Any]]:
    """Everything that the method's grid holds before it is extended."""
    return [{"rate": rate, **own} for rate in RATES for own in GRIDS[method]]


def stretched(best: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings beyond the edge at which the best one lies; none where it lies inside."""
    beyond = []
    for name, factor in STRETCHED.items():
        if name in best:
            values = [settings[name] for settings in tried]
            if best[name] == max(values):
                beyond.append({**best, name: best[name] * factor})
            if best[name] == min(values):
                beyond.append({**best, name: best[name] / factor})
    return [settings for settings in beyond if settings not in tried]


def study(
    out: str | Path,
    kinds: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = JUDGING,
    workers: int = 2,
    say: Say | None = None,
) -> dict[str, Any]:
    """Tune every method on every stream, run it on the seeds of the result, and put it on a board.

    What is in the folder is not run again, so a study goes on where it was stopped.

    Args:
        out: the folder; cells go into `cells/`.
        kinds: streams; all unless given.
        methods: of LEARNERS; all unless given.
        seeds: of the result.
        workers: processes.
        say: called with a line for each cell.

    Raises:
        InputError: if there is no such stream or method, or Fashion-MNIST is not on this machine.
    """
    kinds, methods = list(kinds or KINDS), list(methods or GRIDS)
    for name, known in ((kinds, KINDS), (methods, GRIDS)):
        for one in name:
            if one not in known:
                raise InputError(f"there is no {one!r}; choose from {nearest(one, known)}")
    folder = Path(out) / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    leaders = {method: FOLLOWS.get(method, method) for method in methods}
    tried = {(kind, one): settings_of(one) for kind in kinds for one in dict.fromkeys(leaders.values())}
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for _ in range(ROUNDS + 1):
        wanted = [(*which, settings, seed) for which, many in tried.items() for settings in many for seed in TUNING]
        tuned = _cells(folder, wanted, workers, say)
        best = {which: _best(tuned, *which) for which in tried}
        more = {which: stretched(best[which], many) for which, many in tried.items()}
        if not any(more.values()):
            break
        tried = {which: many + more[which] for which, many in tried.items()}
    chosen = {(kind, method): best[kind, leader] for kind in kinds for method, leader in leaders.items()}
    final = [
        (kind, method, settings, seed) for (kind, method), settings in chosen.items() if settings for seed in seeds
    ]
    cells = _cells(folder, final, workers, say)
    board = {
        "streams": {kind: [_row(cells, kind, method, chosen[kind, method]) for method in methods] for kind in kinds},
        "seeds": list(seeds),
        "tuning_seeds": list(TUNING),
    }
    write_atomically(Path(out) / "forgetting.json", json.dumps(board, indent=1).encode())
    return board


@cache
def _code() -> str:
    """A mark of the code that a cell was made with, so that no two versions are mixed."""
    home = Path(__file__).parents[2]
    files = sorted([*(home / "protect").glob("*.py"), *(home / "study" / "forgetting").glob("*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


def _name(kind: str, method: str, settings: Mapping[str, Any], seed: int) -> str:
    told = "-".join(f"{key}{value:g}" for key, value in settings.items())
    return f"{kind}-{method}-{told}-{seed}-{_code()}.json"


def _cells(
    folder: Path, wanted: Sequence[tuple[str, str, dict[str, Any], int]], workers: int, say: Say | None
) -> list[dict[str, Any]]:
    say = say or (lambda line: None)
    missing = [one for one in wanted if not (folder / _name(*one)).is_file()]
    with ProcessPoolExecutor(workers) as pool:
        for number, (one, cell) in enumerate(zip(missing, pool.map(_safely, missing), strict=True), 1):
            write_atomically(folder / _name(*one), json.dumps(cell).encode())
            say(f"{number} of {len(missing)}: {_name(*one)} accuracy {np.mean(cell['test'][-1]):.3f}")
    return [read_json(folder / _name(*one)) for one in wanted]


def _safely(one: tuple[str, str, dict[str, Any], int]) -> dict[str, Any]:
    return run_cell(*one)


def _best(cells: Sequence[Mapping[str, Any]], kind: str, method: str) -> dict[str, Any]:
    """The settings with the best mean validation accuracy at the end."""
    found: dict[str, list[float]] = {}
    named: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if (cell["stream"], cell["method"]) == (kind, method):
            key = json.dumps(cell["settings"], sort_keys=True)
            named[key] = cell["settings"]
            found.setdefault(key, []).append(cell["valid"])
    return named[max(found, key=lambda key: float(np.mean(found[key])))]


def _row(cells: Sequence[Mapping[str, Any]], kind: str, method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    own = [c for c in cells if (c["stream"], c["method"]) == (kind, method) and c["settings"] == dict(settings)]
    found = [transfer(cell["test"], cell["start"]) for cell in own]
    row: dict[str, Any] = {"method": method, "settings": dict(settings), "seeds": len(own)}
    for key in asdict(found[0]):
        row[key], row[f"{key}_half"] = interval([getattr(one, key) for one in found])
    row["nbytes"] = max(cell["nbytes"] for cell in own)
    row["ending_seconds"] = float(np.median([cell["ending_seconds"] / len(cell["test"]) for cell in own]))
    row["step_seconds"] = float(np.median([cell["seconds"] / cell["steps"] for cell in own]))
    row["accuracies"] = [one.accuracy for one in found]
    return row


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean and half the length of its interval, by Student's t over seeds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return mean, float(half)
