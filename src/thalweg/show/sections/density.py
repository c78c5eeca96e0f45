"""Where all eigenvalues lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thalweg.show import density_plots as plots
from thalweg.show.messages import Words
from thalweg.show.numbers import clean, count, number
from thalweg.show.sections.base import Key, Picture, Section, final, reading


def density(analysis: Mapping[str, Any], words: Words) -> Section:
    """The whole spectrum: how many eigenvalues there are at every curvature."""
    data = analysis["density"]
    title = words("density.title")
    if "reason" in data:
        return Section("density", title, lead=(words("density.unknown", reason=clean(data["reason"])),))
    size = (analysis.get("problem") or {}).get("parameters")
    values = (final(analysis).get("spectrum") or {}).get("values") or []
    told = {
        "parameters": count(size),
        "stiff": count(round(data["stiff"])),
        "level": number(data["stiff_level"], 2),
        "smallest": number(data["smallest"]),
        "largest": number(data["largest"]),
    }
    lead = [words("density.stiff", error=number(data["stiff_error"], 2), **told)]
    if data["smallest"] < -data["levels"][0]:
        least = number(data["levels"][0], 2)
        negative = {"negative": count(round(data["negative"])), "error": number(data["negative_error"], 2)}
        lead.append(words("density.negative", least=least, **negative, **told))
    legend = [
        Key("line", "muted", words("density.key.above")),
        Key("dash", "ink", words("density.key.below")),
        Key("dash", "chance", words("density.key.one")),
        Key("square", "chance-2", words("density.key.error")),
    ]
    if values:
        legend.append(Key("diamond", "eigenvectors", words("density.key.top", k=count(len(values)))))
    return Section(
        "density",
        title,
        lead=tuple(lead),
        pictures=(
            Picture(
                "density-count",
                words.plain("density.count"),
                words.plain("density.alt", **told),
                lambda axes: plots.density(axes, data, values, words),
                left=66,
            ),
            Picture(
                "density-levels",
                words.plain("density.levels"),
                words.plain("density.levels_alt", **told),
                lambda axes: plots.counts(axes, data, values, words),
                left=66,
            ),
        ),
        legend=tuple(legend),
        reading=reading(
            words,
            "density",
            probes=count(data["probes"]),
            steps=count(data["steps"]),
            products=count(data["matvecs"]),
            width=number(data["width"], 2),
        ),
    )
