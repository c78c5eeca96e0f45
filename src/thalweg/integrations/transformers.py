"""Recording under HuggingFace's Trainer: `Trainer(..., callbacks=[ThalwegCallback("runs/a")])`.

transformers is not imported before a callback is made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from thalweg.errors import warn
from thalweg.integrations.peft import note_lora
from thalweg.integrations.session import RecordingCallback


class ThalwegCallback(RecordingCallback):
    """Records every optimizer step of `trainer.train()`, and keeps what the trainer logs with the step before.

    It records on the world's first process only. Each `train()` is a run of its own: `runs/a`, then `runs/a-2`; with
    `resume=True` every one goes on in the same folder. A trainer tells its callbacks nothing of an exception: then what
    was recorded is written when the optimizer or the program ends, or the next training begins, or by
    `callback.recorder.close()`. Wrong arguments are refused here; what fails later is one warning, and training goes on
    unrecorded. Of a peft model the scalings of its LoRA pairs are kept too, for `peft.lora_delta_weights`.

    Args:
        folder: the run folder; where it holds a run, the next free name is taken.
        every: optimizer steps that are summed into one row.
        budget: bytes on disk, as `thalweg.watch` takes it.
        scalars: whether to keep what is logged.
        options: further arguments of `thalweg.watch`.

    Raises:
        MissingExtraError: if transformers is not installed.
        InputError: if `thalweg.watch` would not take an argument.
    """

    places = (("transformers.trainer_callback", "TrainerCallback"),)
    extra = "transformers"
    _began = 0

    # -- the trainer's events ------------------------------------------------------------------------------

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **more: Any
    ) -> None:
        """Begin: the trainer has prepared model and optimizer."""
        self._began = int(state.global_step)
        if not state.is_world_process_zero:
            return
        recorder = self._session.begin(model, [optimizer], state.max_steps - state.global_step)
        if recorder is not None:
            try:
                note_lora(model, recorder.folder)
            except Exception as error:
                warn(f"thalweg did not keep the scalings of the LoRA pairs ({error}); lora_delta_weights needs model=")

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Keep the numbers that the trainer logs."""
        if self._scalars and logs and state.global_step > self._began:
            numbers = {name: value for name, value in logs.items() if _is_number(value)}
            self._session.log(numbers)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """End the recording."""
        self._session.end()


def _is_number(value: Any) -> bool:
    try:
        return not math.isnan(float(value))
    except (TypeError, ValueError, RuntimeError):
        return False
