"""All layers' largest eigenvalues by one contestant on one workload, in a process of its own.

    python -m benchmarks.layer_worker reference thalweg WORKLOAD_FOLDER OUT.json SETTINGS.json
    python -m benchmarks.layer_worker tune eigenthings WORKLOAD_FOLDER OUT.json SETTINGS.json
    python -m benchmarks.layer_worker run CONTESTANT WORKLOAD_FOLDER OUT.json SETTINGS.json

`reference` foretells for each layer how many steps just converge from the peer's start vector; `tune` finds its fastest
batch size. Neither is charged to it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peer_measure import forget_peak, gradient_seconds, peak, say
from benchmarks.peer_reference import AIM, SEED, lanczos, start_vector
from benchmarks.peer_worker import Eigenthings, attention, fastest, flat_targets
from benchmarks.workloads import Flat, Loaded, load, problem_of
from torch import nn

from thalweg.analysis.layers import layer_spectra
from thalweg.operators.hessian import HessianOperator

TOL = 1e-3
Record = dict[str, Any]


@contextmanager
def measured(record: Record) -> Iterator[None]:
    """Put seconds and growth of memory into a record."""
    before = forget_peak()
    start = time.perf_counter()
    yield
    record["seconds"] = time.perf_counter() - start
    record["bytes_grown"] = peak() - before


def reference(workload: Loaded) -> Record:
    """For each layer how many Lanczos steps do, by products on shared kept graphs."""
    problem = problem_of(workload)
    graphs = problem.graphs()
    steps = {}
    for layer in problem.space.layers:
        block = HessianOperator(graphs, [layer.name].__contains__)
        steps[layer.name] = len(lanczos(block.matvec, start_vector(layer.size), 1, AIM)[0])
    say(f"    {sum(steps.values())} steps do for {len(steps)} layers")
    return {"steps": steps}


def by_filter(workload: Loaded, settings: Record) -> Record:
    """hessian-eigenthings with `param_filter`, layer by layer, in the given number of steps."""
    from hessian_eigenthings import HessianOperator as TheirOperator
    from hessian_eigenthings import lanczos as run
    from hessian_eigenthings.loss_fns import supervised_loss

    record: Record = {"values": {}, "products": 0}
    with measured(record):
        data = flat_targets(workload.batches(settings["batch"]))
        loss = supervised_loss(nn.functional.cross_entropy)
        for layer, steps in settings["steps"].items():
            operator = TheirOperator(Flat(workload.model), data, loss, param_filter=_only(layer))
            result = run(operator, k=1, max_iter=steps, which="LA", reorthogonalize=True, seed=SEED)
            record["values"][layer] = float(result.eigenvalues[0])
            record["products"] += result.iterations
    return record


def _only(layer: str) -> Callable[[str, object], bool]:
    """True for the parameters that one module owns itself; `Flat` puts its own name before theirs."""
    return lambda name, _: name.rpartition(".")[0].removeprefix("model").removeprefix(".") == layer


def in_one_sweep(workload: Loaded, settings: Record) -> Record:
    """`layer_spectra` from model and data on; beside it, what that takes without the whole network's eigenvalue."""
    record: Record = {}
    moments: list[float] = []
    with measured(record):
        problem = problem_of(workload)
        graphs = problem.graphs()
        moments.append(time.perf_counter())
        table = layer_spectra(
            problem, k=1, tol=TOL, graphs=graphs, progress=lambda *_: moments.append(time.perf_counter())
        )
    rows = {row["layer"]: row for row in table}
    network = rows.pop("(network)")
    record["values"] = {name: row["values"][0] for name, row in rows.items()}
    record["residual"] = max(row["residuals"][0] / abs(row["values"][0]) for row in rows.values())
    record["products_of_layers"] = sum(row["matvecs"] for row in rows.values())
    record["products"] = record["products_of_layers"] + network["matvecs"]
    record["seconds_without_network"] = record["seconds"] - (moments[1] - moments[0])
    return record


def main(arguments: list[str]) -> None:
    mode, name, folder, out, given = arguments
    warnings.simplefilter("ignore")
    workload = load(Path(folder))
    settings = json.loads(Path(given).read_text())
    if mode == "reference":
        record = reference(workload)
    elif mode == "tune":
        with attention(name):
            record = {"batch": fastest(workload, lambda size: Eigenthings().operator(workload, size).matvec)[0]}
    else:
        before = gradient_seconds(workload)
        with attention(name):
            record = (in_one_sweep if name.startswith("thalweg") else by_filter)(workload, settings)
        record["gradient_seconds"] = statistics.mean((before, gradient_seconds(workload)))
    Path(out).write_text(json.dumps(record))


if __name__ == "__main__":
    main(sys.argv[1:])
