"""Fisher information against the sum over all labels; empirical Fisher and covariance against a loop over samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from tests.conftest import (
    NETS,
    Batch,
    adversarial_case,
    attention_case,
    classification_batches,
    classify,
    classify_summed,
    convolution_case,
    dense_truth,
    math_attention,
    pooled,
    pooled_function,
    random_vector,
    recurrent_case,
    relative_error,
    small_case,
)
from tests.operators.test_gauss_newton import (
    CLASSIFY,
    dense_gauss_newton,
    jacobian,
    predict,
    regression_case,
    sandwich,
    softmax_information,
    worst_error,
)
from tests.operators.test_hessian import OperatorContract
from tests.test_problem import padded_batches, tiny_gpt2
from thalweg.errors import InputError, StaleOperatorError
from thalweg.losses import LabelCount, Loss
from thalweg.operators.base import Operator
from thalweg.problem import Problem

EXACT = 1e-10


def sample_gradients(model: nn.Module, batches: list[Batch], criterion: Any = cross_entropy) -> Tensor:
    """The gradient of each sample's own loss, one by one: `(N, P)`."""
    gradients = []
    with math_attention():
        for inputs, labels in zip(*pooled(batches), strict=True):
            total, flat = pooled_function(
                model, lambda call, x=inputs, y=labels: criterion(call(x.unsqueeze(0)), y.unsqueeze(0))
            )
            gradients.append(torch.autograd.functional.jacobian(total, flat))
    return torch.stack(gradients)


def second_moment(gradients: Tensor) -> Tensor:
    return gradients.T @ gradients / len(gradients)


def covariance(gradients: Tensor) -> Tensor:
    return second_moment(gradients - gradients.mean(dim=0))


def enumerated_fisher(model: nn.Module, batches: list[Batch]) -> Tensor:
    """`mean_n sum_y p(y|x_n) ∇log p ∇log pᵀ`, every label of every sample in turn."""
    inputs = pooled(batches)[0]
    log_p = lambda call: torch.log_softmax(call(inputs), dim=-1)  # noqa: E731
    with math_attention():
        function, flat = pooled_function(model, log_p)
        scores = torch.autograd.functional.jacobian(function, flat)
        p = function(flat).exp().detach()
    return torch.einsum("nc,ncp,ncq->pq", p, scores, scores) / len(inputs)


class TestFisher(OperatorContract):
    def make(self) -> tuple[Operator, Tensor]:
        case = adversarial_case()
        return Problem(case.model, CLASSIFY, case.batches).fisher(), enumerated_fisher(case.model, case.batches)


class TestEmpiricalFisher(OperatorContract):
    def make(self) -> tuple[Operator, Tensor]:
        case = adversarial_case()
        operator = Problem(case.model, CLASSIFY, case.batches).empirical_fisher()
        return operator, second_moment(sample_gradients(case.model, case.batches))


class TestEmpiricalFisherOfAPlainLoss(OperatorContract):
    def make(self) -> tuple[Operator, Tensor]:
        case = adversarial_case()
        operator = Problem(case.model, classify, case.batches).empirical_fisher(memory_budget=0)
        return operator, second_moment(sample_gradients(case.model, case.batches))


class TestGradientCovariance(OperatorContract):
    def make(self) -> tuple[Operator, Tensor]:
        case = adversarial_case()
        operator = Problem(case.model, CLASSIFY, case.batches).gradient_covariance()
        return operator, covariance(sample_gradients(case.model, case.batches))


class TestGradientCovarianceBlock(OperatorContract):
    def make(self) -> tuple[Operator, Tensor]:
        case = adversarial_case()
        problem = Problem(case.model, CLASSIFY, case.batches)
        operator = problem.gradient_covariance(layers=["last", "first"])
        rows = problem.space.positions(operator.space)
        return operator, covariance(sample_gradients(case.model, case.batches))[rows][:, rows]


class TestGradientCovarianceInFloat32(OperatorContract):
    tolerance = 2e-5

    def make(self) -> tuple[Operator, Tensor]:
        case = small_case()
        dense = covariance(sample_gradients(case.model, case.batches))
        batches = [(inputs.float(), labels) for inputs, labels in case.batches]
        return Problem(case.model.float(), CLASSIFY, batches).gradient_covariance(), dense


# -- Fisher ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_fisher_against_the_sum_over_all_labels(net: str) -> None:
    case = NETS[net]()
    operator = Problem(case.model, CLASSIFY, case.batches).fisher()
    dense = enumerated_fisher(case.model, case.batches)
    assert worst_error(operator, dense) < EXACT
    assert relative_error(dense, dense_gauss_newton(case.model, case.batches)) < EXACT  # Martens 2020
    assert relative_error(dense, second_moment(sample_gradients(case.model, case.batches))) > 0.05  # Kunstner 2019
    about = operator.describe()
    assert (about["operator"], about["distribution"], about["distribution_from"]) == (
        "fisher",
        "categorical",
        "criterion",
    )


def test_fisher_reads_no_label() -> None:
    case = adversarial_case()
    others = [(inputs, (labels + 1) % 4) for inputs, labels in case.batches]
    vector = random_vector(109, 1)
    one, two = (Problem(case.model, CLASSIFY, batches).fisher() @ vector for batches in (case.batches, others))
    assert torch.equal(one, two)


def test_fisher_of_summed_losses() -> None:
    case = adversarial_case()
    summed = Loss(predict, lambda o, b: cross_entropy(o, b[1], reduction="sum"))
    operator = Problem(case.model, summed, case.batches, reduction="sum").fisher()
    assert worst_error(operator, enumerated_fisher(case.model, case.batches)) < EXACT


def test_fisher_of_squared_errors_has_unit_variance() -> None:
    model, batches = regression_case()
    problem = Problem(model, Loss(predict, lambda o, b: mse_loss(o, b[1])), batches)
    dense = sandwich(jacobian(model, pooled(batches)[0])[1], torch.eye(3).double().expand(23, 3, 3))
    operator = problem.fisher()
    assert operator.describe()["distribution"] == "gaussian"
    assert worst_error(operator, dense) < EXACT
    assert worst_error(problem.gauss_newton(), 2 / 3 * dense) < EXACT


def test_fisher_of_places_with_classes_on_axis_one() -> None:
    torch.manual_seed(0)
    model = nn.Conv1d(2, 3, 2).double()
    inputs, labels = random_vector(30, 1).view(5, 2, 3), torch.ones(5, 2).long()
    problem = Problem(model, CLASSIFY, [(inputs, labels)])
    with pytest.raises(InputError, match=r"with classes on axis -1 .* has to be named: .*axis=1"):
        problem.fisher()
    operator = problem.fisher(axis=1)
    truth = dense_truth(model, lambda call: cross_entropy(call(inputs), labels)).hessian
    assert worst_error(operator, truth) < EXACT


def test_label_smoothing_changes_nothing_and_masks_do() -> None:
    case = small_case()
    smooth = Loss(predict, lambda o, b: cross_entropy(o, b[1], label_smoothing=0.2))
    assert Problem(case.model, smooth, case.batches).fisher().describe()["distribution"] == "categorical"
    (one, first), *_, (two, last) = case.batches  # a mask in the last batch only
    masked = [(one, first), (two, last.where(last > 0, -100))]
    with pytest.raises(InputError, match=r"leaves some predictions out, problem\.gauss_newton\(\) is its Fisher"):
        Problem(case.model, CLASSIFY, masked).fisher()


def test_confident_predictions_are_recognised() -> None:
    """Next to nothing is left of the curvature there, in float32 less than its rounding."""
    case = small_case()
    model = case.model.float()
    with torch.no_grad():
        model[2].weight.mul_(300)
    batches = [(inputs.float(), labels) for inputs, labels in case.batches]
    operator = Problem(model, CLASSIFY, batches).fisher()
    assert operator.describe()["distribution"] == "categorical"


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({}, "neither the cross entropy"),
        ({"distribution": "poisson"}, "distribution='poisson' is unknown; choose 'categorical' or 'gaussian'"),
        ({"distribution": "categorical"}, r"\(9, 1\) holds no classes on axis -1; give two logits"),
        ({"distribution": "categorical", "axis": 4}, r"has no axis 4"),
    ],
)
def test_distributions_that_do_not_fit_are_refused(keywords: dict[str, Any], words: str) -> None:
    model = nn.Linear(4, 1).double()
    batches = [(inputs, labels.double().unsqueeze(1)) for inputs, labels in classification_batches((9, 2), 4, 2)]
    binary = Loss(predict, lambda o, b: binary_cross_entropy_with_logits(o, b[1]))
    with pytest.raises(InputError, match=words):
        Problem(model, binary, batches).fisher(**keywords)


# -- gradients of single samples --------------------------------------------------------------------------------


PER_SAMPLE = Loss(
    predict, lambda o, b: cross_entropy(o, b[1]), None, lambda o, b: cross_entropy(o, b[1], reduction="none")
)
WAYS: list[tuple[Any, str]] = [
    (CLASSIFY, "rows of the output"),
    (PER_SAMPLE, "per_sample"),
    (classify, "single samples"),
]


@pytest.mark.parametrize(("loss", "way"), WAYS)
@pytest.mark.parametrize("net", NETS)
def test_every_way_against_a_loop_over_samples(net: str, loss: Any, way: str) -> None:
    case = NETS[net]()
    gradients = sample_gradients(case.model, case.batches)
    problem = Problem(case.model, loss, case.batches)
    moment, centred = problem.empirical_fisher(), problem.gradient_covariance()
    assert moment.describe()["sample_gradients"] == way
    assert worst_error(moment, second_moment(gradients)) < EXACT
    assert worst_error(centred, covariance(gradients)) < EXACT
    assert relative_error(centred.gradient, case.truth.gradient) < EXACT
    values = torch.linalg.eigvalsh(centred @ torch.eye(centred.shape[0], dtype=torch.float64))
    assert float(values[0]) > -1e-12 * float(values[-1])
    assert int((values > 1e-10 * values[-1]).sum()) < sum(len(batch[0]) for batch in case.batches)  # rank N - 1 at most


@pytest.mark.parametrize("loss", [classify_summed, Loss(predict, lambda o, b: cross_entropy(o, b[1], reduction="sum"))])
def test_summed_batch_losses(loss: Any) -> None:
    case = adversarial_case()
    gradients = sample_gradients(case.model, case.batches)
    problem = Problem(case.model, loss, case.batches, reduction="sum")
    assert worst_error(problem.empirical_fisher(), second_moment(gradients)) < EXACT
    assert worst_error(problem.gradient_covariance(), covariance(gradients)) < EXACT
    # halved weights double the loss, and so each gradient
    doubled = Problem(case.model, loss, case.batches, reduction="sum", weight=lambda batch: len(batch[0]) / 2)
    assert worst_error(doubled.empirical_fisher(), 4 * second_moment(gradients)) < EXACT
    assert worst_error(doubled.gradient_covariance(), 4 * covariance(gradients)) < EXACT


@pytest.mark.parametrize("whole", [True, False])
def test_weights_of_single_samples(whole: bool) -> None:
    """Samples that weigh their number of labels: the batch's mean is over labels that are not -100."""
    torch.manual_seed(0)
    model = nn.Conv1d(2, 3, 1).double()
    generator = torch.Generator().manual_seed(1)
    batches = []
    for count in (5, 1, 7):
        labels = torch.randint(3, (count, 4), generator=generator)
        labels = labels.where(torch.rand(count, 4, generator=generator) < 0.6, -100)
        labels[0, 0], labels[-1] = 1, labels[-1] if count == 1 else -100  # a sample without any label
        batches.append((torch.randn(count, 2, 4, generator=generator, dtype=torch.float64), labels))
    loss = CLASSIFY if whole else classify
    problem = Problem(model, loss, batches, weight=lambda b: float((b[1] >= 0).sum()))
    inputs, labels = pooled(batches)
    weights = (labels >= 0).sum(dim=1).double()
    used = weights > 0
    gradients = sample_gradients(model, [(inputs[used], labels[used])])
    shares = weights[used] / weights.sum()
    moment = (shares.unsqueeze(1) * gradients).T @ gradients
    mean = shares @ gradients
    assert worst_error(problem.empirical_fisher(), moment) < EXACT
    assert worst_error(problem.gradient_covariance(), moment - torch.outer(mean, mean)) < EXACT
    assert relative_error(problem.gradient(), mean) < EXACT


@pytest.mark.parametrize("make", [adversarial_case, attention_case, convolution_case, recurrent_case])
@pytest.mark.parametrize(("loss", "way"), WAYS)
def test_every_budget_gives_the_same_product(make: Callable[[], Any], loss: Any, way: str) -> None:
    case = make()
    problem = Problem(case.model, loss, case.batches)
    operators = [problem.empirical_fisher(memory_budget=budget) for budget in (None, 0)]
    assert [operator.graphs.rebuilt for operator in operators] == [0, len(case.batches)]
    vector = random_vector(operators[0].shape[0], 1)
    assert relative_error(operators[0] @ vector, operators[1] @ vector) < 1e-14


def test_changed_weights_are_noticed_under_their_own_name() -> None:
    case = small_case()
    problem = Problem(case.model, CLASSIFY, case.batches)
    makers: list[Callable[[], Operator]] = [problem.fisher, problem.empirical_fisher, problem.gradient_covariance]
    operators = [make() for make in makers]
    with torch.no_grad():
        case.model[0].weight.mul_(1.01)
    for make, operator in zip(makers, operators, strict=True):
        with pytest.raises(StaleOperatorError, match=rf"call problem\.{make.__name__}\(\) again"):
            operator @ torch.ones(43)


class Coupled(nn.Module):
    """Each output depends on the batch's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs - inputs.mean(dim=0))


@pytest.mark.parametrize(
    ("model", "loss", "words"),
    [
        (Coupled(), CLASSIFY, "sample 0 of the first batch gives another gradient alone"),
        (Coupled(), classify, r"losses of single samples add up to .*, the batch's loss is .* couples samples"),
        (
            nn.Linear(4, 3).double(),
            Loss(predict, lambda o, b: cross_entropy(o, b[1], weight=torch.tensor([1.0, 2.0, 5.0]).double())),
            "alone than within the batch; .*weight=, or the losses themselves as tw.Loss",
        ),
        (
            nn.Linear(4, 3).double(),
            Loss(predict, lambda o, b: cross_entropy(o, b[1]), per_sample=lambda o, b: o),
            r"per_sample returned \(9, 3\), expected one loss for each sample: \(9,\)",
        ),
        (
            nn.Linear(4, 3).double(),
            Loss(predict, lambda o, b: cross_entropy(o, b[1]), per_sample=lambda o, b: o.sum(dim=1)),
            "losses of single samples add up to",
        ),
    ],
)
def test_losses_without_single_samples_are_refused(model: nn.Module, loss: Any, words: str) -> None:
    problem = Problem(model, loss, classification_batches((9, 5), 4, 3))
    with pytest.raises(InputError, match=words):
        problem.empirical_fisher()


def test_class_weights_need_the_weight_of_a_sample() -> None:
    """What the message above recommends, done."""
    weights = torch.tensor([1.0, 2.0, 5.0]).double()
    torch.manual_seed(0)
    model, batches = nn.Linear(4, 3).double(), classification_batches((9, 1, 5), 4, 3)
    loss = Loss(
        predict, lambda o, b: cross_entropy(o, b[1], weight=weights), weight=lambda b: float(weights[b[1]].sum())
    )
    shares = weights[pooled(batches)[1]]
    gradients = sample_gradients(model, batches)
    dense = (shares.unsqueeze(1) * gradients).T @ gradients / shares.sum()
    assert worst_error(Problem(model, loss, batches).empirical_fisher(), dense) < EXACT


def test_a_causal_language_model_in_each_way() -> None:
    """Sequences of unequal length: a sample is a sequence, and weighs its predicted tokens."""
    model = tiny_gpt2().eval()
    batches = padded_batches([[3, 5], [4], [2, 6, 3]], 8)
    for batch in batches:
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    criterion = lambda o, b: cross_entropy(o.flatten(0, 1), b["labels"][:, 1:].flatten())  # noqa: E731
    parts = Loss(
        lambda m, b: m(b["input_ids"], attention_mask=b["attention_mask"]).logits[:, :-1], criterion, LabelCount(model)
    )
    parameters, gradients, lengths, jacobians, inner = list(model.parameters()), [], [], [], []
    with math_attention():
        for batch in batches:
            for tokens, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                length = int(mask.sum())
                logits = model(input_ids=tokens[:length].unsqueeze(0)).logits[0, :-1]
                pieces = torch.autograd.grad(cross_entropy(logits, tokens[1:length]), parameters, retain_graph=True)
                gradients.append(torch.cat([piece.reshape(-1) for piece in pieces]))
                lengths.append(float(length - 1))
                for entry in logits.flatten():
                    pieces = torch.autograd.grad(entry, parameters, retain_graph=True)
                    jacobians.append(torch.cat([piece.reshape(-1) for piece in pieces]))
                inner.append(softmax_information(logits.detach()))
    shares, rows = torch.tensor(lengths).double() / sum(lengths), torch.stack(gradients)
    moment = (shares.unsqueeze(1) * rows).T @ rows
    dense = moment - torch.outer(shares @ rows, shares @ rows)
    problem = Problem(model, parts, batches)
    assert problem.empirical_fisher().describe()["sample_gradients"] == "rows of the output"
    assert worst_error(problem.gradient_covariance(), dense) < 1e-9
    own = Problem(model, None, batches)  # transformers computes its criterion in float32
    assert own.empirical_fisher().describe()["sample_gradients"] == "single samples"
    assert worst_error(own.gradient_covariance(), dense) < 1e-5
    blocks = torch.cat(inner)
    assert (
        worst_error(problem.gauss_newton(), sandwich(torch.stack(jacobians).view(*blocks.shape[:2], -1), blocks)) < 1e-9
    )
