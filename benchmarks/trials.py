"""How often a trial is wrong, and how often it finds what is there, on problems in which that is known.

python -m benchmarks.trials [--part nothing least planted coverage] [--runs 500] [--seed 0] [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from benchmarks import drift as drawing
from benchmarks.peer_measure import say
from benchmarks.results import Report, options
from scipy import stats
from tests.trials import planted
from tests.trials.planted import regression

from thalweg.trials.cells import CellStore
from thalweg.trials.effects import effect
from thalweg.trials.ground import make_ground
from thalweg.trials.plan import make_plan
from thalweg.trials.run import trial
from thalweg.trials.stages import Stages
from thalweg.trials.verdict import differences

ABOUT = """\
## Trials

Regressions of 40 weights on 60 samples with noise (`tests/trials/planted.py`), judged on 400 others. Each run is a
problem of its own and goes through the whole pipeline: step sizes tuned for every arm, a pilot, fresh seeds. Intervals
are Wilson's at 95 %."""

PARTS = ("nothing", "least", "planted", "coverage")

SETTINGS: dict[str, Any] = {"steps": 20, "batch": 5, "seeds": 8}

FRESH, GROUP = 100, 8
"""Seeds that stand for the truth, and those of one trial."""


def nothing(key: Sequence[int]) -> tuple[str, float]:
    """An arm of random directions against random controls, with a random incumbent."""
    task, _ = regression(_number(key), planted=False)
    found = trial(task, ["guess:4"], incumbent="random:4", seed=_number(key) % 1000, **SETTINGS)
    (verdict,) = found.verdicts
    return verdict["word"], verdict["p_holm"]


def least(key: Sequence[int]) -> tuple[str, float]:
    """An arm that beats all of its controls by far, and has an incumbent that is its equal."""
    task, planted.BASES["x"] = regression(_number(key))
    found = trial(task, ["twin:x:1"], incumbent="twin:x:2", seed=_number(key) % 1000, **SETTINGS)
    (verdict,) = found.verdicts
    return verdict["word"], verdict["p_holm"]


def found_again(key: Sequence[int]) -> tuple[str, float] | None:
    """A planted arm, the plan's smallest effect being its true lead over the nearest of its rivals.

    The seeds are those that the pilot asks for at a power of 0.9, at least 8; None where it asks for more than 40.
    """
    task, planted.BASES["x"] = regression(_number(key), distance=0.5)
    seed = _number(key) % 1000
    lead = _truth(task, seed)
    if lead is None:
        return None
    asked = {**SETTINGS, "wanted_power": 0.9, "minimum_effect": lead, "pilot_seeds": 8}
    needed = trial(task, ["known:x"], stage="pilot", seed=seed, **asked).data["next"]["seeds_needed"]
    if needed is None or needed > 40:
        return None
    verdict = trial(task, ["known:x"], seed=seed, **{**asked, "seeds": max(8, needed)}).verdicts[0]
    return verdict["word"], lead


def _truth(task: Any, seed: int) -> float | None:
    """The smallest lead of the planted arm over many seeds, as a share of the start's loss; None if it has none."""
    found = trial(task, ["known:x"], seed=seed, futility=0.0, **{**SETTINGS, "seeds": FRESH // 4}).verdicts[0]
    counted = [c["share"] for c in found["comparisons"] if c["against"] != "full" or c["equal_time"]]
    return min(counted) if min(counted) > 0 else None


def covered(key: Sequence[int]) -> tuple[list[bool], list[float]]:
    """Whether intervals of 8 seeds hold the mean lead of 100 others, whose own error widens them; and the leads' skew.

    Of 108 replicates, each with a step size of its own as in a trial, every eighth is held against the rest.
    """
    task, planted.BASES["x"] = regression(_number(key), distance=0.5)
    ground = make_ground(task, batch=SETTINGS["batch"], seed=_number(key) % 1000)
    plan = make_plan(ground, ["known:x"], steps=SETTINGS["steps"], seeds=FRESH + GROUP, futility=0.0)
    stages = Stages(plan, ground, CellStore())
    stages.tune()
    seeds = plan.stage_seeds("confirm")
    names = (plan.incumbent, *plan.arms, *plan.controls["known:x"])
    cells = stages.replicates("confirm", names, seeds, "judging")
    leads = [differences(cells, "known:x", other, seeds) for other in plan.compared("known:x")]
    leads.append(differences(cells, "known:x", plan.incumbent, seeds, equal_time=True))
    hits = []
    for lead in leads:
        for first in range(0, len(lead) - GROUP + 1, GROUP):
            few = np.arange(len(lead)) // GROUP == first // GROUP
            interval = effect(lead[few])
            half = (interval.high - interval.low) / 2 * np.sqrt(1 + GROUP / FRESH)
            hits.append(bool(abs(interval.mean - lead[~few].mean()) <= half))
    return hits, [float(stats.skew(lead)) for lead in leads]


def _number(key: Sequence[int]) -> int:
    number = 0
    for part in key:
        number = number * 10_007 + part
    return number % 2**31


def _each(function: Callable[[Sequence[int]], Any], runs: int, part: int) -> list[Any]:
    return drawing.each(_single(function), runs, 7, part)


def _single(function: Callable[[Sequence[int]], Any]) -> Callable[[Sequence[int]], Any]:
    def run(key: Sequence[int]) -> Any:
        torch.set_num_threads(1)
        return function(key)

    return run


def errors(runs: int, function: Callable[[Sequence[int]], tuple[str, float]], part: int) -> list[str]:
    found = _each(function, runs, part)
    hits = [sum(word == wanted for word, _ in found) for wanted in ("invest", "harmful", "guard")]
    lines = ["| said | share |", "|---|---|"]
    lines += [f"| {w} | {drawing.wilson(h, runs)} |" for w, h in zip(("invest", "harmful", "guard"), hits, strict=True)]
    say("\n".join(lines))
    return lines


def planted_part(runs: int) -> list[str]:
    found = [one for one in _each(found_again, runs, 2) if one is not None]
    hits = sum(word == "invest" for word, _ in found)
    leads = [lead for _, lead in found]
    low, middle, high = np.quantile(leads, [0.1, 0.5, 0.9])
    line = (
        f"Found: {drawing.wilson(hits, len(found))} of {len(found)} problems whose arm has a lead and needs at most 40 "
        f"seeds, of {runs}; leads {middle:.3f} ({low:.3f} to {high:.3f}) of the start's loss."
    )
    say(line)
    return [line]


def coverage(runs: int) -> list[str]:
    rows = _each(covered, runs, 3)
    shares = np.array([np.mean(hits) for hits, _ in rows])
    error = 1.96 * shares.std(ddof=1) / np.sqrt(len(shares))
    skew = np.quantile([one for _, skews in rows for one in skews], [0.1, 0.5, 0.9])
    count = sum(len(hits) for hits, _ in rows)
    line = (
        f"95 % intervals of {GROUP} seeds that hold the mean of {FRESH} others: {100 * shares.mean():.1f} % "
        f"(± {100 * error:.1f} over problems) of {count:,}; skew of the leads {skew[1]:.2f} ({skew[0]:.2f} to "
        f"{skew[2]:.2f})."
    )
    say(line)
    return [line]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options("trials", __doc__, repeats=1)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    chosen: argparse.Namespace = parser.parse_args(arguments)
    drawing._first_seed = chosen.seed
    runs = 6 if chosen.quick else chosen.runs
    report = Report("trials", "trials", ABOUT, chosen, arguments)
    sections: dict[str, tuple[str, Callable[[], list[str]]]] = {
        "nothing": ("Nothing to find: random directions against random directions", lambda: errors(runs, nothing, 0)),
        "least": (
            "The worst case of nothing to find: all controls beaten, the incumbent an equal",
            lambda: errors(runs, least, 1),
        ),
        "planted": ("Planted directions, at the smallest effect worth having", lambda: planted_part(runs)),
        "coverage": ("Intervals", lambda: coverage(runs)),
    }
    for part in chosen.part:
        title, make = sections[part]
        report.section(part, title, [f"{runs} trials.", "", *make()])


if __name__ == "__main__":
    main()
