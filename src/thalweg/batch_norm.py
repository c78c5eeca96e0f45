"""Batch norm in evaluation mode is an affine map, and is worked with as one.

Torch's own batch norm has a second derivative several times as dear as its first. With frozen statistics it is
`x * scale + shift`; behind a convolution the scale is a factor of the kernel's channels and the shift a bias, so that
no picture-sized product is left at all.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class _Made:
    """Which convolution made which output, as long as the output lives."""

    outputs: dict[int, tuple[weakref.ref[Tensor], int, nn.Module, Tensor]] = field(default_factory=dict)

    def note(self, output: Tensor, convolution: nn.Module, inputs: Tensor) -> None:
        key, outputs = id(output), self.outputs
        reference = weakref.ref(output, lambda _: outputs.pop(key, None))
        outputs[key] = reference, output._version, convolution, inputs

    def by(self, output: Tensor) -> tuple[nn.Module, Tensor] | None:
        """The convolution and its input, if nobody changed the output since."""
        reference, version, convolution, inputs = self.outputs.get(id(output), (None, 0, None, None))
        if reference is None or reference() is not output or output._version != version:
            return None
        assert convolution is not None
        assert inputs is not None
        return convolution, inputs


@contextmanager
def affine_batch_norm(model: nn.Module, folded: bool = False) -> Iterator[None]:
    """Plain batch norms in evaluation mode compute `x * scale + shift` with their frozen statistics.

    Args:
        model: with its batch norms.
        folded: put scale and shift into the convolution that made a batch norm's input. It is run once more for that,
            so this pays where a graph is built once and gone through often; whoever else uses the convolution's output
            finds it as it was.
    """
    made = _Made()
    changed: list[nn.Module] = []
    for module in model.modules():
        if "forward" in vars(module):
            continue
        if isinstance(module, _BatchNorm) and _frozen(module):
            vars(module)["forward"] = functools.partial(_affine, module, made)
            changed.append(module)
        elif folded and any(type(module).forward is kind.forward for kind in _CONVOLUTIONS if isinstance(module, kind)):
            vars(module)["forward"] = functools.partial(_noted, module, made)
            changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del vars(module)["forward"]


def _frozen(module: _BatchNorm) -> bool:
    plain = type(module).forward is _BatchNorm.forward  # a subclass may compute something else
    return plain and not module.training and module.running_mean is not None


def _noted(module: nn.Module, made: _Made, inputs: Tensor) -> Tensor:
    output: Tensor = type(module).forward(module, inputs)
    made.note(output, module, inputs)
    return output


def _affine(module: _BatchNorm, made: _Made, inputs: Tensor) -> Tensor:
    """Batch norm with frozen statistics (Ioffe and Szegedy 2015, algorithm 2, step 11)."""
    module._check_input_dim(inputs)  # type: ignore[no-untyped-call]
    assert module.running_mean is not None
    assert module.running_var is not None
    scale = torch.rsqrt(module.running_var + module.eps)
    if module.weight is not None:
        scale = scale * module.weight
    shift = -module.running_mean * scale
    if module.bias is not None:
        shift = shift + module.bias
    source = made.by(inputs)
    if source is not None:
        return _folded(*source, scale, shift)
    shape = (1, -1) + (1,) * (inputs.ndim - 2)
    return inputs * scale.view(shape) + shift.view(shape)


def _folded(convolution: nn.Module, inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`scale * convolution(inputs) + shift`, by one convolution with another kernel and bias."""
    assert isinstance(convolution, _CONVOLUTIONS)
    weight, bias = convolution.weight, convolution.bias
    if bias is not None:
        shift = shift + bias * scale
    output: Tensor = convolution._conv_forward(inputs, weight * scale.view(-1, *(1,) * (weight.ndim - 1)), shift)
    return output
