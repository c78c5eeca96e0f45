"""What a HuggingFace `transformers.Trainer` trains, read off it: its model, samples of its data, its loss.

The trainer is only asked, never changed, and known by what it offers: transformers is not imported here.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from thalweg.errors import InputError
from thalweg.evaluation import preserved_randomness
from thalweg.losses import LabelCount
from thalweg.space import unwrapped

_NEEDED = ("model", "args", "data_collator", "compute_loss", "train_dataset", "eval_dataset")

Weight = Callable[[Any], float]


def trained_model(trainer: Any) -> nn.Module:
    """The trainer's model without the wrappers of torch.compile and of data parallelism.

    Raises:
        InputError: if this is no trainer, or it has no model.
    """
    missing = [name for name in _NEEDED if not hasattr(trainer, name)]
    if missing:
        raise InputError(
            f"from_trainer takes a transformers.Trainer, and a {type(trainer).__name__} has no {missing[0]!r}; "
            "without a trainer, give Problem(model, loss, data)"
        )
    if not isinstance(trainer.model, nn.Module):
        raise InputError(f"the trainer's model is a {type(trainer.model).__name__}, expected a torch module")
    return unwrapped(trainer.model)


def frozen_batches(trainer: Any, samples: int, seed: int | None, dataset: str, weight: Weight) -> list[Any]:
    """Samples of the trainer's data, collated once by its own collator without the columns that it removes.

    Collators and datasets that draw (masks, augmentation) do so from `seed`; the global generators, and a generator
    that the collator holds, are left where they were.

    Args:
        trainer: the trainer.
        samples: how many at the most.
        seed: which samples are drawn where there are more, and what is drawn meanwhile; None takes the first samples.
        dataset: "train", "eval", or the name of one of several evaluation sets.
        weight: batches of weight 0 are left out: the mean over no label is no number.

    Raises:
        InputError: for no data, another word, or a number that is none.
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise InputError(f"samples={samples!r}: give a whole number of at least 1")
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**32):
        raise InputError(f"seed={seed!r}: give a whole number from 0 to 2**32 - 1, or None for the first samples")
    source, size = _dataset(trainer, dataset), int(trainer.args.per_device_eval_batch_size)
    device = next((p.device for p in trained_model(trainer).parameters()), torch.device("cpu"))
    with preserved_randomness(device):
        _seed_all(seed or 0)
        source, collate = _prepared(trainer, source)
        batches = [collate(rows) for rows in _groups(source, samples, size, seed)]
    if not batches:
        raise InputError(f"the trainer's {dataset} set holds no sample")
    if any(hasattr(batch, "keys") and not list(batch.keys()) for batch in batches):
        raise InputError(
            "the trainer's removal of columns leaves nothing of a sample; name the columns as the model's forward "
            "does, or set remove_unused_columns=False in its TrainingArguments"
        )
    counted = [batch for batch in batches if weight(batch) > 0]
    if not counted:
        raise InputError(f"no label of the {dataset} samples counts (all are -100); there is nothing to measure")
    return counted


def trainer_loss(trainer: Any) -> Callable[[nn.Module, Any], Tensor] | None:
    """The trainer's loss where it has one of its own, else None: the model's.

    A `compute_loss` that a subclass overrides comes first, then `compute_loss_func`, then label smoothing. The first
    two are told the number of labels in the batch, as in training.
    """
    if getattr(trainer.compute_loss, "__module__", None) != "transformers.trainer":
        return _Overridden(trainer)
    if getattr(trainer, "compute_loss_func", None) is not None:
        return _Function(trainer)
    if getattr(trainer, "label_smoother", None) is not None:
        return _Smoothed(trainer)
    return None


class _Smoothed:
    """Label smoothing by the trainer, over the labels of the batch."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        return self.trainer.compute_loss(model, copy.copy(batch))  # it takes the labels out of what it is given


class _Function:
    """`compute_loss_func(outputs, labels, num_items_in_batch=)`, called as the trainer does."""

    def __init__(self, trainer: Any) -> None:
        self.function = trainer.compute_loss_func
        self.count = LabelCount(trained_model(trainer))

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        inputs = {key: batch[key] for key in batch.keys() if key != "labels"}  # noqa: SIM118 - dict-likes
        labels = batch["labels"] if "labels" in batch.keys() else None  # noqa: SIM118
        return self.function(model(**inputs), labels, num_items_in_batch=self.count.items(batch))


class _Overridden:
    """A subclass's `compute_loss`.

    With several processes it is not told the number of labels: what the trainer's own method makes of it is the loss
    times the number of processes.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.count = LabelCount(trained_model(trainer))
        known = inspect.signature(trainer.compute_loss).parameters.values()
        told = any(p.name == "num_items_in_batch" or p.kind is p.VAR_KEYWORD for p in known)
        parts = getattr(trainer.args, "world_size", 1), getattr(trainer.args, "n_gpu", 1)
        self.told = told and max(parts) <= 1

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        known = {"num_items_in_batch": self.count.items(batch)} if self.told else {}
        return self.trainer.compute_loss(model, copy.copy(batch), **known)


def _dataset(trainer: Any, name: str) -> Any:
    several = trainer.eval_dataset if isinstance(trainer.eval_dataset, Mapping) else {}
    if name not in ("train", "eval", *several):
        known = ", ".join(repr(known) for known in ("train", "eval", *several))
        raise InputError(f"dataset={name!r}: the trainer has {known}")
    if name == "eval" and several:
        raise InputError(f"the trainer has several evaluation sets; give one as dataset=, of {', '.join(several)}")
    found = trainer.train_dataset if name == "train" else several[name] if several else trainer.eval_dataset
    if found is None:
        raise InputError(f"the trainer has no {name}_dataset; give it one, or Problem(model, loss, data) the batches")
    return found


def _prepared(trainer: Any, source: Any) -> tuple[Any, Callable[[list[Any]], Any]]:
    """The data, and a copy of the collator, of which one leaves out the columns that the model does not take."""
    try:
        collate = copy.deepcopy(trainer.data_collator)
    except Exception:  # what cannot be copied is called itself, as the trainer would
        collate = trainer.data_collator
    if _indexed(source) and hasattr(source, "remove_columns") and hasattr(trainer, "_remove_unused_columns"):
        return trainer._remove_unused_columns(source), collate  # a datasets.Dataset leaves them unread
    if hasattr(trainer, "_get_collator_with_removed_columns"):
        collate = trainer._get_collator_with_removed_columns(collate)
    return source, collate


def _groups(source: Any, samples: int, size: int, seed: int | None) -> Iterator[list[Any]]:
    """The rows of each batch."""
    if not _indexed(source):
        rows = itertools.islice(iter(source), samples)
        while group := list(itertools.islice(rows, size)):
            yield group
        return
    count = len(source)
    chosen = list(range(min(samples, count)))
    if seed is not None and samples < count:
        chosen = sorted(np.random.default_rng(seed).choice(count, samples, replace=False).tolist())
    for start in range(0, len(chosen), size):
        yield [source[index] for index in chosen[start : start + size]]


def _indexed(source: Any) -> bool:
    both = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    return both and not isinstance(source, IterableDataset)


def _seed_all(seed: int) -> None:
    """Seed what a collator may draw from; to be called where all of it is put back."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
