"""A trial in stages: step sizes and a pilot on tuning data, then confirmation on fresh seeds, then full length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import stats

from thalweg.directions import layer_matched_directions
from thalweg.trials.arms import make_way
from thalweg.trials.cells import CellStore, Training
from thalweg.trials.effects import all_powers, effect, seeds_needed
from thalweg.trials.ground import Ground
from thalweg.trials.plan import AROUND, FULL_STAGE, Plan, Stage
from thalweg.trials.step_sizes import FLAT, Search, Tuned, lowest
from thalweg.trials.training import Cell, Split, run_cell
from thalweg.trials.verdict import Cells, Verdict, differences, hopeless, start_loss, verdicts

Say = Callable[[str], None]

UNSURE = 0.8
"""How sure an upper bound on what a small pilot measured is."""

OWN = 500_000
"""What is added to a replicate's seed for the seed on which its step size is tuned."""

STIFF_DRAWS = 20
"""Layer-matched directions whose curvature an arm's is held against."""


@dataclass(frozen=True)
class Pilot:
    """What the pilot says of an arm.

    Attributes:
        arm: its name.
        leads: its lead over each of its comparisons as a share of the start's loss, on the tuning half.
        deviations: of a single paired difference, likewise; of few seeds, so at the upper bound of 80 %.
        power: the least chance that the planned seeds find the smallest effect worth having.
        seeds_needed: for the power that is wanted; None above a thousand.
        promising: whether no lead is surely (80 %) below the smallest effect.
    """

    arm: str
    leads: dict[str, float]
    deviations: dict[str, float]
    power: float
    seeds_needed: int | None
    promising: bool


class Stages:
    """Runs the stages of a plan.

    Args:
        plan: what is to be done.
        ground: what it stands on.
        store: for the cells.
        old: an earlier task that is evaluated beside it.
        say: called with a line for each part.
        tell: called with the cells done and to be done in a part.

    Where several ranks work together each trains a share of the cells by itself, and all get all of them.
    """

    def __init__(
        self,
        plan: Plan,
        ground: Ground,
        store: CellStore,
        old: Ground | None = None,
        say: Say | None = None,
        tell: Callable[[int, int], None] | None = None,
    ) -> None:
        self.plan, self.ground, self.store, self.old = plan, ground, store, old
        self.ranks = ground.training.share.ranks
        self.say = say or (lambda line: None)
        self.tell = tell or (lambda done, planned: None)
        self.tuned: dict[str, Tuned] = {}

    def tune(self) -> dict[str, Tuned]:
        """The step size of every arm and control, by the mean loss on the tuning half."""
        plan, flat = self.plan, FLAT * abs(self.ground.tuning.loss())
        searches = {name: Search(plan.grid, plan.extensions, flat) for name in plan.names if name not in self.tuned}
        while searches:
            pairs = [(name, factor) for name, search in searches.items() for factor in search.wanted]
            self._run([self._end("pilot", name, seed, factor) for seed in plan.tuning for name, factor in pairs])
            for name, search in list(searches.items()):
                search.take({factor: self._mean(name, factor) for factor in search.wanted})
                if search.found is not None:
                    self.tuned[name] = search.found
                    del searches[name]
        self.tuned = {name: self.tuned[name] for name in plan.names}
        return self.tuned

    def factor(self, stage: Stage, name: str, seed: int) -> float:
        """The step size of one replicate: tuned again around the arm's, on a seed that only this replicate uses.

        With one step size for all replicates its luck would count as a lead that every replicate confirms: of two equal
        arms one then won 7.5 % of trials instead of 2.5 %. The vertex of the parabola through three losses, in the
        logarithm of the factor. They reach half way to the grid's neighbours: twice as far, now and then a single seed
        chose a step far too large, and 95 % intervals held 92 % of what they should instead of 94 %.
        """
        around = self._around(name)
        losses = [self._loss(self._end(stage, name, seed + OWN, factor)) for factor in around]
        return lowest(around, losses)

    def _around(self, name: str) -> tuple[float, ...]:
        middle, grid = self.tuned[name].factor, self.plan.grid
        ratio = (grid[-1] / grid[-3]) ** 0.25
        return middle / ratio, middle, middle * ratio

    def _mean(self, name: str, factor: float) -> float:
        losses = [self._loss(self._end("pilot", name, seed, factor)) for seed in self.plan.tuning]
        return math.fsum(losses) / len(losses) if math.inf not in losses else math.inf

    def _loss(self, training: Training) -> float:
        loss = self.cell(training).loss
        return math.inf if loss is None else loss

    def _end(self, stage: Stage, name: str, seed: int, factor: float) -> Training:
        """One that is evaluated on the tuning half after the last step, and nowhere else."""
        return Training(name, seed, factor, "tuning", self.plan.marks(stage)[-1:])

    def cell(self, training: Training) -> Cell:
        """One training, run if it is not known yet."""
        return self.store.get(training, self._train)

    def _train(self, one: Training) -> Cell:
        return run_cell(
            self.ground.apart,
            one.arm,
            one.seed,
            one.factor,
            one.marks,
            one.split,
            self.plan.refresh,
            None if self.old is None else self.old.apart,
        )

    def _run(self, trainings: Sequence[Training]) -> None:
        """Have all of them run that are not known yet."""
        if not self.ranks.alone and "apart" not in vars(self.ground):  # what arms need is found by all ranks together
            for name in self.plan.names:
                make_way(self.ground, name, torch.Generator().manual_seed(self.plan.seed))
        self.store.fill(trainings, self._train, self.ranks, self.tell)

    def replicates(
        self, stage: Stage, names: Sequence[str], seeds: Sequence[int], split: Split
    ) -> dict[tuple[str, int], Cell]:
        """Each name on each seed, at step sizes of its own."""
        pairs = [(name, seed) for seed in seeds for name in names]
        self._run([self._end(stage, name, seed + OWN, f) for name, seed in pairs for f in self._around(name)])
        marks = self.plan.marks(stage)
        chosen = {
            (name, seed): Training(name, seed, self.factor(stage, name, seed), split, marks) for name, seed in pairs
        }
        self._run(list(chosen.values()))
        return {pair: self.cell(training) for pair, training in chosen.items()}

    def pilot(self) -> tuple[Pilot, ...]:
        """Tune, and see on a few seeds how far the arms scatter."""
        self.say(f"step sizes of {len(self.plan.names)} arms and controls")
        self.tune()
        self.say(f"pilot on {self.plan.pilot_seeds} seeds")
        names, seeds = self.plan.names, self.plan.stage_seeds("pilot")
        cells = self.replicates("pilot", names, seeds, "tuning")
        return tuple(self._piloted(cells, name, seeds) for name in self.plan.arms)

    def _piloted(self, cells: Cells, name: str, seeds: Sequence[int]) -> Pilot:
        plan, scale = self.plan, start_loss(cells)
        wider = math.sqrt((len(seeds) - 1) / stats.chi2.ppf(1 - UNSURE, len(seeds) - 1))
        found = {other: effect(differences(cells, name, other, seeds) / scale) for other in plan.compared(name)}
        deviations = {other: one.deviation * wider for other, one in found.items()}
        level, sizes = plan.level / len(plan.arms), list(deviations.values())
        reach = stats.t.ppf(UNSURE, len(seeds) - 1) / math.sqrt(len(seeds))
        return Pilot(
            arm=name,
            leads={other: one.mean for other, one in found.items()},
            deviations=deviations,
            power=all_powers(plan.minimum_effect, sizes, plan.seeds, level),
            seeds_needed=seeds_needed(plan.minimum_effect, sizes, plan.wanted_power, level),
            promising=all(one.mean + reach * one.deviation >= plan.minimum_effect for one in found.values()),
        )

    def judge(self, stage: Stage, arms: Sequence[str] | None = None) -> dict[str, Any]:
        """A stage that judges, on seeds of its own: verdicts, curves and what was run.

        Args:
            stage: "confirm" or "full".
            arms: those that are still tested; all unless given.
        """
        plan = self.plan
        alive = list(arms or plan.arms)
        seeds = plan.stage_seeds(stage)
        done: dict[str, list[int]] = {name: [] for name in alive}
        cells: dict[tuple[str, int], Cell] = {}
        half = max(2, math.ceil(len(seeds) / 2)) if plan.futility > 0 else len(seeds)
        self.say(f"{stage}: {len(plan.names_of(alive))} arms and controls on {len(seeds)} fresh seeds")
        for part in (seeds[:half], seeds[half:]):
            if not part or not alive:
                continue
            cells |= self.replicates(stage, plan.names_of(alive), part, "judging")
            for name in alive:
                done[name] += part
            if part is not seeds[half:] and half < len(seeds):
                alive = [name for name in alive if not hopeless(plan, cells, name, done[name])]
        chosen = plan if arms is None else _only(plan, arms)
        found = verdicts(chosen, cells, done, {name: s for name in chosen.arms if (s := self.stiffness(name))})
        return {
            "stage": stage,
            "verdicts": [one.to_json() for one in found],
            "curves": curves(cells),
            "measures": measures(cells),
            "seeds": list(seeds),
            "start_loss": start_loss(cells),
            "start_training_loss": self.ground.training.loss(),
            "gradients": sum(cell.diverged or cell.steps[-1] for cell in cells.values()),
            "go_on": any(one.word == "invest" for one in found),
        }

    def about(self, name: str) -> dict[str, Any]:
        """What an arm trains: how many directions of which label, or which layers."""
        way = make_way(self.ground, name, torch.Generator().manual_seed(self.plan.seed))
        return {
            "layers": None if way.layers is None else list(way.layers),
            "directions": None if way.basis is None else len(way.basis),
            "label": None if way.basis is None else way.basis.label,
        }

    def stiffness(self, name: str) -> tuple[float, float] | None:
        """How many times as curved an arm's directions are as layer-matched ones, and the p-value of their not being.

        Measured by products with the Hessian of the training loss at the start, one each; Mann and Whitney's test.
        """
        way = make_way(self.ground, name, torch.Generator().manual_seed(self.plan.seed))
        if way.basis is None or way.outside:
            return None
        hessian, draw = self.ground.training.hessian(), torch.Generator().manual_seed(self.plan.seed)
        repeats = math.ceil(STIFF_DRAWS / len(way.basis))
        matched = [row for _ in range(repeats) for row in layer_matched_directions(way.basis, draw)]
        own, control = (
            np.array([float(row.double().cpu() @ (hessian @ row.to(hessian.device)).double().cpu()) for row in rows])
            for rows in (list(way.basis), matched)
        )
        middle = float(np.median(control))
        ratio = float(np.median(own)) / middle if middle > 0 else math.inf
        return ratio, float(stats.mannwhitneyu(own, control, alternative="greater").pvalue)

    def seconds(self, stage: Stage, arms: Sequence[str] | None = None) -> float:
        """What a stage will take, from what the cells so far took; of several ranks each takes its share."""
        plan = self.plan
        longer = FULL_STAGE if stage == "full" else 1
        walls: dict[str, list[float]] = {}
        for cell in self.store.cells:
            if cell.steps[-1] == plan.steps:
                walls.setdefault(cell.arm, []).append(cell.wall)
        count = self.trainings(stage)
        names = plan.names_of(arms or plan.arms)
        at_once = min(self.ranks.size, count)
        return sum(float(np.median(walls.get(name, [0.0]))) for name in names) * count * longer / at_once

    def trainings(self, stage: Stage) -> int:
        """How many trainings a stage needs of each arm and control: of every seed, those that tune it and the one."""
        return (self.plan.pilot_seeds if stage == "pilot" else self.plan.seeds) * (AROUND + 1)

    def spent(self) -> dict[str, float]:
        """Seconds and gradients of all cells."""
        return {
            "seconds": sum(cell.wall for cell in self.store.cells),
            "gradients": sum(cell.diverged or cell.steps[-1] for cell in self.store.cells),
        }


def curves(cells: Cells) -> list[dict[str, Any]]:
    """Mean loss of each arm after each evaluated step, over the seeds in which it did not diverge."""
    found = []
    for name in dict.fromkeys(arm for arm, _ in cells):
        own = [cell for (arm, _), cell in cells.items() if arm == name and cell.diverged is None]
        if own:
            losses = np.array([cell.losses for cell in own], dtype=float)
            found.append(
                {
                    "arm": name,
                    "steps": list(own[0].steps),
                    "loss": losses.mean(axis=0).tolist(),
                    "error": (losses.std(axis=0, ddof=1) / math.sqrt(len(own))).tolist() if len(own) > 1 else None,
                    "old": np.array([c.old_losses for c in own], dtype=float).mean(axis=0).tolist(),
                    "seconds": float(np.median([cell.seconds for cell in own])),
                    "factor": float(np.median([cell.factor for cell in own])),
                    "age": own[0].age,
                }
            )
    return found


def measures(cells: Cells) -> dict[str, dict[str, float]]:
    """Means of the user's own measures at the end, by arm and name."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(arm for arm, _ in cells):
        own = [cell.measures for (arm, _), cell in cells.items() if arm == name and cell.measures]
        if own:
            found[name] = {key: math.fsum(one[key] for one in own) / len(own) for key in own[0]}
    return found


def _only(plan: Plan, arms: Sequence[str]) -> Plan:
    return replace(plan, arms=tuple(arms))


def as_plain(pilots: Sequence[Pilot], tuned: dict[str, Tuned]) -> dict[str, Any]:
    """Pilot and step sizes as plain values."""
    return {
        "arms": [asdict(one) for one in pilots],
        "tuned": {
            name: {
                "factor": one.factor,
                "edge": one.edge,
                "tried": [[factor, loss] for factor, loss in one.tried.items()],
            }
            for name, one in tuned.items()
        },
    }


__all__ = ["Pilot", "Stages", "Tuned", "Verdict", "as_plain", "curves", "measures"]
