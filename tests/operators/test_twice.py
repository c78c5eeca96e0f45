"""Operations that cannot be differentiated twice: found, named with their module, and never silently left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from tests.conftest import classification_batches, classify, random_vector, relative_error
from thalweg.errors import InputError, NoSecondDerivativeError
from thalweg.losses import Loss
from thalweg.problem import Problem


class MarkedOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0].cos()


class OutsideAutograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.slope = x.detach().cos()
        return x.sin()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        with torch.no_grad():
            return gradient * ctx.slope


class Detached(torch.autograd.Function):
    """Linear in the gradient as a backward should be, and short of the derivative of its slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.slope = x.detach().cos()
        return x.sin()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.slope


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0].cos()


class NoFirst(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise NotImplementedError("derivative for aten::lost is not implemented")


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(inputs)


def net(function: Callable[[Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(1)
    inner = nn.Sequential(nn.Linear(4, 8), Apply(function))
    return nn.Sequential(inner, nn.Tanh(), nn.Linear(8, 3)).double()


def flash(inputs: Tensor) -> Tensor:
    heads = inputs.reshape(1, 2, -1, 4).contiguous()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # the model's own choice, inside ours
        return scaled_dot_product_attention(heads, heads, heads).reshape(inputs.shape)


def distances(inputs: Tensor) -> Tensor:
    return torch.cdist(inputs, torch.eye(8, dtype=inputs.dtype))


BATCHES = classification_batches((9, 3), 4, 3)
PARTS = Loss(lambda model, batch: model(batch[0]), lambda output, batch: cross_entropy(output, batch[1]))

BAD: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "marked": (MarkedOnce.apply, "the custom function MarkedOnce"),
    "outside": (OutsideAutograd.apply, "the custom function OutsideAutograd"),
    "cdist": (distances, "cdist"),
    "flash": (flash, "scaled_dot_product_flash_attention_for_cpu"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("chunk", [None, "auto", 2])
def test_the_operation_its_module_and_the_way_out_are_named(name: str, chunk: Any) -> None:
    function, operation = BAD[name]
    problem = Problem(net(function), classify, BATCHES)
    with pytest.raises(NoSecondDerivativeError) as error:
        problem.hessian(chunk=chunk)
    assert f"cannot differentiate {operation} in module '0.1' (Apply) twice" in str(error.value)
    assert "problem.hessian(finite_differences=True)" in str(error.value)
    assert ("attn_implementation='eager'" in str(error.value)) == (name == "flash")
    assert isinstance(error.value, InputError)


@pytest.mark.parametrize("name", BAD)
def test_the_gauss_newton_matrix_says_the_same(name: str) -> None:
    function, operation = BAD[name]
    with pytest.raises(NoSecondDerivativeError, match=rf"differentiate {operation} in module '0.1'"):
        Problem(net(function), PARTS, BATCHES).gauss_newton()


@pytest.mark.parametrize("name", BAD)
def test_the_way_out_leads_out(name: str) -> None:
    """The same net with operations that torch can differentiate twice has the products that differences find."""
    function, _ = BAD[name]
    allowed: dict[str, Callable[[Tensor], Tensor]] = {
        "cdist": lambda x: (x.unsqueeze(1) - torch.eye(8, dtype=x.dtype)).pow(2).sum(-1).sqrt(),
        "flash": lambda x: scaled_dot_product_attention(*[x.reshape(1, 2, -1, 4)] * 3).reshape(x.shape),
    }
    operator = Problem(net(function), classify, BATCHES).hessian(finite_differences=True)
    truth = Problem(net(allowed.get(name, torch.sin)), classify, BATCHES).hessian(chunk=None)
    vector = random_vector(operator.shape[0])
    assert relative_error(operator @ vector, truth @ vector) < 1e-5


def test_an_operation_in_a_criterion_is_found() -> None:
    loss = Loss(lambda m, b: m(b[0]), lambda output, b: MarkedOnce.apply(output).pow(2).sum())
    with pytest.raises(NoSecondDerivativeError, match="MarkedOnce"):
        Problem(net(torch.tanh), loss, BATCHES).gauss_newton()


def test_batches_that_cannot_be_cut_are_looked_at_whole() -> None:
    model = net(MarkedOnce.apply)
    data = [{"x": BATCHES[0][0], "y": BATCHES[0][1], "temperature": 2.0}]
    with pytest.raises(NoSecondDerivativeError, match="MarkedOnce"):
        Problem(model, lambda m, b: cross_entropy(m(b["x"]), b["y"]) / b["temperature"], data).hessian()


def test_functions_that_can_be_differentiated_twice_are_left_alone() -> None:
    vector = random_vector(67)
    custom = Problem(net(Twice.apply), classify, BATCHES).hessian() @ vector
    assert relative_error(custom, Problem(net(torch.sin), classify, BATCHES).hessian() @ vector) < 1e-13


def test_a_linear_function_is_left_alone() -> None:
    """Its backward saves nothing, and its second derivative is rightly zero."""

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return 2 * gradient

    vector = random_vector(67)
    custom = Problem(net(Doubled.apply), classify, BATCHES).hessian() @ vector
    assert relative_error(custom, Problem(net(lambda x: 2 * x), classify, BATCHES).hessian() @ vector) < 1e-13


def test_a_loss_without_a_gradient_is_not_sent_to_differences() -> None:
    with pytest.raises(InputError, match="the loss has no gradient: derivative for aten::lost") as error:
        Problem(net(NoFirst.apply), classify, BATCHES).hessian()
    assert not isinstance(error.value, NoSecondDerivativeError)


def test_other_errors_of_a_loss_pass_as_they_are() -> None:
    calls = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        calls.append(1)
        if len(calls) > 6:
            raise RuntimeError("the machine is on fire")
        return classify(model, batch)

    with pytest.raises(RuntimeError, match="on fire"):
        Problem(net(torch.tanh), loss, BATCHES).hessian()


def test_the_model_is_left_as_it_was() -> None:
    model = net(distances).train()
    with pytest.raises(NoSecondDerivativeError):
        Problem(model, classify, BATCHES).hessian(layers="0.0")
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", BAD)
def test_layers_behind_the_operation_have_no_need_of_it(name: str) -> None:
    problem = Problem(net(BAD[name][0]), classify, BATCHES)
    exact, measured = problem.hessian(layers="2"), problem.hessian(layers="2", finite_differences=True)
    vector = random_vector(27)
    assert relative_error(exact @ vector, measured @ vector) < 1e-5
    assert all(parameter.requires_grad for parameter in problem.parameters())


# -- second derivatives that are silently wrong --------------------------------------------------------------------


def test_a_detached_backward_is_found_by_differences() -> None:
    wrong = Problem(net(Detached.apply), classify, BATCHES)
    found = wrong.check_hessian()
    assert found.agrees is False
    assert found.difference > 0.05 > 1e3 * found.error
    assert found.custom_functions == ("Detached in module '0.1' (Apply)",)
    right = Problem(net(Twice.apply), classify, BATCHES).check_hessian()
    assert right.agrees is True
    assert right.difference < 1e-5
    assert right.custom_functions == ("Twice in module '0.1' (Apply)",)


def test_the_check_holds_blocks_and_float32() -> None:
    wrong = Problem(net(Detached.apply).float(), classify, [(x.float(), y) for x, y in BATCHES])
    assert wrong.check_hessian(layers="0.0").agrees is False
    assert wrong.check_hessian(layers="2").agrees is True  # behind it: its second derivative takes no part
    assert (
        Problem(net(torch.sin).float(), classify, [(x.float(), y) for x, y in BATCHES]).check_hessian().agrees is True
    )


def test_rough_differences_do_not_judge() -> None:
    """A gradient that jumps all over the place: no exact product could be held against its differences."""

    def jumping(model: nn.Module, batch: Any) -> Tensor:
        outputs = model(batch[0])
        return classify(model, batch) + (outputs * (1e6 * outputs.detach()).sin().sign()).sum()

    found = Problem(net(torch.tanh).float(), jumping, [(x.float(), y) for x, y in BATCHES]).check_hessian()
    assert found.agrees is None
    assert found.error > 0.05
