"""Symmetric linear maps on parameter space, and what they need of a loss.

An operator never forms its matrix: it only multiplies. `H @ v` takes `(P,)` or `(P, b)`; `to_scipy()` hands it to
`scipy.sparse.linalg`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from thalweg.collectives import ALONE, Layout, Ranks
from thalweg.errors import InputError
from thalweg.space import ParameterSpace

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


@dataclass(frozen=True)
class Term:
    """One batch of a loss: the total is the sum of `coefficient * loss()`.

    Attributes:
        index: position of the batch in the data.
        samples: how many samples it holds.
        coefficient: its share, so that the total is a weighted mean.
        loss: computes the batch's scalar loss with its graph.
        batch: the batch itself, for operators that need more of it than its loss.
    """

    index: int
    samples: int
    coefficient: float
    loss: Callable[[], Tensor]
    batch: Any = None


class BatchLosses(Protocol):
    """The small part of a problem that operators are built on."""

    space: ParameterSpace

    def parameters(self) -> list[Tensor]:
        """The live trainable tensors, in the order of the space."""
        ...

    def evaluating(self) -> AbstractContextManager[None]:
        """The state in which terms may be evaluated."""
        ...

    def building(self) -> AbstractContextManager[None]:
        """The same, where graphs are built that are gone through often: whatever makes those cheaper is in place."""
        ...

    def terms(self) -> Iterator[Term]:
        """The batches, in their frozen order; to be read inside `evaluating()`."""
        ...

    def describe(self) -> dict[str, Any]:
        """What was measured on: samples, batches, mode; plain JSON values."""
        ...


def all_finite(tensor: Tensor) -> bool:
    """Whether every entry is finite; one reduction where they are, which is far cheaper than looking at each."""
    return math.isfinite(float(torch.linalg.vector_norm(tensor))) or bool(torch.isfinite(tensor).all())


@dataclass(frozen=True, eq=False)
class LossAndGradient:
    """The weighted mean loss and its gradient.

    Attributes:
        loss: the loss.
        gradients: one tensor for each parameter, zeros where the loss does not use it.
        scale: sum over the batches of the length of what each adds; the gradient's rounding is judged against it, since
            the sum itself may all but cancel.
    """

    loss: float
    gradients: list[Tensor]
    scale: float


def loss_and_gradient(losses: BatchLosses) -> LossAndGradient:
    """One pass over all batches."""
    parameters = losses.parameters()
    values, scale = [], 0.0
    with losses.evaluating():
        sums = [torch.zeros_like(p, requires_grad=False) for p in parameters]  # here: outside it may be inference mode
        for term in losses.terms():
            loss = term.loss()
            values.append(term.coefficient * float(loss.detach()))
            pieces = torch.autograd.grad(loss, parameters, allow_unused=True)
            used = [(into, piece) for into, piece in zip(sums, pieces, strict=True) if piece is not None]
            scale += abs(term.coefficient) * float(torch.nn.utils.get_total_norm([piece for _, piece in used]))
            for into, piece in used:
                into.add_(piece, alpha=term.coefficient)
    return LossAndGradient(math.fsum(values), sums, scale)


class Operator(ABC):
    """A symmetric linear map of R^P, by its products.

    Attributes:
        shape: `(P, P)`.
        dtype: of products.
        device: of products.
        space: the parameter space that the entries stand in, where there is one.
        ranks: the processes that make products together. Solvers then hold of every vector the entries that `layout`
            gives this rank, so that memory falls as ranks are added.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    space: ParameterSpace | None
    ranks: Ranks = ALONE

    @cached_property
    def layout(self) -> Layout:
        """Which entries of a vector each rank holds."""
        return Layout.dealt(self.shape[0], self.ranks)

    @property
    def width(self) -> int:
        """How many entries of a vector this rank holds."""
        return self.layout.width

    def draw(self, generator: torch.Generator) -> Tensor:
        """This rank's entries of a vector of independent normal numbers, the same whatever the number of ranks."""
        whole = torch.randn(self.shape[0], generator=generator, dtype=torch.float64)
        return self.layout.take(whole).to(dtype=self.dtype, device=self.device)

    def part_of_product(self, part: Tensor) -> Tensor:
        """This rank's entries `(width,)` of the product with a vector of which each rank gives its own.

        Sends as much as one all-reduce of P numbers: every rank gathers the vector, and the sum is scattered.
        """
        if self.ranks.alone:
            return self.matvec(part)
        return self.layout.take(self.matvec(self.layout.whole(part)))

    @property
    def precision(self) -> float:
        """The error of a product, relative to the largest product with a vector of the same length.

        Solvers take nothing smaller for anything but rounding; an operator that is measured, not computed, says more.
        """
        return float(torch.finfo(self.dtype).eps)

    @abstractmethod
    def multiply(self, vectors: Tensor) -> Tensor:
        """Products with the *rows* of `(b, P)`, as `(b, P)`. Callers have checked shape, dtype and device."""

    def describe(self) -> dict[str, Any]:
        """What this operator is, as plain JSON values for a result's provenance."""
        return {"operator": type(self).__name__}

    def matvec(self, vector: Tensor) -> Tensor:
        """The product with `(P,)`.

        Raises:
            InputError: if the shape is another, or an entry is not finite.
        """
        if vector.ndim != 1:
            raise InputError(f"matvec takes a vector of shape ({self.shape[0]},), got {tuple(vector.shape)}")
        return self @ vector

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """The product with `(P,)` or the columns of `(P, b)`."""
        size = self.shape[0]
        if vectors.ndim not in (1, 2) or vectors.shape[0] != size:
            raise InputError(f"the operator takes ({size},) or ({size}, b), got {tuple(vectors.shape)}")
        rows = vectors.detach().to(dtype=self.dtype, device=self.device)
        if not all_finite(rows):
            raise InputError("the vector holds values that are not finite; so would the product")
        product = self.multiply(rows.T.contiguous() if rows.ndim == 2 else rows.unsqueeze(0))
        return product.T if vectors.ndim == 2 else product[0]

    def to_scipy(self) -> LinearOperator:
        """The same map for `scipy.sparse.linalg`, on NumPy arrays of the operator's dtype."""
        from scipy.sparse.linalg import LinearOperator  # here, since it takes a while to import

        dtype = np.dtype(str(self.dtype).removeprefix("torch."))

        def product(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            vectors = torch.as_tensor(np.array(array.reshape(self.shape[0], -1), dtype=dtype))
            result: np.ndarray[Any, Any] = (self @ vectors).cpu().numpy().reshape(array.shape)
            return result

        return LinearOperator(self.shape, matvec=product, matmat=product, rmatvec=product, dtype=dtype)


class FunctionOperator(Operator):
    """An operator from any function that multiplies: for tests, and for operators of one's own.

    Args:
        function: maps `(P,)` to `(P,)`, linear and symmetric.
        size: P.
        dtype: of the vectors.
        device: of the vectors.
        space: the parameter space, where there is one.
        about: plain JSON values that say what it is.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        size: int,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        space: ParameterSpace | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.function = function
        self.shape = (size, size)
        self.dtype = dtype
        self.device = torch.device(device)
        self.space = space
        self.about = dict(about or {"operator": "function"})

    def multiply(self, vectors: Tensor) -> Tensor:
        """Products with the rows of `(b, P)`."""
        return torch.stack([self.function(vector) for vector in vectors])

    def describe(self) -> dict[str, Any]:
        """What the maker said it is."""
        return self.about


def matrix_operator(matrix: Tensor) -> FunctionOperator:
    """A symmetric matrix `(P, P)` as an operator.

    Raises:
        InputError: if it is not square or not symmetric to rounding.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"a matrix of shape {tuple(matrix.shape)} is not square")
    scale = float(matrix.abs().max()) or 1.0
    if float((matrix - matrix.T).abs().max()) > 100 * torch.finfo(matrix.dtype).eps * scale:
        raise InputError("the matrix is not symmetric; use (A + A.T) / 2 if that is meant")
    return FunctionOperator(
        lambda vector: matrix @ vector, matrix.shape[0], matrix.dtype, matrix.device, about={"operator": "matrix"}
    )
