"""What is told while a solver runs, and the time left that it makes of it."""

from __future__ import annotations

import pytest
import torch

from thalweg.operators.base import matrix_operator
from thalweg.progress import Countdown, Progress, describe, shown
from thalweg.solvers.lanczos import eigenpairs


def test_every_product_is_told_with_a_falling_residual() -> None:
    values = torch.linspace(0, 1, 80, dtype=torch.float64) ** 3
    told: list[Progress] = []
    pairs = eigenpairs(matrix_operator(torch.diag(values)), 3, certify="complete", progress=told.append)
    assert [event.stage for event in told][-1] == "complement"
    searching = [event for event in told if event.stage == "lanczos"]
    assert searching[-1].residual <= searching[-1].tolerance < searching[0].residual
    assert told[-1].matvecs == pairs.matvecs
    assert {event.stage for event in told} == {"lanczos", "certify", "complement"}


def test_the_time_left_follows_the_slope_of_the_logarithm() -> None:
    moments = iter([0.0, 10.0, 20.0])
    clock = Countdown(now=lambda: next(moments))
    assert clock.left(Progress("lanczos", 1, 1e-1, 1e-4)) is None
    assert clock.left(Progress("lanczos", 2, 1e-2, 1e-4)) == pytest.approx(20.0)  # a decade in 10 s, two to go
    assert clock.left(Progress("lanczos", 3, 1e-3, 1e-4)) == pytest.approx(10.0)


def test_nothing_is_promised_while_the_residual_rises_or_is_unknown() -> None:
    moments = iter([0.0, 10.0, 20.0])
    clock = Countdown(now=lambda: next(moments))
    assert clock.left(Progress("lanczos", 1, float("inf"), 1e-4)) is None
    assert clock.left(Progress("lanczos", 1, 1e-2, 1e-4)) is None
    assert clock.left(Progress("lanczos", 2, 1e-1, 1e-4)) is None


def test_a_line_says_products_residual_and_time_left() -> None:
    assert describe(Progress("lanczos", 23, 0.04, 1e-3), 12.4) == (
        "searching, 23 products, residual 4.0e-02 → 1e-03, about 12 s left"
    )
    assert describe(Progress("certify", 31, 0.0, 1e-3), None) == "checking, 31 products"


def test_the_line_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(True, "10 eigenpairs") as tell:
        assert tell is not None
        tell(Progress("lanczos", 5, 0.1, 1e-3))
    assert capsys.readouterr().out == ""
    with shown(False, "") as tell:
        assert tell is None
