"""What a segment is to hold, and writing it: aside, synced and renamed. `store` says what is in the file."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.recording.differences import to_updates
from thalweg.recording.direct import padding, write_parts
from thalweg.runs import replace_synced

SEGMENT_FORMAT = "thalweg-segment-1"
BUFFER = "buffer/"
ANCHOR_BUFFER = "anchor_buffer/"
STATE = "state/"
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What a segment can hold, by the names that safetensors gives."""


@dataclass(frozen=True)
class SegmentContent:
    """What was seen in the rows of one segment.

    Attributes:
        run: the run's own random name.
        first_row: number of the first row in the run.
        before: the step before the first row; -1 before any step.
        weights: `(n + 1, P)`, those before the first row and after each. Writing turns rows into updates.
        steps: `(n,)` int64.
        learning_rates: `(n, groups)` float64.
        momenta: `(n, groups)` float64.
        times: `(n,)` float64.
        scalars: name to `(n,)` float64.
        buffers: name to tensor, after the last row.
        anchor_buffers: likewise, as they stood before the first.
        groups: settings of each parameter group before the first row, as plain JSON values.
        state: `((optimizer, parameter's name, key), tensor)` for the optimizers' state before the first row.
        anchored: whether the weights before the first row are to be kept.
    """

    run: str
    first_row: int
    before: int
    weights: Tensor
    steps: NDArray[np.int64]
    learning_rates: NDArray[np.float64]
    momenta: NDArray[np.float64]
    times: NDArray[np.float64]
    scalars: Mapping[str, NDArray[np.float64]]
    buffers: Mapping[str, Tensor]
    anchor_buffers: Mapping[str, Tensor] = field(default_factory=dict)
    groups: Sequence[Mapping[str, Any]] = ()
    state: Sequence[tuple[tuple[int, str, str], Tensor]] = ()
    anchored: bool = True


@dataclass(frozen=True)
class KeptRows:
    """The vectors of one segment as they are kept.

    Attributes:
        updates: `(n, columns)`.
        finite: `(n,)` bool, whether every entry of the row's update is a finite number.
        beside: other tensors by name: `anchor`, `sum`, patches.
        end: digest of the weights after the last row.
        sum_after: the step after which the rows of `sum` begin.
    """

    updates: Tensor
    finite: NDArray[np.bool_]
    beside: Mapping[str, Tensor]
    end: str
    sum_after: int | None = None


def keep_exactly(content: SegmentContent) -> KeptRows:
    """Every update, in place of the weights, and the patches with which adding them up is exact."""
    end = digest(content.weights[-1])
    patches = to_updates(content.weights.numpy())
    beside = {f"patch_{part}": torch.from_numpy(getattr(patches, part)) for part in ("rows", "columns", "values")}
    if content.anchored:
        beside["anchor"] = content.weights[0]
    return KeptRows(content.weights[1:], patches.finite, beside, end)


def write_segment(folder: Path, content: SegmentContent, kept: KeptRows | None = None) -> Path:
    """Write a segment into `folder`: aside, then synced and renamed.

    Args:
        folder: of the segments.
        content: what was seen.
        kept: its rows as they are to be kept; exactly unless given, which turns `content.weights` into updates.

    Raises:
        OSError: if the disk fails; nothing is left behind.
    """
    kept = keep_exactly(content) if kept is None else kept
    count = len(content.steps)
    names = list(content.scalars)
    columns = [content.scalars[name] for name in names]
    tensors = {
        "updates": kept.updates,
        "steps": torch.from_numpy(content.steps),
        "learning_rates": torch.from_numpy(content.learning_rates),
        "momenta": torch.from_numpy(content.momenta),
        "times": torch.from_numpy(content.times),
        "scalars": torch.from_numpy(np.stack(columns, axis=1) if names else np.empty((count, 0))),
        "finite": torch.from_numpy(kept.finite.astype(np.uint8)),
        **kept.beside,
        **{BUFFER + name: tensor for name, tensor in content.buffers.items()},
        **{ANCHOR_BUFFER + name: tensor for name, tensor in content.anchor_buffers.items()},
        **{f"{STATE}{number}": tensor for number, (_, tensor) in enumerate(content.state)},
    }
    about = {
        "run": content.run,
        "first_row": content.first_row,
        "before": content.before,
        "scalars": names,
        "groups": list(content.groups),
        "state": [list(of) for of, _ in content.state],
        "end": kept.end,
        "sum_after": kept.sum_after,
    }
    parts = encode(tensors, {"format": SEGMENT_FORMAT, "about": json.dumps(about)})
    stem = f"{content.first_row:06d}-{content.first_row + count:06d}"
    aside = folder / f".{stem}.tmp{os.getpid()}"
    try:
        checksum = 0
        for part in parts:
            checksum = zlib.crc32(part, checksum)
        write_parts(aside, parts)
        path = folder / f"{stem}.{checksum:08x}.safetensors"
        replace_synced(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return path


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[memoryview]:
    """The bytes of a safetensors file, in parts, without a copy of tensors that are contiguous and on the CPU."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    parts: list[memoryview] = []
    offset = 0
    for name, tensor in tensors.items():
        raw = _raw(tensor)
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + raw.nbytes],
        }
        offset += raw.nbytes
        parts.append(raw.data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if parts:
        text += b" " * (padding(parts[0], 8 + len(text)) // 8 * 8)
    return [memoryview(struct.pack("<Q", len(text)) + text), *parts]


def digest(vector: Tensor) -> str:
    """CRC-32 of a vector's bytes, eight hexadecimal digits; the same vector has the same, NaN included."""
    return f"{zlib.crc32(_raw(vector).data):08x}"


def _raw(tensor: Tensor) -> NDArray[np.uint8]:
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.stride(0) != 1:  # a single entry out of a larger tensor
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy() if len(flat) else np.empty(0, dtype=np.uint8)
