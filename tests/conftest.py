"""The single home of test problems: spectra, nets and data whose truth is known by other means than thalweg's.

Import the builders from here: `from tests.conftest import adversarial_case`. Dense Hessians are made by
`torch.autograd.functional` on the pooled data, so nothing of thalweg takes part in the truth it is held against.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, mse_loss, scaled_dot_product_attention

from thalweg.operators.base import FunctionOperator, matrix_operator

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # workers that each use every core only wait for each other

Batch = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def global_randomness() -> None:
    """Every test starts from the same global generators, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)


# -- truth by other means ----------------------------------------------------------------------------------


def relative_error(found: Any, true: Any) -> float:
    """`|found - true| / |true|` in float64, of tensors or arrays of one shape."""
    found, true = torch.as_tensor(found).double(), torch.as_tensor(true).double()
    assert found.shape == true.shape, (found.shape, true.shape)
    return float((found - true).norm() / true.norm())


def random_vector(size: int, seed: int = 0, columns: int | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = (size,) if columns is None else (size, columns)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters by name, tied ones once, in the model's order."""
    return {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


def pooled_function(model: nn.Module, loss: Callable[[Callable[..., Any]], Tensor]) -> tuple[Any, Tensor]:
    """The pooled loss as a function of one flat vector, on an evaluating copy of the model; and the vector now.

    `loss(call)` computes it, calling the model as `call(*arguments, **keywords)`.
    """
    frozen = copy.deepcopy(model).eval()
    names = trainable(frozen)
    sizes = [tensor.numel() for tensor in names.values()]

    def total(flat: Tensor) -> Tensor:
        pieces = zip(names.items(), flat.split(sizes), strict=True)
        values = {name: piece.view(tensor.shape) for (name, tensor), piece in pieces}
        return loss(lambda *arguments, **keywords: functional_call(frozen, values, arguments, keywords))

    return total, torch.cat([tensor.detach().reshape(-1) for tensor in names.values()])


@dataclass(frozen=True)
class Truth:
    """Loss, gradient `(P,)` and Hessian `(P, P)` of the pooled data, computed densely in float64."""

    loss: float
    gradient: Tensor
    hessian: Tensor

    @property
    def eigenvalues(self) -> Tensor:
        """Descending `(P,)`."""
        return torch.linalg.eigvalsh(self.hessian).flip(0)


@contextmanager
def math_attention() -> Iterator[None]:
    """Attention that can be differentiated twice."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def dense_truth(model: nn.Module, loss: Callable[[Callable[..., Any]], Tensor]) -> Truth:
    with math_attention():
        total, flat = pooled_function(model, loss)
        hessian = torch.autograd.functional.hessian(total, flat)
        gradient = torch.autograd.functional.jacobian(total, flat)
        return Truth(float(total(flat)), gradient, (hessian + hessian.T) / 2)


def true_products(
    model: nn.Module, loss: Callable[[Callable[..., Any]], Tensor], vectors: Tensor
) -> tuple[float, Tensor, Tensor]:
    """Loss, gradient `(P,)` and Hessian times the columns of `(P, b)`, where the dense Hessian would take long."""
    with math_attention():
        total, flat = pooled_function(model, loss)
        flat.requires_grad_()
        value = total(flat)
        (gradient,) = torch.autograd.grad(value, flat, create_graph=True)
        products = [torch.autograd.grad(gradient, flat, column, retain_graph=True)[0] for column in vectors.T]
        return float(value.detach()), gradient.detach(), torch.stack(products, dim=1)


# -- spectra -----------------------------------------------------------------------------------------------


def symmetric_matrix(eigenvalues: list[float] | Tensor, seed: int = 0) -> Tensor:
    """A dense float64 matrix with that spectrum, in a random orthonormal basis."""
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    basis = torch.linalg.qr(random_vector(len(values), seed, len(values))).Q
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


def spectrum_operator(eigenvalues: list[float] | Tensor, seed: int = 0) -> FunctionOperator:
    """A matrix operator with that spectrum."""
    return matrix_operator(symmetric_matrix(eigenvalues, seed))


def diagonal_operator(eigenvalues: list[float] | Tensor, dtype: torch.dtype = torch.float64) -> FunctionOperator:
    """A diagonal matrix as an operator; its eigenvectors are the unit vectors."""
    values = torch.as_tensor(eigenvalues, dtype=dtype)
    return FunctionOperator(lambda vector: values * vector, len(values), dtype)


def decaying(count: int = 60) -> Tensor:
    """1, 1/2, 1/3, ...: separated at the top, dense at the bottom."""
    return 1.0 / torch.arange(1, count + 1, dtype=torch.float64)


SPECTRA: dict[str, Tensor] = {
    "separated": torch.arange(60, 0, -1, dtype=torch.float64),
    "clustered": torch.cat(
        [100 + 1e-4 * torch.arange(5, 0, -1), 50 + 1e-4 * torch.arange(5, 0, -1), torch.linspace(1, 0, 50)]
    ).double(),
    "triple": torch.cat([torch.tensor([10.0, 10.0, 10.0, 9.0, 8.0]), torch.linspace(5, 0.1, 55)]).double(),
    "rank two": torch.cat([torch.tensor([3.0, -2.0]), torch.zeros(58)]).double(),
    "indefinite": torch.linspace(7, -9, 60, dtype=torch.float64) ** 3,
    "zero": torch.zeros(60, dtype=torch.float64),
}
"""Descending in no promised order; 60 eigenvalues each."""


def quadratic_case(eigenvalues: list[float], seed: int = 0) -> tuple[nn.Module, Callable[..., Tensor], list[Tensor]]:
    """A model whose loss is the quadratic form of a matrix with that spectrum, half of `w A w`."""
    matrix = symmetric_matrix(eigenvalues, seed)
    model = nn.Module()
    model.weight = nn.Parameter(random_vector(len(eigenvalues), seed + 1))

    def loss(module: nn.Module, batch: Tensor) -> Tensor:
        return 0.5 * module.weight @ matrix @ module.weight * batch.mean()

    return model, loss, [torch.ones(4, dtype=torch.float64)]


# -- nets --------------------------------------------------------------------------------------------------


class AdversarialNet(nn.Module):
    """Batch norm, dropout, a frozen layer and a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.Linear(8, 7)
        self.unused = nn.Parameter(torch.ones(5))
        self.last = nn.Linear(7, 4)
        self.frozen.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.norm(self.first(inputs)))
        return self.last(torch.nn.functional.gelu(self.frozen(self.dropout(hidden))))


def classification_batches(sizes: tuple[int, ...], inputs: int, classes: int, seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, inputs, generator=generator, dtype=torch.float64),
            torch.randint(classes, (size,), generator=generator),
        )
        for size in sizes
    ]


def pooled(batches: list[Batch]) -> Batch:
    return torch.cat([batch[0] for batch in batches]), torch.cat([batch[1] for batch in batches])


def classify(model: nn.Module, batch: Batch) -> Tensor:
    """The mean cross entropy of a batch."""
    return cross_entropy(model(batch[0]), batch[1])


def classify_summed(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1], reduction="sum")


@dataclass(frozen=True)
class Case:
    """A net, its batches, and what is true of them."""

    model: nn.Module
    batches: list[Batch]
    truth: Truth


def classification_case(model: nn.Module, batches: list[Batch]) -> Case:
    inputs, labels = pooled(batches)
    return Case(model, batches, dense_truth(model, lambda call: cross_entropy(call(inputs), labels)))


def adversarial_case(sizes: tuple[int, ...] = (9, 1, 13)) -> Case:
    """The adversarial net in float64, in training mode, with batch statistics that are not trivial."""
    torch.manual_seed(3)
    model = AdversarialNet().double()
    model.train()
    with torch.no_grad():
        for inputs, _ in classification_batches((20, 20, 20), 6, 4, seed=5):
            model(1.5 * inputs + 0.3)
        model.norm.weight.uniform_(0.5, 1.5)
    return classification_case(model, classification_batches(sizes, 6, 4))


def small_case(sizes: tuple[int, ...] = (9, 1, 13)) -> Case:
    """A tiny tanh net in float64 (P = 43)."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return classification_case(model, classification_batches(sizes, 4, 3))


class TiedNet(nn.Module):
    """An embedding whose weight is the decoder's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.hidden = nn.Linear(4, 4)
        self.decoder = nn.Linear(4, 6, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.hidden(self.embedding(tokens).mean(dim=1))))


class AttentionNet(nn.Module):
    """`nn.MultiheadAttention`, then `scaled_dot_product_attention` called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.project = nn.Linear(4, 12)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        attended, _ = self.attention(inputs, inputs, inputs, need_weights=False)
        query, key, value = self.project(attended).unsqueeze(1).chunk(3, dim=-1)
        return self.head(scaled_dot_product_attention(query, key, value).squeeze(1).mean(dim=1))


class RecurrentNet(nn.Module):
    """An LSTM over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 3)
        self.lstm = nn.LSTM(3, 3, batch_first=True)
        self.head = nn.Linear(3, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        outputs, _ = self.lstm(self.embedding(tokens))
        return self.head(outputs[:, -1])


def token_batches(sizes: tuple[int, ...], length: int, tokens: int, classes: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(11)
    return [
        (torch.randint(tokens, (n, length), generator=generator), torch.randint(classes, (n,), generator=generator))
        for n in sizes
    ]


def tied_case() -> Case:
    torch.manual_seed(2)
    return classification_case(TiedNet().double(), token_batches((5, 2), 3, 6, 6))


def attention_case() -> Case:
    torch.manual_seed(4)
    flat = classification_batches((5, 2), 12, 3)
    return classification_case(AttentionNet().double(), [(inputs.view(-1, 3, 4), labels) for inputs, labels in flat])


def recurrent_case() -> Case:
    torch.manual_seed(6)
    return classification_case(RecurrentNet().double(), token_batches((5, 2), 4, 6, 3))


def convolution_case(normalised: bool = True) -> Case:
    torch.manual_seed(8)
    norm = nn.GroupNorm(1, 2) if normalised else nn.Identity()
    model = nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 3)).double()
    flat = classification_batches((5, 2), 16, 3)
    return classification_case(model, [(inputs.view(-1, 1, 4, 4), labels) for inputs, labels in flat])


NETS: dict[str, Callable[[], Case]] = {
    "adversarial": adversarial_case,
    "small": small_case,
    "tied": tied_case,
    "attention": attention_case,
    "recurrent": recurrent_case,
    "convolution": convolution_case,
}


def regression_loss(model: nn.Module, batch: Batch) -> Tensor:
    return mse_loss(model(batch[0]).squeeze(-1), batch[1])
