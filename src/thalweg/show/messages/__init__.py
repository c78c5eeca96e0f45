"""One catalogue of messages in each language, keyed by name and filled with the same numbers.

A text holds no number of its own, only placeholders, so that two languages can never disagree in one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from thalweg.errors import InputError, nearest
from thalweg.show.messages import (
    en,
    en_comparison,
    en_decision,
    en_density,
    en_directions,
    en_outside,
    en_terms,
    en_trials,
    en_valley,
    ja,
    ja_comparison,
    ja_decision,
    ja_density,
    ja_directions,
    ja_outside,
    ja_terms,
    ja_trials,
    ja_valley,
)
from thalweg.show.numbers import seconds

PARTS = {
    "en": (en, en_directions, en_outside, en_trials, en_decision, en_valley, en_density, en_terms, en_comparison),
    "ja": (ja, ja_directions, ja_outside, ja_trials, ja_decision, ja_valley, ja_density, ja_terms, ja_comparison),
}

CATALOGUES: Mapping[str, Mapping[str, str]] = {
    language: {key: text for part in parts for key, text in part.TEXTS.items()} for language, parts in PARTS.items()
}


@dataclass(frozen=True)
class Words:
    """The messages of one language.

    Attributes:
        language: "en" or "ja".
    """

    language: str

    def __post_init__(self) -> None:
        if self.language not in CATALOGUES:
            raise InputError(
                f"the report has no language {self.language!r}; choose from {nearest(self.language, CATALOGUES)}"
            )

    def __call__(self, key: str, **values: object) -> Markup:
        """The message as HTML, with every value escaped."""
        return Markup(CATALOGUES[self.language][key]).format(**values)

    def plain(self, key: str, **values: object) -> str:
        """The message as plain text."""
        return CATALOGUES[self.language][key].format(**values)

    def duration(self, value: float | None) -> str:
        """A number of seconds with its unit, in the language's words for units."""
        return seconds(value, CATALOGUES[self.language]["page.units"].split())

    def known(self, group: str, name: str) -> str:
        """The word for a name that the analysis uses, or the name itself where the catalogue has none."""
        return CATALOGUES[self.language].get(f"{group}.{name}", name)
