"""One writer for one folder: the lock that refuses a second, and the thread that writes segments behind training."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from thalweg.errors import RunError
from thalweg.recording.keepers import Due, ExactKeeper, Keeper
from thalweg.recording.segments import SegmentContent, write_segment

if sys.platform != "win32":
    import fcntl

LOCK = "writer.lock"
PENDING = 2
"""Segments that may wait or be written at one time; a third waits for the disk."""

_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


class FolderLock:
    """The right to write into a run folder. It ends with the process, however the process ends.

    Args:
        folder: the run folder, which exists.

    Raises:
        RunError: if another recorder holds it (folder and process are named), or the file system has no locks.
    """

    def __init__(self, folder: Path) -> None:
        self._handle: int | None = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            self._acquire(folder)
        except BaseException:
            self.release()
            raise
        _held.add(self)

    def _acquire(self, folder: Path) -> None:
        assert self._handle is not None
        if sys.platform != "win32":
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{folder} is being recorded by {_holder(self._handle)}; choose another folder, or close that one"
                ) from None
            except OSError as error:
                raise RunError(f"{folder} cannot be locked ({error}); choose a folder on a local disk") from error
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)

    def release(self) -> None:
        """Give the folder free. In a forked child this only forgets it; the parent keeps it."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


def _holder(handle: int) -> str:
    try:
        about = json.loads(os.pread(handle, 4096, 0))
        return f"process {int(about['pid'])} on {about['host']!s}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _forget_locks() -> None:
    for lock in list(_held):
        with contextlib.suppress(OSError):
            lock.release()


if hasattr(os, "register_at_fork"):
    # A data loader's forked workers would otherwise keep the lock of a training that was killed.
    os.register_at_fork(after_in_child=_forget_locks)


class SegmentWriter:
    """Writes segments in the background, at most `PENDING` at a time.

    Args:
        folder: of the segments.
        rows: that are there already.
        last_step: the last optimizer step that is there already.
        written: bytes that are there already.
        keeper: turns what was seen into what is kept; exactly unless given.

    Attributes:
        rows: rows in finished segments.
        last_step: the last optimizer step in a finished segment, -1 if there is none.
        written: bytes of finished segments.
        waited: seconds that `reserve` has taken, all together.
        failure: what ended the writing; later segments are discarded.
    """

    def __init__(
        self, folder: Path, rows: int = 0, last_step: int = -1, written: int = 0, keeper: Keeper | None = None
    ) -> None:
        self.folder = folder
        self._keeper = keeper or ExactKeeper()
        self.rows = rows
        self.last_step = last_step
        self.written = written
        self.waited = 0.0
        self.failure: Exception | None = None
        self._queue: queue.SimpleQueue[tuple[SegmentContent, Callable[[], None]] | None] = queue.SimpleQueue()
        self._free = threading.Semaphore(PENDING)
        self._thread = threading.Thread(target=self._work, name="thalweg-writer", daemon=True)
        self._thread.start()

    def reserve(self, seconds: float | None = None) -> bool:
        """Wait until one more segment may be submitted, at most so long; whether it may."""
        if self._free.acquire(blocking=False):
            return True
        if seconds is not None and seconds <= 0:
            return False
        begun = time.monotonic()
        free = self._free.acquire(timeout=seconds)
        self.waited += time.monotonic() - begun
        return free

    def submit(self, content: SegmentContent, done: Callable[[], None]) -> None:
        """Have a segment written, after `reserve`; `done` is called when its arrays are free again."""
        self._queue.put((content, done))

    def close(self) -> Exception | None:
        """Wait until everything submitted is on disk; return what went wrong, if anything did."""
        self._queue.put(None)
        self._thread.join()
        return self.failure

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            self._write(*job)
            del job  # while the thread waits, it keeps no block and no optimizer's state
        try:
            if self.failure is None:
                self._put(self._keeper.finish())
        except Exception as error:
            self.failure = error

    def _write(self, content: SegmentContent, done: Callable[[], None]) -> None:
        try:
            if self.failure is None:
                self._put(self._keeper.take(content))
        except Exception as error:  # whatever it is, the training hears of it at its next step
            self.failure = error
        finally:
            done()
            self._free.release()

    def _put(self, due: Due) -> None:
        for content, kept in due:
            path = write_segment(self.folder, content, kept)
            self.written += path.stat().st_size
            self.rows += len(content.steps)
            self.last_step = int(content.steps[-1])
