"""Fisher information, empirical Fisher and gradient covariance, by products.

Three matrices that are often taken for one another:

- the *Fisher* information of what the model predicts, `F = mean_n E_{y ~ p(y|x_n)} [∇log p ∇log pᵀ]`; its labels are
  the model's own. It equals the Gauss-Newton matrix of the negative log-likelihood (Martens 2020, JMLR 21(146));
- the *empirical Fisher* `E = mean_n g_n g_nᵀ` of the gradients that the data's own labels give. It is no estimate of F
  away from a perfect fit, and no approximation of the Hessian (Kunstner, Hennig and Balles 2019, arXiv 1905.12558);
- the *gradient covariance* `C = E - ḡ ḡᵀ`, the noise of stochastic gradients.

All are `sum_b J_bᵀ M_b J_b` on the graphs of `gauss_newton`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from thalweg.batches import sample_count, take
from thalweg.errors import InputError
from thalweg.operators.base import Operator
from thalweg.operators.gauss_newton import Curvature, OutputOperator, criterion_curvature, criterion_gradient
from thalweg.sums import times

Distribution = Literal["categorical", "gaussian"]


class FisherOperator(OutputOperator):
    """The Fisher information `F = sum_b c_b J_bᵀ F_b J_b` of the model's predictive distribution.

    F_b is the Fisher information of the outputs, in closed form: `diag(p) - p pᵀ` for each softmax, the identity for
    each Gaussian of unit variance; their mean over the batch, or their sum where the batch loss is a sum. No label is
    drawn and none is read: the expectation over labels is exact, and costs no more than one draw would.
    Positive semi-definite.
    """

    name = "fisher"


class EmpiricalFisherOperator(OutputOperator):
    """The empirical Fisher `E = sum_n p_n g_n g_nᵀ`, of gradients of single samples' losses at the data's own labels.

    p_n is the sample's share (1/N, unless weights say otherwise), and the losses are scaled so that
    `sum_n p_n loss_n` is the problem's loss. Positive semi-definite.
    """

    name = "empirical fisher"


class GradientCovarianceOperator(Operator):
    """The covariance `C = sum_n p_n g_n g_nᵀ - ḡ ḡᵀ` of gradients of single samples, `ḡ = sum_n p_n g_n`.

    Of one sample's gradient, drawn with probability p_n; the mean gradient of B draws has the covariance C / B. It is
    the data's own covariance (divided by N, not N - 1). Positive semi-definite.

    Args:
        moment: the empirical Fisher, whole or a block.
        gradient: ḡ in the same block, `(P,)`.
    """

    def __init__(self, moment: EmpiricalFisherOperator, gradient: Tensor) -> None:
        self.moment = moment
        self.shape = moment.shape
        self.ranks = moment.ranks
        self.device = moment.device
        self.dtype = moment.dtype
        self.space = moment.space
        self.gradient = gradient.to(dtype=self.dtype, device=self.device)

    def multiply(self, vectors: Tensor) -> Tensor:
        """Products with the rows of `(b, P)`."""
        return self.moment.multiply(vectors) - times(vectors, self.gradient).unsqueeze(1) * self.gradient

    def describe(self) -> dict[str, Any]:
        """As the empirical Fisher, and that it is centred."""
        return {**self.moment.describe(), "operator": "gradient covariance"}


# -- distributions -----------------------------------------------------------------------------------------------


def distribution_curvature(
    output: Tensor, distribution: Distribution, coefficient: float, mean: bool, axis: int = -1
) -> Curvature:
    """`coefficient * F_b` in closed form: the Fisher information of a batch's outputs.

    Args:
        output: logits, or the means of Gaussians.
        distribution: "categorical" for a softmax over `axis`, with one prediction for each place on the other axes;
            "gaussian" for unit variance and one prediction for each place on the first axis.
        coefficient: a factor.
        mean: over the predictions; otherwise their sum.
        axis: of the classes.

    Raises:
        InputError: for an unknown distribution, or an output that it cannot be read from.
    """
    if distribution not in get_args(Distribution):
        raise InputError(f"distribution={distribution!r} is unknown; choose 'categorical' or 'gaussian'")
    if output.ndim == 0 or (distribution == "categorical" and not -output.ndim <= axis < output.ndim):
        raise InputError(f"an output of shape {tuple(output.shape)} has no axis {axis}, expected (samples, ...)")
    if distribution == "gaussian":
        factor = coefficient / output.shape[0] if mean else coefficient
        return lambda moved: moved * factor
    classes = output.shape[axis]
    if output.ndim == 1 or classes < 2:
        raise InputError(
            f"an output of shape {tuple(output.shape)} holds no classes on axis {axis}; give two logits for a binary "
            "choice, or use problem.gauss_newton(), which equals the Fisher information for a log-likelihood"
        )
    p = torch.softmax(output.detach(), dim=axis)
    share = coefficient * classes / output.numel() if mean else coefficient
    return lambda moved: share * (p * moved - p * (p * moved).sum(dim=axis, keepdim=True))


def recognised(output: Tensor, criterion: Callable[[Tensor], Tensor], mean: bool, axis: int) -> Distribution:
    """The distribution whose negative log-likelihood the criterion is, by its curvature.

    The softmax's information has to come out as it is; the Gaussian's up to a factor, as squared errors come in
    several scales. It is read at random values of the output: confident predictions have too little curvature to tell.

    Args:
        output: whose shape and dtype are taken.
        criterion: of one batch's output.
        mean: whether the criterion is a mean over the batch.
        axis: of the classes.

    Raises:
        InputError: if it is neither.
    """
    generator = torch.Generator().manual_seed(0)
    there, moved = torch.randn((2, *output.shape), generator=generator, dtype=torch.float64).to(output)
    measured = criterion_curvature(there, criterion, 1.0)(moved).double()
    tolerance = 1e3 * torch.finfo(output.dtype).eps * float(measured.norm())
    if output.ndim > 1 and -output.ndim <= axis < output.ndim and output.shape[axis] > 1:
        softmax = distribution_curvature(there, "categorical", 1.0, mean, axis)(moved).double()
        if float((softmax - measured).norm()) <= tolerance:
            return "categorical"
    factor = float((measured * moved).sum() / moved.double().square().sum())
    if factor > 0 and float((factor * moved.double() - measured).norm()) <= tolerance:
        return "gaussian"
    raise InputError(
        "the criterion is neither the cross entropy of all predictions with classes on axis "
        f"{axis} nor a squared error, so the distribution has to be named: problem.fisher(distribution='categorical', "
        "axis=1), or 'gaussian'. If the criterion is a negative log-likelihood of another kind, or leaves some "
        "predictions out, problem.gauss_newton() is its Fisher information"
    )


# -- gradients of single samples -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampleLosses:
    """How the loss of a batch falls into losses of its samples: `loss = sum_n share_n loss_n`.

    Attributes:
        loss: `batch -> scalar`, of any batch, with its graph.
        weight: `batch -> number`; None counts samples.
        mean: whether a batch loss is a mean over the batch; otherwise a sum.
        output: `batch -> tensor`, where the loss is made of two parts.
        criterion: `(output, batch) -> scalar`, the second part.
        per_sample: `(output, batch) -> (samples,)`, the criterion of each sample, where the user gave it.
    """

    loss: Callable[[Any], Tensor]
    weight: Callable[[Any], float] | None
    mean: bool
    output: Callable[[Any], Tensor] | None = None
    criterion: Callable[[Tensor, Any], Tensor] | None = None
    per_sample: Callable[[Tensor, Any], Tensor] | None = None

    def way(self, batch: Any) -> str:
        """The cheapest way that fits this batch, in words for a result."""
        if self.per_sample is not None:
            return "per_sample"
        if self.output is not None and self.criterion is not None:
            with torch.no_grad():
                output = self.output(batch)
            if output.ndim > 0 and output.shape[0] == _count(batch):
                return "rows of the output"
        return "single samples"

    def evaluate(self, way: str, batch: Any, coefficient: float, mass: float, check: bool) -> tuple[Tensor, Curvature]:
        """An output and M there, so that `Jᵀ M J` is the batch's part of the empirical Fisher.

        Args:
            way: what `way` said of the first batch.
            batch: on the model's device.
            coefficient: the batch's share of the problem's loss.
            mass: the sum of all samples' shares; 1 for means.
            check: whether the way by rows is held against single samples.

        Raises:
            InputError: if the single losses do not add up to the batch's.
        """
        count = _count(batch)
        shares = self._shares(batch, count)
        if way == "rows of the output":
            return self._rows(batch, shares, coefficient * mass, check)
        losses = self._given(batch, count) if way == "per_sample" else self._single(batch, shares)
        with torch.no_grad():
            self._compare(losses.detach(), shares, self.loss(batch))
        factors = (coefficient * mass) * shares.to(losses)
        return losses, lambda moved: factors * moved

    def _shares(self, batch: Any, count: int) -> Tensor:
        """`share_n`, float64 `(samples,)`: of the batch's mean, or 1 each for a sum."""
        if not self.mean:
            return torch.ones(count, dtype=torch.float64)
        if self.weight is None:
            return torch.full((count,), 1.0 / count, dtype=torch.float64)
        weights = torch.tensor([float(self.weight(take(batch, [n], count))) for n in range(count)], dtype=torch.float64)
        return weights / max(float(weights.sum()), torch.finfo(torch.float64).tiny)

    def _given(self, batch: Any, count: int) -> Tensor:
        assert self.output is not None
        assert self.per_sample is not None
        losses = self.per_sample(self.output(batch), batch)
        if not isinstance(losses, Tensor) or tuple(losses.shape) != (count,):
            what = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise InputError(f"per_sample returned {what}, expected one loss for each sample: ({count},)")
        return losses

    def _single(self, batch: Any, shares: Tensor) -> Tensor:
        count = len(shares)
        losses = [self.loss(take(batch, [n], count)) if float(shares[n]) > 0 else None for n in range(count)]
        some = next((loss for loss in losses if loss is not None), None)
        if some is None:
            return self.loss(batch) * torch.zeros(count).to(shares.device)  # the whole batch weighs nothing
        return torch.stack([some.new_zeros(()) if loss is None else loss for loss in losses])

    def _rows(self, batch: Any, shares: Tensor, factor: float, check: bool) -> tuple[Tensor, Curvature]:
        """M is rank one for each row: `(1/share_n) r_n r_nᵀ`, with row r_n of the criterion's gradient."""
        assert self.output is not None
        assert self.criterion is not None
        criterion = self.criterion
        output = self.output(batch)
        here = output.detach().requires_grad_()
        gradient = criterion_gradient(here, lambda o: criterion(o, batch))
        if gradient is None:
            return output, torch.zeros_like
        if check:
            self._check_rows(batch, output.detach(), gradient, shares)
        inverse = torch.where(shares > 0, 1.0 / shares, 0.0).to(gradient)
        scale = (factor * inverse).view(-1, *[1] * (output.ndim - 1))
        axes = tuple(range(1, output.ndim))

        def curvature(moved: Tensor) -> Tensor:
            inner = moved * gradient
            return scale * gradient * (inner.sum(dim=axes, keepdim=True) if axes else inner)

        return output, curvature

    def _check_rows(self, batch: Any, output: Tensor, gradient: Tensor, shares: Tensor) -> None:
        """Hold some rows against the sample on its own: the output, and the gradient of its loss there."""
        assert self.output is not None
        assert self.criterion is not None
        criterion, count = self.criterion, len(shares)
        precision = max(1e-5, 1e3 * torch.finfo(output.dtype).eps)
        for n in sorted({0, count // 2, count - 1}):
            if float(shares[n]) == 0:
                continue
            single = take(batch, [n], count)
            with torch.no_grad():
                alone = self.output(single)
            if alone.shape[1:] == output.shape[1:] and alone.shape[0] == 1:
                expected = criterion_gradient(alone.detach().requires_grad_(), lambda o, s=single: criterion(o, s))  # type: ignore[misc]
                expected = torch.zeros_like(alone) if expected is None else float(shares[n]) * expected
                apart = (gradient[n : n + 1] - expected).norm(), (output[n : n + 1] - alone).norm()
                size = gradient.norm(dim=0).norm() / count**0.5, output.norm() / count**0.5
                if all(float(a) <= precision * float(s) for a, s in zip(apart, size, strict=True)):
                    continue
            raise InputError(_COUPLED.format(sample=n))

    def _compare(self, losses: Tensor, shares: Tensor, whole: Tensor) -> None:
        parts = losses.double() * shares.to(losses.device)
        precision = max(1e-5, 1e2 * torch.finfo(losses.dtype).eps)
        if abs(float(parts.sum() - whole)) > precision * float(parts.abs().sum()):
            raise InputError(
                f"the losses of single samples add up to {float(parts.sum()):.6g}, the batch's loss is "
                f"{float(whole):.6g}; {_REMEDY}"
            )


_REMEDY = (
    "gradients of single samples are known where a batch's loss is the weighted mean of its samples' losses (or their "
    "sum, with reduction='sum'). Give the weight that a sample has in it as weight=, or the losses themselves as "
    "tw.Loss(..., per_sample=lambda output, batch: losses of shape (samples,)); a loss that couples samples has none"
)

_COUPLED = "sample {sample} of the first batch gives another gradient alone than within the batch; " + _REMEDY


def _count(batch: Any) -> int:
    try:
        return sample_count(batch)
    except InputError as error:
        raise InputError(f"gradients of single samples need to tell a batch's samples apart: {error}") from error
