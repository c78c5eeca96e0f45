"""What one Hessian product costs, what Lanczos adds to its products, and what all layers' largest eigenvalues cost.

    python -m benchmarks.products [--workload mlp ...] [--quick]

The unit is one gradient of all samples. Both sides are timed at several batch sizes, and each is taken at its best.
Writes its tables into benchmarks/RESULTS.md (with --quick only prints them).
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmarks.peer_environment import machine, peer_python, write_section
from benchmarks.peer_measure import gradient_seconds, seconds
from benchmarks.peers import RESULTS, child, say
from benchmarks.workloads import WORKLOADS, Loaded, load, prepare
from torch import Tensor

import thalweg as tw
from thalweg.tasks.fashion_mnist import cross_entropy_of_output, output_of_inputs

LIMITS = {"mlp": 1.45, "resnet": 2.4, "transformer": 2.05}
"""What the order asks of a product, in gradients."""


def problem_of(workload: Loaded, batch: int | None = None) -> tw.Problem:
    """thalweg's problem on a workload.

    Args:
        workload: model and data.
        batch: samples of a batch; as given unless said.
    """
    return tw.Problem(workload.model, tw.Loss(output_of_inputs, cross_entropy_of_output), workload.batches(batch))


def product_costs(workload: Loaded) -> list[str]:
    """Gradient and product at each batch size, and both at their best.

    thalweg may cut the batches it is given otherwise, so its column says what it made of them.
    """
    vector = torch.randn(sum(p.numel() for p in workload.parameters()), generator=torch.Generator().manual_seed(0))
    lines = [
        "| batches of | gradient, s | product, s | chunk that thalweg chose | its making, s |",
        "|---|---|---|---|---|",
    ]
    gradients, products = {}, {}
    for size in workload.batch_sizes():
        gradients[size] = gradient_seconds(workload, size)
        start = time.perf_counter()
        hessian = problem_of(workload, size).hessian()
        making = time.perf_counter() - start
        products[size] = seconds(functools.partial(hessian.__matmul__, vector))
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


def lanczos_overhead(workload: Loaded) -> list[str]:
    """The share of `eigenpairs` that is not spent in products."""
    hessian = problem_of(workload).hessian()
    inner = hessian.multiply
    inside = [0.0]

    def timed(vectors: Tensor) -> Tensor:
        start = time.perf_counter()
        result = inner(vectors)
        inside[0] += time.perf_counter() - start
        return result

    hessian.multiply = timed  # type: ignore[method-assign]
    hessian.matvec(torch.ones(hessian.shape[0]))  # the first product pays for more than itself
    inside[0] = 0.0
    start = time.perf_counter()
    pairs = tw.eigenpairs(hessian, k=10)
    whole = time.perf_counter() - start
    share = (whole - inside[0]) / whole
    return [
        f"Lanczos outside its {pairs.matvecs} products: **{share:.1%}** of {whole:.3g} s "
        f"(asked: at most 5 %; {'met' if share <= 0.05 else 'missed'})."
    ]


def all_layers(workload: Loaded, folder: Path) -> list[str]:
    """All layers' largest eigenvalues: `layer_spectra` against hessian-eigenthings with `param_filter`."""
    peer = child("layers", "eigenthings", folder, folder / "layers.json")
    unit = gradient_seconds(workload)
    start = time.perf_counter()
    table = tw.layer_spectra(problem_of(workload), k=1)
    ours = time.perf_counter() - start
    rows = {row["layer"]: row for row in table}
    theirs = peer["layers"]
    apart = [abs(rows[name]["values"][0] - one["value"]) / abs(one["value"]) for name, one in theirs.items()]
    ratio = (peer["seconds"] / peer["gradient_seconds"]) / (ours / unit)
    return [
        f"Largest eigenvalue of each of {len(theirs)} layers: thalweg {ours:.3g} s ({ours / unit:.0f} gradients, "
        f"{sum(row['matvecs'] for row in rows.values())} products, the whole network's included), hessian-eigenthings "
        f"layer by layer {peer['seconds']:.3g} s ({peer['seconds'] / peer['gradient_seconds']:.0f} gradients, "
        f"{peer['products']} products, batches of {peer['batch']}): **{ratio:.1f}× less cost** in gradients, "
        f"{peer['seconds'] / ours:.1f}× in seconds (asked: at least 5; {'met' if ratio >= 5 else 'missed'}). "
        f"Their values differ by at most {max(apart):.1e}, relatively."
    ]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.products", description=__doc__.splitlines()[0])
    parser.add_argument("--workload", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes; checks that everything runs, times nothing")
    parser.add_argument("--out", type=Path, default=None, help="Markdown file; benchmarks/RESULTS.md unless --quick")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = parse(arguments)
    out = chosen.out or (None if chosen.quick else RESULTS)
    peer_python()
    parts = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in chosen.workload:
            say(f"{name}: training")
            folder = prepare(name, Path(scratch), chosen.quick)
            workload = load(folder)
            say("  products")
            lines = [f"### {workload.title}", "", *product_costs(workload)]
            say("  Lanczos")
            lines += ["", *lanczos_overhead(workload)]
            say("  layers")
            lines += ["", *all_layers(workload, folder)]
            parts.append("\n".join(lines))
    command = " ".join(["python -m benchmarks.products", *(arguments if arguments is not None else sys.argv[1:])])
    place = machine(command, torch.get_num_threads())
    text = "\n\n".join(["## What products, Lanczos and layers cost", place, *parts])
    print(text)
    if out is not None:
        write_section(out, "products", text)


if __name__ == "__main__":
    main()
