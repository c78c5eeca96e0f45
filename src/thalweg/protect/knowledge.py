"""What is remembered of a task: shields, the space that they belong to, and how to tell the weights they hold for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.described import load_described, save_described
from thalweg.errors import InputError, RunError
from thalweg.memory import in_bytes
from thalweg.protect.shields import DiagonalShield, DirectionShield, KroneckerShield, Shield
from thalweg.space import Parameter, ParameterSpace
from thalweg.tables import Table, Tabular

FORMAT = "thalweg-knowledge-1"
MEND = "make it with tw.remember, or give directions as tw.Directions.load(path)"
SAME = 1e-3
"""How far a parameter's figures may be from the remembered ones, relative to its length."""

SUMS = 4
"""Sums under random signs that tell weights apart."""


@dataclass(frozen=True, eq=False)
class Knowledge(Tabular):
    """What must be kept of one task or of several; no data is in it.

    Attributes:
        space: the parameters that are protected.
        shields: what is known about them.
        prints: of each parameter a few figures, to tell the weights that the shields hold for.
        about: plain JSON values: how it was measured, and on how many tasks.
    """

    space: ParameterSpace
    shields: tuple[Shield, ...]
    prints: Mapping[str, tuple[float, ...]]
    about: Mapping[str, Any]

    def __repr__(self) -> str:
        tasks = self.about.get("tasks", 1)
        return f"Knowledge({self.about.get('method')}, {tasks} task(s), {in_bytes(self.nbytes)}, P={self.space.size:,})"

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory and, but for a short header, on disk."""
        return sum(shield.nbytes for shield in self.shields)

    def to_table(self) -> Table:
        """A row for each shield: its parameters, its kind, how many directions are hard, its bytes."""
        rows = []
        for shield in self.shields:
            sizes = {p.name: p.size for p in self.space.parameters}
            row: dict[str, Any] = {"parameters": ", ".join(shield.names), "kind": shield.kind}
            row["numbers"] = sum(sizes[name] for name in shield.names)
            hard = shield.hard_count if isinstance(shield, KroneckerShield) else None
            row["inputs"] = shield.inputs.shape[0] if isinstance(shield, KroneckerShield) else None
            rows.append({**row, "hard": hard, "bytes": shield.nbytes})
        return Table.of(rows)

    def check_weights(self, named: Mapping[str, Tensor], shapes_only: bool = False) -> None:
        """Raise an InputError unless these are the weights that it was measured at.

        Args:
            named: the weights by name; more than the protected ones may be there.
            shapes_only: take other weights of the same shapes.
        """
        for parameter in self.space.parameters:
            there = named.get(parameter.name)
            if there is None or tuple(there.shape) != parameter.shape:
                what = "has no" if there is None else f"has {tuple(there.shape)} for the"
                raise InputError(
                    f"the model {what} parameter {parameter.name!r} {parameter.shape} that is remembered; this is "
                    "knowledge of another model. Build the model as it was"
                )
            if shapes_only:
                continue
            found, kept = fingerprint(there), self.prints[parameter.name]
            if max(abs(a - b) for a, b in zip(found, kept, strict=True)) > SAME * max(kept[0], SAME):
                raise InputError(
                    f"the weights of {parameter.name!r} are not those that were remembered (length {found[0]:.6g}, "
                    f"then {kept[0]:.6g}); load the old weights first, or remember anew. To protect around the present "
                    "weights all the same: guard(..., moved=True)"
                )

    def save(self, path: str | Path) -> None:
        """Write it as a safetensors file, what is no tensor as JSON in its header."""
        tensors: dict[str, Tensor] = {}
        described = []
        for number, shield in enumerate(self.shields):
            for name, tensor in shield.tensors().items():
                tensors[f"{number}.{name}"] = tensor
            described.append({"kind": shield.kind, **shield.about()})
        about = {
            "space": self.space.to_json(),
            "shields": described,
            "prints": {name: list(values) for name, values in self.prints.items()},
            "about": dict(self.about),
        }
        save_described(path, FORMAT, tensors, about)

    @classmethod
    def load(cls, path: str | Path) -> Knowledge:
        """Read what `save` wrote.

        Raises:
            RunError: if the file is no such file or is damaged.
        """
        tensors, about = load_described(path, FORMAT, "knowledge", MEND)
        try:
            shields = tuple(_read(number, item, tensors) for number, item in enumerate(about["shields"]))
            prints = {name: tuple(float(v) for v in values) for name, values in about["prints"].items()}
            return cls(ParameterSpace.from_json(about["space"]), shields, prints, about["about"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} holds no knowledge that can be read ({error}); {MEND}") from error

    def merged(self, later: Knowledge) -> Knowledge:
        """Both together, in the space of one, around the later one's weights.

        Raises:
            InputError: if they are of different parameters or of different kinds.
        """
        self.space.require_same(later.space, "the later knowledge")
        if [s.names for s in self.shields] != [s.names for s in later.shields] or any(
            type(a) is not type(b) for a, b in zip(self.shields, later.shields, strict=True)
        ):
            raise InputError("knowledge of different kinds cannot be merged; remember both tasks with the same method")
        shields = tuple(a.merged(b) for a, b in zip(self.shields, later.shields, strict=True))  # type: ignore[attr-defined]
        tasks = self.about.get("tasks", 1) + later.about.get("tasks", 1)
        return Knowledge(later.space, shields, later.prints, {**later.about, "tasks": tasks})


def fingerprint(tensor: Tensor) -> tuple[float, ...]:
    """Length, and sums under random signs: a displacement by a share s of the length moves each by about as much."""
    wide = tensor.detach().cpu().double().reshape(-1)
    draw = torch.Generator().manual_seed(wide.numel())
    sums = []
    for _ in range(SUMS):
        signs = torch.randint(0, 2, wide.shape, generator=draw, dtype=torch.int8)
        sums.append(float(wide[signs.bool()].sum() - wide[~signs.bool()].sum()))
    return float(wide.norm()), *sums


def prints_of(names: Sequence[str], tensors: Sequence[Tensor]) -> dict[str, tuple[float, ...]]:
    """Of every parameter."""
    return {name: fingerprint(tensor) for name, tensor in zip(names, tensors, strict=True)}


def _read(number: int, item: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Shield:
    own = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{number}.")}
    if item["kind"] == "kronecker":
        about: dict[str, Any] = {name: value for name, value in item.items() if name != "kind"} | own
        return KroneckerShield(**about)
    if item["kind"] == "diagonal":
        return DiagonalShield(str(item["name"]), own["curvature"])
    if item["kind"] != "directions":
        raise ValueError(f"a shield of the kind {item['kind']!r} is not known")
    parameters, offset = [], 0
    for entry in item["parameters"]:
        parameters.append(Parameter(str(entry["name"]), tuple(int(n) for n in entry["shape"]), offset, ""))
        offset += parameters[-1].size
    return DirectionShield(tuple(parameters), own["vectors"], own["values"], own["diagonal"])
