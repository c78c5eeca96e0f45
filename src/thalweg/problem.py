"""A problem: model, loss and data at given weights.

The loss is the weighted mean over batches, `L = sum_b w_b l_b / sum_b w_b` where the batch loss is itself a mean
(`reduction="mean"`), `L = sum_b l_b / sum_b w_b` where it is a sum. The weight of a batch is its number of samples
unless `weight=` says otherwise; a plain mean of batch means would belong to other data.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thalweg.batches import Half, fingerprint, sample_count, to_device
from thalweg.errors import InputError, NotDeterministicError
from thalweg.evaluation import evaluating
from thalweg.model_loss import LabelCount, model_loss
from thalweg.operators.base import Term
from thalweg.operators.hessian import GradientGraphs, HessianOperator
from thalweg.space import LayerChoice, ParameterSpace, measure_depths, unwrapped

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class Loss:
    """A loss in two parts, which curvature of the model's output needs to see apart.

    Attributes:
        output: `(model, batch) -> tensor`, what the model predicts.
        criterion: `(output, batch) -> scalar`.
        weight: `batch -> number`, the batch's weight; its number of samples unless given.
    """

    output: Callable[[nn.Module, Any], Tensor]
    criterion: Callable[[Tensor, Any], Tensor]
    weight: Callable[[Any], float] | None = None

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The batch's scalar loss."""
        return self.criterion(self.output(model, batch), batch)


@dataclass(frozen=True)
class Task:
    """A user's model, loss and data, for the command line and for trials.

    Attributes:
        model: the network.
        loss: as `Problem` takes it; None for a HuggingFace model.
        train: batches to measure on, in a fixed order.
        held_out: batches that training never saw, or None.
        optimizer: makes the optimizer from the model.
        evaluate: `model -> dict of numbers`, the user's own measures.
        reduction: whether a batch loss is a mean or a sum.
        weight: `batch -> number`.
    """

    model: nn.Module
    loss: Any
    train: Iterable[Any]
    held_out: Iterable[Any] | None = None
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None
    reduction: Reduction = "mean"
    weight: Callable[[Any], float] | None = None

    def problem(self, held_out: bool = False) -> Problem:
        """The problem on the training data, or on the held-out data.

        Raises:
            InputError: if held-out data is asked for and there is none.
        """
        data = self.held_out if held_out else self.train
        if data is None:
            raise InputError("this task has no held-out data; give Task(..., held_out=batches)")
        return Problem(self.model, self.loss, data, reduction=self.reduction, weight=self.weight)


@dataclass(frozen=True)
class Survey:
    """What one pass over the data found: a fingerprint, weight and number of samples for each batch."""

    prints: tuple[int, ...]
    weights: tuple[float, ...]
    samples: tuple[int, ...]


class Problem:
    """Model, loss and data at the model's present weights: loss, gradient and operators.

    Args:
        model: any module; the user's own, worked on in evaluation mode and given back as it was.
        loss: `loss(model, batch) -> scalar`, or a `Loss`; None for a model whose output has `.loss`
            (HuggingFace), called as `model(**batch)`.
        data: any re-iterable of batches in a fixed order: a list, or a DataLoader with shuffle=False.
        reduction: "mean" if the loss of a batch is a mean over it, "sum" if a sum.
        weight: `batch -> number`; the number of samples unless given (for a HuggingFace model with one label for
            each token: the number of labels that count).
        allow_random: go on where two evaluations differ.

    Raises:
        InputError: for empty data, a loss that is no finite scalar or does not depend on the parameters.
        NotDeterministicError: if data or loss change from one evaluation to the next.
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
        self.model = unwrapped(model)
        self.data = data
        self.reduction: Reduction = reduction
        self.allow_random = allow_random
        self._loss = loss if loss is not None else model_loss
        own_weight = loss.weight if isinstance(loss, Loss) else None
        default = sample_count if loss is not None else LabelCount(self.model)
        self._weight: Callable[[Any], float] = weight or own_weight or default
        self.space = ParameterSpace.of(self.model)
        self._first_look()

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
        with self.evaluating(), torch.no_grad():
            return math.fsum(term.coefficient * float(term.loss()) for term in self.terms())

    def gradient(self) -> Tensor:
        """The gradient `(P,)` of the weighted mean loss; zeros for parameters that the loss does not use."""
        parameters = self.parameters()
        total = [torch.zeros_like(p) for p in parameters]
        with self.evaluating():
            for term in self.terms():
                pieces = torch.autograd.grad(term.loss(), parameters, allow_unused=True)
                for sums, piece in zip(total, pieces, strict=True):
                    if piece is not None:
                        sums.detach().add_(piece, alpha=term.coefficient)
        return self.space.flatten(dict(zip(self.space.names, total, strict=True)))

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
        """The same model and loss on other data."""
        other = copy.copy(self)
        other.data = data
        other.__dict__.pop("survey", None)
        return other

    def split(self, seed: int = 0) -> tuple[Problem, Problem]:
        """Two halves of the data, drawn by samples within each batch; the same for the same seed.

        Raises:
            InputError: if there are fewer than two samples.
        """
        if sum(self.survey.samples) < 2:
            raise InputError("the data holds one sample, which cannot be split in two halves")
        return self.on(Half(self.data, seed, 0)), self.on(Half(self.data, seed, 1))

    # -- operators -----------------------------------------------------------------------------------------

    def graphs(self, memory_budget: int | None = None) -> GradientGraphs:
        """Gradient graphs that several operators can share."""
        return GradientGraphs(self, memory_budget)

    def hessian(self, layers: LayerChoice | None = None, memory_budget: int | None = None) -> HessianOperator:
        """The Hessian at the present weights, or its block on some layers.

        Args:
            layers: a glob ("h.*"), several, or a function of the layer's name.
            memory_budget: bytes for kept gradient graphs; half of what is free unless given.
        """
        self.space.chosen(layers)
        return HessianOperator(self.graphs(memory_budget), layers)

    # -- what operators are built on -----------------------------------------------------------------------

    def parameters(self) -> list[Tensor]:
        """The live trainable tensors, in the order of the space."""
        return self.space.tensors(self.model)

    def evaluating(self) -> AbstractContextManager[None]:
        """The state in which terms may be evaluated."""
        return evaluating(self.model)

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
                raise NotDeterministicError(_shuffled(index))
            weight = survey.weights[min(index, len(survey.weights) - 1)]
            share = weight / total if self.reduction == "mean" else 1.0 / total
            yield Term(
                index, survey.samples[min(index, len(survey.samples) - 1)], share, self._term(index, batch, device)
            )
            count += 1
        if count != len(survey.prints) and not self.allow_random:
            raise NotDeterministicError(_shuffled(count))

    @cached_property
    def survey(self) -> Survey:
        """One pass over the data: what each batch is and weighs.

        Raises:
            InputError: if there is no batch, or a weight is not positive in total.
            NotDeterministicError: if the first batch is another one when read again.
        """
        prints, weights, samples = [], [], []
        with self.evaluating():
            for index, batch in enumerate(self.data):
                prints.append(fingerprint(batch))
                weight = float(self._weight(batch))
                if not math.isfinite(weight) or weight < 0:
                    raise InputError(f"the weight of batch {index} is {weight}; weights are finite and not negative")
                weights.append(weight)
                samples.append(_samples_or_one(batch))
            again = next(iter(self.data), None)  # in the same context: a shuffling loader draws a new order here
        if not prints:
            raise InputError("the data holds no batch; give a list or a DataLoader that yields at least one")
        if math.fsum(weights) <= 0:
            raise InputError("the weights of all batches are zero; nothing would be measured")
        if not self.allow_random and (again is None or fingerprint(again) != prints[0]):
            raise NotDeterministicError(_shuffled(0))
        return Survey(tuple(prints), tuple(weights), tuple(samples))

    def describe(self) -> dict[str, Any]:
        """What was measured on."""
        return {
            "samples": sum(self.survey.samples),
            "batches": len(self.survey.prints),
            "weight": math.fsum(self.survey.weights),
            "reduction": self.reduction,
            "mode": "evaluation",
            "parameters": self.space.size,
        }

    # -- inside --------------------------------------------------------------------------------------------

    def _term(self, index: int, batch: Any, device: torch.device) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            value = self._loss(self.model, to_device(batch, device))
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
        with self.evaluating(), torch.no_grad():
            first: list[float] = []
            self.space = measure_depths(self.model, self.space, lambda: first.append(self._first_term()))
            second = self._first_term()
        precision = torch.finfo(self.parameters()[0].dtype).eps
        if abs(first[0] - second) > 100 * precision * max(abs(second), 1e-3) and not self.allow_random:
            raise NotDeterministicError(
                f"the same batch gave the loss {first[0]!r} and then {second!r}: something random is active in "
                "evaluation mode. Dropout called as a function needs training=self.training; augmentation belongs "
                "before the data is frozen. To measure all the same: Problem(..., allow_random=True)"
            )
        with self.evaluating():
            loss = next(iter(self.terms())).loss()
            if not loss.requires_grad:
                raise InputError(
                    "the loss does not depend on the trainable parameters; does it detach, use no_grad or .item()?"
                )

    def _first_term(self) -> float:
        for term in self.terms():
            return float(term.loss())
        raise NotDeterministicError(
            "the data was empty when read again; an iterator can be read once, give a list or a DataLoader"
        )


def _samples_or_one(batch: Any) -> int:
    try:
        return sample_count(batch)
    except InputError:
        return 1


def _shuffled(index: int) -> str:
    return (
        f"batch {index} is not what it was when the data was first read, so every product would belong to another "
        "loss. Use a DataLoader with shuffle=False, or freeze the batches once with list(loader); an iterator can "
        "be read only once. To measure all the same: Problem(..., allow_random=True)"
    )
