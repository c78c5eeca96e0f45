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
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thalweg.batches import Chunks, Half, divisible, fingerprint, map_batch, sample_count, to_device, widened
from thalweg.errors import InputError, NotDeterministicError
from thalweg.evaluation import evaluating, in_full_precision
from thalweg.losses import LabelCount, Loss, Reduction, model_loss
from thalweg.operators.base import Term, loss_and_gradient
from thalweg.operators.chunking import choose_chunks
from thalweg.operators.fisher import (
    Distribution,
    EmpiricalFisherOperator,
    FisherOperator,
    GradientCovarianceOperator,
    SampleLosses,
    distribution_curvature,
    recognised,
)
from thalweg.operators.gauss_newton import (
    Curvature,
    Evaluate,
    GaussNewtonOperator,
    OutputGraphs,
    OutputKind,
    checked_output,
    criterion_curvature,
)
from thalweg.operators.graphs import KeptGraphs
from thalweg.operators.hessian import GradientGraphs, HessianOperator, gradient_graphs
from thalweg.space import LayerChoice, ParameterSpace, measure_depths, unwrapped


@dataclass(frozen=True)
class Survey:
    """What one pass over the data found: a fingerprint, weight and number of samples for each batch."""

    prints: tuple[int, ...]
    weights: tuple[float, ...]
    samples: tuple[int, ...]


class Problem:
    """Model, loss and data at the model's present weights: loss, gradient and operators.

    Args:
        model: any module; the user's own, worked on in evaluation mode and given back as it was. A model with 16-bit
            parameters is worked on as a float32 copy, as it is now; `describe()` says so.
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
        self.model, self.precision = in_full_precision(unwrapped(model))
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
        return self.space.flatten(dict(zip(self.space.names, loss_and_gradient(self).gradients, strict=True)))

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

    def graphs(
        self,
        memory_budget: int | None = None,
        layers: LayerChoice | None = None,
        chunk: int | Literal["auto"] | None = "auto",
    ) -> GradientGraphs:
        """Gradient graphs that several operators can share; arguments as for `hessian`."""
        _check_chunk(chunk)
        losses, chunking = choose_chunks(self, chunk)
        return gradient_graphs(losses, memory_budget, layers, chunking)

    def hessian(
        self,
        layers: LayerChoice | None = None,
        memory_budget: int | None = None,
        chunk: int | Literal["auto"] | None = "auto",
    ) -> HessianOperator:
        """The Hessian at the present weights, or its block on some layers.

        Args:
            layers: a glob ("h.*"), several, or a function of the layer's name.
            memory_budget: bytes for kept gradient graphs; half of what is free unless given.
            chunk: samples that go through the network at once. "auto" times a few sizes where products are slow enough
                for that to pay, None keeps the batches as given. Another size than the batches' is used only if loss
                and gradient come out the same to 1e-5; the operator's `describe()` says what was used and why.

        Raises:
            InputError: if `layers` matches nothing, or `chunk` is no size.
        """
        self.space.chosen(layers)
        return HessianOperator(self.graphs(memory_budget, layers, chunk), layers)

    def gauss_newton(
        self,
        layers: LayerChoice | None = None,
        memory_budget: int | None = None,
        chunk: int | Literal["auto"] | None = "auto",
    ) -> GaussNewtonOperator:
        """The generalised Gauss-Newton matrix `sum_b c_b J_bᵀ (∇² criterion_b) J_b`, or its block on some layers.

        Exact for any criterion with a second derivative. The Hessian without the curvature of the model itself.

        Args:
            layers: a glob ("h.*"), several, or a function of the layer's name.
            memory_budget: bytes for kept graphs; half of what is free unless given.
            chunk: as for `hessian`.

        Raises:
            InputError: if the problem's loss is no `tw.Loss`, its output no tensor, or `layers` matches nothing.
        """
        parts = self._parts("problem.gauss_newton()")

        def evaluate(term: Term) -> tuple[Tensor, Curvature]:
            batch = self._prepared(term.batch, self.device)
            output = checked_output(parts.output(self.model, batch))
            criterion = lambda here: parts.criterion(here, batch)  # noqa: E731
            return output, criterion_curvature(output, criterion, term.coefficient, self.parameters())

        return GaussNewtonOperator(self._output_graphs(evaluate, layers, memory_budget, chunk, "gauss_newton"))

    def fisher(
        self,
        layers: LayerChoice | None = None,
        memory_budget: int | None = None,
        chunk: int | Literal["auto"] | None = "auto",
        *,
        distribution: Distribution | None = None,
        axis: int = -1,
    ) -> FisherOperator:
        """The Fisher information of the model's predictive distribution, or its block on some layers.

        `sum_b c_b J_bᵀ F_b J_b` with F_b in closed form: the expectation over the model's own labels is exact (Martens
        2020, JMLR 21(146)). It equals the Gauss-Newton matrix if the criterion is the distribution's negative
        log-likelihood; for `mse_loss` on C outputs, which is 2/C of it, `gauss_newton` is 2/C of this.

        Args:
            layers: a glob ("h.*"), several, or a function of the layer's name.
            memory_budget: bytes for kept graphs; half of what is free unless given.
            chunk: as for `hessian`.
            distribution: "categorical" (a softmax over `axis`; the mean is over all other axes) or "gaussian" (unit
                variance; the mean is over the first axis). Unless given it is read off the criterion's curvature.
            axis: of the classes.

        Raises:
            InputError: if the problem's loss is no `tw.Loss`, or the distribution is unknown or cannot be told.
        """
        parts, mean = self._parts("problem.fisher()"), self.reduction == "mean"
        found: dict[str, None] = {}

        def evaluate(term: Term) -> tuple[Tensor, Curvature]:
            batch = self._prepared(term.batch, self.device)
            output = checked_output(parts.output(self.model, batch))
            # for each batch: a mask that the criterion knows of may leave the first one whole
            named = distribution or recognised(output, lambda here: parts.criterion(here, batch), mean, axis)
            found.setdefault(named)
            return output, distribution_curvature(output, named, term.coefficient, mean, axis)

        graphs = self._output_graphs(evaluate, layers, memory_budget, chunk, "fisher")
        source = "criterion" if distribution is None else "user"
        return FisherOperator(graphs, distribution=", ".join(found), distribution_from=source)

    def empirical_fisher(
        self,
        layers: LayerChoice | None = None,
        memory_budget: int | None = None,
        chunk: int | Literal["auto"] | None = "auto",
    ) -> EmpiricalFisherOperator:
        """The empirical Fisher `sum_n p_n g_n g_nᵀ` of gradients of single samples, or its block on some layers.

        With a `tw.Loss` whose output has a row for each sample, a product costs as much as one of the Gauss-Newton
        matrix. With any other loss each sample goes through the model alone: exact, and slow. `describe()` says which.

        Args:
            layers: a glob ("h.*"), several, or a function of the layer's name.
            memory_budget: bytes for kept graphs; half of what is free unless given.
            chunk: as for `hessian`.

        Raises:
            InputError: if samples cannot be told apart, or their losses do not add up to the batch's.
        """
        return self._empirical_fisher(layers, memory_budget, chunk, "empirical_fisher")

    def _empirical_fisher(
        self, layers: LayerChoice | None, memory_budget: int | None, chunk: int | Literal["auto"] | None, name: str
    ) -> EmpiricalFisherOperator:
        parts = self._loss if isinstance(self._loss, Loss) else None
        samples = SampleLosses(
            lambda batch: self._loss(self.model, batch).reshape(()),
            None if self._weight is sample_count else self._weight,
            self.reduction == "mean",
            None if parts is None else lambda batch: checked_output(parts.output(self.model, batch)),
            None if parts is None else parts.criterion,
            None if parts is None else parts.per_sample,
        )
        survey = self.survey
        mass = 1.0 if self.reduction == "mean" else sum(survey.samples) / math.fsum(survey.weights)
        with self.evaluating():
            way = samples.way(self._prepared(next(iter(self.terms())).batch, self.device))

        def evaluate(term: Term) -> tuple[Tensor, Curvature]:
            batch = self._prepared(term.batch, self.device)
            return samples.evaluate(way, batch, term.coefficient, mass, check=term.index == 0)

        graphs = self._output_graphs(evaluate, layers, memory_budget, chunk, name)
        return EmpiricalFisherOperator(graphs, sample_gradients=way)

    def gradient_covariance(
        self,
        layers: LayerChoice | None = None,
        memory_budget: int | None = None,
        chunk: int | Literal["auto"] | None = "auto",
    ) -> GradientCovarianceOperator:
        """The covariance `sum_n p_n g_n g_nᵀ - ḡ ḡᵀ` of gradients of single samples, or its block on some layers.

        The mean gradient of B samples drawn with replacement has this covariance divided by B.

        Args:
            layers: a glob ("h.*"), several, or a function of the layer's name.
            memory_budget: bytes for kept graphs; half of what is free unless given.
            chunk: as for `hessian`.

        Raises:
            InputError: as for `empirical_fisher`.
        """
        moment = self._empirical_fisher(layers, memory_budget, chunk, "gradient_covariance")
        gradient = self.gradient()
        return GradientCovarianceOperator(moment, gradient[self.space.positions(moment.space).to(gradient.device)])

    def _parts(self, asked: str) -> Loss:
        """The loss in two parts, or a word on what is missing."""
        if isinstance(self._loss, Loss):
            return self._loss
        own = self._loss is model_loss
        output = "model(**batch).logits" if own else "model(batch[0])"
        label = "batch['labels']" if own else "batch[1]"
        raise InputError(
            f"{asked} needs the model's output and the criterion apart, and "
            + ("the model computes its own loss" if own else "the loss is one function")
            + f"; give Problem(model, tw.Loss(output=lambda model, batch: {output}, "
            f"criterion=lambda output, batch: cross_entropy(output, {label})), data)"
        )

    def _output_graphs(
        self,
        evaluate: Evaluate,
        layers: LayerChoice | None,
        memory_budget: int | None,
        chunk: int | Literal["auto"] | None,
        name: str,
    ) -> OutputGraphs:
        self.space.chosen(layers)
        _check_chunk(chunk)
        losses, chunking = choose_chunks(self, chunk)
        return KeptGraphs(losses, OutputKind(evaluate, f"problem.{name}()"), memory_budget, layers, chunking)

    # -- what operators are built on -----------------------------------------------------------------------

    def parameters(self) -> list[Tensor]:
        """The live trainable tensors, in the order of the space."""
        return self.space.tensors(self.model)

    def evaluating(self) -> AbstractContextManager[None]:
        """The state in which terms may be evaluated."""
        return evaluating(self.model)

    def chopped(self, size: int, pieces: int | None = None) -> Problem | None:
        """The same samples in chunks of `size`, or the first `pieces` chunks of them; None where nothing can be cut."""
        first = next(iter(self.data), None)
        if self.allow_random or first is None or not divisible(first):
            return None
        chunks = Chunks(self.data, size)
        if pieces is None:
            return self.on(chunks)
        with self.evaluating():  # tensors made in a caller's inference mode could not be differentiated
            return self.on(list(itertools.islice(chunks, pieces)))

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
            samples = survey.samples[min(index, len(survey.samples) - 1)]
            yield Term(index, samples, share, self._term(index, batch, device), batch)
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
            "precision": self.precision or "as given",
        }

    # -- inside --------------------------------------------------------------------------------------------

    def _prepared(self, batch: Any, device: torch.device) -> Any:
        """The batch where the model is, and in its precision."""
        there = to_device(batch, device)
        return there if self.precision is None else map_batch(widened, there)

    def _term(self, index: int, batch: Any, device: torch.device) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            value = self._loss(self.model, self._prepared(batch, device))
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


def _check_chunk(chunk: int | str | None) -> None:
    if chunk not in ("auto", None) and (not isinstance(chunk, int) or chunk < 1):
        raise InputError(f"chunk={chunk!r}: give a number of samples, 'auto', or None for the batches as given")


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
