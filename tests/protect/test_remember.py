"""What is remembered, against dense Fisher matrices; the file; what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import thalweg as tw
from tests.protect.nets import LOSS, batches, convolution, perceptron, problem
from thalweg.protect.shields import DiagonalShield, DirectionShield, KroneckerShield


def dense_fisher(found: tw.Problem, layer: str) -> Tensor:
    operator = found.fisher(layers=layer)
    return torch.stack([operator.matvec(row) for row in torch.eye(operator.shape[0], dtype=torch.float64)])


def entries(shield: KroneckerShield, i: int, j: int) -> Tensor:
    """`u_i ⊗ q_j` in the order of the layer's parameters: the weight's entries, then the bias's."""
    matrix = torch.outer(shield.outputs[:, i].double(), shield.inputs[:, j].double())
    return torch.cat([matrix[:, :-1].reshape(-1), matrix[:, -1]]) if shield.bias else matrix.reshape(-1)


@pytest.mark.parametrize("net", ["perceptron", "no bias", "convolution"])
def test_curvature_is_the_fishers_in_the_kronecker_basis(net: str) -> None:
    model = convolution() if net == "convolution" else perceptron(bias=net == "perceptron")
    found = problem(model, shape=(2, 4, 4) if net == "convolution" else (6,))
    knowledge = tw.remember(found)
    for shield in knowledge.shields:
        assert isinstance(shield, KroneckerShield)
        fisher = dense_fisher(found, shield.weight.rpartition(".")[0])
        for i in range(shield.curvature.shape[0]):
            for j in range(shield.curvature.shape[1]):
                vector = entries(shield, i, j)
                assert float(shield.curvature[i, j]) == pytest.approx(
                    float(vector @ fisher @ vector), rel=2e-4, abs=1e-8
                )


def test_moments_are_those_of_inputs() -> None:
    model = perceptron()
    found = tw.remember(problem(model))
    inputs = torch.cat([batch[0] for batch in batches(1)])
    wide = torch.cat([inputs, torch.ones(len(inputs), 1).double()], dim=1)
    shield = found.shields[0]
    assert isinstance(shield, KroneckerShield)
    values = torch.linalg.eigvalsh(wide.T @ wide / len(wide)).flip(0)
    assert torch.allclose(shield.energies.double(), values, rtol=1e-5)
    assert shield.total == pytest.approx(float(values.sum()))


def test_the_diagonal_is_the_fishers_own() -> None:
    model = perceptron()
    found = problem(model)
    knowledge = tw.remember(found, method="diagonal")
    whole = torch.cat([s.tensors()["curvature"].reshape(-1) for s in knowledge.shields]).double()
    operator = found.fisher()
    diagonal = torch.stack([operator.matvec(r)[n] for n, r in enumerate(torch.eye(operator.shape[0]).double())])
    assert torch.allclose(whole, diagonal, rtol=1e-4, atol=1e-9)


def test_what_is_no_linear_map_is_taken_number_by_number() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)).double()
    found = problem(model)
    knowledge = tw.remember(found)
    assert [shield.kind for shield in knowledge.shields] == ["kronecker", "diagonal", "diagonal", "kronecker"]
    fisher = torch.diagonal(dense_fisher(found, "1"))
    own = torch.cat([s.curvature for s in knowledge.shields if isinstance(s, DiagonalShield)])
    assert torch.allclose(own.double(), fisher, rtol=1e-4)


def test_a_plain_loss_gives_the_empirical_fisher() -> None:
    model = perceptron()
    plain = tw.Problem(model, lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1]), batches(1))
    knowledge = tw.remember(plain, method="diagonal")
    assert knowledge.about["gradients"] == "empirical"
    whole = torch.cat([s.tensors()["curvature"].reshape(-1) for s in knowledge.shields]).double()
    operator = problem(model).empirical_fisher()
    diagonal = torch.stack([operator.matvec(r)[n] for n, r in enumerate(torch.eye(operator.shape[0]).double())])
    assert torch.allclose(whole, diagonal, rtol=1e-4, atol=1e-9)


def test_many_classes_are_drawn_and_agree_with_the_truth() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 20)).double()
    data = [(torch.randn(400, 6, generator=torch.Generator().manual_seed(1)).double(), torch.zeros(400).long())]
    found = tw.Problem(model, LOSS, data)
    shield = tw.remember(found).shields[0]
    assert isinstance(shield, KroneckerShield)
    trace = sum(float(found.fisher().matvec(row)[n]) for n, row in enumerate(torch.eye(140).double()))
    assert float(shield.curvature.double().sum()) == pytest.approx(trace, rel=0.05)


def test_the_file_holds_what_it_says_and_no_sample(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    model = perceptron()
    knowledge = tw.remember(problem(model), path)
    again = tw.Knowledge.load(path)
    assert again.space == knowledge.space
    assert again.prints == knowledge.prints
    assert again.about == knowledge.about
    for one, other in zip(knowledge.shields, again.shields, strict=True):
        assert one.about() == other.about()
        for name, tensor in one.tensors().items():
            assert torch.equal(tensor, other.tensors()[name])
    assert knowledge.nbytes <= path.stat().st_size < knowledge.nbytes + 8000
    samples = sum(len(batch[1]) for batch in batches(1))
    with safe_open(str(path), framework="pt") as file:
        assert all(samples not in file.get_tensor(name).shape for name in file.keys())  # noqa: SIM118
    assert str(knowledge.to_table()).count("kronecker") == 3


def test_earlier_tasks_are_merged_in_the_space_of_one(tmp_path: Path) -> None:
    model = perceptron()
    first = tw.remember(problem(model, 1), tmp_path / "first.safetensors")
    both = tw.remember(problem(model, 5), earlier=tmp_path / "first.safetensors")
    alone = tw.remember(problem(model, 5))
    assert both.about["tasks"] == 2
    assert both.nbytes <= max(first.nbytes, alone.nbytes)
    joint = tw.Problem(model, LOSS, batches(1) + batches(5))
    truth = tw.remember(joint)
    for merged, true in zip(both.shields, truth.shields, strict=True):
        assert isinstance(merged, KroneckerShield)
        assert isinstance(true, KroneckerShield)
        assert float(merged.curvature.sum()) == pytest.approx(2 * float(true.curvature.sum()), rel=1e-4)
        assert merged.total == 2.0
        assert float(merged.energies.sum()) == pytest.approx(2.0, rel=1e-4)  # shares of each task's own energy


def test_directions_and_a_diagonal_beside_them_are_not_counted_twice() -> None:
    model = perceptron()
    found = problem(model)
    pairs = tw.eigenpairs(found.fisher(), 4, tol=1e-8)
    (shield,) = tw.remember(found, directions=pairs, diagonal=True).shields
    assert isinstance(shield, DirectionShield)
    operator = found.fisher()
    fisher = torch.stack([operator.matvec(row) for row in torch.eye(operator.shape[0]).double()])
    low = shield.vectors.double().T @ torch.diag(shield.values.double()) @ shield.vectors.double()
    assert torch.allclose(low, pairs.vectors.T @ torch.diag(pairs.values) @ pairs.vectors, atol=1e-6)
    whole = torch.diagonal(low) + shield.diagonal.double()
    assert torch.allclose(whole, torch.diagonal(fisher), rtol=1e-3, atol=1e-6)  # F − VΛV is positive semi-definite
    with pytest.raises(tw.InputError, match="goes with directions that have values"):
        tw.remember(found, directions=tw.random_directions(found.space, 3), diagonal=True)


def test_values_of_directions_that_are_not_orthogonal_mean_their_own_penalty() -> None:
    rows = torch.randn(3, 119, generator=torch.Generator().manual_seed(0)).double()
    values = torch.tensor([3.0, 1.0, 0.5]).double()
    (shield,) = tw.remember(problem(perceptron()), directions=tw.Directions(rows, values)).shields
    assert isinstance(shield, DirectionShield)
    wanted = rows.T @ torch.diag(values) @ rows
    assert torch.allclose(
        shield.vectors.double().T @ torch.diag(shield.values.double()) @ shield.vectors.double(),
        wanted,
        rtol=1e-4,
        atol=1e-4,
    )


def test_layers_and_rank_bound_what_is_kept() -> None:
    model = perceptron()
    some = tw.remember(problem(model), layers=["0", "2"], rank=2)
    assert [shield.names for shield in some.shields] == [("0.weight", "0.bias"), ("2.weight", "2.bias")]
    assert all(isinstance(s, KroneckerShield) and s.inputs.shape[1] == 2 for s in some.shields)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "ewc"}, "method='ewc' is unknown; choose from kronecker, inputs, diagonal"),
        ({"hard": 1.5}, "hard=1.5 is no share"),
        ({"samples": 0}, "give positive numbers"),
        ({"rank": 0}, "give positive numbers"),
        ({"layers": "head"}, "matches no layer"),
        ({"directions": tw.Directions(torch.eye(3))}, "another model"),
        ({"directions": tw.Directions(torch.eye(119)[:2], torch.tensor([-1.0, -2.0]))}, "no positive value"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(tw.InputError, match=words):
        tw.remember(problem(perceptron()), **arguments)  # type: ignore[arg-type]


def test_knowledge_of_other_kinds_or_models_is_not_merged(tmp_path: Path) -> None:
    known = tw.remember(problem(perceptron()))
    with pytest.raises(tw.InputError, match="different kinds"):
        tw.remember(problem(perceptron()), method="diagonal", earlier=known)
    with pytest.raises(tw.InputError, match=r"lacks the parameter|has the parameter|of shape"):
        tw.remember(problem(perceptron(bias=False)), earlier=known)
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(tw.RunError, match=r"make it with tw\.remember"):
        tw.Knowledge.load(path)
    tw.Directions(torch.eye(3)).save(path)
    with pytest.raises(tw.RunError, match="its format is"):
        tw.Knowledge.load(path)


def test_results_are_frozen() -> None:
    known = tw.remember(problem(perceptron()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        known.about = {}  # type: ignore[misc]
    assert "kronecker, 1 task(s)" in repr(known)


def second_moment(found: tw.Problem, name: str) -> float:
    """The trace of the Gauss-Newton matrix on one layer: what every kind of shield must hold of it."""
    operator = found.gauss_newton(layers=name)
    return sum(
        float(operator.matvec(row)[n]) for n, row in enumerate(torch.eye(operator.shape[0], dtype=torch.float64))
    )


def held(known: tw.Knowledge, names: tuple[str, ...]) -> float:
    return sum(float(s.tensors()["curvature"].double().sum()) for s in known.shields if set(s.names) <= set(names))


class Positions(nn.Module):
    """Ten positions a sample: in the layer's batch axis, or beside it."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.f, self.h, self.joined = nn.Linear(6, 4), nn.Linear(4, 3), joined

    def forward(self, x: Tensor) -> Tensor:
        inside = self.f(x.reshape(-1, 6)).reshape(*x.shape[:2], 4) if self.joined else self.f(x)
        return self.h(torch.tanh(inside))


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("axis", [-1, 1])
def test_positions_are_drawn_apart_and_scaled_as_the_loss_is(joined: bool, axis: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Positions(joined).double()
    inputs = torch.randn(30, 10, 6, generator=torch.Generator().manual_seed(1)).double()
    labels = torch.randint(0, 3, (30, 10), generator=torch.Generator().manual_seed(2))

    def output(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return net(batch[0]).movedim(-1, 1) if axis == 1 else net(batch[0])

    def criterion(out: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(out if axis == 1 else out.movedim(-1, 1), batch[1])

    found = tw.Problem(model, tw.Loss(output, criterion), [(inputs, labels)])
    known = tw.remember(found)
    assert known.about["gradients"] == "fisher"
    for layer in ("f", "h"):
        names = (f"{layer}.weight", f"{layer}.bias")
        assert held(known, names) == pytest.approx(second_moment(found, layer), rel=0.25)  # four draws a prediction
    kinds = {shield.names[0]: shield.kind for shield in known.shields}
    assert kinds["f.weight"] == ("diagonal" if joined else "kronecker")  # its rows cannot be told apart by sample


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_squared_errors_have_the_curvature_of_the_loss(reduction: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 5)).double()
    inputs = torch.randn(200, 6, generator=torch.Generator().manual_seed(1)).double()
    loss = tw.Loss(
        lambda net, batch: net(batch[0]), lambda out, batch: nn.functional.mse_loss(out, batch[1], reduction=reduction)
    )
    found = tw.Problem(model, loss, [(inputs, torch.zeros(200, 5).double())], reduction=reduction)  # type: ignore[arg-type]
    known = tw.remember(found)
    assert held(known, ("2.weight", "2.bias")) == pytest.approx(second_moment(found, "2"), rel=0.15)


class Hidden(nn.Module):
    """A layer whose forward nobody calls, one called by name, and one shared by two."""

    def __init__(self) -> None:
        super().__init__()
        self.quiet, self.named, self.one, self.two = (nn.Linear(6, 6) for _ in range(4))
        self.two.weight = self.one.weight
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(nn.functional.linear(x, self.quiet.weight, self.quiet.bias))
        x = torch.tanh(self.named(input=x))
        return self.head(torch.tanh(self.two(torch.tanh(self.one(x)))))


def test_layers_that_cannot_be_read_are_taken_number_by_number() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Hidden().double()
    found = tw.Problem(model, LOSS, batches(1))
    known = tw.remember(found)
    kinds = {shield.names[0]: shield.kind for shield in known.shields}
    assert kinds["named.weight"] == kinds["head.weight"] == "kronecker"
    assert kinds["quiet.weight"] == kinds["one.weight"] == "diagonal"
    for layer in ("quiet", "named", "head"):
        names = (f"{layer}.weight", f"{layer}.bias")
        assert held(known, names) == pytest.approx(second_moment(found, layer), rel=1e-3)
    shared = known.shields[[s.names[0] for s in known.shields].index("one.weight")]
    assert isinstance(shared, DiagonalShield)
    fisher = found.fisher(layers="one")
    assert float(shared.curvature.sum()) == pytest.approx(
        sum(float(fisher.matvec(row)[n]) for n, row in enumerate(torch.eye(42).double()) if n < 36), rel=1e-3
    )


def test_attention_is_remembered_and_padding_takes_no_directions() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        model = nn.Sequential(nn.Embedding(7, 8), layer, nn.Linear(8, 3))
    words = torch.randint(1, 7, (6, 5), generator=torch.Generator().manual_seed(1))
    labels = torch.randint(0, 3, (6, 5), generator=torch.Generator().manual_seed(2))
    words[:, 2:], labels[:, 2:] = 0, -100
    loss = tw.Loss(
        lambda net, batch: net(batch[0]),
        lambda out, batch: nn.functional.cross_entropy(out.movedim(-1, 1), batch[1], ignore_index=-100),
    )
    known = tw.remember(tw.Problem(model, loss, [(words, labels)]))
    head = next(shield for shield in known.shields if shield.names[0] == "2.weight")
    assert isinstance(head, KroneckerShield)
    with torch.no_grad():
        inside = layer(model[0](words))
    real = torch.cat([inside[:, :2].reshape(-1, 8), torch.ones(12, 1)], dim=1)
    hard = head.inputs[:, : head.hard_count]
    assert float((real @ hard).square().sum() / real.square().sum()) > 0.88


def test_at_most_so_many_samples_are_read_and_statistics_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    known = tw.remember(problem(model), samples=5)
    assert known.about["samples"] == 5
    assert "running statistics of 1 batch norms (1, ...) are not protected" in caplog.text
