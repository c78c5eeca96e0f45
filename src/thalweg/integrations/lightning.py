"""Recording under Lightning: `Trainer(callbacks=[ThalwegCallback("runs/a")])`.

Works with `lightning.pytorch` and with `pytorch_lightning`; neither is imported before a callback is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thalweg.integrations.session import RecordingCallback, importable, rebuild


class ThalwegCallback(RecordingCallback):
    """Records every optimizer step of `trainer.fit`, with automatic and with manual optimization.

    Beside the steps it keeps what the module logs (`trainer.callback_metrics`), each value once, with the step before
    which it was computed, and the loss that `training_step` returned as `loss`. It records on rank zero only.

    Each `fit` is a run of its own, because Lightning makes new optimizers for it and the weights may have been changed
    in between: `runs/a`, then `runs/a-2`. With `resume=True` every `fit` goes on in the same folder. Wrong arguments
    are refused here; what fails later, such as a folder that cannot be written or a model that is split over processes,
    is one warning, and training goes on unrecorded.

    Args:
        folder: the run folder; where it holds a run, the next free name is taken.
        every: optimizer steps that are summed into one row.
        budget: bytes on disk, as `thalweg.watch` takes it.
        scalars: whether to keep what is logged.
        options: further arguments of `thalweg.watch`.

    Raises:
        MissingExtraError: if Lightning is not installed.
        InputError: if `thalweg.watch` would not take an argument.
    """

    places = (("pytorch_lightning", "Callback"), ("lightning.pytorch", "Callback"))
    extra = "lightning"

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._seen: dict[str, Tensor] = {}
        self._counted = 0  # optimizer steps that the trainer had made at the last batch

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (importable(type(self)), self.__dict__ | {"_seen": {}})

    # -- Lightning's hooks ---------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin: weights, optimizers and their state are as the training will find them."""
        self._counted = int(trainer.global_step)
        self._seen = {}
        if trainer.is_global_zero:
            self._session.begin(pl_module, trainer.optimizers, _steps_to_come(trainer))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep what was logged, if an optimizer made a step."""
        if trainer.global_step == self._counted:  # gradients are being accumulated
            return
        self._counted = int(trainer.global_step)
        self._log(trainer, _loss(trainer, pl_module, outputs))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep what validation logged."""
        self._log(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep what was logged over the epoch."""
        self._log(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep what was logged last, and end."""
        self._log(trainer)
        self._session.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End; what was recorded is kept."""
        self._session.end(exception)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End, however the fit ended."""
        self._session.end()

    def _log(self, trainer: Any, more: Mapping[str, Any] | None = None) -> None:
        """Keep the metrics that are new since the last call.

        Every rank asks for them, since asking may sum over ranks. Lightning keeps old ones among them and hands out
        the same numbers as another view each time, so a number is known by its storage.
        """
        if not self._scalars:
            return
        metrics = {**(more or {}), **trainer.callback_metrics}
        fresh = {name: value for name, value in metrics.items() if not _same(value, self._seen.get(name))}
        self._seen.update({name: value for name, value in fresh.items() if isinstance(value, Tensor)})
        recorder = self._session.recorder
        if recorder is not None and not recorder.closed and trainer.global_step:
            self._session.log(fresh)


def _loss(trainer: Any, pl_module: Any, outputs: Any) -> dict[str, Any]:
    """The loss that `training_step` returned; Lightning hands it on divided by the batches that are accumulated."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        return {}
    return {"loss": loss.detach() * (trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1)}


def _same(value: Any, before: Any) -> bool:
    both = isinstance(value, Tensor) and isinstance(before, Tensor)
    return both and value.data_ptr() == before.data_ptr() and value.numel() > 0


def _steps_to_come(trainer: Any) -> float | None:
    """Steps that the trainer will make; None where it does not know."""
    try:
        return float(trainer.estimated_stepping_batches) - float(trainer.global_step)
    except Exception:  # a loader without a length, say
        return None
