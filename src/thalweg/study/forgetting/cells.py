"""Cells: one stream learned by one method with one seed, kept in a file so that nothing is run twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thalweg.measurement.base import Say
from thalweg.runs import read_json, write_atomically
from thalweg.study.forgetting.kinds import ALONG, KINDS, LEARNERS, OWN

Wanted = tuple[str, str, dict[str, Any], int]
"""Stream, method, settings, seed."""

SOURCES = {"texts": "texts.py", "pretrained": "pretrained.py"}
"""Files beside `streams.py` that a stream is made by."""


def run_cell(
    kind: str, method: str, settings: Mapping[str, Any], seed: int, tasks: int | None = None
) -> dict[str, Any]:
    """One stream learned by one method.

    Args:
        kind: of KINDS.
        method: of LEARNERS.
        settings: the method's, and "rate".
        seed: of samples, weights and order.
        tasks: the first so many; all unless given.

    Raises:
        InputError: if what the stream is made of is not on this machine.
    """
    torch.set_num_threads(1)
    which = KINDS[kind]
    lessons = which.lessons(seed, tasks or which.tasks)
    model, learner = which.net(seed), LEARNERS[method](settings)
    draw = torch.Generator().manual_seed(seed + 1)
    test, valid = [], []
    start = [lesson.accuracy(model, lesson.test) for lesson in lessons]
    training = ending = 0.0
    steps = 0
    for number, lesson in enumerate(lessons):
        optimizer = which.optimizer(model, settings["rate"])
        begun = time.perf_counter()
        learner.begin(model, optimizer)
        for chosen in () if number < which.known else _batches(which.epochs, which.batch, len(lesson.train[1]), draw):
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


def _batches(epochs: int, batch: int, count: int, draw: torch.Generator) -> Iterator[torch.Tensor]:
    for _ in range(epochs):
        yield from torch.split(torch.randperm(count, generator=draw)[: count // batch * batch], batch)


def run_cells(folder: Path, wanted: Sequence[Wanted], workers: int, say: Say | None) -> list[dict[str, Any]]:
    """The cells in their order; those that are not in the folder are run and kept.

    Args:
        folder: of the files.
        wanted: which.
        workers: processes.
        say: called with a line for each cell that is run.
    """
    say = say or (lambda line: None)
    missing = [one for one in wanted if not (folder / _name(*one)).is_file()]
    with ProcessPoolExecutor(workers) as pool:
        for number, (one, cell) in enumerate(zip(missing, pool.map(_run, missing), strict=True), 1):
            write_atomically(folder / _name(*one), json.dumps(cell).encode())
            say(f"{number} of {len(missing)}: {_name(*one)} accuracy {np.mean(cell['test'][-1]):.3f}")
    return [read_json(folder / _name(*one)) for one in wanted]


def _run(one: Wanted) -> dict[str, Any]:
    return run_cell(*one)


def _name(kind: str, method: str, settings: Mapping[str, Any], seed: int) -> str:
    told = "-".join(f"{key}{value:g}" for key, value in settings.items())
    return f"{kind}-{method}-{told}-{seed}-{_code(kind, method)}.json"


@cache
def _code(kind: str, method: str) -> str:
    """A mark of the code that a cell was made with, so that no two versions are mixed."""
    here = Path(__file__).parent
    files = [here / name for name in ("cells.py", "lessons.py", "streams.py", "rivals.py")]
    if kind in SOURCES:
        files.append(here / SOURCES[kind])
    if method in (*OWN, *ALONG):
        files += [here / "guarded.py", *sorted((here.parents[1] / "protect").glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]
