"""Guards at work: what stays, with any optimizer; what is refused."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from tests.protect.nets import batches, convolution, perceptron, problem, trained
from thalweg.protect.knowledge import fingerprint
from thalweg.protect.shields import KroneckerShield

OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.02, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.1),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3),
}


def outputs(model: nn.Module, shape: tuple[int, ...] = (6,)) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch[0]) for batch in batches(1, shape)])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("net", ["perceptron", "convolution"])
def test_with_all_inputs_hard_old_outputs_stay_whatever_is_learned(name: str, net: str) -> None:
    """Independent of any formula: where every input that was seen is protected, the net cannot change on old data."""
    shape = (2, 4, 4) if net == "convolution" else (6,)
    model = convolution() if net == "convolution" else perceptron()
    old = tw.Problem(model, problem(model, shape=shape)._loss, [(batches(1, shape)[0][0][:3], torch.tensor([0, 1, 2]))])
    with torch.no_grad():
        before = model(batches(1, shape)[0][0][:3])
    known = tw.remember(old, hard=1.0)
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    begun = [p.detach().clone() for p in model.parameters()]
    with tw.guard(optimizer, known):
        trained(model, optimizer, steps=15)
    with torch.no_grad():
        after = model(batches(1, shape)[0][0][:3])
    moved = sum(float((p.detach() - q).norm()) for p, q in zip(model.parameters(), begun, strict=True))
    assert moved > 0.01  # it did learn
    assert torch.allclose(after, before, atol=2e-4)
    other = convolution() if net == "convolution" else perceptron()
    trained(other, OPTIMIZERS[name](list(other.parameters())), steps=15)
    with torch.no_grad():
        assert float((other(batches(1, shape)[0][0][:3]) - before).abs().max()) > 0.05  # which it would have


@pytest.mark.parametrize("name", ["momentum", "adamw", "lbfgs"])
def test_directions_are_left_alone_by_the_whole_update(name: str) -> None:
    model = perceptron()
    space = problem(model).space
    kept = tw.random_directions(space, 7, seed=3, dtype=torch.float64)
    before = space.vector(model)
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    with tw.guard(optimizer, kept):
        trained(model, optimizer)
    moved = space.vector(model) - before
    assert float((kept.vectors @ moved).abs().max()) < 1e-5 * float(moved.norm())
    assert float(moved.norm()) > 0.1


@pytest.mark.parametrize("strength", [1.0, 1e3, 1e9, 1e15])
def test_a_penalty_is_stable_at_any_strength_and_keeps_more_the_stronger_it_is(strength: float) -> None:
    model = perceptron()
    known = tw.remember(problem(model), hard=0.0)
    optimizer = OPTIMIZERS["momentum"](list(model.parameters()))
    begun = problem(model).loss()
    with tw.guard(optimizer, known, strength=strength):
        trained(model, optimizer, steps=100)
    assert math.isfinite(problem(model).loss())
    if strength >= 1e9:
        assert problem(model).loss() < begun + 0.02


def test_more_strength_keeps_more_of_the_old_task() -> None:
    old = []
    for strength in (0.0, 1.0, 30.0, 1000.0):
        model = perceptron()
        known = tw.remember(problem(model), hard=0.0)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        with tw.guard(optimizer, known, strength=strength):
            trained(model, optimizer, steps=60)
        old.append(problem(model).loss())
    assert old == sorted(old, reverse=True)
    assert old[0] > 1.5 * old[-1]


def test_plain_descent_is_the_penalty_taken_implicitly() -> None:
    model = perceptron()
    known = tw.remember(problem(model), method="diagonal")
    curvature = torch.cat([s.tensors()["curvature"].reshape(-1) for s in known.shields]).double()
    space = problem(model).space
    weights = home = space.vector(model)
    ((inputs, labels),) = batches(2, counts=(20,))
    for _ in range(5):
        gradient = tw.Problem(perceptron(), problem(model)._loss, [(inputs, labels)]).at(weights).gradient()
        step = weights - 0.3 * gradient
        weights = home + (step - home) / (1 + 0.3 * 7.0 * curvature)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    with tw.guard(optimizer, known, strength=7.0, every=1):
        trained(model, optimizer, steps=5)
    assert torch.allclose(space.vector(model), weights, atol=1e-6)


def test_it_ends_with_its_context_and_costs_are_told() -> None:
    model = perceptron()
    optimizer = OPTIMIZERS["sgd"](list(model.parameters()))
    with tw.guard(optimizer, tw.remember(problem(model))) as protecting:
        trained(model, optimizer, steps=4)
    assert protecting.steps == 4
    assert protecting.seconds > 0
    trained(model, optimizer, steps=2)
    assert protecting.steps == 4
    assert not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_step_pre_hooks
    with tw.guard(optimizer, tw.remember(problem(model))):  # and another one may begin
        pass


def test_every_so_many_steps_the_soft_part_is_taken_and_the_hard_one_always() -> None:
    model = perceptron()
    known = tw.remember(problem(model), hard=0.5)
    first = known.shields[0]
    assert isinstance(first, KroneckerShield)
    hard, rest = first.inputs[:, : first.hard_count].double(), first.inputs[:, first.hard_count :].double()
    home = torch.cat([model[0].weight, model[0].bias.unsqueeze(1)], dim=1).detach().clone()

    def moved() -> tuple[float, float]:
        now = torch.cat([model[0].weight, model[0].bias.unsqueeze(1)], dim=1).detach() - home
        return float((now @ hard).norm()), float((now @ rest).norm())

    optimizer = OPTIMIZERS["momentum"](list(model.parameters()))
    with tw.guard(optimizer, known, strength=1e9, every=5):
        trained(model, optimizer, steps=4)
        assert moved()[0] < 1e-5
        assert moved()[1] > 0.05
        trained(model, optimizer, steps=1)
        assert max(moved()) < 1e-5


def test_what_is_pending_is_taken_when_the_guard_ends() -> None:
    for strength, steps in ((1e9, 4), (math.inf, 3)):
        model = perceptron()
        known = tw.remember(problem(model), method="diagonal")
        space, optimizer = problem(model).space, OPTIMIZERS["sgd"](list(model.parameters()))
        before = space.vector(model)
        curved = torch.cat([shield.tensors()["curvature"].reshape(-1) for shield in known.shields]) > 1e-6
        with tw.guard(optimizer, known, strength=strength):
            trained(model, optimizer, steps=steps)
        assert float((space.vector(model) - before)[curved].abs().max()) < 1e-3


def test_the_end_does_not_need_the_optimizer_and_hides_no_other_error() -> None:
    model = perceptron()
    known = tw.remember(problem(model), method="diagonal")
    space, optimizer = problem(model).space, OPTIMIZERS["sgd"](list(model.parameters()))
    before = space.vector(model)
    protecting = tw.guard(optimizer, known, strength=1e9)
    trained(model, optimizer, steps=3)
    free = float((space.vector(model) - before).norm())
    del optimizer
    gc.collect()
    protecting.remove()
    assert float((space.vector(model) - before).norm()) < 0.5 * free
    optimizer = OPTIMIZERS["sgd"](list(model.parameters()))

    def interrupted() -> None:
        with tw.guard(optimizer, known, strength=1e9, moved=True):
            trained(model, optimizer, steps=3)
            with torch.no_grad():
                model[0].weight[0, 0] = math.nan
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_an_adaptive_step_size_follows_its_schedule_and_every_optimizer_has_its_own() -> None:
    model = perceptron()
    first, second = torch.optim.Adam(model[0].parameters(), lr=1e-2), torch.optim.Adam(model[2:].parameters(), lr=1e-2)
    protecting = tw.guard([first, second], tw.remember(problem(model)), model=model)
    ((inputs, labels),) = batches(2, counts=(20,))
    for step in range(40):
        nn.functional.cross_entropy(model(inputs), labels).backward()
        for optimizer in (first, second):
            optimizer.step()
            optimizer.zero_grad()  # gradients are gone before the next optimizer steps
        if step == 30:
            early = {name: protecting._rate(name) for name in ("0.weight", "2.weight")}
            for optimizer in (first, second):
                optimizer.param_groups[0]["lr"] = 1e-4
    assert min(early.values()) > 0
    for name, rate in early.items():
        assert protecting._rate(name) == pytest.approx(rate / 100, rel=0.5)
    protecting.remove()


def test_a_resumed_optimizer_is_read_anew() -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    protecting = tw.guard(optimizer, tw.remember(problem(model)))
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 0.001
    optimizer.load_state_dict(state)
    assert protecting._rate("0.weight") == 0.001


def test_different_step_sizes_in_one_shield_are_refused() -> None:
    model = perceptron()
    groups = [{"params": [model[0].weight], "lr": 0.1}, {"params": [model[0].bias], "lr": 0.001}]
    optimizer = torch.optim.SGD([*groups, {"params": [p for m in model[1:] for p in m.parameters()]}], lr=0.1)
    with pytest.raises(tw.InputError, match=r"the learning rates 0\.001, 0\.1; give them one"):
        tw.guard(optimizer, tw.remember(problem(model)), model=model)


def test_weights_that_a_trainer_converts_afterwards_are_guarded_where_they_are() -> None:
    model = perceptron().float()
    known = tw.remember(problem(perceptron()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tw.guard(optimizer, known, moved=True, strength=math.inf):
        model.double()  # as `.to("cuda")`: the same parameters, another storage
        trained(model, optimizer, steps=3)


def test_oblique_directions_are_all_left_alone() -> None:
    model = perceptron()
    space = problem(model).space
    one, other = torch.zeros(1, 119).double(), torch.zeros(1, 119).double()
    one[0, 0], other[0, :2] = 1.0, 0.7071
    before, optimizer = space.vector(model), OPTIMIZERS["momentum"](list(model.parameters()))
    with tw.guard(optimizer, [tw.Directions(one, space=space), tw.Directions(other, space=space)]):
        trained(model, optimizer, steps=5)
    assert float((space.vector(model) - before)[:2].abs().max()) < 1e-6


def test_other_shapes_are_refused_even_where_other_weights_are_taken() -> None:
    wide = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    optimizer = torch.optim.SGD(wide.parameters(), lr=0.1)
    with pytest.raises(tw.InputError, match=r"has \(9, 6\) for the parameter '0\.weight' \(8, 6\)"):
        tw.guard(optimizer, tw.remember(problem(perceptron())), model=wide, moved=True)


def test_groups_names_and_wrappers(tmp_path: Path) -> None:
    model = perceptron()
    tw.remember(problem(model), tmp_path / "old.safetensors")
    split = [{"params": list(model[0].parameters())}, {"params": [p for m in model[1:] for p in m.parameters()]}]
    optimizer = torch.optim.SGD(split, lr=0.1)
    with pytest.raises(tw.InputError, match=r"guard\(..., model=model\)"):
        tw.guard(optimizer, tmp_path / "old.safetensors")
    with tw.guard(optimizer, str(tmp_path / "old.safetensors"), model=model) as protecting:
        trained(model, optimizer, steps=3)
    assert protecting.steps == 3


def test_embeddings_with_sparse_gradients_are_guarded_by_what_really_moved() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3, bias=False))
    ids = torch.randint(0, 5, (12, 2), generator=torch.Generator().manual_seed(1))
    labels = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(2))
    model[0].sparse = False
    known = tw.remember(tw.Problem(model, problem(perceptron())._loss, [(ids, labels)]))
    model[0].sparse = True
    optimizer = [torch.optim.SparseAdam(model[0].parameters(), lr=0.1), torch.optim.SGD(model[2].parameters(), lr=0.1)]
    before = model[0].weight.detach().clone()
    with tw.guard(optimizer, known, model=model, strength=1e12, every=1):
        for _ in range(5):
            for one in optimizer:
                one.zero_grad()
            nn.functional.cross_entropy(model(ids + 4), labels).backward()
            for one in optimizer:
                one.step()
    moved = (model[0].weight.detach() - before).abs().amax(1)
    assert float(moved[:4].max()) == 0.0  # neither is seen by the new task
    assert float(moved[4]) < 1e-4  # the only one of both
    assert float(moved[5:].min()) > 0.05  # the old task never saw these


def test_a_step_that_is_not_finite_stops_with_its_layer_and_harms_no_other() -> None:
    model = perceptron()
    kept = tw.remember(problem(model))
    optimizer = OPTIMIZERS["sgd"](list(model.parameters()))
    tw.guard(optimizer, kept)
    model[2].weight.grad = torch.full_like(model[2].weight, math.nan)
    before = model[0].weight.detach().clone()
    with pytest.raises(tw.InputError, match=r"the step to '2\.weight' at step 1 is not finite"):
        optimizer.step()
    assert torch.equal(model[0].weight, before)


def test_another_model_other_weights_and_a_second_guard_are_refused() -> None:
    model, other = perceptron(), perceptron(bias=False)
    known = tw.remember(problem(model))
    optimizer = OPTIMIZERS["sgd"](list(other.parameters()))
    with pytest.raises(tw.InputError, match=r"no parameter '0\.bias'"):
        tw.guard(optimizer, known, model=other)
    with pytest.raises(tw.InputError, match="model=model"):
        tw.guard(optimizer, known)
    optimizer = OPTIMIZERS["sgd"](list(model.parameters()))
    trained(model, optimizer, steps=2)
    with pytest.raises(tw.InputError, match=r"'0\.weight' are not those that were remembered"):
        tw.guard(optimizer, known)
    with tw.guard(optimizer, known, moved=True), pytest.raises(tw.InputError, match="guarded already"):
        tw.guard(optimizer, known, moved=True)
    some = OPTIMIZERS["sgd"](list(model[0].parameters()))
    with pytest.raises(tw.InputError, match=r"does not train '2\.weight'"):
        tw.guard(some, known, model=model, moved=True)


@pytest.mark.parametrize(
    ("what", "arguments", "words"),
    [
        ([], {}, "nothing to protect"),
        (None, {"strength": -1.0}, "a strength of 0 or more"),
        (None, {"strength": math.nan}, "a strength of 0 or more"),
        (None, {"every": 0}, "every=1 or more"),
        (tw.Directions(torch.eye(4)), {}, "entries, the protected parameters"),
        (tw.Directions(torch.eye(119)), {}, "fill all 119 dimensions"),
    ],
)
def test_bad_arguments_are_refused(what: object, arguments: dict[str, float], words: str) -> None:
    model = perceptron()
    given = tw.remember(problem(model)) if what is None else what
    with pytest.raises(tw.InputError, match=words):
        tw.guard(torch.optim.SGD(model.parameters(), lr=0.1), given, **arguments)  # type: ignore[arg-type]


def test_knowledge_and_directions_of_the_same_numbers_are_refused() -> None:
    model = perceptron()
    known, kept = tw.remember(problem(model)), tw.random_directions(problem(model).space, 2)
    with pytest.raises(tw.InputError, match="is protected twice, as kronecker and as directions"):
        tw.guard(torch.optim.SGD(model.parameters(), lr=0.1), [known, kept])


def test_a_fingerprint_tells_weights_apart() -> None:
    weights = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert fingerprint(weights) == fingerprint(weights.clone())
    assert fingerprint(weights) != fingerprint(weights + 1e-3)
    model = perceptron()
    known = tw.remember(problem(model))
    with torch.no_grad():
        model[0].weight += (
            0.02 * torch.randn(8, 6, generator=torch.Generator().manual_seed(1)) * model[0].weight.norm() / 7
        )
    with pytest.raises(tw.InputError, match="load the old weights first"):
        tw.guard(torch.optim.SGD(model.parameters(), lr=0.1), known)


def test_a_guard_holds_no_optimizer_alive() -> None:
    model = perceptron()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tw.guard(optimizer, tw.remember(problem(model)))
    trained(model, optimizer, steps=2)
    there = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert there() is None


def test_a_pull_below_the_precision_of_the_weights_adds_up() -> None:
    model = nn.Linear(4, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    along = tw.Directions(torch.eye(4)[:2], values=torch.tensor([1.0, 1.0]), label="planted")
    with tw.guard(optimizer, along, model=model, strength=0.01, every=1):
        with torch.no_grad():
            model.weight.add_(0.25)  # each pull is 0.00025 of what is 0.0078 apart from its neighbours
        for _ in range(1000):
            model.weight.grad = torch.zeros_like(model.weight)
            optimizer.step()
    wanted = 1 + 0.25 / (1 + 0.001) ** 1000
    assert torch.allclose(model.weight[0, :2].detach().float(), torch.full((2,), wanted), atol=0.008)
    assert torch.equal(model.weight[0, 2:].detach().float(), torch.full((2,), 1.25))
