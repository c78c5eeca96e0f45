"""Commands to begin with: init writes a task file, doctor looks a task over."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from thalweg.cli.base import AsJson, Quiet, Seed, Setting, app, show_result
from thalweg.errors import InputError
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
    task: Annotated[
        str | None, typer.Argument(help="Your task: module:function or path/to/file.py:function.", show_default=False)
    ] = None,
    setting: Setting = None,
    run: Annotated[Path | None, typer.Option(help="A recorded run of it, for the command that comes next.")] = None,
    plan: Annotated[
        float | None,
        typer.Option(
            help="In the place of a task: so many parameters (7e9), split over GPUs, and what that would take."
        ),
    ] = None,
    ranks: Annotated[str, typer.Option(help="Numbers of GPUs of that plan, with commas.")] = "8,16,32,64",
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

    if plan is not None:
        _print_plan(plan, ranks, k, as_json)
        return
    if task is None:
        print(
            "thalweg: doctor needs a task, module:function or path/to/file.py:function, or --plan 7e9", file=sys.stderr
        )
        raise typer.Exit(2)
    settings = parse_settings(setting or [])
    address = shlex.join([task, *(part for pair in setting or [] for part in ("--set", pair))])
    found = look_over(lambda: load_task(task, settings), k=k, stages=stages, address=address, run=run, seed=seed)
    show_result(found.to_json(), as_json, lambda _: "\n".join(map(shown, str(found).splitlines())))
    if not found.healthy:
        raise typer.Exit(1)


def _print_plan(parameters: float, ranks: str, k: int, as_json: bool) -> None:
    """What a model of that size would take on so many GPUs."""
    from thalweg.checkup.ranks import PRODUCTS, Gpu, Net, plan_ranks

    if not all(part.strip().isdigit() for part in ranks.split(",")):
        raise InputError(f"--ranks {ranks!r}: give whole numbers with commas, as in 8,16,32,64")
    net, gpu = Net(parameters), Gpu()
    table = plan_ranks(net, [int(part) for part in ranks.split(",")], k=k)
    told = (
        f"{parameters:.3g} parameters in {net.layers} layers of width {net.stream:,.0f}, float32, split by "
        f"fully_shard; 1,024 sequences of 2,048 tokens, one in a pass; {PRODUCTS} products by differences, basis in "
        f"bfloat16.\nEach GPU: {gpu.memory / 1e9:.0f} GB, {gpu.operations:.1e} operations and {gpu.link / 1e9:.0f} GB "
        "sent a second. An estimate: on one H100 memory was within 4 %, a product took up to 1.6 times as long."
        "\nFormulas and sources: thalweg.checkup.ranks"
    )
    result = {"parameters": parameters, "plan": list(table), "assumed": told}
    show_result(result, as_json, lambda _: f"{table}\n\n{told}")
