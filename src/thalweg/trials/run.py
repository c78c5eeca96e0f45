"""`tw.trial`: a plan, a pilot, a confirmation on fresh seeds and, where asked, a stage of full length."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from thalweg.errors import InputError, RunError, nearest
from thalweg.recording.opening import open_run
from thalweg.recording.trajectory import Trajectory
from thalweg.runs import Run, finite, read_json, write_atomically
from thalweg.tables import Table, Tabular
from thalweg.task import Task
from thalweg.trials.cells import CellStore
from thalweg.trials.ground import Ground, make_ground
from thalweg.trials.plan import STAGES, Plan, Stage, make_plan
from thalweg.trials.stages import Pilot, Say, Stages, as_plain
from thalweg.version import __version__

FORMAT = 1

RESULT = "trial"
"""The result's name in the run folder."""


@dataclass(frozen=True, eq=False)
class TrialResult(Tabular):
    """What a trial found, as plain values in `data`; see `docs/trials.md`.

    Attributes:
        data: plan, step sizes, pilot, stages, cost, and what comes next.
    """

    data: Mapping[str, Any]

    @property
    def stage(self) -> str:
        """The last stage that was run."""
        return str(self.data["stage"])

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """Of each tested arm in the last stage that judged; empty after a pilot alone."""
        judged = self.data["stages"].get(self.stage)
        return list(judged["verdicts"]) if judged else []

    @property
    def verdict(self) -> dict[str, str]:
        """invest, guard, harmful or no evidence, by arm; empty after a pilot alone."""
        return {one["arm"]: one["word"] for one in self.verdicts}

    @property
    def table(self) -> Table:
        """A row for each comparison; lead, low and high are shares of the loss at the start."""
        scale = self.data["stages"][self.stage]["start_loss"] if self.verdicts else 1.0
        incumbent, timed = self.data["plan"]["incumbent"], self.data["plan"]["question"] == "better"
        rows = [
            {
                "arm": one["arm"],
                "verdict": one["word"],
                "against": c["against"] + (" (equal time)" if c["equal_time"] else ""),
                "lead": c["share"],
                "low": c["effect"]["low"] / scale,
                "high": c["effect"]["high"] / scale,
                "p_value": c["effect"]["p_value"],
                "significant": c["significant"],
                "counts": c["control"] or (c["against"] == incumbent and c["equal_time"] == timed),
            }
            for one in self.verdicts
            for c in one["comparisons"]
        ]
        return Table.of(rows)

    def to_table(self) -> Table:
        """The table of comparisons."""
        return self.table

    def __repr__(self) -> str:
        words = ", ".join(f"{arm}: {word}" for arm, word in self.verdict.items()) or "pilot only"
        return f"TrialResult({self.stage}; {words})"


def trial(
    task: Task,
    arms: Sequence[str] | None = None,
    *,
    run: str | Path | Run[Trajectory] | None = None,
    stage: Stage = "confirm",
    step: int | None = None,
    batch: int = 64,
    state: str = "fresh",
    seed: int = 0,
    old: Task | None = None,
    out: str | Path | None = None,
    budget: float | None = None,
    command: str | None = None,
    say: Say | None = None,
    tell: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> TrialResult:
    """Test by paired A/B whether working along directions, or in layers, lowers the held-out loss.

    Every arm begins at the same weights and sees the same batches; its step size is tuned on one half of the held-out
    data and it is judged on the other, on seeds that nothing was tuned on. What was run is kept and not run again.

    Under `torchrun` the trainings are dealt out over the ranks, all of a seed to one, each of which works by itself.

    Args:
        task: with an optimizer and held-out data; the same on every rank.
        arms: `updates:10`, `eigenvectors:10`, `layers:top:2` and so on, see `thalweg.trials.arms`.
        run: a recorded run: arms begin at its weights, and components and drift come from it.
        stage: the last stage to run: "pilot", "confirm" or "full".
        step: of the run, after which the arms begin.
        batch: samples of a training step.
        state: "fresh", or "carried" for the optimizer state that the run kept.
        seed: of split, batches and draws.
        old: an earlier task on the same model, whose loss and measures stand beside.
        out: a folder for plan and cells; the run folder's unless given. Without either nothing is kept.
        budget: seconds; where the seeds for the wanted power would take longer, the trial ends with its pilot.
        command: the command that makes this again.
        say: called with a line for each part.
        tell: called with how many units of a part are done and planned.
        settings: other fields of the plan, such as seeds, steps, minimum_effect, question, level.

    Raises:
        InputError: for a plan that cannot reach an answer, held-out data that was trained on, and the like; the message
            says what would do.
        RunError: if the run cannot be read or the folder not written.
    """
    if stage not in STAGES:
        raise InputError(f"stage={stage!r} is unknown; there are {', '.join(STAGES)}")
    known = {field.name for field in fields(Plan)}
    for name in settings:
        if name not in known:
            raise InputError(f"a plan has no setting {name!r}; the nearest are {nearest(name, known)}")
    if state not in ("fresh", "carried"):
        raise InputError(f"state={state!r}: the optimizer's state is 'fresh' or 'carried'")
    opened = open_run(run) if isinstance(run, (str, Path)) else run
    trajectory = opened.trajectory if opened is not None else None
    ground = make_ground(task, trajectory, step=step, batch=batch, carried=state == "carried", seed=seed)
    before = None if old is None else _old_ground(old, ground, seed)
    plan = make_plan(ground, arms, state=state, **settings)
    folder = Path(out) if out is not None else None if opened is None else opened.folder / "trials" / plan.hash
    ranks = ground.training.share.ranks
    ranks.agree(plan.hash, "the trial's plan")
    stages = Stages(plan, ground, CellStore(None if folder is None else folder / "cells"), before, say, tell)
    data = _run(stages, stage, budget, folder)
    data["command"] = command
    result = TrialResult(finite(data))
    if opened is not None and ranks.rank == 0 and not _outdone(opened, data):
        opened.save(RESULT, data)
    ranks.wait()
    return result


def _outdone(run: Run[Trajectory], data: Mapping[str, Any]) -> bool:
    """Whether a plan or pilot would take the place of verdicts that the run holds: planning decides nothing."""
    if data["stages"]:
        return False
    try:
        return bool(run.load(RESULT).get("stages"))
    except RunError:  # there is none yet
        return False


def load_trial(run: str | Path | Run[Trajectory]) -> TrialResult:
    """The trial that a run folder holds.

    Raises:
        RunError: if it holds none.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    return TrialResult(opened.load(RESULT))


def _old_ground(old: Task, ground: Ground, seed: int) -> Ground:
    if old.held_out is None:
        raise InputError("the old task is evaluated on held-out data; give Task(..., held_out=batches)")
    training, held_out = old.problem(), old.problem(held_out=True)
    ground.training.space.require_same(training.space, "the old task's model")
    return Ground(old, training, held_out, held_out, None, None, None, {}, None, ground.batch, 0.0, seed)


def _run(stages: Stages, last: Stage, budget: float | None, folder: Path | None) -> dict[str, Any]:
    plan = stages.plan
    if stages.ranks.rank == 0:
        _keep_plan(plan, folder)
    pilots = stages.pilot()
    data: dict[str, Any] = {
        "format": FORMAT,
        "thalweg": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "plan": plan.to_json(),
        "hash": plan.hash,
        "about": {name: stages.about(name) for name in plan.arms},
        "question": plan.in_words(),
        "doubles": stages.ground.doubles,
        "step": stages.ground.step,
        "window": stages.ground.window,
        "state_step": stages.ground.state_step,
        "stage": "pilot",
        "pilot": as_plain(pilots, stages.tuned),
        "stages": {},
    }
    data["next"] = after_pilot(plan, pilots, stages, budget)
    if last != "pilot" and data["next"]["affordable"]:
        data["stages"]["confirm"] = found = stages.judge("confirm")
        data["stage"] = "confirm"
        data["next"] = after_confirm(plan, found, stages)
        if last == "full" and found["go_on"]:
            winners = [one["arm"] for one in found["verdicts"] if one["word"] == "invest"]
            data["stages"]["full"] = stages.judge("full", winners)
            data["stage"] = "full"
            data["next"] = {"stage": None, "go_on": data["stages"]["full"]["go_on"], "seconds": 0.0, "reason": "done"}
    data["spent"] = stages.spent()
    data["reused"] = stages.store.reused
    return data


def after_pilot(plan: Plan, pilots: Sequence[Pilot], stages: Stages, budget: float | None) -> dict[str, Any]:
    """What the pilot says of going on: cost, power, and whether the budget can reach the wanted power."""
    seconds = stages.seconds("confirm")
    needed = [one.seeds_needed for one in pilots]
    known = [count for count in needed if count is not None]
    enough = max(known) if len(known) == len(needed) and known else None
    wanted = None if enough is None else seconds * max(enough, plan.seeds) / plan.seeds
    affordable = budget is None or (seconds <= budget and wanted is not None and wanted <= budget)
    return {
        "stage": "confirm",
        "go_on": affordable and any(one.promising for one in pilots),
        "affordable": affordable,
        "seconds": seconds,
        "power": min(one.power for one in pilots),
        "seeds_needed": enough,
        "seconds_needed": wanted,
        "budget": budget,
        "reason": "promising" if any(one.promising for one in pilots) else "no arm leads far enough in the pilot",
    }


def after_confirm(plan: Plan, found: Mapping[str, Any], stages: Stages) -> dict[str, Any]:
    """What the confirmation says of going on."""
    winners = [one["arm"] for one in found["verdicts"] if one["word"] == "invest"]
    return {
        "stage": "full" if winners else None,
        "go_on": bool(winners),
        "seconds": stages.seconds("full", winners) if winners else 0.0,
        "reason": "confirmed" if winners else "no arm is worth an investment",
    }


def _keep_plan(plan: Plan, folder: Path | None) -> None:
    """Write the plan before anything runs; a folder that holds another plan is refused."""
    if folder is None:
        return
    path = folder / "plan.json"
    if path.is_file():
        there = read_json(path).get("hash")
        if there != plan.hash:
            raise RunError(f"{folder} holds the trial of another plan ({there}, not {plan.hash}); give another folder")
        return
    text = json.dumps(finite({"hash": plan.hash, **plan.to_json()}), indent=1, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())
