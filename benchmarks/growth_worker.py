"""One point of the growth curves, in a process of its own: a fully connected net on Fashion-MNIST.

    python -m benchmarks.growth_worker pairs thalweg WORKLOAD_FOLDER OUT.json SETTINGS.json

The settings: k, samples, width of both hidden layers (None for the workload's own net and weights) and training steps.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.peer_measure import forget_peak, gradient_seconds, peak
from benchmarks.workloads import Loaded, load, mean_loss, problem_of

from thalweg.solvers.lanczos import eigenpairs
from thalweg.tasks.fashion_mnist import draw, fashion_mnist_task

TOL = 1e-3
BATCH = 250
"""Divides all numbers of samples but the smallest."""

RATE = 0.05


def workload_of(folder: Path, settings: dict[str, Any]) -> Loaded:
    """The prepared net on other data, or a net of another width, trained for a few steps.

    Args:
        folder: of the prepared net.
        settings: of the point.
    """
    given = load(folder)
    samples, width = settings["samples"], settings["width"]
    if width is None:
        if samples is None:
            return given
        inputs, targets = draw("train", samples, seed=1)
        return dataclasses.replace(given, inputs=inputs, targets=targets, batch=min(BATCH, samples))
    model = fashion_mnist_task(hidden=(width, width), samples=samples, held_out=1).model
    inputs, targets = draw("train", samples, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for step in range(settings["steps"]):
        chosen = torch.randperm(samples, generator=torch.Generator().manual_seed(step))[:64]
        optimizer.zero_grad()
        mean_loss(model, (inputs[chosen], targets[chosen])).backward()
        optimizer.step()
    optimizer.zero_grad()
    return Loaded("mlp", f"width {width}", model.eval(), inputs, targets, min(BATCH, samples))


def measure(workload: Loaded, k: int) -> dict[str, Any]:
    """Seconds, products, gradients and memory of k pairs, from model and data on.

    Args:
        workload: model and data.
        k: pairs.
    """
    repeats = 3 if workload.samples * sum(p.numel() for p in workload.parameters()) < 2e10 else 1
    unit = gradient_seconds(workload, repeats=repeats)
    before = forget_peak()
    start = time.perf_counter()
    hessian = problem_of(workload).hessian()
    made = time.perf_counter()
    pairs = eigenpairs(hessian, k, tol=TOL)
    end = time.perf_counter()
    assert pairs.converged is not None
    assert pairs.values is not None
    return {
        "samples": workload.samples,
        "parameters": hessian.shape[0],
        "pairs": k,
        "seconds": end - start,
        "making": made - start,
        "products": pairs.matvecs,
        "gradient_seconds": unit,
        "product_seconds": (end - made) / pairs.matvecs,
        "bytes_grown": max(0, peak() - before),
        "graphs_rebuilt": pairs.provenance.get("graphs_rebuilt", 0),
        "converged": bool(pairs.converged.all()),
        "largest": float(pairs.values[0]),
        "threads": torch.get_num_threads(),
    }


def main(arguments: list[str]) -> None:
    _, _, folder, out, given = arguments
    settings = json.loads(Path(given).read_text())
    Path(out).write_text(json.dumps(measure(workload_of(Path(folder), settings), settings["k"])))


if __name__ == "__main__":
    main(sys.argv[1:])
