"""Graphs that do not fit the memory: foreseen before they are built, and cut so that they do."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.conftest import classification_batches, classify, dense_truth, random_vector, relative_error
from thalweg.errors import InputError
from thalweg.losses import Loss
from thalweg.memory import saved_bytes
from thalweg.operators import fitting
from thalweg.operators.chunking import SMALLEST
from thalweg.operators.fitting import HEADROOM, graph_size
from thalweg.operators.hessian import GradientKind
from thalweg.problem import Problem

PARTS = Loss(lambda model, batch: model(batch[0]), lambda output, batch: cross_entropy(output, batch[1]))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3)).double()


@pytest.fixture
def case() -> Problem:
    return Problem(net(), classify, classification_batches((600, 500), 4, 3))


def leave(monkeypatch: pytest.MonkeyPatch, problem: Problem, samples: float, kind: Any = None) -> None:
    """Let so much memory be free that a graph of so many samples of this problem fits, and of no more."""
    size = graph_size(problem, kind or GradientKind(), None, 10**9, 1.0)
    assert size is not None
    free = (size.fixed + (samples + 0.5) * size.each) / HEADROOM
    monkeypatch.setattr(fitting, "free_memory", lambda device: int(free))


def test_the_size_is_foreseen_from_a_few_samples(case: Problem) -> None:
    """What does not grow with the samples (nodes, weights that are saved) is told apart from what does."""
    size = graph_size(case, GradientKind(), None, 600, room=1.0)
    assert size is not None
    assert size.fixed > 30 * 1024
    actual = case.hessian(chunk=None).graphs.bytes_each
    assert 0.9 < size.of(600) / actual < 1.1
    linear = graph_size(case, GradientKind(), None, 600, room=1e12)
    assert linear is not None
    assert linear.of(600) > 5 * actual  # by four samples alone, which is enough where all fits anyway


@pytest.mark.parametrize("samples", [300, 40, 3])
def test_with_a_budget_no_graph_is_larger_than_that(case: Problem, samples: int) -> None:
    size = graph_size(case, GradientKind(), None, 10**9, 1.0)
    assert size is not None
    operator = case.hessian(memory_budget=fitting.PARTS * size.of(samples))
    about = operator.describe()
    assert about["chunk_reason"] == "memory"
    assert about["chunk"] == max(samples, SMALLEST)
    assert operator.graphs.bytes_each <= 1.1 * size.of(max(samples, SMALLEST))
    assert about["graphs_kept"] * operator.graphs.bytes_each <= 1.1 * fitting.PARTS * size.of(samples)
    vector = random_vector(case.space.size)
    assert relative_error(operator @ vector, case.hessian() @ vector) < 1e-12
    assert case.hessian(memory_budget=fitting.PARTS * size.of(1200)).describe()["chunk"] is None
    assert case.hessian(memory_budget=size.of(40), chunk=None).describe()["chunk"] is None


def test_a_chunk_that_fits_is_chosen(monkeypatch: pytest.MonkeyPatch, case: Problem) -> None:
    leave(monkeypatch, case, 100)
    operator = case.hessian()
    about = operator.describe()
    assert (about["chunk"], about["chunk_reason"], about["batches"]) == (100, "memory", 11)
    vector = random_vector(operator.shape[0])
    monkeypatch.undo()
    assert relative_error(operator @ vector, case.hessian(chunk=None) @ vector) < 1e-13


def test_a_size_that_fits_is_used_as_given(monkeypatch: pytest.MonkeyPatch, case: Problem) -> None:
    leave(monkeypatch, case, 100)
    about = case.hessian(chunk=32).describe()
    assert (about["chunk"], about["chunk_reason"]) == (32, "given")


@pytest.mark.parametrize(("chunk", "asked"), [(None, 600), (101, 101), (700, 700)])
def test_what_does_not_fit_is_said_before(
    monkeypatch: pytest.MonkeyPatch, case: Problem, chunk: int | None, asked: int
) -> None:
    leave(monkeypatch, case, 100)
    built: list[int] = []
    original = GradientKind.build

    def build(self: GradientKind, term: Any, inputs: Any) -> Any:
        built.append(term.samples)
        return original(self, term, inputs)

    monkeypatch.setattr(GradientKind, "build", build)
    with pytest.raises(
        InputError,
        match=rf"the graph of a batch of {asked} samples takes about [\d.]+ MiB, and [\d.]+ MiB are free, of which it "
        r"may take 80%; 100 samples fit: use chunk=100, or chunk='auto'",
    ):
        case.hessian(chunk=chunk)
    assert max(built) <= 8


def test_other_operators_are_measured_by_their_own_graphs(monkeypatch: pytest.MonkeyPatch, case: Problem) -> None:
    problem = Problem(case.model, PARTS, case.data)
    monkeypatch.setattr(fitting, "free_memory", lambda device: 2**20)
    sizes = {}
    for name in ("hessian", "gauss_newton"):
        about = getattr(problem, name)().describe()
        assert about["chunk_reason"] == "memory"
        assert about["bytes_predicted"] / about["graphs_kept"] < HEADROOM * 2**20 * 1.1
        sizes[name] = about["chunk"]
    assert sizes["gauss_newton"] != sizes["hessian"]


def test_layers_are_measured_by_themselves(monkeypatch: pytest.MonkeyPatch, case: Problem) -> None:
    leave(monkeypatch, case, 300)
    assert case.hessian().describe()["chunk"] == 300
    assert case.hessian(layers="4").describe()["chunk"] is None  # what lies before it needs no graph


def test_coupled_samples_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def spread(model: nn.Module, batch: Any) -> Tensor:
        outputs = model(batch[0])
        return (outputs - outputs.mean(dim=0)).pow(2).mean()

    problem = Problem(net(), spread, classification_batches((600,), 4, 3))
    leave(monkeypatch, problem, 100)
    for chunk in ("auto", None, 50):
        with pytest.raises(InputError, match=r"600 samples .* couples samples, .* give batches of at most 100 samples"):
            problem.hessian(chunk=chunk)


def test_batches_that_cannot_be_cut_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, labels = classification_batches((600,), 4, 3)[0]
    data = [{"x": inputs, "y": labels, "temperature": 2.0}]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return cross_entropy(model(batch["x"]) / batch["temperature"], batch["y"])

    problem = Problem(net(), loss, data)
    leave(monkeypatch, problem, 100)
    with pytest.raises(InputError, match=r"a batch holds something else than tensors .* at most 100 samples"):
        problem.hessian()


def test_a_model_of_which_not_one_sample_fits(monkeypatch: pytest.MonkeyPatch, case: Problem) -> None:
    monkeypatch.setattr(fitting, "free_memory", lambda device: 1024)
    with pytest.raises(InputError, match="not even one sample fits; choose some layers"):
        case.hessian()


def test_a_budget_of_nothing_still_has_one_graph_at_a_time(monkeypatch: pytest.MonkeyPatch, case: Problem) -> None:
    leave(monkeypatch, case, 600)
    operator = case.hessian(memory_budget=0, chunk=None)
    assert (operator.graphs.kept, operator.graphs.rebuilt) == (0, 2)


def test_a_loss_that_a_few_samples_cannot_have_is_not_foreseen() -> None:
    def picky(model: nn.Module, batch: Any) -> Tensor:
        if len(batch[0]) < 10:
            raise ValueError("too few")
        return classify(model, batch)

    batches = classification_batches((40, 20), 4, 3)
    problem = Problem(net(), picky, batches)
    assert graph_size(problem, GradientKind(), None, 40, 1.0) is None
    inputs, labels = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))
    truth = dense_truth(problem.model, lambda call: cross_entropy(call(inputs), labels))
    vector = random_vector(problem.space.size)
    assert relative_error(problem.hessian() @ vector, truth.hessian @ vector) < 1e-9


def test_a_graph_that_was_measured_is_let_go() -> None:
    """A node that saves its own output held itself through the hook's tensor: one batch's graph was never freed."""
    weight = torch.ones(3, requires_grad=True)
    gone: list[int] = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.witness = Witness()
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient

    class Witness:
        def __del__(self) -> None:
            gone.append(1)

    built, size = saved_bytes(lambda: Watched.apply(weight).tanh(), [weight])
    assert size == 12
    assert not gone
    (slope,) = torch.autograd.grad(built.sum(), weight, create_graph=True)
    assert slope.requires_grad
    del built, slope
    assert gone


MEASURE = """
import sys
import torch
from torch import nn
from torch.nn.functional import cross_entropy
import thalweg as tw
from thalweg.memory import hand_back, held_memory

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, {width}), nn.Tanh(), nn.Linear({width}, {width}), nn.Tanh(), nn.Linear({width}, 5))
data = [(torch.randn({samples}, 20), torch.randint(5, ({samples},)))]
loss = tw.Loss(lambda m, b: m(b[0]), lambda o, b: cross_entropy(o, b[1]))
plain = lambda m, b: cross_entropy(m(b[0]), b[1])
problem = tw.Problem(model, plain if "{name}" == "empirical_fisher" else loss, data)
problem.gradient()
hand_back()
before = held_memory(problem.device)
operator = getattr(problem, "{name}")(chunk=None)
hand_back()
print(operator.describe()["bytes_predicted"], held_memory(problem.device) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the resident size of a process")
@pytest.mark.parametrize(
    ("name", "width", "samples"),
    [("empirical_fisher", 96, 800), ("hessian", 128, 20000)],
)
def test_what_is_foreseen_is_what_is_taken(name: str, width: int, samples: int) -> None:
    """Single samples make many small nodes, whose own size is most of it; and what was measured must be let go."""
    program = MEASURE.format(name=name, width=width, samples=samples)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    foreseen, taken = (int(number) for number in done.stdout.split())
    assert taken > 30 * 2**20
    assert 0.7 < foreseen / taken < 1.4, (foreseen, taken)
