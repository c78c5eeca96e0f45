"""The plan of a trial: everything that is decided before it runs, and a hash of it that its result carries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from thalweg.errors import InputError
from thalweg.trials.arms import FULL, complement_of, controls_of, parse
from thalweg.trials.effects import Interval, least_seeds
from thalweg.trials.ground import Ground
from thalweg.trials.training import marks_of

Question = Literal["better", "as good"]
"""Whether an arm is to beat the incumbent at equal wall time, or to be no worse at a saving."""

Stage = Literal["pilot", "confirm", "full"]
STAGES: tuple[Stage, ...] = ("pilot", "confirm", "full")

GRID = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Factors of the task's learning rates that are tried first."""

ARMS = ("updates:10", "eigenvectors:10", "weights:10", "drift")
"""Arms of a trial on a recorded run unless others are named."""

ARMS_WITHOUT_RUN = ("eigenvectors:10", "layers:top:1")

STEPS, BATCH, USUAL_SEEDS, PILOT, TUNING = 200, 64, 8, 4, 2
"""Of a plan as it comes: steps of a training, samples of a step; seeds that judge, of the pilot, and of the grid."""

SEEDS = {"pilot": 1_000, "confirm": 10_000, "full": 100_000}
"""Where the seeds of each stage begin, so that none is used twice."""

FULL_STAGE = 4
"""The full stage has so many times as many steps."""

AROUND = 3
"""Step sizes that every replicate tries around its arm's."""


@dataclass(frozen=True)
class Plan:
    """What a trial will do.

    Attributes:
        arms: that are tested.
        controls: of each arm, matched to it; all must be beaten.
        complements: of each arm that has one; run beside it.
        incumbent: the arm that has to be beaten for the trial to be worth anything.
        question: see `Question`.
        seeds: replicates that judge; each is an order of the batches and, for what is random, a draw.
        pilot_seeds: replicates that tell how far they scatter; never among those that judge.
        tuning_seeds: replicates that each step size of the grid is tried with; every replicate then tunes around the
            best one by itself.
        steps: of a training, one gradient each.
        batch: samples of a step.
        grid: factors of the learning rates, ascending; extended while its edge is the best.
        extensions: how often.
        minimum_effect: the smallest difference of held-out loss worth having, as a share of the loss at the start.
        margin: for "as good": how much worse an arm may be, likewise.
        saving: for "as good": the least share of the incumbent's time that it must save.
        level: two-sided, of all tested arms together (Holm).
        wanted_power: at the smallest effect worth having.
        interval: "t" or "bca".
        futility: stop an arm after half of the seeds if its chance to succeed is below this; 0 never stops one.
        state: "fresh" or "carried": the optimizer's state at the start.
        refresh: find a basis again every so many steps; None keeps it.
        seed: of the split and of all seeds.
        step: of the run, after which the arms begin; None for the task's own weights.
        optimizer: class and learning rates of the task's.
        prints: fingerprints of start and data.
    """

    arms: tuple[str, ...]
    controls: Mapping[str, tuple[str, ...]]
    complements: Mapping[str, str]
    incumbent: str = FULL
    question: Question = "better"
    seeds: int = USUAL_SEEDS
    pilot_seeds: int = PILOT
    tuning_seeds: int = TUNING
    steps: int = STEPS
    batch: int = BATCH
    grid: tuple[float, ...] = GRID
    extensions: int = 8
    minimum_effect: float = 0.02
    margin: float = 0.02
    saving: float = 0.2
    level: float = 0.05
    wanted_power: float = 0.8
    interval: Interval = "t"
    futility: float = 0.05
    state: Literal["fresh", "carried"] = "fresh"
    refresh: int | None = None
    seed: int = 0
    step: int | None = None
    optimizer: str = ""
    prints: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every arm and control, each once, the incumbent first."""
        return self.names_of(self.arms)

    def names_of(self, arms: Sequence[str]) -> tuple[str, ...]:
        """Those that some of the arms need, the incumbent first."""
        found = [self.incumbent]
        for name in arms:
            found += [name, *self.controls[name], *([self.complements[name]] if name in self.complements else [])]
        return tuple(dict.fromkeys(found))

    def compared(self, name: str) -> tuple[str, ...]:
        """What an arm has to beat: its controls, then the incumbent."""
        return tuple(dict.fromkeys((*self.controls[name], self.incumbent)))

    def stage_seeds(self, stage: Stage) -> tuple[int, ...]:
        """The seeds of a stage."""
        count = self.pilot_seeds if stage == "pilot" else self.seeds
        first = SEEDS[stage] + 1_000_000 * self.seed
        return tuple(range(first, first + count))

    @property
    def tuning(self) -> tuple[int, ...]:
        """The seeds with which step sizes are tuned."""
        return tuple(range(1_000_000 * self.seed, 1_000_000 * self.seed + self.tuning_seeds))

    def marks(self, stage: Stage) -> tuple[int, ...]:
        """The steps after which a stage evaluates."""
        return marks_of(self.steps * (FULL_STAGE if stage == "full" else 1))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "question_in_words": self.in_words()}

    @property
    def hash(self) -> str:
        """Sixteen letters that another plan does not have."""
        text = json.dumps(asdict(self), sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def in_words(self) -> str:
        """The question as a sentence."""
        against = (
            f"lower the held-out loss further than {self.incumbent!r} does in the same time"
            if self.question == "better"
            else f"come within {self.margin:.1%} of {self.incumbent!r} in {self.saving:.0%} less time"
        )
        arms = " or ".join(self.arms)
        return f"Does training by {arms} {against}, and further than every control that is matched to it?"


def make_plan(ground: Ground, arms: Sequence[str] | None = None, **settings: Any) -> Plan:
    """A plan that can reach an answer.

    Args:
        ground: what the trial stands on.
        arms: that are tested; `ARMS` unless given.
        settings: fields of `Plan`.

    Raises:
        InputError: for an arm that there is not or that cannot be tested, numbers that make no sense, or too few seeds
            for any of the arms to become significant; the message names a number that would do.
    """
    tested = tuple(dict.fromkeys(arms or (ARMS if ground.trajectory is not None else ARMS_WITHOUT_RUN)))
    assert ground.task.optimizer is not None
    optimizer = ground.task.optimizer(ground.training.model)
    rates = ", ".join(f"{group['lr']:g}" for group in optimizer.param_groups)
    complements = {name: complement_of(ground, name) for name in tested}
    plan = Plan(
        arms=tested,
        controls={name: controls_of(ground, name) for name in tested},
        complements={name: other for name, other in complements.items() if other is not None},
        batch=ground.batch,
        seed=ground.seed,
        step=ground.step,
        optimizer=f"{type(optimizer).__name__}, lr {rates}",
        prints=ground.prints(),
        **settings,
    )
    check(plan)
    return plan


def check(plan: Plan) -> None:
    """Raise an InputError for a plan that makes no sense or cannot reach significance."""
    parse(plan.incumbent)
    if plan.incumbent in plan.arms:
        raise InputError(f"{plan.incumbent!r} is the incumbent and cannot be tested against itself")
    if plan.seeds < 2 or plan.pilot_seeds < 2 or plan.tuning_seeds < 1:
        raise InputError(
            f"seeds={plan.seeds}, pilot_seeds={plan.pilot_seeds}, tuning_seeds={plan.tuning_seeds}: differences are "
            "paired over at least 2 seeds, and step sizes tuned with at least 1; give more"
        )
    if plan.steps < 1:
        raise InputError(f"steps={plan.steps}: a training has at least one step")
    if plan.refresh is not None and plan.refresh < 1:
        raise InputError(f"refresh={plan.refresh}: give a number of steps, or None to keep the basis")
    if not plan.minimum_effect > 0 or not plan.margin >= 0 or not 0 <= plan.saving < 1:
        raise InputError(
            f"minimum_effect={plan.minimum_effect}, margin={plan.margin}, saving={plan.saving}: the smallest effect is "
            "above zero, a margin not below it, a saving a share of the time"
        )
    if len(plan.grid) < 3 or any(not b > a > 0 for a, b in zip(plan.grid, plan.grid[1:], strict=False)):
        raise InputError(f"grid={plan.grid}: give at least three positive factors, ascending")
    if plan.question not in ("better", "as good") or plan.interval not in ("t", "bca"):
        raise InputError(f"question={plan.question!r}, interval={plan.interval!r}: 'better' or 'as good'; 't' or 'bca'")
    if not 0 < plan.level < 1 or not 0 <= plan.futility < 1 or not 0 < plan.wanted_power < 1:
        raise InputError(f"level={plan.level}, futility={plan.futility}, wanted_power={plan.wanted_power}: shares")
    need = least_seeds(len(plan.arms), plan.level)
    if plan.seeds < need:
        raise InputError(
            f"{plan.seeds} seeds can never be significant for {len(plan.arms)} arms at {plan.level:g}: the smallest "
            f"p-value is 2^(1 - {plan.seeds}); use at least {need} seeds, or test fewer arms"
        )
