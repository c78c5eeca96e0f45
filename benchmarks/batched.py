"""Several products with one kept graph: one after the other, and batched through it by vmap.

    python -m benchmarks.batched [--vectors 4 16] [--samples 64] [--repeats 5]

The gradient's graph of one batch of each built-in task; both ways in turn, the least of the repeats.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from benchmarks.results import Report, options
from torch import Tensor

from thalweg.batches import map_batch
from thalweg.study import TRAININGS

ABOUT = """\
## Several products at once

Products of the Hessian of one batch with several vectors, through one kept graph: as backward passes one after the
other, and as one batched pass (`torch.autograd.grad(..., is_grads_batched=True)`). *ratio*: batched over one after the
other."""


def ways(name: str, samples: int, vectors: int) -> tuple[Callable[[], list[Any]], Callable[[], list[Any]]]:
    """Both ways of multiplying with the same random vectors.

    Args:
        name: of a task of the study.
        samples: of the batch.
        vectors: how many.
    """
    task = TRAININGS[name].make(0)
    batch = map_batch(lambda leaf: leaf[:samples] if isinstance(leaf, Tensor) else leaf, next(iter(task.train)))
    problem = task.problem().on([batch])
    with problem.evaluating():
        parameters = problem.parameters()
        loss = next(iter(problem.terms())).loss()
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    draw = torch.Generator().manual_seed(0)
    several = [torch.randn(vectors, *p.shape, generator=draw) for p in parameters]

    def apart() -> list[Any]:
        products = [
            torch.autograd.grad(gradients, parameters, [v[i] for v in several], retain_graph=True)
            for i in range(vectors)
        ]
        return [torch.stack(parts) for parts in zip(*products, strict=True)]

    def batched() -> list[Any]:
        return list(torch.autograd.grad(gradients, parameters, several, retain_graph=True, is_grads_batched=True))

    return apart, batched


def line(name: str, samples: int, vectors: int, repeats: int) -> str:
    """A row of the table; arguments as for `ways`, and how often each is timed."""
    one, other = ways(name, samples, vectors)
    error = max(float((a - b).norm() / a.norm()) for a, b in zip(one(), other(), strict=True) if bool(a.any()))
    spent: dict[Any, list[float]] = {one: [], other: []}
    for _ in range(repeats):
        for way, seconds in spent.items():
            start = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - start)
    first, second = min(spent[one]), min(spent[other])
    return f"| {name} | {vectors} | {first:.3g} | {second:.3g} | {second / first:.2f} | {error:.0e} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("batched", __doc__, repeats=5)
    parser.add_argument("--vectors", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--samples", type=int, default=64)
    chosen = parser.parse_args(arguments)
    report = Report("batched", "batched", ABOUT, chosen, arguments)
    lines = [
        "| task | vectors | one after the other, s | batched, s | ratio | relative difference |",
        "|---|" + "---|" * 5,
    ]
    for name in ("digits",) if chosen.quick else TRAININGS:
        for vectors in chosen.vectors:
            lines.append(line(name, chosen.samples, vectors, chosen.repeats))
            print(lines[-1], flush=True)
    report.section("tasks", f"Batches of {chosen.samples} samples", lines)


if __name__ == "__main__":
    main()
