"""Cutting the data otherwise: the same operator, refused where it would be another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import adversarial_case, classify, random_vector, relative_error, small_case
from thalweg.errors import InputError
from thalweg.operators import chunking
from thalweg.operators.base import loss_and_gradient
from thalweg.operators.chunking import choose_chunks
from thalweg.problem import Problem


@pytest.mark.parametrize("size", [1, 2, 4, 7, 23, 100])
def test_every_size_gives_the_same_product(size: int) -> None:
    case = adversarial_case((9, 1, 13))
    problem = Problem(case.model, classify, case.batches)
    operator = problem.hessian(chunk=size)
    assert (operator.describe()["chunk"], operator.describe()["chunk_reason"]) == (size, "given")
    assert operator.describe()["batches"] == -(-23 // size)
    vectors = random_vector(problem.space.size, columns=3)
    assert relative_error(operator @ vectors, case.truth.hessian @ vectors) < 1e-13


def test_a_loss_that_couples_samples_keeps_its_batches() -> None:
    case = small_case((8, 8))

    def spread(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        outputs = model(batch[0])
        return (outputs - outputs.mean(dim=0)).pow(2).mean()

    problem = Problem(case.model, spread, case.batches)
    given, cut = problem.hessian(chunk=None), problem.hessian(chunk=4)
    assert (cut.describe()["chunk"], cut.describe()["chunk_reason"]) == (None, "coupled")
    vector = random_vector(problem.space.size)
    assert torch.equal(given @ vector, cut @ vector)


def test_a_gradient_that_moves_is_noticed_though_the_loss_does_not() -> None:
    """The loss is zero however the data is cut; its gradient is not the same."""
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.zero_()

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).sum() * len(batch)

    problem = Problem(model, loss, [torch.ones(6, 1, dtype=torch.float64)])
    assert problem.hessian(chunk=2).describe()["chunk_reason"] == "coupled"


def test_batches_that_cannot_be_cut_stay_whole() -> None:
    model = nn.Linear(2, 1).double()
    batches = [{"x": torch.ones(4, 2, dtype=torch.float64), "temperature": 2.0}]
    problem = Problem(model, lambda m, b: m(b["x"]).pow(2).mean() / b["temperature"], batches)
    assert problem.hessian(chunk=2).describe()["chunk_reason"] == "indivisible"


def test_small_problems_are_not_timed() -> None:
    case = small_case()
    assert Problem(case.model, classify, case.batches).hessian().describe()["chunk_reason"] == "small"


def test_the_fastest_size_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """With planted times the choice is theirs: 32 is the fastest, and nothing beyond two worse sizes is tried."""
    case = small_case((200, 200, 200))
    problem = Problem(case.model, classify, case.batches)
    planted = {200: 5.0, 16: 3.0, 32: 1.0, 64: 2.0, 128: 4.0}
    tried: list[int] = []

    def seconds(term: Any, parameters: Any) -> float:
        tried.append(term.samples)
        return planted[term.samples]

    monkeypatch.setattr(chunking, "WORTHWHILE", 0.0)
    monkeypatch.setattr(chunking, "_product_seconds", seconds)
    losses, chosen = choose_chunks(problem, "auto")
    assert (chosen.size, chosen.reason) == (32, "timed")
    assert tried == [16, 32, 64, 128]
    assert losses.describe()["batches"] == 19
    planted.update({128: 0.98, 200: 0.9})
    assert choose_chunks(problem, "auto")[1].size is None  # the batches as given are the best
    planted.update({200: 5.0, 16: 4.99, 32: 4.98, 64: 4.97, 128: 4.96})
    assert choose_chunks(problem, "auto")[1].size is None  # a gain within noise


def test_many_small_batches_are_joined_without_timing() -> None:
    case = small_case((100,) * 12)
    operator = Problem(case.model, classify, case.batches).hessian()
    assert (operator.describe()["chunk"], operator.describe()["chunk_reason"]) == (1200, "joined")
    vector = random_vector(operator.shape[0])
    assert relative_error(operator @ vector, case.truth.hessian @ vector) < 1e-13
    large = small_case((700, 500))
    assert Problem(large.model, classify, large.batches).hessian().describe()["chunk_reason"] == "small"


def test_real_timings_give_the_same_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "WORTHWHILE", 0.0)
    monkeypatch.setattr(chunking, "CLEARLY", 1e9)
    case = small_case((40, 80, 3))
    operator = Problem(case.model, classify, case.batches).hessian()
    assert operator.describe()["chunk_reason"] == "timed"
    vector = random_vector(operator.shape[0])
    assert relative_error(operator @ vector, case.truth.hessian @ vector) < 1e-13


@pytest.mark.parametrize("chunk", [0, -3, 2.5, "large"])
def test_no_size_is_refused(chunk: Any) -> None:
    case = small_case()
    with pytest.raises(InputError, match=r"chunk=.*give a number of samples"):
        Problem(case.model, classify, case.batches).hessian(chunk=chunk)
    with pytest.raises(InputError, match=r"chunk=.*give a number of samples"):
        Problem(case.model, classify, case.batches).graphs(chunk=chunk)


def test_a_bad_batch_is_named_as_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "WORTHWHILE", 0.0)
    case = small_case((20, 20, 20))
    case.batches[2][0][5] = torch.inf
    problem = Problem(case.model, lambda m, b: classify(m, b) + 0 * b[0].sum(), case.batches)
    with pytest.raises(InputError, match="batch 2 is nan"):
        problem.hessian()


def test_the_gradients_scale_is_what_was_summed() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    problem = Problem(model, lambda m, b: m(b).mean(), [torch.ones(3, 1).double(), -torch.ones(3, 1).double()])
    found = loss_and_gradient(problem)
    assert float(found.gradients[0]) == 0.0
    assert found.scale == pytest.approx(1.0)


def test_blocks_with_graphs_of_their_own_leave_the_model_trainable() -> None:
    case = adversarial_case()
    problem = Problem(case.model, classify, case.batches)
    layer = problem.space.layers[-1]
    operator = problem.hessian(layers=layer.name)
    assert operator.graphs.space.names == operator.space.names
    assert operator.graphs.predicted_bytes < problem.hessian().graphs.predicted_bytes
    assert all(tensor.requires_grad for tensor in problem.parameters())
    block = case.truth.hessian[layer.span, layer.span]
    vector = random_vector(layer.size)
    found, true = operator @ vector, block @ vector
    assert float((found - true).norm()) <= 1e-13 * max(1.0, float(true.norm()))
    assert type(operator)(operator.graphs).space.names == operator.space.names
    with pytest.raises(InputError, match="build them for all layers"):
        type(operator)(operator.graphs, layers=problem.space.layers[0].name)
