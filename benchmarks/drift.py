"""Level, power and half-lives of the drift test, on updates with and without a planted drift.

python -m benchmarks.drift [--part level power directions half-lives] [--runs 500] [--seed 1] [--quick]
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from benchmarks.peer_measure import say
from benchmarks.results import Report, options
from tests.analysis.planted import NO_DRIFT, SIZE, STATIONARY, UNEXPLAINED, Make, adam, cosine, roots, walk, well
from threadpoolctl import threadpool_limits

import thalweg.analysis.speeds as laws
from thalweg.analysis.block_means import block_means
from thalweg.analysis.drift_direction import find_direction
from thalweg.analysis.drift_test import drift_test
from thalweg.analysis.speeds import speeds

ABOUT = """\
## The drift test

Updates whose noise is known (`tests/analysis/planted.py`), P = 800, T = 500 unless said; s = T |μ|² over the noise's
energy of a step. Intervals are Wilson's at 95 %. Each row has seeds of its own."""

PARTS = ("level", "power", "directions", "half-lives")

ALONG_NOISE = roots(1.5) / np.linalg.norm(roots(1.5))
EVEN = np.full(SIZE, SIZE**-0.5)

POWER: dict[str, tuple[tuple[float, ...], Callable[[float], Make]]] = {
    "momentum 0.9, spectrum k^-1.5, flat direction": (
        (0.01, 0.03, 0.1, 0.3),
        lambda s: walk(power=1.5, momentum=0.9, strength=s),
    ),
    "along the noise": (
        (0.1, 0.3, 1.0),
        lambda s: walk(power=1.5, momentum=0.9, strength=s, along=ALONG_NOISE),
    ),
    "spectrum k^-1, flat direction": ((0.03, 0.1, 0.3), lambda s: walk(power=1.0, momentum=0.9, strength=s)),
    "isotropic": ((0.05, 0.1, 0.2), lambda s: walk(strength=s)),
    "gradient noise with memory 0.5, flat direction": (
        (0.03, 0.1, 0.3),
        lambda s: walk(power=1.5, momentum=0.9, memory=0.5, strength=s),
    ),
    "around a minimum, flat direction": ((0.01, 0.03, 0.1), lambda s: well(strength=s)),
    "cosine schedule, flat direction": (
        (0.03, 0.1),
        lambda s: walk(power=1.5, momentum=0.9, schedule=cosine, strength=s),
    ),
    "Adam": ((0.05, 0.1, 0.2), lambda s: adam(strength=s)),
    "T = 200, flat direction": ((0.03, 0.1), lambda s: walk(steps=200, power=1.5, momentum=0.9, strength=s)),
    "decaying, four time constants, flat direction": (
        (0.1, 0.3, 1.0),
        lambda s: walk(power=1.5, momentum=0.9, strength=s, decay=4.0),
    ),
}

DIRECTIONS: dict[str, Make] = {
    "momentum 0.9, spectrum k^-1.5, flat direction, s = 0.03": walk(power=1.5, momentum=0.9, strength=0.03),
    "… s = 0.1": walk(power=1.5, momentum=0.9, strength=0.1),
    "… s = 0.3": walk(power=1.5, momentum=0.9, strength=0.3),
    "… s = 1": walk(power=1.5, momentum=0.9, strength=1.0),
    "… s = 3": walk(power=1.5, momentum=0.9, strength=3.0),
    "spectrum k^-3, s = 0.03": walk(power=3.0, momentum=0.9, strength=0.03),
    "around a minimum, s = 0.03": well(strength=0.03),
    "around a minimum, s = 0.1": well(strength=0.1),
    "around a minimum, spectrum k^-3, s = 0.1": well(power=3.0, strength=0.1),
    "isotropic, s = 0.2": walk(strength=0.2),
    "isotropic, s = 3": walk(strength=3.0),
}


def power_law(time: np.ndarray) -> np.ndarray:
    """`(1 + 8 t/T)^−1.25`, as on the digits."""
    found: np.ndarray = (1 + 8 * time) ** -1.25
    return found


def heavy_ball(constants: float, steps: int = 500, momentum: float = 0.9) -> float:
    """κT of heavy ball in a well, a little more than the time constants that `η_eff λ T` promises."""
    middle = 1 + momentum - constants * (1 - momentum) / steps
    return -steps * math.log((middle + math.sqrt(middle**2 - 4 * momentum)) / 2)


HALF_LIVES: dict[str, tuple[float | None, Make, float]] = {
    "s = 0.3, four time constants": (4.0, walk(power=1.5, momentum=0.9, strength=0.3, decay=4.0), 0.0),
    "s = 1, four time constants": (4.0, walk(power=1.5, momentum=0.9, strength=1.0, decay=4.0), 0.0),
    "s = 0.3, two time constants": (2.0, walk(power=1.5, momentum=0.9, strength=0.3, decay=2.0), 0.0),
    "s = 0.1, two time constants": (2.0, walk(power=1.5, momentum=0.9, strength=0.1, decay=2.0), 0.0),
    "s = 1, two time constants, cosine schedule": (
        2.0,
        walk(power=1.5, momentum=0.9, strength=1.0, law=lambda t: np.exp(-2.0 * _cosine_clock(t)), schedule=cosine),
        0.0,
    ),
    "s = 0.1, constant": (0.0, walk(power=1.5, momentum=0.9, strength=0.1), 0.0),
    "noise falling tenfold, s = 0.3, two time constants": (
        2.0,
        walk(power=1.5, momentum=0.9, strength=0.3, decay=2.0, fading=10.0),
        0.0,
    ),
    "a quadratic well's own decay, s = 0.3": (heavy_ball(3.0), well(strength=0.3, decay=3.0), 0.0),
    "a quadratic well's own decay, s = 3": (heavy_ball(3.0), well(strength=3.0, decay=3.0), 0.0),
    "power law 1.25, s = 1, from the training's beginning": (
        None,
        walk(power=1.5, momentum=0.9, strength=1.0, law=power_law),
        500 / 8,
    ),
    "power law 1.25, s = 10": (None, walk(power=1.5, momentum=0.9, strength=10.0, law=power_law), 500 / 8),
}


def _cosine_clock(time: np.ndarray) -> np.ndarray:
    """Σ η so far over Σ η of the window."""
    done = 0.1 * time + 0.45 * (time + np.sin(np.pi * time) / np.pi)
    found: np.ndarray = done / 0.55
    return found


def tested(make: Make, seed: Sequence[int]) -> float:
    """The p-value of one run."""
    planted = make(np.random.default_rng(list(seed)))
    return drift_test(planted.gram, planted.rates, planted.momenta).p_value


def directed(make: Make, seed: Sequence[int]) -> tuple[float, float, float, float]:
    """Cosine with the truth, its estimate, the p-value, and the cosine that the best estimate would have.

    The best one knows the noise's covariance ω_k of every direction and the drift's length: `μ²/P / (μ²/P + ω_k / T)`
    of the mean's entries, Wiener's filter for a drift that may point anywhere.
    """
    planted = make(np.random.default_rng(list(seed)))
    test = drift_test(planted.gram, planted.rates, planted.momenta)
    found = find_direction(test.blocks, np.ones(len(test.blocks)))
    vector = (test.innovations.map.T @ found.coefficients) @ planted.updates
    mean = (test.innovations.map @ planted.updates).mean(axis=0)
    noise = (test.innovations.map @ planted.updates).var(axis=0) / len(test.innovations)
    truth = float(mean @ planted.drift) ** 2 / len(mean)
    best = mean * truth / (truth + noise)
    return (
        float(vector @ planted.drift / np.linalg.norm(vector)),
        found.cosine,
        test.p_value,
        float(best @ planted.drift / np.linalg.norm(best)),
    )


def timed(make: Make, before: float, seed: Sequence[int]) -> tuple[float, float, float, str, float]:
    """κT, its interval, the preferred law and the power law's exponent; `before` is the clock before the window."""
    planted = make(np.random.default_rng(list(seed)))
    test = drift_test(planted.gram, planted.rates, planted.momenta)
    rows = len(test.innovations)
    count = laws.BLOCKS if rows >= laws.FEW_ROWS else laws.FEW_BLOCKS
    fine = block_means(test.innovations.gram, count)
    ticks = np.concatenate([[0.0], np.cumsum(planted.rates)]) + before
    edges = len(planted.rates) - count * fine.length + fine.length * np.arange(count + 1)
    found = speeds(fine, (ticks[edges][1:] + ticks[edges][:-1]) / 2)
    law = found.fit("exponential")
    span = ticks[-1] - ticks[0]
    return law.rate * span, law.interval[0] * span, law.interval[1] * span, found.model, found.fit("power law").rate


def wilson(hits: int, runs: int) -> str:
    """A share and its interval, in per cent."""
    z, share = 1.96, hits / runs
    middle = (share + z * z / (2 * runs)) / (1 + z * z / runs)
    half = z * math.sqrt(share * (1 - share) / runs + z * z / (4 * runs * runs)) / (1 + z * z / runs)
    return f"{100 * share:.1f} % ({100 * max(middle - half, 0):.1f} to {100 * (middle + half):.1f})"


_asked: Callable[[Sequence[int]], Any]
_first_seed = 0


def _answer(seed: Sequence[int]) -> Any:
    with threadpool_limits(1):
        return _asked(seed)


def each(function: Callable[[Sequence[int]], Any], runs: int, *key: int) -> list[Any]:
    """The results of so many seeds; processes are forked, since the function need not be one that can be sent."""
    global _asked
    _asked = function
    key = (1000 + _first_seed, *key) if _first_seed else key
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return list(pool.map(_answer, [(*key, number) for number in range(runs)], chunksize=max(runs // 16, 1)))


def level(runs: int) -> list[str]:
    lines = ["| no drift: rejected at 5 % | share |", "|---|---|"]
    groups = (
        ("noise that the optimizer explains", NO_DRIFT),
        ("memory that it does not explain", UNEXPLAINED),
        ("around a minimum", STATIONARY),
    )
    for part, (title, cases) in enumerate(groups):
        lines.append(f"| **{title}** | |")
        for number, (name, make) in enumerate(cases.items()):
            values = each(partial(tested, make), runs, 1, part, number)
            lines.append(f"| {name} | {wilson(sum(p < 0.05 for p in values), runs)} |")
            say(lines[-1])
    return lines


def power(runs: int) -> list[str]:
    lines = ["| planted drift: found at 5 % | s | share |", "|---|---|---|"]
    for number, (name, (strengths, make)) in enumerate(POWER.items()):
        for s in strengths:
            values = each(partial(tested, make(s)), runs, 2, number, int(1000 * s))
            lines.append(f"| {name} | {s:g} | {wilson(sum(p < 0.05 for p in values), runs)} |")
            say(lines[-1])
    return lines


def directions(runs: int) -> list[str]:
    lines = [
        "| planted drift | found | cosine with the truth, median (10 to 90 %) | its estimate, median (10 to 90 %) | "
        "knowing the noise, median |",
        "|---|---|---|---|---|",
    ]
    for number, (name, make) in enumerate(DIRECTIONS.items()):
        values = each(partial(directed, make), runs, 3, number)
        cosines, estimates, p_values, best = (np.array(column) for column in zip(*values, strict=True))
        lines.append(
            f"| {name} | {100 * float((p_values < 0.05).mean()):.0f} % | {_spread(cosines)} | {_spread(estimates)} | "
            f"{float(np.median(best)):.3g} |"
        )
        say(lines[-1])
    return lines


def half_lives(runs: int) -> list[str]:
    lines = [
        "| planted decay | κT | median (10 to 90 %) | 90 % interval covers | identifiable | "
        "called constant, exponential, power law, undecided | median exponent |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, (name, (true, make, before)) in enumerate(HALF_LIVES.items()):
        values = each(partial(timed, make, before), runs, 4, number)
        rates, lows, highs = (np.array([value[i] for value in values]) for i in range(3))
        names = [value[3] for value in values]
        exponents = np.array([value[4] for value in values])
        covered = "" if true is None else f"{100 * float(((lows <= true) & (true <= highs)).mean()):.0f} %"
        told = float(
            np.mean([
                n == "exponential" and r >= laws.LEAST_CONSTANTS and low > 0 and high / low <= laws.WIDEST
                for n, r, low, high in zip(names, rates, lows, highs, strict=True)
            ])
        )  # fmt: skip
        kinds = ", ".join(
            f"{100 * names.count(kind) / runs:.0f} %" for kind in ("constant", "exponential", "power law", "undecided")
        )
        lines.append(
            f"| {name} | {'power law' if true is None else f'{true:.3g}'} | {_spread(rates)} | {covered} | "
            f"{100 * told:.0f} % | {kinds} | {float(np.median(exponents)):.2f} |"
        )
        say(lines[-1])
    return lines


def _spread(values: np.ndarray) -> str:
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


TITLES = {
    "level": ("Nothing to find", level),
    "power": ("Something to find", power),
    "directions": ("The direction", directions),
    "half-lives": ("The half-life", half_lives),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("drift", __doc__, repeats=1)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="another one than that with which it was built")
    chosen: argparse.Namespace = parser.parse_args(arguments)
    global _first_seed
    _first_seed = chosen.seed
    runs = 8 if chosen.quick else chosen.runs
    report = Report("drift", "drift", ABOUT, chosen, arguments)
    for part in chosen.part:
        title, make = TITLES[part]
        report.section(part, title, [f"{runs} runs a row.", "", *make(runs)])


if __name__ == "__main__":
    main()
