"""The sections of the report in their order, each made of the stored analysis and the words of one language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from thalweg.show.messages import Words
from thalweg.show.sections.attributes import alignment, approximation, singular
from thalweg.show.sections.base import Section
from thalweg.show.sections.closing import again, cost, limits
from thalweg.show.sections.curvature import eigenvalues, layers
from thalweg.show.sections.density import density
from thalweg.show.sections.directions import directions
from thalweg.show.sections.drift import drift
from thalweg.show.sections.outside import outside
from thalweg.show.sections.overlaps import agreement, heat_map
from thalweg.show.sections.trajectory import explained, path
from thalweg.show.sections.trial import trial
from thalweg.show.sections.valley import valley

Builder = Callable[[Mapping[str, Any], Words], Section]

SECTIONS: tuple[tuple[str, tuple[str, ...], Builder], ...] = (
    ("path", ("path",), path),
    ("valley", ("valley",), valley),
    ("explained", ("components",), explained),
    ("drift", ("drift",), drift),
    ("eigenvalues", ("stages",), eigenvalues),
    ("density", ("density",), density),
    ("outside", ("sharpness",), outside),
    ("agreement", ("stages",), agreement),
    ("heat_map", ("heat_map",), heat_map),
    ("approximation", ("approximation",), approximation),
    ("alignment", ("alignment",), alignment),
    ("layers", ("layers",), layers),
    ("singular", ("singular",), singular),
    ("directions", ("directions",), directions),
    ("trial", (), trial),
    ("cost", ("cost",), cost),
    ("limits", (), limits),
    ("again", ("command",), again),
)
"""Name, the parts of the analysis that the section cannot do without, and what builds it."""


def sections(analysis: Mapping[str, Any], words: Words) -> list[Section]:
    """Every section; one whose data are missing says so in a sentence."""
    built = []
    for name, needed, build in SECTIONS:
        missing = [part for part in needed if not analysis.get(part)]
        if missing:
            reason = words("absent.part", part=missing[0])
            built.append(Section(name, words(f"{name}.title"), lead=(words("section.absent", reason=reason),)))
        else:
            built.append(build(analysis, words))
    return built
