"""Recording a training while it runs, through the optimizer's post-step hook.

The hook copies the weights into a preallocated block; a thread turns full blocks into segments on disk. It never
raises into the training: whatever goes wrong ends the recording with one warning.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any, SupportsFloat

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.errors import InputError, RunError
from thalweg.recording.block import Block, gather, rates_of
from thalweg.recording.manifest import CLOSED, check_optimizer, describe, now, parse_bytes, prepare, write_json
from thalweg.recording.store import SEGMENTS
from thalweg.recording.writer import FolderLock, SegmentWriter
from thalweg.runs import MANIFEST
from thalweg.space import ParameterSpace, plain_name, unwrapped

BLOCK_BYTES = 2**25
"""A block holds as many rows as fit into this, and one at the least."""
BLOCK_ROWS = 64
_ROOM = 4096
"""Bytes of a segment beside its rows and buffers, about."""
_PATCHES = 1.02
"""Room for patches (see `store`), as a share of the rows."""


def watch(
    model: nn.Module,
    optimizer: Optimizer,
    folder: str | Path,
    every: int = 1,
    budget: int | str | None = None,
    *,
    flush_seconds: float = 5.0,
    segment_rows: int = BLOCK_ROWS,
    overwrite: bool = False,
) -> Recorder:
    """Record every update of a model's weights from now on.

    ```python
    recorder = thalweg.watch(model, optimizer, "runs/a")
    ...                                  # the training loop, unchanged
    recorder.log(loss=loss.item())       # if wanted, after optimizer.step()
    recorder.close()                     # or `with watch(...):`, or by itself at exit
    ```

    Each row is `w' − w` over `every` optimizer steps, in float32 (float64 if all parameters are). Memory: at most
    `1 + 2` blocks of 32 MiB or of one row and its anchor, whichever is larger.

    Args:
        model: what is trained; a compiled model is unwrapped.
        optimizer: its optimizer; its `step()` makes the rows.
        folder: where the run is kept; made if it is not there.
        every: optimizer steps that are summed into one row. What is left at the end becomes a last, shorter row.
        budget: bytes on disk, as a number or like `"2GiB"` or `"500MB"`. Once they are used up the recording stops
            with one warning and what was recorded is kept; it is not made coarser to go on.
        flush_seconds: after this long a block is written even if it is not full, so that a kill loses little.
        segment_rows: rows of one segment at the most.
        overwrite: remove the run that is in the folder, and nothing else, and begin anew.

    Raises:
        InputError: if an argument cannot be worked with, or the optimizer holds no trainable parameter of the model.
        RunError: if the folder holds a run, is being written to by another recorder, or cannot be written.
    """
    for name, value in (("every", every), ("segment_rows", segment_rows)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name}={value!r}: give a whole number of at least 1")
    if not flush_seconds > 0:
        raise InputError(f"flush_seconds={flush_seconds!r}: give seconds greater than 0")
    limit = None if budget is None else parse_bytes(budget)
    model = unwrapped(model)
    space = ParameterSpace.of(model)
    parameters = space.tensors(model)
    check_optimizer(model, optimizer, parameters)
    dtype = torch.float64 if all(p.dtype == torch.float64 for p in parameters) else torch.float32
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    least = int((1 + _PATCHES) * space.size * dtype.itemsize) + buffers + 3 * _ROOM
    if limit is not None and limit < least:
        raise InputError(f"budget={budget!r} does not hold one row of {space.size:,} weights; give {least:,} or more")
    folder = Path(folder)
    lock = prepare(folder, overwrite)
    try:
        manifest = describe(model, optimizer, space, dtype) | {"every": every, "budget": limit}
        write_json(folder / MANIFEST, manifest)
        rows = max(1, min(segment_rows, BLOCK_BYTES // (space.size * dtype.itemsize) - 1))
        return Recorder(model, optimizer, parameters, folder, manifest, lock, rows, flush_seconds)
    except BaseException as error:
        lock.release()
        if isinstance(error, OSError):
            raise RunError(f"{folder} cannot be written ({error}); choose another folder") from error
        raise


class Recorder:
    """A recording under way; `watch` makes it.

    Attributes:
        folder: the run folder.
        closed: whether it has ended, by itself or by `close`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        parameters: list[Tensor],
        folder: Path,
        manifest: dict[str, Any],
        lock: FolderLock,
        rows: int,
        flush_seconds: float,
    ) -> None:
        self.folder = folder
        self.closed = False
        self._manifest = manifest
        self._every: int = manifest["every"]
        self._budget: int | None = manifest["budget"]
        self._model = weakref.ref(model)
        self._parameters = parameters
        self._lock = lock
        self._process = os.getpid()
        self._flush_seconds = flush_seconds
        self._step = 0  # optimizer steps seen
        self._planned = 0.0  # bytes of all segments' rows, as far as known
        self._rates: list[tuple[float, float]] = []
        self._pending: dict[str, float] = {}
        self._ahead: set[str] = set()
        self._warned = False
        dtype = getattr(torch, manifest["dtype"])
        shapes = [p.shape for p in parameters]
        self._buffer_bytes = sum(buffer.nbytes for buffer in model.buffers())
        self._block = Block(rows, shapes, len(optimizer.param_groups), dtype)
        gather(parameters, self._block.targets(0))
        self._spare: list[Block] = []
        self._writer = SegmentWriter(folder / SEGMENTS)
        self._first = optimizer.register_step_pre_hook(self._before_first_step)
        self._hook = optimizer.register_step_post_hook(self._after_step)
        self._finalizer = weakref.finalize(optimizer, self._end, "the optimizer or the interpreter ended")

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end("closed" if kind is None else f"left by {kind.__name__}")
        self._remove_hooks()

    def close(self) -> None:
        """End the recording and wait until everything is on disk. A second call does nothing."""
        self._end("closed")
        self._remove_hooks()

    def log(self, **scalars: SupportsFloat) -> None:
        """Keep numbers with the step just taken (with `every=n`, with the row that sums it; the last one counts).

        A name that is logged before the first step is taken to be logged before every step, and is kept with the
        step that follows it.
        """
        if self._inactive():
            return
        for name, value in scalars.items():
            try:
                number = float(value)
            except Exception as error:
                if not self._warned:
                    self._warned = True
                    _warn(f"thalweg does not record {name}={value!r}: it is no number ({error}); log floats")
                continue
            if self._step == 0:
                self._ahead.add(name)
            if name in self._ahead or self._step % self._every:
                self._pending[name] = number
            else:
                self._block.put(name, number)

    # -- the hooks: nothing may reach the training, and no hook may be removed while hooks of its kind run -----

    def _before_first_step(self, optimizer: Optimizer, arguments: Any, named: Any) -> None:
        """What was loaded or moved since `watch` is where the run begins."""
        if self._step or self._inactive():
            return
        try:
            gather(self._parameters, self._block.targets(0))
        except Exception as error:
            self._fail(error)

    def _after_step(self, optimizer: Optimizer, arguments: Any, named: Any) -> None:
        if self._inactive():
            return
        try:
            if self._step == 0:
                self._first.remove()
            if self._writer.failure is not None:
                raise self._writer.failure
            if self._block.sealed:
                self._hand_over()
            self._step += 1
            self._rates = rates_of(optimizer.param_groups)
            if self._step % self._every == 0:
                self._record()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        try:
            self._end("failed", error)
        except Exception as another:
            _warn(f"thalweg stopped recording {self.folder}: {error}; ending it failed too: {another}")

    def _inactive(self) -> bool:
        return self.closed or os.getpid() != self._process

    # -- rows and blocks -----------------------------------------------------------------------------------

    def _record(self) -> None:
        block = self._block
        self._plan(block)
        gather(self._parameters, block.targets(block.count + 1))
        block.end_row(self._step - 1, self._rates)
        for name, number in self._pending.items():
            block.put(name, number)
        self._pending.clear()
        if block.count == block.capacity or time.monotonic() - block.began >= self._flush_seconds:
            self._seal()

    def _plan(self, block: Block) -> None:
        """Count the bytes of one more row, and stop where the budget ends."""
        if self._budget is None:
            return
        vector = block.weights[0].nbytes
        row = vector * _PATCHES + 8 * (3 + 2 * block.rates.shape[2] + len(block.scalars))
        head = 0 if block.count else vector + _ROOM + self._buffer_bytes
        spent = max(self._planned, self._writer.written + (block.count + 1) * vector)
        if spent + row + head > self._budget - _ROOM:
            raise BudgetError(
                f"the budget of {self._budget:,} bytes is used up; next time give a larger budget= or every="
            )
        self._planned += row + head

    def _seal(self) -> None:
        """The block is done, but for what is still logged for its last step; its buffers are the ones of now."""
        model = self._model()
        names = set(self._manifest["buffers"])
        if model is not None and names:
            self._block.buffers = {
                plain_name(name): buffer.detach().to("cpu", copy=True)
                for name, buffer in model.named_buffers()
                if plain_name(name) in names
            }
        self._block.sealed = True

    def _hand_over(self) -> None:
        """Give the sealed block to the writer and go on in another that begins at its last weights."""
        full = self._block
        self._writer.reserve()
        following = self._spare.pop() if self._spare else full.another()
        following.follow(full)
        self._block = following
        self._writer.submit(full.content(self._manifest["run"]), lambda: self._spare.append(full))

    # -- the end -------------------------------------------------------------------------------------------

    def _end(self, reason: str, error: Exception | None = None) -> None:
        """Write what there is, say why if it was not asked for, and let go of everything."""
        if self._inactive():
            return
        self.closed = True
        self._finalizer.detach()
        try:
            self._write_rest(remainder=error is None)
        except Exception as found:
            error = error or found
        failure = self._writer.close()
        error = error or failure
        reason = "budget" if isinstance(error, BudgetError) else reason if error is None else f"failed: {error}"
        try:
            about = {"rows": self._writer.rows, "last_step": self._writer.last_step, "steps_seen": self._step}
            write_json(self.folder / CLOSED, about | {"reason": reason, "closed": now()})
        except Exception as found:
            error = error or found
        self._lock.release()
        self._parameters, self._spare, self._block = [], [], Block(0, [], 0, torch.float32)
        if error is not None:
            kind = "" if isinstance(error, RunError) else f"{type(error).__name__}: "
            _warn(
                f"thalweg stopped recording {self.folder} at step {self._step}: {kind}{error}. "
                f"Training goes on; {self._writer.rows} rows, up to step {self._writer.last_step}, are kept."
            )

    def _write_rest(self, remainder: bool) -> None:
        if self._block.sealed:
            self._hand_over()
        if remainder and self._step % self._every:
            self._record()
        if self._block.count:
            if not self._block.sealed:
                self._seal()
            self._hand_over()

    def _remove_hooks(self) -> None:
        self._first.remove()
        self._hook.remove()


class BudgetError(RunError):
    """The budget is used up."""


def _warn(message: str) -> None:
    """Warn, and never raise, even where warnings are errors."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    except Warning:
        print(message, file=sys.stderr)
