"""A matplotlib figure as inline SVG that lives under a strict content security policy.

matplotlib writes `style="..."` attributes and a `<style>` element, which need 'unsafe-inline'; ids that collide
between figures; and fixed colours. Here styles become presentation attributes, ids get the figure's prefix, colours
of the palette become classes of the page's style sheet, and text stays text in the page's own fonts.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import xml.etree.ElementTree as ElementTree
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from thalweg.show import palette, style

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "thalweg",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.unicode_minus": True,
}
_DROPPED = {"metadata", "style"}
_FONT = re.compile(r"^(?:(?P<words>[^0-9]*) )?(?P<size>[\d.]+)px ")
_REFERENCE = re.compile(r"#([\w.-]+)")
_CLASSES = palette.class_names()


def figure(width: float, height: float) -> Figure:
    """An empty figure of that many SVG units; draw on it inside `drawing()`."""
    return Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")


def inline(drawn: Figure, prefix: str, alternative: str) -> Markup:
    """The figure as an `<svg>` element for an HTML page.

    Args:
        drawn: the figure.
        prefix: begins every id, and is unique on the page.
        alternative: what the picture says, for those who do not see it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser's fonts draw the text
        drawn.set_canvas(FigureCanvasSVG(drawn))
        drawn.canvas.print_figure(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None})
    return from_source(buffer.getvalue(), prefix, alternative)


def from_source(source: str, prefix: str, alternative: str) -> Markup:
    """As `inline`, from matplotlib's SVG text."""
    root = ElementTree.fromstring(source)
    _drop(root)
    used = {name for element in root.iter() for name in _references(element)}
    for element in root.iter():
        _restyle(element)
        _tell(element)
        _rename(element, prefix, used)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib.update({"role": "img", "aria-label": alternative, "stroke-linejoin": "round", "class": "plot"})
    _flatten(root)
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _drop(parent: ElementTree.Element) -> None:
    for child in list(parent):
        if _local(child.tag) in _DROPPED:
            parent.remove(child)
        else:
            _drop(child)


def _references(element: ElementTree.Element) -> list[str]:
    return [
        found
        for name, value in element.attrib.items()
        if _local(name) in {"href", "clip-path", "style"}
        for found in _REFERENCE.findall(value)
    ]


def _restyle(element: ElementTree.Element) -> None:
    """The `style` attribute as presentation attributes and classes."""
    declared = [part.split(":", 1) for part in element.attrib.pop("style", "").split(";") if ":" in part]
    for name, value in ((name.strip(), value.strip()) for name, value in declared):
        if name == "font":
            match = _FONT.match(value + " ")
            if match:
                element.set("font-size", match["size"])
                if "bold" in (match["words"] or "") or "700" in (match["words"] or ""):
                    element.set("font-weight", "600")
        else:
            element.set(name, value)
    classes = []
    for name, letter in (("fill", "f"), ("stroke", "s")):
        known = _CLASSES.get(element.get(name, "").lower())
        if known:
            classes.append(f"{letter}-{known}")
    if classes:
        element.set("class", " ".join(classes))
    element.attrib.pop("font-family", None)


def _tell(element: ElementTree.Element) -> None:
    """What marks say when they are pointed at, as an attribute of each; what belongs to the axes, as a class."""
    name = element.get("id", "")
    if name == style.FRAME:
        element.set("class", style.FRAME)
    if not name.startswith(style.TIPS + "["):
        return
    texts = json.loads(name.removeprefix(style.TIPS))
    marks = [mark for mark in element.iter() if _local(mark.tag) == "use"]
    if len(marks) == len(texts):  # NaN is not drawn, and then nobody knows which is which
        for mark, text in zip(marks, texts, strict=True):
            mark.set("data-tip", text)


def _rename(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    identifier = element.attrib.pop("id", None)
    if identifier in used:
        element.set("id", f"{prefix}-{identifier}")
    for name in list(element.attrib):
        value = element.attrib[name]
        if _local(name) == "href":
            del element.attrib[name]
            element.set("href", value.replace("#", f"#{prefix}-"))
        elif _local(name) == "clip-path":
            element.set(name, value.replace("#", f"#{prefix}-"))


def _flatten(root: ElementTree.Element) -> None:
    """Names without their namespace, which HTML gives to inline SVG by itself."""
    for element in root.iter():
        element.tag = _local(element.tag)
        element.tail = None
        if element.tag not in {"text", "tspan"}:
            element.text = None
