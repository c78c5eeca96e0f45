from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import (
    SPECTRA,
    adversarial_case,
    classify,
    decaying,
    diagonal_operator,
    random_vector,
    spectrum_operator,
)
from thalweg.directions import Directions, as_generator
from thalweg.errors import InputError
from thalweg.operators.base import FunctionOperator, Operator
from thalweg.problem import Problem
from thalweg.solvers.krylov import KrylovSpace
from thalweg.solvers.lanczos import Certificate, Which, eigenpairs

CERTIFICATES: tuple[Certificate, ...] = ("estimate", "full", "complete")


def wanted(spectrum: Tensor, k: int, which: Which) -> np.ndarray:
    """The k true eigenvalues in the wanted order, with multiplicity."""
    key = {"LA": -spectrum, "SA": spectrum, "LM": -spectrum.abs()}[which]
    return spectrum[torch.argsort(key, stable=True)][:k].numpy()


def values_of(pairs: Directions) -> np.ndarray:
    assert pairs.values is not None
    return pairs.values.numpy()


def residuals_of(pairs: Directions) -> np.ndarray:
    assert pairs.residuals is not None
    return pairs.residuals.numpy()


def true_residuals(operator: Operator, pairs: Directions) -> np.ndarray:
    product = (operator @ pairs.vectors.T).T
    return (product - pairs.vectors * pairs.values.to(pairs.vectors)[:, None]).double().norm(dim=1).numpy()


def distances_without_ghosts(values: np.ndarray, spectrum: Tensor) -> np.ndarray:
    """Distance of each value to a true eigenvalue of its own: a second copy needs a second true one."""
    free = list(spectrum.numpy())
    distances = []
    for value in values:
        nearest = min(range(len(free)), key=lambda i: abs(free[i] - value))
        distances.append(abs(free.pop(nearest) - value))
    return np.array(distances)


def assert_orthonormal(pairs: Directions, tolerance: float = 1e-12) -> None:
    gram = pairs.vectors.double() @ pairs.vectors.double().T
    assert float((gram - torch.eye(len(pairs))).abs().max()) < tolerance


# -- spectra ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("certify", CERTIFICATES)
@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("name", SPECTRA)
def test_k_orthonormal_pairs_and_no_ghosts(name: str, which: Which, certify: Certificate) -> None:
    spectrum = SPECTRA[name]
    operator = spectrum_operator(spectrum)
    pairs = eigenpairs(operator, k=6, which=which, tol=1e-9, certify=certify)
    values, scale = values_of(pairs), max(float(spectrum.abs().max()), 1e-300)
    assert len(pairs) == 6
    assert_orthonormal(pairs)
    assert pairs.converged is not None
    assert bool(pairs.converged.all())
    assert distances_without_ghosts(values, spectrum).max() <= 1e-9 * scale
    assert (true_residuals(operator, pairs) <= 2e-9 * scale).all()
    keys = {"LA": values, "SA": -values, "LM": np.abs(values)}[which]
    assert (np.diff(keys) <= 1e-9 * scale).all()  # in the wanted order
    if certify == "complete":
        assert np.abs(values - wanted(spectrum, 6, which)).max() <= 1e-9 * scale
        assert pairs.provenance["complement_searched"] is True


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_a_multiple_eigenvalue_are_counted(seed: int) -> None:
    """Single-vector Lanczos on 10, 10, 10, 9, 8 may return 10, 9, 8, ...; the complete certificate may not."""
    pairs = eigenpairs(spectrum_operator(SPECTRA["triple"], seed), k=5, tol=1e-10, certify="complete", seed=seed)
    assert values_of(pairs) == pytest.approx([10, 10, 10, 9, 8], rel=1e-9)


def test_only_a_search_of_the_complement_finds_the_missed_copies() -> None:
    """Exact zeros keep a diagonal operator's Krylov space out of what the start vector does not touch."""
    spectrum = torch.cat([torch.tensor([10.0, 10.0, 10.0, 9.0, 8.0]), torch.linspace(5, 0.1, 55)]).double()
    operator = diagonal_operator(spectrum)
    start = torch.ones(60, dtype=torch.float64)
    start[1:3] = 0.0  # no component along two of the three copies
    blind = {c: eigenpairs(operator, k=5, tol=1e-9, certify=c, start=start) for c in ("estimate", "full")}
    for pairs in blind.values():
        assert values_of(pairs)[:3] == pytest.approx([10, 9, 8], rel=1e-9)
        assert bool(pairs.converged.all())  # small residuals, and two pairs were passed over
    seeing = eigenpairs(operator, k=5, tol=1e-9, certify="complete", start=start)
    assert values_of(seeing) == pytest.approx([10, 10, 10, 9, 8], rel=1e-9)
    assert seeing.provenance["missed_and_found"] == 2
    assert_orthonormal(seeing)
    assert distances_without_ghosts(values_of(seeing), spectrum).max() < 1e-8


def test_a_missed_single_direction_is_found_too() -> None:
    spectrum = torch.cat([torch.linspace(0, 10, 27), torch.tensor([28.0, 29.0, 30.0])]).double()
    operator = diagonal_operator(spectrum)
    start = torch.ones(30, dtype=torch.float64)
    start[-1] = 0.0  # found long before rounding has grown into that direction
    assert values_of(eigenpairs(operator, k=2, tol=1e-9, certify="full", start=start)) == pytest.approx([29, 28])
    complete = eigenpairs(operator, k=2, tol=1e-9, certify="complete", start=start)
    assert values_of(complete) == pytest.approx([30, 29])


def test_it_goes_on_after_a_breakdown() -> None:
    """A start vector that is an eigenvector ends the Krylov space after one product."""
    operator = diagonal_operator([5.0, 4.0, 3.0, 2.0, 1.0, 0.5])
    pairs = eigenpairs(operator, k=4, tol=1e-12, certify="complete", start=torch.eye(6)[0].double())
    assert values_of(pairs) == pytest.approx([5, 4, 3, 2], rel=1e-12)
    assert_orthonormal(pairs)


@pytest.mark.parametrize("certify", CERTIFICATES)
def test_every_pair_of_a_small_space(certify: Certificate) -> None:
    spectrum = torch.tensor([2.0, 2.0, 1.0, 0.0, -3.0]).double()
    pairs = eigenpairs(spectrum_operator(spectrum), k=5, certify=certify, tol=1e-10)
    assert values_of(pairs) == pytest.approx([2, 2, 1, 0, -3], abs=1e-9)
    assert_orthonormal(pairs)
    single = eigenpairs(FunctionOperator(lambda v: 3 * v, 1), k=1, certify=certify)
    assert values_of(single) == pytest.approx([3.0])


@pytest.mark.parametrize("scale", [1e-100, 1e-12, 1e12, 1e100])
def test_breakdown_is_relative_to_the_operator(scale: float) -> None:
    pairs = eigenpairs(spectrum_operator(scale * SPECTRA["rank two"]), k=5, tol=1e-9, certify="complete")
    assert values_of(pairs) / scale == pytest.approx([3, 0, 0, 0, 0], abs=1e-9)
    assert_orthonormal(pairs)


@pytest.mark.parametrize("certify", CERTIFICATES)
def test_float32(certify: Certificate) -> None:
    spectrum = SPECTRA["clustered"]
    matrix = spectrum_operator(spectrum).function(torch.eye(60, dtype=torch.float64)).float()
    operator = FunctionOperator(lambda v: matrix @ v, 60, torch.float32)
    pairs = eigenpairs(operator, k=6, tol=1e-5, certify=certify)
    assert pairs.vectors.dtype == torch.float32
    assert values_of(pairs).dtype == np.float64
    assert_orthonormal(pairs, 1e-5)
    assert distances_without_ghosts(values_of(pairs), spectrum).max() <= 1e-3
    assert (true_residuals(operator, pairs) <= 2e-3).all()
    if certify == "complete":
        assert values_of(pairs) == pytest.approx(wanted(spectrum, 6, "LA"), rel=2e-5)


def test_float32_of_a_rank_two_operator_has_no_ghosts() -> None:
    matrix = spectrum_operator(SPECTRA["rank two"]).function(torch.eye(60, dtype=torch.float64)).float()
    pairs = eigenpairs(FunctionOperator(lambda v: matrix @ v, 60, torch.float32), k=8, certify="complete")
    assert values_of(pairs) == pytest.approx([3, *[0] * 7], abs=1e-5)
    assert_orthonormal(pairs, 1e-5)


# -- what the residuals say ------------------------------------------------------------------------------------


@pytest.mark.parametrize("certify", CERTIFICATES)
@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-6])
def test_residuals_are_the_true_ones_or_bound_them(tol: float, certify: Certificate) -> None:
    operator = spectrum_operator(decaying())
    pairs = eigenpairs(operator, k=5, tol=tol, certify=certify)
    true = true_residuals(operator, pairs)
    if certify == "estimate":
        assert (true <= residuals_of(pairs) * (1 + 1e-6) + 1e-14).all()
    else:
        assert residuals_of(pairs) == pytest.approx(true, rel=1e-6, abs=1e-14)
    distance = np.abs(values_of(pairs)[:, None] - decaying().numpy()[None, :]).min(axis=1)
    assert (distance <= residuals_of(pairs) + 1e-14).all()  # a symmetric operator has an eigenvalue within a residual
    assert bool(pairs.converged.all())
    assert residuals_of(pairs).max() <= tol * values_of(pairs).max()


def test_angles_bound_the_true_ones() -> None:
    spectrum = torch.cat([torch.tensor([9.0, 7.0, 5.0]), torch.linspace(3, 0, 57)]).double()
    operator = diagonal_operator(spectrum)
    pairs = eigenpairs(operator, k=3, tol=1e-2, certify="full")
    for index, bound in enumerate(pairs.provenance["angles"]):
        true = math.acos(min(1.0, float(pairs.vectors[index, index].abs())))
        assert true <= 1.01 * bound + 1e-9
        assert bound < 0.2
    assert pairs.provenance["gaps"] == pytest.approx([2, 2, 2], abs=0.05)


class NoisyOperator(FunctionOperator):
    """Exact at first; from a given product on each product carries a noise of its own."""

    def __init__(self, spectrum: Tensor, noise: float, after: int) -> None:
        super().__init__(self.noisy, len(spectrum))
        self.spectrum, self.noise, self.after, self.count = spectrum, noise, after, 0
        self.generator = torch.Generator().manual_seed(0)

    def noisy(self, vector: Tensor) -> Tensor:
        self.count += 1
        product = self.spectrum * vector
        if self.count > self.after:
            draw = torch.randn(len(vector), generator=self.generator, dtype=torch.float64)
            product = product + self.noise * draw / draw.norm()
        return product


def test_the_defect_shows_a_recurrence_that_lies() -> None:
    """Every product is wrong by 1e-8 or so: the recurrence cannot see it, and claims residuals far below."""
    spectrum = torch.linspace(10, 0, 40).double()
    noise = 1e-8
    lying = eigenpairs(NoisyOperator(spectrum, noise, 0), k=4, tol=1e-12, certify="estimate")
    exact = diagonal_operator(spectrum)
    honest = eigenpairs(exact, k=4, tol=1e-12, certify="estimate")
    assert residuals_of(honest).max() < 1e-11
    assert residuals_of(lying).min() > 0.1 * noise
    assert (true_residuals(exact, lying) <= 3 * residuals_of(lying)).all()
    assert not bool(lying.converged.any())


def test_one_product_that_differs_from_the_recurrence_is_seen() -> None:
    spectrum = torch.linspace(10, 0, 40).double()
    changed = NoisyOperator(spectrum, 0.5, 40)  # the Krylov space is exhausted by then: only the check is wrong
    pairs = eigenpairs(changed, k=4, tol=1e-14, certify="estimate")
    assert changed.count == 41
    assert residuals_of(pairs) == pytest.approx([0.5] * 4, rel=1e-6)
    assert not bool(pairs.converged.any())


# -- memory, limits, progress ------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_thick_restart_agrees_with_an_unrestricted_basis(which: Which) -> None:
    size, k = 300, 4
    spectrum = torch.sort(random_vector(size, 3), descending=True).values
    operator = diagonal_operator(spectrum)
    free = eigenpairs(operator, k=k, which=which, tol=1e-10)
    small = eigenpairs(operator, k=k, which=which, tol=1e-10, basis_budget=20 * size * 8)
    assert small.matvecs is not None
    assert free.matvecs is not None
    assert small.matvecs > 20  # it was restarted
    assert values_of(small) == pytest.approx(values_of(free), rel=1e-9)
    cosines = (small.vectors * free.vectors).sum(dim=1).abs()
    assert float((1 - cosines).max()) < 1e-9
    assert_orthonormal(small)
    assert residuals_of(small).max() < 1e-9


def test_a_restarted_search_of_the_complement_finds_copies() -> None:
    spectrum = torch.cat([torch.tensor([5.0] * 3), torch.linspace(4, 0, 197)]).double()
    pairs = eigenpairs(diagonal_operator(spectrum), k=4, tol=1e-8, certify="complete", basis_budget=24 * 200 * 8)
    assert values_of(pairs) == pytest.approx([5, 5, 5, 4], rel=1e-7)
    assert pairs.matvecs is not None
    assert pairs.matvecs > 24


def test_the_budget_is_kept() -> None:
    operator = diagonal_operator(decaying(500))
    space = KrylovSpace(operator, 20, as_generator(0))
    order = lambda values: np.argsort(-values)  # noqa: E731
    for _ in range(60):
        if space.size == space.capacity:
            space.restart(space.ritz(order), 8)
        space.grow()
        assert len(space.rows) <= 21
        gram = space.basis @ space.basis.T
        assert float((gram - torch.eye(space.size)).abs().max()) < 1e-13
        exact = space.basis @ (operator @ space.basis.T)  # T is the projection, also after a restart
        assert float((exact - torch.as_tensor(space.projection[: space.size, : space.size])).abs().max()) < 1e-12


@pytest.mark.parametrize("certify", CERTIFICATES)
def test_k_pairs_come_back_unconverged_when_products_run_out(certify: Certificate) -> None:
    operator = spectrum_operator(SPECTRA["separated"])
    pairs = eigenpairs(operator, k=6, tol=1e-9, max_matvecs=9, certify=certify)
    assert len(pairs) == 6
    assert_orthonormal(pairs)
    assert pairs.converged is not None
    assert not bool(pairs.converged.all())
    assert residuals_of(pairs).max() > 1e-9
    assert pairs.provenance["complement_searched"] is False
    assert pairs.matvecs is not None
    assert pairs.matvecs <= 9 + 6


def test_fewer_products_than_pairs_still_give_k_pairs() -> None:
    pairs = eigenpairs(spectrum_operator(SPECTRA["separated"]), k=6, max_matvecs=2)
    assert len(pairs) == 6
    assert_orthonormal(pairs)


@pytest.mark.parametrize("certify", CERTIFICATES)
def test_products_are_counted(certify: Certificate) -> None:
    operator = NoisyOperator(SPECTRA["separated"], 0.0, 10**9)
    pairs = eigenpairs(operator, k=4, certify=certify)
    assert pairs.matvecs == operator.count


def test_progress_is_told() -> None:
    told: list[Any] = []
    pairs = eigenpairs(spectrum_operator(decaying()), k=3, tol=1e-6, certify="complete", progress=told.append)
    assert {step.stage for step in told} == {"lanczos", "certify", "complement"}
    counts = [step.matvecs for step in told]
    assert counts == sorted(counts)
    assert counts[-1] == pairs.matvecs
    searching = [step.residual for step in told if step.stage == "lanczos"]
    assert searching[-1] <= 1e-6 < max(searching)
    assert told[0].tolerance == 1e-6


def test_the_same_seed_gives_the_same_pairs_and_no_global_generator_is_touched() -> None:
    state = torch.get_rng_state()
    operator = spectrum_operator(SPECTRA["indefinite"])
    first, again = (eigenpairs(operator, k=3, tol=1e-4, seed=5) for _ in range(2))
    assert torch.equal(first.vectors, again.vectors)
    assert not torch.equal(first.vectors, eigenpairs(operator, k=3, tol=1e-4, seed=6).vectors)
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(eigenpairs(operator, k=3, tol=1e-4, seed=generator).vectors, first.vectors)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_start_vector_is_used() -> None:
    spectrum = torch.linspace(100, 1, 100).double()
    operator = diagonal_operator(spectrum)
    cold = eigenpairs(operator, k=1, tol=1e-8)
    warm = eigenpairs(operator, k=1, tol=1e-8, start=cold.vectors[0])
    assert warm.matvecs is not None
    assert cold.matvecs is not None
    assert warm.matvecs < cold.matvecs
    assert values_of(warm) == pytest.approx([100.0])
    assert values_of(eigenpairs(operator, k=1, tol=1e-8, start=cold.vectors[0].float())) == pytest.approx([100.0])


def test_the_result_names_its_certificate_and_its_operator() -> None:
    case = adversarial_case()
    problem = Problem(case.model, classify, case.batches)
    pairs = eigenpairs(problem.hessian(), k=2)
    assert pairs.label == "Hessian eigenvectors"
    assert pairs.space == problem.space
    about = pairs.provenance
    assert (about["certificate"], about["which"], about["tol"]) == ("estimate", "LA", 1e-3)
    assert (about["operator"], about["samples"], about["mode"]) == ("hessian", 23, "evaluation")
    assert about["complement_searched"] is False


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, 61])
def test_impossible_counts_are_refused(k: int) -> None:
    with pytest.raises(InputError, match=rf"k={k} eigenpairs were asked for in a space of dimension 60; use 1 <= k"):
        eigenpairs(spectrum_operator(SPECTRA["zero"]), k=k)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"which": "BI"}, r"which='BI' is unknown; use 'LA' .*, 'BE' \(both ends\)"),
        ({"certify": "sure"}, r"certify='sure' is unknown; use 'estimate'"),
        ({"tol": 0.0}, r"tol=0.0 is not positive"),
        ({"tol": float("nan")}, r"tol=nan is not positive"),
        ({"basis_budget": 1000}, r"need a basis of 14 vectors.*raise basis_budget or ask for fewer pairs"),
        ({"start": torch.ones(59)}, r"start has shape \(59,\), expected \(60,\)"),
        ({"start": torch.full((60,), float("nan"))}, r"start .*not finite"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        eigenpairs(spectrum_operator(SPECTRA["separated"]), k=2, **settings)


def test_a_start_of_zero_is_replaced() -> None:
    pairs = eigenpairs(spectrum_operator(SPECTRA["separated"]), k=2, tol=1e-8, start=torch.zeros(60).double())
    assert values_of(pairs) == pytest.approx([60, 59])


def test_an_operator_that_is_not_symmetric_is_refused() -> None:
    matrix = random_vector(30, 0, 30)
    with pytest.raises(InputError, match=r"is not symmetric, or not the same from one product to the next"):
        eigenpairs(FunctionOperator(lambda v: matrix @ v, 30), k=3)


def test_an_operator_that_changes_is_refused() -> None:
    with pytest.raises(InputError, match="not the same from one product to the next"):
        eigenpairs(NoisyOperator(torch.linspace(10, 0, 40).double(), 0.5, 3), k=4, tol=1e-9)


@pytest.mark.parametrize("after", [0, 5])
def test_a_product_that_is_not_finite_is_refused(after: int) -> None:
    with pytest.raises(InputError, match=rf"product {after + 1} of the operator is not finite; check the loss"):
        eigenpairs(NoisyOperator(SPECTRA["separated"], float("nan"), after), k=3)
