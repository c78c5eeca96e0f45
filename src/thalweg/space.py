"""The parameter space: which numbers a network trains, in which order, and which layer holds them.

A flat vector of shape `(P,)` lists every trainable parameter once, in the order of `model.named_parameters()`.
The *layer* of a parameter is the module that owns it. The *depth* of a layer is the order in which a forward
pass first runs it, or its parent's where it never runs itself (the `out_proj` of `nn.MultiheadAttention`).
Buffers are no parameters; frozen parameters are listed and left out; tied parameters count once.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.errors import InputError, nearest

ROOT = "(model)"
"""The layer name of parameters that the outermost module owns itself."""

LayerChoice = str | Sequence[str] | Callable[[str], bool]
"""Which layers: a glob, several of them, or a function of the layer's name."""


@dataclass(frozen=True)
class Parameter:
    """One trainable tensor: entries `offset` to `offset + size` of a flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int
    layer: str

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def span(self) -> slice:
        """Where the entries stand in a flat vector."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True)
class Layer:
    """A module with parameters of its own: entries `start` to `stop` of a flat vector."""

    name: str
    depth: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.stop - self.start

    @property
    def span(self) -> slice:
        """Where the entries stand in a flat vector."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class ParameterSpace:
    """The trainable parameters of a model, in order.

    Attributes:
        parameters: the trainable tensors, tied ones once.
        frozen: names of parameters that do not require gradients; they are in no vector.
        tied: `(other name, name)` for every further name of a tensor that already has one.
        depths: depth of each layer by name.
        depth_measured: whether a forward pass gave the depths; otherwise they follow registration.
    """

    parameters: tuple[Parameter, ...]
    frozen: tuple[str, ...] = ()
    tied: tuple[tuple[str, str], ...] = ()
    depths: Mapping[str, int] | None = None
    depth_measured: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> ParameterSpace:
        """Read the space off a model, with depths in order of registration.

        Raises:
            InputError: if no parameter requires a gradient, or one is not initialised yet.
        """
        parameters: list[Parameter] = []
        frozen: list[str] = []
        names: dict[int, str] = {}
        tied: list[tuple[str, str]] = []
        offset = 0
        for raw_name, tensor in model.named_parameters(remove_duplicate=False):
            name = plain_name(raw_name)
            if id(tensor) in names:
                tied.append((name, names[id(tensor)]))
                continue
            names[id(tensor)] = name
            if isinstance(tensor, nn.parameter.UninitializedParameter):
                raise InputError(f"parameter {name!r} has no shape yet; run the model once before using it here")
            if not tensor.requires_grad:
                frozen.append(name)
                continue
            entry = Parameter(name, tuple(tensor.shape), offset, owner(name))
            parameters.append(entry)
            offset += entry.size
        if offset == 0:
            raise InputError(
                f"{type(model).__name__} has no trainable parameter ({len(frozen)} frozen); "
                "call requires_grad_(True) on those that matter"
            )
        return cls(tuple(parameters), tuple(frozen), tuple(tied))

    @staticmethod
    def sharded(model: nn.Module) -> bool:
        """Whether a parameter is split over ranks (a DTensor, as of `fully_shard`)."""
        return any(hasattr(parameter, "placements") for parameter in model.parameters())

    # -- what there is -------------------------------------------------------------------------------------

    @cached_property
    def size(self) -> int:
        """P, the number of trainable numbers."""
        return sum(parameter.size for parameter in self.parameters)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Parameter names in the order of the flat vector."""
        return tuple(parameter.name for parameter in self.parameters)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in the order of the flat vector (sort by `.depth` for the order of execution)."""
        order: dict[str, list[Parameter]] = {}
        for parameter in self.parameters:
            order.setdefault(parameter.layer, []).append(parameter)
        depths = self.depths or {name: position for position, name in enumerate(order)}
        return tuple(Layer(name, depths[name], owned[0].offset, owned[-1].span.stop) for name, owned in order.items())

    def layer(self, name: str) -> Layer:
        """The layer of that name.

        Raises:
            InputError: if there is none; the nearest names are listed.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = [layer.name for layer in self.layers]
        raise InputError(f"no layer is called {name!r}; the nearest are {nearest(name, known)}")

    def chosen(self, layers: LayerChoice | None) -> tuple[Layer, ...]:
        """The layers that a choice means, in order. A glob also takes everything below a module it matches.

        Raises:
            InputError: if a glob matches nothing; the nearest names are listed.
        """
        if layers is None:
            return self.layers
        if callable(layers):
            found = tuple(layer for layer in self.layers if layers(layer.name))
            if not found:
                raise InputError("the layers= function is true for no layer of this model")
            return found
        wanted: set[str] = set()
        known = [layer.name for layer in self.layers]
        for pattern in [layers] if isinstance(layers, str) else layers:
            hits = [name for name in known if _matches(name, pattern)]
            if not hits:
                raise InputError(f"layers={pattern!r} matches no layer; the nearest are {nearest(pattern, known)}")
            wanted.update(hits)
        return tuple(layer for layer in self.layers if layer.name in wanted)

    def select(self, layers: LayerChoice | None) -> ParameterSpace:
        """The space of some layers only: the same names with offsets of their own."""
        if layers is None:
            return self
        chosen = {layer.name for layer in self.chosen(layers)}
        parameters: list[Parameter] = []
        offset = 0
        for parameter in self.parameters:
            if parameter.layer in chosen:
                parameters.append(replace(parameter, offset=offset))
                offset += parameter.size
        depths = {layer.name: layer.depth for layer in self.layers if layer.name in chosen}
        return replace(self, parameters=tuple(parameters), depths=depths)

    def positions(self, part: ParameterSpace) -> Tensor:
        """Where the entries of `part` (a selection of this space) stand here: int64 `(part.size,)`.

        Raises:
            InputError: if `part` has a parameter that is not in this space.
        """
        home = {parameter.name: parameter for parameter in self.parameters}
        missing = [name for name in part.names if name not in home]
        if missing:
            raise InputError(f"{missing[0]!r} is no parameter of this space; it is no part of it")
        return torch.cat([torch.arange(home[n].offset, home[n].offset + home[n].size) for n in part.names])

    def with_depths(self, depths: Mapping[str, int]) -> ParameterSpace:
        """The same space with measured depths."""
        return replace(self, depths=dict(depths), depth_measured=True)

    # -- vectors -------------------------------------------------------------------------------------------

    def flatten(self, named: Mapping[str, Tensor]) -> Tensor:
        """Named tensors to one flat vector `(P,)`, in their common dtype, detached.

        Raises:
            InputError: if a parameter is missing or has another shape.
        """
        pieces = []
        for parameter in self.parameters:
            if parameter.name not in named:
                raise InputError(f"parameter {parameter.name!r} is missing; give every trainable parameter once")
            tensor = named[parameter.name]
            if tuple(tensor.shape) != parameter.shape:
                raise InputError(
                    f"parameter {parameter.name!r} has shape {tuple(tensor.shape)}, expected {parameter.shape}"
                )
            pieces.append(tensor.detach().reshape(-1))
        dtype = pieces[0].dtype
        for piece in pieces:
            dtype = torch.promote_types(dtype, piece.dtype)
        return torch.cat([piece.to(dtype) for piece in pieces])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """A flat vector `(P,)` to named tensors, which are views of it."""
        self.check(vector)
        return {p.name: vector[p.span].view(p.shape) for p in self.parameters}

    def tensors(self, model: nn.Module) -> list[Tensor]:
        """The model's own trainable tensors in the order of this space.

        Raises:
            InputError: if the model's parameters are not the ones of this space.
        """
        found = {plain_name(name): tensor for name, tensor in model.named_parameters(remove_duplicate=False)}
        tensors: list[Tensor] = []
        for parameter in self.parameters:
            tensor = found.get(parameter.name)
            if tensor is None or tuple(tensor.shape) != parameter.shape:
                self.require_same(ParameterSpace.of(model), "the model")
            assert tensor is not None
            tensors.append(tensor)
        return tensors

    def vector(self, model: nn.Module) -> Tensor:
        """The model's weights as a flat vector `(P,)`, copied."""
        return self.flatten(dict(zip(self.names, self.tensors(model), strict=True)))

    def check(self, vector: Tensor) -> None:
        """Raise an InputError unless `vector` has shape `(P,)`."""
        if tuple(vector.shape) != (self.size,):
            raise InputError(f"the vector has shape {tuple(vector.shape)}, expected ({self.size},)")

    def require_same(self, other: ParameterSpace, what: str) -> None:
        """Raise an InputError naming the first difference unless `other` has the same names and shapes."""
        mine = {p.name: p.shape for p in self.parameters}
        theirs = {p.name: p.shape for p in other.parameters}
        for name in theirs:
            if name not in mine:
                raise InputError(
                    f"{what} has the parameter {name!r} {theirs[name]}, which is not expected here; "
                    "build the model as it was, with the same parameters trainable"
                )
        for name in mine:
            if name not in theirs:
                raise InputError(
                    f"{what} lacks the parameter {name!r} {mine[name]}; "
                    "build the model as it was, with the same parameters trainable"
                )
            if mine[name] != theirs[name]:
                raise InputError(f"{what} has {name!r} of shape {theirs[name]}, expected {mine[name]}")
        if self.names != other.names:
            raise InputError(f"{what} lists the same parameters in another order; build the model as it was")

    # -- files ---------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs, as plain JSON values."""
        return {
            "parameters": [{"name": p.name, "shape": list(p.shape), "layer": p.layer} for p in self.parameters],
            "frozen": list(self.frozen),
            "tied": [list(pair) for pair in self.tied],
            "depths": dict(self.depths) if self.depths else None,
            "depth_measured": self.depth_measured,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ParameterSpace:
        """The space that `to_json` described."""
        parameters: list[Parameter] = []
        offset = 0
        for item in data["parameters"]:
            entry = Parameter(str(item["name"]), tuple(int(n) for n in item["shape"]), offset, str(item["layer"]))
            parameters.append(entry)
            offset += entry.size
        tied = tuple((str(a), str(b)) for a, b in data.get("tied", ()))
        depths = {str(k): int(v) for k, v in data["depths"].items()} if data.get("depths") else None
        frozen = tuple(str(name) for name in data.get("frozen", ()))
        return cls(tuple(parameters), frozen, tied, depths, bool(data.get("depth_measured", False)))


def plain_name(name: str) -> str:
    """A parameter's name without the prefixes that `torch.compile` puts in."""
    return name.replace("_orig_mod.", "")


def owner(name: str) -> str:
    """The name of the module that owns a parameter."""
    return name.rpartition(".")[0] or ROOT


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside the wrappers of `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    while True:
        parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = model.module if parallel else getattr(model, "_orig_mod", model)
        if inner is model or not isinstance(inner, nn.Module):
            return model
        model = inner


def measure_depths(model: nn.Module, space: ParameterSpace, forward: Callable[[], object]) -> ParameterSpace:
    """Run `forward()` once and return the space with depth = order of first execution, from 0.

    A layer that never runs itself takes the depth of the nearest module above it that does.
    """
    order: dict[str, int] = {}

    def remember(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, arguments: Any) -> None:
            order.setdefault(name, len(order))

        return hook

    handles = [
        module.register_forward_pre_hook(remember(plain_name(name + ".").rstrip(".") or ROOT))
        for name, module in model.named_modules()
    ]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    first = {layer.name: _first_run(layer.name, order) for layer in space.layers}
    ranks = {position: rank for rank, position in enumerate(sorted(set(first.values())))}
    return space.with_depths({name: ranks[position] for name, position in first.items()})


def _first_run(name: str, order: Mapping[str, int]) -> int:
    while name not in order:
        if name == ROOT:
            return -1
        name = owner(name)
    return order[name]


def _matches(name: str, pattern: str) -> bool:
    parts = name.split(".")
    ancestors: Iterable[str] = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return any(fnmatch.fnmatchcase(candidate, pattern) for candidate in ancestors)
