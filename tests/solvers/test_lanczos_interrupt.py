"""Ctrl-C during a product, and why a search ended."""

from __future__ import annotations

import math
import signal
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import SPECTRA, decaying, diagonal_operator, spectrum_operator
from tests.solvers.test_lanczos import (
    CERTIFICATES,
    NoisyOperator,
    assert_orthonormal,
    residuals_of,
    true_residuals,
    values_of,
)
from thalweg.operators.base import FunctionOperator
from thalweg.solvers.certify import Certificate
from thalweg.solvers.lanczos import eigenpairs


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises, also where the tests were started in the background, whose processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupted(FunctionOperator):
    """A diagonal operator during some of whose products somebody presses Ctrl-C."""

    def __init__(self, spectrum: Tensor, at: Collection[int]) -> None:
        super().__init__(self.pressed, len(spectrum))
        self.spectrum, self.at, self.count = spectrum, at, 0

    def pressed(self, vector: Tensor) -> Tensor:
        self.count += 1
        if self.count in self.at:
            signal.raise_signal(signal.SIGINT)
        return self.spectrum * vector


@pytest.mark.parametrize("certify", CERTIFICATES)
def test_what_has_converged_by_then_comes_back(certify: Certificate) -> None:
    spectrum = torch.cat([torch.tensor([100.0, 80.0]), torch.linspace(10, 0, 198)]).double()
    operator = Interrupted(spectrum, {15})
    pairs = eigenpairs(operator, k=5, tol=1e-4, certify=certify)
    assert len(pairs) == 5
    assert_orthonormal(pairs)
    assert pairs.converged.tolist() == [True, True, False, False, False]
    assert values_of(pairs)[:2] == pytest.approx([100, 80], rel=1e-6)
    assert (true_residuals(diagonal_operator(spectrum), pairs) <= residuals_of(pairs) * 1.0001 + 1e-12).all()
    assert (pairs.provenance["interrupted"], pairs.provenance["reason"]) == (True, "interrupted")
    assert pairs.provenance["certificate"] == "estimate"
    assert pairs.provenance["complement_searched"] is False
    assert (pairs.matvecs, operator.count) == (15, 16)  # 14 finished, one was broken off, one checks


@pytest.mark.parametrize(("at", "known"), [(1, 0), (2, 1), (4, 3), (7, 6)])
def test_k_pairs_come_back_however_early(at: int, known: int) -> None:
    pairs = eigenpairs(Interrupted(torch.linspace(10, 0, 40).double(), {at}), k=6)
    assert len(pairs) == 6
    assert_orthonormal(pairs)
    assert np.isfinite(values_of(pairs)).tolist() == [True] * known + [False] * (6 - known)
    assert np.isinf(residuals_of(pairs)).tolist() == [False] * known + [True] * (6 - known)
    assert not bool(pairs.converged.any())
    assert pairs.provenance["gaps"][known:] == [0.0] * (6 - known)
    assert pairs.provenance["angles"][known:] == [math.pi / 2] * (6 - known)


def test_a_second_one_is_raised() -> None:
    operator = Interrupted(torch.linspace(10, 0, 40).double(), {12, 13})
    with pytest.raises(KeyboardInterrupt):
        eigenpairs(operator, k=3, tol=1e-9)
    assert operator.count == 13


@pytest.mark.parametrize(("certify", "level"), [("estimate", "none"), ("full", "none"), ("complete", "full")])
def test_during_the_check_it_keeps_what_is_known(certify: Certificate, level: str) -> None:
    spectrum = SPECTRA["separated"]
    search = eigenpairs(diagonal_operator(spectrum), k=3).matvecs - 1  # less the product that checks
    at = search + (1 if certify != "complete" else 3 + 5)
    pairs = eigenpairs(Interrupted(spectrum, {at}), k=3, certify=certify)
    assert values_of(pairs) == pytest.approx([60, 59, 58], abs=1e-3)
    assert (pairs.provenance["certificate"], pairs.provenance["reason"]) == (level, "interrupted")
    assert bool(pairs.converged.all())


def test_pairs_found_in_the_complement_are_kept() -> None:
    spectrum = torch.cat([torch.tensor([10.0, 10.0, 10.0]), torch.linspace(5, 0.1, 57)]).double()
    start = torch.ones(60, dtype=torch.float64)
    start[1:3] = 0.0
    whole = eigenpairs(diagonal_operator(spectrum), k=3, tol=1e-6, certify="complete", start=start)
    assert whole.provenance["missed_and_found"] == 2
    operator = Interrupted(spectrum, {whole.matvecs - 5})  # in the last search, which finds nothing more
    pairs = eigenpairs(operator, k=3, tol=1e-6, certify="complete", start=start)
    assert values_of(pairs) == pytest.approx([10, 10, 10], rel=1e-6)
    assert pairs.provenance["missed_and_found"] == 2
    assert (pairs.provenance["certificate"], pairs.provenance["complement_searched"]) == ("full", False)


def test_a_rounded_basis_is_interrupted_too() -> None:
    spectrum = torch.cat([torch.tensor([100.0, 80.0]), torch.linspace(10, 0, 198)]).double()
    pairs = eigenpairs(Interrupted(spectrum, {15}), k=5, tol=1e-2, basis="bfloat16")
    assert pairs.provenance["certificate"] == "estimate"
    true = true_residuals(diagonal_operator(spectrum), pairs)
    assert true.max() > 0.02  # the recurrence claims far less for the first two; one product has shown that
    assert residuals_of(pairs).min() > 0.02
    assert (true <= 3 * residuals_of(pairs)).all()


# -- reasons ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason", "certificate"),
    [
        ({}, "converged", "estimate"),
        ({"certify": "complete"}, "converged", "complete"),
        ({"max_matvecs": 9, "tol": 1e-9}, "max_matvecs", "estimate"),
        ({"max_matvecs": 9, "tol": 1e-9, "certify": "complete"}, "max_matvecs", "full"),
        ({"max_matvecs": 1}, "max_matvecs", "estimate"),
        ({"k": 60}, "exhausted", "estimate"),
        ({"basis": "bfloat16"}, "converged", "full"),
    ],
)
def test_the_reason_and_the_certificate_that_was_reached(
    settings: dict[str, Any], reason: str, certificate: str
) -> None:
    pairs = eigenpairs(spectrum_operator(decaying()), **{"k": 4, **settings})
    assert (pairs.provenance["reason"], pairs.provenance["certificate"]) == (reason, certificate)
    assert pairs.provenance["interrupted"] is False


def test_a_search_of_the_complement_that_ran_out_of_products_says_so() -> None:
    operator = spectrum_operator(SPECTRA["separated"])
    full = eigenpairs(operator, k=3, certify="full").matvecs
    short = eigenpairs(operator, k=3, certify="complete", max_matvecs=full + 5)
    assert (short.provenance["certificate"], short.provenance["complement_searched"]) == ("full", False)
    assert short.matvecs == full + 5


def test_a_recurrence_that_the_check_does_not_bear_out_is_called_unconfirmed() -> None:
    lying = eigenpairs(NoisyOperator(torch.linspace(10, 0, 200).double(), 1e-8, 0), k=2, tol=1e-11)
    assert lying.provenance["reason"] == "unconfirmed"
    assert not bool(lying.converged.any())
