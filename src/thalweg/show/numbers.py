"""Numbers as a person reads them: the same characters in every language."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

DASH = "–"
SPACE = "\u00a0"
"""Keeps a number and its unit on one line."""
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 3) -> str:
    """A measured value with that many significant digits."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    size = int(f"{value:.{digits - 1}e}".split("e")[1])
    if -4 <= size < 6:
        decimals = max(0, digits - 1 - size)
        text = f"{value:,.{decimals}f}"
    else:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        text = power(int(exponent)) if mantissa == "1" else f"{mantissa}×{power(int(exponent))}"
    return text.replace("-", "−")


def power(exponent: int) -> str:
    """A power of ten."""
    return "10" + str(exponent).translate(_RAISED)


def percent(share: float | None) -> str:
    """A share as a percentage with two significant digits, never rounded up to the whole or down to nothing."""
    if share is None or not math.isfinite(share):
        return DASH
    value = 100 * share
    if value == 0:
        return "0%"
    if abs(value) < 0.001:
        return "<0.001%" if value > 0 else "−<0.001%"
    if 99 < value < 100:
        return "99.9%" if value >= 99.95 else f"{value:.1f}%"
    decimals = max(0, 1 - int(f"{value:.1e}".split("e")[1]))
    return f"{value:.{decimals}f}%".replace("-", "−")


def count(value: int | None) -> str:
    """A count with thousands separated."""
    return DASH if value is None else f"{value:,}"


def p_value(p: float | None, log10_p: float | None = None, draws: int | None = None) -> str:
    """A p-value with its relation sign, as `= 0.013` or `≈ 10⁻¹²`.

    Args:
        p: the p-value; where it is zero or None, `log10_p` speaks.
        log10_p: its logarithm, which a float's range does not limit.
        draws: how many random draws it was counted from, if it was: the least that they can show is a bound.
    """
    if p is None and log10_p is None:
        return DASH
    if p and draws and p * (draws + 1) < 1.001:
        return f"≤{SPACE}{p:.2g}"
    if p is not None and p >= 0.001:
        return f"={SPACE}{p:.2g}" if p < 0.995 else f"≈{SPACE}1"
    if p:
        log10_p = math.log10(p)
    elif log10_p is None:
        log10_p = -math.inf
    if log10_p < -300:
        return f"<{SPACE}{power(-300)}"
    if log10_p > -3.05:
        return f"={SPACE}{10**log10_p:.2g}"
    return f"≈{SPACE}{power(round(log10_p))}"


UNITS = ("µs", "ms", "s", "min", "h")
"""Of durations, from microseconds to hours."""


def seconds(value: float | None, units: Sequence[str] = UNITS) -> str:
    """A duration in seconds, or in minutes where there are many; `units` in another language."""
    if value is None or not math.isfinite(value):
        return DASH
    micro, milli, second, minute, hour = units
    if value < 0.001:
        return f"{1e6 * value:.0f}{SPACE}{micro}"
    if value < 0.1:
        return f"{1000 * value:.2g}{SPACE}{milli}"
    if value < 120:
        return f"{value:.2g}{SPACE}{second}" if value < 10 else f"{value:.0f}{SPACE}{second}"
    return f"{value / 60:.0f}{SPACE}{minute}" if value < 7200 else f"{value / 3600:.1f}{SPACE}{hour}"


def size(value: float | None) -> str:
    """An amount of memory."""
    if value is None:
        return DASH
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f}{SPACE}{unit}"
        value /= 1024
    return f"{value:.1f}{SPACE}GiB"


def clean(name: str) -> str:
    """A name without what would break XML or turn the text around it: control and direction characters."""
    kept = (c if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn"} else "�" for c in str(name))
    return "".join(kept)


def clip(name: str, width: int) -> str:
    """A clean name no wider than that many columns, shortened in the middle."""
    name = clean(name)
    if columns(name) <= width:
        return name
    head, tail = "", ""
    for front, back in zip(name, reversed(name), strict=True):
        if columns(head + front + tail) >= width:
            break
        head += front
        if columns(head + back + tail) >= width:
            break
        tail = back + tail
    return head + "…" + tail


def columns(text: str) -> int:
    """The width of a text in columns of a fixed-width font."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def thinned(length: int, most: int) -> list[int]:
    """At most that many evenly spaced positions of a sequence, with the first and the last."""
    if length <= most:
        return list(range(length))
    return sorted({round(i * (length - 1) / (most - 1)) for i in range(most)})
