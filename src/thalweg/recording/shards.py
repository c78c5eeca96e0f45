"""Runs of models that are split over ranks: which rows each rank records, and where its part is kept."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as distributed
from torch import Tensor

from thalweg.collectives import ranks
from thalweg.sharded import row_layout
from thalweg.space import Parameter, ParameterSpace

PARTS = "part-{}-of-{}"


@dataclass(frozen=True, eq=False)
class Shard:
    """What one rank records.

    Attributes:
        rank: whose.
        ranks: how many there are.
        whole: the space of the whole model.
        space: the parameters of which this rank has rows, with the shapes that it has.
        parameters: the model's own, which are split.
        spans: which entries of a whole vector this rank has, start and stop, in order.
        job: the recording that the part belongs to, the same on all ranks.
    """

    rank: int
    ranks: int
    whole: ParameterSpace
    space: ParameterSpace
    parameters: list[Tensor]
    spans: list[tuple[int, int]]
    job: str

    def folder(self, run: str | Path) -> Path:
        """Where this rank's part is kept."""
        return Path(run) / PARTS.format(self.rank, self.ranks)

    def to_json(self) -> dict[str, Any]:
        """What a part's manifest says of it."""
        spans = [list(span) for span in self.spans]
        own = {"rank": self.rank, "ranks": self.ranks, "spans": spans, "job": self.job}
        return {**own, "space": self.whole.to_json()}


def held(parameters: Sequence[Any]) -> list[Tensor]:
    """The tensors that this rank holds of parameters, which may be split."""
    return [p.detach().to_local() if hasattr(p, "to_local") else p for p in parameters]


def shard_of(space: ParameterSpace, parameters: Sequence[Tensor]) -> Shard:
    """This rank's rows of a model after `fully_shard`; every rank makes the call.

    Raises:
        InputError: if a parameter is split otherwise.
    """
    rank, count = distributed.get_rank(), distributed.get_world_size()
    layout = row_layout(space, list(parameters), count)
    kept, own, spans, offset = [], [], [], 0
    for entry, parameter, local, span in zip(
        space.parameters, parameters, held(parameters), layout.every[rank], strict=True
    ):
        if local.numel():
            kept.append(Parameter(entry.name, tuple(local.shape), offset, entry.layer))
            own.append(parameter)
            spans.append((span.start, span.stop))
            offset += local.numel()
    job = ranks().gathered(uuid.uuid4().hex)[0]
    return Shard(rank, count, space, ParameterSpace(tuple(kept), space.frozen), own, spans, job)


def part_folders(run: str | Path) -> list[Path]:
    """The parts of a run that ranks have recorded, if there are any."""
    return sorted(path for path in Path(run).glob(PARTS.format("*", "*")) if path.is_dir())
