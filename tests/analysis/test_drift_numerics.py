"""The drift test's parts against what they stand for, computed with the vectors themselves."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import fft, stats

from tests.analysis.planted import NO_DRIFT, STATIONARY, UNEXPLAINED, flat, walk, well
from thalweg.analysis.block_means import SKIPPED, BlockMeans, block_means
from thalweg.analysis.drift_direction import find_direction, persistence, seen, unbiased_square
from thalweg.analysis.drift_test import all_signs, drift_test, flipped, ratio
from thalweg.analysis.innovations import Innovations, autocovariances, autoregression, block_correlation, innovations
from thalweg.analysis.speeds import WIDER, fitted, speeds

BLOCKS, LENGTH, SIZE = 6, 9, 80


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((BLOCKS * LENGTH + 2, SIZE)) + 0.2


@pytest.fixture(scope="module")
def blocks(vectors: np.ndarray) -> BlockMeans:
    return block_means(vectors @ vectors.T, BLOCKS)


def contrasts_of(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Block means `(J, P)` and contrasts `(J, q, P)`."""
    parts = vectors[-BLOCKS * LENGTH :].reshape(BLOCKS, LENGTH, -1)
    turn = fft.dct(np.eye(LENGTH), norm="ortho", axis=0)[1 + SKIPPED :]
    return parts.mean(axis=1), np.einsum("qt,jtp->jqp", turn, parts)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.8])
def test_the_kernel_is_the_metric_of_the_other_blocks(vectors: np.ndarray, blocks: BlockMeans, share: float) -> None:
    means, contrasts = contrasts_of(vectors)
    ridge = blocks.ridge(share)
    found = blocks.kernel(share)
    for i, j in itertools.combinations(range(BLOCKS), 2):
        others = np.concatenate([contrasts[b] for b in range(BLOCKS) if b not in (i, j)])
        # the ridge is ρ times the contrasts that are left
        inner = 0.0 if math.isinf(ridge) else 1 / (ridge * len(others))
        metric = np.linalg.inv(np.eye(SIZE) + inner * others.T @ others)
        assert found[i, j] == pytest.approx(means[i] @ metric @ means[j], rel=1e-9)
        assert found[j, i] == pytest.approx(found[i, j], rel=1e-12)
    assert not np.diagonal(found).any()


def test_the_ridge_takes_out_the_share_that_was_asked_for(blocks: BlockMeans) -> None:
    values = blocks.spectrum[0] / (BLOCKS * (LENGTH - 1 - SKIPPED))
    for share in (0.05, 0.5, 0.95):
        ridge = blocks.ridge(share)
        assert (values / (values + ridge)).sum() == pytest.approx(share * len(values), rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_direction_and_its_speeds_are_those_of_the_vectors(
    vectors: np.ndarray, blocks: BlockMeans, share: float
) -> None:
    means, contrasts = contrasts_of(vectors)
    ridge = blocks.ridge(share)
    every = contrasts.reshape(-1, SIZE)
    inner = 0.0 if math.isinf(ridge) else 1 / (ridge * len(every))
    metric = np.linalg.inv(np.eye(SIZE) + inner * every.T @ every)
    np.testing.assert_allclose(seen(blocks, share), means @ metric @ metric @ means.T, rtol=1e-8, atol=1e-12)
    found = find_direction(blocks, np.ones(BLOCKS))
    weights = 1 / blocks.noise
    weights /= weights.max()
    ridge = blocks.ridge(found.share)
    inner = 0.0 if math.isinf(ridge) else 1 / (ridge * len(every))
    metric = np.linalg.inv(np.eye(SIZE) + inner * every.T @ every)
    np.testing.assert_allclose(found.coefficients @ vectors, metric @ (weights @ means), rtol=1e-8, atol=1e-10)
    without = metric @ (weights[1:] @ means[1:])
    assert found.along[0] == pytest.approx(without @ means[0] / np.linalg.norm(without), rel=1e-8)


def test_the_statistic_and_all_flips(blocks: BlockMeans) -> None:
    signs = all_signs(BLOCKS)
    assert signs.shape == (2 ** (BLOCKS - 1), BLOCKS)
    assert len({tuple(row) for row in signs}) == len(signs)
    kernel = blocks.kernel(0.5)
    far = [(i, j) for i in range(BLOCKS) for j in range(BLOCKS) if abs(i - j) > 1]
    size = math.sqrt(2 * sum(kernel[i, j] ** 2 for i, j in far))
    for row, value in zip(signs[:5], ratio(kernel, signs[:5], 1), strict=True):
        assert value == pytest.approx(sum(row[i] * row[j] * kernel[i, j] for i, j in far) / size, rel=1e-10)
    p_value, _ = flipped(blocks)
    assert p_value == round(p_value * len(signs)) / len(signs)


def test_innovations_of_heavy_ball_under_a_schedule_are_the_gradients() -> None:
    generator = np.random.default_rng(1)
    gradients = generator.standard_normal((120, 40))
    rates = np.linspace(1.0, 0.2, 120)
    average, updates = np.zeros(40), []
    for rate, gradient in zip(rates, gradients, strict=True):
        average = 0.9 * average + gradient
        updates.append(-rate * average)
    u = np.array(updates)
    found = innovations(u @ u.T, rates, np.full(120, 0.9), 12, lags=0)[0]
    np.testing.assert_allclose(found.map @ u, -np.median(rates) * gradients[1:], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        found.gram, np.median(rates) ** 2 * gradients[1:] @ gradients[1:].T, rtol=1e-8, atol=1e-9
    )
    assert found.gain == pytest.approx(0.1)


def test_what_memory_is_left_is_found_and_taken_out() -> None:
    generator = np.random.default_rng(2)
    planted = walk(power=0.5, momentum=0.9, memory=0.6)(generator)
    found = innovations(planted.gram, planted.rates, planted.momenta, 49)[0]
    np.testing.assert_allclose(_whole_filter(found), np.convolve([1, -0.9], [1, -0.6]), atol=0.02)
    assert abs(found.left) < 0.01
    assert found.gain == pytest.approx(0.1 * 0.4, rel=0.05)
    plain = walk(power=0.5, momentum=0.9)(generator)
    for way in innovations(plain.gram, plain.rates, plain.momenta, 49):
        np.testing.assert_allclose(_whole_filter(way), [1, -0.9, 0], atol=0.02)


def _whole_filter(found: Innovations) -> np.ndarray:
    """Momentum and autoregression as one filter of the updates; three coefficients, the rest is small."""
    whole = np.convolve([1.0, -found.momenta[-1]], [1.0, *(-found.filter)])
    assert np.abs(whole[3:]).max(initial=0) < 0.02
    return np.pad(whole, (0, 3))[:3]


@pytest.mark.parametrize("unit", [1e-8, 1e4])
def test_the_unit_of_the_weights_does_not_matter(unit: float) -> None:
    """Both ways have an effective dimension of their own; with a logarithm of squared updates that may decide."""
    make = NO_DRIFT["momentum 0.98, spectrum k^-1.5"]
    for seed in range(4):
        planted = make(np.random.default_rng(seed))
        one = innovations(planted.gram, planted.rates, planted.momenta, 49)
        other = innovations(planted.gram * unit, planted.rates, planted.momenta, 49)
        assert [way.momenta.any() for way in one] == [way.momenta.any() for way in other]
        for way, same in zip(one, other, strict=True):
            np.testing.assert_allclose(same.filter, way.filter, rtol=1e-9)
            assert same.gain == pytest.approx(way.gain, rel=1e-9)


def test_autocovariances_are_not_biased_by_the_blocks_means() -> None:
    generator = np.random.default_rng(3)
    series = generator.standard_normal((10_000, 40))
    for t in range(1, len(series)):
        series[t] += 0.5 * series[t - 1]
    length, lags = 40, 8
    found, naive = np.zeros(lags + 1), np.zeros(lags + 1)
    for start in range(0, 10_000, 400):
        part = series[start : start + 400] + 7.0  # a mean, as of a drift, takes no part
        found += autocovariances(part @ part.T, length, lags, 4000.0) / 25
        centered = part - part.reshape(10, length, 40).mean(axis=1).repeat(length, axis=0)
        naive += [(centered[k:] * centered[: len(part) - k]).sum() / len(part) / 25 for k in range(lags + 1)]
    true = 40 / (1 - 0.25) * 0.5 ** np.arange(lags + 1)
    np.testing.assert_allclose(found, true, atol=0.02 * true[0])
    assert np.abs(naive - true).max() > 0.05 * true[0]


def test_the_autoregression_of_exact_covariances() -> None:
    """AR(2) with x_t = 0.5 x_{t−1} + 0.3 x_{t−2} + e: Yule and Walker's equations."""
    r = np.empty(8)
    r[0], r[1] = 1.0, 0.5 / 0.7
    for lag in range(2, 8):
        r[lag] = 0.5 * r[lag - 1] + 0.3 * r[lag - 2]
    np.testing.assert_allclose(autoregression(r, 1e6), [0.5, 0.3], atol=1e-12)
    assert len(autoregression(np.array([1.0, 0.001, 0.0]), 1000)) == 0
    assert len(autoregression(np.zeros(3), 1000)) == 0


def test_correlation_of_neighbouring_blocks() -> None:
    length, memory = 25, 0.8
    covariances = memory ** np.arange(25)
    steps = np.arange(2 * length)
    matrix = memory ** np.abs(steps[:, None] - steps)
    matrix[np.abs(steps[:, None] - steps) >= 25] = 0
    own, other = matrix[:length, :length].sum(), matrix[:length, length:].sum()
    assert block_correlation(covariances, length) == pytest.approx(other / own, rel=1e-9)


def test_the_square_of_the_common_mean_is_unbiased() -> None:
    generator = np.random.default_rng(4)
    mean = np.full(30, 0.1)
    found = []
    for _ in range(400):
        means = mean + generator.standard_normal((8, 30))
        found.append(unbiased_square(means @ means.T))
    assert np.mean(found) == pytest.approx(mean @ mean, abs=3 * np.std(found) / 20)


def test_persistence_of_a_drift_that_turns() -> None:
    generator = np.random.default_rng(5)
    still = walk(power=1.5, momentum=0.9, strength=3.0)(generator)
    for angle in (0.0, math.pi / 3, math.pi / 2):
        updates = still.updates.copy()
        turned = np.zeros_like(flat())
        turned[-1], turned[-2] = math.cos(angle), math.sin(angle)
        late = np.arange(len(updates)) >= len(updates) // 2
        drift = 10 * np.sqrt(3.0 / 500)  # as far as momentum 0.9 carries it
        updates[late] += drift * (turned - flat())
        test = drift_test(updates @ updates.T, still.rates, still.momenta)
        found = persistence(test.blocks)
        assert found.corrected == pytest.approx(math.cos(angle), abs=0.12)
        assert found.first[1] < found.last[0]


@pytest.mark.parametrize("rate", [0.0, 2.0, 5.0])
def test_speeds_without_noise(rate: float) -> None:
    """K of rank one, made by hand: the decay is found exactly."""
    clock = (np.arange(20) + 0.5) / 20
    speed = np.exp(-rate * clock)
    kernel = np.outer(speed, speed)
    np.fill_diagonal(kernel, 0)

    class Made:
        noise = np.ones(20)

        def __len__(self) -> int:
            return 20

        def kernel(self, share: float) -> np.ndarray:
            return kernel

    found = speeds(Made(), clock)  # type: ignore[arg-type]
    assert found.fit("exponential").rate == pytest.approx(rate, abs=1e-3)
    np.testing.assert_allclose(found.values / found.values[0], speed / speed[0], rtol=1e-3)


def test_laws_are_told_apart() -> None:
    generator = np.random.default_rng(6)
    clock = (np.arange(20) + 1.0) / 20
    noise = 0.02 * generator.standard_normal(20)
    weights = np.ones(20)
    shapes = {"constant": np.ones(20), "exponential": np.exp(-4 * clock) / np.exp(-2), "power law": clock**-1.25 * 0.4}
    for name, shape in shapes.items():
        found = fitted(clock, shape + noise, weights, 1.0, np.zeros((20, 20)))
        assert found.model == name
    assert found.fit("power law").rate == pytest.approx(1.25, abs=0.15)


def test_the_interval_is_the_profile() -> None:
    """A rate is inside exactly if its sum of squares is below the bound that Student's t gives."""
    generator = np.random.default_rng(7)
    clock = (np.arange(20) + 0.5) / 20
    values = np.exp(-3 * clock) + 0.03 * generator.standard_normal(20)
    law = fitted(clock, values, np.ones(20), 1.0, np.zeros((20, 20))).fit("exponential")

    def left(rate: float) -> float:
        shape = np.exp(-rate * clock)
        amplitude = shape @ values / (shape @ shape)
        return float(((values - amplitude * shape) ** 2).sum())

    bound = law.squares * (1 + (WIDER * stats.t.ppf(0.95, 18)) ** 2 / 18)
    for edge in law.interval:
        assert left(edge) == pytest.approx(bound, rel=1e-4)
    assert left(law.rate) == pytest.approx(law.squares, rel=1e-6)
    assert law.interval[0] < law.rate < law.interval[1]


# -- level and power, in short; in full by `python -m benchmarks.drift` ------------------------------------------

SHORT = {
    "random walk": NO_DRIFT["random walk, T = 100"],
    "momentum": NO_DRIFT["momentum 0.9, T = 200"],
    "unexplained": UNEXPLAINED["momentum 0.95 taken for 0.9"],
    "at rest": STATIONARY["well, T = 200"],
}


@pytest.mark.parametrize("name", SHORT)
def test_without_a_drift_few_are_found(name: str) -> None:
    """40 runs: more than six rejections at 5 % have a probability below one in a hundred; seeds are fixed."""
    hits = 0
    for number in range(40):
        planted = SHORT[name](np.random.default_rng([11, number]))
        hits += drift_test(planted.gram, planted.rates, planted.momenta).p_value < 0.05
    assert hits <= 6


@pytest.mark.parametrize(
    "make", [walk(steps=200, power=1.5, momentum=0.9, strength=0.3), well(steps=200, strength=0.3)]
)
def test_with_a_drift_all_are_found(make) -> None:  # type: ignore[no-untyped-def]
    for number in range(10):
        planted = make(np.random.default_rng([12, number]))
        assert drift_test(planted.gram, planted.rates, planted.momenta).p_value < 0.05


def test_what_is_planted_is_what_is_said() -> None:
    planted = walk(power=1.5, momentum=0.0, strength=0.5)(np.random.default_rng(0))
    assert planted.updates.shape[0] == 500
    assert planted.drift is not None
    assert planted.updates[:, -1].mean() == pytest.approx(math.sqrt(0.5 / 500), rel=0.05)
    rest = planted.updates[:, :-1]
    assert float((rest**2).sum(axis=1).mean()) == pytest.approx(1.0, rel=0.1)
