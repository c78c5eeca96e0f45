from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.evaluation import evaluating


def draw_everywhere() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


def leave(model: nn.Module) -> None:
    with evaluating(model):
        draw_everywhere()


def leave_by_an_error(model: nn.Module) -> None:
    def fail() -> None:
        draw_everywhere()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), evaluating(model):
        fail()


EXITS = [leave, leave_by_an_error]


@pytest.mark.parametrize("exit_", EXITS)
def test_every_module_goes_back_to_its_own_mode(exit_: Callable[[nn.Module], None]) -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)))
    model.train()
    model[1][0].eval()
    before = [module.training for module in model.modules()]
    assert True in before
    assert False in before
    exit_(model)
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("exit_", EXITS)
def test_global_generators_are_left_where_they_were(exit_: Callable[[nn.Module], None]) -> None:
    def seed() -> None:
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)

    model = nn.Linear(1, 1)
    seed()
    expected = draw_everywhere()
    seed()
    exit_(model)
    assert draw_everywhere() == expected


@pytest.mark.parametrize("exit_", EXITS)
def test_attention_settings_are_put_back(exit_: Callable[[nn.Module], None]) -> None:
    assert torch.backends.mha.get_fastpath_enabled()
    exit_(nn.Linear(1, 1))
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        exit_(nn.Linear(1, 1))
        assert not torch.backends.cuda.math_sdp_enabled()


def test_inside_gradients_and_the_math_backend_are_on_and_autocast_is_off() -> None:
    model = nn.Sequential(nn.Dropout())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), evaluating(model):
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        assert not torch.backends.mha.get_fastpath_enabled()
        assert torch.backends.cuda.math_sdp_enabled()
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert not any(module.training for module in model.modules())
    with torch.inference_mode(), evaluating(model):
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("make", "shape"), [(nn.BatchNorm1d, (5, 3)), (nn.BatchNorm1d, (5, 3, 4)), (nn.BatchNorm2d, (5, 3, 2, 4))]
)
def test_batch_norm_is_its_affine_map(make: type[nn.Module], shape: tuple[int, ...], affine: bool) -> None:
    torch.manual_seed(0)
    norm = make(3, affine=affine).double()
    for _ in range(3):
        norm(2 * torch.randn(shape).double() + 1)
    inputs = torch.randn(shape).double()
    norm.eval()
    expected = norm(inputs)
    norm.train()
    with evaluating(norm):
        assert "forward" in vars(norm)
        torch.testing.assert_close(norm(inputs), expected, rtol=1e-13, atol=1e-13)
        with pytest.raises(ValueError, match="expected"):
            norm(torch.zeros(2, 2, 2, 2, 2, 2).double())
    assert "forward" not in vars(norm)
    assert norm.training


def test_other_batch_norms_compute_as_they_are() -> None:
    class Shifted(nn.BatchNorm1d):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(inputs) + 1

    batch_statistics = nn.BatchNorm1d(2, track_running_stats=False)
    for module in (Shifted(2), batch_statistics):
        with evaluating(module):
            assert "forward" not in vars(module)


def test_recurrent_layers_run_without_cudnn() -> None:
    """cuDNN differentiates them in training mode only, and once."""
    before = torch.backends.cudnn.enabled
    with evaluating(nn.Sequential(nn.Linear(2, 2))):
        assert torch.backends.cudnn.enabled == before
    with evaluating(nn.Sequential(nn.GRU(2, 2))):
        assert not torch.backends.cudnn.enabled
    assert torch.backends.cudnn.enabled == before
