"""Commands to begin with: init writes a task file, doctor looks a task over."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from thalweg.cli.base import AsJson, Quiet, Seed, Setting, app, show_result
from thalweg.show.folders import shown
from thalweg.tasks.loading import load_task, parse_settings


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="The file to be made.", metavar="FILE")] = Path("thalweg_task.py"),
    kind: Annotated[str, typer.Option(help="plain (PyTorch), huggingface or lightning.")] = "plain",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a task file for your own model and data; it runs after two edits."""
    from thalweg.tasks.starting import write_task_file

    steps = write_task_file(file, kind, force)

    def in_words(result: dict[str, Any]) -> str:
        return "\n".join([f"wrote {result['file']}", *(f"{i}. {step}" for i, step in enumerate(result["next"], 1))])

    show_result({"file": str(file), "kind": kind, "next": steps}, as_json, in_words)


@app.command()
def doctor(
    task: Annotated[str, typer.Argument(help="Your task: module:function or path/to/file.py:function.")],
    setting: Setting = None,
    run: Annotated[Path | None, typer.Option(help="A recorded run of it, for the command that comes next.")] = None,
    k: Annotated[int, typer.Option(help="Eigenpairs of the analysis that is reckoned for.", min=1)] = 10,
    stages: Annotated[int, typer.Option(help="Points of training of that analysis.", min=1)] = 3,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Look a task over: does it run, do products work, is the data sound; time, memory and disk before they are spent.

    Ends with the command to run next; exit code 1 if something is wrong.
    """
    from thalweg.checkup.look import doctor as look_over

    settings = parse_settings(setting or [])
    address = shlex.join([task, *(part for pair in setting or [] for part in ("--set", pair))])
    found = look_over(lambda: load_task(task, settings), k=k, stages=stages, address=address, run=run, seed=seed)
    show_result(found.to_json(), as_json, lambda _: "\n".join(map(shown, str(found).splitlines())))
    if not found.healthy:
        raise typer.Exit(1)
