"""What a trial says of each arm: invest, guard, harmful or no evidence.

*Special*: its held-out loss is lower than that of every matched control. *Worth it*: lower than the incumbent's within
the same wall time, or, where the plan asks that, no worse within a margin at a saving. *Invest* needs both; the p-value
of an arm is the largest of its comparisons (an intersection-union test), corrected over the tested arms by Holm, and
an effect on the incumbent that is surely smaller than the smallest worth having is not worth it. *Harmful*: it raises
the held-out loss above that of the start, and not surely by less than the smallest effect. *Guard*: neither, and its
directions are stiffer than layer-matched random ones. A training that diverged counts as a loss: ten times the
start's, or the worst that was seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from thalweg.analysis.nulls import holm
from thalweg.trials.effects import Effect, chance_left, effect
from thalweg.trials.plan import Plan
from thalweg.trials.training import Cell

Word = Literal["invest", "guard", "harmful", "no evidence"]

WORST = 10.0
"""A diverged training's loss, in losses at the start, at the least."""

STIFF = 0.05
"""p-value of stiffness below which directions are called stiff."""

Cells = Mapping[tuple[str, int], Cell]


@dataclass(frozen=True)
class Comparison:
    """An arm against one other.

    Attributes:
        against: its name.
        effect: how much lower the arm's loss is, in loss; paired over seeds.
        share: the effect as a share of the loss at the start.
        significant: whether the p-value of this comparison alone is below the level and the effect above zero.
        equal_time: whether it compares what both reach in the same wall time.
        control: whether it is a matched control. The complement stands beside them and counts for nothing.
    """

    against: str
    effect: Effect
    share: float
    significant: bool
    equal_time: bool = False
    control: bool = False


@dataclass(frozen=True)
class Verdict:
    """What is said of an arm.

    Attributes:
        arm: its name.
        word: see the module.
        special: whether it beat every matched control.
        worth_it: whether it was worth it against the incumbent.
        comparisons: with its controls, the incumbent, and the incumbent in equal time.
        gain: by how much it lowered the loss from the start.
        p_value: the largest of the comparisons that count.
        p_holm: corrected over the tested arms.
        saving: share of the incumbent's time that it saves; negative where it takes longer.
        stiffness: how many times as curved its directions are as layer-matched ones (median), None where not measured.
        stiff_p_value: of their being no stiffer, None likewise.
        seeds: how many were judged.
        stopped: whether it was stopped for futility.
        diverged: in how many seeds it diverged.
        change: what would change the verdict.
    """

    arm: str
    word: Word
    special: bool
    worth_it: bool
    comparisons: tuple[Comparison, ...]
    gain: Effect
    p_value: float
    p_holm: float
    saving: float
    stiffness: float | None
    stiff_p_value: float | None
    seeds: int
    stopped: bool
    diverged: int
    change: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def verdicts(
    plan: Plan,
    cells: Cells,
    seeds: Mapping[str, Sequence[int]],
    stiffness: Mapping[str, tuple[float, float]],
) -> tuple[Verdict, ...]:
    """The verdict on every tested arm.

    Args:
        plan: what was to be done.
        cells: by arm and seed, of one stage.
        seeds: of each tested arm, those it was judged with; fewer than planned where it was stopped.
        stiffness: ratio and p-value of arms that have directions.
    """
    scale = start_loss(cells)
    found = []
    for name in plan.arms:
        own = list(seeds[name])
        beside = [plan.complements[name]] if name in plan.complements else []
        comparisons = (
            *(_compared(plan, cells, name, other, own) for other in (*plan.controls[name], *beside, plan.incumbent)),
            _compared(plan, cells, name, plan.incumbent, own, equal_time=True),
        )
        found.append((name, own, comparisons))
    saving = {name: 1 - pace(cells, name) / pace(cells, plan.incumbent) for name in plan.arms}
    counted = {name: _counted(plan, comparisons, scale, saving[name]) for name, _, comparisons in found}
    p_values = [_largest(counted[name]) for name, _, _ in found]
    corrected = holm(p_values)
    return tuple(
        _judged(plan, cells, name, own, comparisons, counted[name], saving[name], p, p_holm, stiffness.get(name))
        for (name, own, comparisons), p, p_holm in zip(found, p_values, corrected, strict=True)
    )


def start_loss(cells: Cells) -> float:
    """The loss at the start, which all cells of a stage share."""
    found = next(iter(cells.values())).losses[0]
    assert found is not None
    return found


def worst(cells: Cells) -> float:
    """What a diverged training counts as."""
    seen = [loss for cell in cells.values() for loss in cell.losses if loss is not None]
    return max(WORST * start_loss(cells), *seen)


def pace(cells: Cells, name: str) -> float:
    """Median seconds of a step."""
    own = [cell for (arm, _), cell in cells.items() if arm == name]
    return float(np.median([cell.seconds / (cell.diverged or cell.steps[-1]) for cell in own]))


def differences(cells: Cells, name: str, other: str, seeds: Sequence[int], equal_time: bool = False) -> np.ndarray:
    """How much lower the arm's loss is, seed by seed: `(n,)`.

    In equal time: after as many seconds as the quicker of the two takes for all its steps, by straight lines between
    the steps at which both were evaluated.
    """
    bad = worst(cells)
    if not equal_time:
        return np.array([_last(cells[other, s], bad) - _last(cells[name, s], bad) for s in seeds])
    own, its = pace(cells, name), pace(cells, other)
    seconds = min(own * cells[name, seeds[0]].steps[-1], its * cells[other, seeds[0]].steps[-1])
    pairs = [(cells[other, seed], cells[name, seed]) for seed in seeds]
    return np.array([_after(one, seconds / its, bad) - _after(arm, seconds / own, bad) for one, arm in pairs])


def _last(cell: Cell, bad: float) -> float:
    return bad if cell.loss is None else cell.loss


def _after(cell: Cell, steps: float, bad: float) -> float:
    return float(np.interp(steps, cell.steps, [bad if loss is None else loss for loss in cell.losses]))


def _compared(
    plan: Plan, cells: Cells, name: str, other: str, seeds: Sequence[int], equal_time: bool = False
) -> Comparison:
    scale = start_loss(cells)
    found = effect(differences(cells, name, other, seeds, equal_time), plan.level, plan.interval, plan.seed)
    significant = found.p_value <= plan.level and found.mean > 0
    control = other in plan.controls[name] and not equal_time
    return Comparison(other, found, found.mean / scale, significant, equal_time, control)


def _counted(
    plan: Plan, comparisons: Sequence[Comparison], scale: float, saving: float
) -> list[tuple[Comparison, float, bool]]:
    """The comparisons that an arm must all win: with its p-value, and whether it is on the right side."""
    special = [(c, c.effect.p_value, c.effect.mean > 0) for c in comparisons if c.control]
    if plan.question == "better":
        last = comparisons[-1]
        large = last.effect.high >= plan.minimum_effect * scale
        return [*special, (last, last.effect.p_value, last.effect.mean > 0 and large)]
    last = comparisons[-2]
    shifted = last.effect.shifted(plan.margin * scale)
    return [*special, (last, shifted.p_value, shifted.mean > 0 and saving >= plan.saving)]


def _largest(counted: Sequence[tuple[Comparison, float, bool]]) -> float:
    return max(p if right else 1.0 for _, p, right in counted)


def _judged(
    plan: Plan,
    cells: Cells,
    name: str,
    seeds: Sequence[int],
    comparisons: tuple[Comparison, ...],
    counted: Sequence[tuple[Comparison, float, bool]],
    saving: float,
    p_value: float,
    p_holm: float,
    stiffness: tuple[float, float] | None,
) -> Verdict:
    bad, scale = worst(cells), start_loss(cells)
    gain = effect([scale - _last(cells[name, s], bad) for s in seeds], plan.level, plan.interval, plan.seed)
    alone = plan.level
    special = all(right and p <= alone for c, p, right in counted if c.control)
    worth_it = all(right and p <= alone for c, p, right in counted if not c.control)
    stopped = len(seeds) < plan.seeds
    matters = -gain.low >= plan.minimum_effect * scale
    harmful = gain.mean < 0 and matters and min(gain.p_value * len(plan.arms), 1.0) <= plan.level
    word: Word = "no evidence"
    if p_holm <= plan.level and not stopped:
        word = "invest"
    elif harmful:
        word = "harmful"
    elif stiffness is not None and stiffness[1] <= STIFF:
        word = "guard"
    return Verdict(
        arm=name,
        word=word,
        special=special,
        worth_it=worth_it,
        comparisons=comparisons,
        gain=gain,
        p_value=p_value,
        p_holm=p_holm,
        saving=saving,
        stiffness=None if stiffness is None else stiffness[0],
        stiff_p_value=None if stiffness is None else stiffness[1],
        seeds=len(seeds),
        stopped=stopped,
        diverged=sum(cells[name, s].diverged is not None for s in seeds),
        change=_change(plan, word, counted, p_holm, scale),
    )


def _change(
    plan: Plan, word: Word, counted: Sequence[tuple[Comparison, float, bool]], p_holm: float, scale: float
) -> str:
    """What would have to be otherwise for another verdict."""
    if word == "invest":
        weakest = max(counted, key=lambda one: one[1])[0]
        return (
            f"the smallest lead is that over {weakest.against}, {weakest.effect.mean / scale:.2%} of the start's loss "
            f"({weakest.effect.low / scale:.2%} to {weakest.effect.high / scale:.2%})"
        )
    missing = [c for c, p, right in counted if not right or p > plan.level]
    if not missing:
        return f"each comparison is significant alone, but not after correction for all arms (p {p_holm:.3g})"
    behind = [c for c in missing if c.effect.mean <= 0]
    if behind:
        names = ", ".join(dict.fromkeys(c.against for c in behind))
        return f"it would have to reach a lower held-out loss than {names}, and reached none"
    names = ", ".join(dict.fromkeys(c.against for c in missing))
    return f"its lead over {names} is too small, or too uncertain, for {plan.seeds} seeds; more would narrow it"


def hopeless(plan: Plan, cells: Cells, name: str, seeds: Sequence[int]) -> bool:
    """Whether an arm's chance to be significant in the end, in its least likely comparison, is below the plan's.

    Such a stop can only take successes away, so it cannot raise the share of false ones.
    """
    scale = start_loss(cells)
    size, total = plan.minimum_effect * scale, plan.seeds
    chances = [chance_left(differences(cells, name, c, seeds), total, size, plan.level) for c in plan.controls[name]]
    if plan.question == "better":
        chances.append(chance_left(differences(cells, name, plan.incumbent, seeds, True), total, size, plan.level))
    else:
        shifted = differences(cells, name, plan.incumbent, seeds) + plan.margin * scale
        chances.append(chance_left(shifted, total, size, plan.level))
    return min(chances) < plan.futility
