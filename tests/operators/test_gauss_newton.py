"""The Gauss-Newton matrix against Jacobians and output Hessians that are formed densely on the pooled data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, nll_loss

from tests.conftest import (
    NETS,
    Batch,
    adversarial_case,
    attention_case,
    classification_batches,
    classify,
    convolution_case,
    dense_truth,
    math_attention,
    pooled,
    pooled_function,
    quadratic_case,
    random_vector,
    recurrent_case,
    relative_error,
    small_case,
)
from tests.operators.test_hessian import CHANGES, OperatorContract
from thalweg.errors import InputError, StaleOperatorError
from thalweg.losses import Loss
from thalweg.operators.base import Operator
from thalweg.operators.gauss_newton import GaussNewtonOperator
from thalweg.problem import Problem
from thalweg.solvers.lanczos import eigenpairs

EXACT = 1e-10


def predict(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch[0])


def entropy(output: Tensor, batch: Batch) -> Tensor:
    return cross_entropy(output, batch[1])


CLASSIFY = Loss(predict, entropy)
"""`classify` of the conftest in two parts."""


def jacobian(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The output `(N, C)` on pooled inputs, and its dense Jacobian `(N, C, P)`."""
    with math_attention():
        function, flat = pooled_function(model, lambda call: call(inputs))
        return function(flat).detach(), torch.autograd.functional.jacobian(function, flat)


def softmax_information(output: Tensor) -> Tensor:
    """`diag(p) - p pᵀ` for each row: `(N, C, C)`."""
    p = torch.softmax(output, dim=-1)
    return torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)


def sandwich(jacobian: Tensor, inner: Tensor) -> Tensor:
    """`mean_n J_nᵀ M_n J_n`."""
    return torch.einsum("ncp,ncd,ndq->pq", jacobian, inner, jacobian) / len(jacobian)


def dense_gauss_newton(model: nn.Module, batches: list[Batch]) -> Tensor:
    """Of the mean cross entropy, with the closed form of its output Hessian."""
    output, jacobians = jacobian(model, pooled(batches)[0])
    return sandwich(jacobians, softmax_information(output))


def worst_error(operator: Operator, dense: Tensor) -> float:
    vectors = random_vector(operator.shape[0], 1, 4)
    return relative_error(operator @ vectors, dense @ vectors)


class TestGaussNewton(OperatorContract):
    def make(self) -> tuple[Operator, Tensor]:
        case = adversarial_case()
        operator = Problem(case.model, CLASSIFY, case.batches).gauss_newton()
        return operator, dense_gauss_newton(case.model, case.batches)


class TestGaussNewtonRebuiltForEachProduct(OperatorContract):
    def make(self) -> tuple[Operator, Tensor]:
        case = adversarial_case()
        operator = Problem(case.model, CLASSIFY, case.batches).gauss_newton(memory_budget=0)
        return operator, dense_gauss_newton(case.model, case.batches)


class TestGaussNewtonInFloat32(OperatorContract):
    tolerance = 2e-5

    def make(self) -> tuple[Operator, Tensor]:
        case = small_case()
        dense = dense_gauss_newton(case.model, case.batches)
        batches = [(inputs.float(), labels) for inputs, labels in case.batches]
        return Problem(case.model.float(), CLASSIFY, batches).gauss_newton(), dense


class TestGaussNewtonBlock(OperatorContract):
    def make(self) -> tuple[Operator, Tensor]:
        case = adversarial_case()
        operator = Problem(case.model, CLASSIFY, case.batches).gauss_newton(layers=["first", "last"])
        rows = operator.whole.positions(operator.space)
        return operator, dense_gauss_newton(case.model, case.batches)[rows][:, rows]


# -- against dense matrices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_cross_entropy_against_the_closed_form(net: str) -> None:
    case = NETS[net]()
    operator = Problem(case.model, CLASSIFY, case.batches).gauss_newton()
    dense = dense_gauss_newton(case.model, case.batches)
    assert worst_error(operator, dense) < EXACT
    assert relative_error(dense, case.truth.hessian) > 1e-3  # the Hessian is another matrix
    values = torch.linalg.eigvalsh(operator @ torch.eye(operator.shape[0], dtype=torch.float64))
    assert float(values[0]) > -1e-12 * float(values[-1])
    pairs = eigenpairs(operator, k=3, tol=1e-10, certify="complete")
    assert relative_error(pairs.values, torch.linalg.eigvalsh(dense).flip(0)[:3]) < 1e-9


def regression_case() -> tuple[nn.Module, list[Batch]]:
    case = small_case()
    targets = [random_vector(len(inputs), seed, 3) for seed, (inputs, _) in enumerate(case.batches)]
    return case.model, [(inputs, target) for (inputs, _), target in zip(case.batches, targets, strict=True)]


def test_squared_errors_against_the_closed_form() -> None:
    model, batches = regression_case()
    operator = Problem(model, Loss(predict, lambda o, b: mse_loss(o, b[1])), batches).gauss_newton()
    jacobians = jacobian(model, pooled(batches)[0])[1]
    assert worst_error(operator, 2 / 3 * sandwich(jacobians, torch.eye(3).double().expand(23, 3, 3))) < EXACT


def test_summed_batch_losses_have_the_same_matrix() -> None:
    case = adversarial_case()
    summed = Loss(predict, lambda o, b: cross_entropy(o, b[1], reduction="sum"))
    operator = Problem(case.model, summed, case.batches, reduction="sum").gauss_newton()
    assert worst_error(operator, dense_gauss_newton(case.model, case.batches)) < EXACT


def test_a_mean_of_batch_means_would_be_another_operator() -> None:
    case = adversarial_case()
    operator = Problem(case.model, CLASSIFY, case.batches, weight=lambda batch: 1.0).gauss_newton()
    assert worst_error(operator, dense_gauss_newton(case.model, case.batches)) > 0.05


def test_a_criterion_that_couples_samples_and_is_not_convex() -> None:
    """Any scalar of the output: its Hessian is dense over the batch, and indefinite."""
    case = small_case((7,))

    def coupled(output: Tensor, batch: Any) -> Tensor:
        return torch.sin(output.sum(dim=0)).prod() + output.pow(3).mean()

    operator = Problem(case.model, Loss(predict, coupled), case.batches).gauss_newton()
    output, jacobians = jacobian(case.model, case.batches[0][0])
    inner = torch.autograd.functional.hessian(lambda o: coupled(o, None), output).reshape(21, 21)
    flat = jacobians.reshape(21, -1)
    assert float(torch.linalg.eigvalsh(inner)[0]) < 0
    assert worst_error(operator, flat.T @ inner @ flat) < EXACT


@pytest.mark.parametrize("net", ["linear", "bilinear"])
def test_the_hessian_only_where_the_model_is_linear(net: str) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 3)] if net == "linear" else [nn.Linear(4, 2), nn.Linear(2, 3)]
    model, batches = nn.Sequential(*layers).double(), classification_batches((9, 1, 13), 4, 3)
    problem = Problem(model, CLASSIFY, batches)
    inputs, labels = pooled(batches)
    hessian = dense_truth(model, lambda call: cross_entropy(call(inputs), labels)).hessian
    assert (worst_error(problem.gauss_newton(), hessian) < EXACT) == (net == "linear")


def test_an_output_that_is_the_parameter_itself() -> None:
    """The criterion's Hessian is then the whole matrix."""
    model, _, data = quadratic_case([4.0, 1.0, -2.0])
    loss = Loss(lambda module, batch: module.weight, lambda output, batch: output.pow(4).sum())
    operator = Problem(model, loss, data).gauss_newton()
    dense = torch.diag(12 * model.weight.detach() ** 2)
    assert worst_error(operator, dense) < EXACT


def test_a_criterion_linear_in_the_output_gives_zero() -> None:
    case = small_case()
    for criterion in (lambda o, b: o.sum(), lambda o, b: nll_loss(o, b[1])):
        operator = Problem(case.model, Loss(predict, criterion), case.batches).gauss_newton()
        assert torch.equal(operator @ torch.ones(43), torch.zeros(43).double())


def test_outputs_with_further_axes() -> None:
    """Classes on axis 1 and places on axis 2, as cross entropy takes them; -100 leaves places out."""
    torch.manual_seed(0)
    model = nn.Conv1d(2, 3, 2).double()
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(5, 2, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (5, 3), generator=generator)
    labels[0, 1:] = -100
    operator = Problem(model, CLASSIFY, [(inputs, labels)]).gauss_newton()
    truth = dense_truth(model, lambda call: cross_entropy(call(inputs), labels)).hessian  # a linear model
    assert worst_error(operator, truth) < EXACT


def test_blocks_are_blocks_of_the_whole_and_share_graphs() -> None:
    case = adversarial_case()
    problem = Problem(case.model, CLASSIFY, case.batches)
    whole, dense = problem.gauss_newton(), dense_gauss_newton(case.model, case.batches)
    for layer in problem.space.layers:
        eye = torch.eye(layer.size, dtype=torch.float64)
        part = dense[layer.span, layer.span]
        for block in (problem.gauss_newton(layers=layer.name), GaussNewtonOperator(whole.graphs, layer.name)):
            assert float((block @ eye - part).norm()) <= EXACT * max(float(part.norm()), 1.0)
            assert block.describe()["layers"] == [layer.name]
    assert problem.gauss_newton(layers="last").graphs.bytes_each < whole.graphs.bytes_each
    assert all(tensor.requires_grad for tensor in problem.parameters())


# -- kept graphs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [adversarial_case, attention_case, convolution_case, recurrent_case])
def test_every_budget_gives_the_same_product(make: Callable[[], Any]) -> None:
    case = make()
    problem = Problem(case.model, CLASSIFY, case.batches)
    everything = problem.gauss_newton()
    assert (everything.graphs.kept, everything.graphs.rebuilt) == (len(case.batches), 0)
    vector = random_vector(everything.shape[0], 1)
    reference = everything @ vector
    sizes = [len(batch[0]) for batch in case.batches]
    for count in range(len(sizes) + 1):
        budget = sum(sizes[:count]) * everything.graphs.bytes_each // sizes[0] + len(sizes) if count else 0
        partly = problem.gauss_newton(memory_budget=budget)
        assert partly.graphs.kept >= count
        assert partly.graphs.kept + partly.graphs.rebuilt == len(sizes)
        assert relative_error(partly @ vector, reference) < 1e-14
    assert problem.gauss_newton(memory_budget=0).graphs.kept == 0
    assert case.model.training == make().model.training


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_chunks_change_nothing(chunk: int) -> None:
    case = adversarial_case()
    operator = Problem(case.model, CLASSIFY, case.batches).gauss_newton(chunk=chunk)
    assert operator.describe()["chunk"] == chunk
    assert worst_error(operator, dense_gauss_newton(case.model, case.batches)) < EXACT


def test_kept_graphs_hold_no_parameter_sized_vectors() -> None:
    """`Jᵀu` itself, P numbers for each batch, is not counted and not kept."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(500, 400), nn.Tanh(), nn.Linear(400, 3))
    batches = [(torch.randn(2, 500), torch.tensor([0, 1])) for _ in range(40)]
    operator = Problem(model, CLASSIFY, batches).gauss_newton(chunk=None)
    parameters = 4 * operator.shape[0]
    assert operator.graphs.kept == 40
    assert operator.graphs.predicted_bytes < 3 * parameters  # 40 of them otherwise
    assert operator.graphs.measured_bytes < 20 * parameters  # 40 of them would be 40


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_noticed(change: Callable[[nn.Module], None], budget: int | None) -> None:
    case = small_case()
    problem = Problem(case.model, CLASSIFY, case.batches)
    operator = problem.gauss_newton(memory_budget=budget)
    operator @ random_vector(43)
    change(case.model)
    with pytest.raises(StaleOperatorError, match=r"weights changed .*; call problem.gauss_newton\(\) again"):
        operator @ random_vector(43)
    assert torch.isfinite(problem.gauss_newton() @ random_vector(43)).all()


# -- bad input -------------------------------------------------------------------------------------------------


def test_a_plain_loss_is_told_what_is_missing() -> None:
    case = small_case()
    problem = Problem(case.model, classify, case.batches)
    words = r"problem\.gauss_newton\(\) needs .* apart, and the loss is one function; give Problem\(model, tw\.Loss\("
    with pytest.raises(InputError, match=words):
        problem.gauss_newton()


def test_a_model_with_a_loss_of_its_own_is_told_what_is_missing() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3).double()

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": cross_entropy(self.layer(inputs), labels)}

    data = [{"inputs": inputs, "labels": labels} for inputs, labels in classification_batches((3,), 4, 3)]
    with pytest.raises(InputError, match=r"the model computes its own loss; .*model\(\*\*batch\)\.logits"):
        Problem(Own(), data=data).gauss_newton()


@pytest.mark.parametrize(
    ("output", "criterion", "words"),
    [
        (lambda m, b: (m(b[0]),), lambda o, b: cross_entropy(o[0], b[1]), "output of tw.Loss is a tuple, expected one"),
        (lambda m, b: {"y": m(b[0])}, lambda o, b: o["y"].pow(2).mean(), "output of tw.Loss is a dict, expected one"),
        (predict, lambda o, b: o.pow(2).mean() + CASE.model[0].weight.pow(2).sum(), "uses parameters of the model"),
    ],
)
def test_parts_that_do_not_fit_are_refused(output: Any, criterion: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Problem(CASE.model, Loss(output, criterion), CASE.batches).gauss_newton()


CASE = small_case()


def test_layers_and_chunks_that_do_not_exist() -> None:
    problem = Problem(CASE.model, CLASSIFY, CASE.batches)
    with pytest.raises(InputError, match=r"layers='nothing' matches no layer"):
        problem.gauss_newton(layers="nothing")
    with pytest.raises(InputError, match=r"chunk=0: give a number of samples"):
        problem.gauss_newton(chunk=0)


def test_a_product_that_is_not_finite_names_batch_and_parameter() -> None:
    model = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.eye(2))
    data = [torch.ones(2, 2).double(), torch.zeros(2, 2).double()]
    problem = Problem(model, Loss(lambda m, b: m(b), lambda o, b: o.abs().sqrt().sum()), data)
    with pytest.raises(InputError, match=r"product of batch 1 is not finite in 'weight'"):
        problem.gauss_newton() @ torch.ones(4)


def test_fisher_is_told_the_same() -> None:
    with pytest.raises(InputError, match=r"problem\.fisher\(\) needs the model's output and the criterion apart"):
        Problem(CASE.model, classify, CASE.batches).fisher()
