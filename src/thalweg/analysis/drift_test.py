"""Is there one direction that all blocks of updates move along, beyond what noise explains?

`t(ε) = Σ_{|i−j|>g} ε_i ε_j K_ij / √(2 Σ K_ij²)`: without a drift the sign of each block's mean is as good as its
opposite, so the null is all 2^(J−1) flips of blocks. The largest over the metrics ρ and the smallest over the gaps g is
taken within each flip, so that neither choice costs anything.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thalweg.analysis.block_means import BlockMeans, block_means
from thalweg.analysis.innovations import FEW_ROWS, Innovations, innovations
from thalweg.errors import InputError

SHARES = (0.0, 0.05, 0.2, 0.5, 0.8, 0.95)
"""Shares of the noise's degrees that the metrics take out."""

GAPS = (0, 1, 2)

BLOCKS = 10
FEW_BLOCKS = 8
"""For fewer than `FEW_ROWS`."""
LEAST_BLOCKS = 7
"""With 7 the smallest p-value is 1/64."""

LEAST_LENGTH = 10
"""Innovations of a block, at the least."""

TIED = 0.1
"""Correlation of neighbouring blocks above which there are fewer, longer blocks."""

LEAST_ROWS = FEW_BLOCKS * LEAST_LENGTH + 2
"""Rows that a window needs."""


@dataclass(frozen=True, eq=False)
class Test:
    """The outcome.

    Attributes:
        p_value: share of sign flips with a statistic at least as large; never below `2^(1−J)`. The larger one where two
            explanations of the updates' memory are about as good.
        statistic: its value without a flip, for the best explanation.
        innovations: what was tested, by the best explanation.
        blocks: their means.
    """

    p_value: float
    statistic: float
    innovations: Innovations
    blocks: BlockMeans


def drift_test(gram: np.ndarray, rates: np.ndarray, momenta: np.ndarray, blocks: int | None = None) -> Test:
    """The test for a window of updates.

    Args:
        gram: of the updates, `(T, T)`.
        rates: `(T,)`, step sizes; ones where there are none.
        momenta: `(T,)`; zeros where there are none.
        blocks: J; 10, or 8 for fewer than 300 rows, or fewer where neighbouring blocks stay tied together.

    Raises:
        InputError: if the window is too short, or nothing moves in it.
    """
    check_rows(len(gram), blocks)
    if not np.trace(gram) > 0:
        raise InputError("the weights do not move in this window, so nothing drifts; choose another")
    count = blocks or (BLOCKS if len(gram) >= FEW_ROWS else FEW_BLOCKS)
    while True:
        found = innovations(gram, rates, momenta, (len(gram) - 1) // count)
        if blocks is not None or count <= LEAST_BLOCKS or found[0].left <= TIED:
            break
        count -= 1
    means = [block_means(one.gram, count) for one in found]
    outcomes = [flipped(one) for one in means]
    return Test(max(p for p, _ in outcomes), outcomes[0][1], found[0], means[0])


def check_rows(rows: int, blocks: int | None = None) -> None:
    """Raise an InputError for too few rows, or a number of blocks that cannot be."""
    if blocks is not None and not (LEAST_BLOCKS <= blocks <= 16):
        raise InputError(f"blocks={blocks}: give between {LEAST_BLOCKS} and 16 blocks, or none")
    need = LEAST_ROWS if blocks is None else blocks * LEAST_LENGTH + 2
    if rows < need:
        raise InputError(
            f"the window holds {rows} rows; the drift test needs {need}, so that blocks of steps have a mean"
        )


def flipped(means: BlockMeans, shares: Sequence[float] = SHARES) -> tuple[float, float]:
    """The p-value by all sign flips, and the statistic."""
    signs = all_signs(len(means))
    kernels = [means.kernel(share) for share in shares]
    values = np.min([np.max([ratio(k, signs, gap) for k in kernels], axis=0) for gap in GAPS], axis=0)
    return float((values >= values[0] - 1e-12 * abs(values[0])).mean()), float(values[0])


def all_signs(count: int) -> np.ndarray:
    """Every choice of signs up to a common one, all positive first: `(2^(count−1), count)`."""
    rest = np.array(list(itertools.product([1.0, -1.0], repeat=count - 1)))
    return np.column_stack([np.ones(len(rest)), rest])


def ratio(matrix: np.ndarray, signs: np.ndarray, gap: int) -> np.ndarray:
    """The statistic of each choice of signs, over blocks more than `gap` apart: `(signs,)`."""
    steps = np.arange(len(matrix))
    used = matrix * (np.abs(steps[:, None] - steps) > gap)
    size = np.sqrt(2 * (used**2).sum())
    if not size > 0:
        return np.zeros(len(signs))
    found: np.ndarray = ((signs @ used) * signs).sum(axis=1) / size
    return found
