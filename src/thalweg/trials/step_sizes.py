"""The step size of an arm: the best of a grid that is extended while its edge is the best, then a parabola."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

FLAT = 1e-3
"""Of the loss at the start: differences between step sizes that are no reason to extend the grid."""


@dataclass(frozen=True)
class Tuned:
    """The step size of an arm.

    Attributes:
        factor: of the task's learning rates.
        tried: mean loss on the tuning half by factor; None where it diverged.
        edge: whether the best one still was at the edge, and clearly better than its neighbour, when the grid was not
            extended any further.
    """

    factor: float
    tried: dict[float, float | None]
    edge: bool


class Search:
    """The search for one arm's step size: it says which ones it wants to know, and is told their losses.

    Args:
        grid: factors, ascending.
        extensions: how often the grid may be extended.
        flat: a difference of losses that is no reason to.

    Attributes:
        found: the step size, once the search has ended.
    """

    def __init__(self, grid: Sequence[float], extensions: int, flat: float) -> None:
        self._factors, self._left, self._flat = list(grid), extensions, flat
        self._tried: dict[float, float] = {}
        self.found: Tuned | None = None

    @property
    def wanted(self) -> list[float]:
        """Factors whose losses come next."""
        return [factor for factor in self._factors if factor not in self._tried]

    def take(self, losses: Mapping[float, float]) -> None:
        """The losses of those that were wanted, infinite where training diverged."""
        self._tried |= losses
        tried, factors = self._tried, self._factors
        best = min(tried, key=lambda factor: (tried[factor], factor))
        edge = best in (factors[0], factors[-1]) and not self._hardly_better(best)
        if edge and self._left:
            self._left -= 1
            if best == factors[0]:
                factors.insert(0, factors[0] ** 2 / factors[1])
            else:
                factors.append(factors[-1] ** 2 / factors[-2])
            return
        shown = {factor: loss if math.isfinite(loss) else None for factor, loss in sorted(tried.items())}
        self.found = Tuned(best, shown, edge)

    def _hardly_better(self, best: float) -> bool:
        """Whether the grid's edge is hardly better than its neighbour, so that going on would change nothing."""
        beside = self._factors[1] if best == self._factors[0] else self._factors[-2]
        return self._tried[beside] - self._tried[best] < self._flat


def lowest(factors: Sequence[float], losses: Sequence[float]) -> float:
    """Where a parabola through three losses at evenly spaced logarithms is lowest, within them."""
    low, middle, high = losses
    bend = low - 2 * middle + high
    if not math.isfinite(bend) or bend <= 0 or not middle <= min(low, high):
        return factors[int(np.argmin(losses))]
    shift = (low - high) / (2 * bend)
    return float(factors[1] * (factors[2] / factors[1]) ** shift)
