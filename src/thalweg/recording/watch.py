"""`watch`: one line in the user's script, and every update of the weights is recorded from there on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from thalweg.collectives import first_rank
from thalweg.errors import InputError, RunError
from thalweg.recording.forecast import Forecast, choose, rows_of_a_block
from thalweg.recording.keeping import FORMS, WIDTH, Keeping
from thalweg.recording.manifest import CLOSED, check_optimizers, describe, parse_bytes, prepare, space_of, write_json
from thalweg.recording.optimizers import unwrap
from thalweg.recording.recorder import Plan, Recorder
from thalweg.recording.resume import Left, goes_on, take_up
from thalweg.recording.shards import Shard, shard_of
from thalweg.recording.silent import SilentRecorder
from thalweg.runs import MANIFEST
from thalweg.space import unwrapped

__all__ = ["Recorder", "watch"]

BLOCK_ROWS = 256


def watch(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer] | None,
    folder: str | Path,
    every: int = 1,
    budget: int | str | None = None,
    *,
    keep: str | None = None,
    steps: int | None = None,
    sketch_width: int = WIDTH,
    flush_seconds: float = 5.0,
    segment_rows: int = BLOCK_ROWS,
    overwrite: bool = False,
    resume: bool = False,
    first_step: int | None = None,
    include_frozen: bool = False,
    moments: bool = True,
    every_rank: bool = False,
) -> Recorder:
    """Record every update of a model's weights from now on.

    ```python
    recorder = thalweg.watch(model, optimizer, "runs/a")
    ...                                  # the training loop, unchanged
    recorder.log(loss=loss.item())       # if wanted, after optimizer.step()
    recorder.close()                     # or `with watch(...):`, or by itself at exit
    ```

    Each row is `w' − w` over `every` optimizer steps, in float32 (float64 if all parameters are). A step that a
    gradient scaler skipped is none. Memory: at most `1 + 2` blocks of 32 MiB or of one row and its anchor, whichever
    is larger, and for each of them one copy of the optimizer's state. Training waits for the disk for at most a
    tenth of its time (and half a second); beyond, rows sum twice as many steps, with one warning.

    `print(recorder.forecast)` says what is kept, what that costs on disk and in memory, and what is lost. The logger
    "thalweg" says it too: as a warning where something is lost, else as information.

    Args:
        model: what is trained; a compiled model is unwrapped.
        optimizer: its optimizer; its `step()` makes the rows. With several, give them in the order in which they step:
            a step of the *last* one counts, and what the others did since then is in the same row. With None,
            `recorder.step()` makes the rows.
        folder: where the run is kept; made if it is not there. Of a model that `fully_shard` has split, each rank keeps
            its own rows in a part of its own there, without the optimizer's state; `thalweg merge` puts them together.
        every: optimizer steps that are summed into one row. What is left at the end becomes a last, shorter row.
        budget: bytes on disk, as a number or like `"2GiB"` or `"500MB"`. Once they are used up the recording stops
            with one warning and what was recorded is kept; it is not made coarser to go on.
        keep: "exact", every update bit for bit; "bfloat16", half the bytes, each entry to 0.4 %; "sketch", of each
            update `sketch_width` numbers for each layer that is larger, so that inner products are known to about
            `sqrt(2 / sketch_width)`, and bfloat16 sums over 64 rows; "auto", the most faithful that fits `budget` for
            `steps`, with a larger `every` at last. Without a word "auto" where both are given, and else "exact".
        steps: optimizer steps that the training will make, if that is known.
        sketch_width: d, for `keep="sketch"`.
        flush_seconds: after this long a block is written even if it is not full, so that a kill loses little.
        segment_rows: rows of one segment at the most.
        overwrite: remove the run that is in the folder, and nothing else, and begin anew.
        resume: go on with the run that is in the folder, if there is one; a new one otherwise. If the weights are not
            the ones that it stopped with, one step's number is left out: a gap.
        first_step: number of the first step to come; one more than the last recorded one unless said.
        include_frozen: record also what is frozen now, to be trained later.
        moments: keep the optimizer's state with the anchors, where it takes a tenth of the rows' bytes at the most.
        every_rank: record on every rank of a job, each into a folder of its own, since each trains a model of its own.
            Otherwise the first rank alone records, as the weights are the same on all, and the others' recorders do
            nothing.

    Raises:
        InputError: if an argument cannot be worked with, or the optimizer holds no trainable parameter of the model.
        RunError: if the folder holds a run, is being written to by another recorder, or cannot be written; or, with
            `resume`, if model or optimizer are not those of the run.
    """
    for name, value in (("every", every), ("segment_rows", segment_rows), ("sketch_width", sketch_width)):
        _check_count(name, value)
    if steps is not None:
        _check_count("steps", steps)
    limit = _check_arguments(flush_seconds, budget, overwrite, resume)
    optimizers = unwrap(optimizer)
    model = unwrapped(model)
    space = space_of(model, include_frozen)
    parameters = space.tensors(model)
    own: Shard | None = None
    if space.sharded(model):
        own = shard_of(space, parameters)
        space, parameters, moments = own.space, own.parameters, False
    check_optimizers(model, optimizers, parameters)
    dtype = torch.float64 if all(p.dtype == torch.float64 for p in parameters) else torch.float32
    rows = min(segment_rows, rows_of_a_block(space.size * dtype.itemsize))
    beside = 2 * sum(buffer.nbytes for buffer in model.buffers())
    forecast = Forecast(space, Keeping(), every, dtype.itemsize, rows, beside, moments, limit, steps)
    forecast = choose(forecast, keep, sketch_width)
    if own is not None:  # so that the errors of the parts' sketches are not alike
        forecast = forecast.kept(replace(forecast.keeping, seed=own.rank))
    least = int(forecast.least_bytes + forecast.keeping.row_bytes(space, dtype.itemsize))
    if limit is not None and limit < least:
        raise InputError(f"budget={budget!r} does not hold one row of {space.size:,} weights; give {least:,} or more")
    folder = Path(folder) if own is None else own.folder(folder)
    if not (every_rank or first_rank() or own is not None):
        return SilentRecorder(folder, forecast)
    lock = prepare(folder, overwrite, resume)
    try:
        every = forecast.every
        manifest = describe(model, optimizers, space, dtype, parameters)
        manifest |= {"every": every, "budget": limit, "keep": forecast.keeping.to_json()}
        manifest |= {} if own is None else {"part": own.to_json()}
        left = Left()
        if resume and goes_on(folder):
            manifest, left = take_up(folder, manifest, keep if keep in FORMS else None)
            forecast = replace(forecast.kept(Keeping.read(manifest)), every=manifest["every"])
        step = _first_step(first_step, left)
        write_json(folder / MANIFEST, manifest)
        (folder / CLOSED).unlink(missing_ok=True)
        plan = Plan(folder, manifest, lock, every, forecast.rows, flush_seconds, moments, step, forecast, left)
        recorder = Recorder(model, optimizers, parameters, plan)
    except BaseException as error:
        lock.release()
        if isinstance(error, OSError):
            raise RunError(f"{folder} cannot be written ({error}); choose another folder") from error
        raise
    logging.getLogger("thalweg").log(logging.WARNING if forecast.lost else logging.INFO, "%s: %s", folder, forecast)
    return recorder


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={value!r}: give a whole number of at least 1")


def _check_arguments(flush_seconds: float, budget: int | str | None, overwrite: bool, resume: bool) -> int | None:
    """The budget in bytes; an InputError if one of them cannot be worked with."""
    if not flush_seconds > 0:
        raise InputError(f"flush_seconds={flush_seconds!r}: give seconds greater than 0")
    if overwrite and resume:
        raise InputError("resume=True goes on with a run and overwrite=True removes it; give one of them")
    return None if budget is None else parse_bytes(budget)


def _first_step(first_step: int | None, left: Left) -> int:
    """Number of the first step; an InputError if a step of that number may be in the run already."""
    if first_step is None:
        return left.last_step + 1
    if isinstance(first_step, bool) or not isinstance(first_step, int) or first_step <= left.last_step:
        raise InputError(f"first_step={first_step!r}: give a whole number greater than {left.last_step}")
    return first_step
