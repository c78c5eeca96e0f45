"""The path of training, and how many directions it used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from thalweg.show import plots
from thalweg.show.messages import Words
from thalweg.show.numbers import count, number, percent
from thalweg.show.sections.base import Key, Picture, Section, reading, span
from thalweg.show.valley_plots import equal_losses, levels

SHAPES = {
    "updates": "disc",
    "weights": "square",
    "gradients": "triangle",
    "random_walk": "dash",
    "random_updates": "dots",
}
REFERENCES = ("random_walk", "random_updates")


def path(analysis: Mapping[str, Any], words: Words) -> Section:
    """The path picture with the random walk beside it on equal terms."""
    data = analysis["path"]
    walk = data.get("random_walk")
    first, last = data["steps"][0], count(data["steps"][-1])
    start = words("path.start", step=count(first)) if first >= 0 else words("path.start_before")

    surface = analysis.get("surface")
    surface = surface if surface and levels(surface) else None

    def draw(axes: Axes, key: str, part: Mapping[str, Any], hue: str) -> None:
        plots.path(axes, part["points"], part["explained"], words, hue)
        if surface and key == "weights":
            equal_losses(axes, surface)

    def panel(key: str, part: Mapping[str, Any], hue: str, alt: str) -> Picture:
        return Picture(
            f"path-{key}",
            words.plain(f"path.{key}"),
            alt,
            lambda axes: draw(axes, key, part, hue),
            height=300,
        )

    pictures = [panel("weights", data, "weights", words.plain("path.alt", last=last))]
    random = None
    if walk:
        pictures.append(panel("random", walk, "chance", words.plain("path.random_alt")))
        random = sum(walk["explained"])
    lead = [words("path.lead", share=percent(sum(data["explained"])), random=percent(random))]
    about = dict(reading(words, "path"))
    lines: list[Key] = []
    if surface:
        at = levels(surface)
        lead.append(words("path.surface", low=number(at[0], 2), high=number(at[-1], 2), ratio=number(at[1] / at[0], 2)))
        lines = [Key("line", "chance", words("path.lines"))]
        about[words("reading.not")] = words("path.surface_not")
    return Section(
        "path",
        words("path.title"),
        lead=tuple(lead),
        pictures=tuple(pictures),
        legend=(
            Key("ring", "weights", start),
            Key("disc", "weights", words("path.end", step=last)),
            Key("square", "weights-1", words("path.early")),
            Key("square", "weights", words("path.later")),
            *lines,
        ),
        reading=tuple(about.items()),
    )


def explained(analysis: Mapping[str, Any], words: Words) -> Section:
    """Explained variance of every source, beside the random walk's."""
    parts = analysis["components"]
    curves: dict[str, Sequence[float]] = {
        source: parts[source]["explained"] for source in SHAPES if (parts.get(source) or {}).get("explained")
    }
    independent = (parts.get("random_walk") or {}).get("updates")
    if independent:
        curves["random_updates"] = independent
    if not curves:
        return Section("explained", words("explained.title"), lead=(words("absent.part", part="components"),))
    components = min((analysis.get("settings") or {}).get("components") or [10])
    totals = {source: percent(sum(curves[source][:components]) if source in curves else None) for source in SHAPES}
    names = {source: words.plain(f"source.{source}") for source in curves}
    shares = "; ".join(f"{names[source]} {totals[source]}" for source in curves)
    lead = [
        words(
            "explained.lead",
            components=components,
            updates=totals["updates"],
            weights=totals["weights"],
            random=totals["random_walk"],
        )
    ]
    if independent:
        lead.append(words("explained.independent", share=totals["random_updates"]))
    missing = (parts.get("gradients") or {}).get("reason")
    if missing:
        lead.append(words("explained.gradients", reason=missing))
    window = next(
        (parts[source].get("window") for source in curves if source in parts and parts[source].get("window")), None
    )
    total_alt = words.plain("explained.alt", components=components, shares=shares)
    each_alt = words.plain("explained.each_alt", sources=", ".join(names.values()))
    return Section(
        "explained",
        words("explained.title"),
        lead=tuple(lead),
        pictures=(
            Picture(
                "explained-total",
                words.plain("explained.total"),
                total_alt,
                lambda axes: plots.explained_total(axes, curves, words),
            ),
            Picture(
                "explained-each",
                words.plain("explained.each"),
                each_alt,
                lambda axes: plots.explained_each(axes, curves, words),
            ),
        ),
        legend=tuple(
            Key(SHAPES[source], "chance" if source in REFERENCES else source, names[source]) for source in curves
        ),
        reading=reading(words, "explained", **span(window)),
    )
