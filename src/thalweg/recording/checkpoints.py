"""Checkpoints in a folder: which there are, in which order, and what each holds, read without executing anything."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from thalweg.errors import InputError, nearest
from thalweg.space import plain_name

ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
INSIDE = ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "adapter_model.bin")
"""Names of the weights in a checkpoint that is a folder, as HuggingFace's Trainer writes it."""
NESTED = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the model's `state_dict` beside other things."""
_NUMBER = re.compile(r"\d+")
_GLOBAL = re.compile(r"GLOBAL ([\w.]{1,200})")
_LARGEST = 2**62


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint.

    Attributes:
        name: of the file, or of the folder it lies in, as it is shown.
        path: the file with the weights.
        step: the optimizer step after which the weights stood.
    """

    name: str
    path: Path
    step: int


def find_checkpoints(folder: Path, order: Sequence[str] | None = None) -> list[Checkpoint]:
    """The checkpoints of a folder by the last number in each name, or in the order given.

    With an order, the steps are the numbers in the names where they grow, and else 0, 1, 2, ... Links are followed, as
    model caches consist of them; names lead nowhere else than directly into the folder.

    Raises:
        InputError: if the folder is none, has fewer than two checkpoints, their names have no or equal numbers, or the
            order names what is not directly in the folder.
    """
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is no folder; give the folder that holds the checkpoints")
    found = {path.name: file for path in sorted(folder.iterdir()) if (file := _weights_file(path)) is not None}
    if order is not None:
        return _in_order(folder, found, order)
    if len(found) < 2:
        raise InputError(
            f"{str(folder)!r} holds {len(found)} checkpoints ({', '.join(ENDINGS)}), and a trajectory needs two or more"
        )
    steps = {name: step_in(name) for name in found}
    unnumbered = [name for name, step in steps.items() if step is None]
    if unnumbered:
        raise InputError(f"the name {unnumbered[0]!r} holds no number; give the order: --order first.pt,second.pt")
    made = sorted((Checkpoint(name, found[name], step or 0) for name, step in steps.items()), key=lambda c: c.step)
    for one, other in itertools.pairwise(made):
        if one.step == other.step:
            raise InputError(
                f"{one.name!r} and {other.name!r} have the same number {one.step}; remove one, or give the order: "
                "--order first.pt,second.pt"
            )
    return made


def step_in(name: str) -> int | None:
    """The last whole number in a name without its ending: 400 in `epoch=3-step=400.ckpt`."""
    stem = name
    for ending in ENDINGS:
        stem = stem.removesuffix(ending)
    numbers = [int(digits) for digits in _NUMBER.findall(stem)]
    return numbers[-1] if numbers and numbers[-1] < _LARGEST else None


def _weights_file(path: Path) -> Path | None:
    if path.name.startswith("."):
        return None
    if path.is_dir():
        return next((path / name for name in INSIDE if (path / name).is_file()), None)
    return path if path.is_file() and path.suffix in ENDINGS else None


def _in_order(folder: Path, found: Mapping[str, Path], order: Sequence[str]) -> list[Checkpoint]:
    names = [name.strip() for name in order if name.strip()]
    for name in names:
        if name not in found:  # names with a path in them are none of these
            raise InputError(f"--order names {name!r}, which {str(folder)!r} does not hold: {nearest(name, found)}")
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise InputError(f"--order names {repeated[0]!r} twice; name each checkpoint once")
    if len(names) < 2:
        raise InputError(f"--order names {len(names)} checkpoints, and a trajectory needs two or more")
    steps = [step_in(name) for name in names]
    numbers = [step for step in steps if step is not None]
    grow = len(numbers) == len(names) and all(a < b for a, b in itertools.pairwise(numbers))
    return [
        Checkpoint(name, found[name], step)
        for name, step in zip(names, numbers if grow else range(len(names)), strict=True)
    ]


def read_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The `state_dict` of a checkpoint, on the CPU, with plain names.

    A `state_dict` under one of the keys `NESTED` is found too. Names lose the prefixes of `torch.compile`, and of
    data parallelism where all have it.

    Raises:
        InputError: if the file cannot be read without pickle, or holds no `state_dict` of plain dense numbers.
    """
    held = _read_safetensors(checkpoint) if checkpoint.path.suffix == ".safetensors" else _read_torch(checkpoint)
    for key in NESTED:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
            break
    if not isinstance(held, Mapping) or not held:
        raise InputError(f"{checkpoint.name!r} holds {type(held).__name__}, expected a state_dict: name to tensor")
    wrong = [name for name, value in held.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if wrong:
        raise InputError(
            f"{checkpoint.name!r} has {wrong[0]!r}, which is no tensor; save model.state_dict() alone, or under the "
            "key 'state_dict'"
        )
    names = [plain_name(name) for name in held]
    prefix = "module." if all(name.startswith("module.") for name in names) else ""
    state = {name.removeprefix(prefix): tensor.detach() for name, tensor in zip(names, held.values(), strict=True)}
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized or tensor.is_meta:
            raise InputError(f"{checkpoint.name!r} has {name!r} as no plain dense numbers; save it dense and real")
    return state


def _read_safetensors(checkpoint: Checkpoint) -> Any:
    try:
        held = load_file(str(checkpoint.path))
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{checkpoint.name!r} is no whole safetensors file ({error}); save it again") from error
    return {name: held[name] for name in sorted(held, key=_as_people_count)}


def _as_people_count(name: str) -> list[tuple[str, int]]:
    """Sorts `layers.2` before `layers.10`: safetensors files do not keep the model's order."""
    return [(text, int(digits or -1)) for text, digits in re.findall(r"(\D*)(\d{0,18})", name)]


def _read_torch(checkpoint: Checkpoint) -> Any:
    """What `torch.save` wrote, as far as tensors and plain containers go; torch 2.6 and later hold that line."""
    try:
        return torch.load(checkpoint.path, map_location="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, (OSError, EOFError)):
            raise InputError(f"{checkpoint.name!r} is no whole file of torch.save ({error}); save it again") from error
        wanted = _GLOBAL.search(str(error))
        raise InputError(
            f"{checkpoint.name!r} holds more than plain tensors{f' ({wanted[1]})' if wanted else ''}; that would need "
            "pickle, which can run any code, and is not read. Where it was made, save the weights alone: "
            "safetensors.torch.save_file(model.state_dict(), 'step-100.safetensors')"
        ) from error
