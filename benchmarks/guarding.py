"""What a guard costs each step of training.

    python -m benchmarks.guarding [--workload mlp ...] [--repeats 3] [--quick]

The workload's own training goes on from its weights: blocks of plain steps and of guarded ones take turns in one
process, and the ratio of the blocks' median times is what is reported.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from benchmarks.peer_measure import say
from benchmarks.results import Report, options, through_workloads
from benchmarks.workloads import Loaded, load, mean_loss, problem_of
from torch import Tensor

from thalweg.protect.guard import guard
from thalweg.protect.remember import remember
from thalweg.protect.shields import KroneckerShield

BATCHES = (32, 128)
BLOCK = 10
"""Steps in a row of the same kind; one of them takes the guard's soft part."""

LIMIT = 1.3
ABOUT = f"""\
## What a guard costs

A step of SGD with momentum beside the same under `tw.guard`, which knows what `tw.remember` measured on 500
samples. Blocks of {BLOCK} steps take turns in one process; *ratio* is that of the blocks' medians, and should be at
most {LIMIT}. *rank 64* keeps so many input directions a layer. Memory is that of the knowledge, beside the weights'
own."""


def measure(folder: Path, repeats: int) -> list[str]:
    """One workload."""
    workload = load(folder)
    lines = [
        "| batch | knowledge | plain step | guarded | ratio | memory | weights | hard of all input directions |",
        "|---|---|---|---|---|---|---|---|",
    ]
    problem = problem_of(workload)
    for rank in (None, 64):
        known = remember(problem, samples=500, rank=rank)
        maps = [shield for shield in known.shields if isinstance(shield, KroneckerShield)]
        hard = f"{sum(s.hard_count for s in maps)} of {sum(s.inputs.shape[0] for s in maps)}"
        for batch in BATCHES:
            plain, guarded = _steps(workload, known, batch, repeats)
            weights = sum(p.nbytes for p in workload.model.parameters()) / 2**20
            kept = "full" if rank is None else f"rank {rank}"
            times = f"{1000 * plain:.2f} ms | {1000 * guarded:.2f} ms | {guarded / plain:.2f}"
            lines.append(
                f"| {batch} | {kept} | {times} | {known.nbytes / 2**20:.1f} MiB | {weights:.1f} MiB | {hard} |"
            )
            say(lines[-1])
    return lines


def _steps(workload: Loaded, known: object, batch: int, repeats: int) -> tuple[float, float]:
    model = workload.model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    batches = _cut(workload, batch)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * repeats + 2):
        held = guard(optimizer, known, model=model, moved=True) if number % 2 else None  # type: ignore[arg-type]
        begun = time.perf_counter()
        for _ in range(BLOCK):
            optimizer.zero_grad()
            mean_loss(model, next(batches)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        seconds[held is not None].append((time.perf_counter() - begun) / BLOCK)
        if held is not None:
            held.remove()
    return statistics.median(seconds[False]), statistics.median(seconds[True])


def _cut(workload: Loaded, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    size = min(size, len(workload.inputs))
    while True:
        for start in range(0, len(workload.inputs) - size + 1, size):
            yield workload.inputs[start : start + size], workload.targets[start : start + size]


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = options("guarding", __doc__, repeats=3).parse_args(arguments)
    report = Report("guarding", "guarding", ABOUT, chosen, arguments)
    through_workloads(report, chosen, lambda folder: measure(folder, chosen.repeats))


if __name__ == "__main__":
    main()
