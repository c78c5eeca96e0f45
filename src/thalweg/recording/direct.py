"""Writing a file in parts, large ones past the page cache where the system can.

The copy into the page cache, and its writing back later, cost a training that uses every core more than the disk does:
without them the mean step of a recorded training is slowed by half as much (benchmarks/RESULTS.md). Memory and place in
the file have to lie alike for that, see `padding`; whatever does not is written in the usual way, and so is all of it
where the file system knows no direct writes.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

if sys.platform != "win32":
    import fcntl

PAGE = 4096
"""What places in memory and in the file are multiples of."""

LEAST = 2**20
"""Bytes of a part from which on the page cache is passed by."""

PIECE = 2**23
"""Bytes that are written at a time."""

DIRECT: int = getattr(os, "O_DIRECT", 0)


def address(part: memoryview) -> int:
    """Where a part begins in memory."""
    return int(np.frombuffer(part, dtype=np.uint8).ctypes.data) if len(part) else 0


def padding(part: memoryview, offset: int) -> int:
    """How many bytes further a part has to begin in its file to lie there as it does in memory; 0 for small parts.

    Args:
        part: its bytes.
        offset: where it would begin.
    """
    return (address(part) - offset) % PAGE if DIRECT and part.nbytes >= LEAST else 0


def write_parts(path: Path, parts: Sequence[memoryview]) -> None:
    """Write a file that consists of these parts. What is written is not yet synced.

    Raises:
        OSError: if the disk fails.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        offset = 0
        for part in parts:
            done = 0
            if DIRECT and part.nbytes >= LEAST and padding(part, offset) == 0:
                done = -offset % PAGE
                _write(handle, part[:done])
                done += _write_past_the_cache(handle, part[done : done + (part.nbytes - done) // PAGE * PAGE])
            _write(handle, part[done:])
            offset += part.nbytes
    finally:
        os.close(handle)


def _write(handle: int, part: memoryview) -> None:
    done = 0
    while done < len(part):
        done += os.write(handle, part[done : done + PIECE])


def _write_past_the_cache(handle: int, part: memoryview) -> int:
    """Write whole pages directly; how many bytes were, which is fewer where the file system would not."""
    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    done = 0
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags | DIRECT)
        while done < len(part) and done % PAGE == 0:
            done += os.write(handle, part[done : done + PIECE])
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags)
    return done


def empty_rows(count: int, size: int, dtype: type[np.floating]) -> np.ndarray[tuple[int, int], np.dtype[np.floating]]:
    """Uninitialised `(count, size)` in one piece of memory whose second row begins at a page."""
    item = np.dtype(dtype).itemsize
    flat = np.empty(count * size + PAGE // item, dtype=dtype)
    start = (-(flat.ctypes.data + size * item) % PAGE) // item
    rows: np.ndarray[tuple[int, int], np.dtype[np.floating]] = flat[start : start + count * size].reshape(count, size)
    return rows
