"""Paired differences: intervals, p-values, power, against simulation and enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from thalweg.errors import InputError
from thalweg.trials.effects import (
    all_powers,
    chance_left,
    effect,
    least_seeds,
    power,
    seeds_needed,
    sign_flips,
)


def test_the_t_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).normal(0.3, 1.0, 12)
    found = effect(values, 0.05)
    truth = stats.ttest_1samp(values, 0.0)
    low, high = truth.confidence_interval(0.95)
    assert (found.low, found.high, found.p_value) == pytest.approx((low, high, truth.pvalue), rel=1e-9)


def test_sign_flips_by_enumeration() -> None:
    values = np.array([0.5, -0.1, 0.9, 0.3, 0.2])
    sums = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in itertools.product([1, -1], repeat=5)
    ]
    assert sign_flips(values) == pytest.approx(np.mean([s >= sums[0] - 1e-12 for s in sums]))


def test_no_p_value_is_below_what_so_few_signs_can_say() -> None:
    assert effect([1.0, 1.0, 1.0]).p_value == 0.25
    assert effect([1.0, 1.0 + 1e-9, 1.0]).p_value == 0.25
    assert effect([0.0, 0.0, 0.0]).p_value == 1.0


def test_bca_follows_the_skew_and_covers() -> None:
    """On a skewed law the interval is not symmetric, and it covers better than nothing would: 2,000 samples of 20."""
    generator = np.random.default_rng(1)
    hits, longer_up = 0, 0
    for _ in range(200):
        values = generator.exponential(1.0, 20)
        found = effect(values, 0.1, "bca", seed=3)
        hits += found.low <= 1.0 <= found.high
        longer_up += found.high - found.mean > found.mean - found.low
    assert 0.8 <= hits / 200 <= 0.96
    assert longer_up > 180


def test_the_level_of_the_t_test() -> None:
    generator = np.random.default_rng(2)
    share = np.mean([effect(generator.normal(size=8)).p_value <= 0.05 for _ in range(2000)])
    assert 0.035 <= share <= 0.065


def test_power_is_what_a_simulation_finds() -> None:
    generator = np.random.default_rng(3)
    draws = [effect(generator.normal(0.8, 1.0, 8)) for _ in range(3000)]
    seen = np.mean([one.p_value <= 0.05 and one.mean > 0 for one in draws])
    assert power(0.8, 1.0, 8) == pytest.approx(seen, abs=0.03)
    assert power(0.8, 1.0, 5) == 0.0  # 2^-4 is above 0.05
    assert power(0.5, 0.0, 8) == 1.0


def test_the_seeds_that_are_asked_for_are_the_fewest() -> None:
    count = seeds_needed(0.5, [1.0, 0.8], 0.8)
    assert count is not None
    assert all_powers(0.5, [1.0, 0.8], count) >= 0.8 > all_powers(0.5, [1.0, 0.8], count - 1)
    assert seeds_needed(1e-6, [1.0], 0.8) is None


@pytest.mark.parametrize(("arms", "seeds"), [(1, 6), (2, 7), (3, 7), (6, 8), (7, 9)])
def test_eight_seeds_bear_six_comparisons(arms: int, seeds: int) -> None:
    assert least_seeds(arms) == seeds
    assert 2.0 ** (1 - seeds) <= 0.05 / arms < 2.0 ** (2 - seeds)


def test_the_chance_that_is_left_is_what_a_simulation_finds() -> None:
    generator = np.random.default_rng(4)
    seen = np.array([0.1, 0.4, -0.2, 0.3])
    spread = seen.std(ddof=1)
    needed = stats.t.ppf(0.975, 7) * spread / np.sqrt(8)
    ends = [(seen.sum() + generator.normal(0.2, spread, 4).sum()) / 8 > needed for _ in range(20000)]
    assert chance_left(seen, 8, 0.2) == pytest.approx(np.mean(ends), abs=0.015)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="at least 2 seeds"):
        effect([1.0])
    with pytest.raises(InputError, match="count a divergence as a loss"):
        effect([1.0, float("inf")])
