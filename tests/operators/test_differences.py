"""The Hessian by differences of gradients: as near the dense one as it says, on weights that are never written to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import (
    NETS,
    Case,
    adversarial_case,
    classify,
    random_vector,
    relative_error,
    small_case,
    spectrum_operator,
)
from tests.operators.test_hessian import CHANGES, OperatorContract
from thalweg.errors import InputError, StaleOperatorError
from thalweg.operators.base import Operator
from thalweg.operators.differences import FiniteDifferenceHessian
from thalweg.problem import Problem
from thalweg.solvers.lanczos import eigenpairs
from thalweg.solvers.trace import trace


def in_float32(case: Case) -> tuple[nn.Module, list[Any]]:
    batches = [(x.float() if x.is_floating_point() else x, labels) for x, labels in case.batches]
    return copy.deepcopy(case.model).float(), batches


class TestDifferences(OperatorContract):
    tolerance = 1e-5

    def make(self) -> tuple[Operator, Tensor]:
        case = adversarial_case()
        return Problem(case.model, classify, case.batches).hessian(finite_differences=True), case.truth.hessian


class TestDifferencesOfABlock(OperatorContract):
    tolerance = 1e-5

    def make(self) -> tuple[Operator, Tensor]:
        case = adversarial_case()
        operator = Problem(case.model, classify, case.batches).hessian(["first", "last"], finite_differences=True)
        rows = operator.whole.positions(operator.space)
        return operator, case.truth.hessian[rows][:, rows]


class TestDifferencesInFloat32(OperatorContract):
    tolerance = 1e-2

    def make(self) -> tuple[Operator, Tensor]:
        case = small_case()
        model, batches = in_float32(case)
        return Problem(model, classify, batches).hessian(finite_differences=True), case.truth.hessian


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_as_near_as_they_say(net: str, dtype: torch.dtype) -> None:
    """For random vectors, and for eigenvectors of both ends relative to the largest eigenvalue."""
    case = NETS[net]()
    model, batches = in_float32(case) if dtype == torch.float32 else (case.model, case.batches)
    operator = Problem(model, classify, batches).hessian(finite_differences=True)
    assert operator.dtype == dtype
    assert operator.product_error < (3e-3 if dtype == torch.float32 else 1e-6)
    vectors = random_vector(operator.shape[0], 7, 5)
    true = case.truth.hessian @ vectors
    errors = (operator @ vectors.to(dtype) - true).norm(dim=0) / true.norm(dim=0)
    assert float(errors.max()) < 3 * operator.product_error
    values, frame = torch.linalg.eigh(case.truth.hessian)
    ends = frame[:, [0, 1, -2, -1]]
    apart = (operator @ ends.to(dtype) - ends * values[[0, 1, -2, -1]]).norm(dim=0)
    assert float(apart.max()) < 12 * operator.precision * float(values.abs().max())
    # neither is it a number that nothing could exceed
    assert float(errors.max()) > operator.product_error / 30


def test_the_step_is_near_the_best() -> None:
    case = adversarial_case()
    model, batches = in_float32(case)
    operator = Problem(model, classify, batches).hessian(finite_differences=True)
    vector = random_vector(operator.shape[0], 7)
    true = case.truth.hessian @ vector

    def error(step: float) -> float:
        return relative_error(operator._product(vector.float(), step), true)

    chosen = error(operator.step)
    assert chosen < 5 * min(error(operator.step * 2.0**power) for power in range(-8, 9))
    assert error(operator.step * 2.0**8) > 100 * chosen
    assert error(operator.step / 2.0**8) > 10 * chosen


def test_in_float64_the_step_is_too_short_for_kinks() -> None:
    """Units that are all but at zero for one sample: the best step of smooth losses meets their kink."""
    case = small_case((9, 4))
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        model[0].bias.sub_(model[0](case.batches[0][0][:1])[0] - 3e-7)
    problem = Problem(model, classify, case.batches)
    operator, exact = problem.hessian(finite_differences=True), problem.hessian(chunk=None)
    for seed in range(4):
        vector = random_vector(operator.shape[0], 20 + seed)
        true = exact @ vector
        assert relative_error(operator @ vector, true) < 3 * operator.product_error < 1e-5
        assert relative_error(operator._product(vector, 256 * operator.step), true) > 0.1


def test_it_says_how_it_was_measured() -> None:
    case = adversarial_case()
    about = Problem(case.model, classify, case.batches).hessian("first", finite_differences=True).describe()
    assert (about["operator"], about["products"], about["layers"]) == ("hessian", "central differences", ["first"])
    assert 1e-10 < about["step"] < 1e-4
    assert 0 < about["product_error_of_largest"] <= about["product_error"] < 1e-6
    assert 0 <= about["asymmetry"] < 1e-6
    assert (about["samples"], about["batches"], about["mode"]) == (23, 3, "evaluation")


def test_products_are_the_same_each_time() -> None:
    case = small_case()
    problem = Problem(case.model, classify, case.batches)
    one, two = problem.hessian(finite_differences=True), problem.hessian(finite_differences=True)
    vector = random_vector(43)
    assert torch.equal(one @ vector, one @ vector)
    assert torch.equal(one @ vector, two @ vector)
    assert torch.equal(one @ (2 * vector), 2 * (one @ vector))  # the step follows the vector's length


def test_chunks_of_another_size_give_the_same() -> None:
    case = adversarial_case()
    problem = Problem(case.model, classify, case.batches)
    operator = problem.hessian(chunk=5, finite_differences=True)
    assert (operator.describe()["chunk"], operator.describe()["batches"]) == (5, 5)
    vector = random_vector(operator.shape[0])
    assert relative_error(operator @ vector, case.truth.hessian @ vector) < 1e-6
    with pytest.raises(InputError, match="chunk=0: give a number"):
        problem.hessian(chunk=0, finite_differences=True)


def test_sixteen_bits_are_measured_on_the_float32_copy() -> None:
    case = small_case()
    model = copy.deepcopy(case.model).bfloat16()
    batches = [(inputs.float(), labels) for inputs, labels in case.batches]
    operator = Problem(model, classify, batches).hessian(finite_differences=True)
    assert operator.dtype == torch.float32
    assert operator.describe()["precision"] == "float32 copy of bfloat16 parameters"
    exact = Problem(model.double(), classify, case.batches).hessian()
    vector = random_vector(43)
    assert relative_error(operator @ vector, exact @ vector) < 3 * operator.product_error < 1e-2


def test_a_linear_loss_has_no_curvature_and_no_error() -> None:
    case = small_case()
    problem = Problem(nn.Linear(4, 3).double(), lambda m, b: m(b[0]).sum(), case.batches)
    operator = problem.hessian(finite_differences=True)
    assert torch.equal(operator @ torch.ones(15), torch.zeros(15).double())
    assert operator.product_error == 0.0
    assert operator.precision == torch.finfo(torch.float64).eps


def test_weights_of_zero_have_a_step() -> None:
    model = nn.Linear(4, 3).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    problem = Problem(model, classify, small_case().batches)
    vector = random_vector(15)
    assert relative_error(problem.hessian(finite_differences=True) @ vector, problem.hessian() @ vector) < 1e-6


# -- eigenpairs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("which", ["LA", "SA", "BE"])
def test_eigenpairs_come_out_within_the_error(which: Any, dtype: torch.dtype) -> None:
    case = adversarial_case()
    model, batches = in_float32(case) if dtype == torch.float32 else (case.model, case.batches)
    operator = Problem(model, classify, batches).hessian(finite_differences=True)
    pairs = eigenpairs(operator, k=4, which=which, certify="complete")
    assert bool(pairs.converged.all())
    truth = case.truth.eigenvalues
    wanted = {"LA": truth[:4], "SA": truth.flip(0)[:4], "BE": torch.cat([truth[:2], truth[-2:]])}[which]
    scale = float(truth.abs().max())
    allowed = pairs.residuals + 12 * operator.precision * scale
    assert bool(((pairs.values - wanted).abs() <= allowed).all())
    assert pairs.provenance["products"] == "central differences"
    assert pairs.provenance["product_error"] == operator.product_error


def test_the_trace_knows_the_error_of_the_products() -> None:
    case = small_case()
    model, batches = in_float32(case)
    operator = Problem(model, classify, batches).hessian(finite_differences=True)
    found = trace(operator, matvecs=43)
    assert abs(found.value - float(case.truth.hessian.trace())) < found.error
    assert found.error > 1e-5 * found.value


class Imprecise(Operator):
    """A symmetric operator whose products are off by a stated share of the largest."""

    def __init__(self, error: float, stated: float) -> None:
        self.inner = spectrum_operator(torch.linspace(10, 0, 60))
        self.shape, self.dtype = self.inner.shape, self.inner.dtype
        self.device, self.space = self.inner.device, None
        self.error, self.stated = error, stated
        self.generator = torch.Generator().manual_seed(0)

    @property
    def precision(self) -> float:
        return self.stated

    def multiply(self, vectors: Tensor) -> Tensor:
        noise = torch.randn(vectors.shape, generator=self.generator, dtype=torch.float64)
        return self.inner.multiply(vectors) + 10 * self.error * noise / noise.norm()


def test_the_check_of_symmetry_allows_for_a_stated_error() -> None:
    pairs = eigenpairs(Imprecise(1e-3, 1e-3), k=3, tol=1e-6)
    assert float((pairs.values - (10 - torch.arange(3) * 10 / 59)).abs().max()) < 10 * 1e-2
    assert pairs.matvecs < 60  # it ends at what the products can tell, though tol asks for more
    with pytest.raises(InputError, match="not the same from one product to the next"):
        eigenpairs(Imprecise(1e-3, 1e-12), k=3, tol=1e-6)


# -- the weights -----------------------------------------------------------------------------------------------------


def state_of(model: nn.Module) -> list[tuple[int, int, Tensor]]:
    return [(p.data_ptr(), p._version, p.detach().clone()) for p in model.parameters()]


def same_state(one: list[tuple[int, int, Tensor]], two: list[tuple[int, int, Tensor]]) -> bool:
    return all(a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in zip(one, two, strict=True))


def test_the_weights_are_never_written_to() -> None:
    case = adversarial_case()
    problem = Problem(case.model, classify, case.batches)
    before = state_of(case.model)
    exact = problem.hessian()
    operator = problem.hessian(finite_differences=True)
    vector = random_vector(operator.shape[0])
    operator @ vector
    assert same_state(before, state_of(case.model))
    assert relative_error(operator @ vector, exact @ vector) < 1e-6  # kept graphs live on


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("call", [1, 2, 4, 6])
def test_they_are_put_back_after_an_error(error: type[BaseException], call: int) -> None:
    case = small_case()
    calls = -1

    def loss(model: nn.Module, batch: Any) -> Tensor:
        nonlocal calls
        calls += calls >= 0
        if calls == call:
            raise error("now")
        return classify(model, batch)

    problem = Problem(case.model, loss, case.batches)
    operator = problem.hessian(finite_differences=True)
    before, vector = state_of(case.model), random_vector(43)
    product = operator @ vector
    calls = 0
    with pytest.raises(error):
        operator @ vector
    assert same_state(before, state_of(case.model))
    calls = -1
    assert torch.equal(operator @ vector, product)


def test_an_interrupt_while_they_are_put_back_waits() -> None:
    from thalweg.operators.differences import _put_back

    class Slow:
        """A parameter at which Ctrl-C arrives."""

        def __init__(self) -> None:
            self.interrupts, self.held = 1, "moved"

        @property
        def data(self) -> str:
            return self.held

        @data.setter
        def data(self, value: str) -> None:
            if self.interrupts:
                self.interrupts -= 1
                raise KeyboardInterrupt
            self.held = value

    tensors: Any = [Slow(), Slow()]
    tensors[0].interrupts = 0
    own: Any = ["first", "second"]
    with pytest.raises(KeyboardInterrupt):
        _put_back(tensors, own)
    assert [tensor.held for tensor in tensors] == own


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_noticed(change: Callable[[nn.Module], None]) -> None:
    case = small_case()
    operator = Problem(case.model, classify, case.batches).hessian(finite_differences=True)
    change(case.model)
    with pytest.raises(StaleOperatorError, match=r"call problem.hessian\(finite_differences=True\) again"):
        operator @ random_vector(43)


# -- where they are of no use ------------------------------------------------------------------------------------------


def jumping(model: nn.Module, batch: Any) -> Tensor:
    outputs = model(batch[0])
    return classify(model, batch) + (outputs * (1e12 * outputs.detach()).sin().sign()).sum()


def test_differences_that_are_too_rough_are_refused() -> None:
    case = small_case()
    with pytest.raises(InputError, match=r"off by [\d.]+% of the largest product at the best step; the gradient jumps"):
        Problem(case.model, jumping, case.batches).hessian(finite_differences=True)
    model, batches = in_float32(case)
    problem = Problem(model, jumping, batches)
    with pytest.raises(InputError, match="give the model and the data in float64"):
        problem.hessian(finite_differences=True)
    assert FiniteDifferenceHessian(problem, refuse=False).precision > 0.05


def test_a_gradient_that_is_not_finite_is_named() -> None:
    class Rooted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2, bias=False).double()
            self.scale = nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.inner(inputs).sum() + (inputs.sum() - 3).clamp(min=0) * torch.sqrt(self.scale * 0).sum()

    data = [torch.ones(2, dtype=torch.float64), 2 * torch.ones(2, dtype=torch.float64)]
    with pytest.raises(InputError, match=r"gradient of batch 0 is not finite in 'scale', at weights moved by"):
        Problem(Rooted(), lambda m, b: m(b), data).hessian(finite_differences=True)
