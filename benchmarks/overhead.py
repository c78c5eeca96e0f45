"""What `eigenpairs` spends outside products, and what making the operator costs.

    python -m benchmarks.overhead [--workload mlp ...] [--repeats 3] [--quick]

Ten pairs with the basis in memory; the operator is wrapped in one that times its products.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar
from unittest.mock import patch

from benchmarks.peer_measure import gradient_seconds, say
from benchmarks.results import Report, options, through_workloads
from benchmarks.workloads import Loaded, load, problem_of

from thalweg.operators import chunking
from thalweg.operators.base import FunctionOperator, Operator
from thalweg.operators.hessian import HessianOperator, gradient_graphs
from thalweg.solvers.lanczos import eigenpairs

P, R = ParamSpec("P"), TypeVar("R")
K = 10
LIMIT = 0.05
"""Share of `eigenpairs` that the order allows outside products."""

ABOUT = f"""\
## What is spent beside the products

`eigenpairs` with k = {K} and the basis in memory, on an operator that times its products: *Lanczos* is what is left,
reorthogonalisation, Ritz pairs, the vectors and their certificate (whose products count as products). Making the
operator is split: *problem* surveys the data (a fingerprint of each batch); *choosing the chunk* judges what fits the
memory and times products at a few sizes; *checking it* compares loss and gradient of both cuts; *building graphs*
computes the gradients that products run through. *share* is of everything from model and data to pairs. Medians of the
repeats."""

STAGES = ("problem", "choosing the chunk", "checking it", "building graphs", "products", "Lanczos")


def clocked(action: Callable[P, R], spent: list[float]) -> Callable[P, R]:
    """The same function, which appends the seconds of each call to a list.

    Args:
        action: any.
        spent: grows.
    """

    def timed(*arguments: P.args, **named: P.kwargs) -> R:
        start = time.perf_counter()
        result = action(*arguments, **named)
        spent.append(time.perf_counter() - start)
        return result

    return timed


def timing(operator: Operator, spent: list[float]) -> FunctionOperator:
    """The same operator, its products timed as by `clocked`.

    Args:
        operator: any.
        spent: grows.
    """
    multiply = clocked(lambda vector: operator.multiply(vector.unsqueeze(0))[0], spent)
    about, size = operator.describe(), operator.shape[0]
    return FunctionOperator(multiply, size, operator.dtype, operator.device, operator.space, about)


def stages(workload: Loaded) -> tuple[dict[str, float], int]:
    """Seconds of each stage from model and data to pairs, and the number of products.

    Args:
        workload: model and data.
    """
    start = time.perf_counter()
    problem = problem_of(workload)
    problem.describe()
    surveyed = time.perf_counter()
    checks: list[float] = []
    builds: list[float] = []
    home = sys.modules[type(problem).graphs.__module__]
    with (
        patch.object(chunking, "loss_and_gradient", clocked(chunking.loss_and_gradient, checks)),
        patch.object(home, "gradient_graphs", clocked(gradient_graphs, builds)),
    ):
        graphs = problem.graphs()
    made = time.perf_counter()
    products: list[float] = []
    operator = timing(HessianOperator(graphs), products)
    searching = time.perf_counter()
    pairs = eigenpairs(operator, K, tol=1e-3, basis="memory")
    whole = time.perf_counter() - searching
    assert pairs.matvecs == len(products)
    seconds = (
        surveyed - start,
        made - surveyed - sum(checks) - sum(builds),
        sum(checks),
        sum(builds),
        sum(products),
        whole - sum(products),
    )
    return dict(zip(STAGES, seconds, strict=True)), len(products)


def overhead(folder: Path, repeats: int) -> list[str]:
    """The stages of one workload as Markdown.

    Args:
        folder: of the workload.
        repeats: medians are taken over so many.
    """
    workload = load(folder)
    unit = gradient_seconds(workload)  # also warms up
    runs: dict[str, list[float]] = defaultdict(list)
    for number in range(repeats):
        spent, products = stages(workload)
        for name, value in spent.items():
            runs[name].append(value)
        said = ", ".join(f"{name} {value:.3g} s" for name, value in spent.items())
        say(f"  repeat {number + 1} of {repeats}: {said}")
    middle = {name: statistics.median(values) for name, values in runs.items()}
    total = sum(middle.values())
    shares = [lanczos / (lanczos + inside) for lanczos, inside in zip(runs["Lanczos"], runs["products"], strict=True)]
    share = statistics.median(shares)
    lines = ["| stage | seconds | gradients | share |", "|---|---|---|---|"]
    lines += [f"| {name} | {value:.3g} | {value / unit:.2f} | {value / total:.1%} |" for name, value in middle.items()]
    return [
        *lines,
        f"| all | {total:.3g} | {total / unit:.1f} | |",
        "",
        f"Lanczos outside its {products} products: **{share:.1%}** of `eigenpairs` (from {min(shares):.1%} to "
        f"{max(shares):.1%}; asked: at most {LIMIT:.0%}; {'met' if share <= LIMIT else 'missed'}). One gradient "
        f"{unit:.3g} s.",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = options("overhead", __doc__, repeats=3).parse_args(arguments)
    report = Report("overhead", "overhead", ABOUT, chosen, arguments)
    through_workloads(report, chosen, functools.partial(overhead, repeats=chosen.repeats))


if __name__ == "__main__":
    main()
