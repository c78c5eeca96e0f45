from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import (
    SPECTRA,
    adversarial_case,
    classify,
    diagonal_operator,
    random_vector,
    spectrum_operator,
    symmetric_matrix,
)
from thalweg.errors import InputError
from thalweg.operators.base import FunctionOperator
from thalweg.problem import Problem
from thalweg.solvers.density import SpectralDensity, spectral_density

BULK = torch.cat([torch.tensor([20.0, 12.0, 9.0, -6.0]), 1.5 * random_vector(296, 7)])
"""300 eigenvalues: a Gaussian bulk and outliers on both sides."""


class Spy(FunctionOperator):
    """A matrix as an operator that keeps what it is given."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(lambda vector: matrix @ vector, matrix.shape[0], matrix.dtype)
        self.given: list[Tensor] = []

    def multiply(self, vectors: Tensor) -> Tensor:
        self.given.append(vectors[0].clone())
        return super().multiply(vectors)


def test_moments_of_each_probe_are_exact_up_to_degree_2m_minus_1() -> None:
    matrix = symmetric_matrix(torch.linspace(-1, 2, 80).double())
    operator = Spy(matrix)
    steps = 5
    found = spectral_density(operator, probes=4, steps=steps)
    assert found.matvecs == len(operator.given) == 20
    for probe in range(4):
        start = operator.given[probe * steps]
        assert float(start.norm()) == pytest.approx(1.0)
        power = start
        for degree in range(2 * steps + 1):
            quadrature = float((found.weights[probe] * found.nodes[probe] ** degree).sum())
            true = float(start @ power)
            power = matrix @ power
            if degree < 2 * steps:
                assert quadrature == pytest.approx(true, rel=1e-10, abs=1e-12)
            else:
                assert abs(quadrature - true) > 1e-6 * abs(true)  # and no further


@pytest.mark.parametrize(("outliers", "least"), [(False, 0.85), (True, 0.7)])
def test_the_moments_cover_the_truth(outliers: bool, least: float) -> None:
    """Two errors hold the truth in 91 of 100 draws of 8 probes (Student's t); in fewer where one eigenvalue rules."""
    spectrum = BULK[:100] if outliers else BULK[4:104]
    operator, found = spectrum_operator(spectrum), []
    for seed in range(120):
        density = spectral_density(operator, probes=8, steps=3, seed=seed)
        found.append([(float(m.value), float(m.error)) for m in map(density.moment, (1, 2, 3))])
    values, errors = np.moveaxis(np.array(found), 2, 0)
    misses = values - np.array([float((spectrum**degree).mean()) for degree in (1, 2, 3)])
    assert (abs(misses.mean(axis=0)) < 3.5 * misses.std(axis=0) / math.sqrt(120)).all()
    assert ((abs(misses) < 2 * errors).mean(axis=0) >= least).all()
    ratios = np.sqrt((errors**2).mean(axis=0)) / misses.std(axis=0)
    assert ratios == pytest.approx(1, abs=0.25)


def test_the_density_and_the_cumulative_distribution_lie_within_their_error_bars() -> None:
    found = spectral_density(spectrum_operator(BULK), probes=12, steps=60)
    grid, width = torch.linspace(-8, 22, 121).double(), 0.4
    away = (grid[:, None] - BULK) / width
    density = found.density(grid, width)
    true = torch.exp(-(away**2) / 2).mean(dim=1) / (width * math.sqrt(2 * math.pi))
    slack = 1e-4  # where no probe has any weight there is no spread either
    ratios = (density.value - true).abs() / (density.error + slack)
    assert float(ratios.max()) < 4
    assert float((ratios < 2).double().mean()) > 0.85
    cumulative = found.cumulative(grid, width)
    ratios = (cumulative.value - torch.special.ndtr(away).mean(dim=1)).abs() / (cumulative.error + slack)
    assert float(ratios.max()) < 4
    assert float((ratios < 2).double().mean()) > 0.85
    assert float(cumulative.error.max()) < 0.02
    assert float(torch.trapezoid(density.value, grid)) == pytest.approx(1.0, abs=1e-3)


def test_outliers_have_their_place_and_their_weight_and_no_copies() -> None:
    """Without reorthogonalisation 20 would come back several times among 80 nodes."""
    found = spectral_density(spectrum_operator(BULK), probes=20, steps=80)
    assert found.largest == pytest.approx(20.0, abs=1e-9)
    assert found.smallest == pytest.approx(float(BULK.min()), abs=1e-6)
    assert (((found.nodes - 20).abs() < 0.1).sum(dim=1) == 1).all()
    top = found.average(lambda nodes: ((nodes - 20).abs() < 0.1).double())
    assert abs(float(top.value) - 1 / 300) < 4 * float(top.error)
    assert float(top.error) < 1 / 300


def test_the_negative_mass() -> None:
    spectrum = torch.cat([-torch.linspace(1, 2, 60), torch.zeros(100), torch.linspace(1, 3, 40)]).double()
    found = spectral_density(spectrum_operator(spectrum), probes=16, steps=40)
    mass = found.negative_mass()
    assert abs(float(mass.value) - 0.3) < 3 * float(mass.error)
    assert 0 < float(mass.error) < 0.02
    upto = found.negative_mass(below=0.5)
    assert abs(float(upto.value) - 0.8) < 3 * float(upto.error)
    assert float(found.negative_mass(below=-5.0).value) == 0.0


BULKS = {
    "a bulk of both signs": lambda draw: torch.randn(2000, generator=draw) * 0.02,
    "a lognormal one": lambda draw: torch.exp(3 * torch.randn(2000, generator=draw)),
    "a power law": lambda draw: 10 / torch.arange(1, 2001),
    "outliers before a bulk": lambda draw: torch.cat([torch.arange(1, 11), torch.rand(1990, generator=draw) * 0.05]),
}


@pytest.mark.parametrize("name", BULKS)
def test_shares_above_levels_lie_within_their_bounds_where_the_quadrature_alone_is_off(name: str) -> None:
    covered, near = [], []
    for seed in range(6):
        values = BULKS[name](torch.Generator().manual_seed(seed)).double()
        found = spectral_density(diagonal_operator(values), probes=3, steps=24, seed=seed)
        levels = torch.logspace(-3, -0.05, 20, dtype=torch.float64) * values.max()
        own, least, most = found.share_above(levels)
        true = (values > levels[:, None]).double().mean(1)
        inside = (true >= least.value - 2 * least.error) & (true <= most.value + 2 * most.error)
        covered.append(float(inside.double().mean()))
        near.append(float(((true - own.value).abs() <= 2 * own.error).double().mean()))
        assert bool((least.value <= own.value + 1e-12).all())
        assert bool((own.value <= most.value + 1e-12).all())
    assert sum(covered) / len(covered) > 0.93
    assert sum(near) < sum(covered) - 0.1 * len(covered)  # what the probes' spread alone would claim


def test_bounds_of_each_probe_are_those_of_its_own_measure() -> None:
    values = torch.linspace(-1, 1, 300, dtype=torch.float64) ** 3
    spy = Spy(torch.diag(values))
    found = spectral_density(spy, probes=2, steps=12, seed=5)
    starts = [spy.given[0].double() ** 2, spy.given[12].double() ** 2]  # each probe's measure puts v_i² on λ_i
    levels = torch.linspace(-0.99, 0.99, 41, dtype=torch.float64)
    _, least, most = found.share_above(levels)
    true = torch.stack([(start * (values > levels[:, None])).sum(1) for start in starts]).mean(0)
    assert bool((least.value <= true + 1e-9).all())
    assert bool((true <= most.value + 1e-9).all())


@pytest.mark.parametrize("name", SPECTRA)
def test_weights_are_shares_and_early_ends_are_filled_up(name: str) -> None:
    found = spectral_density(spectrum_operator(SPECTRA[name]), probes=3, steps=100)
    assert found.nodes.shape == found.weights.shape == (3, 60)
    assert found.weights.sum(dim=1).numpy() == pytest.approx([1, 1, 1], abs=1e-12)
    assert float(found.weights.min()) >= 0
    assert (found.nodes.diff(dim=1) >= 0).all()
    scale = max(1.0, float(SPECTRA[name].abs().max()))
    first = float(found.moment(1).value), float(SPECTRA[name].mean()), float(found.moment(1).error)
    assert abs(first[0] - first[1]) <= 4 * first[2] + 1e-9 * scale
    if name == "zero":
        assert (found.largest, found.smallest, found.matvecs) == (0.0, 0.0, 3)
        assert float(found.negative_mass().value) == 0.0
        assert torch.isfinite(found.density(torch.zeros(1)).value).all()
    if name == "rank two":  # three distinct eigenvalues end each probe after three products
        assert found.matvecs <= 12
        nodes = found.nodes[found.weights > 1e-9]
        assert torch.stack([(nodes - value).abs() for value in (3.0, 0.0, -2.0)]).amin(dim=0).max() < 1e-9


def test_the_hessian_of_a_net() -> None:
    case = adversarial_case()
    found = spectral_density(Problem(case.model, classify, case.batches).hessian(), probes=4, steps=200)
    eigenvalues = case.truth.eigenvalues
    assert found.largest == pytest.approx(float(eigenvalues[0]), rel=1e-9)
    assert found.smallest == pytest.approx(float(eigenvalues[-1]), rel=1e-9)
    share = float((eigenvalues < -1e-7).double().mean())
    mass = found.negative_mass()
    assert abs(float(mass.value) - share) < 3 * float(mass.error)
    assert found.size == len(eigenvalues)
    assert found.provenance["operator"] == "hessian"


def test_the_default_width_smooths_over_what_is_not_resolved() -> None:
    """A uniform spectrum must look flat: narrower, the nodes of 20 steps stand out as peaks."""
    found = spectral_density(spectrum_operator(torch.linspace(0, 1, 400).double()), probes=4, steps=20)
    grid = torch.linspace(0.25, 0.75, 101).double()
    ripple = float(found.density(grid).value.std())
    assert ripple < 0.1
    assert float(found.density(grid, found.resolution / 10).value.std()) > 5 * ripple


def test_the_same_seed_gives_the_same_and_no_global_generator_is_touched() -> None:
    state = torch.get_rng_state()
    operator = spectrum_operator(SPECTRA["indefinite"])
    first, again, other = (spectral_density(operator, 2, 10, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.nodes, again.nodes)
    assert torch.equal(first.weights, again.weights)
    assert not torch.equal(first.nodes, other.nodes)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.size = 0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("probes", "steps", "words"),
    [
        (1, 10, r"probes=1 leave no error bars; use 2 or more"),
        (0, 10, r"probes=0 leave no error bars"),
        (3, 0, r"steps=0 is not a positive number; 80 is usual"),
    ],
)
def test_bad_settings_are_refused(probes: int, steps: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        spectral_density(spectrum_operator(SPECTRA["separated"]), probes, steps)


def test_a_basis_that_does_not_fit_is_refused_before_it_is_tried() -> None:
    with pytest.raises(InputError, match=r"a basis of 100001 vectors of 1,000,000,000 takes .* GiB; lower steps"):
        spectral_density(FunctionOperator(lambda v: v, 10**9), steps=10**5)


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan, math.inf])
def test_a_width_that_is_not_positive_is_refused(width: float) -> None:
    found: SpectralDensity = spectral_density(spectrum_operator(SPECTRA["separated"]), 2, 5)
    with pytest.raises(InputError, match=r"width=.* is not a positive number; leave it out for"):
        found.density(torch.zeros(1), width)


def test_an_operator_that_is_not_symmetric_is_refused() -> None:
    matrix = random_vector(30, 0, 30)
    with pytest.raises(InputError, match="is not symmetric"):
        spectral_density(FunctionOperator(lambda v: matrix @ v, 30), 2, 10)
