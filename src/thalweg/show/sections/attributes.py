"""What else the curvature has to do with: the weights, their singular directions, and the Hessian out of components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thalweg.show import direction_plots as plots
from thalweg.show.messages import Words
from thalweg.show.numbers import DASH, clean, count, number, p_value, percent
from thalweg.show.sections.base import Key, Picture, Section, grid, name, reading

MARKS = {"updates": "disc", "weights": "square", "gradients": "triangle"}


def alignment(analysis: Mapping[str, Any], words: Words) -> Section:
    """Curvature and alignment of every eigenvector."""
    data = analysis["alignment"]
    rows = data["directions"]
    nulls = data.get("nulls") or {}
    lead = [
        words(
            "alignment.lead",
            k=count(len(rows)),
            captured=percent(data["captured"]),
            uniform=percent((nulls.get("uniform") or {}).get("expected")),
            layer_matched=percent((nulls.get("layer_matched") or {}).get("expected")),
            p=p_value(max((null["p_value"] for null in nulls.values()), default=None)),
        ),
        words("alignment.ranks", correlation=number(data["rank_correlation"], 2), p=p_value(data["p_value"])),
    ]
    cells = [
        (count(row["index"] + 1), number(row["value"]), percent(row["alignment"]), percent(row["by_chance"]),
         percent(row["by_layer"]))
        for row in rows
    ]  # fmt: skip
    return Section(
        "alignment",
        words("alignment.title"),
        lead=tuple(lead),
        pictures=(
            Picture(
                "alignment-plane",
                words.plain("alignment.plane"),
                words.plain("alignment.alt", k=count(len(rows)), captured=percent(data["captured"])),
                lambda axes: plots.alignment(axes, rows, words),
                left=66,
            ),
        ),
        legend=(
            Key("diamond", "eigenvectors", words("alignment.key")),
            Key("dash", "chance", words("alignment.key_chance")),
            Key("dot", "chance", words("alignment.key_layer")),
        ),
        reading=reading(words, "alignment"),
        grids=(grid(words, "alignment.table", ["index", "value", "alignment", "by_chance", "by_layer"], cells),),
    )


def singular(analysis: Mapping[str, Any], words: Words) -> Section:
    """Curvature of singular directions beside random outer products."""
    rows = analysis["singular"]
    ratios = sorted(row["ratio"] for row in rows if row["ratio"] is not None)
    best = max(rows, key=lambda row: row["curvature"])
    net = ((analysis.get("stages") or [{}])[-1].get("spectrum") or {}).get("values") or [None]
    lead = [
        words(
            "singular.lead",
            directions=count(len(rows)),
            ratio=number(ratios[len(ratios) // 2] if ratios else None, 2),
            low=number(ratios[0] if ratios else None, 2),
            high=number(ratios[-1] if ratios else None, 2),
        ),
        words(
            "singular.best",
            layer=name(best["layer"]),
            curvature=number(best["curvature"]),
            share=percent(best["curvature"] / net[0] if net[0] else None),
        ),
    ]
    cells = [
        (
            clean(row["parameter"]),
            clean(row["block"]) or DASH,
            count(row["index"] + 1),
            number(row["value"]),
            words.plain("yes") if row["above"] else words.plain("no"),
            number(row["curvature"]),
            words.plain("layers.with_error", value=number(row["control"]), error=number(row["control_error"], 2)),
            number(row["ratio"], 2),
        )
        for row in rows
    ]
    columns = ["parameter", "block", "index", "value", "above", "curvature", "control", "ratio"]
    return Section(
        "singular",
        words("singular.title"),
        lead=tuple(lead),
        reading=reading(words, "singular", controls=count(max(row["controls"] for row in rows))),
        grids=(grid(words, "singular.table", columns, cells, leading=2),),
    )


def approximation(analysis: Mapping[str, Any], words: Words) -> Section:
    """How much of the Hessian the components hold, over their number."""
    data: Mapping[str, Sequence[Mapping[str, Any]]] = analysis["approximation"]
    last = data.get("updates") or next(iter(data.values()))
    end = last[-1]
    lead = [
        words(
            "approximation.lead",
            k=count(end["k"]),
            top=percent(end["top_share"]),
            trace=percent(end["trace_share"]),
            fresh=percent(end["fresh_share"]),
            diagonal=percent(end["fresh_share_diagonal"]),
        ),
        words("approximation.saved", products=count(end["products"]), saved=count(end["products_saved"])),
    ]

    def panel(key: str) -> Any:
        shares = "; ".join(
            f"{words.plain('source.' + source)} {percent(rows[-1][key])}" for source, rows in data.items()
        )
        return Picture(
            f"approximation-{key.replace('_', '-')}",
            words.plain(f"approximation.{key}"),
            words.plain("approximation.alt", shares=shares),
            lambda axes: plots.approximation(axes, data, key, words),
        )

    cells = [
        (
            words.plain(f"source.{source}"),
            count(row["k"]),
            percent(row["top_share"]),
            percent(row["trace_share"]),
            percent(row["fresh_share"]),
            percent(row["fresh_share_diagonal"]),
            count(row["products_saved"]),
        )
        for source, rows in data.items()
        for row in rows
    ]
    columns = ["source", "k", "top_share", "trace_share", "fresh_share", "fresh_share_diagonal", "saved"]
    return Section(
        "approximation",
        words("approximation.title"),
        lead=tuple(lead),
        pictures=(panel("top_share"), panel("fresh_share")),
        legend=tuple(Key(MARKS[source], source, words(f"source.{source}")) for source in data),
        reading=reading(words, "approximation"),
        grids=(grid(words, "approximation.table", columns, cells),),
    )
