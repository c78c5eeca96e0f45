"""The command line: parses, calls, prints. What is decided is decided elsewhere.

Results go to standard output, one JSON document with `--json`; progress goes to standard error, and only to a
terminal. Exit code 0, or 1 for a measured failure, or 2 for wrong usage with the mend in one line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from thalweg.errors import ThalwegError
from thalweg.show.folders import export_summary, import_summary, inspection_text, shown
from thalweg.show.trial_text import plan_text, trial_text, verdict_line
from thalweg.tables import Table
from thalweg.tasks.loading import load_task, parse_settings
from thalweg.version import __version__

SHOWN = 8
"""Directions in a summary."""

app = typer.Typer(
    name="thalweg",
    help="Find the parameter directions of a neural network that matter, and how sure that is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

RunFolder = Annotated[Path, typer.Argument(help="The run folder that thalweg.watch wrote.", metavar="RUN")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Languages = Annotated[str, typer.Option("--lang", help="Languages of the report: en, ja or en,ja.")]


def main() -> None:
    """Run the command line; known errors end with one line and exit code 2, `THALWEG_DEBUG=1` shows their trace."""
    try:
        app()
    except ThalwegError as error:
        if os.environ.get("THALWEG_DEBUG"):
            raise
        print(f"thalweg: {shown(error)}", file=sys.stderr)
        raise SystemExit(2) from None


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context, show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Find the parameter directions of a neural network that matter, and how sure that is."""
    if show:
        print(__version__)
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The run folder; a run that is there is replaced.")] = Path("runs/demo"),
    seed: Seed = 0,
    epochs: Annotated[int, typer.Option(help="Passes over the training data.", min=1)] = 40,
    tried: Annotated[bool, typer.Option("--trial/--no-trial", help="Whether to try what was found.")] = True,
    lang: Languages = "en,ja",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a small network on real data, record and analyse it, try what was found, write the report."""
    from thalweg.demo import demo as run_demo
    from thalweg.demo import try_out
    from thalweg.show.report import report as write_report

    result = run_demo(out, seed, epochs, _speaker(quiet), progress=_shows(quiet))
    if tried:
        result = {**result, "trial": dict(try_out(out, seed, _speaker(quiet)).data)}
    files = write_report(out, lang.split(","))
    _print(result, files, as_json)


@app.command()
def analyse(
    run: RunFolder,
    task: Annotated[str | None, typer.Option(help="Your task: module:function or path/to/file.py:function.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="key=value for the task's function.")] = None,
    k: Annotated[int, typer.Option(help="Eigenpairs of the Hessian.", min=1)] = 10,
    stages: Annotated[int, typer.Option(help="Points of training at which the Hessian is measured.", min=1)] = 3,
    tol: Annotated[float, typer.Option(help="Residual of the eigenpairs, relative to the largest.")] = 1e-3,
    certify: Annotated[str, typer.Option(help="estimate, full or complete.")] = "complete",
    noise_draws: Annotated[int, typer.Option(help="Draws of noise on inputs and labels; 0: none.", min=0)] = 3,
    seed: Seed = 0,
    lang: Languages = "en,ja",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure a recorded run: spectra, components, overlaps, layers; write results and report."""
    from thalweg.measurement.base import Settings
    from thalweg.recording.inspection import without_task
    from thalweg.show.report import report as write_report
    from thalweg.workflow import analyse as measure

    if task is None:
        print(f"thalweg: {without_task(run)}", file=sys.stderr)
        raise typer.Exit(2)
    loaded = load_task(task, parse_settings(setting or []))
    settings = Settings(k, stages, tol=tol, certificate=certify, seed=seed, noise_draws=noise_draws)  # type: ignore[arg-type]
    result = measure(
        run,
        loaded.problem(),
        loaded.problem(held_out=True) if loaded.held_out is not None else None,
        settings=settings,
        command=_command(),
        say=_speaker(quiet),
        progress=_shows(quiet),
    )
    _print(result, write_report(run, lang.split(",")), as_json)


@app.command()
def report(run: RunFolder, lang: Languages = "en,ja", as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Write the report of an analysed run again; no code of the user's is imported."""
    from thalweg.recording import open_run
    from thalweg.show.report import report as write_report

    files = write_report(run, lang.split(","))
    _print(open_run(run).load("analysis"), files, as_json)


class _PlanFirst(TyperCommand):
    """`thalweg trial plan RUN` is `thalweg trial RUN --stage pilot`."""

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        if arguments[:1] == ["plan"]:
            arguments = [*arguments[1:], "--stage", "pilot"]
        return super().parse_args(context, arguments)


UserTask = Annotated[str, typer.Option(help="Your task: module:function or path/to/file.py:function.")]
Setting = Annotated[list[str] | None, typer.Option("--set", help="key=value for the task's function.")]
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
        with counting("trial", _shows(quiet)) as tell:
            return trial(
                loaded, names, run=run, stage=last, step=step, batch=batch, state=state, seed=seed, old=before,
                budget=budget, command=_command(), say=_speaker(quiet), tell=tell, seeds=seeds, steps=steps,
                minimum_effect=minimum_effect, incumbent=incumbent, question=question, margin=margin, saving=saving,
                refresh=refresh, pilot_seeds=pilot_seeds,
            )  # fmt: skip

    found = up_to("pilot" if not yes else stage)
    if stage != "pilot" and not yes and found.data["next"]["affordable"]:
        print(plan_text(found.data), file=sys.stderr)
        if not sys.stdin.isatty() or not typer.confirm("go on?", err=True):
            print("thalweg: the pilot is done and kept; go on with --yes", file=sys.stderr)
            raise typer.Exit(2)
        found = up_to(stage)
    _show(dict(found.data), as_json, trial_text)


@app.command()
def claims(
    out: Annotated[Path, typer.Option(help="The study's folder; what is in it is not run again.")] = Path("out/study"),
    tasks: Annotated[str | None, typer.Option(help="Some of the tasks only, with commas.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two small tasks, two seeds, a third of the steps.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put the claims C1 to C7 to the test over the built-in tasks: a scoreboard with intervals."""
    from thalweg.show.scoreboard import write_page
    from thalweg.study import run_study

    board = run_study(out, quick, None if tasks is None else tasks.split(","), _speaker(quiet))
    files = write_page(board, out, "quick" if quick else "study", _command())
    _show({**board, "files": [str(path) for path in files]}, as_json, scoreboard_text)


@app.command()
def inspect(run: RunFolder, as_json: AsJson = False) -> None:
    """Say what is in a run and whether it is whole; exit code 1 if something is damaged, missing or not finite."""
    from thalweg.recording.inspection import inspect_run

    found = inspect_run(run)
    _show(found, as_json, inspection_text)
    if not found["healthy"]:
        raise typer.Exit(1)


@app.command()
def export(
    run: RunFolder,
    to: Annotated[str, typer.Option(help="npz, zarr, checkpoints, jsonl or tensorboard.")],
    out: Annotated[Path, typer.Option(help="The file or folder to be made.")],
    steps: Annotated[
        str, typer.Option(help="For checkpoints: steps, first, last, all or start:stop:stride, with commas.")
    ] = "last",
    as_json: AsJson = False,
) -> None:
    """Write a run in another format."""
    from thalweg.recording.exporting import export as write

    _show(write(run, to, out, steps), as_json, export_summary)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="A folder of checkpoints (state_dicts).", metavar="FOLDER")],
    out: Annotated[Path, typer.Option(help="The run folder to be made.")],
    order: Annotated[
        str | None, typer.Option(help="Names in order, with commas; else numbers in the names tell.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Your task, whose model tells parameters from buffers: module:function.")
    ] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="key=value for the task's function.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a run of a folder of checkpoints; its rows are the differences between them."""
    from thalweg.recording.importing import import_checkpoints

    network = load_task(model, parse_settings(setting or [])).model if model is not None else None
    names = None if order is None else order.split(",")
    _show(import_checkpoints(folder, out, names, network), as_json, import_summary)


def _show(result: dict[str, Any], as_json: bool, in_words: Callable[[dict[str, Any]], str]) -> None:
    """A result on standard output, as JSON or in words."""
    print(json.dumps(result, ensure_ascii=False, indent=1) if as_json else in_words(result))


def _print(result: dict[str, Any], files: list[Path], as_json: bool) -> None:
    """The result on standard output: whole as JSON, or what a person wants first."""
    if as_json:
        print(json.dumps({**result, "reports": [str(path) for path in files]}, ensure_ascii=False, indent=1))
        return
    print(summary(result))
    for path in files:
        print(f"report: {path.resolve().as_uri()}")


def summary(result: dict[str, Any]) -> str:
    """A few lines of text about an analysis: the spectrum's top, the agreement table, the layers, the verdict."""
    last = result["stages"][-1]
    rows = [
        {
            "source": row["source"],
            "steps": f"{row['window'][0]}–{row['window'][1]}",
            "components": row["components"],
            "captured": row["captured"],
            "by chance": row["nulls"]["uniform"]["expected"],
            "layer-matched": row["nulls"]["layer_matched"]["expected"],
        }
        for row in last["agreement"]
    ]
    layers = [
        {"layer": r["layer"], "depth": r["depth"], "parameters": r["parameters"], "λ₁": r["values"][0],
         "of the net's": r["share_of_net"], "update energy": r["update_energy"]}
        for r in result["layers"]
    ]  # fmt: skip
    orders = [
        {"layer": r["layer"], "gain of its best step": r["gain"], "to tune": _order(r, "fine_tuning"),
         "cost of noise": r["noise_cost"], "to compress": _order(r, "compression")}
        for r in result["layers"]
    ]  # fmt: skip
    best = [
        {"direction": _named(r), "curvature": r["curvature"], "predicted gain": r["gain"],
         "held-out": r["gain_held_out"], "layers": r["layers"], "words": r["words"]}
        for r in result["directions"][:SHOWN]
    ]  # fmt: skip
    values = ", ".join(f"{value:.4g}" for value in last["spectrum"]["values"])
    return "\n".join(
        [
            f"top eigenvalues after step {last['step']} ({last['spectrum']['certificate']}): {values}",
            "",
            "share of that eigenspace in the principal components of the recorded",
            str(Table.of(rows)),
            "",
            str(Table.of(layers)),
            "",
            str(Table.of(orders)),
            "",
            f"largest predicted gains of one step, of {len(result['directions'])} directions",
            str(Table.of(best)),
            "",
            drift_text(result["drift"]),
            f"updates and curvature: {result['verdict']['word']}; {verdict_line(result.get('trial'))}",
            f"{result['cost']['products']} products, {result['cost']['seconds']['total']:.1f} s",
        ]
    )


def scoreboard_text(board: dict[str, Any]) -> str:
    """The verdicts as a table."""
    rows = [
        {"claim": row["claim"], "verdict": row["verdict"], "mean": row["mean"],
         "95 % interval": "–" if row["interval"] is None else "{:.3g} to {:.3g}".format(*row["interval"]),
         "supported above": row["supported_above"], "p, Holm": row["p_holm"], "units": len(row["units"]),
         "says": row["says"]}
        for row in board["claims"]
    ]  # fmt: skip
    cost = f"{board['cells']} cells, {board['products']:,} products, {board['seconds'] / 60:.1f} minutes of analysis"
    return f"{Table.of(rows)}\n\n{cost}"


def drift_text(drift: dict[str, Any]) -> str:
    """One line about the drift."""
    if "found" not in drift:
        return f"drift: not tested ({drift['reason']})"
    where = f"steps {drift['window'][0]} to {drift['window'][1] - 1}, p {drift['p_value']:.3g}"
    if not drift["found"]:
        return f"drift: no evidence ({where})"
    half = drift["half_life"]
    pace = f"half-life {half:.4g} steps" if half is not None else drift["reason"]
    return f"drift: found ({where}), {drift['share']:.0%} of the updates' energy; {drift['model']}: {pace}"


def _named(record: dict[str, Any]) -> str:
    """A direction's name; the drift and the gradient are one of their kind."""
    return record["label"] if record["label"] in ("drift", "gradient") else f"{record['label']} {record['index'] + 1}"


def _order(record: dict[str, Any], name: str) -> str:
    """A rank with its interval."""
    low, high = record[f"{name}_low"], record[f"{name}_high"]
    return str(record[name]) if low is None or low == high else f"{record[name]} ({low:.0f} to {high:.0f})"


def _shows(quiet: bool) -> bool:
    return not quiet and sys.stderr.isatty()


def _speaker(quiet: bool) -> Any:
    def say(line: str) -> None:
        if _shows(quiet):
            print(line, file=sys.stderr)

    return say


def _command() -> str:
    import shlex

    return shlex.join(["thalweg", *sys.argv[1:]])
