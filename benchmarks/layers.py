"""All layers' largest Hessian eigenvalues: `layer_spectra` in one sweep beside hessian-eigenthings layer by layer.

    python -m benchmarks.layers [--workload mlp ...] [--repeats 1] [--quick]

Each contestant works in a process of its own on the same weights and samples. hessian-eigenthings has its fastest batch
size and, for each layer, the number of steps that just converges given to it; neither is charged.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peer_environment import OURS, child, peer_python
from benchmarks.peer_measure import say
from benchmarks.results import Report, options, through_workloads

PEER = "eigenthings"
WANTED = 5
"""How many times less than the peer's the order asks the cost to be."""

AGREES = 2e-3
"""How far values may differ, relatively: twice the residual at which both stop."""

Record = dict[str, Any]

ABOUT = """\
## The largest eigenvalue of every layer

thalweg: `layer_spectra(problem, k=1, tol=1e-3)` from model and data on, its graphs and its choice of a chunk included;
the first row with the whole network's largest eigenvalue, which it gives too, the second without the time of that.
hessian-eigenthings: an operator with `param_filter` and its Lanczos for one layer after the other, from model and data
on, at its fastest batch size and with the number of steps that just converges to 1e-3 for each layer; finding these was
not charged. *gradients*: seconds over those of one gradient of all samples in the batches as given, measured before and
after in the same process. *memory*: growth of the process's resident memory."""


def compare(folder: Path, repeats: int) -> list[str]:
    """Both contestants on one workload, as Markdown.

    Args:
        folder: of the workload.
        repeats: interleaved; medians are told.
    """

    def process(mode: str, name: str, settings: Record) -> Record:
        return child("layer_worker", mode, name, folder, folder / f"layers-{mode}-{name}.json", settings)

    say("  foretelling the numbers of steps")
    settings = process("reference", OURS, {})
    say(f"  tuning {PEER}")
    settings |= process("tune", PEER, {})
    runs: dict[str, list[Record]] = {OURS: [], PEER: []}
    for number in range(repeats):
        for name in (OURS, PEER) if number % 2 == 0 else (PEER, OURS):
            runs[name].append(process("run", name, settings))
            last = runs[name][-1]
            say(f"  {name}: {last['seconds']:.3g} s, {last['products']} products")
    alone = [
        {**run, "seconds": run["seconds_without_network"], "products": run["products_of_layers"]} for run in runs[OURS]
    ]
    return [
        "| | seconds | products | gradients | memory, MiB |",
        "|---|---|---|---|---|",
        row("**thalweg**, with the whole network's", runs[OURS]),
        row("**thalweg**, layers alone", alone),
        row(f"hessian-eigenthings, batches of {settings['batch']}, steps given", runs[PEER]),
        "",
        verdict(runs[OURS], runs[PEER], alone),
    ]


def row(label: str, runs: Sequence[Record]) -> str:
    """One contestant's medians.

    Args:
        label: what it is called.
        runs: its repeats.
    """
    cells = [
        label,
        f"{_median(runs, lambda run: run['seconds']):.3g}",
        f"{_median(runs, lambda run: run['products']):.0f}",
        f"{_median(runs, _gradients):.0f}",
        f"{_median(runs, lambda run: run['bytes_grown']) / 2**20:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def verdict(ours: Sequence[Record], theirs: Sequence[Record], alone: Sequence[Record]) -> str:
    """How many times less it costs, and whether the values agree.

    Args:
        ours: runs with the whole network's eigenvalue.
        theirs: the peer's.
        alone: runs without.
    """
    mine, other = ours[-1]["values"], theirs[-1]["values"]
    if set(mine) != set(other):
        raise ValueError(f"the layers differ: {sorted(set(mine) ^ set(other))}")
    apart = {name: abs(mine[name] - value) / max(abs(value), 1e-12) for name, value in other.items()}
    worst = max(apart, key=lambda name: apart[name])
    ratio, without = (_median(theirs, _gradients) / _median(runs, _gradients) for runs in (ours, alone))
    plain = _median(theirs, lambda run: run["seconds"]) / _median(ours, lambda run: run["seconds"])
    agreement = "agree" if apart[worst] <= AGREES else "DISAGREE"
    return (
        f"{len(mine)} layers, {len(ours)} repeats: **{ratio:.1f}× less cost** in gradients, {plain:.1f}× in seconds; "
        f"{without:.1f}× in gradients without the network's (asked: at least {WANTED}; "
        f"{'met' if ratio >= WANTED else 'missed'}). The values {agreement}: they "
        f"differ by at most {apart[worst]:.1e}, relatively, in {worst}; thalweg's largest residual over its layer's "
        f"eigenvalue is {ours[-1]['residual']:.1e}."
    )


def _gradients(run: Record) -> float:
    return float(run["seconds"] / run["gradient_seconds"])


def _median(runs: Sequence[Record], value: Any) -> float:
    return float(statistics.median(value(run) for run in runs))


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = options("layers", __doc__, repeats=1).parse_args(arguments)
    peer_python()
    report = Report("layers", "layers", ABOUT, chosen, arguments, peers=True)
    through_workloads(report, chosen, functools.partial(compare, repeats=chosen.repeats))


if __name__ == "__main__":
    main()
