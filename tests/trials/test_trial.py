"""Whole trials: what is planted is found, what is not is not, and what is killed goes on."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import thalweg as tw
from tests.trials import planted
from tests.trials.planted import regression
from thalweg.cli import app
from thalweg.collectives import ALONE, Ranks
from thalweg.demo import try_out
from thalweg.tasks.digits import digits_task, train
from thalweg.trials.cells import CellStore, Training, dealt
from thalweg.trials.ground import make_ground
from thalweg.trials.plan import Plan, make_plan
from thalweg.trials.run import TrialResult, load_trial, trial
from thalweg.trials.samples import Samples, refuse_overlap
from thalweg.trials.stages import Stages
from thalweg.trials.step_sizes import lowest
from thalweg.trials.training import Cell, run_cell
from thalweg.trials.verdict import differences, hopeless, verdicts

SMALL: dict[str, Any] = {
    "steps": 16, "batch": 10, "seeds": 7, "pilot_seeds": 2, "tuning_seeds": 1, "grid": (0.3, 1.0, 3.0)
}  # fmt: skip


def test_a_planted_subspace_is_an_investment() -> None:
    task, planted.BASES["x"] = regression(3)
    found = trial(task, ["known:x"], **SMALL)
    assert found.verdict == {"known:x": "invest"}
    (verdict,) = found.verdicts
    assert verdict["special"]
    assert verdict["worth_it"]
    assert verdict["p_holm"] == 2.0**-6  # of seven seeds with one sign
    by_hand = {c["against"] for c in verdict["comparisons"]}
    assert by_hand == {"random:4", "known:x/layer_matched", "known:x/gradient_matched", "full", "known:x/complement"}
    assert found.data["next"]["stage"] == "full"
    assert found.data["next"]["seconds"] > 0


def test_random_directions_are_none() -> None:
    task, _ = regression(5, planted=False)
    found = trial(task, ["guess:4"], incumbent="random:4", **SMALL)
    assert found.verdict["guess:4"] in ("no evidence", "guard")
    assert not found.data["next"]["go_on"]


def test_the_user_s_model_is_left_alone() -> None:
    task, planted.BASES["x"] = regression(3)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    state = torch.random.get_rng_state()
    trial(task, ["known:x"], stage="pilot", **SMALL)
    assert all(torch.equal(before[name], value) for name, value in task.model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert task.model.training


def test_the_same_seed_gives_the_same_trial_and_another_seed_another() -> None:
    task, planted.BASES["x"] = regression(4)
    first, again, other = (trial(task, ["known:x"], seed=seed, **SMALL) for seed in (0, 0, 1))
    keys = [[(row["against"], row["lead"]) for row in found.table if "time" not in row["against"]]
            for found in (first, again, other)]  # fmt: skip
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


# -- fairness ----------------------------------------------------------------------------------------------


def test_arms_see_the_same_batches() -> None:
    samples = Samples([(torch.arange(12.0)[:, None], torch.arange(12))], 4)
    first, again, other = samples.draw(1), samples.draw(1), samples.draw(2)
    batches = [[next(draw)[1].tolist() for _ in range(6)] for draw in (first, again, other)]
    assert batches[0] == batches[1] != batches[2]
    assert sorted(number for batch in batches[0][:3] for number in batch) == list(
        range(12)
    )  # an epoch is a permutation


def test_batches_that_cannot_be_cut_are_shuffled_whole() -> None:
    data = [{"x": torch.ones(3), "n": number} for number in range(4)]
    samples = Samples(data, 2)
    assert not samples.mixed
    draw = samples.draw(0)
    assert sorted(next(draw)["n"] for _ in range(4)) == [0, 1, 2, 3]


def test_tuning_and_judging_share_no_sample() -> None:
    task, _ = regression(0)
    ground = make_ground(task)
    halves = [{tuple(row.tolist()) for batch in problem.data for row in batch[0]}
              for problem in (ground.tuning, ground.judging)]  # fmt: skip
    assert len(halves[0]) + len(halves[1]) == planted.HELD_OUT
    assert not halves[0] & halves[1]


def test_held_out_data_that_was_trained_on_is_refused() -> None:
    task, _ = regression(0)
    with pytest.raises(tw.InputError, match="60 of 60 held-out samples are training samples"):
        make_ground(tw.Task(task.model, task.loss, task.train, task.train, task.optimizer))
    ((inputs, targets),) = task.train
    ((others, values),) = task.held_out or ()
    mixed = [(torch.cat([others[:90], inputs[:10]]), torch.cat([values[:90], targets[:10]]))]
    with pytest.raises(tw.InputError, match="10 of 100"):
        make_ground(tw.Task(task.model, task.loss, task.train, mixed, task.optimizer))
    few = [(torch.cat([others[:99], inputs[:1]]), torch.cat([values[:99], targets[:1]]))]
    assert refuse_overlap(task.train, few) == pytest.approx(0.01)


def test_the_step_size_is_extended_until_its_edge_does_not_win() -> None:
    """A quadratic whose best step size is far beyond the grid."""
    task, planted.BASES["x"] = regression(3)
    slow = tw.Task(task.model, task.loss, task.train, task.held_out,
                   lambda model: torch.optim.SGD(model.parameters(), lr=0.05 / 3000))  # fmt: skip
    ground = make_ground(slow, batch=10)
    plan = make_plan(ground, ["known:x"], steps=20, seeds=7)
    stages = Stages(plan, ground, CellStore())
    found = stages.tune()["known:x"]
    assert found.factor > max(plan.grid)
    assert not found.edge
    losses = {factor: loss for factor, loss in found.tried.items() if loss is not None}
    assert min(losses, key=lambda factor: losses[factor]) == found.factor


def test_the_lowest_point_of_three_losses() -> None:
    factors = (0.1, 1.0, 10.0)

    def loss(factor: float) -> float:
        return (np.log10(factor) - 0.3) ** 2 + 5

    assert lowest(factors, [loss(f) for f in factors]) == pytest.approx(10**0.3)
    assert lowest(factors, [3.0, 2.0, 1.0]) == 10.0
    assert lowest(factors, [1.0, 2.0, float("inf")]) == 0.1
    assert lowest(factors, [2.0, 1.0, float("inf")]) == 1.0


OPTIMIZERS: dict[str, Any] = {
    "momentum_buffer": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "exp_avg exp_avg_sq step": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3),
}


@pytest.mark.parametrize("keys", OPTIMIZERS)
def test_carried_and_fresh_optimizer_state(tmp_path: Path, keys: str) -> None:
    task = replace(digits_task(hidden=(16,)), optimizer=OPTIMIZERS[keys])
    optimizer = OPTIMIZERS[keys](task.model)
    with tw.watch(task.model, optimizer, tmp_path / "a", segment_rows=8):
        train(task, optimizer, epochs=3)
    run = tw.open_run(tmp_path / "a").trajectory
    fresh = make_ground(task, run)
    carried = make_ground(task, run, carried=True)
    assert not fresh.state
    assert carried.state_step is not None
    assert 40 < carried.state_step < 69
    assert {key for state in carried.state.values() for key in state} == set(keys.split())
    losses = [run_cell(ground, "full", 1, 1.0, (1,), "judging").loss for ground in (fresh, carried)]
    assert losses[0] != losses[1]


def test_an_earlier_task_is_watched_beside_it() -> None:
    task, planted.BASES["x"] = regression(3)
    other, _ = regression(8)
    old = tw.Task(task.model, task.loss, other.train, other.held_out, evaluate=lambda model: {"size": 1.5})
    found = trial(task, ["known:x"], old=old, **SMALL)
    curves = {row["arm"]: row for row in found.data["stages"]["confirm"]["curves"]}
    start = tw.Problem(task.model, task.loss, other.held_out).loss()
    assert curves["full"]["old"][0] == pytest.approx(start, rel=1e-5)
    assert curves["full"]["old"][-1] != curves["full"]["old"][0]
    assert found.data["stages"]["confirm"]["measures"]["full"]["old size"] == 1.5


# -- verdicts ----------------------------------------------------------------------------------------------


def cell(arm: str, seed: int, loss: float | None, seconds: float = 1.0) -> Cell:
    diverged = 10 if loss is None else None
    losses = (1.0, None if loss is None else (1.0 + loss) / 2, loss)
    return Cell(arm, seed, 1.0, "judging", (0, 10, 20), losses, (), seconds, seconds, diverged, 20, {})


def plan_of(**settings: Any) -> Plan:
    return Plan(arms=("a",), controls={"a": ("c",)}, complements={}, **{"seeds": 8, **settings})


def told(
    losses: dict[str, float | None], plan: Plan, seconds: dict[str, float] | None = None, jitter: float = 0.01
) -> Any:
    generator = np.random.default_rng(0)
    seeds = plan.stage_seeds("confirm")
    cells = {
        (arm, seed): cell(arm, seed, None if loss is None else loss + jitter * generator.standard_normal(),
                          (seconds or {}).get(arm, 1.0))
        for arm, loss in losses.items()
        for seed in seeds
    }  # fmt: skip
    return verdicts(plan, cells, {"a": seeds}, {})[0], cells


def test_invest_needs_both() -> None:
    plan = plan_of()
    assert told({"a": 0.5, "c": 0.7, "full": 0.6}, plan)[0].word == "invest"
    special = told({"a": 0.5, "c": 0.7, "full": 0.5}, plan)[0]
    assert (special.word, special.special, special.worth_it) == ("no evidence", True, False)
    worth = told({"a": 0.5, "c": 0.5, "full": 0.7}, plan)[0]
    assert (worth.word, worth.special, worth.worth_it) == ("no evidence", False, True)
    assert "c" in worth.change


def test_an_effect_that_is_surely_too_small_is_not_worth_it() -> None:
    losses: dict[str, float | None] = {"a": 0.5, "c": 0.7, "full": 0.52}
    assert told(losses, plan_of(minimum_effect=0.01), jitter=1e-3)[0].word == "invest"
    assert told(losses, plan_of(minimum_effect=0.1), jitter=1e-3)[0].word == "no evidence"


def test_harmful_is_worse_than_doing_nothing() -> None:
    assert told({"a": 1.2, "c": 0.9, "full": 0.8}, plan_of())[0].word == "harmful"


def test_a_rise_that_is_surely_too_small_is_not_harmful() -> None:
    losses: dict[str, float | None] = {"a": 1.01, "c": 0.9, "full": 0.8}
    assert told(losses, plan_of(minimum_effect=0.005), jitter=1e-3)[0].word == "harmful"
    assert told(losses, plan_of(minimum_effect=0.02), jitter=1e-3)[0].word == "no evidence"


def test_a_divergence_counts_as_a_loss() -> None:
    verdict, cells = told({"a": None, "c": 0.9, "full": 0.8}, plan_of())
    assert (verdict.word, verdict.diverged) == ("harmful", 8)
    assert differences(cells, "a", "full", plan_of().stage_seeds("confirm")) == pytest.approx(0.8 - 10.0, abs=0.1)
    beaten = told({"a": 0.5, "c": None, "full": 0.8}, plan_of())[0]
    assert beaten.word == "invest"  # a control that diverges has lost


def test_equal_time_is_by_the_clock() -> None:
    """An arm that takes twice as long is compared at half of its steps."""
    verdict, _ = told({"a": 0.5, "c": 0.9, "full": 0.6}, plan_of(), {"a": 2.0}, jitter=0.0)
    timed = verdict.comparisons[-1]
    assert timed.equal_time
    assert timed.effect.mean == pytest.approx(0.6 - 0.75)  # half way from 1.0 to 0.5
    assert verdict.saving == pytest.approx(-1.0)
    assert verdict.word == "no evidence"


def test_as_good_at_a_saving() -> None:
    plan = plan_of(question="as good", margin=0.05, saving=0.3)
    losses: dict[str, float | None] = {"a": 0.62, "c": 0.9, "full": 0.6}
    assert told(losses, plan, {"a": 0.6})[0].word == "invest"
    assert told(losses, plan, {"a": 0.9})[0].word == "no evidence"
    assert told({**losses, "a": 0.7}, plan, {"a": 0.6})[0].word == "no evidence"


def test_arms_are_corrected_for_each_other() -> None:
    """One that is significant at 0.05 alone is not beside three others."""
    generator = np.random.default_rng(1)
    names = ("a", "b", "d", "e")
    plan = Plan(arms=names, controls=dict.fromkeys(names, ("c",)), complements={}, minimum_effect=0.001)
    seeds = plan.stage_seeds("confirm")
    lead = generator.standard_normal(8)
    lead = (lead - lead.mean()) / lead.std(ddof=1)
    losses = {"c": 0.9 + 0 * lead, "full": 0.5 + 0.01 * (lead + 0.9)}  # t = 0.9 √8, p = 0.04
    cells = {(arm, s): cell(arm, s, float(losses.get(arm, 0.5 + 0 * lead)[i]))
             for arm in (*names, "c", "full") for i, s in enumerate(seeds)}  # fmt: skip
    found = verdicts(plan, cells, dict.fromkeys(names, seeds), {})
    assert all(0.03 < one.p_value < 0.05 for one in found)
    assert all(one.word == "no evidence" for one in found)
    alone = verdicts(
        plan_of(minimum_effect=0.001), {k: v for k, v in cells.items() if k[0] in ("a", "c", "full")}, {"a": seeds}, {}
    )
    assert alone[0].word == "invest"


def test_stopping_for_futility() -> None:
    plan = plan_of(minimum_effect=0.01)
    for lead, stops in ((-0.2, True), (0.2, False)):
        _, cells = told({"a": 0.5, "c": 0.5 + lead, "full": 0.5 + lead}, plan)
        assert hopeless(plan, cells, "a", plan.stage_seeds("confirm")[:4]) == stops


# -- plans -------------------------------------------------------------------------------------------------


def test_a_plan_that_cannot_answer_is_refused() -> None:
    task, planted.BASES["x"] = regression(3)
    with pytest.raises(tw.InputError, match="use at least 6 seeds"):
        trial(task, ["known:x"], seeds=5)
    with pytest.raises(tw.InputError, match="at least 2 seeds"):
        trial(task, ["known:x"], seeds=1)
    with pytest.raises(tw.InputError, match="tested against itself"):
        trial(task, ["known:x"], incumbent="known:x")
    with pytest.raises(tw.InputError, match="at least three positive factors"):
        trial(task, ["known:x"], grid=(1.0, 0.1, 3.0))
    with pytest.raises(tw.InputError, match="minimum_effect=-1"):
        trial(task, ["known:x"], minimum_effect=-1)
    with pytest.raises(tw.InputError, match="no setting 'wombat'"):
        trial(task, ["known:x"], wombat=1)
    with pytest.raises(tw.InputError, match="training never saw"):
        trial(tw.Task(task.model, task.loss, task.train, None, task.optimizer))
    with pytest.raises(tw.InputError, match="optimizer"):
        trial(tw.Task(task.model, task.loss, task.train, task.held_out))
    with pytest.raises(tw.InputError, match="no run whose optimizer state"):
        trial(task, ["known:x"], state="carried")


def test_a_budget_that_cannot_reach_the_power_ends_with_the_pilot() -> None:
    task, planted.BASES["x"] = regression(3)
    found = trial(task, ["known:x"], budget=1e-3, minimum_effect=1e-4, **SMALL)
    assert found.stage == "pilot"
    assert found.verdict == {}
    assert not found.data["next"]["affordable"]


def test_what_a_stage_costs_is_counted_in_all_its_trainings() -> None:
    task, planted.BASES["x"] = regression(3)
    ground = make_ground(task, batch=10)
    stages = Stages(
        make_plan(ground, ["known:x"], futility=0.0, **{k: v for k, v in SMALL.items() if k != "batch"}),
        ground,
        CellStore(),
    )
    stages.pilot()
    before = len(stages.store.cells)
    stages.judge("confirm")
    assert len(stages.store.cells) - before == stages.trainings("confirm") * len(stages.plan.names)


def test_the_command_of_the_demo_s_trial_makes_that_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the demo asks for, and what its command line asks for."""
    asked: list[dict[str, Any]] = []

    def heard(task: tw.Task, arms: Any, **settings: Any) -> TrialResult:
        asked.append({"arms": list(arms), "run": str(settings.pop("run")), **settings})
        return TrialResult({"stage": "pilot", "stages": {}, "next": {"affordable": True}})

    monkeypatch.setattr("thalweg.demo.trial", heard)
    monkeypatch.setattr("thalweg.trials.run.trial", heard)
    monkeypatch.setattr("thalweg.cli.trying.trial_text", lambda data: "")
    try_out("runs/x", seed=3)
    done = CliRunner().invoke(app, shlex.split(asked[0]["command"])[1:], catch_exceptions=False)
    assert done.exit_code == 0
    for key in ("arms", "run", "steps", "seeds", "pilot_seeds", "seed"):
        assert asked[1][key] == asked[0][key], key


def test_the_hash_is_that_of_everything_that_was_decided() -> None:
    task, planted.BASES["x"] = regression(3)
    ground = make_ground(task)
    plan = make_plan(ground, ["known:x"])
    assert plan.hash == make_plan(ground, ["known:x"]).hash
    others = [
        make_plan(ground, ["known:x"], steps=100),
        make_plan(ground, ["known:x"], level=0.01),
        make_plan(ground, ["known:x", "eigenvectors:2"]),
        make_plan(make_ground(regression(4)[0]), ["known:x"]),
    ]
    assert len({plan.hash, *(one.hash for one in others)}) == 5


def test_stages_share_no_seed() -> None:
    plan = plan_of()
    used = [*plan.tuning, *(seed for stage in ("pilot", "confirm", "full") for seed in plan.stage_seeds(stage))]  # type: ignore[arg-type]
    assert len(used) == len(set(used))


def test_the_full_stage_follows_a_confirmation() -> None:
    task, planted.BASES["x"] = regression(3)
    found = trial(task, ["known:x"], stage="full", **SMALL)
    assert found.stage == "full"
    assert found.data["stages"]["full"]["seeds"] != found.data["stages"]["confirm"]["seeds"]
    assert found.data["stages"]["full"]["curves"][0]["steps"][-1] == 4 * SMALL["steps"]
    assert found.data["spent"]["gradients"] > 0


# -- on disk -----------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from tests.trials import planted
from tests.trials.planted import regression
from thalweg.trials.run import trial
task, planted.BASES["x"] = regression(3)
found = trial(task, ["known:x"], out=sys.argv[1], steps=8, batch=10, seeds=6, pilot_seeds=2, grid=(0.3, 1.0, 3.0))
rows = [(row["against"], row["lead"]) for row in found.table if "time" not in row["against"]]
print(repr(rows), found.data["reused"])
"""


def test_a_killed_trial_goes_on_where_it_was(tmp_path: Path) -> None:
    def start(folder: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
        )

    whole, _ = start(tmp_path / "whole").communicate(timeout=300)
    process = start(tmp_path / "killed")
    cells = tmp_path / "killed" / "cells"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not cells.is_dir() or len(list(cells.glob("*.json"))) < 30):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(list(cells.glob("*.json")))
    assert done >= 30
    again, _ = start(tmp_path / "killed").communicate(timeout=300)
    (rows, reused), (same, none) = again.rsplit(" ", 1), whole.rsplit(" ", 1)
    assert rows == same
    assert int(none) == 0
    assert int(reused) == done


def test_a_damaged_cell_is_run_again(tmp_path: Path) -> None:
    store, made, one = CellStore(tmp_path), [], Training("a", 1, 0.5, "judging", (8,))

    def run(training: Training) -> Cell:
        made.append(training)
        return cell("a", 1, 0.5)

    assert store.get(one, run) == cell("a", 1, 0.5)
    (path,) = tmp_path.glob("*.json")
    assert CellStore(tmp_path).get(one, run) == cell("a", 1, 0.5)
    assert made == [one]
    path.write_text(path.read_text()[:-9])
    CellStore(tmp_path).get(one, run)
    assert len(made) == 2


def test_trainings_are_dealt_out_by_seed_and_each_once() -> None:
    seeds = [1, 1, 2, 2, 3, 3]
    parts = [dealt(seeds, Ranks(2, rank)) for rank in range(2)]
    assert parts == [[0, 1, 4, 5], [2, 3]]
    parts = [dealt(seeds, Ranks(4, rank)) for rank in range(4)]  # fewer seeds than ranks: one by one
    assert parts == [[0, 4], [1, 5], [2], [3]]
    assert dealt(seeds, ALONE) == list(range(6))


def test_planning_again_takes_no_verdict_away(tmp_path: Path) -> None:
    task, planted.BASES["x"] = regression(2)
    optimizer = task.optimizer(task.model)  # type: ignore[misc]
    with tw.watch(task.model, optimizer, tmp_path / "run"):
        for _ in range(12):
            optimizer.zero_grad()
            task.loss(task.model, task.train[0]).backward()  # type: ignore[index]
            optimizer.step()
    confirmed = trial(task, ["known:x"], run=tmp_path / "run", **SMALL)
    trial(task, ["guess:4"], run=tmp_path / "run", stage="pilot", **SMALL)
    kept = load_trial(tmp_path / "run")
    assert kept.verdict == confirmed.verdict != {}
    again = trial(task, ["guess:4"], run=tmp_path / "run", **SMALL)
    assert load_trial(tmp_path / "run").verdict == again.verdict


def test_a_trial_on_a_run_is_kept_in_its_folder(tmp_path: Path) -> None:
    task = digits_task(hidden=(16,))
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1, momentum=0.9)
    with tw.watch(task.model, optimizer, tmp_path / "a"):
        train(task, optimizer, epochs=3)
    kept = digits_task(hidden=(16,))
    found = trial(kept, ["updates:3"], run=tmp_path / "a", steps=8, seeds=6, pilot_seeds=2)
    assert load_trial(tmp_path / "a").verdict == found.verdict
    plan = json.loads((tmp_path / "a" / "trials" / found.data["hash"] / "plan.json").read_text())
    assert plan["hash"] == found.data["hash"]
    assert plan["steps"] == 8
    with pytest.raises(tw.InputError, match=r"0\.weight"):
        trial(
            tw.Task(nn.Sequential(nn.Linear(64, 10)), kept.loss, kept.train, kept.held_out, kept.optimizer),
            run=tmp_path / "a",
        )
