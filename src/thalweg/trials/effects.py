"""Paired differences over seeds: their mean, interval and p-value, and how many seeds an effect needs.

Student's t, or bias-corrected and accelerated bootstrap intervals (Efron 1987) with the exact p-value of sign flips.
No p-value falls below `2^(1 − n)`, that of n differences which all have one sign: fewer seeds cannot say more, whatever
a fitted distribution says.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from thalweg.errors import InputError

Interval = Literal["t", "bca"]
"""How intervals are made."""

RESAMPLES = 4999
"""Of the bootstrap."""

EXACT_FLIPS = 14
"""Up to so many differences all sign flips are gone through; beyond, t gives the p-value."""


@dataclass(frozen=True)
class Effect:
    """The mean of paired differences.

    Attributes:
        mean: of them.
        low: end of the interval.
        high: its other end.
        p_value: two-sided, of a mean of zero.
        deviation: standard deviation of a single difference.
        count: n.
    """

    mean: float
    low: float
    high: float
    p_value: float
    deviation: float
    count: int

    def shifted(self, by: float) -> Effect:
        """The effect of differences that are all larger by so much, where the p-value is that of t."""
        mean, error = self.mean + by, self.deviation / math.sqrt(self.count)
        p_value = _t_test(mean, error, self.count)
        return Effect(mean, self.low + by, self.high + by, p_value, self.deviation, self.count)


def effect(
    differences: Sequence[float] | np.ndarray, level: float = 0.05, interval: Interval = "t", seed: int = 0
) -> Effect:
    """The mean of paired differences with its interval at `1 − level`.

    Args:
        differences: `(n,)`, one for each seed.
        level: two-sided.
        interval: "t" or "bca".
        seed: of the bootstrap.

    Raises:
        InputError: for fewer than two differences, or one that is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        raise InputError(f"{len(values)} paired differences have no interval; run at least 2 seeds")
    if not np.isfinite(values).all():
        raise InputError(f"a paired difference is {values[~np.isfinite(values)][0]}; count a divergence as a loss")
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    error = deviation / math.sqrt(len(values))
    half = float(stats.t.ppf(1 - level / 2, len(values) - 1)) * error
    low, high = mean - half, mean + half
    p_value = _t_test(mean, error, len(values))
    if interval == "bca" and deviation > 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of degenerate resamples, which end as a NaN and are replaced
            found = stats.bootstrap(
                (values,), np.mean, confidence_level=1 - level, n_resamples=RESAMPLES, method="BCa", random_state=seed
            ).confidence_interval
        if math.isfinite(found.low) and math.isfinite(found.high):
            low, high = float(found.low), float(found.high)
        if len(values) <= EXACT_FLIPS:
            p_value = sign_flips(values)
    return Effect(mean, low, high, p_value, deviation, len(values))


def sign_flips(differences: np.ndarray) -> float:
    """The two-sided p-value by all choices of signs: share of means at least as far from zero."""
    count = len(differences)
    signs = 1 - 2 * ((np.arange(2 ** (count - 1))[:, None] >> np.arange(count)) & 1)  # up to a common sign
    sums = np.abs(signs @ differences)
    return float((sums >= sums[0] * (1 - 1e-12)).mean())


def _t_test(mean: float, error: float, count: int) -> float:
    least = 2.0 ** (1 - count)
    if not error > 0:
        return least if mean else 1.0
    return max(float(2 * stats.t.sf(abs(mean) / error, count - 1)), least)


def power(size: float, deviation: float, count: int, level: float = 0.05) -> float:
    """The chance that n differences with that mean and deviation are significantly above zero (noncentral t).

    Args:
        size: the mean.
        deviation: of a single difference.
        count: n.
        level: two-sided.
    """
    if count < 2 or 2.0 ** (1 - count) > level:
        return 0.0
    if not deviation > 0:
        return 1.0 if size > 0 else 0.0
    found = stats.nct.sf(stats.t.ppf(1 - level / 2, count - 1), count - 1, size / deviation * math.sqrt(count))
    return float(found) if math.isfinite(found) else 1.0


def all_powers(size: float, deviations: Sequence[float], count: int, level: float = 0.05) -> float:
    """The least chance that several comparisons are significant together: `1 − Σ (1 − power)`, Bonferroni's bound."""
    return max(0.0, 1 - sum(1 - power(size, deviation, count, level) for deviation in deviations))


def seeds_needed(
    size: float, deviations: Sequence[float], wanted: float, level: float = 0.05, most: int = 1000
) -> int | None:
    """The fewest seeds whose power is as wanted, or None if more than `most`."""
    low, high = 1, most
    if all_powers(size, deviations, most, level) < wanted:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if all_powers(size, deviations, middle, level) >= wanted else (middle, high)
    return high


def least_seeds(arms: int, level: float = 0.05) -> int:
    """The fewest seeds with which an arm can be significant, corrected for all arms: `2^(1 − n) ≤ level / arms`."""
    return max(2, math.ceil(1 + math.log2(arms / level) - 1e-9))


def chance_left(differences: Sequence[float] | np.ndarray, total: int, size: float, level: float = 0.05) -> float:
    """The chance that a comparison is significant after all seeds, if what is to come has the mean `size`.

    With n of N differences seen, `mean_N ~ N((n m + (N − n) size) / N, (N − n) s² / N²)`, and significant beyond
    `t s / √N`; s is the deviation so far.

    Args:
        differences: those seen, `(n,)`.
        total: N.
        size: the smallest effect worth having.
        level: two-sided.
    """
    values = np.asarray(differences, dtype=np.float64)
    seen, left = len(values), total - len(values)
    deviation = float(values.std(ddof=1))
    expected = (values.sum() + left * size) / total
    needed = float(stats.t.ppf(1 - level / 2, total - 1)) * deviation / math.sqrt(total)
    spread = math.sqrt(left) * deviation / total
    if not spread > 0:
        return 1.0 if expected > needed else 0.0
    assert seen >= 2
    return float(stats.norm.sf((needed - expected) / spread))
