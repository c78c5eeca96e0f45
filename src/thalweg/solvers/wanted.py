"""Which end of a spectrum is wanted, and in which order its values come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from thalweg.errors import InputError

Which = Literal["LA", "SA", "LM", "BE"]

Key = Callable[[np.ndarray], np.ndarray]
"""Maps values to numbers that are larger the more a value is wanted."""

_KEYS: dict[str, Key] = {
    "LA": lambda values: values,
    "SA": lambda values: -values,
    "LM": np.abs,
}

WORDS = {
    "LA": "largest",
    "SA": "smallest",
    "LM": "magnitude",
    "BE": "both ends",
}


class Wanted:
    """The k values that are asked for.

    "LA": the largest, descending. "SA": the smallest, ascending. "LM": the largest in magnitude, descending in it.
    "BE": from both ends, as in ARPACK `k // 2` from below and the rest, one more for odd k, from above; the upper ones
    come first, descending, and the lower ones after them, descending too. So the whole column of values descends, the
    first is the largest and the last, for k > 1, the smallest. (ARPACK returns the same values ascending.)

    Args:
        which: "LA", "SA", "LM" or "BE".
        k: how many.

    Raises:
        InputError: if there is no such word.
    """

    def __init__(self, which: Which, k: int) -> None:
        if which not in WORDS:
            known = ", ".join(f"'{word}' ({meaning})" for word, meaning in WORDS.items())
            raise InputError(f"which={which!r} is unknown; use {known}")
        self.which = which
        self.k = k
        self.lower = k // 2 if which == "BE" else 0

    def order(self, values: np.ndarray) -> np.ndarray:
        """Indices of values: the k wanted ones in their order, then the others, the most wanted first."""
        if self.which != "BE":
            return np.argsort(-_KEYS[self.which](values), kind="stable")
        ranked = np.argsort(-values, kind="stable")
        below = min(self.lower, len(ranked) // 2)
        upper, middle, lower = np.split(ranked, [min(self.k - self.lower, len(ranked) - below), len(ranked) - below])
        inward = np.empty_like(middle)  # from both sides alternately
        half = (len(middle) + 1) // 2
        inward[::2], inward[1::2] = middle[:half], middle[half:][::-1]
        return np.concatenate([upper, lower, inward])

    def ends(self) -> list[tuple[Key, int]]:
        """For each end of the spectrum: how it ranks values, and where its last wanted one stands among the k."""
        if self.which != "BE":
            return [(_KEYS[self.which], self.k - 1)]
        upper = (_KEYS["LA"], self.k - self.lower - 1)
        return [upper, (_KEYS["SA"], self.k - self.lower)] if self.lower else [upper]
