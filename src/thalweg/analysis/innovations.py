"""What each update holds that the ones before do not explain: step size, momentum and further memory taken out.

Noise that remembers ties neighbouring blocks of steps together, and every test of a mean over blocks then finds one. So
a window's updates U are turned into innovations `A U` with a banded A:

1. rates: `y_t = u_t / η_t`, in units of the window's median rate, so that a schedule does not look like a decay;
2. momentum: `z_t = y_t − β_t y_{t−1}`. For heavy ball `z_t = −η g_t` exactly, for Adam nearly;
3. what is left: an autoregression of the z with one set of coefficients for all directions, fitted to the inner
   products `⟨z_t, z_{t+k}⟩` within thirds of the window (halves of a short one), about each one's own mean, so that a
   drift takes hardly a part in it.

An autoregression of the y alone, without the momentum that the run tells of, is held against that; where both explain
the updates about as well, the test believes the less sure of the two.

A constant drift stays a constant drift under each of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

MOST_LAGS = 12
"""The longest autoregression."""

STRETCHES = 3
"""Into how many stretches a window is cut, about whose means correlations are taken."""

FEW_STRETCHES = 2
"""The same for few rows: a stretch that is short beside the memory says that there is less of it."""

FEW_ROWS = 300
"""Fewer rows than that are few."""

CLOSE = 20.0
"""Akaike's criterion within which one explanation is about as good as another."""

ROUNDS = 8
"""Of putting back what a stretch's mean took out."""

MOST_ROWS = 1500
"""More rows than these are summed in pairs, triples and so on, after momentum is taken out."""


@dataclass(frozen=True, eq=False)
class Innovations:
    """The innovations of a window of T updates.

    Attributes:
        map: A, sparse `(n, T)`: they are `A U`.
        gram: `A G Aᵀ`, float64 `(n, n)`.
        gain: what a drift of one a step is, as innovation, at the window's median rate.
        summed: how many rows one of them sums.
        momenta: β that was taken out of each update, `(T,)`; zero where there is none, or memory fits better without.
        filter: coefficients of the autoregression that was taken out as well, `(p,)`.
        left: correlation of neighbouring blocks' means that the innovations still have, as far as their short lags say.
    """

    map: sparse.csr_array
    gram: np.ndarray
    gain: float
    summed: int
    momenta: np.ndarray
    filter: np.ndarray
    left: float

    def __len__(self) -> int:
        return len(self.gram)


def innovations(
    gram: np.ndarray, rates: np.ndarray, momenta: np.ndarray, length: int, lags: int = MOST_LAGS
) -> tuple[Innovations, ...]:
    """The innovations of updates with that Gram matrix, in each way that explains them about as well; the best first.

    Args:
        gram: `(T, T)`.
        rates: `(T,)`, the step size of each update; all ones where there is none.
        momenta: `(T,)`, β of each; zeros where there is none.
        length: steps of a block, for the correlation of neighbours.
        lags: of the autoregression, at the most; 0 for none.
    """
    count = len(gram)
    scaled = sparse.diags_array(np.median(rates) / rates).tocsr()
    ways = [(scaled, np.zeros(count))]
    if momenta[1:].any():
        told = (_difference(count, [-momenta[1:]]) @ scaled).tocsr()
        ways = [(told, momenta), *(ways if lags else ())]
    found = [(_whitened(chain, gram, lags), used) for chain, used in ways]
    rows = min(len(one.gram) for one, _ in found)
    samples = min(one.samples for one, _ in found)
    criteria = [one.criterion(rows, samples, lags) for one, _ in found]
    order = np.argsort(criteria, kind="stable")
    near = [found[i] for i in order if criteria[i] <= min(criteria) + CLOSE]
    return tuple(
        Innovations(
            one.chain,
            one.gram,
            float((1 - np.mean(used)) * (1 - one.weights.sum())) * one.summed,
            one.summed,
            used,
            one.weights,
            block_correlation(one.covariances, max(length // one.summed, 2)),
        )
        for one, used in near
    )


@dataclass(frozen=True, eq=False)
class _Whitened:
    """Updates after one way of taking out momentum, and the autoregression after that."""

    chain: sparse.csr_array
    gram: np.ndarray
    weights: np.ndarray
    summed: int
    covariances: np.ndarray
    samples: float

    def criterion(self, rows: int, samples: float, lags: int) -> float:
        """Akaike's, of the last rows, for so many independent numbers; all filters begin with 1.

        Ways are compared on the same rows and at one number of samples: each way's own would not do, since the
        logarithm's zero is a matter of units.
        """
        if not lags:
            return 0.0
        length, _ = _wide(rows, lags)
        stretches = rows // length
        last = self.gram[-stretches * length :, -stretches * length :].reshape(stretches, length, stretches, length)
        energy = sum(float(np.trace(part) - part.sum() / length) for part in (last[i, :, i] for i in range(stretches)))
        return samples * math.log(max(energy / (stretches * (length - 1)), 1e-300)) + 2 * len(self.weights)


def _whitened(chain: sparse.csr_array, gram: np.ndarray, lags: int) -> _Whitened:
    """The innovations of `A U`.

    How many independent numbers there are is first taken from what is not yet white, which is far off where the memory
    is long, and then from what the first autoregression left.
    """
    summed = -(-chain.shape[0] // MOST_ROWS)
    if summed > 1:
        chain = (_sums(chain.shape[0], summed) @ chain).tocsr()
    found = whole = between(chain, gram)
    weights, covariances = np.empty(0), np.ones(1)
    if not lags:
        return _Whitened(chain, found, weights, summed, covariances, float(len(found)))
    wide = _wide(len(whole), lags)
    samples = len(found) * effective_dimension(found, lags)
    told = chain
    for _ in range(2):
        weights = autoregression(autocovariances(whole, *wide, samples), samples)
        before = [np.full(len(whole) - lag, -weight) for lag, weight in enumerate(weights, 1)]
        chain = (_difference(len(whole), before) @ told).tocsr()
        found = between(chain, gram)
        samples = len(found) * effective_dimension(found, lags)
    covariances = autocovariances(found, *_wide(len(found), lags), samples)
    return _Whitened(chain, found, weights, summed, covariances, samples)


def _wide(count: int, lags: int) -> tuple[int, int]:
    """Length of the stretches about whose mean correlations are taken, and how many lags: long beside any block."""
    length = count // (STRETCHES if count >= FEW_ROWS else FEW_STRETCHES)
    return length, min(lags, length // 4)


def between(chain: sparse.csr_array, gram: np.ndarray) -> np.ndarray:
    """`A G Aᵀ`, symmetric."""
    product = chain @ (chain @ gram).T
    found: np.ndarray = (product + product.T) / 2
    return found


def autocovariances(gram: np.ndarray, length: int, lags: int, samples: float) -> np.ndarray:
    """Mean of `⟨z_t, z_{t+k}⟩` about the mean of stretches, for k = 0 … lags: float64 `(lags + 1,)`.

    Subtracting a stretch's mean takes the noise of that mean, `v = Σ_j w_j c_j` with `w_j = 2 (1 − j/L) / L` (half for
    j = 0), out of each of them. It is put back, with the c_j beyond the last lag as an autoregression continues them.

    Args:
        gram: of the z, `(n, n)`; only its last whole stretches are used.
        length: L, of a stretch.
        lags: how many.
        samples: how many independent numbers there are, for the autoregression.
    """
    stretches = len(gram) // length
    start = len(gram) - stretches * length
    raw = np.zeros(lags + 1)
    for stretch in range(stretches):
        here = slice(start + stretch * length, start + (stretch + 1) * length)
        part = gram[here, here]
        part = part - part.mean(axis=0)
        part = part - part.mean(axis=1, keepdims=True)
        raw += [np.trace(part, offset=k) / (length - k) for k in range(lags + 1)]
    raw /= stretches
    weights = 2 * (1 - np.arange(length) / length) / length
    weights[0] /= 2
    found: np.ndarray = raw
    for _ in range(ROUNDS):
        found = raw + weights @ continued(found, length, samples)
    return found


def continued(covariances: np.ndarray, count: int, samples: float) -> np.ndarray:
    """Covariances for the lags 0 … count − 1: the given ones, and further ones by their autoregression."""
    weights = autoregression(covariances, samples)
    out = np.zeros(max(count, len(covariances)))
    out[: len(covariances)] = covariances
    for lag in range(len(covariances), count) if len(weights) else ():
        out[lag] = weights @ out[lag - 1 : lag - len(weights) - 1 : -1]
    found: np.ndarray = out[:count]
    return found


def autoregression(covariances: np.ndarray, samples: float) -> np.ndarray:
    """Coefficients by Levinson and Durbin, their number by Akaike's criterion: `(p,)`, empty for white noise.

    Args:
        covariances: c_0 … c_m.
        samples: how many independent numbers they were taken from.
    """
    if not covariances[0] > 0:
        return np.empty(0)
    weights, error = np.empty(0), float(covariances[0])
    best, chosen = 0.0, weights
    for order in range(1, len(covariances)):
        reflection = (covariances[order] - weights @ covariances[order - 1 : 0 : -1]) / error
        if not abs(reflection) < 1:
            break
        weights = np.append(weights - reflection * weights[::-1], reflection)
        error *= 1 - reflection**2
        criterion = samples * math.log(error / covariances[0]) + 2 * order
        if criterion < best:
            best, chosen = criterion, weights
    return chosen


def effective_dimension(gram: np.ndarray, apart: int) -> float:
    """`(tr Ω)² / tr Ω²` of noise with that Gram matrix, from pairs that are further apart than so many steps."""
    count = len(gram)
    steps = np.arange(count)
    far = np.abs(steps[:, None] - steps) > apart
    squares = float(np.mean(np.diagonal(gram))) ** 2
    found = float((gram[far] ** 2).mean()) if far.any() else squares
    return max(squares / found, 1.0) if found > 0 else float(count)


def block_correlation(covariances: np.ndarray, length: int) -> float:
    """Correlation of the means of two neighbouring blocks: `Σ k c_k / (L c_0 + 2 Σ (L − k) c_k)`."""
    lags = np.arange(1, len(covariances))
    own = length * covariances[0] + 2 * ((length - lags) * covariances[1:]).sum()
    return float((lags * covariances[1:]).sum() / own) if own > 0 else 0.0


def _sums(count: int, together: int) -> sparse.csr_array:
    """Sums of so many rows in a row, without the first few that make no whole sum."""
    whole = count // together
    rows = np.repeat(np.arange(whole), together)
    columns = np.arange(count - whole * together, count)
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(whole, count))


def _difference(count: int, weights: Sequence[np.ndarray]) -> sparse.csr_array:
    """`z_t = y_t + Σ_k w_k y_{t−k}` for t from the longest lag on: `(count − p, count)`."""
    diagonals = [np.ones(count), *weights]
    matrix = sparse.diags_array(diagonals, offsets=[-k for k in range(len(diagonals))], shape=(count, count)).tocsr()
    return matrix[len(weights) :]
