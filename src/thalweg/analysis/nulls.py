"""What overlaps would be if there were nothing to see.

*Uniform*: one of the two subspaces is uniformly random in R^P. For fixed dimension k and random dimension m the mean
captured energy has mean `m/P` and variance `2m(P-m)(P-k) / (k P^2 (P-1)(P+2))`; the Beta law with these two moments
stands for it.

*Layer-matched*: each direction keeps its share of energy in every layer and is random within the layers. It asks
whether the agreement is more than "both live in the same layers".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from thalweg.directions import as_numpy_generator
from thalweg.errors import InputError


@dataclass(frozen=True)
class Null:
    """A null for one measured overlap.

    Attributes:
        name: "uniform" or "layer_matched".
        expected: mean captured energy if there is nothing to see.
        deviation: its standard deviation.
        p_value: probability of at least the measured value; 0.0 only where float64 has nothing smaller.
        log10_p: the same as a decimal logarithm, which does not run out.
        draws: number of samples, 0 for a closed form.
    """

    name: str
    expected: float
    deviation: float
    p_value: float
    log10_p: float
    draws: int = 0


def uniform_null(captured: float, k: int, m: int, size: int) -> Null:
    """The uniform null for the mean captured energy of a k-dimensional by an m-dimensional subspace of R^P.

    Args:
        captured: the measured mean, between 0 and 1.
        k: dimension of the captured side.
        m: dimension of the capturing side.
        size: P.
    """
    if m >= size or k >= size:
        return Null("uniform", m / size, 0.0, 1.0, 0.0)  # one side is everything: the overlap is no surprise
    mean = m / size
    variance = 2 * m * (size - m) * (size - k) / (k * size**2 * (size - 1) * (size + 2))
    log10_p = beta_log10_survival(captured, mean, variance)
    return Null("uniform", mean, math.sqrt(variance), 10.0**log10_p, log10_p)


def layer_matched_null(
    captured: float,
    energy: np.ndarray,
    grams: np.ndarray,
    sizes: np.ndarray,
    draws: int,
    seed: int | np.random.Generator,
) -> Null:
    """The layer-matched null, by exact sampling without any P-sized vector.

    With B the orthonormal rows of the capturing side, a random direction has `B z = sum_l sqrt(e_l) B_l z_l`, where
    z_l is uniform on the unit sphere of layer l. B_l z_l depends on B_l only through its Gram `B_l B_l^T`: draw a
    Gaussian in its range, and the squared length of the rest of the layer from a chi-square law.

    Args:
        captured: the measured mean.
        energy: `(k, layers)` share of each captured direction in each layer, rows sum to 1.
        grams: `(layers, m, m)` Gram of the capturing side's orthonormal rows within each layer.
        sizes: `(layers,)` parameters of each layer.
        draws: number of samples.
        seed: for the draws.

    Returns:
        A Null whose `p_value` counts samples, `(1 + hits) / (1 + draws)`, and whose `log10_p` follows the Beta law
        with the samples' moments where the count has run out of samples.
    """
    generator = as_numpy_generator(seed)
    k, m = energy.shape[0], grams.shape[1]
    totals = np.zeros((draws, k, m))
    for layer, (gram, size) in enumerate(zip(grams, sizes, strict=True)):
        if not energy[:, layer].any():
            continue
        values, vectors = np.linalg.eigh(gram)
        inside = values > 1e-12 * max(1.0, values[-1])
        rank = min(int(inside.sum()), int(size))
        if rank == 0:
            continue
        roots = vectors[:, -rank:] * np.sqrt(values[-rank:])
        gauss = generator.standard_normal((draws, k, rank))
        length = (gauss**2).sum(axis=2)
        if size > rank:
            length = length + generator.chisquare(size - rank, (draws, k))
        weight = np.sqrt(energy[:, layer] / length)
        totals += weight[:, :, None] * (gauss @ roots.T)
    samples = (totals**2).sum(axis=2).mean(axis=1)
    hits = int((samples >= captured).sum())
    counted = (1 + hits) / (1 + draws)
    mean, variance = float(samples.mean()), float(samples.var(ddof=1))
    log10_p = math.log10(counted)
    if hits == 0 and variance > 0:
        log10_p = min(log10_p, beta_log10_survival(captured, mean, variance))
    return Null("layer_matched", mean, math.sqrt(variance), counted, log10_p, draws)


def beta_log10_survival(x: float, mean: float, variance: float) -> float:
    """`log10 P(X >= x)` for the Beta law with given mean and variance, also where P underflows.

    For x beyond the mean and P tiny: `I_y(b, a) = y^b (1-y)^a / (b B(a, b)) · 2F1(a+b, 1; b+1; y)` with `y = 1-x`
    (DLMF 8.17.8), a series of positive terms.

    Raises:
        InputError: if no Beta law has that mean and variance.
    """
    if not 0 < mean < 1 or not 0 < variance < mean * (1 - mean):
        raise InputError(f"no Beta law has mean {mean} and variance {variance}")
    if x <= 0:
        return 0.0
    if x >= 1:
        x = 1 - 1e-15
    total = mean * (1 - mean) / variance - 1
    a, b = mean * total, (1 - mean) * total
    survival = float(special.betainc(b, a, 1 - x))
    if survival > 1e-280:
        return math.log10(survival)
    y = 1 - x
    term, series, n = 1.0, 1.0, 0
    while term > 1e-17 * series and n < 1_000_000:
        term *= (a + b + n) / (b + 1 + n) * y
        series += term
        n += 1
    log = b * math.log(y) + a * math.log(x) - math.log(b) - special.betaln(a, b) + math.log(series)
    return float(log / math.log(10))


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down correction of many p-values (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    highest = 0.0
    for rank, position in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[position]))
        corrected[position] = highest
    return [float(p) for p in corrected]
