"""A warm start of `eigenpairs` from the pairs of an earlier checkpoint, against a cold one.

    python -m benchmarks.warm [--workload mlp transformer] [--repeats 3] [--quick]

The checkpoints lie 1, 10 and 50 training steps before the end (1, 3 and 4 with --quick).
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peer_measure import say
from benchmarks.results import Report, options, through_workloads
from benchmarks.workloads import load, problem_of

from thalweg.directions import Directions
from thalweg.operators.base import Operator
from thalweg.solvers.lanczos import eigenpairs

STEPS = (1, 10, 50)
QUICK_STEPS = (1, 3, 4)
KS = (1, 10)
TOL = 1e-3

ABOUT = f"""\
## Warm start against cold

The largest eigenpairs at the end of training, from a random vector (*cold*) and from the pairs of a checkpoint some
steps before (*warm*: `start=` those pairs, found there with the same k); both on the same operator at residual
{TOL:g}·λ₁, its making not counted. Medians over seeds, which change both starts; a ratio below 1 means that warm is
cheaper. Promise yourself little: Lanczos spends its products on telling the wanted values from the rest."""


@dataclass(frozen=True)
class Spent:
    """What one search took.

    Attributes:
        products: of the operator.
        seconds: all of it.
    """

    products: int
    seconds: float


def search(operator: Operator, k: int, seed: int, start: Directions | None) -> Spent:
    """One search for k pairs.

    Args:
        operator: the Hessian.
        k: pairs.
        seed: of the random start, or of the random part in a warm one.
        start: earlier pairs, None for a cold start.
    """
    began = time.perf_counter()
    pairs = eigenpairs(operator, k, tol=TOL, seed=seed, start=start)
    seconds = time.perf_counter() - began
    assert pairs.converged is not None
    if not bool(pairs.converged.all()):
        raise ArithmeticError(f"not all of {k} pairs converged: {pairs.provenance['reason']}")
    return Spent(pairs.matvecs, seconds)


def compare(folder: Path, steps: Sequence[int], repeats: int) -> list[str]:
    """Cold and warm on one workload, as Markdown.

    Args:
        folder: of the workload.
        steps: checkpoints, in steps before the end.
        repeats: how many seeds.
    """
    earlier = {}
    for before in steps:
        say(f"  pairs {before} steps before the end")
        operator = problem_of(load(folder, before)).hessian()
        earlier[before] = {k: eigenpairs(operator, k, tol=TOL) for k in KS}
        del operator  # and its graphs, before the next one's are built
    operator = problem_of(load(folder)).hessian()
    eigenpairs(operator, 1, tol=TOL)  # warms up the machine
    lines = [
        "| k | steps between | products, cold | products, warm | seconds, cold | seconds, warm | "
        "products, warm / cold | seconds, warm / cold |",
        "|---|" + "---|" * 7,
    ]
    for k in KS:
        starts: dict[int, Directions | None] = {0: None, **{before: earlier[before][k] for before in steps}}
        runs: dict[int, list[Spent]] = {before: [] for before in starts}
        for seed in range(1, repeats + 1):
            for before, start in starts.items():
                runs[before].append(search(operator, k, seed, start))
            say(f"  k = {k}, seed {seed}: " + ", ".join(f"{spent[-1].products}" for spent in runs.values()))
        lines += [row(k, before, runs[0], runs[before]) for before in steps]
    return lines


def row(k: int, before: int, cold: Sequence[Spent], warm: Sequence[Spent]) -> str:
    """Medians of one pairing.

    Args:
        k: pairs.
        before: steps between the checkpoints.
        cold: its runs.
        warm: its runs, with the same seeds.
    """

    def middle(values: Sequence[float]) -> float:
        return float(statistics.median(values))

    couples = list(zip(cold, warm, strict=True))
    cells = [
        f"{k}",
        f"{before}",
        *(f"{middle([run.products for run in runs]):.0f}" for runs in (cold, warm)),
        *(f"{middle([run.seconds for run in runs]):.3g}" for runs in (cold, warm)),
        f"**{middle([other.products / one.products for one, other in couples]):.2f}**",
        f"**{middle([other.seconds / one.seconds for one, other in couples]):.2f}**",
    ]
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("warm", __doc__, repeats=3)
    parser.set_defaults(workload=["mlp", "transformer"])
    chosen = parser.parse_args(arguments)
    steps = QUICK_STEPS if chosen.quick else STEPS
    report = Report("warm", "warm", ABOUT, chosen, arguments)
    measure = functools.partial(compare, steps=steps, repeats=chosen.repeats)
    through_workloads(report, chosen, measure, checkpoints=steps)


if __name__ == "__main__":
    main()
