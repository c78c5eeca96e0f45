"""The trajectory on disk: immutable segments, each a safetensors file that is written aside, synced and renamed.

```
segments/000000-000064.1c291ca3.safetensors      rows 0 to 63; CRC-32 of the file's bytes
    updates         (n, P)       each row's change of the weights, in the run's dtype or in bfloat16;
                    (n, D)       or its sketch, see `keeping`
    anchor          (P,)         the exact weights before the first row; not in every segment where rows are long
    sum             (P,)         bfloat16, only in sketched runs: the sum of all rows after step `sum_after`
    steps           (n,) int64   index of the last optimizer step that the row sums, counted from 0
    learning_rates  (n, groups)  float64, and `momenta` likewise: what the optimizer used (NaN where it has none)
    times           (n,)         float64, seconds since 1970
    scalars         (n, names)   float64, NaN where nothing was logged
    patch_rows, patch_columns, patch_values   (m,) entries that adding up does not give back, see `differences`
    finite          (n,) uint8   whether every entry of the row's update is a finite number
    buffer/NAME                  the model's buffers after the last row
    anchor_buffer/NAME           and as they stood before the first
    state/I                      I-th tensor of the optimizers' state before the first row; `anchors` reads it by name
```

The patches see to it that adding row by row from the anchor gives back every weight of every row, bit for bit;
`rebuilding` does it. `segments` writes what is read here.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from thalweg.errors import RunError
from thalweg.recording.segments import ANCHOR_BUFFER, BUFFER, DTYPES, SEGMENT_FORMAT, STATE

SEGMENTS = "segments"
_NAME = re.compile(r"(\d{6,})-(\d{6,})\.([0-9a-f]{8})\.safetensors")
_READ = 2**22


class DamagedSegmentError(RunError):
    """A file among the segments cannot be used; the message says why."""


@dataclass(frozen=True, eq=False)
class Segment:
    """A finished segment, opened; its updates stay on disk until asked for.

    Attributes:
        path: the file.
        first_row: number of its first row in the run.
        before: the step after which the anchor's weights stood; -1 before any step.
        steps: `(n,)` int64, the last optimizer step of each row.
        learning_rates: `(n, groups)` float64.
        momenta: `(n, groups)` float64.
        times: `(n,)` float64, seconds since 1970.
        scalars: name to `(n,)` float64.
        size: columns of its rows, P or D.
        dtype: of its rows.
        position: where the updates' bytes begin in the file.
        names: of the file's tensors.
        end: digest of the weights after the last row; empty where it is not known.
        sum_after: the step after which the rows of its sum begin; None where it has no sum.
    """

    path: Path
    first_row: int
    before: int
    steps: Tensor
    learning_rates: Tensor
    momenta: Tensor
    times: Tensor
    scalars: Mapping[str, Tensor]
    size: int
    dtype: torch.dtype
    position: int
    names: frozenset[str] = frozenset()
    end: str = ""
    sum_after: int | None = None

    def __len__(self) -> int:
        return int(self.steps.shape[0])

    @cached_property
    def finite(self) -> Tensor:
        """`(n,)` bool: whether every entry of each update is a finite number; NaN may not get into a Gram matrix."""
        if "finite" in self.names:
            return self.tensor("finite").bool()
        rows = [self.updates(slice(row, row + 1)).isfinite().all() for row in range(len(self))]
        return torch.stack(rows)

    def updates(self, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """Some rows and columns, read from the file now: `(rows, columns)` in the dtype in which they are kept."""
        first, last, _ = rows.indices(len(self))
        start, stop, _ = columns.indices(self.size)
        out = torch.empty(max(last - first, 0), stop - start, dtype=self.dtype)
        raw = out.view(torch.int16).numpy() if self.dtype == torch.bfloat16 else out.numpy()
        item = self.dtype.itemsize
        if not raw.size:
            return out
        whole = stop - start == self.size
        with self.path.open("rb", buffering=0) as file:
            for row in [slice(None)] if whole else range(len(raw)):
                skipped = first if isinstance(row, slice) else first + row
                file.seek(self.position + (skipped * self.size + start) * item)
                _fill(file, raw[row], self.path)
        return out

    def tensor(self, name: str) -> Tensor:
        """One of the file's other tensors."""
        with safe_open(str(self.path), framework="pt") as file:
            found: Tensor = file.get_tensor(name)
        return found

    @property
    def anchored(self) -> bool:
        """Whether it holds the exact weights before its first row."""
        return "anchor" in self.names

    def buffers(self) -> dict[str, Tensor]:
        """The model's buffers after the last row."""
        with safe_open(str(self.path), framework="pt") as file:
            return _under(file, BUFFER)


def read_anchor_parts(segment: Segment) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """What a segment holds with its anchor: the header's `about`, the buffers, and the state by its number."""
    with safe_open(str(segment.path), framework="pt") as file:
        return json.loads(file.metadata()["about"]), _under(file, ANCHOR_BUFFER), _under(file, STATE)


def _under(file: Any, prefix: str) -> dict[str, Tensor]:
    names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
    return {name[len(prefix) :]: file.get_tensor(name) for name in names}


def read_segment(path: Path, run: str, size: int, dtype: torch.dtype, verify: bool = True) -> Segment:
    """Open one segment and check that it is whole and belongs to the run.

    Args:
        path: the file.
        run: the run's own random name.
        size: columns of the rows, P or D.
        dtype: of the rows.
        verify: also compare the checksum of all bytes with the one in the name.

    Raises:
        DamagedSegmentError: if it may not be read as data; the message is the reason.
    """
    match = _NAME.fullmatch(path.name)
    if not match:
        raise DamagedSegmentError("its name is no segment's name")
    try:
        if verify and checksum_of(path) != match[3]:
            raise DamagedSegmentError("its bytes do not have the checksum in its name")
        with path.open("rb") as raw:
            length = struct.unpack("<Q", raw.read(8))[0]
            header = json.loads(raw.read(min(length, 2**27)))
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != SEGMENT_FORMAT:
                raise DamagedSegmentError("it is no segment that this version writes")
            about = json.loads(metadata["about"])
            small = {n: file.get_tensor(n) for n in ("steps", "learning_rates", "momenta", "times", "scalars")}
        count, sum_after = len(small["steps"]), about.get("sum_after")
        shape, code = header["updates"]["shape"], header["updates"]["dtype"]
        segment = Segment(
            path,
            int(about["first_row"]),
            int(about["before"]),
            size=size,
            dtype=dtype,
            position=8 + length + int(header["updates"]["data_offsets"][0]),
            names=frozenset(header) - {"__metadata__"},
            end=str(about.get("end", "")),
            sum_after=None if sum_after is None else int(sum_after),
            scalars=dict(zip(about["scalars"], small.pop("scalars").unbind(1), strict=True)),
            **small,
        )
    except (OSError, SafetensorError, struct.error, KeyError, TypeError, ValueError) as error:
        if isinstance(error, DamagedSegmentError):
            raise
        raise DamagedSegmentError(f"it cannot be read ({error})") from error
    if about["run"] != run:
        raise DamagedSegmentError("it belongs to another run")
    if shape != [count, size] or code != DTYPES[dtype] or count == 0:
        raise DamagedSegmentError(f"it holds updates of shape {shape} in {code}, not (n, {size}) in {DTYPES[dtype]}")
    if (int(match[1]), int(match[2])) != (segment.first_row, segment.first_row + count):
        raise DamagedSegmentError("its name and its content disagree about the rows")
    return segment


def read_segments(
    folder: Path, run: str, size: int, dtype: torch.dtype, verify: bool = True
) -> tuple[tuple[Segment, ...], tuple[tuple[str, str], ...]]:
    """Every segment that can be used, in order, and `(file name, reason)` for everything that cannot.

    Unfinished files (their names begin with a dot) are what a killed writer leaves; they are no damage.
    """
    segments: list[Segment] = []
    damaged: list[tuple[str, str]] = []
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    for path in sorted(paths, key=row_range):
        found = _segment_or_reason(path, run, size, dtype, verify)
        if isinstance(found, Segment) and segments and found.first_row < segments[-1].first_row + len(segments[-1]):
            found = f"its rows are already in {segments[-1].path.name}"
        if isinstance(found, Segment):
            segments.append(found)
        else:
            damaged.append((path.name, found))
    return tuple(segments), tuple(damaged)


def _segment_or_reason(path: Path, run: str, size: int, dtype: torch.dtype, verify: bool) -> Segment | str:
    try:
        return read_segment(path, run, size, dtype, verify)
    except DamagedSegmentError as error:
        return str(error)


def checksum_of(path: Path) -> str:
    """CRC-32 of a file's bytes, eight hexadecimal digits."""
    checksum = 0
    with path.open("rb", buffering=0) as file:
        while part := file.read(_READ):
            checksum = zlib.crc32(part, checksum)
    return f"{checksum:08x}"


def own_segment_files(folder: Path) -> Sequence[Path]:
    """The files in `folder` that bear a segment's name or the name of an unfinished one."""
    if not folder.is_dir():
        return []
    return [p for p in folder.iterdir() if _NAME.fullmatch(p.name) or re.fullmatch(r"\.\d+-\d+\.tmp\d+", p.name)]


def row_range(path: Path) -> tuple[int, int, str]:
    """First row and the row after the last, as a segment's name says them, and the name; -1 for other files."""
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2]), path.name) if match else (-1, -1, path.name)


def _fill(file: Any, out: NDArray[Any], path: Path) -> None:
    view = out.data.cast("B")
    while len(view):
        count = file.readinto(view)
        if not count:
            raise RunError(f"{path} has become shorter while it was open; open the run again")
        view = view[count:]
