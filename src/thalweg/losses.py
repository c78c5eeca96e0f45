"""Losses: in two parts, or computed by the model itself as HuggingFace's do, and what a batch then weighs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from thalweg.batches import sample_count
from thalweg.errors import InputError

Reduction = Literal["mean", "sum"]
"""Whether the loss of a batch is a mean or a sum over it."""


@dataclass(frozen=True)
class Loss:
    """A loss in two parts, which curvature of the model's output needs to see apart.

    Attributes:
        output: `(model, batch) -> tensor`, what the model predicts.
        criterion: `(output, batch) -> scalar`.
        weight: `batch -> number`, the batch's weight; its number of samples unless given.
        per_sample: `(output, batch) -> (samples,)`, the criterion of each sample alone. Gradients of single samples
            need it only where rows of the output cannot be told apart by sample.
    """

    output: Callable[[nn.Module, Any], Tensor]
    criterion: Callable[[Tensor, Any], Tensor]
    weight: Callable[[Any], float] | None = None
    per_sample: Callable[[Tensor, Any], Tensor] | None = None

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The batch's scalar loss."""
        return self.criterion(self.output(model, batch), batch)


def model_loss(model: nn.Module, batch: Any) -> Tensor:
    """The loss that a HuggingFace model computes by itself.

    Raises:
        InputError: if the model's output has none.
    """
    if not (isinstance(batch, Mapping) or hasattr(batch, "keys")):
        raise InputError(
            f"no loss was given and a batch is a {type(batch).__name__}; give Problem(model, loss, data) with "
            "loss(model, batch), or batches that are dictionaries for a model that computes its loss itself"
        )
    output = model(**batch)
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if type(output) is tuple and output and isinstance(output[0], Tensor) and output[0].ndim == 0:
        loss = output[0]  # return_dict=False
    if loss is None:
        raise InputError(
            f"{type(model).__name__} returned no loss; put 'labels' into the batch, or give loss(model, batch)"
        )
    assert isinstance(loss, Tensor)
    return loss


class LabelCount:
    """The weight of a batch for a model that computes its own loss.

    With whole numbers as labels, one for each sample or each token: the number of labels that are not -100 (for a
    causal language model without the first of each row, which nothing predicts). Otherwise the number of samples.
    """

    def __init__(self, model: nn.Module) -> None:
        base = getattr(model, "get_base_model", lambda: model)()
        name = type(base).__name__
        causal = getattr(base, "loss_type", None) == "ForCausalLM" or name.endswith(("ForCausalLM", "LMHeadModel"))
        self.causal = causal and not getattr(getattr(base, "config", None), "is_encoder_decoder", False)

    def __call__(self, batch: Any) -> float:
        """The batch's weight."""
        labels = _entry(batch, "labels")
        if not isinstance(labels, Tensor) or labels.ndim not in (1, 2) or labels.is_floating_point():
            return float(sample_count(batch))
        return float(self.items(batch))

    def items(self, batch: Any) -> Any:
        """The number of labels that are not -100, as a tensor of shape (); None for a batch without a tensor of labels.

        This is what a HuggingFace trainer calls `num_items_in_batch`.
        """
        labels, shifted = _entry(batch, "labels"), _entry(batch, "shift_labels")
        if not isinstance(labels, Tensor):
            return None
        if isinstance(shifted, Tensor):
            labels = shifted  # the collator has left out what nothing predicts
        elif self.causal and labels.ndim > 1:
            labels = labels[..., 1:]
        return labels.ne(-100).sum()


def _entry(batch: Any, name: str) -> Any:
    # what is no mapping is refused by `model_loss`, with a message of its own
    return batch[name] if hasattr(batch, "keys") and name in batch.keys() else None  # noqa: SIM118
