"""Figures of the benchmarks: panels in the report's colours, as one SVG whose text is text."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from thalweg.show import svg
from thalweg.show.palette import colour


@contextmanager
def panels(path: Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator[Any]:
    """A grid of axes, `(rows, columns)`, to draw on; the file is written at the end.

    Args:
        path: where to.
        rows: of panels.
        columns: of panels.
        size: of the figure, in inches of 72 points.
    """
    with mpl.rc_context(svg.SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size, dpi=72, facecolor=colour("paper"), layout="constrained")
        figure.set_canvas(FigureCanvasSVG(figure))
        yield figure.subplots(rows, columns, squeeze=False)
        figure.get_layout_engine().set(w_pad=8 / 72, h_pad=8 / 72)
        figure.align_ylabels()
        figure.savefig(path, format="svg", facecolor=colour("paper"), metadata={"Date": None, "Creator": None})
