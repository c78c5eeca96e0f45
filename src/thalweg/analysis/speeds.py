"""How fast a drift goes in each block, how that falls over time, and how sure this is.

Speeds, never positions: a position along the window's own mean grows steadily even for a random walk. A block's speed
is its mean along the direction of the other blocks, in the metric of `block_means`; no block is projected on itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import optimize, stats

from thalweg.analysis.block_means import BlockMeans
from thalweg.analysis.drift_direction import APART
from thalweg.analysis.drift_test import SHARES

SURE = 0.05
"""Relative error of a drift's squared speed from which on a weaker metric is preferred to a strong one."""

STRONG = 0.8
"""Share of the noise's rank that the metric takes out otherwise; chosen beforehand, since the choice of the surest one
makes intervals too narrow."""

BLOCKS, FEW_BLOCKS, FEW_ROWS = 20, 10, 300

ROUNDS = 12
"""Of speeds and directions, each found from the other."""

LEVEL = 0.90
"""Of the intervals."""

WIDER = 1.15
"""By how much intervals are wider than Student's t says: the speeds share a direction that is made of them, so their
errors are not independent (without this 90 % intervals covered 82 to 88 % in `benchmarks.drift`)."""

WIDER_AROUND = 1.3
"""The same once more where noise comes back: what is taken out of K for it is an estimate too (90 % intervals covered
77 to 80 % without this, and 90 and 91 % with it on the seeds that it was chosen on)."""

RANGE = (-6.0, 30.0)
"""Rates that are searched, in units of one over the window's length."""

POWERS = (-1.0, 8.0)

CLEAR = 4.0
"""ΔAICc from which on one model is preferred; below, the run does not say."""

LEAST_CONSTANTS = 2.0
"""Time constants that a window must hold for a half-life to be told from it."""

WIDEST = 4.0
"""How many times its lower end the upper end of a half-life's interval may be."""

MEMORIES = (0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Blocks over which noise comes back, as tried."""

CONFIDENT = 0.99
"""Of the F-test beyond which the return of noise is taken out."""

Law = Callable[[float], np.ndarray]
"""From a rate to the shape of the speeds."""

ModelName = Literal["constant", "exponential", "power law", "undecided"]


@dataclass(frozen=True)
class Decay:
    """A law fitted to the speeds.

    Attributes:
        name: "constant", "exponential" (`a e^(−κτ)`) or "power law" (`a τ^(−p)`).
        rate: κ in one over the clock's unit, or p; 0 for a constant.
        interval: of it, at `LEVEL`, by the profile of the sum of squares.
        amplitude: a, the fitted speed at the middle of the window.
        squares: weighted sum of squares left.
        aicc: Akaike's criterion with its small-sample correction.
    """

    name: ModelName
    rate: float
    interval: tuple[float, float]
    amplitude: float
    squares: float
    aicc: float


@dataclass(frozen=True, eq=False)
class Speeds:
    """Speeds of the blocks and the laws that were fitted to them.

    Attributes:
        clock: middle of each block on the clock, `(J,)`.
        values: speed of each block, `(J,)`, in the metric; their ratios matter.
        weights: of each in the fits.
        fits: constant, exponential, power law.
        model: which of them is preferred by at least `CLEAR`, or "undecided".
        kernel: the inner products they came from, `(J, J)`.
    """

    clock: np.ndarray
    values: np.ndarray
    weights: np.ndarray
    fits: tuple[Decay, ...]
    model: ModelName
    kernel: np.ndarray

    def fit(self, name: ModelName) -> Decay:
        """The law of that name."""
        return next(one for one in self.fits if one.name == name)

    def relative(self, name: ModelName, clock: np.ndarray) -> np.ndarray:
        """What a law says of the speed at other times, over that in the middle of the window."""
        law, middle = self.fit(name), float(self.clock.mean())
        if name == "exponential":
            found: np.ndarray = np.exp(-law.rate * (clock - middle))
            return found
        return (clock / middle) ** -law.rate if name == "power law" else np.ones_like(clock)


def speeds(blocks: BlockMeans, clock: np.ndarray) -> Speeds:
    """Block speeds and their decay.

    `v_j = Σ_i w_i s_i K_ij / Σ_i w_i s_i²` over the other blocks i, with s an exponential fitted to v, in turns; w is
    one over the noise of single steps in each block. Where noise comes back (see `return_of_noise`), its part is taken
    out of K and neighbours are left out as well.

    Args:
        blocks: means of blocks of innovations.
        clock: Σ η_eff at the middle of each, `(J,)`; positive, 0 is where training began.
    """
    matrix, weights = sure_kernel(blocks), 1 / blocks.noise
    weights = weights / weights.mean()
    span = float(clock[-1] - clock[0]) * len(blocks) / (len(blocks) - 1)
    noise, error = return_of_noise(matrix, clock, weights, span)
    if not noise.any():
        return _alternated(matrix, clock, weights, span, 0)
    found = _alternated(matrix - noise, clock, weights, span, APART)
    # how much noise comes back is not known exactly, and the rate depends on it
    ends = [_alternated(matrix - noise * (1 + way * error), clock, weights, span, APART) for way in (-1, 1)]
    laws = []
    for place, law in enumerate(found.fits):
        intervals = [one.fits[place].interval for one in (found, *ends)]
        low, high = min(low for low, _ in intervals), max(high for _, high in intervals)
        wide = law.rate - WIDER_AROUND * (law.rate - low), law.rate + WIDER_AROUND * (high - law.rate)
        laws.append(replace(law, interval=wide))
    return replace(found, fits=tuple(laws))


def _alternated(matrix: np.ndarray, clock: np.ndarray, weights: np.ndarray, span: float, apart: int) -> Speeds:
    """Speeds and an exponential, each from the other, over blocks more than `apart` apart."""
    steps = np.arange(len(matrix))
    others = (np.abs(steps[:, None] - steps) > apart).astype(float)
    matrix = matrix * others
    shape = np.full(len(matrix), math.sqrt(max(float(matrix.sum() / others.sum()), 1e-300)))
    values = shape
    for _ in range(ROUNDS):
        values = matrix @ (weights * shape) / (others @ (weights * shape**2))
        rate, amplitude, _ = _best(lambda k: _exponential(clock, k), values, weights, _scaled(RANGE, span))
        shape = amplitude * _exponential(clock, rate)
        if not np.isfinite(shape).all() or np.abs(shape).max() < 1e-150:
            shape = np.full(len(matrix), abs(float(values.mean())) or 1.0)
    return fitted(clock, values, weights, span, matrix)


def sure_kernel(blocks: BlockMeans) -> np.ndarray:
    """K in the weakest metric in which the drift stands out by far, or in a strong one.

    A strong drift that decays shows within blocks as well, and a strong metric would take it for noise.

    Args:
        blocks: means of blocks.
    """
    for share in SHARES[: SHARES.index(STRONG)]:
        matrix = blocks.kernel(share)
        if rank_one_error(matrix) <= SURE:
            return matrix
    return blocks.kernel(STRONG)


def rank_one_error(matrix: np.ndarray) -> float:
    """How far a kernel is from `s_i s_j` over distant blocks: the error of its sum by what is left, over that sum."""
    steps = np.arange(len(matrix))
    far = (np.abs(steps[:, None] - steps) > APART).astype(float)
    used = matrix * far
    shape = np.maximum(used.sum(axis=1), 0.0)
    if not shape.any():
        return math.inf
    shape = shape / math.sqrt(float(used.sum())) if used.sum() > 0 else shape
    for _ in range(ROUNDS):
        shape = (shape + used @ shape / np.maximum(far @ shape**2, 1e-300)) / 2
    fit = np.outer(shape, shape) * far
    total = float(fit.sum())
    return math.sqrt(2 * float(((used - fit) ** 2).sum())) / total if total > 0 else math.inf


def return_of_noise(
    matrix: np.ndarray, clock: np.ndarray, weights: np.ndarray, span: float
) -> tuple[np.ndarray, float]:
    """What noise alone makes of K: around a minimum it comes back, so near blocks of it have opposite signs.

    `K_ij = a e^(−κ (τ_i + τ_j)) − c e^(−|i−j| / m) / √(w_i w_j)` with a, c ≥ 0 is fitted to blocks more than `APART`
    apart. At one distance the noise's part stays as training goes on, the drift's falls; that tells them apart.

    Args:
        matrix: K, `(J, J)`.
        clock: middle of each block.
        weights: one over the noise of each, `(J,)`.
        span: of the window on the clock.

    Returns:
        The second term, `(J, J)`, zeros where it does not fit clearly better than none; and half the width of the 90 %
        interval of c over c itself.
    """
    first, second = np.triu_indices(len(matrix), APART + 1)
    values = matrix[first, second]
    ticks = clock[first] + clock[second] - 2 * clock.mean()
    scale = 1 / np.sqrt(weights[first] * weights[second])
    rates = np.linspace(*_scaled(RANGE, span), 145)
    drifts = np.exp(-rates[:, None] * ticks)
    best = math.inf, 0.0, 1.0, math.inf
    size = (drifts**2).sum(axis=1)
    alone = np.maximum(drifts @ values, 0) ** 2 / size
    plain = float((values**2).sum() - alone.max())
    for length in MEMORIES:
        noise = -np.exp(-(second - first) / length) * scale
        both, own = drifts @ noise, float(noise @ noise)
        top, side = drifts @ values, float(noise @ values)
        determinant = np.maximum(size * own - both**2, 1e-300)
        a, c = (own * top - both * side) / determinant, (size * side - both * top) / determinant
        left = np.where((a > 0) & (c > 0), (values**2).sum() - a * top - c * side, math.inf)
        place = int(np.argmin(left))
        if left[place] < best[0]:
            best = float(left[place]), float(c[place]), length, float(size[place] / determinant[place])
    least, height, length, spread = best
    free = len(values) - 4
    needed = float(stats.f.ppf(CONFIDENT, 2, free)) * least / free if free > 0 else math.inf
    if not math.isfinite(least) or (plain - least) / 2 < needed:
        return np.zeros_like(matrix), 0.0
    steps = np.arange(len(matrix))
    apart = np.abs(steps[:, None] - steps)
    found = -height * np.exp(-apart / length) / np.sqrt(np.outer(weights, weights))
    error = float(stats.t.ppf((1 + LEVEL) / 2, free)) * math.sqrt(least / free * spread) / height
    return found, error


def fitted(clock: np.ndarray, values: np.ndarray, weights: np.ndarray, span: float, kernel: np.ndarray) -> Speeds:
    """The three laws for given speeds; see `speeds`."""
    middle = float(clock.mean())
    laws = (
        _decay("constant", lambda _: np.ones_like(clock), values, weights, None),
        _decay("exponential", lambda k: _exponential(clock, k), values, weights, _scaled(RANGE, span)),
        _decay("power law", lambda p: (clock / middle) ** -p, values, weights, POWERS),
    )
    ranked = sorted(laws, key=lambda law: law.aicc)
    clear = ranked[1].aicc - ranked[0].aicc >= CLEAR
    # of nested laws the simpler one needs no proof: a constant is preferred unless another is clearly better
    best: ModelName = ranked[0].name if clear else "undecided"
    constant = laws[0]
    if not clear and constant.aicc - ranked[0].aicc < CLEAR and _no_decay(laws[1]):
        best = "constant"
    return Speeds(clock, values, weights, laws, best, kernel)


def _no_decay(law: Decay) -> bool:
    """Whether the exponential's interval holds a rate of zero."""
    return law.interval[0] <= 0 <= law.interval[1]


def _scaled(interval: tuple[float, float], span: float) -> tuple[float, float]:
    return interval[0] / span, interval[1] / span


def _exponential(clock: np.ndarray, rate: float) -> np.ndarray:
    """`e^(−κ (τ − τ̄))`."""
    found: np.ndarray = np.exp(-rate * (clock - clock.mean()))
    return found


def _decay(
    name: ModelName, law: Law, values: np.ndarray, weights: np.ndarray, rates: tuple[float, float] | None
) -> Decay:
    """A law at its best rate, with the rate's interval by the roots of its profile."""
    count, parameters = len(values), 2 if rates is None else 3

    def squares(rate: float) -> float:
        return _left(law(rate), values, weights)[1]

    if rates is None:
        amplitude, least = _left(law(0.0), values, weights)
        rate, interval = 0.0, (0.0, 0.0)
    else:
        rate, amplitude, least = _best(law, values, weights, rates)
        quantile = WIDER * float(stats.t.ppf((1 + LEVEL) / 2, count - 2))
        bound = least + least / max(count - 2, 1) * quantile**2
        interval = tuple(_edge(lambda r: squares(r) - bound, rate, end) for end in rates)  # type: ignore[assignment]
    penalty = 2 * parameters + 2 * parameters * (parameters + 1) / max(count - parameters - 1, 1)
    aicc = count * math.log(max(least, 1e-300) / count) + penalty
    return Decay(name, rate, interval, amplitude, least, aicc)


def _edge(excess: Callable[[float], float], inside: float, end: float) -> float:
    """The first root of a profile between its minimum and an end of the range; the end where there is none."""
    points = np.linspace(inside, end, 73)
    values = [excess(point) for point in points]
    for before, after, low, high in zip(points, points[1:], values, values[1:], strict=False):
        if low < 0 <= high:
            return float(optimize.brentq(excess, before, after))
    return float(end)


def _best(law: Law, values: np.ndarray, weights: np.ndarray, rates: tuple[float, float]) -> tuple[float, float, float]:
    """Rate, amplitude and sum of squares at the least sum of squares."""
    grid = np.linspace(*rates, 181)
    found = [_left(law(rate), values, weights)[1] for rate in grid]
    place = int(np.argmin(found))
    low, high = grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)]
    best = optimize.minimize_scalar(
        lambda rate: _left(law(rate), values, weights)[1],
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6 * (high - low)},
    )
    rate = float(best.x)
    return rate, *_left(law(rate), values, weights)


def _left(shape: np.ndarray, values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The amplitude that fits a shape best, and the weighted sum of squares left."""
    size = float((weights * shape**2).sum())
    amplitude = float((weights * shape * values).sum()) / size if size > 0 else 0.0
    return amplitude, float((weights * (values - amplitude * shape) ** 2).sum())
