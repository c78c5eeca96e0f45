from __future__ import annotations

import copy
import random
from collections import UserDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout
from torch.utils.data import DataLoader, TensorDataset

from tests.conftest import (
    NETS,
    adversarial_case,
    classification_batches,
    classify,
    classify_summed,
    dense_truth,
    pooled,
    quadratic_case,
    random_vector,
    relative_error,
    small_case,
    symmetric_matrix,
    true_products,
)
from thalweg.errors import InputError, NotDeterministicError
from thalweg.losses import LabelCount, Loss
from thalweg.problem import Problem
from thalweg.space import ParameterSpace
from thalweg.task import Task

EXACT = 1e-12


def small_problem(**settings: Any) -> Problem:
    case = small_case()
    return Problem(case.model, classify, case.batches, **settings)


# -- values against the pooled data ------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_loss_and_gradient_are_those_of_the_pooled_data(net: str) -> None:
    case = NETS[net]()
    problem = Problem(case.model, classify, case.batches)
    assert problem.loss() == pytest.approx(case.truth.loss, rel=EXACT)
    assert relative_error(problem.gradient(), case.truth.gradient) < EXACT


def test_a_mean_of_batch_means_would_be_another_number() -> None:
    """The test above can fail: batches of 9, 1 and 13 weighted alike give another gradient."""
    case = adversarial_case()
    problem = Problem(case.model, classify, case.batches, weight=lambda batch: 1.0)
    assert relative_error(problem.gradient(), case.truth.gradient) > 0.05


def test_summed_batch_losses_give_the_same_numbers() -> None:
    case = adversarial_case()
    problem = Problem(case.model, classify_summed, case.batches, reduction="sum")
    assert problem.loss() == pytest.approx(case.truth.loss, rel=EXACT)
    assert relative_error(problem.gradient(), case.truth.gradient) < EXACT


def test_unused_parameters_have_a_gradient_of_zero() -> None:
    case = adversarial_case()
    problem = Problem(case.model, classify, case.batches)
    assert torch.equal(problem.space.unflatten(problem.gradient())["unused"], torch.zeros(5).double())


def test_a_loss_in_two_parts_is_the_same_loss() -> None:
    case = small_case()
    loss = Loss(lambda model, batch: model(batch[0]), lambda output, batch: cross_entropy(output, batch[1]))
    assert Problem(case.model, loss, case.batches).loss() == pytest.approx(case.truth.loss, rel=EXACT)


def test_tokens_can_be_the_weight() -> None:
    """Each batch's loss is a mean over the tokens that its mask counts, so its weight is their number."""
    torch.manual_seed(0)
    model = nn.Linear(3, 4).double()
    generator = torch.Generator().manual_seed(1)
    batches = []
    for rows, length in ((2, 5), (1, 3), (4, 2)):
        mask = torch.rand(rows, length, generator=generator) < 0.6
        mask[0, 0] = True
        inputs = torch.randn(rows, length, 3, generator=generator, dtype=torch.float64)
        batches.append({"x": inputs, "y": torch.randint(4, (rows, length), generator=generator), "mask": mask})

    def loss(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return cross_entropy(module(batch["x"])[batch["mask"]], batch["y"][batch["mask"]])

    def tokens(batch: dict[str, Tensor]) -> float:
        return float(batch["mask"].sum())

    inputs = torch.cat([batch["x"][batch["mask"]] for batch in batches])
    labels = torch.cat([batch["y"][batch["mask"]] for batch in batches])
    truth = dense_truth(model, lambda call: cross_entropy(call(inputs), labels))
    by_argument = Problem(model, loss, batches, weight=tokens)
    by_loss = Problem(
        model,
        Loss(lambda m, b: m(b["x"])[b["mask"]], lambda o, b: cross_entropy(o, b["y"][b["mask"]]), tokens),
        batches,
    )
    for problem in (by_argument, by_loss):
        assert relative_error(problem.gradient(), truth.gradient) < EXACT
        assert problem.describe()["weight"] == len(labels)
    assert relative_error(Problem(model, loss, batches).gradient(), truth.gradient) > 1e-3


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass
class Record:
    x: Tensor
    y: Tensor


def of_pair(model: nn.Module, batch: Any) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1])


def of_mapping(model: nn.Module, batch: Any) -> Tensor:
    return cross_entropy(model(batch["x"]), batch["y"])


def of_record(model: nn.Module, batch: Any) -> Tensor:
    return cross_entropy(model(batch.x), batch.y)


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (lambda x, y: (x, y), of_pair),
        (lambda x, y: [x, y], of_pair),
        (Pair, of_record),
        (Record, of_record),
        (lambda x, y: {"x": x, "y": y}, of_mapping),
        (lambda x, y: UserDict(x=x, y=y), of_mapping),
        (lambda x, y: {"deep": [{"x": x}, (y,)]}, lambda m, b: of_pair(m, (b["deep"][0]["x"], b["deep"][1][0]))),
    ],
    ids=["tuple", "list", "named tuple", "dataclass", "dict", "dict-like", "nested"],
)
def test_every_kind_of_batch(make: Callable[[Tensor, Tensor], Any], loss: Callable[..., Tensor]) -> None:
    case = small_case()
    problem = Problem(case.model, loss, [make(x, y) for x, y in case.batches])
    assert relative_error(problem.gradient(), case.truth.gradient) < EXACT
    assert problem.describe()["samples"] == 23
    halves = problem.split(seed=1)
    assert [half.describe()["samples"] for half in halves] in ([11, 12], [12, 11])


def test_a_loader_in_a_fixed_order_is_data() -> None:
    case = small_case()
    loader = DataLoader(TensorDataset(*pooled(case.batches)), batch_size=4)
    assert relative_error(Problem(case.model, classify, loader).gradient(), case.truth.gradient) < EXACT


def test_describe_says_what_was_measured_on() -> None:
    assert small_problem().describe() == {
        "samples": 23,
        "batches": 3,
        "weight": 23.0,
        "reduction": "mean",
        "mode": "evaluation",
        "parameters": 43,
        "precision": "as given",
    }


def test_depths_come_from_a_forward_pass() -> None:
    case = adversarial_case()
    problem = Problem(case.model, classify, case.batches)
    assert problem.space.depth_measured
    ordered = sorted(problem.space.layers, key=lambda layer: layer.depth)
    assert [layer.name for layer in ordered] == ["(model)", "first", "norm", "last"]


# -- the user's model, generators and gradients stay as they were --------------------------------------------


def work_on(problem: Problem) -> None:
    problem.loss()
    problem.gradient()
    problem.loss_along(torch.ones_like(problem.weights()), [0.0, 0.1])
    problem.at(problem.weights() + 1).gradient()
    problem.hessian() @ torch.ones_like(problem.weights())
    problem.hessian(memory_budget=0) @ torch.ones_like(problem.weights())
    for half in problem.split():
        half.gradient()


def state_of(model: nn.Module) -> dict[str, Any]:
    return {
        "modes": [module.training for module in model.modules()],
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "versions": [p._version for p in model.parameters()],
        "hooks": [len(module._forward_pre_hooks) for module in model.modules()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),
        "python": random.getstate(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "grad": torch.is_grad_enabled(),
    }


def assert_same(before: Any, after: Any) -> None:
    if isinstance(before, dict):
        assert before.keys() == after.keys()
        for key in before:
            assert_same(before[key], after[key])
    elif isinstance(before, Tensor):
        assert torch.equal(before, after)
    elif isinstance(before, np.ndarray):
        assert np.array_equal(before, after)
    elif isinstance(before, list):
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            assert_same(one, other)
    else:
        assert before == after


def draws(model: nn.Module, batch: Any) -> Tensor:
    """A loss that draws from every global generator without depending on what it drew."""
    torch.rand(3)
    np.random.rand(3)
    random.random()
    return classify(model, batch)


def test_nothing_of_the_users_changes() -> None:
    case = adversarial_case()
    case.model.train()
    case.model.dropout.eval()
    classify(case.model, case.batches[0]).backward()
    before = state_of(case.model)
    work_on(Problem(case.model, draws, case.batches))
    assert_same(before, state_of(case.model))


def test_nothing_of_the_users_changes_on_error() -> None:
    case = adversarial_case()
    case.model.train()
    calls: list[int] = []

    def fails_later(model: nn.Module, batch: Any) -> Tensor:
        calls.append(1)
        torch.rand(3)
        if len(calls) > 3:
            raise RuntimeError("in the user's loss")
        return classify(model, batch)

    problem = Problem(case.model, fails_later, case.batches)
    before = state_of(case.model)
    for act in (problem.loss, problem.gradient, problem.hessian, lambda: problem.at(problem.weights()).loss()):
        with pytest.raises(RuntimeError, match="in the user's loss"):
            act()
        assert_same(before, state_of(case.model))


def test_evaluation_mode_is_on_while_it_works() -> None:
    case = adversarial_case()
    modes: list[bool] = []

    def spy(model: nn.Module, batch: Any) -> Tensor:
        modes.extend(module.training for module in model.modules())
        return classify(model, batch)

    work_on(Problem(case.model.train(), spy, case.batches))
    assert modes
    assert not any(modes)


def test_it_works_where_gradients_are_off() -> None:
    case = small_case()
    with torch.no_grad():
        problem = Problem(case.model, classify, case.batches)
        assert relative_error(problem.gradient(), case.truth.gradient) < EXACT
    with torch.inference_mode():
        assert relative_error(problem.gradient(), case.truth.gradient) < EXACT
        product = problem.hessian() @ torch.ones(43, dtype=torch.float64)
    assert relative_error(product, case.truth.hessian.sum(dim=1)) < EXACT


# -- at other weights ----------------------------------------------------------------------------------------


def test_at_other_weights_is_the_loss_there() -> None:
    case = small_case()
    problem = Problem(case.model, classify, case.batches)
    weights = problem.weights() + 0.3 * random_vector(43)
    other = problem.at(weights)
    moved = copy.deepcopy(case.model)
    torch.nn.utils.vector_to_parameters(weights, moved.parameters())
    inputs, labels = pooled(case.batches)
    truth = dense_truth(moved, lambda call: cross_entropy(call(inputs), labels))
    assert other.loss() == pytest.approx(truth.loss, rel=EXACT)
    assert relative_error(other.gradient(), truth.gradient) < EXACT
    assert torch.equal(other.weights(), weights)
    assert problem.loss() == pytest.approx(case.truth.loss, rel=EXACT)


def test_other_buffers_can_be_given() -> None:
    case = adversarial_case()
    problem = Problem(case.model, classify, case.batches)
    mean = torch.full((8,), 2.0, dtype=torch.float64)
    other = problem.at(problem.weights(), {"norm.running_mean": mean})
    assert abs(other.loss() - problem.loss()) > 1e-3
    assert not torch.equal(case.model.norm.running_mean, mean)
    with pytest.raises(InputError, match=r"no buffer 'norm.mean' of shape \(8,\)"):
        problem.at(problem.weights(), {"norm.mean": mean})
    with pytest.raises(InputError, match=r"no buffer 'norm.running_mean' of shape \(3,\)"):
        problem.at(problem.weights(), {"norm.running_mean": torch.zeros(3)})


def test_the_loss_along_a_line_of_a_quadratic_is_a_parabola() -> None:
    eigenvalues = [3.0, 1.0, -0.5]
    model, loss, data = quadratic_case(eigenvalues, seed=4)
    problem = Problem(model, loss, data)
    start, direction = problem.weights(), random_vector(3, 9)
    matrix = symmetric_matrix(eigenvalues, 4)
    distances = torch.tensor([-2.0, -0.5, 0.0, 0.25, 3.0])
    points = [start + float(t) * direction for t in distances]
    expected = [0.5 * float(point @ matrix @ point) for point in points]
    found = problem.loss_along(direction, distances)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert found[2] == problem.loss()
    assert torch.equal(problem.weights(), start)


# -- halves of the data --------------------------------------------------------------------------------------


def test_halves_are_reproducible_and_recombine_to_the_whole() -> None:
    case = adversarial_case((9, 1, 13, 4))
    problem = Problem(case.model, classify, case.batches)
    first, second = problem.split(seed=7)
    weights = [half.describe()["weight"] for half in (first, second)]
    assert sum(weights) == 27
    assert abs(weights[0] - weights[1]) <= 1
    combined = (weights[0] * first.gradient() + weights[1] * second.gradient()) / sum(weights)
    assert relative_error(combined, case.truth.gradient) < EXACT
    operators = [half.hessian() for half in (first, second)]
    vector = random_vector(problem.space.size)
    product = sum(w * (operator @ vector) for w, operator in zip(weights, operators, strict=True)) / sum(weights)
    assert relative_error(product, case.truth.hessian @ vector) < EXACT
    again, other = problem.split(seed=7)[0], problem.split(seed=8)[0]
    assert torch.equal(again.gradient(), first.gradient())
    assert not torch.equal(other.gradient(), first.gradient())
    assert relative_error(first.gradient(), second.gradient()) > 0.01


def test_halves_are_disjoint_and_cover_every_sample() -> None:
    case = small_case()
    halves = Problem(case.model, classify, case.batches).split(seed=3)
    rows = [{tuple(row.tolist()) for batch in half.data for row in batch[0]} for half in halves]
    assert not rows[0] & rows[1]
    assert rows[0] | rows[1] == {tuple(row.tolist()) for row in pooled(case.batches)[0]}


def test_one_sample_has_no_halves() -> None:
    case = small_case((1,))
    with pytest.raises(InputError, match="one sample, which cannot be split"):
        Problem(case.model, classify, case.batches).split()


def test_batches_of_one_sample_still_give_two_halves() -> None:
    case = small_case((1, 1, 1, 1))
    first, second = Problem(case.model, classify, case.batches).split()
    assert [half.describe()["samples"] for half in (first, second)] == [2, 2]


# -- tasks ---------------------------------------------------------------------------------------------------


def test_a_task_makes_its_problems() -> None:
    case = small_case()
    task = Task(case.model, classify_summed, case.batches, case.batches[:1], reduction="sum")
    assert task.problem().loss() == pytest.approx(case.truth.loss, rel=EXACT)
    assert task.problem(held_out=True).describe()["samples"] == 9
    with pytest.raises(InputError, match=r"no held-out data; give Task\(..., held_out=batches\)"):
        Task(case.model, classify, case.batches).problem(held_out=True)


# -- HuggingFace models --------------------------------------------------------------------------------------


def padded_batches(lengths: list[list[int]], vocabulary: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """Rows of unequal lengths, padded with zeros to the longest of their batch."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for rows in lengths:
        tokens = torch.zeros(len(rows), max(rows), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, length in enumerate(rows):
            tokens[row, :length] = torch.randint(1, vocabulary, (length,), generator=generator)
            mask[row, :length] = 1
        batches.append({"input_ids": tokens, "attention_mask": mask})
    return batches


def tiny_bert() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=9,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=5,
        max_position_embeddings=6,
        type_vocab_size=1,
        num_labels=3,
    )
    model: nn.Module = transformers.BertForSequenceClassification(config).double()
    return spread(model)


def tiny_gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=8, n_embd=4, n_layer=1, n_head=2, n_positions=6, bos_token_id=0, eos_token_id=0
    )
    model: nn.Module = transformers.GPT2LMHeadModel(config).double()
    return spread(model)


def spread(model: nn.Module) -> nn.Module:
    """Weights large enough that the Hessian is not nearly zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    return model


def test_a_huggingface_classifier_needs_no_loss() -> None:
    transformers = pytest.importorskip("transformers")
    model = tiny_bert()
    batches = padded_batches([[3, 5], [4], [2, 6, 3]], 9)
    for index, batch in enumerate(batches):
        batch["labels"] = (torch.arange(len(batch["input_ids"])) + index) % 3
    encodings = [transformers.BatchEncoding(batch) for batch in batches]
    problem = Problem(model, None, encodings)
    assert problem.survey.weights == (2.0, 1.0, 3.0)

    def by_rows(call: Callable[..., Any]) -> Tensor:
        """One row at a time and without padding: sharing neither batches nor masks with what is tested."""
        losses = []
        for batch in batches:
            for tokens, mask, label in zip(*(batch[k] for k in ("input_ids", "attention_mask", "labels")), strict=True):
                logits = call(input_ids=tokens[: int(mask.sum())].unsqueeze(0)).logits
                losses.append(cross_entropy(logits, label.unsqueeze(0)))
        return torch.stack(losses).mean()

    probe = random_vector(problem.space.size, 1, 3)
    loss, gradient, products = true_products(model, by_rows, probe)
    assert problem.loss() == pytest.approx(loss, rel=1e-10)
    assert relative_error(problem.gradient(), gradient) < 1e-9
    assert relative_error(problem.hessian() @ probe, products) < 1e-9


def test_a_causal_language_model_weighs_by_its_predicted_labels() -> None:
    pytest.importorskip("transformers")
    model = tiny_gpt2()
    batches = padded_batches([[3, 5], [4], [2, 6, 3]], 8)
    for batch in batches:
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    batches[1]["labels"][0, :2] = -100  # a prompt that is not to be learned
    problem = Problem(model, None, batches)
    assert problem.survey.weights == (6.0, 2.0, 8.0)

    def by_tokens(call: Callable[..., Any]) -> Tensor:
        logits, labels = [], []
        for batch in batches:
            for tokens, mask, label in zip(*(batch[k] for k in ("input_ids", "attention_mask", "labels")), strict=True):
                length = int(mask.sum())
                logits.append(call(input_ids=tokens[:length].unsqueeze(0)).logits[0, :-1])
                labels.append(label[1:length])
        return cross_entropy(torch.cat(logits), torch.cat(labels), ignore_index=-100)

    def in_float64(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = module(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        return cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)

    probe = random_vector(problem.space.size, 1, 3)
    loss, gradient, products = true_products(model, by_tokens, probe)
    own = Problem(model, in_float64, batches, weight=LabelCount(model))
    # transformers computes its criterion in float32, whatever the model's dtype
    for one, tolerance in ((own, 1e-9), (problem, 1e-5)):
        assert one.loss() == pytest.approx(loss, rel=tolerance)
        assert relative_error(one.gradient(), gradient) < tolerance
        assert relative_error(one.hessian() @ probe, products) < tolerance
    by_samples = Problem(model, None, batches, weight=lambda batch: len(batch["input_ids"]))
    assert relative_error(by_samples.gradient(), gradient) > 1e-3


def test_a_model_that_computes_no_loss_is_refused() -> None:
    case = small_case()
    with pytest.raises(
        InputError, match=r"no loss was given and a batch is a tuple; give Problem\(model, loss, data\)"
    ):
        Problem(case.model, None, case.batches)
    with pytest.raises(
        InputError, match=r"BertForSequenceClassification returned no loss; put 'labels' into the batch"
    ):
        Problem(tiny_bert(), None, padded_batches([[3, 2]], 9))


def test_labels_are_counted_for_each_kind_of_model() -> None:
    token_labels = {"labels": torch.tensor([[1, -100, 2], [3, 4, -100]])}
    assert LabelCount(nn.Linear(1, 1))(token_labels) == 4.0
    causal = nn.Linear(1, 1)
    causal.loss_type = "ForCausalLM"
    assert LabelCount(causal)(token_labels) == 2.0
    assert LabelCount(causal)({"labels": torch.tensor([0, 1, 1])}) == 3.0
    assert LabelCount(causal)({**token_labels, "shift_labels": torch.tensor([[1, -100, 2, -100, -100, 5]])}) == 3.0
    causal.config = SimpleNamespace(is_encoder_decoder=True)  # its labels are not shifted against what it predicts
    assert LabelCount(causal)(token_labels) == 4.0
    count = LabelCount(nn.Linear(1, 1))
    assert count({"labels": torch.tensor([0, -100, 1])}) == 2.0
    assert count({"labels": torch.tensor([0.5, -100.0, 1.0])}) == 3.0  # of numbers none is left out
    assert count({"labels": torch.zeros(2, 3, 4, dtype=torch.long)}) == 2.0
    assert count.items({"x": torch.zeros(2)}) is None


# -- what changes from one evaluation to the next is refused ---------------------------------------------------


class FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()

    def forward(self, inputs: Tensor) -> Tensor:
        return dropout(self.layer(inputs), 0.5)  # active in evaluation mode, too


def shuffling_loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(*pooled(classification_batches((40,), 4, 3))), batch_size=8, shuffle=True)


def test_a_shuffling_loader_is_refused() -> None:
    with pytest.raises(NotDeterministicError, match=r"Use a DataLoader with shuffle=False, or .* list\(loader\)"):
        Problem(small_case().model, classify, shuffling_loader())
    problem = Problem(small_case().model, classify, shuffling_loader(), allow_random=True)
    assert problem.loss() > 0
    assert problem.gradient().norm() > 0


def test_a_frozen_shuffle_is_fine() -> None:
    assert Problem(small_case().model, classify, list(shuffling_loader())).loss() > 0


def test_a_one_shot_generator_is_refused() -> None:
    case = small_case()
    with pytest.raises(
        NotDeterministicError, match=r"an iterator can be\s+read only once|an iterator can be read once"
    ):
        Problem(case.model, classify, (batch for batch in case.batches))


class Shrinking:
    """Data that yields one batch less at every reading, after the first two."""

    def __init__(self, batches: list[Any], after: int) -> None:
        self.batches, self.left = batches, after

    def __iter__(self) -> Iterator[Any]:
        self.left -= 1
        return iter(self.batches if self.left >= 0 else self.batches[:-1])


def test_data_that_shrinks_later_is_noticed() -> None:
    case = small_case()
    problem = Problem(case.model, classify, Shrinking(case.batches, 100))
    problem.data = Shrinking(case.batches, 0)
    with pytest.raises(NotDeterministicError, match="batch 2 is not what it was"):
        problem.gradient()


def test_data_changed_in_place_is_noticed() -> None:
    case = small_case()
    problem = Problem(case.model, classify, case.batches)
    case.batches[1][0].add_(1.0)
    with pytest.raises(NotDeterministicError, match="batch 1 is not what it was"):
        problem.loss()


def test_functional_dropout_is_refused() -> None:
    batches = classification_batches((9, 5), 4, 3)
    words = r"the same batch gave the loss .* and then .*training=self.training.*allow_random=True"
    with pytest.raises(NotDeterministicError, match=words):
        Problem(FunctionalDropout(), classify, batches)
    problem = Problem(FunctionalDropout(), classify, batches, allow_random=True)
    assert problem.loss() > 0
    assert torch.isfinite(problem.hessian() @ torch.ones(15)).all()


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda m, b: classify(m, b) * float("nan"), r"the loss of batch 0 is nan; look for bad values in that batch"),
        (lambda m, b: classify(m, b) / 0.0, r"the loss of batch 0 is inf"),
        (lambda m, b: cross_entropy(m(b[0]), b[1], reduction="none"), r"shape \(9,\), expected one number.*\.mean\(\)"),
        (lambda m, b: classify(m, b).item(), r"the loss returned float, expected a tensor"),
        (lambda m, b: None, r"the loss returned NoneType"),
        (lambda m, b: classify(m, b).detach(), r"does not depend on the trainable parameters; does it detach"),
        (lambda m, b: (b[0] ** 2).mean(), r"does not depend on the trainable parameters"),
    ],
)
def test_bad_losses_are_refused(loss: Callable[..., Any], words: str) -> None:
    case = small_case()
    with pytest.raises(InputError, match=words):
        Problem(case.model, loss, case.batches)


def test_a_bad_batch_is_named() -> None:
    case = small_case()
    case.batches[2][0][4, 1] = float("nan")
    problem = Problem(case.model, classify, case.batches)
    for act in (problem.loss, problem.gradient, problem.hessian):
        with pytest.raises(InputError, match=r"the loss of batch 2 is nan"):
            act()


@pytest.mark.parametrize("data", [[], (), iter(())])
def test_empty_data_is_refused(data: Any) -> None:
    with pytest.raises(InputError, match=r"the data holds no batch; give a list or a DataLoader"):
        Problem(small_case().model, classify, data)


def test_other_bad_arguments_are_refused() -> None:
    case = small_case()
    with pytest.raises(InputError, match=r"no data was given"):
        Problem(case.model, classify)
    with pytest.raises(InputError, match=r"reduction='average' is unknown; a batch loss is a 'mean' or a 'sum'"):
        Problem(case.model, classify, case.batches, reduction="average")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"the weight of batch 0 is -1.0; weights are finite and not negative"):
        Problem(case.model, classify, case.batches, weight=lambda batch: -1)
    with pytest.raises(InputError, match=r"the weights of all batches are zero"):
        Problem(case.model, classify, case.batches, weight=lambda batch: 0)
    with pytest.raises(InputError, match=r"no trainable parameter \(4 frozen\)"):
        Problem(case.model.requires_grad_(False), classify, case.batches)


def test_vectors_of_the_wrong_length_are_refused() -> None:
    problem = small_problem()
    for act in (problem.at, lambda vector: problem.loss_along(vector, [0.0])):
        with pytest.raises(InputError, match=r"shape \(44,\), expected \(43,\)"):
            act(torch.zeros(44))


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    case = small_case()
    problem = Problem(case.model, classify, case.batches)
    case.model.cache = case.model(case.batches[0][0])  # a tensor with a graph
    with pytest.raises(InputError, match=r"Sequential cannot be copied .*do not keep tensors with a graph"):
        problem.at(problem.weights())


def test_unknown_layers_are_refused_before_any_work() -> None:
    with pytest.raises(InputError, match=r"layers='h.\*' matches no layer"):
        small_problem().hessian(layers="h.*")


def test_a_compiled_model_is_unwrapped() -> None:
    case = small_case()
    problem = Problem(torch.compile(case.model), classify, case.batches)  # type: ignore[arg-type]
    assert problem.model is case.model
    assert problem.space.names == ParameterSpace.of(case.model).names
    assert relative_error(problem.gradient(), case.truth.gradient) < EXACT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_parameters_are_worked_on_in_float32(dtype: torch.dtype) -> None:
    case = small_case()
    narrow = copy.deepcopy(case.model).to(dtype)
    batches = [(inputs.to(dtype), labels) for inputs, labels in case.batches]
    problem = Problem(narrow, classify, batches)
    assert problem.describe()["precision"] == f"float32 copy of {str(dtype).removeprefix('torch.')} parameters"
    assert {tensor.dtype for tensor in narrow.parameters()} == {dtype}
    wide = copy.deepcopy(narrow).double()
    exact = Problem(wide, classify, [(inputs.double(), labels) for inputs, labels in batches])
    vector = random_vector(problem.space.size)
    assert relative_error(problem.hessian() @ vector, exact.hessian() @ vector) < 1e-5
    assert problem.hessian().dtype == torch.float32
    assert exact.describe()["precision"] == "as given"
