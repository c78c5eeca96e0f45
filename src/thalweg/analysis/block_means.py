"""Means of blocks of innovations, held against each other in a metric that the noise within blocks defines.

With contrasts c within blocks (cosines that are orthogonal to a constant, but for the slowest) and their covariance Σ,
two block means are compared by `K_ij = b_iᵀ (I + Σ/ρ)⁻¹ b_j`: directions in which single steps are noisy count for
less. Σ is taken from the contrasts of all blocks but i and j, so that no block helps to judge itself. Everything
follows from the Gram matrix of the innovations:

    K_ij = B_ij − R_i (S + ρ r I)⁻¹ R_jᵀ,    B = ⟨b, b⟩,  R = ⟨b, c⟩,  S = ⟨c, c⟩,  r = number of contrasts.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft, optimize

SKIPPED = 2
"""The slowest contrasts of a block, its slope and bend, are left out: a drift that decays or turns shows in them."""

FLOOR = 1e-7
"""The least ρ, over the largest eigenvalue of Σ."""


@dataclass(frozen=True, eq=False)
class BlockMeans:
    """J blocks of L innovations.

    Attributes:
        length: L.
        first: the first innovation that is in a block.
        means: B, float64 `(J, J)`.
        cross: R, `(J, J q)` with q = L − 1 − `SKIPPED`, block by block.
        within: S, `(J q, J q)`.
    """

    length: int
    first: int
    means: np.ndarray
    cross: np.ndarray
    within: np.ndarray

    def __len__(self) -> int:
        return len(self.means)

    @property
    def degrees(self) -> int:
        """q, contrasts of a block."""
        return self.length - 1 - SKIPPED

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues, descending and none below zero, and eigenvectors of S."""
        values, vectors = np.linalg.eigh((self.within + self.within.T) / 2)
        return np.maximum(values[::-1], 0), vectors[:, ::-1]

    @property
    def noise(self) -> np.ndarray:
        """Squared length of a single innovation about its block's mean, `(J,)`; hardly zero even where nothing is."""
        energy = np.diagonal(self.within).reshape(len(self), self.degrees).mean(axis=1)
        found: np.ndarray = np.maximum(energy, max(1e-12 * float(np.trace(self.means)), 1e-300))
        return found

    def ridge(self, share: float) -> float:
        """ρ at which the metric takes out `share` of the contrasts' rank: `Σ λ/(λ + ρ) = share · rank`."""
        values = self.spectrum[0] / self.within.shape[0]
        if share <= 0 or not values[0] > 0:
            return math.inf
        values = values[values > 1e-12 * values[0]]
        wanted = share * len(values)

        def excess(logarithm: float) -> float:
            return float((values / (values + math.exp(logarithm))).sum()) - wanted

        low = math.log(values[-1]) - 15
        found = math.exp(optimize.brentq(excess, low, math.log(values[0]) + 15, xtol=1e-6))
        return max(found, FLOOR * float(values[0]))

    def kernel(self, share: float) -> np.ndarray:
        """K, `(J, J)`, with the metric of the other blocks off the diagonal; the diagonal is zero."""
        return kernel(self, self.ridge(share))


def block_means(gram: np.ndarray, blocks: int) -> BlockMeans:
    """The last `blocks` times L innovations, cut into blocks of L = n // blocks.

    Args:
        gram: of the innovations, `(n, n)`.
        blocks: J.
    """
    length = len(gram) // blocks
    first = len(gram) - blocks * length
    turn = fft.dct(np.eye(length), type=2, norm="ortho", axis=0)  # row 0 is constant
    parts = gram[first:, first:].reshape(blocks, length, blocks, length)
    turned = np.einsum("lt,jtku,mu->jlkm", turn, parts, turn, optimize=True)
    begin = 1 + SKIPPED
    rank = blocks * (length - begin)
    return BlockMeans(
        length,
        first,
        turned[:, 0, :, 0] / length,
        (turned[:, 0, :, begin:] / math.sqrt(length)).reshape(blocks, rank),
        turned[:, begin:, :, begin:].reshape(rank, rank),
    )


def kernel(blocks: BlockMeans, ridge: float) -> np.ndarray:
    """K off the diagonal, at a ridge ρ; blocks i and j are taken out of the inverse by a Schur complement."""
    count, q = len(blocks), blocks.degrees
    out = np.zeros((count, count))
    if math.isinf(ridge):
        out[:] = blocks.means
        np.fill_diagonal(out, 0.0)
        return out
    values, vectors = blocks.spectrum
    left_over = ridge * len(values) * (count - 2) / count
    inverse = (vectors / (values + left_over)) @ vectors.T
    solved = inverse @ blocks.cross.T
    joined = blocks.cross @ solved
    for i, j in itertools.combinations(range(count), 2):
        pair = np.concatenate([np.arange(i * q, (i + 1) * q), np.arange(j * q, (j + 1) * q)])
        own = blocks.cross[[i, j]][:, pair]  # what the two means have to do with their own contrasts
        corner = inverse[np.ix_(pair, pair)]
        seen = solved[pair][:, [i, j]] - corner @ own.T
        whole = joined[i, j] - own[0] @ solved[pair, j] - own[1] @ solved[pair, i] + own[0] @ corner @ own[1]
        out[i, j] = out[j, i] = blocks.means[i, j] - (whole - seen[:, 0] @ np.linalg.solve(corner, seen[:, 1]))
    return out
