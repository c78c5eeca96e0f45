"""Weights held against directions, by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from tests.conftest import random_vector
from thalweg.analysis.alignment import weight_alignment
from thalweg.directions import Directions, layer_matched_directions, random_directions
from thalweg.errors import InputError
from thalweg.space import ParameterSpace


@pytest.fixture
def space() -> ParameterSpace:
    return ParameterSpace.of(nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3)))


def test_alignments_and_both_nulls(space: ParameterSpace) -> None:
    weights = random_vector(space.size, 1)
    weights[space.layers[0].span] *= 3
    directions = random_directions(space, 5, seed=2, dtype=torch.float64)
    mine = Directions(2 * directions.vectors, torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]), space=space)
    found = weight_alignment(mine, weights)
    cosines = (directions.vectors @ weights) ** 2 / (weights @ weights)
    np.testing.assert_allclose(found.table["alignment"], cosines, rtol=1e-10)
    assert found.captured.mean == pytest.approx(float(cosines.sum()), rel=1e-9)
    drawn = []
    for seed in range(600):
        matched = layer_matched_directions(mine, seed).vectors
        drawn.append((matched @ weights) ** 2 / (weights @ weights))
    np.testing.assert_allclose(found.table["by_layer"], torch.stack(drawn).mean(dim=0), rtol=0.25)
    assert set(found.table["by_chance"]) == {1 / space.size}


def test_the_rank_correlation_is_tested_by_all_permutations(space: ParameterSpace) -> None:
    weights = random_vector(space.size, 4)
    values = torch.tensor([9.0, 7.0, 5.0, 3.0, 1.0])
    mine = Directions(random_directions(space, 5, seed=6, dtype=torch.float64).vectors, values, space=space)
    found = weight_alignment(mine, weights)
    others = found.table["alignment"]
    observed = stats.spearmanr(values, others).statistic
    every = [stats.spearmanr(order, others).statistic for order in itertools.permutations(values.tolist())]
    assert found.rank_correlation == pytest.approx(observed)
    larger = np.mean([abs(value) >= abs(observed) - 1e-12 for value in every])
    assert found.p_value == pytest.approx(larger, abs=0.02)


def test_stiff_directions_along_the_weights_are_seen(space: ParameterSpace) -> None:
    basis = torch.linalg.qr(random_vector(space.size**2, 3).view(space.size, -1)).Q.T[:8]
    values = torch.arange(8, 0, -1, dtype=torch.float64)
    weights = values @ basis + 0.01 * random_vector(space.size, 5)
    found = weight_alignment(Directions(basis, values, space=space), weights)
    assert found.rank_correlation > 0.95
    assert found.p_value < 0.001
    assert found.captured.log10_p < -6


def test_bad_input(space: ParameterSpace) -> None:
    some = random_directions(space, 3)
    with pytest.raises(InputError, match="with values"):
        weight_alignment(some, torch.ones(space.size))
    valued = Directions(some.vectors, [3.0, 2.0, 1.0], space=space)
    with pytest.raises(InputError, match="all weights are zero"):
        weight_alignment(valued, torch.zeros(space.size))
    with pytest.raises(InputError):
        weight_alignment(valued, torch.ones(3))
