"""What one Hessian product costs, in gradients, each side at its best batch size.

    python -m benchmarks.products [--workload mlp ...] [--repeats 5] [--quick]

The unit is one gradient of all samples. Both sides are timed at several batch sizes, and each is taken at its best.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmarks.peer_measure import gradient_seconds, say, seconds
from benchmarks.results import Report, options, through_workloads
from benchmarks.workloads import load, problem_of

LIMITS = {"mlp": 1.45, "resnet": 2.4, "transformer": 2.05}
"""What the order asks of a product, in gradients."""


ABOUT = """\
## What one Hessian product costs

Median times of a gradient and of a product over all samples at each batch size; each side counts at its best. thalweg
may cut the batches it is given otherwise, so its column says what it made of them."""


def product_costs(folder: Path, chosen: argparse.Namespace) -> list[str]:
    """Gradient and product at each batch size, and both at their best.

    Args:
        folder: of the workload.
        chosen: the options.
    """
    workload = load(folder)
    vector = torch.randn(sum(p.numel() for p in workload.parameters()), generator=torch.Generator().manual_seed(0))
    lines = [
        "| batches of | gradient, s | product, s | chunk that thalweg chose | its making, s |",
        "|---|---|---|---|---|",
    ]
    gradients, products = {}, {}
    for size in workload.batch_sizes():
        gradients[size] = gradient_seconds(workload, size, chosen.repeats)
        start = time.perf_counter()
        hessian = problem_of(workload, size).hessian()
        making = time.perf_counter() - start
        products[size] = seconds(functools.partial(hessian.__matmul__, vector), chosen.repeats)
        say(f"  batches of {size}: gradient {gradients[size]:.3g} s, product {products[size]:.3g} s")
        chunk = hessian.describe().get("chunk") or "as given"
        given = " (as given)" if size == workload.batch else ""
        lines.append(f"| {size}{given} | {gradients[size]:.3g} | {products[size]:.3g} | {chunk} | {making:.3g} |")
        del hessian  # before the next one's graphs are built
    best, given = min(products.values()) / min(gradients.values()), products[workload.batch] / gradients[workload.batch]
    limit = LIMITS[workload.name]
    verdict = "met" if best <= limit else "missed"
    return [
        *lines,
        "",
        f"Each side at its best: **{best:.2f} gradients a product** (asked: at most {limit}; {verdict}). "
        f"With the batches as given: {given:.2f}.",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = options("products", __doc__, repeats=5).parse_args(arguments)
    report = Report("products", "products", ABOUT, chosen, arguments)
    through_workloads(report, chosen, functools.partial(product_costs, chosen=chosen))


if __name__ == "__main__":
    main()
