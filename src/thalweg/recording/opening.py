"""Opening a run folder: its manifest and its trajectory."""

from __future__ import annotations

import functools
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thalweg.collectives import ranks
from thalweg.errors import RunError
from thalweg.recording.keeping import Keeping
from thalweg.recording.parted import joined
from thalweg.recording.record import dtype_of
from thalweg.recording.shards import PARTS, part_folders
from thalweg.recording.store import SEGMENTS, read_segments
from thalweg.recording.trajectory import Trajectory
from thalweg.runs import MANIFEST, Run, read_manifest
from thalweg.space import ParameterSpace


def open_run(folder: str | Path, verify: bool = True) -> Run[Trajectory]:
    """Open a recorded run. It may still be written to: what is finished now is what is seen.

    A run in parts is opened by a job of as many ranks as recorded it; each then reads its own part, see `parted`.

    Args:
        folder: the run folder.
        verify: when the trajectory is first used, compare every byte with the checksums.

    Raises:
        RunError: if the folder is not a run, holds parts of one and this is no job of as many ranks, or its manifest is
            damaged.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file() and (parts := part_folders(folder)):
        return _open_parts(folder, len(parts), verify)
    manifest = read_manifest(folder)
    try:
        ParameterSpace.from_json(manifest["space"])
        (
            Keeping.read(manifest),
            dtype_of(manifest),
            str(manifest["run"]),
            int(manifest["every"]),
            len(manifest["optimizer"]["groups"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{folder} has a manifest that lacks something ({type(error).__name__}: {error}); it is damaged, "
            "record the run again"
        ) from error
    return Run(folder, manifest, functools.partial(read_trajectory, verify=verify))


def _open_parts(folder: Path, count: int, verify: bool) -> Run[Trajectory]:
    together = ranks()
    if together.size != count:
        raise RunError(
            f"{folder} was recorded in parts by several ranks; put them together with: thalweg merge "
            f"{shlex.quote(str(folder))} --out RUN, or open it in a job of {count} processes"
        )
    own = open_run(folder / PARTS.format(together.rank, count), verify)
    manifest = {**own.manifest, "space": own.manifest["part"]["space"]}
    return Run(folder, manifest, lambda *_: joined(folder, own.trajectory, manifest, together))


def read_trajectory(folder: Path, manifest: Mapping[str, Any], verify: bool = True) -> Trajectory:
    """The trajectory of an opened run; damaged segments are named in one warning and left out."""
    space = ParameterSpace.from_json(manifest["space"])
    keeping = Keeping.read(manifest)
    dtype = keeping.row_dtype(dtype_of(manifest))
    segments, damaged = read_segments(folder / SEGMENTS, manifest["run"], keeping.columns(space).size, dtype, verify)
    if damaged:
        names = "; ".join(f"{name}: {reason}" for name, reason in damaged)
        warnings.warn(f"{folder}: {len(damaged)} segment(s) left out. {names}", RuntimeWarning, stacklevel=2)
    return Trajectory(folder, manifest, space, segments, damaged)
