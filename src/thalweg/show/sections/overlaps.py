"""How far training and curvature agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thalweg.show import plots
from thalweg.show.messages import Words
from thalweg.show.numbers import SPACE, count, p_value, percent
from thalweg.show.palette import LEVELS
from thalweg.show.sections.base import (
    Grid,
    Key,
    Picture,
    Section,
    grid,
    own_rows,
    reading,
    span,
)

SOURCES = {"updates": "disc", "weights": "square", "gradients": "triangle"}


def agreement(analysis: Mapping[str, Any], words: Words) -> Section:
    """Captured shares of the top eigenspace, stage by stage, beside both nulls."""
    stages = [stage for stage in analysis["stages"] if stage.get("agreement")]
    if not stages:
        reason = words("absent.part", part="agreement")
        return Section("agreement", words("agreement.title"), lead=(words("section.absent", reason=reason),))
    last = stages[-1]
    rows = last["agreement"]
    components = min(row["components"] for row in rows)
    lines = {row["source"]: row for row in own_rows(last) if row["components"] == components}
    shown = {source: percent(lines[source]["captured"] if source in lines else None) for source in SOURCES}
    nulls = [(row.get("nulls") or {}).get("uniform") or {} for row in lines.values()]
    uniform = nulls[0].get("expected") if nulls else None
    draws = (analysis.get("settings") or {}).get("draws")
    drawn = [source for source in SOURCES if any(row["source"] == source for row in rows)]
    legend = [Key(SOURCES[source], source, words(f"source.{source}")) for source in drawn]
    legend += [Key("tick", "chance", words("agreement.uniform")), Key("dot", "chance", words("agreement.matched"))]
    if any(len(own_rows(stage)) < len(stage["agreement"]) for stage in stages):
        legend.append(Key("ring", "chance", words("agreement.whole")))
    return Section(
        "agreement",
        words("agreement.title"),
        lead=(
            words(
                "agreement.lead",
                components=components,
                k=len(last["spectrum"]["values"]),
                uniform=percent(uniform),
                **shown,
            ),
        ),
        pictures=tuple(_panel(stage, _stage(stage, stages, words), words) for stage in stages),
        legend=tuple(legend),
        reading=reading(
            words,
            "agreement",
            k=len(last["spectrum"]["values"]),
            parameters=count((analysis.get("run") or {}).get("parameters")),
        ),
        grids=(
            _table([last], draws, words, "agreement.table", folded=False),
            _table(stages, draws, words, "agreement.table_all", folded=True),
        ),
    )


def _stage(stage: Mapping[str, Any], stages: list[Mapping[str, Any]], words: Words) -> str:
    """What a stage is called: the last one is the end of training."""
    return words.known("stage", "final" if stage is stages[-1] else stage["name"])


def _panel(stage: Mapping[str, Any], called: str, words: Words) -> Picture:
    rows = stage["agreement"]
    step = count(stage["step"])
    heading = words.plain("agreement.panel", stage=called, step=step)
    if stage.get("exact") is False:
        heading += f" · {words.plain('agreement.inexact')}"
    shares = "; ".join(
        words.plain(
            "agreement.alt_item",
            components=row["components"],
            source=words.plain(f"source.{row['source']}"),
            captured=percent(row["captured"]),
        )
        for row in own_rows(stage)
    )
    lines = len({(row["source"], row["components"]) for row in rows})
    return Picture(
        f"agreement-{stage['step']}",
        heading,
        words.plain("agreement.alt", step=step, shares=shares),
        lambda axes: plots.agreement(axes, rows, words),
        height=66 + 21 * lines,
        left=88,
    )


def _table(stages: list[Mapping[str, Any]], draws: int | None, words: Words, key: str, folded: bool) -> Grid:
    columns = ["stage", "source", "window", "components", "captured", "uniform", "matched", "p", "p_matched", "p_holm"]
    cells: list[tuple[str, ...]] = []
    for stage in stages:
        for row in stage["agreement"] if folded else own_rows(stage):
            uniform, matched = ((row.get("nulls") or {}).get(null) or {} for null in ("uniform", "layer_matched"))
            steps = span(row.get("window"))
            cells.append(
                (
                    _stage(stage, stages, words),
                    words.plain(f"source.{row['source']}"),
                    f"{steps['first']}–{steps['last']}",
                    count(row["components"]),
                    percent(row["captured"]),
                    percent(uniform.get("expected")),
                    percent(matched.get("expected")),
                    _p(uniform.get("p_value"), uniform.get("log10_p")),
                    _p(matched.get("p_value"), matched.get("log10_p"), draws),
                    _p(row.get("p_holm")),
                )
            )
    if not folded:
        columns, cells = columns[1:], [cell[1:] for cell in cells]
    return grid(words, key, columns, cells, leading=len(columns) - 7, folded=folded)


def _p(p: float | None, log10_p: float | None = None, draws: int | None = None) -> str:
    return p_value(p, log10_p, draws).removeprefix(f"={SPACE}")


def heat_map(analysis: Mapping[str, Any], words: Words) -> Section:
    """Squared inner products of eigenvectors and components."""
    data = analysis["heat_map"]
    squared, source = data["squared"], data.get("columns", "updates")
    rows, columns = len(squared), len(squared[0])
    value, row, component = max((value, y + 1, x + 1) for y, line in enumerate(squared) for x, value in enumerate(line))
    parameters = (analysis.get("run") or {}).get("parameters")
    chance = percent(1 / parameters if parameters else None)
    words_of = words.plain(f"source.{source}")
    return Section(
        "heat_map",
        words("heat_map.title"),
        lead=(
            words(
                "heat_map.lead",
                component=component,
                source=words_of,
                row=row,
                value=percent(value),
                chance=chance,
            ),
        ),
        pictures=(
            Picture(
                "heat-map",
                words.plain("heat_map.panel", **span(data.get("window"))),
                words.plain("heat_map.alt", rows=rows, columns=columns, source=words_of, value=percent(value)),
                lambda axes: plots.heat_map(axes, squared, words, source),
                height=60 + 20 * rows,
                left=48,
                right=44,
            ),
        ),
        legend=(Key("", "muted", words("heat_map.scale")), *_scale()),
        reading=reading(
            words,
            "heat_map",
            chance=chance,
            row_chance=percent(columns / parameters if parameters else None),
        ),
    )


def _scale() -> list[Key]:
    texts = ["0%", *(f"{100 * bound:g}%" for bound in plots.HEAT_BOUNDS)]
    return [
        Key("step", f"eigenvectors-{level}" if level < LEVELS - 1 else "eigenvectors", text)
        for level, text in enumerate(texts)
    ]
