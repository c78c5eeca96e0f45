"""Where all eigenvalues lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from thalweg.show import density_plots as plots
from thalweg.show.messages import Words
from thalweg.show.numbers import clean, count, number, percent
from thalweg.show.sections.base import Key, Picture, Section, final, reading


def density(analysis: Mapping[str, Any], words: Words) -> Section:
    """The whole spectrum: how many eigenvalues there are at every curvature."""
    data = analysis["density"]
    title = words("density.title")
    if "absent" in data:
        reason = clean(data.get("reason") or words.plain(f"density.absent.{data['absent']}"))
        return Section("density", title, lead=(words("density.unknown", reason=reason),))
    size = (analysis.get("problem") or {}).get("parameters")
    values = (final(analysis).get("spectrum") or {}).get("values") or []
    told = {"parameters": count(size), "smallest": number(data["smallest"]), "largest": number(data["largest"])}
    lead = [_stiff(data, values, told, words)]
    if data["clearly_negative"]:
        lead.append(words("density.negative", **told))
    legend = [
        Key("line", "muted", words("density.key.above")),
        Key("dash", "weights", words("density.key.below")),
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


def _stiff(data: Mapping[str, Any], values: Sequence[float], told: Mapping[str, str], words: Words) -> Markup:
    """Between what the number of stiff eigenvalues lies; those found one by one count for sure."""
    place = data["stiff"]
    if place is None:
        return words("density.unsure", **told)
    level = data["levels"][place]
    sure = sum(value > level for value in values)
    low, high = (max(round(data["above"][end][place]), sure) for end in ("low", "high"))
    share = percent(level / data["largest"])
    return words("density.stiff", low=count(low), high=count(high), level=number(level, 2), share=share, **told)
