"""Models that somebody else has wrapped or converted: LoRA, torch.compile, 16-bit parameters among others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.conftest import Case, classify, dense_truth, pooled, random_vector, relative_error, small_case
from tests.test_problem import padded_batches, spread, tiny_bert
from thalweg.errors import InputError
from thalweg.problem import Problem
from thalweg.solvers.lanczos import eigenpairs

# -- LoRA ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
def test_low_rank_adapters_are_the_whole_space() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, lora_alpha=3, lora_dropout=0.5, target_modules=["query", "value"])
    model = peft.get_peft_model(tiny_bert(), config)
    spread(model)  # peft starts with B = 0, where half of the gradient is zero
    batches = padded_batches([[3, 5], [4], [2, 6, 3]], 9)
    for index, batch in enumerate(batches):
        batch["labels"] = (torch.arange(len(batch["input_ids"])) + index) % 3

    problem = Problem(model, None, batches)
    assert len(problem.space.names) == 4
    assert all(name.endswith(("lora_A.default.weight", "lora_B.default.weight")) for name in problem.space.names)
    assert problem.space.size == 2 * 2 * (2 * 4)
    assert len(problem.space.frozen) == len(list(model.parameters())) - 4

    def by_rows(call: Callable[..., Any]) -> Tensor:
        """One row at a time and without padding: sharing neither batches nor masks with what is tested."""
        losses = []
        for batch in batches:
            for tokens, mask, label in zip(*(batch[k] for k in ("input_ids", "attention_mask", "labels")), strict=True):
                logits = call(input_ids=tokens[: int(mask.sum())].unsqueeze(0)).logits
                losses.append(cross_entropy(logits, label.unsqueeze(0)))
        return torch.stack(losses).mean()

    truth = dense_truth(model, by_rows)
    vector = random_vector(problem.space.size)
    hessian = problem.hessian()
    assert problem.loss() == pytest.approx(truth.loss, rel=1e-10)
    assert relative_error(problem.gradient(), truth.gradient) < 1e-9
    assert relative_error(hessian @ vector, truth.hessian @ vector) < 1e-9
    pairs = eigenpairs(hessian, 3, tol=1e-9, certify="complete")
    assert bool(pairs.converged.all())
    assert relative_error(pairs.values, truth.eigenvalues[:3]) < 1e-9
    products = truth.hessian @ pairs.vectors.T
    assert relative_error(products, pairs.vectors.T * pairs.values) < 1e-8
    named = pairs.named(0)
    assert [tuple(named[name].shape) for name in problem.space.names] == [(2, 4), (4, 2)] * 2


# -- torch.compile -------------------------------------------------------------------------------------------


class Compiler:
    """A backend of torch.compile that counts how often it is asked, and gives graphs without a double backward."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        from torch._dynamo.backends.debugging import aot_eager

        self.asked += 1
        return aot_eager(graph, inputs)


Made = tuple[nn.Module, Callable[[nn.Module, Any], Tensor]]


def whole(model: nn.Module, compiler: Compiler) -> Made:
    return torch.compile(model, backend=compiler), classify  # type: ignore[return-value]


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs)


def in_place(model: nn.Module, compiler: Compiler) -> Made:
    around = Around(model)
    around.compile(backend=compiler)
    return around, classify


def first_layer(model: nn.Module, compiler: Compiler) -> Made:
    assert isinstance(model, nn.Sequential)
    model[0] = torch.compile(model[0], backend=compiler)  # type: ignore[assignment]
    return model, classify


def deep_inside(model: nn.Module, compiler: Compiler) -> Made:
    return Around(Around(torch.compile(model, backend=compiler))), classify  # type: ignore[arg-type]


def function_of_the_model(model: nn.Module, compiler: Compiler) -> Made:
    call = torch.compile(lambda module, inputs: module(inputs), backend=compiler)
    return model, lambda module, batch: cross_entropy(call(module, batch[0]), batch[1])


def another_reference(model: nn.Module, compiler: Compiler) -> Made:
    """The loss calls a compiled wrapper that the problem never gets to see."""
    compiled = torch.compile(model, backend=compiler)
    return model, lambda module, batch: cross_entropy(compiled(batch[0]), batch[1])


FORMS = [whole, in_place, first_layer, deep_inside, function_of_the_model, another_reference]


@pytest.fixture
def compiler() -> Any:
    torch._dynamo.reset()
    yield Compiler()
    torch._dynamo.reset()


@pytest.mark.parametrize("make", FORMS)
@pytest.mark.parametrize("trained", [True, False])
def test_compiled_code_is_left_aside(compiler: Compiler, make: Callable[..., Made], trained: bool) -> None:
    case = small_case()
    model, loss = make(copy.deepcopy(case.model), compiler)
    if trained:  # what is compiled by then is not used either
        loss(model, case.batches[0]).backward()
        assert compiler.asked > 0
    before = compiler.asked
    problem = Problem(model, loss, case.batches)
    vector = random_vector(43)
    expected = case.truth.hessian @ vector
    assert relative_error(problem.hessian() @ vector, expected) < 1e-12
    assert relative_error(problem.hessian(memory_budget=0) @ vector, expected) < 1e-12
    assert relative_error(problem.gradient(), case.truth.gradient) < 1e-12
    if loss is classify:
        assert relative_error(problem.at(problem.weights()).hessian() @ vector, expected) < 1e-12
    assert not any("_orig_mod" in name for name in problem.space.names)
    assert problem.space.depth_measured
    assert [layer.depth for layer in problem.space.layers] == [0, 1]
    assert compiler.asked == before


@pytest.mark.parametrize("make", FORMS)
def test_compiled_code_works_on_afterwards(compiler: Compiler, make: Callable[..., Made]) -> None:
    """And could not have given the products: the test above can fail."""
    case = small_case()
    model, loss = make(copy.deepcopy(case.model), compiler)
    Problem(model, loss, case.batches).hessian() @ random_vector(43)
    value = loss(model, case.batches[0])
    assert compiler.asked > 0
    gradients = torch.autograd.grad(value, list(model.parameters()), create_graph=True)
    with pytest.raises(RuntimeError, match=r"donated buffers|double backward"):
        torch.autograd.grad(sum(gradient.sum() for gradient in gradients), list(model.parameters()))


# -- data parallelism ----------------------------------------------------------------------------------------


def test_data_parallel_wrappers_are_taken_off() -> None:
    case = small_case()
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        distributed = nn.parallel.DistributedDataParallel(case.model)
        for model in (distributed, nn.DataParallel(case.model), torch.compile(distributed)):
            problem = Problem(model, classify, case.batches)  # type: ignore[arg-type]
            assert problem.model is case.model
            vector = random_vector(43)
            assert relative_error(problem.hessian() @ vector, case.truth.hessian @ vector) < 1e-12
    finally:
        torch.distributed.destroy_process_group()


# -- parameters of several dtypes ----------------------------------------------------------------------------


class Mixed(nn.Module):
    """A 16-bit body under a float32 head, as for mixed-precision training by hand."""

    def __init__(self, case: Case, narrow: torch.dtype, by_name: bool) -> None:
        super().__init__()
        assert isinstance(case.model, nn.Sequential)
        self.body = copy.deepcopy(case.model[0]).to(narrow)
        self.head = copy.deepcopy(case.model[2]).to(torch.float32)
        self.narrow = narrow if by_name else None

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.body(inputs.to(self.narrow or self.body.weight.dtype)))
        return self.head(hidden.to(self.head.weight.dtype))


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_some_parameters_in_16_bits(narrow: torch.dtype) -> None:
    case = small_case()
    model = Mixed(case, narrow, by_name=False)
    batches = [(inputs.to(narrow), labels) for inputs, labels in case.batches]
    problem = Problem(model, classify, batches)
    assert problem.describe()["precision"] == f"float32 copy of {str(narrow).removeprefix('torch.')} parameters"
    inputs, labels = pooled(batches)
    truth = dense_truth(copy.deepcopy(model).double(), lambda call: cross_entropy(call(inputs.double()), labels))
    vector = random_vector(43)
    hessian = problem.hessian()
    assert hessian.dtype == torch.float32
    assert relative_error(problem.gradient(), truth.gradient) < 1e-5
    assert relative_error(hessian @ vector, truth.hessian @ vector) < 1e-5
    assert relative_error(case.truth.hessian @ vector, truth.hessian @ vector) > 1e-4  # rounding moved the weights
    assert {tensor.dtype for tensor in model.parameters()} == {narrow, torch.float32}


def test_a_cast_by_name_is_explained() -> None:
    case = small_case()
    with pytest.raises(InputError, match=r"failed on a float32 copy of bfloat16 parameters .*dtype of the weights"):
        Problem(Mixed(case, torch.bfloat16, by_name=True), classify, case.batches)


def test_other_errors_of_a_converted_model_are_passed_on() -> None:
    case = small_case()
    model = Mixed(case, torch.bfloat16, by_name=False)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Problem(model, classify, [(case.batches[0][0][:, :3], case.batches[0][1])])
