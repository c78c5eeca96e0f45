"""What is checked and written before the first step of a recording: arguments, folder, manifest."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import socket
import uuid
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.errors import InputError, RunError
from thalweg.recording.store import DTYPES, SEGMENTS, own_segment_files
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


def check_optimizer(model: nn.Module, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
    """Raise an InputError unless the optimizer trains at least one of the parameters, and all are real numbers."""
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"{type(optimizer).__name__} is no torch.optim.Optimizer; give the one whose step() trains")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in parameters):
        raise InputError(
            f"this {type(optimizer).__name__} holds none of the {len(parameters)} trainable parameters of "
            f"{type(model).__name__}; give the optimizer that was built from this model's parameters"
        )
    if any(p.is_complex() for p in parameters):
        raise InputError(f"{type(model).__name__} has complex parameters, which cannot be recorded; use real ones")


def prepare(folder: Path, overwrite: bool) -> FolderLock:
    """Make the folder, lock it, and see to it that no run is in it.

    Raises:
        RunError: if it cannot be written, is locked, or holds a run and `overwrite` is false.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error}); choose another folder") from error
    try:
        if (folder / MANIFEST).exists() or own_segment_files(folder / SEGMENTS):
            if not overwrite:
                raise RunError(f"{folder} already holds a run; choose another folder, or overwrite=True to remove it")
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


def now() -> str:
    """The time, as ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def describe(model: nn.Module, optimizer: Optimizer, space: ParameterSpace, dtype: torch.dtype) -> dict[str, Any]:
    """The manifest: what the run is, as plain JSON values."""
    return {
        "format": FORMAT,
        "run": uuid.uuid4().hex,
        "versions": {"thalweg": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        "created": now(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "space": space.to_json(),
        "dtype": dtype_name(dtype),
        "dtypes": {
            name: dtype_name(tensor.dtype) for name, tensor in zip(space.names, space.tensors(model), strict=True)
        },
        "buffers": [plain_name(name) for name, buffer in model.named_buffers() if storable(buffer)],
        "optimizer": describe_optimizer(model, optimizer),
    }


def describe_optimizer(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Class, settings and parameter names of each group, and whether it had made steps before (`state_at_start`)."""
    names = {id(p): plain_name(name) for name, p in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        settings = {key: _plain(value) for key, value in group.items() if key not in ("params", "param_names")}
        groups.append(settings | {"parameters": [names.get(id(p)) for p in group["params"]]})
    kind = type(optimizer)
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "state_at_start": any(len(state) > 0 for state in optimizer.state.values()),
        "groups": groups,
    }


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.float32` as "float32"."""
    return str(dtype).removeprefix("torch.")


def storable(buffer: Tensor) -> bool:
    """Whether a segment can hold this buffer."""
    return buffer.layout == torch.strided and buffer.dtype in DTYPES and not buffer.is_meta


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(type(value).__name__)
