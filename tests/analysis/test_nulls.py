"""The nulls against brute force, their level over many draws, and the tail against arbitrary precision."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from torch import nn

from thalweg.analysis.nulls import beta_log10_survival, holm, layer_matched_null, uniform_null
from thalweg.analysis.overlap import overlap
from thalweg.directions import Directions, layer_matched_directions, random_directions
from thalweg.errors import InputError
from thalweg.space import ParameterSpace


@pytest.fixture(scope="module")
def space() -> ParameterSpace:
    return ParameterSpace.of(nn.Sequential(nn.Linear(10, 12), nn.Linear(12, 6), nn.Linear(6, 4)))


def brute_force(k: int, m: int, size: int, draws: int) -> np.ndarray:
    """Mean captured energies of random k-dimensional by random m-dimensional subspaces, by dense QR."""
    generator = np.random.default_rng(1)
    fixed = np.linalg.qr(generator.standard_normal((size, m)))[0]
    found = []
    for _ in range(draws):
        other = np.linalg.qr(generator.standard_normal((size, k)))[0]
        found.append(((fixed.T @ other) ** 2).sum() / k)
    return np.array(found)


@pytest.mark.parametrize(("k", "m", "size"), [(1, 5, 60), (4, 4, 50), (10, 3, 80)])
def test_uniform_null_has_the_moments_of_random_subspaces(k: int, m: int, size: int) -> None:
    samples = brute_force(k, m, size, 3000)
    null = uniform_null(0.5, k, m, size)
    assert abs(null.expected - samples.mean()) < 5 * samples.std() / np.sqrt(len(samples))
    assert null.deviation == pytest.approx(samples.std(), rel=0.06)
    for level in (0.1, 0.05, 0.01):
        rejected = np.mean([uniform_null(float(x), k, m, size).p_value < level for x in samples])
        assert rejected == pytest.approx(level, abs=4 * np.sqrt(level / len(samples)))


def test_level_of_both_nulls_on_random_directions(space: ParameterSpace) -> None:
    """5 % ± 2 % false alarms at the 0.05 level over 800 draws."""
    uniform, matched = [], []
    for seed in range(800):
        a = random_directions(space, 4, seed=2 * seed, dtype=torch.float64)
        b = random_directions(space, 8, seed=2 * seed + 1, dtype=torch.float64)
        found = overlap(a, b, draws=200, seed=seed)
        assert found.layer_matched is not None
        uniform.append(found.uniform.p_value)
        matched.append(found.layer_matched.p_value)
    print(
        f"false alarms: uniform {np.mean(np.array(uniform) < 0.05):.4f}, layer {np.mean(np.array(matched) < 0.05):.4f}"
    )
    assert 0.03 <= np.mean(np.array(uniform) < 0.05) <= 0.07
    assert 0.03 <= np.mean(np.array(matched) < 0.05) <= 0.07


def test_layer_matched_null_holds_where_the_uniform_one_is_fooled(space: ParameterSpace) -> None:
    """Directions that share one small layer agree by that alone: the uniform null cries out, the other does not."""
    vectors = 0.02 * torch.randn(4, space.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    span = space.layers[2].span
    vectors[:, span] += torch.randn(4, span.stop - span.start, dtype=torch.float64)
    pattern = Directions(vectors, space=space)
    uniform, matched = [], []
    for seed in range(400):
        a, b = layer_matched_directions(pattern, seed=2 * seed), layer_matched_directions(pattern, seed=2 * seed + 1)
        found = overlap(a, b, draws=200, seed=seed)
        assert found.layer_matched is not None
        uniform.append(found.uniform.p_value)
        matched.append(found.layer_matched.p_value)
    assert np.mean(np.array(uniform) < 0.05) > 0.99
    assert 0.02 <= np.mean(np.array(matched) < 0.05) <= 0.08


def test_layer_matched_sampling_equals_dense_draws(space: ParameterSpace) -> None:
    pattern = random_directions(space, 3, seed=1, dtype=torch.float64)
    target = random_directions(space, 6, seed=2, dtype=torch.float64)
    energy = pattern.layer_energy().numpy()
    sizes = np.array([layer.size for layer in space.layers])
    null = layer_matched_null(0.0, energy, target.rows.grams().numpy(), sizes, 4000, 0)
    dense = []
    for seed in range(2000):
        drawn = layer_matched_directions(pattern, seed=seed).vectors
        dense.append(float(((drawn @ target.vectors.T) ** 2).sum() / 3))
    assert null.expected == pytest.approx(np.mean(dense), abs=4 * np.std(dense) / np.sqrt(len(dense)))
    assert null.deviation == pytest.approx(np.std(dense), rel=0.08)


@pytest.mark.parametrize(
    ("x", "mean", "variance"), [(0.05, 0.01, 1e-5), (0.2, 0.05, 1e-4), (0.3, 0.003, 4e-6), (0.9, 0.01, 1e-5)]
)
def test_tail_against_arbitrary_precision(x: float, mean: float, variance: float) -> None:
    total = mean * (1 - mean) / variance - 1
    with mpmath.workdps(50):
        a, b = mpmath.mpf(mean * total), mpmath.mpf((1 - mean) * total)
        # the integral itself, its integrand scaled by its value at x so that nothing underflows
        top = a * mpmath.log(x) + b * mpmath.log(1 - mpmath.mpf(x)) - mpmath.log(x) - mpmath.log(1 - mpmath.mpf(x))

        def scaled(t: mpmath.mpf) -> mpmath.mpf:
            return mpmath.exp((a - 1) * mpmath.log(t) + (b - 1) * mpmath.log(1 - t) - top)

        width = 1 / ((b - 1) / (1 - mpmath.mpf(x)) - (a - 1) / x)
        points = [mpmath.mpf(x) + i * width for i in (0, 1, 3, 10, 30, 100, 300) if x + i * width < 1]
        integral = mpmath.quad(scaled, [*points, 1])
        beta = mpmath.loggamma(a) + mpmath.loggamma(b) - mpmath.loggamma(a + b)
        truth = float((top + mpmath.log(integral) - beta) / mpmath.log(10))
    assert beta_log10_survival(x, mean, variance) == pytest.approx(truth, rel=1e-8)


def test_tail_refuses_impossible_moments() -> None:
    with pytest.raises(InputError, match=r"variance 0\.3"):
        beta_log10_survival(0.5, 0.5, 0.3)


def test_overlap_with_everything_is_no_surprise() -> None:
    null = uniform_null(1.0, 3, 10, 10)
    assert (null.expected, null.p_value) == (1.0, 1.0)


def test_holm_corrects_step_down() -> None:
    # Holm (1979): sorted p times n, n-1, ..., made monotone, in the order given
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
