"""The price of a protection before training, and how a stream of tasks was learned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import thalweg as tw
from tests.protect.nets import batches, perceptron, problem


def test_the_price_is_what_steps_along_the_gradient_really_lose() -> None:
    model = perceptron()
    known = tw.remember(problem(model), hard=0.5)
    new = tw.Problem(model, problem(model)._loss, batches(7))
    price = tw.guard_price(new, known, strength=20.0, rate=0.05, steps=33)
    gradient, space = new.gradient(), new.space
    home = space.vector(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with tw.guard(optimizer, known, strength=20.0):
        for _ in range(33):
            for tensor, own in zip(space.tensors(model), space.unflatten(gradient).values(), strict=True):
                tensor.grad = own.clone()
            optimizer.step()
    moved = space.vector(model) - home
    left = float(-gradient @ moved / (0.05 * 33 * gradient @ gradient))
    assert price.kept[price.strengths.index(20.0)] == pytest.approx(left, rel=1e-5)
    assert f"takes away {1 - left:.0%} of what 33 steps" in str(price)
    assert list(price.kept) == sorted(price.kept, reverse=True)
    assert all(-1e-6 <= kept <= 1 + 1e-6 for kept in price.kept)


def test_what_is_not_protected_is_kept() -> None:
    model = perceptron()
    known = tw.remember(problem(model), layers="0", hard=1.0)
    new = tw.Problem(model, problem(model)._loss, batches(7))
    price = tw.guard_price(new, known)
    first = new.space.layer("0")
    share = float(new.gradient()[first.span].square().sum() / new.gradient().square().sum())
    assert price.kept[-1] == pytest.approx(1 - share, abs=1e-6)
    assert price.strengths[-1] == math.inf


def test_directions_have_a_price_too() -> None:
    model = perceptron()
    new = problem(model, 7)
    along = tw.Directions(new.gradient().unsqueeze(0), space=new.space)
    assert tw.guard_price(new, along).kept == pytest.approx([0.0] * 6, abs=1e-10)
    with pytest.raises(tw.InputError, match="give positive numbers"):
        tw.guard_price(new, along, rate=0.0)
    with pytest.raises(tw.InputError, match="give numbers of 0 or more"):
        tw.guard_price(new, along, strengths=(-1.0,))
    with pytest.raises(tw.InputError, match="no parameter of this space"):
        tw.guard_price(problem(perceptron(bias=False)), tw.remember(problem(perceptron())))


def test_transfer_by_hand() -> None:
    matrix = [[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.7, 0.5, 0.6]]
    found = tw.transfer(matrix, start=[0.1, 0.1, 0.2])
    assert found.accuracy == pytest.approx(0.6)
    assert found.backward == pytest.approx(((0.7 - 0.9) + (0.5 - 0.8)) / 2)
    assert found.forgetting == pytest.approx(((0.9 - 0.7) + (0.8 - 0.5)) / 2)
    assert found.forward == pytest.approx(((0.2 - 0.1) + (0.3 - 0.2)) / 2)
    assert found.learning == pytest.approx((0.9 + 0.8 + 0.6) / 3)
    assert tw.transfer(matrix).forward is None
    assert "backward" in str(found.to_table())


def test_forgetting_is_from_the_best_there_was_not_from_the_first() -> None:
    assert tw.transfer([[0.5, 0, 0], [0.9, 0.5, 0], [0.6, 0.5, 0.5]]).forgetting == pytest.approx((0.3 + 0.0) / 2)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.ones((2, 3)), "expected \\(tasks, tasks\\)"),
        (np.ones((1, 1)), "two tasks or more"),
        (np.full((2, 2), 50.0), "shares from 0 to 1"),
        ([[math.nan, 0], [1, 1]], "shares from 0 to 1"),
    ],
)
def test_what_is_no_matrix_of_accuracies_is_refused(matrix: object, words: str) -> None:
    with pytest.raises(tw.InputError, match=words):
        tw.transfer(matrix)  # type: ignore[arg-type]
    with pytest.raises(tw.InputError, match="start has shape"):
        tw.transfer(np.ones((2, 2)), start=[0.5])
