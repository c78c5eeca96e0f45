"""A recording under way: from the optimizer's hook to the segments.

The hook copies the weights into a preallocated block; a thread turns full blocks into segments on disk. It never
raises into the training: whatever goes wrong ends the recording with one warning.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, SupportsFloat

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from thalweg.errors import RunError, warn
from thalweg.recording.block import Block
from thalweg.recording.forecast import Forecast
from thalweg.recording.keepers import keeper_of
from thalweg.recording.manifest import CLOSED, now, write_json
from thalweg.recording.optimizers import STATE_SHARE, Optimizers, Standing, skipped
from thalweg.recording.pace import Budget, BudgetError, Pace
from thalweg.recording.resume import Left, columns_of
from thalweg.recording.segments import digest
from thalweg.recording.shards import held
from thalweg.recording.store import SEGMENTS
from thalweg.recording.writer import FolderLock, SegmentWriter
from thalweg.space import plain_name


@dataclass(frozen=True)
class Plan:
    """What a recording is to do.

    Attributes:
        folder: of the run.
        manifest: as it is written there.
        lock: of the folder.
        every: steps to a row.
        rows: of a segment at the most.
        flush_seconds: after which a segment is written even if it is not full.
        moments: whether anchors hold the optimizers' state.
        first_step: number of the first step to come.
        forecast: what is kept, and what that costs.
        left: where the run stopped, if it goes on.
    """

    folder: Path
    manifest: Mapping[str, Any]
    lock: FolderLock
    every: int
    rows: int
    flush_seconds: float
    moments: bool
    first_step: int
    forecast: Forecast
    left: Left


class Recorder:
    """A recording under way; `watch` makes it.

    Attributes:
        folder: the run folder.
        forecast: what is kept, what that costs and what is lost; print it.
        closed: whether it has ended, by itself or by `close`.
    """

    def __init__(self, model: nn.Module, optimizers: list[Optimizer], parameters: list[Tensor], plan: Plan) -> None:
        self.folder = plan.folder
        self.forecast = plan.forecast
        self.closed = False
        self._plan = plan
        self._model = weakref.ref(model)
        self._parameters = parameters
        self._optimizers = Optimizers(optimizers, columns_of(plan.manifest) if optimizers else None)
        self._manual = not optimizers
        self._process = os.getpid()
        self._step = plan.first_step  # number of the next step
        self._seen = 0  # steps
        self._others = False  # whether another optimizer than the last has stepped since the last row
        self._rates: list[tuple[float, float]] = []
        self._later: dict[str, float] = {}
        self._pending: dict[str, float] = {}
        self._ahead: set[str] = set()
        self._warned: set[str] = set()
        self._unfrozen: list[str] = []
        self._since_state = 0.0  # bytes of rows
        self._row_bytes = plan.forecast.vector_bytes
        left = plan.left
        self._pace = Pace(plan.every)
        self._budget = Budget(plan.manifest["budget"], left.written, plan.forecast)
        dtype = getattr(torch, plan.manifest["dtype"])
        shapes, anchor_rows = [p.shape for p in held(parameters)], plan.forecast.anchor_rows
        self._block = Block(plan.rows, shapes, self._optimizers.columns, dtype, anchor_rows=anchor_rows)
        self._block.first_row = left.rows
        self._begin()
        self._spare: list[Block] = []
        keeper = keeper_of(plan.forecast.keeping, plan.forecast.space, plan.flush_seconds)
        self._writer = SegmentWriter(plan.folder / SEGMENTS, left.rows, left.last_step, left.written, keeper)
        self._first: list[RemovableHandle] = []
        self._hooks: list[RemovableHandle] = []
        self._attach(optimizers)
        owner = optimizers[-1] if optimizers else model
        self._finalizer = weakref.finalize(owner, self._end, "the training or the interpreter ended")

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end("closed" if kind is None else f"left by {kind.__name__}")
        self._remove_hooks()

    def close(self) -> None:
        """End the recording and wait until everything is on disk. A second call does nothing."""
        self._end("closed")
        self._remove_hooks()

    def step(self) -> None:
        """Say that the model has been trained by one step. Only after `watch(model, None, ...)`, whose clock it is."""
        if self._inactive():
            return
        if not self._manual:
            self._warn_once("step", "recorder.step() is for watch(model, None, ...); here the optimizer's step counts")
            return
        try:
            self._advance()
        except Exception as error:
            self._fail(error)

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
                self._warn_once("log", f"{name}={value!r} is not recorded: it is no number ({error}); log floats")
                continue
            if self._seen == 0:
                self._ahead.add(name)
            if name in self._ahead or self._pace.since:
                self._pending[name] = number
            else:
                self._block.put(name, number)

    # -- the hooks: nothing may reach the training, and no hook may be removed while hooks of its kind run -----

    def _attach(self, optimizers: list[Optimizer]) -> None:
        """Hook into the optimizers; torch.compile leaves the hooks alone, and calls them."""
        untraced: Any = torch.compiler.disable
        for optimizer in optimizers:
            last = optimizer is optimizers[-1]
            after = self._after_step if last else self._after_other
            self._first.append(optimizer.register_step_pre_hook(untraced(self._before_first_step)))
            self._hooks.append(optimizer.register_step_post_hook(untraced(after)))

    def _before_first_step(self, optimizer: Optimizer, arguments: Any, named: Any) -> None:
        """What was loaded or moved since `watch` is where the run begins."""
        if self._seen or self._others or self._inactive():
            return
        try:
            self._begin()
        except Exception as error:
            self._fail(error)

    def _after_other(self, optimizer: Optimizer, arguments: Any, named: Any) -> None:
        self._others = self._others or not skipped(optimizer)

    def _after_step(self, optimizer: Optimizer, arguments: Any, named: Any) -> None:
        if self._inactive():
            return
        try:
            if not skipped(optimizer):
                self._advance()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        try:
            self._end("failed", error)
        except Exception as another:
            warn(f"thalweg stopped recording {self.folder}: {error}; ending it failed too: {another}")

    def _inactive(self) -> bool:
        return self.closed or os.getpid() != self._process

    # -- rows and blocks -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        """The weights of now are where the rows begin. If a run goes on elsewhere, a step's number is left out."""
        block, left = self._block, self._plan.left
        block.gather(held(self._parameters), 0)
        self._step = self._plan.first_step
        if left.rows and self._step == left.last_step + 1 and digest(block.weights[0]) != left.end:
            self._step += 1
        block.before = self._step - 1
        block.standing = self._stand(due=True)

    def _advance(self) -> None:
        if self._writer.failure is not None:
            raise self._writer.failure
        if self._seen == 0:
            self._first_step()
        self._seen += 1
        self._step += 1
        self._pace.since += 1
        self._rates, self._later = self._optimizers.rates()
        if self._block.sealed:
            self._hand_over(0.0)
        if self._pace.since >= self._pace.every and (not self._block.sealed or self._wait()):
            self._record()

    def _first_step(self) -> None:
        for handle in self._first:
            handle.remove()
        self._pace.begin()
        left = self._plan.left
        if left.rows and self._step > left.last_step + 1:
            self._warn_once(
                "gap",
                f"{self.folder} goes on at step {self._step} with other weights than it stopped with after step "
                f"{left.last_step}; what lies between was not recorded and is kept as a gap",
            )

    def _record(self) -> None:
        block = self._block
        self._budget.plan(block, self._writer.written)
        block.gather(held(self._parameters), block.count + 1)
        block.end_row(self._step - 1, self._rates)
        self._pace.since = 0
        self._others = False
        for numbers in (self._later, self._pending):
            for name, number in numbers.items():
                block.put(name, number)
        self._pending.clear()
        if block.count == block.capacity or monotonic() - block.began >= self._plan.flush_seconds:
            self._seal()

    def _seal(self) -> None:
        """The block is done, but for what is still logged for its last step; what stands beside it is kept now."""
        block = self._block
        model = self._model()
        if model is not None:
            self._look_at(model)
        self._since_state += block.count * self._row_bytes
        block.after = self._stand(due=self._optimizers.state_bytes() <= STATE_SHARE * self._since_state)
        block.sealed = True

    def _stand(self, due: bool) -> Standing:
        """Buffers, settings and, if it is due, the optimizers' state, all of now."""
        model = self._model()
        if model is None:
            return Standing({}, self._optimizers.groups())
        names = set(self._plan.manifest["buffers"])
        buffers = {
            plain_name(name): buffer.detach().to("cpu", copy=True)
            for name, buffer in model.named_buffers()
            if plain_name(name) in names
        }
        state = self._optimizers.state(model) if due and self._plan.moments else []
        if state:
            self._since_state = 0.0
        return Standing(buffers, self._optimizers.groups(), state)

    def _look_at(self, model: nn.Module) -> None:
        """Name frozen parameters that are trained now; stop if a parameter that is recorded has left the model."""
        there = {id(p) for p in model.parameters()}
        for position, parameter in enumerate(self._parameters):
            if id(parameter) not in there:
                self._block.count = 0  # nobody knows since when
                name = self._plan.manifest["space"]["parameters"][position]["name"]
                raise RunError(f"parameter {name!r} was replaced by another object; call watch once that is done")
        frozen = set(self._plan.manifest["space"]["frozen"])
        for name, parameter in model.named_parameters():
            known = plain_name(name) not in frozen or plain_name(name) in self._unfrozen
            if not known and parameter.requires_grad and self._optimizers.hold(parameter):
                self._unfrozen.append(plain_name(name))
        if self._unfrozen:
            self._warn_once(
                "unfrozen",
                f"{self.folder}: {self._unfrozen[0]!r} ({len(self._unfrozen)} in all) was frozen when recording began "
                "and is trained now; it is not recorded, the others are. Begin with include_frozen=True",
            )

    def _wait(self) -> bool:
        """Hand over the sealed block within the training's share of waiting; else let later rows sum more steps."""
        if self._hand_over(self._pace.may_wait(self._writer.waited)):
            return True
        if self._pace.slow_down(self._block.first_row):
            self._warn_once(
                "slow",
                f"the disk under {self.folder} is slower than the training: rows sum {self._pace.every} steps and, "
                "if need be, more from here on. Updates still add up; every= chooses it beforehand",
            )
        return False

    def _hand_over(self, seconds: float | None) -> bool:
        """Give the sealed block to the writer and go on in another that begins at its last weights."""
        if not self._writer.reserve(seconds):
            return False
        full = self._block
        following = self._spare.pop() if self._spare else full.another()
        following.follow(full)
        self._block = following

        def done() -> None:
            full.restart()
            self._spare.append(full)

        self._writer.submit(full.content(self._plan.manifest["run"]), done)
        return True

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
            write_json(self.folder / CLOSED, self._summary() | {"reason": reason, "closed": now()})
        except Exception as found:
            error = error or found
        self._plan.lock.release()
        self._parameters, self._spare, self._block = [], [], Block(0, [], 0, torch.float32)
        if error is not None:
            kind = "" if isinstance(error, RunError) else f"{type(error).__name__}: "
            warn(
                f"thalweg stopped recording {self.folder} at step {self._step}: {kind}{error}. "
                f"Training goes on; {self._writer.rows} rows, up to step {self._writer.last_step}, are kept."
            )

    def _summary(self) -> dict[str, Any]:
        about: dict[str, Any] = {
            "rows": self._writer.rows,
            "last_step": self._writer.last_step,
            "steps_seen": self._seen,
            "seconds_waited": round(self._writer.waited, 3),
        }
        if self._pace.coarser:
            about["every_at_the_end"] = self._pace.every
        if self._unfrozen:
            about["trained_but_not_recorded"] = self._unfrozen
        return about

    def _write_rest(self, remainder: bool) -> None:
        if self._block.sealed:
            self._hand_over(None)
        if remainder and (self._pace.since or self._others):
            if not self._pace.since:  # what others than the last optimizer did makes a step of its own
                self._step += 1
                self._rates, self._later = self._optimizers.rates()
            self._record()
        if self._block.count:
            if not self._block.sealed:
                self._seal()
            self._hand_over(None)

    def _remove_hooks(self) -> None:
        for handle in [*self._first, *self._hooks]:
            handle.remove()

    def _warn_once(self, about: str, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            warn(f"thalweg: {message}.")
