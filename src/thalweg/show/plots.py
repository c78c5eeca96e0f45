"""Plots on given matplotlib axes: each draws what the analysis holds and computes no statistic.

Every function takes the axes, a part of the analysis (see `thalweg.workflow`) and the words to label it with, so the
same code makes the report and a paper's figure:

```python
figure = matplotlib.figure.Figure()
plots.eigenvalues(figure.add_subplot(), stage["spectrum"], words=Words("en"))
```

Legends are left to the page around a plot, where text wraps and can be read by a screen reader; a paper can call
`axes.legend()`, since everything drawn carries its label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from thalweg.show import numbers, style
from thalweg.show.messages import Words
from thalweg.show.palette import LEVELS, MARKERS, colour, tint

HEAT_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5)
"""Where the tints of a heat map change, in squared inner products."""
MOST_POINTS = 600


def path(axes: Axes, points: Sequence[Sequence[float]], explained: Sequence[float], words: Words, hue: str) -> None:
    """A path in the plane of its first two components: paler is earlier, a ring the start and a disc the end.

    Args:
        axes: drawn on.
        points: (n, 2) coordinates.
        explained: shares of variance of the two components.
        words: the language of the labels.
        hue: the palette's name for what moves.
    """
    points = [points[i] for i in numbers.thinned(len(points), MOST_POINTS)]
    parts = LEVELS - 1
    edges = [round(part * (len(points) - 1) / parts) for part in range(parts + 1)]
    for level, (first, last) in enumerate(pairwise(edges), 1):
        x, y = zip(*points[first : last + 1], strict=True)
        axes.plot(x, y, color=tint(hue, level), linewidth=1.8, solid_capstyle="round", zorder=2 + level / 100)
    for point, fill in ((points[0], colour("paper")), (points[-1], colour(hue))):
        axes.plot(*point, "o", markersize=8, markerfacecolor=fill, markeredgecolor=colour(hue), zorder=4)
    axes.margins(0.1)
    axes.set_aspect("equal", adjustable="datalim")
    style.frame(axes, grid="both")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    across, up = (
        words.plain("plot.component", number=number, share=numbers.percent(share))
        for number, share in enumerate(explained[:2], 1)
    )
    axes.set_xlabel(across, color=colour("muted"))
    axes.set_ylabel(up, color=colour("muted"))


def explained_total(axes: Axes, curves: Mapping[str, Sequence[float]], words: Words) -> None:
    """Variance explained by the first components together, one curve for each source.

    Args:
        axes: drawn on.
        curves: share of variance of each component, by source: a hue of the palette, "random_walk" or
            "random_updates".
        words: the language of the labels.
    """
    for source, explained in curves.items():
        _curve(axes, source, list(accumulate(explained)), words)
    axes.set_ylim(0, 1.02)
    style.percent(axes.yaxis)
    axes.set_xlabel(words.plain("plot.components"), color=colour("muted"))
    style.frame(axes, grid="y")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def explained_each(axes: Axes, curves: Mapping[str, Sequence[float]], words: Words) -> None:
    """Variance explained by each component on two logarithmic axes, where a random walk is a straight line."""
    for source, explained in curves.items():
        _curve(axes, source, [share if share > 0 else math.nan for share in explained], words)
    axes.set_xscale("log")
    axes.set_yscale("log")
    top = [share for explained in curves.values() for share in explained if share > 0]
    axes.set_ylim(max(min(top) / 1.5, 1e-6), 1.3)
    longest = max(len(explained) for explained in curves.values())
    axes.xaxis.set_major_locator(FixedLocator([n for n in (1, 2, 5, 10, 20, 50, 100) if n <= longest]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.set_xlabel(words.plain("plot.component_number"), color=colour("muted"))
    style.frame(axes, grid="y")


def eigenvalues(
    axes: Axes,
    spectrum: Mapping[str, Any],
    words: Words,
    sampling: Mapping[str, Any] | None = None,
    held_out: Sequence[float] = (),
) -> None:
    """Eigenvalues in order with their residuals, and the curvature found on two halves of the data.

    A hollow mark has not converged. The bar spans the half that gave the vector and the half that did not.

    Args:
        axes: drawn on.
        spectrum: `values`, `residuals` and `converged`, each of length k.
        words: the language of the labels.
        sampling: `half_values` and `other_half`, each of length k.
        held_out: (k,) curvature along the same directions on held-out data.
    """
    values = spectrum["values"]
    places = list(range(1, len(values) + 1))
    drawn = [*values, *held_out]
    axes.plot(
        [place - 0.28 for place in places[: len(held_out)]], held_out[: len(values)], "o", markersize=4.5,
        color=colour("ink"), markerfacecolor=colour("paper"), markeredgewidth=1.1, zorder=3,
    )  # fmt: skip
    if sampling:
        halves = list(zip(sampling["half_values"], sampling["other_half"], strict=True))[: len(values)]
        drawn += [value for pair in halves for value in pair]
        for place, (first, other) in enumerate(halves, 1):
            x = place + 0.28
            axes.plot([x, x], [first, other], color=colour("chance"), linewidth=1.2, zorder=2)
            axes.plot(x, first, "_", color=colour("chance"), markersize=7, markeredgewidth=1.5)
            axes.plot(x, other, "o", color=colour("chance"), markersize=3.5)
    hue = colour("eigenvectors")
    residuals = [value or 0.0 for value in spectrum.get("residuals") or [0.0] * len(values)]
    axes.errorbar(places, values, yerr=residuals, fmt="none", ecolor=hue, elinewidth=1.2, capsize=2.5, zorder=3)
    converged = spectrum.get("converged") or [True] * len(values)
    for place, value, good in zip(places, values, converged, strict=True):
        face = hue if good else colour("paper")
        (mark,) = axes.plot(
            place, value, MARKERS["eigenvectors"], markersize=6, color=hue, markerfacecolor=face, zorder=4
        )
        told = words.plain("plot.eigenvalue_number"), [str(place)]
        style.tell(mark, told, (words.plain("plot.curvature"), [numbers.number(value)]))
    style.measure(axes, "y", drawn)
    style.number_axis(axes, len(values), words.plain("plot.eigenvalue_number"))
    axes.set_ylabel(words.plain("plot.curvature"), color=colour("muted"))
    style.frame(axes, grid="y")


def spectra(axes: Axes, stages: Sequence[Mapping[str, Any]], words: Words) -> None:
    """The top eigenvalues at several moments of training, one line for each place in the order."""
    steps = [stage["step"] for stage in stages]
    lines = list(zip(*(stage["spectrum"]["values"] for stage in stages), strict=False))
    for place in reversed(range(len(lines))):
        level = LEVELS - 1 if place == 0 else max(2, LEVELS - 3 - place * (LEVELS - 2) // max(1, len(lines)))
        (marks,) = axes.plot(
            steps,
            lines[place],
            MARKERS["eigenvectors"] + "-",
            color=tint("eigenvectors", level),
            markersize=5 if place == 0 else 3,
            linewidth=1.8 if place == 0 else 1,
        )
        across = words.plain("plot.step"), [numbers.count(step) for step in steps]
        curvatures = words.plain("plot.curvature"), [numbers.number(value) for value in lines[place]]
        style.tell(marks, across, curvatures, f"{words.plain('plot.eigenvalue_number')}: {place + 1}")
    style.measure(axes, "y", [value for line in lines for value in line])
    style.step_axis(axes, steps, words.plain("plot.step"))
    axes.set_ylabel(words.plain("plot.curvature"), color=colour("muted"))
    style.frame(axes, grid="y")


def agreement(axes: Axes, rows: Sequence[Mapping[str, Any]], words: Words) -> None:
    """Share of the top eigenspace captured by each set of components, beside both nulls.

    A full mark belongs to the stage's own window, a hollow one to the whole run up to there; the grey `|` is a
    uniformly random subspace, the grey dot one of random directions with the same energy in each layer.

    Args:
        axes: drawn on.
        rows: one stage's agreement.
        words: the language of the labels.
    """
    groups = {source: sorted({row["components"] for row in rows if row["source"] == source}) for source in MARKERS}
    heights: dict[tuple[str, int], float] = {}
    for source, counts in groups.items():
        for m in counts:
            heights[source, m] = len(heights) + 0.6 * len({s for s, _ in heights} - {source})
    for row in rows:
        y, source = heights[row["source"], row["components"]], row["source"]
        own = is_own(row, rows)
        nulls = row.get("nulls") or {}
        for name, mark, size in (("uniform", "|", 11), ("layer_matched", "o", 4)):
            if own and nulls.get(name):
                at = nulls[name]["expected"]
                axes.plot(at, y, mark, color=colour("chance"), markersize=size, markeredgewidth=1.2, zorder=3)
        face = colour(source) if own else colour("paper")
        (drawn,) = axes.plot(
            row["captured"],
            y,
            MARKERS[source],
            markersize=7,
            color=colour(source),
            markerfacecolor=face,
            markeredgewidth=1.4,
            zorder=5 if own else 4,
        )
        what = words.plain("plot.set", source=words.plain(f"source.{source}"), components=row["components"])
        style.tell(drawn, ("", [what]), ("", [numbers.percent(row["captured"])]))
    labels = [
        words.plain("plot.set", source=words.plain(f"source.{s}"), components=m) if m == groups[s][0] else str(m)
        for s, m in heights
    ]
    axes.set_yticks(list(heights.values()), labels)
    axes.set_ylim(max(heights.values()) + 0.7, -0.7)
    axes.set_xlim(-0.03, 1.03)
    style.percent(axes.xaxis)
    style.frame(axes, grid="x")
    axes.hlines(list(heights.values()), 0, 1, color=colour("grid"), linewidth=0.8, zorder=1)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def is_own(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the components come from the stage's own window; in the first stage that is the whole run so far."""
    return row.get("window_name") != "whole run" or all(other.get("window_name") == "whole run" for other in rows)


def heat_map(axes: Axes, squared: Sequence[Sequence[float]], words: Words, columns: str) -> None:
    """Squared inner products of eigenvectors (down) and components (across), in the steps of `HEAT_BOUNDS`.

    The number at the end of a row is its sum: the share of that eigenvector within all components shown.

    Args:
        axes: drawn on.
        squared: (k, m) values from 0 to 1.
        words: the language of the labels.
        columns: the source of the components.
    """
    width = len(squared[0])
    cells: dict[int, list[tuple[int, int]]] = {level: [] for level in range(LEVELS)}
    for y, row in enumerate(squared):
        for x, value in enumerate(row):
            cells[heat_level(value)].append((x, y))
    axes.set_xlim(0.5, width + 0.5)
    axes.set_ylim(len(squared) + 0.5, 0.5)
    for level, places in cells.items():
        if places:
            axes.add_patch(PathPatch(style.squares(places), facecolor=tint("eigenvectors", level), linewidth=0))
    for y, row in enumerate(squared, 1):
        columns_at = list(range(1, width + 1))
        across = words.plain("plot.of_source", source=words.plain(f"source.{columns}")), [str(x) for x in columns_at]
        shares = "", [numbers.percent(value) for value in row]
        style.tell(
            style.unseen(axes, columns_at, [y] * width, "eigenvectors"),
            across,
            shares,
            f"{words.plain('plot.eigenvector_number')}: {y}",
        )
        axes.annotate(
            numbers.percent(sum(row)), (width + 0.5, y), (5, 0), textcoords="offset points", va="center",
            fontsize=style.SMALL, color=colour("ink"), annotation_clip=False,
        )  # fmt: skip
    axes.xaxis.set_major_locator(FixedLocator(style.some(range(1, width + 1))))
    axes.yaxis.set_major_locator(FixedLocator(style.some(range(1, len(squared) + 1))))
    axes.set_xlabel(words.plain("plot.of_source", source=words.plain(f"source.{columns}")), color=colour("muted"))
    axes.set_ylabel(words.plain("plot.eigenvector_number"), color=colour("muted"))
    style.frame(axes, grid="")
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def heat_level(value: float) -> int:
    """The tint of a squared inner product."""
    return sum(value >= bound for bound in HEAT_BOUNDS)


def layer_curvature(axes: Axes, layers: Sequence[Mapping[str, Any]], words: Words, net: float | None) -> None:
    """The largest eigenvalue of every layer's own block, in order of depth, and the whole net's as a line."""
    hue = colour("eigenvectors")
    places = list(range(len(layers)))
    values = [layer["values"][0] if layer.get("values") else math.nan for layer in layers]
    if net is not None:
        axes.axvline(net, color=hue, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)
    axes.hlines(places, 0, values, color=tint("eigenvectors", 2), linewidth=1.5, zorder=2)
    (marks,) = axes.plot(values, places, MARKERS["eigenvectors"], color=hue, markersize=6, zorder=3)
    curvatures = words.plain("plot.curvature"), [numbers.number(value) for value in values]
    style.tell(marks, ("", [numbers.clip(layer["layer"], 60) for layer in layers]), curvatures)
    style.layer_names(axes, layers)
    style.measure(axes, "x", [value for value in [*values, net] if value is not None], from_zero=True)
    axes.set_xlabel(words.plain("plot.curvature"), color=colour("muted"))
    style.frame(axes, grid="x")


def layer_shares(axes: Axes, layers: Sequence[Mapping[str, Any]], words: Words) -> None:
    """Each layer's share of the parameters (a tick) beside its share of updates and of eigenvectors."""
    total = sum(layer["parameters"] for layer in layers) or 1
    places = list(range(len(layers)))
    chance = [layer["parameters"] / total for layer in layers]
    parts = {
        "weights": [layer.get("weight_energy") for layer in layers],
        "updates": [layer.get("update_energy") for layer in layers],
        "eigenvectors": [layer.get("eigenvector_energy") for layer in layers],
    }
    axes.hlines(places, 0, 1, color=colour("grid"), linewidth=0.8, zorder=1)
    bottoms, tops = [place - 0.36 for place in places], [place + 0.36 for place in places]
    axes.vlines(chance, bottoms, tops, color=colour("chance"), linewidth=1.6, zorder=2)
    for shift, (source, shares) in zip((0.22, 0.0, -0.22), parts.items(), strict=True):
        known = [(share, place) for share, place in zip(shares, places, strict=True) if share is not None]
        if known:
            x, y = [share for share, _ in known], [place + shift for _, place in known]
            (marks,) = axes.plot(x, y, MARKERS[source], color=colour(source), markersize=5.5, zorder=3)
            names = "", [numbers.clip(layers[place]["layer"], 60) for _, place in known]
            heading = words.plain(f"source.{source}")
            style.tell(marks, names, ("", [numbers.percent(share) for share in x]), heading)
    style.layer_names(axes, layers)
    axes.set_xlim(-0.03, 1.03)
    style.percent(axes.xaxis)
    axes.set_xlabel(words.plain("plot.share"), color=colour("muted"))
    style.frame(axes, grid="x")


def _curve(axes: Axes, source: str, values: Sequence[float], words: Words) -> None:
    dashes = {"random_walk": (0, (4, 3)), "random_updates": (0, (1, 2))}
    places = range(1, len(values) + 1)
    label = words.plain(f"source.{source}")
    if source in dashes:
        axes.plot(places, values, color=colour("chance"), linewidth=1.6, linestyle=dashes[source], label=label)
        return
    shown = [n - 1 for n in (1, 2, 3, 5, 10, 20, 30, 40, 50, 75, 100) if n <= len(values)]
    shown = [place for place in shown if math.isfinite(values[place])]
    axes.plot(places, values, color=colour(source), linewidth=1.6)
    chosen = [values[place] for place in shown]
    (marks,) = axes.plot(
        [place + 1 for place in shown], chosen, MARKERS[source], color=colour(source), markersize=5, label=label
    )
    across = words.plain("plot.components"), [str(place + 1) for place in shown]
    style.tell(marks, across, ("", [numbers.percent(value) for value in chosen]), label)
