"""Small labelled tables: text, escaped HTML, JSON, and pandas where it is installed."""

from __future__ import annotations

import html
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from thalweg.errors import InputError, MissingExtraError, nearest

LINE = 160
"""Letters of a representation that stand above a table at the most."""


@dataclass(frozen=True)
class Table:
    """Rows of plain values under named columns.

    Attributes:
        columns: one name for each column.
        rows: tuples as long as `columns`; strings, numbers, booleans or None.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise InputError(f"a row has {len(row)} values for {len(self.columns)} columns: {row!r}")

    @classmethod
    def of(cls, records: Sequence[dict[str, Any]]) -> Table:
        """A table from dictionaries with the same keys."""
        if not records:
            return cls((), ())
        columns = tuple(records[0])
        return cls(columns, tuple(tuple(record[name] for name in columns) for record in records))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.rows:
            yield dict(zip(self.columns, row, strict=True))

    def __getitem__(self, column: str) -> list[Any]:
        """The values of one column."""
        if column not in self.columns:
            raise InputError(f"no column {column!r}; the nearest are {nearest(column, self.columns)}")
        position = self.columns.index(column)
        return [row[position] for row in self.rows]

    def __str__(self) -> str:
        cells = [list(self.columns), *([format_value(value) for value in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        numeric = [all(_is_number(row[i]) for row in self.rows) for i in range(len(self.columns))]
        lines = []
        for row in cells:
            padded = (
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, numeric, strict=True)
            )
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Escaped HTML, which notebooks show by themselves."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(format_value(value))}</td>" for value in row) + "</tr>"
            for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def to_json(self) -> list[dict[str, Any]]:
        """The rows as dictionaries of plain values; not-a-number and infinities become None."""
        return [{name: json_value(value) for name, value in record.items()} for record in self]

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("pandas is not installed; pip install 'thalweg[pandas]'") from error
        return pd.DataFrame(list(self.rows), columns=list(self.columns))


class Tabular(ABC):
    """A result that shows itself in a notebook: a line that says what it is, and its table."""

    @abstractmethod
    def to_table(self) -> Table:
        """The figures a person looks at first, as a table."""

    def to_pandas(self) -> Any:
        """The same as a `pandas.DataFrame`.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        return self.to_table().to_pandas()

    def _repr_html_(self) -> str:
        """Escaped HTML, which notebooks show by themselves."""
        told = repr(self)
        told = told if len(told) <= LINE else type(self).__name__
        return f"<p>{html.escape(told)}</p>{self.to_table()._repr_html_()}"


def quantities(**values: Any) -> Table:
    """A table with a row for each named value."""
    return Table.of([{"quantity": name.replace("_", " "), "value": value} for name, value in values.items()])


def format_value(value: Any) -> str:
    """A value as a person reads it: four significant digits, counts with separators, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4g}"


def json_value(value: Any) -> Any:
    """The value itself, or None where JSON has no word for it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
