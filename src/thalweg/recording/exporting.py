"""A recorded run in the formats of others: NumPy's npz, zarr, checkpoints, JSON lines, TensorBoard.

Arrays are written in pieces: no more than `CHUNK_BYTES` of updates are in memory. What npz and zarr hold:

```
updates          (T, P)        each row's change of the weights
steps, starts    (T,)          last and first optimizer step of each row
weights          (n, P)        exact weights before each unbroken stretch of rows; n = 1 where no step is missing
weights_steps    (n,)          the step after which they stood; -1 before the first
times, learning_rates, momenta, scalars    (T,), (T, groups), (T, groups), (T, names)
names, scalar_names, shapes, offsets       of the parameters in a row, as text and numbers
```
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from thalweg.errors import InputError, RunError
from thalweg.recording.opening import open_run
from thalweg.recording.scalars import export_jsonl, export_tensorboard, needed
from thalweg.recording.store import read_anchor_parts
from thalweg.recording.trajectory import Trajectory

CHUNK_BYTES = 2**26
_STEP = re.compile(r"-?\d+")
_RANGE = re.compile(r"(\d*):(\d*)(?::(\d+))?")

Array = NDArray[Any]


def export(folder: str | Path, to: str, out: str | Path, steps: str = "last") -> dict[str, Any]:
    """Write a run in another format.

    Args:
        folder: the run.
        to: one of `FORMATS`.
        out: the file or folder to be made; it may not be there.
        steps: for checkpoints, which ones: see `choose_steps`.

    Returns:
        Plain values: `run`, `to`, `out`, `bytes`, and what the format says of itself.

    Raises:
        InputError: for another format, steps that were not recorded, or every update of a run that keeps a sketch.
        RunError: if the folder is no run, has no row, or `out` exists or cannot be written.
        MissingExtraError: if the format needs a package that is not installed.
    """
    if to not in FORMATS:
        raise InputError(f"--to {to!r} is no format; choose one of {', '.join(FORMATS)}")
    if steps != "last" and to != "checkpoints":
        raise InputError(f"--steps {steps!r} is for --to checkpoints; {to} holds every row")
    t = open_run(folder).trajectory
    if not len(t):
        raise RunError(f"{folder} holds no row to export; see: thalweg inspect {folder}")
    if t.sketch is not None and to in ("npz", "zarr"):
        raise InputError(
            f"{folder} keeps a sketch of its updates, and {to} holds every update; --to checkpoints --steps all writes "
            f"the {len(t.known_steps)} weights that are known, --to jsonl what was logged"
        )
    out = Path(out)
    try:
        with appearing(out) as aside:
            said = export_checkpoints(t, aside, steps) if to == "checkpoints" else FORMATS[to](t, aside)
        size = sum(path.stat().st_size for path in ([out] if out.is_file() else out.rglob("*")) if path.is_file())
    except OSError as error:
        raise RunError(f"{out} cannot be written ({error}); choose another --out") from error
    return {"run": str(folder), "to": to, "out": str(out), "bytes": size, **said}


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A path beside `out` to write to, which gets its name when everything is there; on failure nothing is left.

    Raises:
        RunError: if `out` exists already.
    """
    if out.exists() or out.is_symlink():
        raise RunError(f"{out} exists already; choose another --out, or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    aside = beside / out.name
    try:
        yield aside
        os.rename(aside, out)  # noqa: PTH104 - on POSIX a folder that appeared meanwhile makes it fail
    finally:
        shutil.rmtree(beside, ignore_errors=True)


# -- arrays ------------------------------------------------------------------------------------------------


def row_blocks(t: Trajectory) -> Iterator[Tensor]:
    """The updates in order, a few rows at a time."""
    height = max(1, CHUNK_BYTES // (t.space.size * t.dtype.itemsize))
    starts, steps = t.starts.tolist(), t.steps.tolist()
    for first in range(0, len(t), height):
        last = min(first + height, len(t)) - 1
        yield t.updates(starts[first], steps[last] + 1)


def weight_blocks(t: Trajectory) -> tuple[list[int], Iterator[Tensor]]:
    """The steps before which an unbroken stretch of rows begins, and the weights after each, one `(1, P)` at a time.

    Where rows are long a segment may lack its anchor; if the one before is lost, so are the weights.
    """
    ends = [math.nan, *t.steps.tolist()]
    known = set(t.known_steps.tolist())
    begins = [s - 1 for s, end in zip(t.starts.tolist(), ends, strict=False) if s != end + 1 and s - 1 in known]
    return begins, (t.weights(step)[None] for step in begins)


def small_arrays(t: Trajectory, begins: Sequence[int]) -> dict[str, Array]:
    """Everything but the vectors."""
    scalars = list(t.scalars.values())
    return {
        "steps": t.steps.numpy(),
        "starts": t.starts.numpy(),
        "weights_steps": np.array(begins, dtype=np.int64),
        "times": t.times.numpy(),
        "learning_rates": t.learning_rates.numpy(),
        "momenta": t.momenta.numpy(),
        "scalars": torch.stack(scalars, dim=1).numpy() if scalars else np.empty((len(t), 0)),
        "scalar_names": _text(list(t.scalars)),
        "names": _text(t.space.names),
        "shapes": _text([json.dumps(p.shape) for p in t.space.parameters]),
        "offsets": np.array([p.offset for p in t.space.parameters], dtype=np.int64),
    }


def export_npz(t: Trajectory, path: Path) -> dict[str, Any]:
    """An uncompressed `.npz`, which `numpy.load(path)` reads without pickle."""
    begins, weights = weight_blocks(t)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        _member(archive, "updates", (len(t), t.space.size), row_blocks(t))
        _member(archive, "weights", (len(begins), t.space.size), weights)
        for name, array in small_arrays(t, begins).items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return {"rows": len(t), "parameters": t.space.size}


def export_zarr(t: Trajectory, path: Path) -> dict[str, Any]:
    """A zarr group; updates are chunked by rows.

    Raises:
        MissingExtraError: if zarr is not installed.
    """
    zarr = needed("zarr", "zarr")
    group = zarr.open_group(str(path), mode="w-")
    make: Callable[..., Any] = getattr(group, "create_array", None) or group.create_dataset
    begins, weights = weight_blocks(t)
    for name, count, blocks in (("updates", len(t), row_blocks(t)), ("weights", len(begins), weights)):
        height = max(1, min(count, 2**24 // (t.space.size * t.dtype.itemsize)))
        width = min(t.space.size, 2**24 // t.dtype.itemsize)
        kind = str(t.dtype).removeprefix("torch.")
        array = make(name, shape=(count, t.space.size), chunks=(height, width), dtype=kind)
        row = 0
        for block in blocks:
            array[row : row + len(block)] = block.numpy()
            row += len(block)
    for name, values in small_arrays(t, begins).items():
        if values.dtype.kind == "U":
            group.attrs[name] = values.tolist()
        else:
            array = make(name, shape=values.shape, dtype=str(values.dtype))
            if values.size:
                array[...] = values
    return {"rows": len(t), "parameters": t.space.size}


def _member(archive: zipfile.ZipFile, name: str, shape: tuple[int, int], blocks: Iterator[Tensor]) -> None:
    first = next(blocks).numpy()
    about = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_2_0(file, about)
        file.write(np.ascontiguousarray(first).data)
        for block in blocks:
            file.write(np.ascontiguousarray(block.numpy()).data)


def _text(values: Sequence[str]) -> Array:
    return np.array(list(values), dtype=np.str_) if values else np.empty(0, dtype="<U1")


# -- checkpoints -------------------------------------------------------------------------------------------


def choose_steps(t: Trajectory, words: str) -> list[int]:
    """Steps after which the weights are known, from words.

    Args:
        t: the trajectory.
        words: parts with commas between: a step (-1 is before the first), `first`, `last`, `all`, or `start:stop` and
            `start:stop:stride` for the recorded steps in there, of which the stride takes every so many.

    Raises:
        InputError: for other words, or a step at which no row ends.
    """
    known = t.known_steps.tolist()
    chosen: list[int] = []
    for word in (part.strip() for part in words.split(",")):
        if word in ("first", "last", "all"):
            chosen += {"first": known[:1], "last": known[-1:], "all": known}[word]
        elif match := _RANGE.fullmatch(word):
            start, stop, stride = (int(part) if part else None for part in match.groups())
            if stride == 0:
                raise InputError(f"--steps {words!r}: the stride is 0; give at least 1")
            inside = [s for s in known if s >= (start or 0) and (stop is None or s < stop)]
            chosen += inside[:: stride or 1]
        elif _STEP.fullmatch(word):
            if int(word) not in known:
                near = ", ".join(map(str, sorted(sorted(known, key=lambda s: abs(s - int(word)))[:3])))
                raise InputError(f"--steps {words!r}: no row ends with step {word}; the nearest are {near}")
            chosen.append(int(word))
        else:
            raise InputError(f"--steps {words!r}: give steps, first, last, all or start:stop:stride, with commas")
    if not chosen:
        raise InputError(f"--steps {words!r} holds no recorded step; they go from {known[0]} to {known[-1]}")
    return sorted(set(chosen))


def export_checkpoints(t: Trajectory, folder: Path, words: str = "last") -> dict[str, Any]:
    """A folder of `state_dict`s, `step-000099.safetensors` for the weights after step 99.

    Each holds the trained weights in the model's dtypes, under all names of tied ones, and the buffers as they stood
    nearest after; the metadata name that step. Frozen parameters were not recorded.

    Raises:
        InputError: if a step was not recorded.
    """
    chosen = choose_steps(t, words)
    folder.mkdir(parents=True)
    kinds: Mapping[str, str] = t.manifest.get("dtypes", {})
    hidden = list(t.manifest.get("not_persistent", ()))  # buffers that are in no state_dict
    width = max(6, len(str(chosen[-1])))
    for step in chosen:
        state = {name: w.to(_kind(kinds, name, t.dtype)) for name, w in t.space.unflatten(t.weights(step)).items()}
        for other, name in t.space.tied:
            if name in state:
                state[other] = state[name].clone()
        buffers, at = buffers_near(t, step)
        state |= {name: tensor for name, tensor in buffers.items() if name not in {*state, *hidden}}
        about = {"format": "pt", "step": str(step), "buffers_after_step": str(at)}
        name = f"step-{step:0{width}d}.safetensors" if step >= 0 else "step--1.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, str(folder / name), about)
    frozen = list(t.space.frozen)
    return {"steps": chosen, "frozen_left_out": frozen, "load": "strict=False" if frozen else "strict=True"}


def buffers_near(t: Trajectory, step: int) -> tuple[dict[str, Tensor], int]:
    """The buffers at a step where they were kept, else as they stood nearest after; and the step at which they did."""
    for segment in t.segments:
        if segment.before == step:
            return read_anchor_parts(segment)[1], step
    return t.buffers(step)


def _kind(kinds: Mapping[str, str], name: str, otherwise: torch.dtype) -> torch.dtype:
    found = getattr(torch, str(kinds.get(name)), None)
    return found if isinstance(found, torch.dtype) and found.is_floating_point else otherwise


FORMATS: dict[str, Callable[[Trajectory, Path], dict[str, Any]]] = {
    "npz": export_npz,
    "zarr": export_zarr,
    "checkpoints": export_checkpoints,
    "jsonl": export_jsonl,
    "tensorboard": export_tensorboard,
}
"""What a run can be exported to, by name."""
