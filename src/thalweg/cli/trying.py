"""The command that tries what was found."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from thalweg.cli.base import (
    AsJson,
    Quiet,
    RunFolder,
    Seed,
    Setting,
    UserTask,
    app,
    own_command,
    show_result,
    shows,
    speaker,
)
from thalweg.collectives import first_rank, ranks
from thalweg.show.trial_text import plan_text, trial_text
from thalweg.tasks.loading import load_task, parse_settings


class _PlanFirst(TyperCommand):
    """`thalweg trial plan RUN` is `thalweg trial RUN --stage pilot`."""

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        if arguments[:1] == ["plan"]:
            arguments = [*arguments[1:], "--stage", "pilot"]
        return super().parse_args(context, arguments)


Arms = Annotated[str | None, typer.Option(help="With commas: updates:10,eigenvectors:10,layers:top:2 and so on.")]
Seeds = Annotated[int, typer.Option(help="Replicates that judge.")]
PilotSeeds = Annotated[int, typer.Option(help="Replicates of the pilot.")]
Steps = Annotated[int, typer.Option(help="Steps of each training.")]
Step = Annotated[int | None, typer.Option(help="The run's step after which the arms begin; the last.")]
Samples = Annotated[int, typer.Option("--batch", help="Samples of a training step.")]
Effect = Annotated[float, typer.Option(help="Smallest effect worth having, as a share of the start's held-out loss.")]
Incumbent = Annotated[str, typer.Option(help="The arm that you would use otherwise.")]
Asked = Annotated[str, typer.Option(help="better: than the incumbent in equal time; 'as good': at a saving.")]
Margin = Annotated[float, typer.Option(help="For 'as good': how much worse, as a share of the start's loss.")]
Saving = Annotated[float, typer.Option(help="For 'as good': the least share of the incumbent's time saved.")]
State = Annotated[str, typer.Option(help="The optimizer's state at the start: fresh or carried.")]
Refresh = Annotated[int | None, typer.Option(help="Find bases again every so many steps.")]
Budget = Annotated[float | None, typer.Option(help="Seconds that the confirmation may take.")]
OldTask = Annotated[str | None, typer.Option("--old", help="An earlier task, measured beside yours.")]
LastStage = Annotated[str, typer.Option(help="The last stage to run: pilot, confirm or full.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Go on after the pilot without being asked.")]


@app.command("trial", cls=_PlanFirst)
def trial_command(
    run: RunFolder, task: UserTask, setting: Setting = None, arms: Arms = None, seeds: Seeds = 8, steps: Steps = 200,
    step: Step = None, batch: Samples = 64, minimum_effect: Effect = 0.02, incumbent: Incumbent = "full",
    question: Asked = "better", margin: Margin = 0.02, saving: Saving = 0.2, state: State = "fresh",
    pilot_seeds: PilotSeeds = 4, refresh: Refresh = None, budget: Budget = None, old: OldTask = None,
    stage: LastStage = "confirm", seed: Seed = 0,
    yes: Yes = False, as_json: AsJson = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Test by A/B whether working along directions pays; `thalweg trial plan RUN` says what that costs.

    Plans, pilots, then confirms on fresh seeds; what was run is kept and not run again.
    """
    from thalweg.progress import counting
    from thalweg.trials.run import TrialResult, trial

    loaded = load_task(task, parse_settings(setting or []))
    before = None if old is None else load_task(old)
    names = None if arms is None else [name.strip() for name in arms.split(",")]

    def up_to(last: Any) -> TrialResult:
        with counting("trial", shows(quiet)) as tell:
            return trial(
                loaded, names, run=run, stage=last, step=step, batch=batch, state=state, seed=seed, old=before,
                budget=budget, command=own_command(), say=speaker(quiet), tell=tell, seeds=seeds, steps=steps,
                minimum_effect=minimum_effect, incumbent=incumbent, question=question, margin=margin, saving=saving,
                refresh=refresh, pilot_seeds=pilot_seeds,
            )  # fmt: skip

    found = up_to("pilot" if not yes else stage)
    if stage != "pilot" and not yes and found.data["next"]["affordable"]:
        if first_rank():
            print(plan_text(found.data), file=sys.stderr)
        if ranks().size > 1 or not sys.stdin.isatty() or not typer.confirm("go on?", err=True):
            if first_rank():
                print("thalweg: the pilot is done and kept; go on with --yes", file=sys.stderr)
            raise typer.Exit(2)
        found = up_to(stage)
    show_result(dict(found.data), as_json, trial_text)
