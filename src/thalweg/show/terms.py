"""Which words of the trade each part of the report uses, so that each is explained where it stands."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from thalweg.show.messages import Words

TERMS: dict[str, Sequence[str]] = {
    "decision": ("loss", "hessian", "component", "space", "held_out", "drift", "stiff"),
    "verdict": ("hessian", "space", "captured", "chance", "p"),
    "path": ("component", "random_walk"),
    "valley": ("loss", "held_out", "stiff"),
    "explained": ("component", "random_walk"),
    "drift": ("drift", "p", "interval"),
    "eigenvalues": ("hessian", "eigenvalue", "residual"),
    "density": ("hessian", "eigenvalue", "product"),
    "outside": ("held_out", "space", "sharpness"),
    "agreement": ("captured", "chance", "p"),
    "heat_map": ("component", "eigenvalue", "inner"),
    "approximation": ("component", "product"),
    "alignment": ("eigenvalue", "captured", "chance"),
    "layers": ("eigenvalue", "noise_cost", "interval"),
    "singular": ("singular", "chance"),
    "directions": ("stiff", "gain", "held_out"),
    "trial": ("arm", "seed", "interval", "p"),
    "cost": ("product",),
}
"""By section; the decision and the verdict are the page's head."""


def terms(section: str, words: Words) -> list[tuple[Markup, Markup]]:
    """The words used there and what they mean."""
    return [(words(f"term.{name}"), words(f"term.{name}.means")) for name in TERMS.get(section, ())]
