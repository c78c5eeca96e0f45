"""Commands that measure: demo, analyse, report, claims."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.base import (
    AsJson,
    Languages,
    Quiet,
    RunFolder,
    Seed,
    Setting,
    app,
    own_command,
    print_analysis,
    show_result,
    shows,
    speaker,
)
from thalweg.cli.text import scoreboard_text
from thalweg.collectives import first_rank
from thalweg.tasks.loading import load_task, parse_settings


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

    result = run_demo(out, seed, epochs, speaker(quiet), progress=shows(quiet))
    if tried:
        result = {**result, "trial": dict(try_out(out, seed, speaker(quiet)).data)}
    files = write_report(out, lang.split(","))
    print_analysis(result, files, as_json)


@app.command()
def analyse(
    run: RunFolder,
    task: Annotated[str | None, typer.Option(help="Your task: module:function or path/to/file.py:function.")] = None,
    setting: Setting = None,
    k: Annotated[int, typer.Option(help="Eigenpairs of the Hessian.", min=1)] = 10,
    stages: Annotated[int, typer.Option(help="Points of training at which the Hessian is measured.", min=1)] = 3,
    tol: Annotated[float, typer.Option(help="Residual of the eigenpairs, relative to the largest.")] = 1e-3,
    certify: Annotated[str, typer.Option(help="estimate, full or complete.")] = "complete",
    noise_draws: Annotated[int, typer.Option(help="Draws of noise on inputs and labels; 0: none.", min=0)] = 3,
    density_steps: Annotated[
        int, typer.Option(help="Lanczos steps for each of three probes of the spectral density; 0: none.", min=0)
    ] = 32,
    seed: Seed = 0,
    lang: Languages = "en,ja",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure a recorded run: spectra, components, overlaps, layers; write results and report."""
    from thalweg.measurement.base import Settings
    from thalweg.recording.inspection import without_task
    from thalweg.show.report import load_analysis
    from thalweg.show.report import report as write_report
    from thalweg.workflow import analyse as measure

    if task is None:
        print(f"thalweg: {without_task(run)}", file=sys.stderr)
        raise typer.Exit(2)
    loaded = load_task(task, parse_settings(setting or []))
    settings = Settings(
        k,
        stages,
        tol=tol,
        certificate=certify,  # type: ignore[arg-type]
        seed=seed,
        noise_draws=noise_draws,
        density_steps=density_steps,
    )
    measure(
        run,
        loaded.problem(),
        loaded.problem(held_out=True) if loaded.held_out is not None else None,
        settings=settings,
        command=own_command(),
        say=speaker(quiet),
        progress=shows(quiet),
    )
    if first_rank():
        print_analysis(load_analysis(run), write_report(run, lang.split(",")), as_json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="A run folder; several are set side by side.", metavar="RUN")],
    lang: Languages = "en,ja",
    out: Annotated[Path, typer.Option(help="Where the page goes that holds several runs.")] = Path(),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the report of an analysed run again, or one page with several runs; no code of the user's is imported."""
    from thalweg.show.comparison import compare
    from thalweg.show.report import load_analysis
    from thalweg.show.report import report as write_report

    if len(runs) > 1:
        files = compare(runs, out, lang.split(","))
        result = {"runs": [str(run) for run in runs], "reports": [str(path) for path in files]}
        show_result(result, as_json, lambda _: "\n".join(f"report: {path.resolve().as_uri()}" for path in files))
        return
    files = write_report(runs[0], lang.split(","))
    print_analysis(load_analysis(runs[0]), files, as_json)


@app.command()
def plot(
    run: RunFolder,
    names: Annotated[
        list[str] | None, typer.Argument(help="Sections of the report; all with pictures unless given.", metavar="NAME")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where they go; RUN/figures unless given.")] = None,
    kind: Annotated[str, typer.Option("--format", help="svg, pdf or png.")] = "svg",
    lang: Annotated[str, typer.Option("--lang", help="en or ja.")] = "en",
    as_json: AsJson = False,
) -> None:
    """Draw figures of an analysed run as files for papers and slides, each with its legend."""
    from thalweg.show.figures import save_figures

    files = save_figures(run, names or (), out, kind, lang)
    show_result({"figures": [str(path) for path in files]}, as_json, lambda _: "\n".join(str(path) for path in files))


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

    board = run_study(out, quick, None if tasks is None else tasks.split(","), speaker(quiet))
    files = write_page(board, out, "quick" if quick else "study", own_command())
    show_result({**board, "files": [str(path) for path in files]}, as_json, scoreboard_text)


@app.command()
def forget(
    out: Annotated[Path, typer.Option(help="The study's folder; what is in it is not run again.")] = Path("out/forget"),
    streams: Annotated[
        str | None,
        typer.Option(help="permuted, rotated, split, texts, pretrained, many, narrow, classes, with commas."),
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Some of the methods only, with commas.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of the result.", min=2)] = 5,
    final: Annotated[int, typer.Option(help="Seeds of the finalists: the guard and the two best others.", min=2)] = 10,
    curves: Annotated[bool, typer.Option(help="How protection depends on its strength and on k, too.")] = True,
    workers: Annotated[int, typer.Option(help="Processes, of one thread each.", min=1)] = 2,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put claim C8 to the test: how much of earlier tasks is kept over streams of tasks, beside other methods."""
    from thalweg.cli.text import forgetting_text
    from thalweg.show.forgetting import write_forgetting
    from thalweg.study.forgetting import study

    board = study(
        out,
        None if streams is None else streams.split(","),
        None if methods is None else methods.split(","),
        range(seeds),
        range(final),
        curves,
        workers,
        speaker(quiet),
    )
    files = write_forgetting(board, out, own_command())
    show_result({**board, "files": [str(path) for path in files]}, as_json, forgetting_text)
