from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import SPECTRA, adversarial_case, classify, diagonal_operator, spectrum_operator
from thalweg.errors import InputError
from thalweg.operators.base import FunctionOperator
from thalweg.problem import Problem
from thalweg.solvers.trace import trace

SPREAD: dict[str, Tensor] = {
    "flat": torch.linspace(1, 3, 120).double(),
    "indefinite": torch.linspace(-3, 5, 120).double(),
    "polynomial": 10 / torch.arange(1, 121).double() ** 2,
    "exponential": 0.8 ** torch.arange(120).double(),
    "outliers": torch.cat([torch.tensor([300.0, 100.0, -50.0]), torch.linspace(1, -1, 117)]).double(),
}


@pytest.mark.parametrize("name", SPREAD)
def test_the_error_covers_the_truth(name: str) -> None:
    """Over 120 seeds: unbiased, and errors neither too small nor, by much, too large."""
    operator, truth = spectrum_operator(SPREAD[name]), float(SPREAD[name].sum())
    found = [trace(operator, matvecs=24, seed=seed) for seed in range(120)]
    misses = np.array([estimate.value - truth for estimate in found])
    errors = np.array([estimate.error for estimate in found])
    spread = misses.std(ddof=1)
    assert abs(misses.mean()) < 3.5 * spread / math.sqrt(len(found))
    assert (abs(misses) <= 2 * errors).mean() >= 0.88
    assert 0.85 * spread < math.sqrt((errors**2).mean()) < 1.7 * spread


@pytest.mark.parametrize("name", ["polynomial", "exponential", "outliers"])
def test_it_beats_as_many_products_of_hutchinson(name: str) -> None:
    operator, truth = spectrum_operator(SPREAD[name]), float(SPREAD[name].sum())
    size, seeds = operator.shape[0], range(30)
    generator = torch.Generator().manual_seed(1)
    plain = []
    for _ in seeds:
        signs = (torch.randint(0, 2, (size, 24), generator=generator) * 2 - 1).double()
        plain.append(float((signs * (operator @ signs)).sum()) / 24 - truth)
    ours = [trace(operator, matvecs=24, seed=seed).value - truth for seed in seeds]
    assert np.square(ours).mean() < 0.25 * np.square(plain).mean()


@pytest.mark.parametrize("rank", [0, 1, 5, 9])
@pytest.mark.parametrize("seed", range(4))
def test_exact_below_half_the_products(rank: int, seed: int) -> None:
    spectrum = torch.zeros(120, dtype=torch.float64)
    spectrum[:rank] = torch.linspace(9, -3, rank)
    estimate = trace(spectrum_operator(spectrum, seed), matvecs=20, seed=seed)
    assert estimate.value == pytest.approx(float(spectrum.sum()), abs=1e-12)
    assert estimate.error < 1e-12


def test_not_exact_where_the_rank_is_not_below_half_the_products() -> None:
    spectrum = torch.zeros(120, dtype=torch.float64)
    spectrum[:10] = torch.linspace(1, 9, 10)
    estimate = trace(spectrum_operator(spectrum), matvecs=20)
    assert estimate.error > 0.01
    assert abs(estimate.value - float(spectrum.sum())) < 5 * estimate.error


@pytest.mark.parametrize("matvecs", [6, 7, 20, 59])
def test_products_are_counted_and_kept_to(matvecs: int) -> None:
    count = 0
    values = SPECTRA["indefinite"]

    def multiply(vector: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return values * vector

    estimate = trace(FunctionOperator(multiply, 60), matvecs=matvecs)
    assert estimate.matvecs == count == 2 * (matvecs // 2)
    assert estimate.samples.shape == (matvecs // 2,)
    assert estimate.value == pytest.approx(float(estimate.samples.mean()))


def test_the_rank_can_be_less_than_the_test_vectors() -> None:
    """Zero columns of `H W` and copies of others leave no leave-one-out direction; it must not divide by them."""
    estimate = trace(diagonal_operator([4.0, -1.0] + [0.0] * 58), matvecs=40)
    assert estimate.value == pytest.approx(3.0, abs=1e-12)
    assert estimate.matvecs <= 40


@pytest.mark.parametrize("matvecs", [60, 61, 1000])
def test_from_as_many_products_as_dimensions_on_the_diagonal_is_summed(matvecs: int) -> None:
    estimate = trace(spectrum_operator(SPECTRA["indefinite"]), matvecs=matvecs)
    assert estimate.value == pytest.approx(float(SPECTRA["indefinite"].sum()), rel=1e-12)
    assert estimate.matvecs == 60
    assert estimate.error < 1e-9
    single = trace(FunctionOperator(lambda v: 3 * v, 1))
    assert (single.value, single.matvecs) == (3.0, 1)


def test_float32_is_as_exact_as_its_products() -> None:
    spectrum = torch.zeros(120, dtype=torch.float64)
    spectrum[:6] = torch.linspace(9, -3, 6)
    matrix = spectrum_operator(spectrum).function(torch.eye(120, dtype=torch.float64)).float()
    estimate = trace(FunctionOperator(lambda v: matrix @ v, 120, torch.float32), matvecs=20)
    assert abs(estimate.value - 18.0) < min(5 * estimate.error, 1e-3)


def test_the_hessian_of_a_net() -> None:
    case = adversarial_case()
    problem = Problem(case.model, classify, case.batches)
    estimate = trace(problem.hessian(), matvecs=40)
    truth = float(torch.trace(case.truth.hessian))
    assert abs(estimate.value - truth) < 4 * estimate.error
    assert estimate.error < 0.1 * truth
    assert (estimate.provenance["operator"], estimate.provenance["method"]) == ("hessian", "xtrace")


def test_the_same_seed_gives_the_same_and_no_global_generator_is_touched() -> None:
    state = torch.get_rng_state()
    operator = spectrum_operator(SPECTRA["indefinite"])
    first, again, other = (trace(operator, 20, seed=seed) for seed in (5, 5, 6))
    assert first.value == again.value != other.value
    assert trace(operator, 20, seed=torch.Generator().manual_seed(5)).value == first.value
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.value = 0.0  # type: ignore[misc]


@pytest.mark.parametrize("matvecs", [5, 0, -3])
def test_too_few_products_are_refused(matvecs: int) -> None:
    with pytest.raises(InputError, match=rf"matvecs={matvecs} leave no error estimate; use 6 or more"):
        trace(spectrum_operator(SPECTRA["separated"]), matvecs=matvecs)


@pytest.mark.parametrize("after", [0, 11])
def test_a_product_that_is_not_finite_is_refused(after: int) -> None:
    count = 0

    def multiply(vector: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return vector * (math.nan if count > after else 1.0)

    with pytest.raises(InputError, match=rf"product {after + 1} of the operator is not finite; check the loss"):
        trace(FunctionOperator(multiply, 60), matvecs=20)
