"""One colour for one thing, in light and in dark.

The hues are those of Okabe and Ito (2008), darkened or lightened for contrast against the paper; each also has
its own marker, so that no reader depends on hue. Plots are drawn in the light colours; `svg` turns every one of them
into a CSS class, whose value follows the reader's colour scheme.
"""

from __future__ import annotations

from itertools import product

LIGHT = {
    "paper": "#fdfdfc",
    "ink": "#1c2126",
    "muted": "#5c656e",
    "grid": "#e3e5e4",
    "updates": "#0072b2",
    "weights": "#cf5a00",
    "gradients": "#008f68",
    "eigenvectors": "#a23b7c",
    "drift": "#8a6a00",
    "chance": "#868d94",
}
DARK = {
    "paper": "#14181c",
    "ink": "#e8e9e6",
    "muted": "#a0a8af",
    "grid": "#2c3339",
    "updates": "#5ab4ec",
    "weights": "#f4924c",
    "gradients": "#3cc79b",
    "eigenvectors": "#e38fc3",
    "drift": "#dcb63a",
    "chance": "#8f979e",
}
HUES = ("updates", "weights", "gradients", "eigenvectors", "drift", "chance")
MARKERS = {"updates": "o", "weights": "s", "gradients": "^", "eigenvectors": "D", "drift": "v", "chance": "|"}
LEVELS = 8
"""Number of tints of a hue, from the palest, 0, to the hue itself, `LEVELS - 1`."""


def colour(name: str) -> str:
    """The light-mode colour of a thing."""
    return LIGHT[name]


def share(level: int) -> float:
    """How much of the hue, as opposed to paper, is in a tint."""
    return 0.05 if level == 0 else 0.26 + 0.74 * (level - 1) / (LEVELS - 2)


def tint(hue: str, level: int) -> str:
    """A light-mode tint of a hue: its mixture with the paper."""
    level = max(0, min(LEVELS - 1, level))
    if level == LEVELS - 1:
        return LIGHT[hue]
    part = share(level)
    channels = (
        round(part * int(LIGHT[hue][i : i + 2], 16) + (1 - part) * int(LIGHT["paper"][i : i + 2], 16))
        for i in (1, 3, 5)
    )
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def class_names() -> dict[str, str]:
    """What each drawn colour is called in the style sheet."""
    names = {tint(hue, level): f"{hue}-{level}" for hue, level in product(HUES, range(LEVELS))}
    names.update({value: name for name, value in LIGHT.items()})
    return names


def style_sheet() -> str:
    """CSS variables for both colour schemes, and a fill and a stroke class for every colour."""
    light = "".join(f"--{name}:{value};" for name, value in LIGHT.items())
    dark = "".join(f"--{name}:{value};" for name, value in DARK.items())
    lines = [f":root{{{light}}}", f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"]
    lines += [
        f".f-{name}{{fill:var(--{name})}}.s-{name}{{stroke:var(--{name})}}.b-{name}{{background:var(--{name})}}"
        for name in LIGHT
    ]
    for hue, level in product(HUES, range(LEVELS - 1)):
        mixed = f"color-mix(in srgb,var(--{hue}) {100 * share(level):.0f}%,var(--paper))"
        name = f"{hue}-{level}"
        lines.append(f".f-{name}{{fill:{mixed}}}.s-{name}{{stroke:{mixed}}}.b-{name}{{background:{mixed}}}")
    return "\n".join(lines) + "\n"
