"""`tw.drift` on recorded trainings: quadratics whose drift is known, real nets, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from thalweg.analysis.drift import drift, drift_scan
from thalweg.errors import InputError
from thalweg.problem import Problem
from thalweg.recording import open_run, watch
from thalweg.recording.trajectory import Trajectory

pytestmark = pytest.mark.xdist_group("drift")  # its module's fixtures are made once

SIZE = 300


class Valley(nn.Module):
    """A quadratic: stiff, noisy directions, and one flat direction without noise that training slides along."""

    def __init__(self) -> None:
        super().__init__()
        self.walls = nn.Linear(SIZE, 1, bias=False, dtype=torch.float64)
        self.floor = nn.Linear(1, 1, bias=False, dtype=torch.float64)


def noise_scale() -> Tensor:
    return torch.arange(1, SIZE + 1, dtype=torch.float64) ** -1.5


def slide(
    folder: Path,
    steps: int = 500,
    curvature: float = 0.0,
    pull: float = 0.0,
    height: float = 0.0,
    decay: float = 0.0,
    make: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    keep: str | None = None,
) -> Trajectory:
    """A recorded training; the walls are at rest but for noise, the floor starts at `height`."""
    model = Valley()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        model.walls.weight.zero_()
        model.floor.weight.fill_(height)
    make = make or (lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=decay))
    optimizer = make(model)
    wall = noise_scale().sqrt()
    with watch(model, optimizer, folder, overwrite=True, **({"keep": keep} if keep else {})):
        for _ in range(steps):
            noise = torch.randn(SIZE, generator=generator, dtype=torch.float64) * noise_scale()
            with torch.no_grad():
                model.walls.weight.grad = wall * model.walls.weight + noise
                model.floor.weight.grad = curvature * model.floor.weight - pull
            optimizer.step()
    return open_run(folder).trajectory


def quadratic(model: nn.Module, batch: Tensor) -> Tensor:
    walls = (noise_scale().sqrt() * model.walls.weight.square()).sum() / 2
    return batch.mean() * (walls + 0.002 * model.floor.weight.square().sum() / 2)


@pytest.fixture(scope="module")
def sliding(tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    """A steady pull along the floor."""
    return slide(tmp_path_factory.mktemp("drift") / "run", pull=0.02)


@pytest.fixture(scope="module")
def settling(tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    """An exponential approach along the floor: λ = 0.01, η_eff = 1, so 500 steps are five time constants."""
    return slide(tmp_path_factory.mktemp("drift") / "run", curvature=0.01, height=20.0)


@pytest.fixture(scope="module")
def resting(tmp_path_factory: pytest.TempPathFactory) -> Trajectory:
    """Noise around a minimum and nothing else."""
    return slide(tmp_path_factory.mktemp("drift") / "run")


def test_a_steady_drift_is_found_with_its_direction_speed_and_persistence(sliding: Trajectory) -> None:
    found = drift(sliding, (50, 500))
    assert found.found
    assert found.p_value == 1 / 512
    direction = found.direction.rows.dense(0).double()
    assert float(direction.norm()) == pytest.approx(1.0, abs=1e-6)
    assert float(direction[-1]) > 0.99  # the way the weights move, not its opposite
    assert found.cosine > 0.9
    assert found.speed == pytest.approx(0.02 * 0.1 / (1 - 0.9), rel=0.05)
    assert found.persistence.cosine > 0.9
    assert found.persistence.corrected == pytest.approx(1.0, abs=0.1)
    assert found.model == "constant"
    assert found.half_life is None
    assert "constant" in found.reason


def test_the_share_of_the_energy_is_that_of_the_mean_update(sliding: Trajectory) -> None:
    found = drift(sliding, (50, 500))
    updates = sliding.updates(50, 500).double()
    true = float(updates[:, -1].square().sum() / updates.square().sum())
    assert found.share == pytest.approx(true, abs=4 * found.share_error + 0.01 * true)


def test_an_exponential_approach_gives_half_life_distance_and_rate(settling: Trajectory) -> None:
    found = drift(settling, (60, 500))
    assert found.model == "exponential"
    # heavy ball: w_t = z^t with z² − (1 + β − ηλ) z + β = 0, a little faster than η_eff λ = 0.01 a step
    b = 1 + 0.9 - 0.1 * 0.01
    rate = -math.log((b + math.sqrt(b * b - 4 * 0.9)) / 2)
    assert 0.01 < rate < 0.0115
    true = math.log(2) / rate
    assert found.half_life == pytest.approx(true, rel=0.03)
    assert found.half_life_interval is not None
    assert found.half_life_interval[0] < true * 1.03
    assert found.half_life_interval[1] > true * 0.97
    left = float(settling.weights(499)[-1])
    assert found.distance_left == pytest.approx(left, rel=0.35)
    assert found.rate == pytest.approx(rate, rel=0.03)


def test_nothing_is_found_at_rest(resting: Trajectory) -> None:
    found = drift(resting, (100, 500))
    assert not found.found
    assert found.model == "none"
    assert found.half_life is None
    assert found.reason == "no drift was found"


def test_the_layer_that_drifts_and_the_one_that_does_not(sliding: Trajectory) -> None:
    floor, walls = drift(sliding, (50, 500), "floor"), drift(sliding, (50, 500), "walls")
    assert floor.found
    assert not walls.found
    assert float(floor.direction.rows.dense(0)[:SIZE].abs().max()) == 0.0


def test_a_scan_says_when_the_drift_sets_in(tmp_path: Path) -> None:
    model = Valley()
    generator = torch.Generator().manual_seed(5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with torch.no_grad():
        model.walls.weight.zero_()
        model.floor.weight.zero_()
    with watch(model, optimizer, tmp_path / "run"):
        for step in range(960):
            noise = torch.randn(SIZE, generator=generator, dtype=torch.float64) * noise_scale()
            model.walls.weight.grad = (noise_scale().sqrt() * model.walls.weight.detach()) + noise
            model.floor.weight.grad = torch.full_like(model.floor.weight, -0.03 if step >= 480 else 0.0)
            optimizer.step()
    table = drift_scan(open_run(tmp_path / "run").trajectory, windows=8)
    assert len(table) == 6  # with eight blocks each, two more could not be told from chance
    assert table["lasting"] == [False] * 3 + [True] * 3
    assert min(table["cosine"][3:]) > 0.9


def test_the_clock_follows_the_schedule(tmp_path: Path) -> None:
    """With a step size that falls, a steady pull is a constant speed on the clock, not a decay."""
    model = Valley()
    generator = torch.Generator().manual_seed(5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500, eta_min=0.01)
    with torch.no_grad():
        model.walls.weight.zero_()
        model.floor.weight.zero_()
    with watch(model, optimizer, tmp_path / "run"):
        for _ in range(500):
            noise = torch.randn(SIZE, generator=generator, dtype=torch.float64) * noise_scale()
            model.walls.weight.grad = noise[None]
            model.floor.weight.grad = torch.full_like(model.floor.weight, -0.02)
            optimizer.step()
            scheduler.step()
    t = open_run(tmp_path / "run").trajectory
    found = drift(t, (50, 500))
    assert found.found
    assert found.model == "constant"
    last = t.updates(499, 500)[0]
    assert found.speed == pytest.approx(float(last[-1]), rel=0.15)


def test_weight_decay_is_told_from_a_drift_of_the_loss(tmp_path: Path) -> None:
    """The floor moves because of decay alone: with its part taken out nothing is left."""
    t = slide(tmp_path / "run", height=50.0, decay=2e-4)
    found = drift(t, (50, 500))
    assert found.found
    assert found.p_value_without_decay is not None
    assert found.p_value_without_decay > 0.05
    plain = slide(tmp_path / "other", pull=0.02)
    assert drift(plain, (50, 500)).p_value_without_decay is None


def test_decoupled_decay_likewise(tmp_path: Path) -> None:
    make = lambda m: torch.optim.AdamW(m.parameters(), lr=0.01, weight_decay=0.05)  # noqa: E731
    t = slide(tmp_path / "run", height=50.0, make=make)
    found = drift(t, (100, 500), "floor")
    updates = t.updates(100, 500)[:, -1]
    assert float(updates.max()) < 0  # shrinking, by decay only
    assert found.found
    assert found.p_value_without_decay == 1.0  # without its decay the floor does not move at all, but for rounding


def test_curvature_rate_and_losses_ahead(settling: Trajectory) -> None:
    model = Valley()
    problem = Problem(model, quadratic, [torch.ones(3, dtype=torch.float64)])
    held_out = Problem(model, quadratic, [torch.full((2,), 2.0, dtype=torch.float64)])
    found = drift(settling, (60, 500), problem=problem, held_out=held_out, ahead=(1, 10))
    direction = found.direction.rows.dense(0).double()
    curvature = torch.cat([noise_scale().sqrt(), torch.tensor([0.002])])
    assert found.curvature == pytest.approx(float((curvature * direction.square()).sum()), rel=1e-6)
    assert found.rate_expected == pytest.approx(1.0 * found.curvature, rel=1e-6)
    assert found.ahead is not None
    assert found.ahead.curvature_held_out == pytest.approx(2 * found.curvature, rel=1e-6)
    table = found.ahead.losses
    assert table["steps"] == [0, 1, 10]
    end = settling.weights(499)
    for row, distance in enumerate(table["distance"]):
        there = end + distance * direction
        true = float((curvature * there.square()).sum()) / 2
        assert table["train"][row] == pytest.approx(true, rel=1e-9)
        assert table["held_out"][row] == pytest.approx(2 * true, rel=1e-9)
    assert table["distance"][2] == pytest.approx(10 * found.speed)
    assert found.loss_gain_left is not None
    moved = end + found.distance_left * direction
    true_gain = table["train"][0] - float((curvature * moved.square()).sum()) / 2
    assert found.loss_gain_left == pytest.approx(true_gain, rel=1e-6)


def test_adam_has_no_expected_rate(tmp_path: Path) -> None:
    t = slide(tmp_path / "run", pull=0.02, steps=200, make=lambda m: torch.optim.Adam(m.parameters(), lr=0.01))
    problem = Problem(Valley(), quadratic, [torch.ones(3, dtype=torch.float64)])
    found = drift(t, problem=problem)
    assert found.curvature is not None
    assert found.rate_expected is None


def test_a_sketched_run_finds_it_too(tmp_path: Path) -> None:
    t = slide(tmp_path / "run", pull=0.05, keep="sketch")
    found = drift(t, (50, 500))
    assert found.found
    assert found.p_value <= 1 / 256


# -- bad input -------------------------------------------------------------------------------------------------


def test_too_few_steps(resting: Trajectory) -> None:
    with pytest.raises(InputError, match=r"holds 60 rows; the drift test needs 82"):
        drift(resting, (0, 60))


def test_a_constant_trajectory(tmp_path: Path) -> None:
    t = slide(tmp_path / "run", steps=120, make=lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9))
    assert not drift(t, None, "walls").found
    with pytest.raises(InputError, match="do not move"):
        drift(t, None, "floor")


def test_an_unknown_layer_and_too_many_blocks(resting: Trajectory) -> None:
    with pytest.raises(InputError, match="floor"):
        drift(resting, layer="flor")
    with pytest.raises(InputError, match="blocks=40"):
        drift(resting, blocks=40)


def test_a_learning_rate_of_zero(tmp_path: Path) -> None:
    model = Valley()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, tmp_path / "run"):
        for step in range(100):
            optimizer.param_groups[0]["lr"] = 0.0 if step == 30 else 0.1
            model.walls.weight.grad = torch.randn(1, SIZE, dtype=torch.float64)
            optimizer.step()
    with pytest.raises(InputError, match="step 30 had learning rate 0"):
        drift(open_run(tmp_path / "run").trajectory)


def test_it_says_what_it_is(sliding: Trajectory, resting: Trajectory) -> None:
    assert "found, p" in repr(drift(sliding, (50, 500)))
    assert "not found" in repr(drift(resting, (100, 500)))
    share = drift(resting, (100, 500))
    assert abs(share.share) < 4 * share.share_error
