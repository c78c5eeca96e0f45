"""Shields against dense matrices: what a penalty taken implicitly is, and what two tasks' knowledge is together."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from thalweg.protect.shields import DiagonalShield, DirectionShield, KroneckerShield, leading
from thalweg.space import Parameter


def rotation(size: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(draw).Q.to(dtype)


def kronecker(
    hard: float = 0.0, turned: bool = True, kept: int = 5, bias: str = "b", layout: str = "linear", seed: int = 0
):
    draw = torch.Generator().manual_seed(seed)
    inputs, outputs = rotation(5, seed)[:, :kept], rotation(3, seed + 50)
    energies = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5], dtype=torch.float64)[:kept]
    curvature = torch.rand(3, kept, generator=draw, dtype=torch.float64)
    ends = outputs if turned else torch.empty(0, 0, dtype=torch.float64)
    scales = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    return KroneckerShield("w", bias, layout, inputs, energies, 15.5, ends, scales, curvature, hard)  # type: ignore[arg-type]


def dense(shield: KroneckerShield) -> Tensor:
    """`Σ_ij S_ij (u_i ⊗ q_j)(u_i ⊗ q_j)ᵀ` on the entries of the joined matrix `(out, in + 1)`."""
    outputs = shield.outputs if len(shield.outputs) else torch.eye(3, dtype=torch.float64)
    total = torch.zeros(15, 15, dtype=torch.float64)
    for i in range(3):
        for j in range(shield.inputs.shape[1]):
            vector = torch.outer(outputs[:, i], shield.inputs[:, j]).reshape(-1)
            total += shield.curvature[i, j] * torch.outer(vector, vector)
    return total


def joined(moved: dict[str, Tensor], layout: str = "linear") -> Tensor:
    weight = moved["w"].T if layout == "transposed" else moved["w"].reshape(3, -1)
    return torch.cat([weight, moved["b"].unsqueeze(1)], dim=1)


@pytest.mark.parametrize("layout", ["linear", "transposed"])
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("kept", [5, 3])
@pytest.mark.parametrize("tau", [0.01, 3.0, 1e6])
def test_the_soft_part_solves_the_penalty(layout: str, turned: bool, kept: int, tau: float) -> None:
    shield = kronecker(turned=turned, kept=kept, layout=layout)
    draw = torch.randn(3, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    weight = draw[:, :4].T if layout == "transposed" else draw[:, :4]
    found = joined(shield.shrink({"w": weight, "b": draw[:, 4]}, tau), layout)
    wanted = torch.linalg.solve(torch.eye(15, dtype=torch.float64) + tau * dense(shield), draw.reshape(-1))
    assert torch.allclose(found.reshape(-1), wanted, atol=1e-9)


def test_the_hard_part_is_gone_and_the_rest_is_soft() -> None:
    shield = kronecker(hard=0.75)
    assert shield.hard_count == 2  # 8 and 4 of 15.5 hold 77 %
    draw = torch.randn(3, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    found = joined(shield.shrink({"w": draw[:, :4], "b": draw[:, 4]}, 2.0))
    assert float((found @ shield.inputs[:, :2]).abs().max()) < 1e-12
    curvature = dense(shield)
    hard = torch.kron(torch.eye(3, dtype=torch.float64), shield.inputs[:, :2] @ shield.inputs[:, :2].T)
    wanted = torch.linalg.solve(torch.eye(15, dtype=torch.float64) + 2 * curvature + 1e8 * hard, draw.reshape(-1))
    assert torch.allclose(found.reshape(-1), wanted, atol=1e-6)


@pytest.mark.parametrize(("hard", "count"), [(0.0, 0), (0.5, 1), (8 / 15.5, 1), (0.52, 2), (1.0, 5)])
def test_as_few_directions_are_hard_as_hold_the_share(hard: float, count: int) -> None:
    assert kronecker(hard=hard).hard_count == count


def test_convolutions_keep_their_shape() -> None:
    shield = kronecker(bias="", kept=5)
    weight = torch.randn(3, 1, 5, 1, dtype=torch.float64)
    assert shield.shrink({"w": weight}, 1.0)["w"].shape == weight.shape


def test_at_infinite_strength_all_that_is_known_is_gone() -> None:
    found = joined(kronecker(kept=3).shrink({"w": torch.ones(3, 4).double(), "b": torch.ones(3).double()}, math.inf))
    assert float((found @ kronecker(kept=3).inputs).abs().max()) < 1e-12
    assert float(found.abs().max()) > 0.1  # what is not known stays


def test_two_tasks_together_are_the_diagonal_of_their_sum_in_the_new_basis() -> None:
    one, other = kronecker(seed=0), kronecker(seed=7)
    both = one.merged(other)
    moments = sum(s.inputs @ torch.diag(s.energies) @ s.inputs.T / 15.5 for s in (one, other))
    assert (both.total, both.tasks) == (2.0, 2)
    assert torch.allclose(
        both.inputs.double() @ torch.diag(both.energies.double()) @ both.inputs.double().T, moments, atol=1e-5
    )
    total = dense(one) + dense(other)
    for i in range(3):
        for j in range(5):
            vector = torch.outer(both.outputs[:, i].double(), both.inputs[:, j].double()).reshape(-1)
            assert float(both.curvature[i, j]) == pytest.approx(float(vector @ total @ vector), rel=1e-4)
    assert both.nbytes <= one.nbytes + other.nbytes
    assert both.inputs.shape == one.inputs.shape


PARAMETERS = (Parameter("a", (2, 3), 0, ""), Parameter("c", (4,), 6, ""))


def directions(values: list[float], diagonal: bool, k: int = 3) -> DirectionShield:
    own = (
        torch.rand(10, generator=torch.Generator().manual_seed(3), dtype=torch.float64) if diagonal else torch.empty(0)
    )
    return DirectionShield(PARAMETERS, rotation(10, 4).T[:k].contiguous(), torch.tensor(values).double(), own.double())


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("tau", [0.03, 2.0, 1e5])
def test_diagonal_and_low_rank_solve_the_penalty(diagonal: bool, tau: float) -> None:
    shield = directions([5.0, 1.0, 0.2], diagonal)
    flat = torch.randn(10, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    found = shield.shrink({"a": flat[:6].view(2, 3), "c": flat[6:]}, tau)
    curvature = shield.vectors.T @ torch.diag(shield.values) @ shield.vectors
    curvature += torch.diag(shield.diagonal) if diagonal else 0.0
    wanted = torch.linalg.solve(torch.eye(10, dtype=torch.float64) + tau * curvature, flat)
    assert torch.allclose(torch.cat([found["a"].reshape(-1), found["c"]]), wanted, atol=1e-8)


@pytest.mark.parametrize("diagonal", [True, False])
def test_infinite_values_are_projected_off(diagonal: bool) -> None:
    shield = directions([math.inf, 1.0, math.inf], diagonal)
    flat = torch.randn(10, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    found = shield.shrink({"a": flat[:6].view(2, 3), "c": flat[6:]}, 0.5)
    left = shield.vectors @ torch.cat([found["a"].reshape(-1), found["c"]])
    assert float(left[[0, 2]].abs().max()) < 1e-10
    assert abs(float(left[1])) > 1e-3


def test_soft_directions_of_two_tasks_are_summed_and_cut() -> None:
    one, other = directions([5.0, 1.0], False, 2), DirectionShield(
        PARAMETERS, rotation(10, 5).T[:3].contiguous(), torch.tensor([4.0, 2.0, 0.1]).double(), torch.empty(0)
    )  # fmt: skip
    both = one.merged(other)
    total = sum(s.vectors.T @ torch.diag(s.values) @ s.vectors for s in (one, other))
    wanted = torch.linalg.eigvalsh(total).flip(0)[:3]
    assert torch.allclose(both.values, wanted, rtol=1e-9)


def test_a_task_of_large_inputs_does_not_take_the_hard_part_for_itself() -> None:
    one, other = kronecker(hard=0.8, kept=2), kronecker(hard=0.8, kept=2, seed=3)
    other = dataclasses.replace(other, energies=other.energies * 1000, total=other.total * 1000)
    both = one.merged(dataclasses.replace(other, inputs=rotation(5, 0)[:, 2:4]))
    held = both.inputs[:, : both.hard_count].double()
    for basis in (rotation(5, 0)[:, 0], rotation(5, 0)[:, 2]):  # the leading direction of each
        assert float((held.T @ basis).norm()) > 0.99


def test_hard_directions_of_two_tasks_are_all_kept_and_soft_ones_stay_soft() -> None:
    one = directions([math.inf, 1.0], False, 2)
    other = DirectionShield(
        PARAMETERS, rotation(10, 5).T[:3].contiguous(), torch.tensor([math.inf, math.inf, 2.0]).double(), torch.empty(0)
    )
    both = one.merged(other)
    assert int(torch.isinf(both.values).sum()) == 3
    hard = both.vectors[:3]
    for row in (one.vectors[0], *other.vectors[:2]):
        assert float((hard @ row).norm()) == pytest.approx(1.0, abs=1e-9)
    assert torch.allclose(both.vectors @ both.vectors.T, torch.eye(len(both.vectors)).double(), atol=1e-9)


def test_a_diagonal_is_shrunk_entry_by_entry_and_summed() -> None:
    shield = DiagonalShield("w", torch.tensor([0.0, 1.0, 3.0]))
    assert shield.shrink({"w": torch.ones(3)}, 1.0)["w"].tolist() == [1.0, 0.5, 0.25]
    assert shield.shrink({"w": torch.ones(3)}, math.inf)["w"].tolist() == [1.0, 0.0, 0.0]
    assert shield.merged(shield).curvature.tolist() == [0.0, 2.0, 6.0]


def test_leading_vectors_leave_out_what_holds_nothing() -> None:
    vectors, values = leading(torch.diag(torch.tensor([0.0, 4.0, 1.0])), 3)
    assert values.tolist() == [4.0, 1.0]
    assert vectors.abs().tolist() == [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
