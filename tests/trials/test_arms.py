"""Arms: where training goes, what is frozen, and what the controls match."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from tests.trials.planted import BASES, SIZE, regression
from thalweg.tasks.digits import digits_task, train
from thalweg.trials.arms import Way, arm, complement_of, controls_of, make_way, parse
from thalweg.trials.ground import Ground, make_ground
from thalweg.trials.training import fresh_model, run_cell

pytestmark = pytest.mark.xdist_group("arms")  # its module's fixtures are made once


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tw.Trajectory:
    folder = tmp_path_factory.mktemp("runs") / "a"
    task = digits_task(hidden=(16, 12))
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1, momentum=0.9)
    with tw.watch(task.model, optimizer, folder):
        train(task, optimizer, epochs=6)
    return tw.open_run(folder).trajectory


@pytest.fixture(scope="module")
def ground(recorded: tw.Trajectory) -> Ground:
    return make_ground(digits_task(hidden=(16, 12)), recorded)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def walked(ground: Ground, way: Way, steps: int = 5) -> Tensor:
    """Where a few steps lead, by a loop of its own: gradient descent whose updates are changed as `way` says."""
    model = fresh_model(ground, way)
    weights = ground.start.clone()
    batches = ground.samples.draw(3)
    for _ in range(steps):
        problem = ground.training.at(weights)
        model = problem.model.train()
        loss = ground.loss_of(model, next(batches))
        tensors = ground.training.space.tensors(model)
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, tensors)])
        weights = weights + way.change(-0.1 * gradient)
    return weights - ground.start


@pytest.mark.parametrize(
    "source", ["updates:5", "eigenvectors:5", "weights:5", "gradients:5", "singular:5", "gradient"]
)
def test_a_subspace_holds_all_that_is_trained_in_it(ground: Ground, source: str) -> None:
    way = make_way(ground, source, draw())
    assert way.basis is not None
    moved = walked(ground, way).double()
    basis = way.basis.vectors.double()
    torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)).double(), atol=1e-5, rtol=0)
    assert moved.norm() > 0
    assert (moved - (basis @ moved) @ basis).norm() < 1e-4 * moved.norm()


def test_a_complement_holds_the_rest(ground: Ground) -> None:
    inside, outside = (make_way(ground, name, draw()) for name in ("updates:5", "complement:updates:5"))
    update = torch.randn(ground.training.space.size, generator=draw(1))
    torch.testing.assert_close(inside.change(update) + outside.change(update), update)
    assert float(inside.change(update) @ outside.change(update)) == pytest.approx(0, abs=1e-3)
    same = make_way(ground, "updates:5/complement", draw())
    torch.testing.assert_close(same.change(update), outside.change(update))


def test_scaling_changes_the_part_within_alone(ground: Ground) -> None:
    way = make_way(ground, "scale:eigenvectors:4:0.25", draw())
    assert way.basis is not None
    update = torch.randn(ground.training.space.size, generator=draw(1))
    torch.testing.assert_close(way.basis.vectors @ way.change(update), 0.25 * (way.basis.vectors @ update))
    assert complement_of(ground, "scale:eigenvectors:4:0.25") is None


def test_the_full_arm_is_the_tasks_own_training(ground: Ground) -> None:
    """Against a plain loop with the task's optimizer."""
    cell = run_cell(ground, "full", 3, 0.5, (4,), "judging")
    model = ground.training.at(ground.start).model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    batches = ground.samples.draw(3)
    for _ in range(4):
        optimizer.zero_grad()
        ground.loss_of(model, next(batches)).backward()
        optimizer.step()
    judging = ground.judging.at(ground.training.space.vector(model))
    assert cell.loss == pytest.approx(judging.loss(), rel=1e-6)
    assert cell.losses[0] == pytest.approx(ground.judging.loss(), rel=1e-6)


def test_layers_freeze_the_others(ground: Ground) -> None:
    way = make_way(ground, "layers:last:1", draw())
    assert way.layers == ("4",)
    model = fresh_model(ground, way)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"4.weight", "4.bias"}
    assert set(make_way(ground, "layers:0", draw()).layers or ()) == {"0"}
    top = make_way(ground, "layers:top:2", draw()).layers
    ranked = sorted(tw.rank_layers(ground.training), key=lambda row: row["fine_tuning"])
    assert top == tuple(row["layer"] for row in ranked[:2])


def test_controls_match_what_they_say(ground: Ground) -> None:
    own = make_way(ground, "updates:5", draw()).basis
    assert own is not None
    unit = ground.gradient.double() / ground.gradient.double().norm()
    assert controls_of(ground, "updates:5") == ("random:5", "updates:5/layer_matched", "updates:5/gradient_matched")
    by_chance, by_layer, by_gradient = (
        make_way(ground, name, draw(4)).basis for name in controls_of(ground, "updates:5")
    )
    assert by_chance is not None and by_layer is not None and by_gradient is not None  # noqa: PT018
    for control in (by_chance, by_layer, by_gradient):
        torch.testing.assert_close(control.vectors @ control.vectors.T, torch.eye(5), atol=1e-5, rtol=0)
        assert tw.overlap(control, own).mean < 0.3
    torch.testing.assert_close(by_layer.layer_energy().sum(0), own.layer_energy().sum(0), atol=0.25, rtol=0.05)
    energy = [float(basis.rows.inner(unit).square().sum()) for basis in (own, by_gradient)]
    assert energy[0] > 0.01
    assert energy[1] == pytest.approx(energy[0], rel=1e-3)


def test_controls_are_drawn_anew_for_each_replicate_and_the_same_for_one(ground: Ground) -> None:
    first, again, other = (make_way(ground, "random:3", draw(seed)).basis for seed in (0, 0, 1))
    assert first is not None and again is not None and other is not None  # noqa: PT018
    assert torch.equal(first.vectors, again.vectors)
    assert tw.overlap(first, other).mean < 0.1


def test_layers_have_layers_as_controls(ground: Ground) -> None:
    assert controls_of(ground, "layers:first:1") == ("layers:first:1/random_layers", "layers:first:1/last_layers")
    names = controls_of(ground, "layers:2")
    assert names == ("layers:2/random_layers", "layers:2/largest_layers", "layers:2/last_layers")
    assert make_way(ground, names[1], draw()).layers == ("0",)
    assert make_way(ground, names[2], draw()).layers == ("4",)
    assert {make_way(ground, names[0], draw(seed)).layers for seed in range(12)} == {("0",), ("2",), ("4",)}


def test_a_basis_is_found_again_where_training_is(ground: Ground) -> None:
    kept = run_cell(ground, "gradient", 3, 1.0, (6,), "judging")
    fresh = run_cell(ground, "gradient", 3, 1.0, (6,), "judging", refresh=2)
    assert (kept.age, fresh.age) == (6, 2)
    assert kept.loss != fresh.loss
    way = make_way(ground, "gradient", draw())
    assert way.again is not None
    there = ground.start + 0.1 * torch.randn(ground.start.shape, generator=draw(2))
    new = way.again(there)
    gradient = ground.training.at(there).gradient()
    assert abs(float(new.vectors[0] @ gradient)) == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_somebody_elses_arm(ground: Ground) -> None:
    @arm("first_entries")
    def first_entries(ground: Ground, draw: torch.Generator, k: int = 2) -> Way:
        return Way(tw.Directions(torch.eye(ground.training.space.size)[:k], label="first entries"))

    moved = walked(ground, make_way(ground, "first_entries:3", draw()))
    assert moved[:3].abs().sum() > 0
    assert not moved[3:].any()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("update:10", "no arm 'update'; the nearest are 'updates'"),
        ("updates:1:2:3", "write updates:k"),
        ("updates:0", "updates: 0 is no number"),
        ("drift:2", "one direction"),
        ("layers:top:9", "between 1 and all but one"),
        ("layers:nothing*", "matches no layer"),
        ("scale:eigenvectors:2:-1", "not negative"),
        ("eigenvectors:x", "'x' is no number"),
        ("layers:top:x", "'x' is no number"),
        ("compress:cheap:1:x", "bits from 2 to 32"),
        ("updates:2/twin", "no control 'twin'"),
    ],
)
def test_bad_names(ground: Ground, name: str, why: str) -> None:
    with pytest.raises(tw.InputError, match=why):
        make_way(ground, name, draw())


def test_the_whole_space_is_no_subspace() -> None:
    task, _ = regression(0)
    BASES["whole"] = torch.eye(SIZE)
    small = make_ground(task)
    with pytest.raises(tw.InputError, match="training in full"):
        small.directions("eigenvectors", SIZE)
    with pytest.raises(tw.InputError, match="come from a recorded run"):
        make_way(small, "updates:2", draw())
    with pytest.raises(tw.InputError, match="no matched control"):
        controls_of(small, "full")
    assert parse("full")[1] == []


def listening(change: Callable[[Tensor], Tensor], seen: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def changed(update: Tensor) -> Tensor:
        seen.append(change(update))
        return seen[-1]

    return changed


def test_momentum_and_adam_stay_inside_too(recorded: tw.Trajectory, tmp_path: Path) -> None:
    makers: list[Callable[[nn.Module], torch.optim.Optimizer]] = [
        lambda m: torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9),
        lambda m: torch.optim.AdamW(m.parameters(), lr=1e-3),
    ]
    for number, make in enumerate(makers):
        task = digits_task(hidden=(16, 12))
        own = make_ground(tw.Task(task.model, task.loss, task.train, task.held_out, make), recorded)
        seen: list[Tensor] = []

        @arm(f"watched{number}")
        def watched(ground: Ground, draw: torch.Generator, seen: list[Tensor] = seen) -> Way:
            basis = ground.directions("updates", 4)
            way = Way(basis)

            object.__setattr__(way, "change", listening(way.change, seen))
            return way

        run_cell(own, f"watched{number}", 1, 1.0, (5,), "judging")
        basis = own.directions("updates", 4).vectors
        assert len(seen) == 5
        for update in seen:
            assert (update - (basis @ update) @ basis).norm() < 1e-4 * update.norm()


def test_the_drift_is_extrapolated_and_training_goes_on(recorded: tw.Trajectory) -> None:
    ground = make_ground(digits_task(hidden=(16, 12)), recorded)
    way = make_way(ground, "extrapolate:40", draw())
    assert way.jump is not None
    assert not way.changes
    jump = way.jump(ground, way)
    assert ground.window is not None
    moved = ground.start - recorded.weights(ground.window[0] - 1)
    direction = ground.directions("drift", 1).vectors[0]
    assert float(jump @ direction) == pytest.approx(
        float(moved @ direction) * 40 / (ground.window[1] - ground.window[0]), rel=1e-4
    )
    assert complement_of(ground, "extrapolate:40") is None
    cell = run_cell(ground, "extrapolate:40", 1, 1.0, (3, 6), "judging")
    assert cell.losses[1] != cell.losses[2]


@pytest.mark.parametrize("name", ["eigenvectors:40", "eigenvectors:17000", "random:40", "complement:eigenvectors:40"])
def test_as_many_directions_as_dimensions_are_refused_before_they_are_sought(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, _ = regression(1)
    monkeypatch.setattr("thalweg.trials.ground.eigenpairs", None)  # would fail if it were asked
    with pytest.raises(tw.InputError, match="ask for fewer"):
        make_way(make_ground(task), name, torch.Generator())
