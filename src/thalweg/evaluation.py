"""The state a model is evaluated in, and its restoration.

Inside `evaluating(model)` the model is in evaluation mode, gradients are enabled, attention runs through the
math backend (the fused ones have no double backward), batch norm is computed as the affine map that it is in
evaluation mode (whose double backward is far cheaper than the kernel's), `torch.compile` steps aside and autocast is
off. After it, also after an error, every module is back in its own mode and every global random generator where it was.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from thalweg.errors import InputError

NARROW = (torch.bfloat16, torch.float16)
"""Parameter dtypes that are too coarse for second derivatives."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluate `model` in here; see the module's words for what that means."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with ExitStack() as stack:
        stack.enter_context(preserved_randomness(device))
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(affine_batch_norm(model))
        stack.enter_context(_attention_with_double_backward())
        if _is_compiled(model):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


def in_full_precision(model: nn.Module) -> tuple[nn.Module, str | None]:
    """The model itself, or its float32 copy and a word on that if it has 16-bit parameters.

    Second derivatives in 16 bits are mostly rounding.

    Raises:
        InputError: if such a model cannot be copied.
    """
    narrow = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.dtype in NARROW})
    if not narrow:
        return model, None
    try:
        return copy.deepcopy(model).float(), f"float32 copy of {' and '.join(narrow)} parameters"
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} has {narrow[0]} parameters and cannot be copied to float32 ({error}); "
            "call model.float() yourself"
        ) from error


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and back to its own mode after."""
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def affine_batch_norm(model: nn.Module) -> Iterator[None]:
    """Plain batch norms in evaluation mode compute `x * scale + shift` with their frozen statistics."""
    changed = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and type(module).forward is _BatchNorm.forward  # a subclass may compute something else
        and not module.training
        and module.running_mean is not None
        and "forward" not in vars(module)
    ]
    for module in changed:
        vars(module)["forward"] = functools.partial(_affine, module)
    try:
        yield
    finally:
        for module in changed:
            del vars(module)["forward"]


def _affine(module: _BatchNorm, inputs: Tensor) -> Tensor:
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
    shape = (1, -1) + (1,) * (inputs.ndim - 2)
    return inputs * scale.view(shape) + shift.view(shape)


@contextmanager
def preserved_randomness(device: torch.device) -> Iterator[None]:
    """Leave torch's, NumPy's and Python's global generators as they were found."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def _attention_with_double_backward() -> Iterator[None]:
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _is_compiled(model: nn.Module) -> bool:
    return any(
        getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
        for module in model.modules()
    )
