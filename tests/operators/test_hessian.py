"""One contract that every operator inherits, and the Hessian against dense ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from tests.conftest import (
    NETS,
    adversarial_case,
    classification_batches,
    classify,
    classify_summed,
    convolution_case,
    diagonal_operator,
    quadratic_case,
    random_vector,
    recurrent_case,
    relative_error,
    small_case,
    spectrum_operator,
    symmetric_matrix,
)
from thalweg.errors import InputError, StaleOperatorError
from thalweg.memory import NODE
from thalweg.operators.base import FunctionOperator, Operator, matrix_operator
from thalweg.problem import Problem
from thalweg.solvers.lanczos import eigenpairs

EXACT = 1e-9
"""Relative error that products and eigenpairs are held to against dense float64 Hessians."""


class OperatorContract:
    """What every operator keeps. Inherit, and say with `make()` what operator and what dense matrix."""

    tolerance = 1e-11

    def make(self) -> tuple[Operator, Tensor]:
        raise NotImplementedError

    @pytest.fixture
    def pair(self) -> tuple[Operator, Tensor]:
        return self.make()

    def test_products_are_those_of_the_matrix(self, pair: tuple[Operator, Tensor]) -> None:
        operator, matrix = pair
        vectors = random_vector(matrix.shape[0], 1, 4, operator.dtype)
        assert operator.shape == tuple(matrix.shape)
        assert relative_error(operator @ vectors, matrix @ vectors.double()) < self.tolerance

    def test_it_is_linear(self, pair: tuple[Operator, Tensor]) -> None:
        operator, matrix = pair
        a, b = (random_vector(matrix.shape[0], seed, dtype=operator.dtype) for seed in (2, 3))
        assert relative_error(operator @ (2 * a - 3 * b), 2 * (operator @ a) - 3 * (operator @ b)) < self.tolerance
        assert float((operator @ torch.zeros_like(a)).abs().max()) == 0.0

    def test_it_is_symmetric(self, pair: tuple[Operator, Tensor]) -> None:
        operator, matrix = pair
        a, b = (random_vector(matrix.shape[0], seed, dtype=operator.dtype) for seed in (4, 5))
        left, right = float(a @ (operator @ b)), float(b @ (operator @ a))
        scale = float(a.norm() * b.norm() * torch.linalg.matrix_norm(matrix, 2))
        assert abs(left - right) <= self.tolerance * scale

    def test_one_vector_and_columns_agree(self, pair: tuple[Operator, Tensor]) -> None:
        operator, matrix = pair
        vectors = random_vector(matrix.shape[0], 6, 3, operator.dtype)
        products = operator @ vectors
        assert products.shape == vectors.shape
        for column in range(3):
            single = operator @ vectors[:, column]
            assert single.shape == (matrix.shape[0],)
            assert relative_error(products[:, column], single) < self.tolerance
            assert torch.equal(operator.matvec(vectors[:, column]), single)
        assert (operator @ vectors[:, :1]).shape == (matrix.shape[0], 1)

    def test_dtype_and_gradients(self, pair: tuple[Operator, Tensor]) -> None:
        operator, matrix = pair
        asked = random_vector(matrix.shape[0], 7, dtype=torch.float32).requires_grad_()
        product = operator @ asked
        assert product.dtype == operator.dtype
        assert product.device == operator.device
        assert not product.requires_grad
        assert asked.grad is None

    def test_scipy_finds_the_same_eigenvalues(self, pair: tuple[Operator, Tensor]) -> None:
        operator, matrix = pair
        linear = operator.to_scipy()
        assert linear.dtype == np.dtype(str(operator.dtype).removeprefix("torch."))
        start = np.random.default_rng(0).standard_normal(matrix.shape[0]).astype(linear.dtype)
        found = eigsh(linear, k=3, which="LA", v0=start, return_eigenvectors=False)
        true = torch.linalg.eigvalsh(matrix)[-3:]
        assert relative_error(np.sort(found), true) < max(self.tolerance, 1e-9)
        block = np.random.default_rng(0).standard_normal((matrix.shape[0], 2)).astype(linear.dtype)
        assert relative_error(linear @ block, matrix @ torch.as_tensor(block).double()) < self.tolerance

    def test_it_says_what_it_is(self, pair: tuple[Operator, Tensor]) -> None:
        about = pair[0].describe()
        assert isinstance(about["operator"], str)

    @pytest.mark.parametrize("shape", [(1,), (0,), (2, 3, 4), ()])
    def test_other_shapes_are_refused(self, pair: tuple[Operator, Tensor], shape: tuple[int, ...]) -> None:
        operator = pair[0]
        size = operator.shape[0]
        with pytest.raises(InputError, match=rf"takes \({size},\) or \({size}, b\), got"):
            operator @ torch.zeros(shape)
        with pytest.raises(InputError, match=rf"takes a vector of shape \({size},\)"):
            operator.matvec(torch.zeros(size, 2))

    def test_vectors_that_are_not_finite_are_refused(self, pair: tuple[Operator, Tensor]) -> None:
        vector = torch.zeros(pair[0].shape[0])
        vector[0] = float("inf")
        with pytest.raises(InputError, match="not finite"):
            pair[0] @ vector


class TestMatrixOperator(OperatorContract):
    def make(self) -> tuple[Operator, Tensor]:
        matrix = symmetric_matrix([5.0, 3.0, 1.0, 0.5, -0.5, -4.0])
        return matrix_operator(matrix), matrix


class TestFunctionOperator(OperatorContract):
    def make(self) -> tuple[Operator, Tensor]:
        values = torch.tensor([4.0, 2.0, 1.0, 0.0, -3.0], dtype=torch.float64)
        return diagonal_operator(values), torch.diag(values)


class TestHessian(OperatorContract):
    def make(self) -> tuple[Operator, Tensor]:
        case = adversarial_case()
        return Problem(case.model, classify, case.batches).hessian(), case.truth.hessian


class TestHessianRebuiltForEachProduct(OperatorContract):
    def make(self) -> tuple[Operator, Tensor]:
        case = adversarial_case()
        return Problem(case.model, classify, case.batches).hessian(memory_budget=0), case.truth.hessian


class TestHessianInFloat32(OperatorContract):
    tolerance = 2e-5

    def make(self) -> tuple[Operator, Tensor]:
        case = small_case()
        batches = [(inputs.float(), labels) for inputs, labels in case.batches]
        return Problem(case.model.float(), classify, batches).hessian(), case.truth.hessian


class TestHessianBlock(OperatorContract):
    def make(self) -> tuple[Operator, Tensor]:
        case = adversarial_case()
        operator = Problem(case.model, classify, case.batches).hessian(layers=["first", "last"])
        assert operator.whole.size == 109
        rows = operator.whole.positions(operator.space)
        return operator, case.truth.hessian[rows][:, rows]


# -- against dense Hessians ----------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_products_and_eigenpairs_against_the_dense_hessian(net: str) -> None:
    case = NETS[net]()
    operator = Problem(case.model, classify, case.batches).hessian()
    vectors = random_vector(operator.shape[0], 1, 5)
    assert relative_error(operator @ vectors, case.truth.hessian @ vectors) < EXACT
    pairs = eigenpairs(operator, k=6, tol=1e-10, certify="complete")
    assert pairs.values is not None
    values, vectors = torch.linalg.eigh(case.truth.hessian)
    assert relative_error(pairs.values, values.flip(0)[:6]) < EXACT
    found = pairs.vectors.double()
    residual = case.truth.hessian @ found.T - found.T * pairs.values
    assert float(residual.norm(dim=0).max()) < EXACT * float(values.abs().max())
    assert float((found @ found.T - torch.eye(6)).abs().max()) < EXACT


def test_summed_batch_losses_have_the_same_hessian() -> None:
    case = adversarial_case()
    operator = Problem(case.model, classify_summed, case.batches, reduction="sum").hessian()
    vector = random_vector(operator.shape[0], 1)
    assert relative_error(operator @ vector, case.truth.hessian @ vector) < EXACT


def test_a_mean_of_batch_means_would_be_another_operator() -> None:
    case = adversarial_case()
    operator = Problem(case.model, classify, case.batches, weight=lambda batch: 1.0).hessian()
    vector = random_vector(operator.shape[0], 1)
    assert relative_error(operator @ vector, case.truth.hessian @ vector) > 0.05


def test_unused_parameters_give_zeros() -> None:
    case = adversarial_case()
    operator = Problem(case.model, classify, case.batches).hessian()
    unused = operator.whole.unflatten(torch.arange(109.0))["unused"].long()
    product = operator @ random_vector(109, 1)
    assert torch.equal(product[unused], torch.zeros(5).double())
    unit = torch.zeros(109).double()
    unit[unused] = 1.0
    assert torch.equal(operator @ unit, torch.zeros(109).double())


def test_a_quadratic_has_its_own_matrix() -> None:
    eigenvalues = [4.0, 1.0, 0.0, -2.0]
    model, loss, data = quadratic_case(eigenvalues)
    operator = Problem(model, loss, data).hessian()
    assert relative_error(operator @ torch.eye(4).double(), symmetric_matrix(eigenvalues)) < 1e-14


def test_a_loss_that_is_linear_has_a_hessian_of_zero() -> None:
    case = small_case()
    operator = Problem(nn.Linear(4, 3).double(), lambda m, b: m(b[0]).sum(), case.batches).hessian()
    assert torch.equal(operator @ torch.ones(15), torch.zeros(15).double())


def test_blocks_are_blocks_of_the_whole() -> None:
    case = adversarial_case()
    problem = Problem(case.model, classify, case.batches)
    for layer in problem.space.layers:
        block = problem.hessian(layers=layer.name if layer.name != "(model)" else "(model)")
        dense = case.truth.hessian[layer.span, layer.span]
        eye = torch.eye(layer.size, dtype=torch.float64)
        assert float((block @ eye - dense).norm()) < EXACT * max(float(dense.norm()), 1.0)
        assert block.describe()["layers"] == [layer.name]


# -- kept graphs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [adversarial_case, convolution_case, recurrent_case])
def test_every_budget_gives_the_same_product(make: Callable[[], Any]) -> None:
    case = make()
    problem = Problem(case.model, classify, case.batches)
    everything = problem.hessian()
    assert (everything.graphs.kept, everything.graphs.rebuilt) == (len(case.batches), 0)
    assert everything.graphs.bytes_each > 0
    vector = random_vector(everything.shape[0], 1)
    reference = everything @ vector
    sizes = [len(batch[0]) for batch in case.batches]
    for count in range(len(sizes) + 1):
        budget = sum(sizes[:count]) * everything.graphs.bytes_each // sizes[0] + len(sizes)
        partly = problem.hessian(memory_budget=budget if count else 0)
        assert partly.graphs.kept >= count
        assert partly.graphs.kept + partly.graphs.rebuilt == len(sizes)
        assert relative_error(partly @ vector, reference) < 1e-14
    assert problem.hessian(memory_budget=0).graphs.kept == 0


def test_a_budget_is_what_graphs_take() -> None:
    """Beside its nodes a graph takes what autograd saves: that grows with the batch, and is some activations' worth."""
    sizes = {}
    for samples in (16, 64):
        batches = classification_batches((samples,), 4, 3)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        graphs = Problem(model, classify, batches).hessian().graphs
        nodes = graphs._graphs[0].seeds.nodes
        assert 20 < nodes < 80
        sizes[samples] = graphs.bytes_each - NODE * nodes
    assert 2.5 < sizes[64] / sizes[16] < 4.5
    assert 64 * 8 * (4 + 5 + 3) < sizes[64] < 64 * 8 * (4 + 5 + 3) * 10


def test_blocks_share_graphs() -> None:
    from thalweg.operators.hessian import HessianOperator

    case = small_case()
    graphs = Problem(case.model, classify, case.batches).graphs()
    vector = torch.ones(25).double()
    first = HessianOperator(graphs, "0") @ vector
    assert relative_error(first, case.truth.hessian[:25, :25].sum(dim=1)) < EXACT
    assert HessianOperator(graphs, "2").graphs is graphs


def in_place(model: nn.Module) -> None:
    with torch.no_grad():
        model[0].weight.mul_(1.001)


def through_data(model: nn.Module) -> None:
    model[0].weight.data[0, 0] += 1e-4


def by_another_tensor(model: nn.Module) -> None:
    model[0].weight.data = model[0].weight.data.clone() + 1.0


def by_a_step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    classify(model, classification_batches((3,), 4, 3)[0]).backward()
    optimizer.step()


def by_loading(model: nn.Module) -> None:
    model.load_state_dict({name: tensor + 1e-3 for name, tensor in model.state_dict().items()})


def by_swapped_entries(model: nn.Module) -> None:
    model[0].weight.data.copy_(model[0].weight.data.flip(0))


def by_another_parameter(model: nn.Module) -> None:
    model[0].weight = nn.Parameter(model[0].weight.detach() + 1.0)


CHANGES = [in_place, through_data, by_another_tensor, by_a_step, by_loading, by_swapped_entries, by_another_parameter]


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_noticed(change: Callable[[nn.Module], None], budget: int | None) -> None:
    case = small_case()
    problem = Problem(case.model, classify, case.batches)
    operator = problem.hessian(memory_budget=budget)
    vector = random_vector(43)
    operator @ vector
    change(case.model)
    with pytest.raises(StaleOperatorError, match=r"weights changed .*; call problem.hessian\(\) again"):
        operator @ vector
    assert torch.isfinite(problem.hessian() @ vector).all()


def test_products_do_not_wear_out() -> None:
    operator = spectrum_operator([1.0, 2.0])
    assert torch.equal(operator @ torch.ones(2), operator @ torch.ones(2))
    case = small_case()
    hessian = Problem(case.model, classify, case.batches).hessian()
    vector = random_vector(43)
    assert torch.equal(hessian @ vector, hessian @ vector)
    work = hessian @ vector
    case.model.zero_grad()
    classify(case.model, case.batches[0]).backward()  # the user's own backward between products changes nothing
    assert torch.equal(hessian @ vector, work)


# -- bad input -------------------------------------------------------------------------------------------------


def test_a_second_derivative_that_is_not_finite_is_named() -> None:
    class Rooted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(2, dtype=torch.float64))
            self.shift = nn.Parameter(torch.ones(2, dtype=torch.float64))

        def forward(self, inputs: Tensor) -> Tensor:
            return (self.scale.norm() + self.shift * inputs).sum()

    problem = Problem(Rooted(), lambda m, b: m(b), [torch.ones(2, dtype=torch.float64)])
    with pytest.raises(
        InputError, match=r"batch 0 is not finite in 'scale'; look for an operation without a finite second"
    ):
        problem.hessian() @ torch.ones(4)


def test_matrices_that_are_no_operators_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(2, 3\) is not square"):
        matrix_operator(torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"not symmetric; use \(A \+ A.T\) / 2"):
        matrix_operator(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))


def test_a_function_operator_carries_its_words() -> None:
    operator = FunctionOperator(lambda v: v, 3, about={"operator": "identity"})
    assert operator.describe() == {"operator": "identity"}
    assert torch.equal(operator @ torch.ones(3), torch.ones(3).double())
