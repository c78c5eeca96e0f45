"""A problem: model, loss and data at given weights.

The loss is the weighted mean over batches, `L = sum_b w_b l_b / sum_b w_b` where the batch loss is itself a mean
(`reduction="mean"`), `L = sum_b l_b / sum_b w_b` where it is a sum. The weight of a batch is its number of samples
unless `weight=` says otherwise; a plain mean of batch means would belong to other data.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.batches import (
    Chunks,
    Half,
    divisible,
    fingerprint,
    leaves,
    map_batch,
    sample_count,
    take,
    to_device,
    widened,
)
from thalweg.collectives import ranks
from thalweg.curvature import CurvatureOperators
from thalweg.errors import InputError, NotDeterministicError
from thalweg.evaluation import evaluating, in_full_precision
from thalweg.losses import LabelCount, Loss, Reduction, model_loss
from thalweg.operators.base import Term, loss_and_gradient
from thalweg.shares import Share, all_of, changed_alike, counted, own_part
from thalweg.space import ParameterSpace, measure_depths, unwrapped
from thalweg.survey import Survey, changed, surveyed
from thalweg.trainer import frozen_batches, trained_model, trainer_loss


class Problem(CurvatureOperators):
    """Model, loss and data at the model's present weights: loss, gradient and operators.

    Under `torchrun` every rank makes the same calls, each works on its share of the batches, and all get the same
    numbers. Where all are given the same data, each takes every n-th batch; where they are given different data, each
    keeps its own.

    Args:
        model: any module; the user's own, worked on in evaluation mode and given back as it was. A model with 16-bit
            parameters is worked on as a float32 copy, as it is now; `describe()` says so.
        loss: `loss(model, batch) -> scalar`, or a `Loss`; None for a model whose output has `.loss`
            (HuggingFace), called as `model(**batch)`.
        data: any re-iterable of batches in a fixed order: a list, or a DataLoader with shuffle=False.
        reduction: "mean" if the loss of a batch is a mean over it, "sum" if a sum.
        weight: `batch -> number`; the number of samples unless given (for a HuggingFace model whose labels are whole
            numbers: the number of those that are not -100).
        allow_random: go on where two evaluations differ.

    Raises:
        InputError: for empty data, a loss that is no finite scalar or does not depend on the parameters.
        NotDeterministicError: if data or loss change from one evaluation to the next.

    Attributes:
        share: what this process works on of the data; all of it unless `torchrun` started several.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, Any], Tensor] | Loss | None = None,
        data: Iterable[Any] | None = None,
        *,
        reduction: Reduction = "mean",
        weight: Callable[[Any], float] | None = None,
        allow_random: bool = False,
    ) -> None:
        if data is None:
            raise InputError("no data was given; Problem(model, loss, data) takes any re-iterable of batches")
        if reduction not in ("mean", "sum"):
            raise InputError(f"reduction={reduction!r} is unknown; a batch loss is a 'mean' or a 'sum'")
        self.model, self.precision = in_full_precision(unwrapped(model))
        self.data = data
        self.reduction: Reduction = reduction
        self.allow_random = allow_random
        self._loss = loss if loss is not None else model_loss
        own_weight = loss.weight if isinstance(loss, Loss) else None
        default = sample_count if loss is not None else LabelCount(self.model)
        self._weight: Callable[[Any], float] = weight or own_weight or default
        self.space = ParameterSpace.of(self.model)
        if self.space.sharded(self.model):
            raise InputError(
                "fully_shard has split this model over ranks, so that no rank holds it whole; use "
                "tw.ShardedProblem(model, loss, data), whose products are differences of gradients"
            )
        self.share = Share(ranks())
        if not self.share.ranks.alone:
            self._share_out()
        self._first_look()

    @classmethod
    def from_trainer(
        cls,
        trainer: Any,
        samples: int = 2048,
        *,
        seed: int | None = 0,
        dataset: str = "train",
        weight: Callable[[Any], float] | None = None,
    ) -> Problem:
        """The problem that a HuggingFace `transformers.Trainer` works on, at its model's present weights.

        The loss is the model's own, or the trainer's where that overrides `compute_loss`, has a `compute_loss_func` or
        smooths labels; a batch weighs as many labels as count in it. What belongs to training alone stays out: dropout,
        autocast, accumulation. The trainer is left as it was.

        Args:
            trainer: the trainer; its data sets and collator are read, an overridden `get_train_dataloader` is not.
            samples: how many of its samples are taken at the most. They are collated once, by the trainer's collator in
                batches of its `per_device_eval_batch_size`, and kept.
            seed: which samples are drawn where the set holds more, and the masks or augmentation drawn meanwhile. None
                takes the first samples, as is always done with a set that can only be iterated over.
            dataset: "train" or "eval", or the name of one of several evaluation sets.
            weight: `batch -> number`; the number of labels that are not -100 unless given, or of samples where labels
                are no whole numbers.

        Raises:
            InputError: if this is no trainer, the set is not there or empty, or no label counts; and as for `Problem`.
            NotDeterministicError: as for `Problem`.
        """
        model = trained_model(trainer)
        count = weight or LabelCount(model)
        batches = frozen_batches(trainer, samples, seed, dataset, count)
        return cls(model, trainer_loss(trainer), batches, weight=count)

    # -- values --------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.parameters()[0].device

    def weights(self) -> Tensor:
        """The present weights `(P,)`, copied."""
        return self.space.vector(self.model)

    def loss(self) -> float:
        """The weighted mean loss at the present weights."""
        with self.evaluating(), torch.set_grad_enabled(self._differentiates):
            own = math.fsum(term.coefficient * float(term.loss().detach()) for term in self.terms())
        return self.share.ranks.add_up([self.share.part * own])[0]

    def gradient(self) -> Tensor:
        """The gradient `(P,)` of the weighted mean loss; zeros for parameters that the loss does not use."""
        own = self.space.flatten(dict(zip(self.space.names, loss_and_gradient(self).gradients, strict=True)))
        return self.share.together(own)

    def loss_along(self, direction: Tensor, distances: Sequence[float] | Tensor) -> Tensor:
        """The loss at `weights + distance * direction` for each distance.

        Args:
            direction: `(P,)`, used as it is, not normalised.
            distances: `(n,)`.

        Returns:
            float64 `(n,)`.
        """
        self.space.check(direction)
        start = self.weights()
        direction = direction.to(start)
        there = self.at(start)
        values = []
        for distance in distances:
            there.load_weights(start + float(distance) * direction)
            values.append(there.loss())
        return torch.tensor(values, dtype=torch.float64)

    # -- other problems ------------------------------------------------------------------------------------

    def at(self, weights: Tensor, buffers: Mapping[str, Tensor] | None = None) -> Problem:
        """The same problem at other weights, on a copy of the model; the user's own is untouched.

        Args:
            weights: `(P,)`.
            buffers: values for some of the model's buffers by name (batch-norm statistics, say).

        Raises:
            InputError: for a wrong length, or a buffer that the model does not have.
        """
        self.space.check(weights)
        try:
            model = copy.deepcopy(self.model)
        except Exception as error:
            raise InputError(
                f"{type(self.model).__name__} cannot be copied ({error}), so it cannot be put at other weights; "
                "do not keep tensors with a graph as attributes of the model"
            ) from error
        other = copy.copy(self)
        other.model = model
        other.load_weights(weights)
        own = dict(model.named_buffers())
        for name, value in (buffers or {}).items():
            if name not in own or own[name].shape != value.shape:
                raise InputError(f"the model has no buffer {name!r} of shape {tuple(value.shape)}")
            own[name].copy_(value)
        return other

    def load_weights(self, weights: Tensor) -> None:
        """Write weights `(P,)` into this problem's model. For copies made by `at`."""
        with torch.no_grad():
            for tensor, value in zip(self.parameters(), self.space.unflatten(weights).values(), strict=True):
                tensor.copy_(value)

    def on(self, data: Iterable[Any]) -> Problem:
        """The same model and loss on other data; on this rank's share of it, where there are several ranks."""
        other = self._with(data)
        if not self.share.ranks.alone:
            other.share = counted(other.survey, data, self.share.ranks)
        return other

    def split(self, seed: int = 0) -> tuple[Problem, Problem]:
        """Two halves of the data, drawn by samples within each batch; the same for the same seed.

        Raises:
            InputError: if there are fewer than two samples.
        """
        if self.describe()["samples"] < 2:
            raise InputError("the data holds one sample, which cannot be split in two halves")
        first, second = (changed_alike(self.data, partial(Half, seed=seed, part=part)) for part in (0, 1))
        return self.on(first), self.on(second)

    # -- what operators are built on -----------------------------------------------------------------------

    def parameters(self) -> list[Tensor]:
        """The live trainable tensors, in the order of the space."""
        return self.space.tensors(self.model)

    def evaluating(self) -> AbstractContextManager[None]:
        """The state in which terms may be evaluated."""
        return evaluating(self.model)

    def building(self) -> AbstractContextManager[None]:
        """The state in which the operators' graphs are built."""
        return evaluating(self.model, folded=True)

    def chopped(self, size: int, pieces: int | None = None) -> Problem | None:
        """The same samples in chunks of `size`, or the first `pieces` chunks of them; None where nothing can be cut."""
        first = next(iter(self.data), None)
        if self.allow_random or first is None or not divisible(first):
            return None
        chunks = Chunks(self.data, size)
        if pieces is None:
            return self._with(chunks)
        with self.evaluating():  # tensors made in a caller's inference mode could not be differentiated
            return self._with(list(itertools.islice(chunks, pieces)))

    def sampled(self, count: int) -> Problem | None:
        """The first samples of the first batch, at most `count`; None where samples cannot be told apart."""
        with self.evaluating():
            first, size = next(iter(self.data)), self.survey.samples[0]
            if size < 1 or not any(isinstance(leaf, Tensor) and leaf.ndim for leaf in leaves(first)):
                return None
            return self._with([take(first, list(range(min(count, size))), size)])

    def terms(self) -> Iterator[Term]:
        """The batches with their shares, in the frozen order.

        Raises:
            NotDeterministicError: if the data is not what it was when first read.
        """
        survey, device = self.survey, self.device
        total = math.fsum(survey.weights)
        count = 0
        for index, batch in enumerate(self.data):
            if not self.allow_random and (index >= len(survey.prints) or fingerprint(batch) != survey.prints[index]):
                raise NotDeterministicError(changed(index))
            weight = survey.weights[min(index, len(survey.weights) - 1)]
            share = weight / total if self.reduction == "mean" else 1.0 / total
            samples = survey.samples[min(index, len(survey.samples) - 1)]
            yield Term(index, samples, share, self._term(index, batch, device), batch)
            count += 1
        if count != len(survey.prints) and not self.allow_random:
            raise NotDeterministicError(changed(count))

    @cached_property
    def survey(self) -> Survey:
        """One pass over the data: what each batch is and weighs.

        Raises:
            InputError: if there is no batch, or a weight is not positive in total.
            NotDeterministicError: if the first batch is another one when read again.
        """
        with self.evaluating():
            return surveyed(self.data, self._weight, self.allow_random)

    def describe(self) -> dict[str, Any]:
        """What was measured on."""
        alone, share = self.share.ranks.alone, self.share
        return {
            "samples": sum(self.survey.samples) if alone else share.samples,
            "batches": len(self.survey.prints) if alone else share.batches,
            "weight": math.fsum(self.survey.weights) if alone else share.weight,
            "reduction": self.reduction,
            "mode": "evaluation",
            "parameters": self.space.size,
            "precision": self.precision or "as given",
            **({} if alone else {"ranks": share.ranks.size}),
        }

    # -- inside --------------------------------------------------------------------------------------------

    def by_itself(self, data: Iterable[Any]) -> Problem:
        """The same model and loss on data that this process alone works on, whatever the others do."""
        other = self._with(data)
        other.share = Share()
        return other

    def undivided(self) -> Problem:
        """The same on all the data, which this process alone goes through, whatever the others do.

        Raises:
            InputError: if each rank was given data of its own.
        """
        return self if self.share.ranks.alone else self.by_itself(all_of(self.data))

    def _with(self, data: Iterable[Any]) -> Problem:
        """The same on other data that this process alone goes through; it counts as what it stands for."""
        other = copy.copy(self)
        other.data = data
        other.__dict__.pop("survey", None)
        return other

    def _share_out(self) -> None:
        """Make sure that all ranks have the same weights, and take this rank's part of the data."""
        together = self.share.ranks
        together.agree(fingerprint([p.detach() for p in self.parameters()]), "the fingerprint of the weights")
        self.data = own_part(self.data, self.survey, together)
        del self.survey
        self.share = counted(self.survey, self.data, together)

    def _prepared(self, batch: Any, device: torch.device) -> Any:
        """The batch where the model is, and in its precision."""
        there = to_device(batch, device)
        return there if self.precision is None else map_batch(widened, there)

    def _term(self, index: int, batch: Any, device: torch.device) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            try:
                value = self._loss(self.model, self._prepared(batch, device))
            except RuntimeError as error:
                if self.precision is None or "type" not in str(error):
                    raise
                raise InputError(
                    f"the loss failed on a {self.precision} ({error}): something in it casts to a 16-bit dtype by "
                    "name; cast to the dtype of the weights instead (x.to(layer.weight.dtype))"
                ) from error
            if not isinstance(value, Tensor):
                raise InputError(f"the loss returned {type(value).__name__}, expected a tensor with one number")
            if value.numel() != 1:
                raise InputError(
                    f"the loss returned a tensor of shape {tuple(value.shape)}, expected one number; "
                    "reduce it with .mean() (or .sum() and reduction='sum')"
                )
            value = value.reshape(())
            if not bool(torch.isfinite(value)):
                raise InputError(
                    f"the loss of batch {index} is {value.item()}; look for bad values in that batch or in the weights"
                )
            return value

        return loss

    def _first_look(self) -> None:
        """Measure depths, and evaluate twice what should come out the same twice."""
        self._differentiates = False  # whether the loss itself takes derivatives of the model, as that of a PINN does
        try:
            first, second = self._first_values()
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            self._differentiates = True
            first, second = self._first_values()
        precision = torch.finfo(self.parameters()[0].dtype).eps
        if abs(first - second) > 100 * precision * max(abs(second), 1e-3) and not self.allow_random:
            raise NotDeterministicError(
                f"the same batch gave the loss {first!r} and then {second!r}: something random is active in "
                "evaluation mode. Dropout called as a function needs training=self.training; augmentation belongs "
                "before the data is frozen. To measure all the same: Problem(..., allow_random=True)"
            )
        with self.evaluating():
            loss = next(iter(self.terms())).loss()
            if not loss.requires_grad:
                raise InputError(
                    "the loss does not depend on the trainable parameters; does it detach, use no_grad or .item()?"
                )

    def _first_values(self) -> tuple[float, float]:
        first: list[float] = []
        with self.evaluating(), torch.set_grad_enabled(self._differentiates):
            self.space = measure_depths(self.model, self.space, lambda: first.append(self._first_term()))
            return first[0], self._first_term()

    def _first_term(self) -> float:
        for term in self.terms():
            return float(term.loss().detach())
        raise NotDeterministicError(
            "the data was empty when read again; an iterator can be read once, give a list or a DataLoader"
        )
