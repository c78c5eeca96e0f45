"""What checkpoints have in common: their tensors, which of these are parameters, and what is tied."""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.errors import InputError
from thalweg.recording.checkpoints import Checkpoint, read_state
from thalweg.space import Parameter, ParameterSpace, owner

STATISTICS = re.compile(r"(^|[._])(running_mean|running_var|num_batches_tracked|inv_freq|position_ids|ema\w*)$")
"""Names of tensors that no optimizer moves, as torch and transformers call them."""


@dataclass
class Survey:
    """What a first reading of all checkpoints found.

    Attributes:
        shapes: of every tensor, by name.
        dtypes: likewise, in the first checkpoint.
        digests: of each tensor's bytes, one for each checkpoint.
        not_finite: names of the tensors with NaN or infinity, by checkpoint.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    digests: dict[str, list[bytes]] = field(default_factory=dict)
    not_finite: dict[str, list[str]] = field(default_factory=dict)


def survey_checkpoints(checkpoints: Sequence[Checkpoint]) -> Survey:
    """Read every checkpoint once: names and shapes have to agree.

    Raises:
        InputError: if they do not, or one cannot be read; NaN and infinities are noted and warned of.
    """
    survey = Survey()
    for checkpoint in checkpoints:
        state = read_state(checkpoint)
        if not survey.shapes:
            survey.shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
            survey.dtypes = {name: tensor.dtype for name, tensor in state.items()}
            survey.digests = {name: [] for name in state}
        _check_same(survey, state, checkpoint, checkpoints[0])
        for name, tensor in state.items():
            survey.digests[name].append(_digest(tensor))
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor.to(_wide(tensor.dtype))).all()):
                survey.not_finite.setdefault(checkpoint.name, []).append(name)
    if survey.not_finite:
        name, tensors = next(iter(survey.not_finite.items()))
        warnings.warn(
            f"{len(survey.not_finite)} checkpoints hold NaN or infinity, the first is {name} in {tensors[0]!r}; they "
            "are kept as they are",
            RuntimeWarning,
            stacklevel=3,
        )
    return survey


def _wide(kind: torch.dtype) -> torch.dtype:
    return torch.float32 if kind.itemsize == 1 else kind  # 8-bit numbers can do little else than be converted


def _check_same(survey: Survey, state: Mapping[str, Tensor], checkpoint: Checkpoint, first: Checkpoint) -> None:
    for name, shape in survey.shapes.items():
        if name not in state:
            raise InputError(
                f"{checkpoint.name!r} lacks {name!r}, which {first.name!r} has; keep one model's checkpoints"
            )
        if tuple(state[name].shape) != shape:
            raise InputError(
                f"{checkpoint.name!r} has {name!r} of shape {tuple(state[name].shape)}, and {first.name!r} of {shape}; "
                "keep one model's checkpoints"
            )
    for name in state:
        if name not in survey.shapes:
            raise InputError(
                f"{checkpoint.name!r} has {name!r}, which {first.name!r} lacks; keep one model's checkpoints"
            )


def _digest(tensor: Tensor) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    if not len(flat):
        return b""
    return hashlib.blake2b(flat.view(torch.uint8).numpy().data, digest_size=16).digest()


def space_of_names(survey: Survey) -> ParameterSpace:
    """The parameters as far as names and values tell.

    Raises:
        InputError: if no tensor can be one.
    """
    names = [name for name, kind in survey.dtypes.items() if kind.is_floating_point and not STATISTICS.search(name)]
    first: dict[tuple[Any, ...], str] = {}
    kept: list[str] = []
    tied: list[tuple[str, str]] = []
    for name in names:
        digests = survey.digests[name]
        values = (survey.shapes[name], survey.dtypes[name], tuple(digests))
        if len(set(digests)) > 1 and values in first:
            tied.append((name, first[values]))
        else:
            first[values] = name
            kept.append(name)
    if not kept or not sum(math.prod(survey.shapes[name]) for name in kept):
        raise InputError("no tensor of these checkpoints can be a parameter; give the network with --model TASK")
    return ParameterSpace(_parameters({name: survey.shapes[name] for name in kept}), (), tuple(tied))


def space_of_model(survey: Survey, model: nn.Module) -> ParameterSpace:
    """The model's own space, if the checkpoints have its parameters.

    Raises:
        InputError: if they lack one, or have it in another shape.
    """
    space = ParameterSpace.of(model)
    for parameter in space.parameters:
        name = name_in(survey.shapes, parameter.name, space)
        if name is None:
            raise InputError(f"the checkpoints lack the parameter {parameter.name!r} of the model; give their model")
        if survey.shapes[name] != parameter.shape:
            raise InputError(
                f"the checkpoints have {name!r} of shape {survey.shapes[name]}, the model has {parameter.shape}; build "
                "the model as it was"
            )
        if not survey.dtypes[name].is_floating_point:
            raise InputError(f"the checkpoints have {name!r} as {survey.dtypes[name]}, which is no trained parameter")
    return space


def name_in(names: Mapping[str, Any], name: str, space: ParameterSpace) -> str | None:
    """Under which of its names a parameter is there: of tied tensors, safetensors keep one."""
    for candidate in (name, *(other for other, of in space.tied if of == name)):
        if candidate in names:
            return candidate
    return None


def _parameters(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Parameter, ...]:
    """Parameters one after the other, those of a layer together."""
    layers: dict[str, list[str]] = {}
    for name in shapes:
        layers.setdefault(owner(name), []).append(name)
    made: list[Parameter] = []
    offset = 0
    for layer, names in layers.items():
        for name in names:
            made.append(Parameter(name, shapes[name], offset, layer))
            offset += made[-1].size
    return tuple(made)
