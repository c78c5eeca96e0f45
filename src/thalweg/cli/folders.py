"""Commands for run folders: inspect, export, import, merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from thalweg.cli.base import AsJson, RunFolder, Setting, app, show_result
from thalweg.show.folders import export_summary, import_summary, inspection_text
from thalweg.tasks.loading import load_task, parse_settings


@app.command()
def inspect(run: RunFolder, as_json: AsJson = False) -> None:
    """Say what is in a run and whether it is whole; exit code 1 if something is damaged, missing or not finite."""
    from thalweg.recording.inspection import inspect_run

    found = inspect_run(run)
    show_result(found, as_json, inspection_text)
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

    show_result(write(run, to, out, steps), as_json, export_summary)


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
    setting: Setting = None,
    as_json: AsJson = False,
) -> None:
    """Make a run of a folder of checkpoints; its rows are the differences between them."""
    from thalweg.recording.importing import import_checkpoints

    network = load_task(model, parse_settings(setting or [])).model if model is not None else None
    names = None if order is None else order.split(",")
    show_result(import_checkpoints(folder, out, names, network), as_json, import_summary)


@app.command()
def merge(
    folder: Annotated[Path, typer.Argument(help="Where ranks have recorded parts of a run.", metavar="FOLDER")],
    out: Annotated[Path, typer.Option(help="The run folder to be made.")],
    as_json: AsJson = False,
) -> None:
    """Make one run of the parts that several ranks have recorded of a model that was split over them."""
    from thalweg.recording.merging import merge_parts

    def in_words(found: dict[str, Any]) -> str:
        rows = f"{found['rows']:,} rows of {found['parameters']:,} parameters, of {found['parts']} parts"
        late = max(found["left_out"])
        return f"{found['run']}: {rows}" + (f"; {late} later rows that not every part has are left out" if late else "")

    show_result(merge_parts(folder, out), as_json, in_words)
