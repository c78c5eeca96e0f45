"""The application, the options that several commands share, and how results are printed."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from thalweg.cli.text import summary
from thalweg.collectives import first_rank, started
from thalweg.errors import InputError
from thalweg.version import __version__

app = typer.Typer(
    name="thalweg",
    help="Find the parameter directions of a neural network that matter, and how sure that is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

SHARED = ("analyse", "trial")
"""Commands whose work several processes share."""

RunFolder = Annotated[Path, typer.Argument(help="The run folder that thalweg.watch wrote.", metavar="RUN")]
UserTask = Annotated[str, typer.Option(help="Your task: module:function or path/to/file.py:function.")]
Setting = Annotated[list[str] | None, typer.Option("--set", help="key=value for the task's function.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Languages = Annotated[str, typer.Option("--lang", help="Languages of the report: en, ja or en,ja.")]


@app.callback(invoke_without_command=True)
def entrance(
    context: typer.Context,
    show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the trace of an error, not its one line alone.", envvar="THALWEG_DEBUG"),
    ] = False,
) -> None:
    """Find the parameter directions of a neural network that matter, and how sure that is."""
    if show:
        print(__version__)
        raise typer.Exit
    check_shared(context.invoked_subcommand)


def check_shared(command: str | None) -> None:
    """Refuse several processes where their work is not shared.

    Raises:
        InputError: if `torchrun` started several for such a command.
    """
    if started() > 1 and command not in SHARED:
        raise InputError(
            f"thalweg {command} works in one process, and torchrun started {started()}; start it without torchrun. "
            f"Several processes share the work of {' and '.join(SHARED)}"
        )


def show_result(result: dict[str, Any], as_json: bool, in_words: Callable[[dict[str, Any]], str]) -> None:
    """A result on standard output, as JSON or in words; of several ranks the first prints."""
    if not first_rank():
        return
    print(json.dumps(result, ensure_ascii=False, indent=1) if as_json else in_words(result))


def print_analysis(result: dict[str, Any], files: list[Path], as_json: bool) -> None:
    """The result on standard output: whole as JSON, or what a person wants first; of several ranks the first prints."""
    if not first_rank():
        return
    if as_json:
        print(json.dumps({**result, "reports": [str(path) for path in files]}, ensure_ascii=False, indent=1))
        return
    print(summary(result))
    for path in files:
        print(f"report: {path.resolve().as_uri()}")


def shows(quiet: bool) -> bool:
    """Whether progress is shown: to a terminal only, and by the first of several ranks."""
    return not quiet and sys.stderr.isatty() and first_rank()


def speaker(quiet: bool) -> Any:
    """What is called with a line for each part of the work."""

    def say(line: str) -> None:
        if shows(quiet):
            print(line, file=sys.stderr)

    return say


def own_command() -> str:
    """The command as it was given."""
    count = started()
    begun = ["thalweg"] if count < 2 else ["torchrun", "--nproc-per-node", str(count), "-m", "thalweg"]
    return shlex.join([*begun, *sys.argv[1:]])
