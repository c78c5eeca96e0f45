"""Clocks and memory gauges that every contestant is measured with, in its own process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.workloads import Loaded, gradient

_BEGIN = time.perf_counter()


def say(words: str) -> None:
    """A line on standard error, with the time of day and the seconds that this process has run."""
    print(f"[{time.strftime('%H:%M:%S')} {time.perf_counter() - _BEGIN:6.0f} s] {words}", file=sys.stderr, flush=True)


def once(action: Callable[[], object]) -> float:
    """Seconds of an action, done once."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def seconds(action: Callable[[], object], repeats: int = 5, warm: int = 1) -> float:
    """Median time of an action.

    Args:
        action: what is timed.
        repeats: timings.
        warm: runs before them.
    """
    for _ in range(warm):
        action()
    return statistics.median(once(action) for _ in range(repeats))


def gradient_seconds(workload: Loaded, batch: int | None = None, repeats: int = 5) -> float:
    """Median time of one gradient over all samples, through torch's own attention kernel.

    Args:
        workload: model and data.
        batch: samples of a batch; as given unless said.
        repeats: timings.
    """
    batches = workload.batches(batch)
    return seconds(lambda: gradient(workload.model, batches), repeats)


def forget_peak() -> int:
    """Give freed memory back, set the process's high-water mark down to what it holds now, and return that."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """The high-water mark of resident memory in bytes."""
    return _status("VmHWM")


def _status(key: str) -> int:
    try:
        found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
