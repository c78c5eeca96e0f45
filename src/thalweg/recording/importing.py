"""A run from checkpoints: a folder of `state_dict`s becomes a trajectory whose rows are the differences between them.

The steps are the numbers in the file names: `weights(100)` of the run are those of `step-100.safetensors`. Nothing
is executed: safetensors are read as data, and other files only as far as `torch.load(weights_only=True)` reads them.
"""

from __future__ import annotations

import itertools
import platform
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.errors import RunError
from thalweg.recording.checkpoints import Checkpoint, find_checkpoints, read_state
from thalweg.recording.manifest import CLOSED, dtype_name, made_aside, now, storable, write_json
from thalweg.recording.segments import SegmentContent, write_segment
from thalweg.recording.store import SEGMENTS
from thalweg.recording.surveying import Survey, name_in, space_of_model, space_of_names, survey_checkpoints
from thalweg.runs import FORMAT, MANIFEST
from thalweg.space import ParameterSpace
from thalweg.version import __version__

BLOCK_BYTES = 2**25
BLOCK_ROWS = 64


def import_checkpoints(
    folder: str | Path, out: str | Path, order: Sequence[str] | None = None, model: nn.Module | None = None
) -> dict[str, Any]:
    """Make a run folder from checkpoints.

    Without a model, the parameters are the floating-point tensors whose names do not look like statistics
    (`surveying.STATISTICS`), and of tensors that are equal in every checkpoint and change, the later names are taken
    for tied.

    Args:
        folder: the checkpoints: files, or folders with one file each as HuggingFace's Trainer writes them.
        out: the run folder to be made; it may not be there.
        order: names of the checkpoints in order, where their numbers do not tell.
        model: the network, whose trainable parameters are then recorded and nothing else.

    Returns:
        Plain values: `run`, `rows`, `steps`, `parameters`, `parameters_by`, `kept_as_buffers`, `left_out`, `tied`,
        `not_finite`, `files`.

    Raises:
        InputError: if there are fewer than two checkpoints, they do not fit each other or the model, their order is
            not clear, or one needs pickle.
        RunError: if `out` exists or cannot be written.
    """
    folder, out = Path(folder), Path(out)
    if out.exists() or out.is_symlink():
        raise RunError(f"{out} exists already; choose another --out, or remove it first")
    checkpoints = find_checkpoints(folder, order)
    survey = survey_checkpoints(checkpoints)
    space = space_of_model(survey, model) if model is not None else space_of_names(survey)
    manifest = _manifest(folder, checkpoints, survey, space, model)
    with made_aside(out) as aside:
        _write_run(aside, checkpoints, survey, space, manifest)
    return _summary(out, checkpoints, survey, space, manifest)


def _manifest(
    folder: Path, checkpoints: Sequence[Checkpoint], survey: Survey, space: ParameterSpace, model: nn.Module | None
) -> dict[str, Any]:
    kinds = {name: survey.dtypes[found] for name, found in _names(survey, space).items()}
    double = all(kind == torch.float64 for kind in kinds.values())
    steps = [checkpoint.step for checkpoint in checkpoints]
    kind = type(model)
    return {
        "format": FORMAT,
        "run": uuid.uuid4().hex,
        "versions": {"thalweg": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        "created": now(),
        "model": "unknown (imported)" if model is None else f"{kind.__module__}.{kind.__qualname__}",
        "space": space.to_json(),
        "dtype": "float64" if double else "float32",
        "dtypes": {name: dtype_name(found) for name, found in kinds.items()},
        "buffers": _buffer_names(survey, space, model),
        "optimizer": {
            "class": "unknown (imported)",
            "classes": [],
            "state_at_start": True,
            "groups": [{"optimizer": None, "parameters": list(space.names)}],
        },
        "every": max(later - earlier for earlier, later in itertools.pairwise(steps)),
        "budget": None,
        "imported": {
            "folder": str(folder.resolve()),
            "files": [checkpoint.name for checkpoint in checkpoints],
            "parameters_by": "names" if model is None else "model",
        },
    }


def _names(survey: Survey, space: ParameterSpace) -> dict[str, str]:
    """Under which name the checkpoints have each parameter."""
    return {p.name: name_in(survey.shapes, p.name, space) or p.name for p in space.parameters}


def _write_run(
    folder: Path,
    checkpoints: Sequence[Checkpoint],
    survey: Survey,
    space: ParameterSpace,
    manifest: Mapping[str, Any],
) -> None:
    write_json(folder / MANIFEST, dict(manifest))
    (folder / SEGMENTS).mkdir()
    for content in _segments(checkpoints, _names(survey, space), space, manifest):
        write_segment(folder / SEGMENTS, content)
    last, reason = checkpoints[-1].step, f"imported from {len(checkpoints)} checkpoints"
    ended = {"rows": len(checkpoints) - 1, "last_step": last, "steps_seen": last + 1}
    write_json(folder / CLOSED, ended | {"reason": reason, "closed": now()})


def _segments(
    checkpoints: Sequence[Checkpoint],
    names: Mapping[str, str],
    space: ParameterSpace,
    manifest: Mapping[str, Any],
) -> Iterator[SegmentContent]:
    dtype: torch.dtype = getattr(torch, manifest["dtype"])
    height = max(1, min(BLOCK_ROWS, BLOCK_BYTES // (space.size * dtype.itemsize) - 1))
    anchor, buffers = _vector(checkpoints[0], names, space, dtype, manifest["buffers"])
    for first in range(1, len(checkpoints), height):
        part = checkpoints[first : first + height]
        weights = torch.empty(len(part) + 1, space.size, dtype=dtype)
        weights[0] = anchor
        before = dict(buffers)
        for row, checkpoint in enumerate(part, start=1):
            weights[row], buffers = _vector(checkpoint, names, space, dtype, manifest["buffers"])
        anchor = weights[-1].clone()  # writing turns the weights into updates
        nothing = np.full((len(part), 1), np.nan)
        yield SegmentContent(
            run=manifest["run"],
            first_row=first - 1,
            before=checkpoints[first - 1].step,
            weights=weights,
            steps=np.array([checkpoint.step for checkpoint in part], dtype=np.int64),
            learning_rates=nothing,
            momenta=nothing,
            times=np.array([checkpoint.path.stat().st_mtime for checkpoint in part]),
            scalars={},
            buffers=buffers,
            anchor_buffers=before,
        )


def _vector(
    checkpoint: Checkpoint, names: Mapping[str, str], space: ParameterSpace, dtype: torch.dtype, kept: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    state = read_state(checkpoint)
    vector = space.flatten({name: state[found].to(dtype) for name, found in names.items()})
    return vector, {name: state[name].clone() for name in kept}


def _buffer_names(survey: Survey, space: ParameterSpace, model: nn.Module | None) -> list[str]:
    """Tensors that are kept as buffers: the model's, or what is no parameter by its name."""
    parameters = {*space.names, *(other for other, _ in space.tied), *space.frozen}
    own = set(survey.shapes) if model is None else {name for name, _ in model.named_buffers()}
    return [
        name
        for name in survey.shapes
        if name in own and name not in parameters and storable(torch.empty(0, dtype=survey.dtypes[name]))
    ]


def _summary(
    out: Path, checkpoints: Sequence[Checkpoint], survey: Survey, space: ParameterSpace, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    parameters = {*space.names, *(other for other, _ in space.tied)}
    return {
        "run": str(out),
        "rows": len(checkpoints) - 1,
        "steps": [checkpoint.step for checkpoint in checkpoints],
        "parameters": space.size,
        "parameters_by": manifest["imported"]["parameters_by"],
        "kept_as_buffers": list(manifest["buffers"]),
        "left_out": [name for name in survey.shapes if name not in {*parameters, *manifest["buffers"]}],
        "tied": [list(pair) for pair in space.tied],
        "not_finite": {name: list(tensors) for name, tensors in survey.not_finite.items()},
        "files": list(manifest["imported"]["files"]),
    }
