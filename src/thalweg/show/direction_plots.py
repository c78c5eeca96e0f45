"""Plots of what is known of directions: the drift's speeds and losses, alignment, the Hessian out of components.

Made like those of `plots`: each draws what the analysis holds, on given axes, and computes no statistic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from thalweg.show import numbers, style
from thalweg.show.messages import Words
from thalweg.show.palette import MARKERS, colour

LAW_DASHES: Mapping[str, Any] = {"constant": (0, (1, 2)), "exponential": (0, (4, 3)), "power law": "solid"}


def drift_speeds(axes: Axes, speeds: Mapping[str, Any], words: Words) -> None:
    """Speed of the drift in each block, over its mean, with the three laws fitted to it.

    Args:
        axes: drawn on.
        speeds: `clock`, `values`, and `fits` with their curves over `ticks`.
        words: the language of the labels.
    """
    clock, values = speeds["clock"], speeds["values"]
    style.reference(axes, 0)
    for fit in speeds["fits"]:
        axes.plot(
            speeds["ticks"],
            fit["curve"],
            color=colour("muted"),
            linewidth=1.4,
            linestyle=LAW_DASHES[fit["name"]],
            label=words.plain(f"law.{fit['name']}"),
            zorder=2,
        )
    (marks,) = axes.plot(clock, values, MARKERS["drift"], color=colour("drift"), markersize=6, zorder=3)
    across = words.plain("plot.clock"), [numbers.number(tick) for tick in clock]
    style.tell(marks, across, (words.plain("plot.speed"), [numbers.number(value) for value in values]))
    low, high = min(values), max(values)
    axes.set_ylim(min(low, 0) - 0.08 * (high - low), high + 0.12 * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(words.plain("plot.clock"), color=colour("muted"))
    axes.set_ylabel(words.plain("plot.speed"), color=colour("muted"))
    style.frame(axes, grid="y")


def layer_costs(axes: Axes, layers: Sequence[Mapping[str, Any]], words: Words) -> None:
    """What noise in each layer costs, in order of depth, with its interval over batches where there is one.

    Args:
        axes: drawn on.
        layers: with `layer`, `noise_cost`, and `noise_cost_low` and `noise_cost_high` or None.
        words: the language of the labels.
    """
    hue, shown = colour("eigenvectors"), []
    for place, layer in enumerate(layers):
        value, low, high = (layer[f"noise_cost{end}"] for end in ("", "_low", "_high"))
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=hue, linewidth=1.8, zorder=2)
            shown += [low, high]
        (mark,) = axes.plot(value, place, MARKERS["eigenvectors"], color=hue, markersize=6, zorder=3)
        cost = numbers.number(value)
        if low is not None and high is not None:
            cost = words.plain("layers.ranged", value=cost, low=numbers.number(low), high=numbers.number(high))
        told = words.plain("layers.column.noise_cost"), [cost]
        style.tell(mark, ("", [numbers.clip(layer["layer"], 60)]), told)
        shown.append(value)
    style.layer_names(axes, layers)
    style.measure(axes, "x", shown, from_zero=True)
    axes.set_xlabel(words.plain("plot.noise_cost"), color=colour("muted"))
    style.frame(axes, grid="x")


def losses_ahead(axes: Axes, rows: Sequence[Mapping[str, Any]], words: Words) -> None:
    """Loss further along the drift less the loss now, beside random directions of the same length.

    Args:
        axes: drawn on.
        rows: a drift's `ahead`; the first is the place itself.
        words: the language of the labels.
    """
    here, ahead = rows[0], rows[1:]
    steps = [row["steps"] for row in ahead]
    shown: list[float] = []
    for key, mark, line, hue in (
        ("train_control", "", (0, (4, 3)), "chance"),
        ("held_out_control", "", (0, (1, 2)), "chance"),
        ("train", "o", "solid", "drift"),
        ("held_out", "v", "solid", "drift"),
    ):
        if here.get(key) is None:
            continue
        change = [row[key] - here[key] for row in ahead]
        face = colour("paper") if key == "train" else colour(hue)
        (marks,) = axes.plot(
            steps, change, color=colour(hue), linestyle=line, linewidth=1.6, marker=mark or None, markersize=6,
            markerfacecolor=face, label=words.plain(f"ahead.{key}"), zorder=3 if mark else 2,
        )  # fmt: skip
        across = words.plain("plot.steps_ahead"), [numbers.count(number) for number in steps]
        changes = words.plain("plot.loss_change"), [numbers.number(value) for value in change]
        style.tell(marks, across, changes, words.plain(f"ahead.{key}"))
        shown += change if mark else []
    style.reference(axes, 0)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: numbers.count(round(value))))
    largest = max((abs(value) for value in shown if math.isfinite(value)), default=1.0) or 1.0
    axes.set_yscale("symlog", linthresh=max(largest * 1e-3, 1e-12))
    low, high = min([*shown, 0.0]), max([*shown, 0.0])
    axes.set_ylim(2 * low if low < 0 else -largest * 1e-3, 2 * high if high > 0 else largest * 1e-3)
    axes.margins(x=0.06)
    round_ = 10.0 ** math.floor(math.log10(largest))
    axes.yaxis.set_major_locator(FixedLocator([sign * round_ * 10**-power for sign in (-1, 1) for power in (0, 1, 2)]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: numbers.number(value, 1)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(words.plain("plot.steps_ahead"), color=colour("muted"))
    axes.set_ylabel(words.plain("plot.loss_change"), color=colour("muted"))
    style.frame(axes, grid="y")


def alignment(axes: Axes, rows: Sequence[Mapping[str, Any]], words: Words) -> None:
    """Curvature (across) and the weights' share (up) of every eigenvector, with what chance gives.

    Args:
        axes: drawn on.
        rows: an alignment's `directions`.
        words: the language of the labels.
    """
    values = [row["value"] for row in rows]
    shares = [max(row["alignment"], 1e-12) for row in rows]
    matched = [max(row["by_layer"], 1e-12) for row in rows]
    chance = rows[0]["by_chance"]
    axes.axhline(chance, color=colour("chance"), linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    axes.plot(values, matched, "o", color=colour("chance"), markersize=4, zorder=2)
    (marks,) = axes.plot(values, shares, MARKERS["eigenvectors"], color=colour("eigenvectors"), markersize=6, zorder=3)
    across = words.plain("plot.curvature"), [numbers.number(value) for value in values]
    style.tell(marks, across, (words.plain("plot.of_weights"), [numbers.percent(value) for value in shares]))
    style.measure(axes, "x", values)
    style.measure(axes, "y", [*shares, *matched, chance])
    axes.set_xlabel(words.plain("plot.curvature"), color=colour("muted"))
    axes.set_ylabel(words.plain("plot.of_weights"), color=colour("muted"))
    style.frame(axes, grid="both")


def approximation(axes: Axes, data: Mapping[str, Sequence[Mapping[str, Any]]], key: str, words: Words) -> None:
    """One share over the number of components, a line for each source.

    Args:
        axes: drawn on.
        data: rows of each source.
        key: which share.
        words: the language of the labels.
    """
    most = 1.0
    for source, rows in data.items():
        known = [(row["k"], row[key]) for row in rows if row[key] is not None]
        if not known:
            continue
        x, y = zip(*known, strict=True)
        most = max(most, *y)
        (marks,) = axes.plot(x, y, MARKERS[source] + "-", color=colour(source), linewidth=1.6, markersize=5)
        across = words.plain("plot.components"), [numbers.count(number) for number in x]
        style.tell(marks, across, ("", [numbers.percent(share) for share in y]), words.plain(f"source.{source}"))
    axes.set_ylim(-0.03, 1.05 * most)
    style.reference(axes, 1)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    style.percent(axes.yaxis)
    axes.set_xlabel(words.plain("plot.components"), color=colour("muted"))
    style.frame(axes, grid="y")


def two_spectra(axes: Axes, train: Sequence[float], held_out: Sequence[float], words: Words) -> None:
    """Eigenvalues in order on training data (full) and on held-out data (hollow).

    Args:
        axes: drawn on.
        train: (k,) eigenvalues.
        held_out: (k,) likewise.
        words: the language of the labels.
    """
    hue = colour("eigenvectors")
    for values, face, shift, line in ((train, hue, -0.12, "solid"), (held_out, colour("paper"), 0.12, (0, (4, 3)))):
        places = [place + shift for place in range(1, len(values) + 1)]
        (marks,) = axes.plot(
            places, values, MARKERS["eigenvectors"] if shift < 0 else "o", color=hue, markerfacecolor=face,
            markersize=6, linestyle=line, linewidth=1.0, zorder=3,
        )  # fmt: skip
        across = words.plain("plot.eigenvalue_number"), [str(place) for place in range(1, len(values) + 1)]
        heading = words.plain("outside.key.train" if shift < 0 else "outside.key.held_out")
        style.tell(marks, across, (words.plain("plot.curvature"), [numbers.number(v) for v in values]), heading)
    style.measure(axes, "y", [*train, *held_out])
    style.number_axis(axes, max(len(train), len(held_out)), words.plain("plot.eigenvalue_number"))
    axes.set_ylabel(words.plain("plot.curvature"), color=colour("muted"))
    style.frame(axes, grid="y")


def losses_under_noise(axes: Axes, rows: Sequence[Mapping[str, Any]], data: str, words: Words) -> None:
    """The loss over the level of noise, on inputs (discs) and on labels (squares), with standard errors.

    Args:
        axes: drawn on.
        rows: of `robustness`; the first is without noise.
        data: "train" or "held_out".
        words: the language of the labels.
    """
    shown: list[float] = []
    for noise, mark, hue in (("inputs", "o", "ink"), ("labels", "s", "muted")):
        line = [rows[0], *(row for row in rows if row["noise"] == noise)]
        if len(line) < 2:
            continue
        levels, losses = [row["level"] for row in line], [row[data] for row in line]
        errors = [row[f"{data}_error"] or 0.0 for row in line]
        label = words.plain(f"outside.key.{noise}")
        marks = axes.errorbar(
            levels, losses, yerr=errors, color=colour(hue), marker=mark, markersize=6, linewidth=1.6, capsize=2.5,
            label=label, zorder=3,
        )[0]  # fmt: skip
        across = words.plain("plot.noise"), [numbers.percent(level) for level in levels]
        style.tell(marks, across, (words.plain("plot.loss"), [numbers.number(loss) for loss in losses]), label)
        shown += [value + error for value, error in zip(losses, errors, strict=True)]
    style.measure(axes, "y", [*shown, rows[0][data]])
    axes.set_xlim(left=-0.015)
    axes.xaxis.set_major_locator(FixedLocator(sorted({row["level"] for row in rows})))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.set_xlabel(words.plain("plot.noise"), color=colour("muted"))
    axes.set_ylabel(words.plain("plot.loss"), color=colour("muted"))
    style.frame(axes, grid="y")


def tracking(axes: Axes, rows: Sequence[Mapping[str, Any]], words: Words) -> None:
    """Largest curvature over the optimizer's limit, and how much of the top space stays, over steps.

    Args:
        axes: drawn on.
        rows: of `track_curvature`, or anything with its `step`, `of_threshold` and `persistence`.
        words: the language of the labels.
    """
    steps = [row["step"] for row in rows]
    most = 1.0
    for key, mark, line, hue in (
        ("of_threshold", MARKERS["eigenvectors"], "solid", "eigenvectors"),
        ("persistence", "o", (0, (4, 3)), "muted"),
    ):
        known = [(step, row[key]) for step, row in zip(steps, rows, strict=True) if row[key] is not None]
        if known:
            x, y = zip(*known, strict=True)
            most = max(most, *y)
            (marks,) = axes.plot(x, y, mark, color=colour(hue), linestyle=line, linewidth=1.6, markersize=6, zorder=3)
            across = words.plain("plot.step"), [numbers.count(step) for step in x]
            label = words.plain("tracking.key.threshold" if key == "of_threshold" else "tracking.key.persistence")
            style.tell(marks, across, ("", [numbers.percent(share) for share in y]), label)
    style.reference(axes, 1)
    axes.set_ylim(-0.03, 1.06 * most)
    style.percent(axes.yaxis)
    style.step_axis(axes, steps, words.plain("plot.step"))
    axes.set_ylabel(words.plain("plot.share_alone"), color=colour("muted"))
    style.frame(axes, grid="y")
