"""What is told while a solver runs, and the time left that it makes of it."""

from __future__ import annotations

import re
from typing import Any

import nbclient
import nbformat
import pytest
import torch

from thalweg.operators.base import matrix_operator
from thalweg.progress import Countdown, Progress, counting, describe, share_done, shown
from thalweg.solvers.density import spectral_density
from thalweg.solvers.lanczos import eigenpairs
from thalweg.solvers.trace import trace


def test_every_product_is_told_with_a_falling_residual() -> None:
    values = torch.linspace(0, 1, 80, dtype=torch.float64) ** 3
    told: list[Progress] = []
    pairs = eigenpairs(matrix_operator(torch.diag(values)), 3, certify="complete", progress=told.append)
    assert [event.stage for event in told][-1] == "complement"
    searching = [event for event in told if event.stage == "lanczos"]
    assert searching[-1].residual <= searching[-1].tolerance < searching[0].residual
    assert told[-1].matvecs == pairs.matvecs
    assert {event.stage for event in told} == {"lanczos", "certify", "complement"}


@pytest.mark.parametrize("matvecs", [12, 80])  # by test vectors, and by the diagonal
def test_every_product_of_a_trace_is_told(matvecs: int) -> None:
    told: list[Progress] = []
    operator = matrix_operator(torch.diag(torch.linspace(1, 2, 80, dtype=torch.float64)))
    found = trace(operator, matvecs, progress=told.append)
    assert [(event.stage, event.matvecs, event.planned) for event in told] == [
        ("trace", count + 1, found.matvecs) for count in range(matvecs)
    ]
    assert torch.equal(trace(operator, matvecs).samples, found.samples)


def test_every_product_of_a_density_is_told() -> None:
    told: list[Progress] = []
    operator = matrix_operator(torch.diag(torch.linspace(1, 2, 30, dtype=torch.float64)))
    found = spectral_density(operator, probes=3, steps=7, progress=told.append)
    assert [(event.stage, event.matvecs, event.planned) for event in told] == [
        ("density", count + 1, 21) for count in range(found.matvecs)
    ]


def test_a_line_is_shown_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    operator = matrix_operator(torch.diag(torch.linspace(1, 2, 30, dtype=torch.float64)))
    assert trace(operator, 6, progress=True).matvecs == 6
    assert spectral_density(operator, 2, 3, progress=True).matvecs == 6
    assert capsys.readouterr().out == ""


def test_the_time_left_follows_the_products_where_their_number_is_known() -> None:
    moments = iter([0.0, 10.0, 20.0])
    clock = Countdown(now=lambda: next(moments))
    assert clock.left(Progress("trace", 1, planned=9)) is None
    assert clock.left(Progress("trace", 5, planned=9)) == pytest.approx(10.0)  # four in 10 s, four to go
    assert clock.left(Progress("trace", 9, planned=9)) == 0.0
    assert describe(Progress("trace", 5, planned=9), 10.0) == "multiplying, 5 of 9 products, about 10 s left"


def test_the_time_left_follows_the_slope_the_slope_of_the_logarithm() -> None:
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


def test_how_much_of_a_part_is_done() -> None:
    assert share_done(0, 8, 5.0) == "0 of 8"
    assert share_done(2, 8, 5.0) == "2 of 8, about 15 s left"
    with counting("trial", shown=False) as tell:
        tell(1, 2)


def test_counting_is_shown_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with counting("trial") as tell:
        tell(0, 4)
        tell(2, 4)
    found = capsys.readouterr()
    assert found.out == ""


IN_A_CELL = """
import thalweg.progress as progress
progress.OFTEN = 0.0
from thalweg import FunctionOperator, spectral_density
import torch
operator = FunctionOperator(lambda v: 2 * v * torch.arange(50).double(), 50, torch.float64)
found = spectral_density(operator, probes=2, steps=5, progress=True)
"""


def test_a_notebook_sees_a_bar_that_moves_and_goes() -> None:
    shown: list[dict[str, str]] = []

    class Client(nbclient.NotebookClient):
        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            if msg["header"]["msg_type"] in ("display_data", "update_display_data"):
                shown.append(msg["content"]["data"])
            return super().process_message(msg, cell, cell_index)

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(IN_A_CELL)])
    Client(notebook, timeout=60, kernel_name="python3").execute()
    bars = [float(part) for data in shown for part in re.findall(r'value="([\d.]+)"', data["text/html"])]
    assert bars == [n / 10 for n in range(1, 11)]
    assert "7 of 10 products" in shown[7]["text/plain"]
    assert shown[-1] == {"text/plain": "", "text/html": ""}
    assert [output["data"] for output in notebook.cells[0].outputs] == [shown[-1]]  # and no warning of anything
