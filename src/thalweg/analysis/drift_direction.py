"""The drift's direction from blocks of innovations: how well it is known, how fast it goes, whether it stays the same.

The direction is a sum of block means seen through the metric, `d = Σ_i a_i M b_i` with `M = (I + Σ/ρ)⁻¹`, Σ from the
contrasts of all blocks: noise within blocks says nothing of its mean, so the same contrasts may serve all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import fft

from thalweg.analysis.block_means import SKIPPED, BlockMeans
from thalweg.analysis.drift_test import SHARES

THIRD = 3
"""Persistence holds the first of so many parts of a window against the last."""

NARROW = 0.15
"""Standard error of a corrected cosine that is small enough."""

APART = 1
"""Neighbouring blocks share a boundary, with opposite signs around a minimum; only blocks further apart are
compared."""


@dataclass(frozen=True, eq=False)
class DirectionFound:
    """A direction as coefficients.

    Attributes:
        coefficients: over the innovations, `(n,)`; of any length.
        cosine: its estimated cosine with the drift as the metric leaves it: the root of what distant blocks have in
            common over all its energy. Too high where the steps are not few beside P, for then the metric takes out
            some of the drift; too low around a minimum, where noise returns.
        share: of the noise's degrees that the metric takes out.
        along: speed of each block along the direction of the others, as innovation, `(J,)`.
    """

    coefficients: np.ndarray
    cosine: float
    share: float
    along: np.ndarray


@dataclass(frozen=True)
class Persistence:
    """Agreement of the directions of two distant parts of a window.

    Attributes:
        cosine: of the two directions as they were found, noise and all.
        corrected: the same for the drifts behind them, noise taken out; None where a part has no drift of its own.
        interval: of `corrected`, by leaving out one block at a time, at two standard errors.
        first: rows of the first part, half-open, counted in the window.
        last: rows of the last.
    """

    cosine: float
    corrected: float | None
    interval: tuple[float, float] | None
    first: tuple[int, int]
    last: tuple[int, int]


def find_direction(blocks: BlockMeans, shape: np.ndarray) -> DirectionFound:
    """The direction in the metric, of those in `SHARES`, in which most of it is common to distant blocks.

    With `Q_ij = ⟨M b_i, b_j⟩` the energy `Σ a_i a_j Q_ij` over distant blocks is unbiased for `⟨d, drift⟩`, so the
    metric with the largest `Σ a_i a_j Q_ij / |d|` is the one whose direction is nearest to the drift; two standard
    errors are taken off, since where single steps are noisy chance alone makes it large.

    Args:
        blocks: means of blocks.
        shape: how fast the drift goes in each, up to a factor, `(J,)`.
    """
    weights = np.maximum(shape, 0) / blocks.noise
    weights = weights / weights.max() if weights.max() > 0 else np.ones(len(blocks))
    found = []
    for share in SHARES:
        lengths, against = seen(blocks, share), _against(blocks, share)
        energy = float(weights @ lengths @ weights)
        if energy > 0:
            signal, error = distant(against, weights)
            found.append(((signal - 2 * error) / math.sqrt(energy), distant(lengths, weights)[0] / energy, share))
    _, common, share = max(found, default=(0.0, 0.0, 0.0))
    cosine = math.sqrt(min(max(common, 0.0), 1.0))
    return DirectionFound(_coefficients(blocks, weights, share), cosine, share, _along(blocks, weights, share))


def persistence(blocks: BlockMeans) -> Persistence:
    """How far the first and the last third of the blocks go the same way.

    A direction that turns shows within blocks too, and a metric takes it for noise. So of the metrics the weakest is
    used whose interval is narrow enough, or the one with the narrowest.

    Args:
        blocks: means of blocks.
    """
    count = len(blocks)
    part = count // THIRD
    first, last = np.arange(part), np.arange(count - part, count)
    found: list[tuple[float, float | None, float]] = []
    for share in SHARES:
        corrected, error = _corrected_with_error(blocks.kernel(share), first, last)
        found.append((error, corrected, share))
        if error <= NARROW:
            break
    error, corrected, share = min(found, key=lambda one: one[0])
    lengths = seen(blocks, share)
    mean = np.zeros((2, count))
    mean[0, first], mean[1, last] = 1.0, 1.0
    gram = mean @ lengths @ mean.T
    size = math.sqrt(max(gram[0, 0] * gram[1, 1], 0.0))
    rows = [
        (blocks.first + int(b[0]) * blocks.length, blocks.first + (int(b[-1]) + 1) * blocks.length)
        for b in (first, last)
    ]
    return Persistence(
        float(gram[0, 1]) / size if size > 0 else 0.0,
        corrected,
        None if corrected is None or not math.isfinite(error) else (corrected - 2 * error, corrected + 2 * error),
        rows[0],
        rows[1],
    )


def _corrected_with_error(kernel: np.ndarray, first: np.ndarray, last: np.ndarray) -> tuple[float | None, float]:
    """The corrected cosine and its standard error by leaving out one block at a time; infinite where there is none."""
    corrected = _corrected(kernel, first, last)
    if corrected is None:
        return None, math.inf
    left_out = [_corrected(kernel, first[first != b], last[last != b]) for b in [*first, *last]]
    values = np.array([value for value in left_out if value is not None])
    if len(values) < len(left_out):
        return corrected, math.inf
    return corrected, math.sqrt((len(values) - 1) / len(values) * float(((values - values.mean()) ** 2).sum()))


def seen(blocks: BlockMeans, share: float) -> np.ndarray:
    """`⟨M b_i, M b_j⟩`, `(J, J)`."""
    ridge = blocks.ridge(share)
    if math.isinf(ridge):
        return blocks.means
    values, vectors = blocks.spectrum
    turned, damped = blocks.cross @ vectors, values + ridge * len(values)
    found: np.ndarray = blocks.means - (turned * (2 / damped - values / damped**2)) @ turned.T
    return found


def unbiased_square(means: np.ndarray, gap: int = APART) -> float:
    """The squared length of the mean that all blocks share: the average of `⟨b_i, b_j⟩` over distant blocks."""
    steps = np.arange(len(means))
    return float(means[np.abs(steps[:, None] - steps) > gap].mean())


def jackknife(means: np.ndarray, gap: int = APART) -> float:
    """Standard error of `unbiased_square`, leaving out one block at a time."""
    count = len(means)
    kept = [np.delete(np.delete(means, b, 0), b, 1) for b in range(count)]
    values = np.array([unbiased_square(one, gap) for one in kept])
    return float(math.sqrt((count - 1) / count * ((values - values.mean()) ** 2).sum()))


def _solved(blocks: BlockMeans, share: float) -> np.ndarray | None:
    """`(S + ρ r I)⁻¹ Rᵀ`, `(J q, J)`; None where the metric takes out nothing."""
    ridge = blocks.ridge(share)
    if math.isinf(ridge):
        return None
    values, vectors = blocks.spectrum
    found: np.ndarray = vectors @ ((blocks.cross @ vectors) / (values + ridge * len(values))).T
    return found


def _coefficients(blocks: BlockMeans, weights: np.ndarray, share: float) -> np.ndarray:
    """Of `Σ_i a_i M b_i` over the innovations."""
    count, length = len(blocks), blocks.length
    parts = np.repeat(weights[:, None] / length, length, axis=1)
    solved = _solved(blocks, share)
    if solved is not None:
        turn = fft.dct(np.eye(length), type=2, norm="ortho", axis=0)[1 + SKIPPED :]
        parts = parts - (solved @ weights).reshape(count, blocks.degrees) @ turn
    return np.concatenate([np.zeros(blocks.first), parts.ravel()])


def _along(blocks: BlockMeans, weights: np.ndarray, share: float) -> np.ndarray:
    """`⟨d_(−j), b_j⟩ / |d_(−j)|`, d_(−j) from all blocks but j."""
    against, lengths = _against(blocks, share), seen(blocks, share)
    out = np.empty(len(blocks))
    for block in range(len(blocks)):
        others = weights.copy()
        others[block] = 0.0
        length = math.sqrt(max(float(others @ lengths @ others), 0.0))
        out[block] = float(others @ against[:, block]) / length if length > 0 else math.nan
    return out


def _against(blocks: BlockMeans, share: float) -> np.ndarray:
    """`⟨M b_i, b_j⟩`, `(J, J)`."""
    solved = _solved(blocks, share)
    return blocks.means if solved is None else blocks.means - blocks.cross @ solved


def distant(matrix: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """`Σ a_i a_j X_ij` over blocks more than `APART` apart, made up for the pairs left out, and its standard error.

    The error is what `X_ij` differ from `c a_i a_j` by, as they are for a drift that goes as fast as a says.
    """
    steps = np.arange(len(matrix))
    far = np.abs(steps[:, None] - steps) > APART
    pairs = np.outer(weights, weights)
    total = float((pairs * matrix)[far].sum())
    fit = total / float((pairs[far] ** 2).sum())
    left = (pairs * (matrix - fit * pairs))[far]
    scale = float(pairs.sum() / pairs[far].sum())
    return total * scale, scale * math.sqrt(2 * float((left**2).sum()))


def _corrected(kernel: np.ndarray, first: np.ndarray, last: np.ndarray) -> float | None:
    """`K_AB / √(K_AA K_BB)` over pairs of different blocks."""

    def own(part: np.ndarray) -> float:
        inside = kernel[np.ix_(part, part)]
        return float(inside.sum() / (len(part) * (len(part) - 1))) if len(part) > 1 else 0.0

    between, sizes = float(kernel[np.ix_(first, last)].mean()), (own(first), own(last))
    return between / math.sqrt(sizes[0] * sizes[1]) if min(sizes) > 0 else None
