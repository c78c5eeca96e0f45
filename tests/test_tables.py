from __future__ import annotations

import json
import math

import pytest

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
