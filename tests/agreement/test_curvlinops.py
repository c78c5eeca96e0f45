"""Held against curvlinops, which multiplies forward-over-reverse through `torch.func`: another way to the same Hessian.

curvlinops weighs a mean loss by each batch's share of the samples, as thalweg does; the second test shows it on
unequal batches, where a mean of batch means would be seen.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from tests.conftest import (
    adversarial_case,
    classify,
    classify_summed,
    convolution_case,
    random_vector,
    recurrent_case,
    relative_error,
    small_case,
)
from thalweg.problem import Problem
from thalweg.solvers.lanczos import eigenpairs

curvlinops = pytest.importorskip("curvlinops", reason="`make test` installs it without its dependencies")

NETS = {
    "small": small_case,
    "adversarial": adversarial_case,
    "convolution": lambda: convolution_case(normalised=False),  # group norm has no forward-mode derivative
}
AGREEMENT = 1e-5
"""Relative, in float32."""


def in_float32(name: str) -> tuple[nn.Module, list[tuple[Tensor, Tensor]], Tensor]:
    case = NETS[name]()
    hessian = case.truth.hessian
    if name == "adversarial":  # their products fail where a parameter is not used
        case.model.unused.requires_grad_(False)
        hessian = hessian[5:, 5:]
    return case.model.float(), [(inputs.float(), labels) for inputs, labels in case.batches], hessian


def theirs(model: nn.Module, batches: list[tuple[Tensor, Tensor]], reduction: str = "mean") -> object:
    parameters = [tensor for tensor in model.parameters() if tensor.requires_grad]
    return curvlinops.HessianLinearOperator(
        model.eval(), nn.CrossEntropyLoss(reduction=reduction), parameters, batches, check_deterministic=False
    )


def multiplied(operator: object, vectors: Tensor) -> Tensor:
    return torch.stack([operator @ column for column in vectors.T], dim=1).detach()  # type: ignore[operator]


@pytest.mark.parametrize("name", NETS)
def test_products_agree(name: str) -> None:
    model, batches, _ = in_float32(name)
    ours = Problem(model, classify, batches).hessian()
    vectors = random_vector(ours.shape[0], 1, 3, torch.float32)
    assert relative_error(ours @ vectors, multiplied(theirs(model, batches), vectors)) < AGREEMENT


def test_they_weigh_unequal_batches_by_samples_too() -> None:
    """A premise of the test above: batches of 9, 1 and 13 give them the Hessian of the pooled data."""
    model, batches, dense = in_float32("adversarial")
    vectors = random_vector(dense.shape[0], 1, 3, torch.float32)
    product = multiplied(theirs(model, batches), vectors)
    assert relative_error(product, dense @ vectors.double()) < AGREEMENT
    alike = Problem(model, classify, batches, weight=lambda batch: 1.0).hessian()
    assert relative_error(alike @ vectors, product) > 0.05


def test_summed_losses_agree() -> None:
    """Their sum over the data is our mean over the data, times the number of samples."""
    model, batches, _ = in_float32("small")
    ours = Problem(model, classify_summed, batches, reduction="sum").hessian()
    vectors = random_vector(ours.shape[0], 1, 3, torch.float32)
    assert relative_error(23 * (ours @ vectors), multiplied(theirs(model, batches, "sum"), vectors)) < AGREEMENT


@pytest.mark.parametrize("name", NETS)
def test_eigenvalues_agree(name: str) -> None:
    model, batches, _ = in_float32(name)
    ours = eigenpairs(Problem(model, classify, batches).hessian(), k=4, tol=1e-6, certify="complete")
    start = np.random.default_rng(0).standard_normal(ours.size).astype(np.float32)
    found = eigsh(theirs(model, batches).to_scipy(), k=4, which="LA", v0=start, return_eigenvectors=False)  # type: ignore[attr-defined]
    assert ours.values is not None
    assert relative_error(ours.values, np.sort(found)[::-1].copy()) < AGREEMENT


def test_a_recurrent_net_agrees_in_float64() -> None:
    case = recurrent_case()
    ours = Problem(case.model, classify, case.batches).hessian()
    vector = random_vector(ours.shape[0], 1)
    product = multiplied(theirs(case.model, case.batches), vector.unsqueeze(1))[:, 0]
    assert relative_error(ours @ vector, product) < 1e-10
