"""Going on with a run that was recorded before, whether it was closed or killed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from thalweg.errors import InputError, RunError
from thalweg.recording.keeping import Keeping
from thalweg.recording.manifest import CLOSED, describe_process, now
from thalweg.recording.store import SEGMENTS, checksum_of, own_segment_files, read_segments, row_range
from thalweg.runs import MANIFEST, read_json, read_manifest
from thalweg.space import ParameterSpace


@dataclass(frozen=True)
class Left:
    """Where a run stopped.

    Attributes:
        rows: that are there, damaged ones counted.
        last_step: that a row sums; -1 if there is none.
        written: bytes of the segments.
        end: digest of the weights after that step; empty if it is not known.
    """

    rows: int = 0
    last_step: int = -1
    written: int = 0
    end: str = ""


def goes_on(folder: Path) -> bool:
    """Whether there is a run in the folder that can be gone on with."""
    return (folder / MANIFEST).exists() or bool(own_segment_files(folder / SEGMENTS))


def take_up(folder: Path, fresh: Mapping[str, Any], keep: str | None = None) -> tuple[dict[str, Any], Left]:
    """The manifest with which a run goes on, and where it stopped; unfinished files of a killed writer are removed.

    Args:
        folder: the run folder, locked.
        fresh: the manifest that the same training would get as a new run.
        keep: how updates are to be kept; as they were unless given.

    Raises:
        RunError: if the run cannot be read, or model or optimizer are others; the first difference is named.
    """
    manifest = read_manifest(folder)
    try:
        _require_same(folder, manifest, fresh, keep)
        left = _left(folder, manifest)
        every = max(int(manifest["every"]), fresh["every"])
        earlier = list(manifest.get("resumed", ()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{folder} has a damaged manifest ({error}); record into another folder") from error
    here = describe_process() | {"at": now(), "first_row": left.rows, "after_step": left.last_step}
    here["state_at_start"] = fresh["optimizer"]["state_at_start"]
    budget = fresh["budget"] if fresh["budget"] is not None else manifest.get("budget")
    return manifest | {"every": every, "budget": budget, "resumed": [*earlier, here]}, left


def columns_of(manifest: Mapping[str, Any]) -> list[int]:
    """How many parameter groups of each optimizer have a column of rates in this run."""
    numbers = [group.get("optimizer", 0) for group in manifest["optimizer"]["groups"]]
    return [numbers.count(number) for number in sorted({n for n in numbers if n is not None})]


def _require_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], keep: str | None) -> None:
    no = f"{folder} cannot be resumed"
    try:
        ParameterSpace.from_json(old["space"]).require_same(ParameterSpace.from_json(new["space"]), "the model")
    except InputError as error:
        raise RunError(f"{no}: {error}") from error
    for name, dtype in new["dtypes"].items():
        if old["dtypes"][name] != dtype:
            raise RunError(f"{no}: {name!r} is {dtype} and was {old['dtypes'][name]}; use the model's old dtype")
    before, after = (about["optimizer"].get("classes", [about["optimizer"]["class"]]) for about in (old, new))
    kept = Keeping.read(old).form
    if keep is not None and keep != kept:
        raise RunError(
            f"{no}: its updates are kept as {kept!r}, not {keep!r}; leave keep= away, or choose another folder"
        )
    if before != after:
        was, given = (" and ".join(names) or "none" for names in (before, after))
        raise RunError(f"{no}: the optimizer is {given} and was {was}; record into another folder")


def _left(folder: Path, manifest: Mapping[str, Any]) -> Left:
    keeping = Keeping.read(manifest)
    dtype = keeping.row_dtype(torch.float64 if manifest["dtype"] == "float64" else torch.float32)
    size = keeping.columns(ParameterSpace.from_json(manifest["space"])).size
    files = own_segment_files(folder / SEGMENTS)
    for path in files:
        if path.name.startswith("."):
            path.unlink()
    finished = [path for path in files if not path.name.startswith(".")]
    rows = max((row_range(path)[1] for path in finished), default=0)
    segments, _ = read_segments(folder / SEGMENTS, manifest["run"], size, dtype, verify=False)
    whole = [s for s in segments[-1:] if checksum_of(s.path) == s.path.name.split(".")[1]]
    step, end = -1, ""
    if segments:
        last = segments[-1]
        step = int(last.steps[-1]) + (rows - last.first_row - len(last)) * int(manifest["every"])
        if whole and rows == last.first_row + len(last):
            end = last.end
    with contextlib.suppress(RunError, KeyError, TypeError, ValueError):  # if it was killed, there is no such file
        step = max(step, int(read_json(folder / CLOSED)["last_step"]))
    return Left(rows, step, sum(path.stat().st_size for path in finished), end)
