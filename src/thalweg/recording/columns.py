"""Columns of a recorded trajectory in float64, read by a thread while the ones before are worked on.

A *slab* is what is read at once: some columns of all rows, in the run's dtype. A *tile* is what is multiplied at once:
a part of a slab, converted to float64 in one buffer that is used again and again. At most two slabs are alive, the one
worked on and the one being read, so that the memory is

    2 · max(SLAB_BYTES, rows · LEAST_READ) + max(TILE_BYTES, 8 · rows · least columns)

whatever P is. A row's part of a slab is at least LEAST_READ long, since short reads far apart cost more than they
bring.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from thalweg.recording.store import Segment

SLAB_BYTES = 2**26
LEAST_READ = 2**15
"""Bytes of one row that are read at once, at the least."""
TILE_BYTES = 2**22
"""Of one float64 tile, so that it is still in a cache when it is multiplied the second time."""
LEAST_COLUMNS = 256

Part = tuple[Segment, slice]
"""Rows of one segment."""


def parts_of(segments: Sequence[Segment], first: int, last: int) -> list[Part]:
    """The rows `first` to `last` of segments that follow each other."""
    found: list[Part] = []
    begin = 0
    for segment in segments:
        start, stop = max(first - begin, 0), min(last - begin, len(segment))
        if start < stop:
            found.append((segment, slice(start, stop)))
        begin += len(segment)
    return found


def tiles(
    parts: Sequence[Part], columns: slice, blank: Tensor | None = None, least: int = 0
) -> Iterator[tuple[slice, Tensor]]:
    """Go through some columns of some rows: which columns, and their entries as float64 `(rows, columns)`.

    Args:
        parts: the rows, in order.
        columns: start and stop.
        blank: `(rows,)` bool, rows that are given as zeros; those that are not finite, say.
        least: columns of a tile at the least, LEAST_COLUMNS unless given.

    Yields:
        Pairs; the tensor is overwritten when the next one is asked for.
    """
    rows = sum(part.stop - part.start for _, part in parts)
    if not rows or columns.start >= columns.stop:
        return
    item = parts[0][0].dtype.itemsize
    width = max(least or LEAST_COLUMNS, TILE_BYTES // (8 * rows))
    whole = max(LEAST_READ // item, SLAB_BYTES // (item * rows))
    buffer = torch.empty(rows, min(width, columns.stop - columns.start), dtype=torch.float64)
    gone = None if blank is None or not bool(blank.any()) else blank.nonzero()[:, 0]
    for here, pieces in _slabs(parts, columns, max(whole // width, 1) * width):
        for start in range(0, here.stop - here.start, width):
            stop = min(start + width, here.stop - here.start)
            tile = buffer[:, : stop - start]
            _convert(pieces, slice(start, stop), tile)
            if gone is not None:
                tile[gone] = 0.0
            yield slice(here.start + start, here.start + stop), tile
        del pieces


def finite_rows(segments: Sequence[Segment]) -> Tensor:
    """`(T,)` bool: which rows hold finite numbers only."""
    return torch.cat([torch.empty(0, dtype=torch.bool), *(segment.finite for segment in segments)])


def _slabs(parts: Sequence[Part], columns: slice, width: int) -> Iterator[tuple[slice, list[Tensor]]]:
    """The columns in slabs of a width: the next one is read while the caller works on the last one."""
    spans = [slice(a, min(a + width, columns.stop)) for a in range(columns.start, columns.stop, width)]
    if len(spans) == 1:
        yield spans[0], _read(parts, spans[0])
        return
    with ThreadPoolExecutor(1, "thalweg-reader") as reader:
        waiting = reader.submit(_read, parts, spans[0])
        for here, following in zip(spans, [*spans[1:], None], strict=True):
            pieces = waiting.result()
            if following is not None:
                waiting = reader.submit(_read, parts, following)
            yield here, pieces
            del pieces


def _convert(pieces: Sequence[Tensor], columns: slice, tile: Tensor) -> None:
    begin = 0
    for piece in pieces:
        tile[begin : begin + len(piece)].copy_(piece[:, columns])
        begin += len(piece)


def _read(parts: Sequence[Part], columns: slice) -> list[Tensor]:
    return [segment.updates(rows, columns) for segment, rows in parts]
