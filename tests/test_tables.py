from __future__ import annotations

import json
import math

import pytest
import torch

import thalweg as tw
from thalweg.errors import InputError
from thalweg.tables import Table, format_value, json_value

TABLE = Table(("layer", "value", "count"), (("first", 0.123456, 1200), ("<b>&", math.nan, None)))


def test_columns_rows_and_records() -> None:
    assert TABLE["layer"] == ["first", "<b>&"]
    assert len(TABLE) == 2
    assert next(iter(TABLE)) == {"layer": "first", "value": 0.123456, "count": 1200}
    assert Table.of(list(TABLE)).columns == TABLE.columns
    assert len(Table.of([])) == 0


def test_text_aligns_numbers_right_and_words_left() -> None:
    lines = str(TABLE).splitlines()
    assert lines == ["layer   value  count", "first  0.1235  1,200", "<b>&      nan      –"]


def test_html_is_escaped() -> None:
    page = Table(("<i>",), (("<script>alert('x')</script>",),))._repr_html_()
    assert "<script>" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)" in page


def test_json_has_no_word_for_not_a_number() -> None:
    text = json.dumps(TABLE.to_json(), allow_nan=False)
    assert json.loads(text)[1] == {"layer": "<b>&", "value": None, "count": None}
    assert json_value(math.inf) is None
    assert json_value(0) == 0


def test_pandas_gets_the_same_rows() -> None:
    pandas = pytest.importorskip("pandas")
    frame = TABLE.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == list(TABLE.columns)
    assert frame["layer"].tolist() == TABLE["layer"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (True, "True"), (1234567, "1,234,567"), (1e-12, "1e-12"), (math.inf, "inf"), ("word", "word")],
)
def test_values_read_well(value: object, text: str) -> None:
    assert format_value(value) == text


def test_bad_tables_are_refused() -> None:
    with pytest.raises(InputError, match=r"a row has 1 values for 2 columns: \(1,\)"):
        Table(("a", "b"), ((1,),))
    with pytest.raises(InputError, match=r"no column 'valeu'; the nearest are 'value'"):
        TABLE["valeu"]


# -- results that show themselves ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results():
    """One of each kind, on a net that knows its truth."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    draw = torch.Generator().manual_seed(1)

    def batches(count):
        return [
            (torch.randn(n, 3, generator=draw).double(), torch.randint(2, (n,), generator=draw)) for n in (count, 9)
        ]

    problem, other = (
        tw.Problem(model, lambda m, b: torch.nn.functional.cross_entropy(m(b[0]), b[1]), batches(n)) for n in (20, 12)
    )
    pairs = tw.eigenpairs(problem.hessian(), k=3)
    return {
        "pairs": pairs,
        "components": tw.Directions(torch.eye(26).double()[:2], label="<b>mine</b>"),
        "overlap": tw.overlap(pairs, tw.random_directions(problem.space, 4, seed=0, dtype=torch.float64)),
        "held_out": tw.held_out_spectrum(problem, other, k=2),
        "halves": tw.halves(problem, k=2),
        "sharpness": tw.relative_sharpness(problem),
        "trace": tw.trace(problem.hessian(), matvecs=10),
        "density": tw.spectral_density(problem.hessian(), probes=2, steps=8),
        "alignment": tw.weight_alignment(pairs, problem.weights()),
    }


KINDS = ("pairs", "components", "overlap", "held_out", "halves", "sharpness", "trace", "density", "alignment")


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_shows_itself_and_becomes_a_data_frame(results, kind):
    result = results[kind]
    page, table, frame = result._repr_html_(), result.to_table(), result.to_pandas()
    assert page.count("<tr>") == len(table) + 1
    assert "<b>" not in page
    assert list(frame.columns) == list(table.columns)
    assert len(frame) == len(table)


def test_the_shown_figures_are_the_results(results):
    pairs, overlap = results["pairs"], results["overlap"]
    assert pairs.to_table()["value"] == pairs.values.tolist()
    assert pairs.to_table()["residual"] == pairs.residuals.tolist()
    assert overlap.to_table()["captured"] == [*overlap.captured.tolist(), overlap.mean]
    assert overlap.to_table()["uniform"][-1] == overlap.expected
    assert dict(results["trace"].to_table().rows)["value"] == results["trace"].value
    assert results["held_out"].to_table()["across"] == results["held_out"].across.tolist()
