"""The state a model is evaluated in, and its restoration.

Inside `evaluating(model)` the model is in evaluation mode, gradients are enabled, attention runs through the
math backend and recurrent layers through torch's own code (the fused ones have no double backward), batch norm is
computed as the affine map that it is in evaluation mode (whose double backward is far cheaper than the kernel's),
`torch.compile` steps aside, wherever the compiled thing is, since its graphs have no double backward, and autocast is
off, also where accelerate has put it into a module's `forward`. After it, also after an error, every module is back in
its own mode and every global random generator where it was.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.batch_norm import affine_batch_norm
from thalweg.errors import InputError

NARROW = (torch.bfloat16, torch.float16)
"""Parameter dtypes that are too coarse for second derivatives."""


@contextmanager
def evaluating(model: nn.Module, folded: bool = False) -> Iterator[None]:
    """Evaluate `model` in here; see the module's words for what that means.

    Args:
        model: any module.
        folded: batch norms are put into the convolutions before them, for graphs that are gone through often.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with ExitStack() as stack:
        stack.enter_context(preserved_randomness(device))
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(affine_batch_norm(model, folded))
        stack.enter_context(_forwards_without_autocast(model))
        stack.enter_context(_attention_with_double_backward())
        stack.enter_context(_recurrence_with_double_backward(model))
        if "torch._dynamo" in sys.modules:  # whoever has compiled anything has imported it, which takes a second
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


@contextmanager
def _recurrence_with_double_backward(model: nn.Module) -> Iterator[None]:
    """Recurrent layers without cuDNN, which differentiates them in training mode only, and once."""
    cudnn = torch.backends.cudnn
    enabled, recurrent = cudnn.enabled, any(isinstance(module, nn.RNNBase) for module in model.modules())
    if recurrent:
        cudnn.enabled = False
    try:
        yield
    finally:
        if recurrent:
            cudnn.enabled = enabled


@contextmanager
def _forwards_without_autocast(model: nn.Module) -> Iterator[None]:
    """Modules whose `forward` accelerate has wrapped for mixed precision compute as they were written."""
    wrapped = [
        (module, vars(module)["forward"])
        for module in model.modules()
        if "_original_forward" in vars(module) and "forward" in vars(module)
    ]
    for module, _ in wrapped:
        vars(module)["forward"] = vars(module)["_original_forward"]
    try:
        yield
    finally:
        for module, forward in wrapped:
            vars(module)["forward"] = forward
