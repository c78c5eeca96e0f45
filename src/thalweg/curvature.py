"""The operators of a problem: which one is asked for, on which graphs, in which chunks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from thalweg.batches import sample_count
from thalweg.errors import InputError
from thalweg.losses import Loss, Reduction, model_loss
from thalweg.operators.base import Term
from thalweg.operators.chunking import choose_chunks
from thalweg.operators.differences import FiniteDifferenceHessian, HessianCheck, compared
from thalweg.operators.fisher import (
    Distribution,
    EmpiricalFisherOperator,
    FisherOperator,
    GradientCovarianceOperator,
    SampleLosses,
    distribution_curvature,
    recognised,
)
from thalweg.operators.fitting import fitted_chunks
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
from thalweg.operators.hessian import GradientGraphs, GradientKind, HessianOperator, gradient_graphs
from thalweg.shares import Share
from thalweg.space import LayerChoice, ParameterSpace
from thalweg.survey import Survey


class CurvatureOperators(ABC):
    """Makes the operators of a loss on data; `Problem` says what the loss and the data are.

    Attributes:
        model: the module that the loss is evaluated with.
        space: its trainable parameters.
        share: what this process works on of the data.
        reduction: whether the loss of a batch is a mean or a sum.
    """

    model: nn.Module
    space: ParameterSpace
    share: Share
    reduction: Reduction
    _loss: Callable[[nn.Module, Any], Tensor] | Loss
    _weight: Callable[[Any], float]

    # -- what there is to build on -------------------------------------------------------------------------

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the parameters are."""

    @property
    @abstractmethod
    def survey(self) -> Survey:
        """What each batch is and weighs."""

    @abstractmethod
    def gradient(self) -> Tensor:
        """The gradient `(P,)` of the weighted mean loss."""

    @abstractmethod
    def parameters(self) -> list[Tensor]:
        """The live trainable tensors, in the order of the space."""

    @abstractmethod
    def evaluating(self) -> AbstractContextManager[None]:
        """The state in which terms may be evaluated."""

    @abstractmethod
    def building(self) -> AbstractContextManager[None]:
        """The state in which the operators' graphs are built."""

    @abstractmethod
    def terms(self) -> Iterator[Term]:
        """The batches with their shares, in the frozen order."""

    @abstractmethod
    def chopped(self, size: int, pieces: int | None = None) -> CurvatureOperators | None:
        """The same samples in chunks of `size`, or the first `pieces` chunks of them; None where nothing can be cut."""

    @abstractmethod
    def sampled(self, count: int) -> CurvatureOperators | None:
        """The first samples of the first batch, at most `count`; None where samples cannot be told apart."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What was measured on."""

    @abstractmethod
    def _prepared(self, batch: Any, device: torch.device) -> Any:
        """The batch where the model is, and in its precision."""

    # -- operators -----------------------------------------------------------------------------------------

    def graphs(
        self,
        memory_budget: int | None = None,
        layers: LayerChoice | None = None,
        chunk: int | Literal["auto"] | None = "auto",
    ) -> GradientGraphs:
        """Gradient graphs that several operators can share; arguments as for `hessian`."""
        _check_chunk(chunk)
        losses, chunking = fitted_chunks(self, GradientKind(), chunk, layers, memory_budget)
        return gradient_graphs(losses, memory_budget, layers, chunking, self.share)

    @overload
    def hessian(
        self,
        layers: LayerChoice | None = None,
        memory_budget: int | None = None,
        chunk: int | Literal["auto"] | None = "auto",
        *,
        finite_differences: Literal[False] = False,
    ) -> HessianOperator: ...

    @overload
    def hessian(
        self,
        layers: LayerChoice | None = None,
        memory_budget: int | None = None,
        chunk: int | Literal["auto"] | None = "auto",
        *,
        finite_differences: Literal[True],
    ) -> FiniteDifferenceHessian: ...

    def hessian(
        self,
        layers: LayerChoice | None = None,
        memory_budget: int | None = None,
        chunk: int | Literal["auto"] | None = "auto",
        *,
        finite_differences: bool = False,
    ) -> HessianOperator | FiniteDifferenceHessian:
        """The Hessian at the present weights, or its block on some layers.

        Args:
            layers: a glob ("h.*"), several, or a function of the layer's name.
            memory_budget: bytes for kept gradient graphs; half of what is free unless given. With chunk="auto" no graph
                takes more than a quarter of what is given, so that one built anew for each product adds little.
            chunk: samples that go through the network at once. "auto" times a few sizes where products are slow enough
                for that to pay, and takes a size that fits where the batches as given do not fit the memory; None keeps
                the batches as given. Another size than the batches' is used only if loss and gradient come out the same
                to 1e-5; the operator's `describe()` says what was used and why.
            finite_differences: measure products by central differences of gradients, for a loss that torch cannot
                differentiate twice. A product costs two gradients, keeps no graphs (`memory_budget` is not used), and
                has an error of its own, which `describe()` states; "auto" keeps the batches as given. Nets with kinks
                (ReLU) need float64 weights and data for it, and are refused otherwise.

        Raises:
            NoSecondDerivativeError: if torch cannot differentiate an operation twice.
            InputError: if `layers` matches nothing, `chunk` is no size, a batch's graph does not fit the memory, or
                differences are more than 5 % off.
        """
        self.space.chosen(layers)
        if not finite_differences:
            return HessianOperator(self.graphs(memory_budget, layers, chunk), layers)
        _check_chunk(chunk)
        losses, chunking = choose_chunks(self, None if chunk == "auto" else chunk)
        return FiniteDifferenceHessian(losses, layers, chunking, share=self.share)

    def check_hessian(self, layers: LayerChoice | None = None, seed: int = 0) -> HessianCheck:
        """Hold one product of the Hessian against central differences of gradients.

        A custom `autograd.Function` whose backward treats what it saved as a constant makes every product silently
        wrong; nothing in its graph shows it, and this does. Costs some 20 gradients in float64, 40 in float32.

        Args:
            layers: a glob ("h.*"), several, or a function of the layer's name.
            seed: for the vector.

        Raises:
            NoSecondDerivativeError: if torch cannot differentiate an operation twice.
        """
        exact = self.hessian(layers, memory_budget=0, chunk=None)
        return compared(exact, FiniteDifferenceHessian(self, layers, refuse=False, share=self.share), seed)

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

    @property
    def loss_in_parts(self) -> bool:
        """Whether the loss is a `Loss`, so that output and criterion, and with them single samples, are known apart."""
        return isinstance(self._loss, Loss)

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
        kind = OutputKind(evaluate, f"problem.{name}()")
        losses, chunking = fitted_chunks(self, kind, chunk, layers, memory_budget)
        return KeptGraphs(losses, kind, memory_budget, layers, chunking, self.share)


def _check_chunk(chunk: int | str | None) -> None:
    if chunk not in ("auto", None) and (not isinstance(chunk, int) or chunk < 1):
        raise InputError(f"chunk={chunk!r}: give a number of samples, 'auto', or None for the batches as given")
