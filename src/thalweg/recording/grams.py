"""The Gram matrices of a trajectory, layer by layer, and their copy in the run folder that grows with the run.

```
results/gram.cache.safetensors      no name that a result can have; a new run in the folder removes it like a result
    grams     (layers, T, T)        float64
    metadata  JSON: run, size, dtype, layers, segments (file names, which hold checksums, and rows), CRC-32 of `grams`
```

Of a run that has grown only the new rows are multiplied, with themselves and with the old ones (which are read again
for that). A copy that is damaged or belongs to something else is never used. Where the folder cannot be written there
is no copy.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from thalweg.recording.columns import finite_rows, parts_of, tiles
from thalweg.recording.keeping import Columns
from thalweg.recording.products import GRAM_COLUMNS, add_grams
from thalweg.recording.store import Segment
from thalweg.runs import replace_synced
from thalweg.space import Layer

FILE = "gram.cache.safetensors"
FORMAT = "thalweg-gram-1"
LAYERS_LIMIT = 2**29
"""Bytes up to which the Gram matrices of all layers are kept; beyond, the whole one is, and a layer's is made anew."""
WHOLE_LIMIT = 2**30
"""Bytes that a Gram matrix may take: 11,585 rows. At 10,000 rows it is 800 MB."""
CACHE_SHARE = 0.5
"""The copy is kept where it takes at most this share of the updates' bytes; else it saves little."""


@dataclass(frozen=True, eq=False)
class Grams:
    """Gram matrices of the rows of a trajectory.

    Attributes:
        layers: what each matrix is of; one of all columns, named "", where only the whole matrix is kept.
        matrices: float64 `(layers, T, T)`; zero in the rows and columns that are not finite.
    """

    layers: tuple[Layer, ...]
    matrices: Tensor

    @cached_property
    def whole(self) -> Tensor:
        """Their sum, `(T, T)`."""
        return self.matrices[0] if len(self.matrices) == 1 else self.matrices.sum(dim=0)

    def of(self, layer: Layer) -> Tensor:
        """One layer's, `(T, T)`."""
        return self.matrices[self.layers.index(layer)]


def make_grams(
    segments: Sequence[Segment], layers: tuple[Layer, ...], first: int = 0, last: int | None = None
) -> Grams:
    """Read the layers' columns of the rows `first` to `last` once and multiply."""
    last = sum(len(segment) for segment in segments) if last is None else last
    grams = Grams(layers, torch.zeros(len(layers), last - first, last - first, dtype=torch.float64))
    _fill(grams, segments, first, last, 0)
    return grams


def kept_layers(columns: Columns, count: int) -> tuple[Layer, ...]:
    """The layers whose Gram matrices a trajectory of `count` rows keeps: all, or one of all columns in their place."""
    layers = columns.layers
    return layers if len(layers) * count**2 * 8 <= LAYERS_LIMIT else (Layer("", 0, 0, columns.size),)


def run_grams(folder: Path, run: str, segments: Sequence[Segment], columns: Columns) -> Grams:
    """The Gram matrices of a run, from its copy as far as that goes, which is then brought up to date.

    Args:
        folder: the run folder.
        run: the run's own random name.
        segments: all of its segments, in order.
        columns: what the columns of its rows are.
    """
    count = sum(len(segment) for segment in segments)
    layers = kept_layers(columns, count)
    if not _worth_keeping(segments, len(layers), count, columns.size):
        return make_grams(segments, layers)
    path = folder / "results" / FILE
    about = _about(run, segments, layers, columns)
    names = {segment.path.name: segment for segment in segments}
    spans, known = _read(path, about)
    held = {n: (start, stop) for n, (start, stop) in spans if n in names and stop - start == len(names[n])}
    order = [*(names[name] for name in held), *(segment for segment in segments if segment.path.name not in held)]
    there = sum(stop - start for start, stop in held.values())
    grams = Grams(layers, torch.zeros(len(layers), count, count, dtype=torch.float64))
    if known is not None and held:
        rows = torch.cat([torch.arange(*span) for span in held.values()])
        grams.matrices[:, :there, :there] = known[:, rows[:, None], rows]
        del known
    if there < count:
        _fill(grams, order, 0, count, there)
        _write(path, _about(run, order, layers, columns), grams)
    return _in_order(grams, order, segments)


def cached_rows(folder: Path, run: str, segments: Sequence[Segment], columns: Columns) -> int:
    """How many rows of these segments the copy holds, as far as its head says; 0 where there is none."""
    count = sum(len(segment) for segment in segments)
    path = folder / "results" / FILE
    about = _about(run, segments, kept_layers(columns, count), columns)
    try:
        found = _head(path)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return 0
    if _foreign(found, about):
        return 0
    names = {segment.path.name for segment in segments}
    return sum(int(rows) for name, rows in found["segments"] if name in names)


def _fill(grams: Grams, order: Sequence[Segment], first: int, last: int, known: int) -> None:
    """Multiply all rows but the first `known` with all rows. Those that are not finite are zeros."""
    columns = slice(grams.layers[0].start, grams.layers[-1].stop)
    blank = ~finite_rows(order)[first:last]
    add_grams(grams.matrices, tiles(parts_of(order, first, last), columns, blank, GRAM_COLUMNS), grams.layers, known)


def _in_order(grams: Grams, order: Sequence[Segment], wanted: Sequence[Segment]) -> Grams:
    """The same with the rows as the segments stand in `wanted`."""
    if list(order) == list(wanted):
        return grams
    begins, begin = {}, 0
    for segment in order:
        begins[segment.path.name] = begin
        begin += len(segment)
    rows = torch.cat([torch.arange(len(segment)) + begins[segment.path.name] for segment in wanted])
    return Grams(grams.layers, grams.matrices[:, rows[:, None], rows])


def _worth_keeping(segments: Sequence[Segment], layers: int, count: int, size: int) -> bool:
    return bool(count) and layers * count * 8 <= CACHE_SHARE * size * segments[0].dtype.itemsize


# -- the copy ----------------------------------------------------------------------------------------------


def _about(run: str, segments: Sequence[Segment], layers: Sequence[Layer], columns: Columns) -> dict[str, Any]:
    return {
        "run": run,
        "size": columns.size,
        "dtype": str(segments[0].dtype),
        "layers": [[layer.name, layer.start, layer.stop] for layer in layers],
        "segments": [[segment.path.name, len(segment)] for segment in segments],
    }


def _foreign(found: Mapping[str, Any], about: Mapping[str, Any]) -> bool:
    return any(found[key] != about[key] for key in ("run", "size", "dtype"))


def _head(path: Path) -> dict[str, Any]:
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise ValueError("it is none that this version writes")
    about = json.loads(metadata["about"])
    if not isinstance(about, dict):
        raise TypeError("its head is no object")
    return about


def _read(path: Path, about: Mapping[str, Any]) -> tuple[list[tuple[str, tuple[int, int]]], Tensor | None]:
    """Which rows of the copy each segment's are, and the copy; nothing, with a warning, if it cannot be used."""
    if not path.is_file():
        return [], None
    try:
        head = _head(path)
        if _foreign(head, about):
            raise ValueError("it belongs to another run")
        if head["layers"] != about["layers"]:
            return [], None  # made when other layers were kept, which is no fault
        with safe_open(str(path), framework="pt") as file:
            matrices: Tensor = file.get_tensor("grams")
        spans, begin = [], 0
        for name, rows in head["segments"]:
            spans.append((str(name), (begin, begin + int(rows))))
            begin += int(rows)
        if matrices.shape != (len(head["layers"]), begin, begin) or matrices.dtype != torch.float64:
            raise ValueError(f"it holds {matrices.dtype} numbers of shape {tuple(matrices.shape)} for {begin} rows")
        if _checksum(matrices) != head["checksum"]:
            raise ValueError("its numbers do not have the checksum in its head")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        warnings.warn(f"{path} is not used ({error}); the Gram matrix is made anew", RuntimeWarning, stacklevel=2)
        return [], None
    return spans, matrices


def _write(path: Path, about: Mapping[str, Any], grams: Grams) -> None:
    """Keep a copy, whole or not at all; not being able to is no error."""
    head = dict(about) | {"checksum": _checksum(grams.matrices)}
    aside: Path | None = None
    try:
        path.parent.mkdir(exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{FILE}.", dir=path.parent)
        os.close(handle)
        aside = Path(name)
        save_file({"grams": grams.matrices}, name, metadata={"format": FORMAT, "about": json.dumps(head)})
        aside.chmod(0o644)
        replace_synced(aside, path)
    except (OSError, SafetensorError):
        pass
    finally:
        if aside is not None:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)


def _checksum(matrices: Tensor) -> str:
    return f"{zlib.crc32(matrices.contiguous().view(torch.uint8).numpy().data):08x}"
