"""What is checked and written before the first step of a recording: arguments, folder, manifest."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.errors import InputError, RunError
from thalweg.recording.segments import DTYPES
from thalweg.recording.store import SEGMENTS, own_segment_files
from thalweg.recording.writer import FolderLock
from thalweg.runs import FORMAT, MANIFEST, write_atomically
from thalweg.space import ParameterSpace, plain_name
from thalweg.version import __version__

CLOSED = "closed.json"

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_BUDGET = re.compile(r"\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*([KMGT]I?)?B?\s*", re.IGNORECASE)


def parse_bytes(budget: int | str) -> int:
    """Bytes from a number or from words like `"2GiB"` (2^30) and `"500MB"` (10^6).

    Raises:
        InputError: if it is no such number, or is not positive.
    """
    wrong = InputError(f"budget={budget!r}: give bytes on disk, as a positive number or like '2GiB' or '500MB'")
    if isinstance(budget, str):
        match = _BUDGET.fullmatch(budget)
        if not match:
            raise wrong
        amount = float(match[1]) * _UNITS[(match[2] or "").upper()]
    elif isinstance(budget, (int, float)) and not isinstance(budget, bool):
        amount = float(budget)
    else:
        raise wrong
    if not math.isfinite(amount) or amount < 1:
        raise wrong
    return int(amount)


def check_optimizers(model: nn.Module, optimizers: Sequence[Optimizer], parameters: Sequence[Tensor]) -> None:
    """Raise an InputError unless each optimizer trains some of the parameters, and all are real numbers."""
    known = {id(p) for p in parameters}
    for optimizer in optimizers:
        if not any(id(p) in known for group in optimizer.param_groups for p in group["params"]):
            raise InputError(
                f"this {type(optimizer).__name__} holds none of the {len(parameters)} trainable parameters of "
                f"{type(model).__name__}; give the optimizer that was built from this model's parameters"
            )
    if any(p.is_complex() for p in parameters):
        raise InputError(f"{type(model).__name__} has complex parameters, which cannot be recorded; use real ones")


def space_of(model: nn.Module, include_frozen: bool) -> ParameterSpace:
    """What is recorded: the trainable parameters, and also the frozen ones of floating point if they are wanted.

    Raises:
        InputError: if no parameter is left.
    """
    if not include_frozen:
        return ParameterSpace.of(model)
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        return ParameterSpace.of(model)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def prepare(folder: Path, overwrite: bool, resume: bool = False) -> FolderLock:
    """Make the folder, lock it, and see to it that no run is in it, or one that is to go on.

    Raises:
        RunError: if it cannot be written, is locked, or holds a run and neither `overwrite` nor `resume` is true.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error}); choose another folder") from error
    try:
        if (folder / MANIFEST).exists() or own_segment_files(folder / SEGMENTS):
            if not (overwrite or resume):
                raise RunError(
                    f"{folder} already holds a run; choose another folder, or overwrite=True to remove it, or "
                    "resume=True to go on with it"
                )
            if overwrite:
                remove_run(folder)
        (folder / SEGMENTS).mkdir(exist_ok=True)
    except BaseException as error:
        lock.release()
        if isinstance(error, OSError):
            raise RunError(f"{folder} cannot be written ({error}); choose another folder") from error
        raise
    return lock


def remove_run(folder: Path) -> None:
    """Remove what thalweg wrote into a run folder, the manifest first; other files stay."""
    results = folder / "results"
    own = [
        folder / MANIFEST,
        folder / CLOSED,
        *own_segment_files(folder / SEGMENTS),
        *(path for ending in ("json", "safetensors") for path in results.glob(f"*.{ending}")),
        *folder.glob("report.*.html"),
    ]
    for path in own:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object so that it appears whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


@contextmanager
def made_aside(out: Path) -> Iterator[Path]:
    """A folder to write a run into, which appears whole under its name at the end, or not at all.

    Args:
        out: the run folder to be made.

    Raises:
        RunError: if it exists already, or cannot be written.
    """
    if out.exists() or out.is_symlink():
        raise RunError(f"{out} exists already; choose another --out, or remove it first")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            yield aside
            aside.chmod(0o755)
            os.rename(aside, out)  # noqa: PTH104 - fails where a folder with something in it appeared meanwhile
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise RunError(f"{out} cannot be written ({error}); choose another --out") from error


def now() -> str:
    """The time, as ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def describe(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    space: ParameterSpace,
    dtype: torch.dtype,
    parameters: Sequence[Tensor],
) -> dict[str, Any]:
    """The manifest: what the run is, as plain JSON values."""
    return {
        "format": FORMAT,
        "run": uuid.uuid4().hex,
        **describe_process(),
        "created": now(),
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "space": space.to_json(),
        "dtype": dtype_name(dtype),
        "dtypes": {name: dtype_name(tensor.dtype) for name, tensor in zip(space.names, parameters, strict=True)},
        "buffers": [plain_name(name) for name, buffer in model.named_buffers() if storable(buffer)],
        "not_persistent": not_persistent(model),
        "optimizer": describe_optimizers(model, optimizers, space),
    }


def not_persistent(model: nn.Module) -> list[str]:
    """Names of the buffers that are in no `state_dict`."""
    return [
        plain_name(f"{prefix}.{name}" if prefix else name)
        for prefix, module in model.named_modules()
        for name in sorted(module._non_persistent_buffers_set)
    ]


def describe_process() -> dict[str, Any]:
    """Who records: versions, machine and process."""
    return {
        "versions": {"thalweg": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def describe_optimizers(model: nn.Module, optimizers: Sequence[Optimizer], space: ParameterSpace) -> dict[str, Any]:
    """Class, settings and parameter names of each group, and whether it had made steps before (`state_at_start`).

    Several classes are joined by " + "; without an optimizer the class is "none", with one group of all parameters.
    """
    names = {id(p): plain_name(name) for name, p in model.named_parameters()}
    groups = []
    for number, optimizer in enumerate(optimizers):
        for group in optimizer.param_groups:
            about = {"optimizer": number, "parameters": [names.get(id(p)) for p in group["params"]]}
            groups.append(settings_of(group) | about)
    kinds = [f"{type(optimizer).__module__}.{type(optimizer).__qualname__}" for optimizer in optimizers]
    return {
        "class": " + ".join(dict.fromkeys(kinds)) or "none",
        "classes": kinds,
        "state_at_start": any(len(state) > 0 for optimizer in optimizers for state in optimizer.state.values()),
        "groups": groups or [{"optimizer": None, "parameters": list(space.names)}],
    }


def settings_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter group without its parameters, as plain JSON values."""
    return {key: plain(value) for key, value in group.items() if key not in ("params", "param_names")}


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.float32` as "float32"."""
    return str(dtype).removeprefix("torch.")


def storable(buffer: Tensor) -> bool:
    """Whether a segment can hold this buffer."""
    return buffer.layout == torch.strided and buffer.dtype in DTYPES and not buffer.is_meta


def plain(value: Any) -> Any:
    """A setting as JSON holds it: what is not finite as words, what is no plain value as the name of its type."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(type(value).__name__)
