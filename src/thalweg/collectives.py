"""Sums over ranks, and vectors split over them, through `torch.distributed`; the identity on one process.

A script that is started by `torchrun` runs once on each rank, and every rank makes the same calls in the same order.
What is decided is decided from numbers that were summed over the ranks, which are the same to the bit on all of them,
so that no rank goes another way and waits for the others for ever.
"""

from __future__ import annotations

import atexit
import datetime
import itertools
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from thalweg.errors import InputError, RankError
from thalweg.sums import dot, length

TIMEOUT = 1800.0
"""Seconds after which a rank that waits for another gives up, unless THALWEG_RANKS_TIMEOUT says otherwise; torchrun
ends all as soon as one has failed. Where ranks work for long without a word to each other, nobody gives up."""


class Ranks:
    """The processes that work together, and what they have sent each other.

    Attributes:
        size: how many they are.
        rank: which of them this is, from 0.
        calls: how often each operation was used.
        bytes: of tensors given to each operation by this rank; an all-reduce of P float32 numbers is 4 P.
        limit: seconds that a rank waits for another, as far as that was decided here.
    """

    def __init__(self, size: int = 1, rank: int = 0, limit: float | None = None) -> None:
        self.size, self.rank, self.limit = size, rank, limit
        self._patient: Any = None
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"Ranks({self.rank} of {self.size})"

    @property
    def alone(self) -> bool:
        """Whether there is nobody to talk to."""
        return self.size == 1

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks of tensors of one shape; a new tensor where there are several ranks."""
        if self.alone:
            return tensor
        out = tensor.detach().clone(memory_format=torch.contiguous_format)
        self._count("all_reduce", out)
        with self._with_others():
            distributed.all_reduce(out)
        return out

    def add_up(self, values: Sequence[float]) -> list[float]:
        """The sums over ranks of some numbers, in float64."""
        if self.alone:
            return list(values)
        found: list[float] = self.sum(torch.tensor(list(values), dtype=torch.float64, device=_device())).tolist()
        return found

    def dot(self, one: Tensor, two: Tensor) -> float:
        """The inner product of two vectors of which each rank has its entries."""
        return self.add_up([dot(one, two)])[0] if not self.alone else dot(one, two)

    def length(self, part: Tensor) -> float:
        """The Euclidean length of a vector of which each rank has its entries."""
        return math.sqrt(self.add_up([length(part) ** 2])[0]) if not self.alone else length(part)

    def scattered(self, tensor: Tensor) -> Tensor:
        """This rank's entries of the sum over ranks of vectors `(P,)`, as `Layout.dealt` deals them out."""
        if self.alone:
            return tensor
        width = -(-len(tensor) // self.size)
        padded = tensor.detach()
        if width * self.size != len(tensor):
            padded = torch.cat([padded, padded.new_zeros(width * self.size - len(tensor))])
        out = padded.new_empty(width)
        self._count("reduce_scatter", padded)
        with self._with_others():
            _one_of("reduce_scatter_single", "reduce_scatter_tensor")(out, padded.contiguous())
        return out[: max(0, min(width, len(tensor) - self.rank * width))]

    def side_by_side(self, part: Tensor, width: int) -> Tensor:
        """What each rank has, filled up with zeros to `width` entries, one after the other: `(size · width,)`."""
        padded = part.detach()
        if len(part) < width:
            padded = torch.cat([padded, padded.new_zeros(width - len(part))])
        out = padded.new_empty(width * self.size)
        self._count("all_gather", out)
        with self._with_others():
            _one_of("all_gather_single", "all_gather_into_tensor")(out, padded.contiguous())
        return out

    def gathered(self, value: Any, patient: bool = False) -> list[Any]:
        """What each rank has, a small picklable object, in the order of the ranks.

        Args:
            value: this rank's.
            patient: wait for the others however long it takes them.
        """
        if self.alone:
            return [value]
        out: list[Any] = [None] * self.size
        with self._with_others():
            if patient and self._patient is None:
                self._patient = distributed.new_group(backend="gloo", timeout=datetime.timedelta(days=30))
            distributed.all_gather_object(out, value, group=self._patient if patient else None)
        return out

    def wait(self) -> None:
        """Until every rank has come here."""
        self.gathered(None)

    def agree(self, value: Any, what: str) -> None:
        """Make sure that every rank has the same.

        Raises:
            InputError: on every rank, if they differ.
        """
        found = self.gathered(value)
        other = next((rank for rank, one in enumerate(found) if one != found[0]), None)
        if other is not None:
            raise InputError(
                f"{what} differs between ranks: rank 0 has {found[0]!r}, rank {other} {found[other]!r}; every rank "
                "has to make the same calls with the same weights and seeds"
            )

    def forget(self) -> None:
        """Count anew."""
        self.calls.clear()
        self.bytes.clear()

    @contextmanager
    def _with_others(self) -> Iterator[None]:
        """What goes wrong in here is, as a rule, that another rank is gone or elsewhere."""
        try:
            yield
        except RuntimeError as error:
            late = "timed out" in str(error).lower()
            within = "in time" if self.limit is None else f"within {self.limit:.0f} s"
            what = f"another did not come {within}" if late else "the others are gone"
            words = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise RankError(
                f"rank {self.rank} waited for all ranks, and {what} ({words}); look for the message of the one that "
                "failed first; if none did, one went another way: every rank has to make the same calls"
            ) from error

    def _count(self, operation: str, tensor: Tensor) -> None:
        self.calls[operation] += 1
        self.bytes[operation] += tensor.numel() * tensor.element_size()


ALONE = Ranks()
"""One process by itself."""


@dataclass(frozen=True)
class Layout:
    """Which entries of vectors of length P each rank has.

    Attributes:
        size: P.
        ranks: the processes.
        every: for each rank the spans of entries that it has, in order; together each entry once.
    """

    size: int
    ranks: Ranks = ALONE
    every: tuple[tuple[slice, ...], ...] = ()

    @classmethod
    def dealt(cls, size: int, ranks: Ranks) -> Layout:
        """One span for each rank, as long as the others'; the last ones have fewer or none."""
        width = -(-size // ranks.size)
        ends = [min(rank * width, size) for rank in range(ranks.size + 1)]
        return cls(size, ranks, tuple((slice(start, stop),) for start, stop in itertools.pairwise(ends)))

    @property
    def own(self) -> tuple[slice, ...]:
        """This rank's spans."""
        return self.every[self.ranks.rank]

    @property
    def widths(self) -> list[int]:
        """How many entries each rank has."""
        return [sum(span.stop - span.start for span in spans) for spans in self.every]

    @property
    def width(self) -> int:
        """How many entries this rank has."""
        return self.widths[self.ranks.rank]

    def take(self, vectors: Tensor) -> Tensor:
        """This rank's entries of whole vectors `(..., P)`."""
        if len(self.own) == 1:
            return vectors[..., self.own[0]]
        return torch.cat([vectors[..., span] for span in self.own], dim=-1)

    def whole(self, part: Tensor) -> Tensor:
        """The vector `(P,)` of which each rank has its entries; all ranks make the call."""
        if self.ranks.alone:
            return part
        widths = self.widths
        largest = max(widths)
        found = self.ranks.side_by_side(part, largest)
        if all(len(spans) == 1 for spans in self.every) and widths[0] * (self.ranks.size - 1) <= self.size:
            return found[: self.size]
        return self.put([found[rank * largest : rank * largest + width] for rank, width in enumerate(widths)])

    def put(self, parts: Sequence[Tensor]) -> Tensor:
        """Whole vectors `(..., P)` of the entries of all ranks."""
        return put_together(parts, [[(span.start, span.stop) for span in spans] for spans in self.every])


def put_together(parts: Sequence[Tensor], spans: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Vectors `(..., P)` of parts, for each of which its spans `(start, stop)` of entries are given."""
    size = max(stop for every in spans for _, stop in every)
    out = parts[0].new_zeros(*parts[0].shape[:-1], size)
    for part, every in zip(parts, spans, strict=True):
        place = 0
        for start, stop in every:
            out[..., start:stop] = part[..., place : place + stop - start]
            place += stop - start
    return out


_TOGETHER: dict[tuple[int, int], Ranks] = {}


def ranks() -> Ranks:
    """The ranks of this job; one where there is one process.

    Where `torchrun` started the script and nobody has set up a process group yet, it is set up here: NCCL for what lies
    on GPUs where there are some, gloo for the rest. One that the script has set up is used as it is.

    Raises:
        InputError: if the group cannot be set up.
    """
    if not distributed.is_available():
        return ALONE
    limit = None
    if not distributed.is_initialized():
        if started() < 2:
            return ALONE
        limit = _patience()
        _set_up(limit)
    size = distributed.get_world_size()
    if size < 2:
        return ALONE
    return _TOGETHER.setdefault((size, distributed.get_rank()), Ranks(size, distributed.get_rank(), limit))


def started() -> int:
    """How many processes `torchrun` has started, told without setting anything up; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_ADDR" in os.environ else 1


def first_rank() -> bool:
    """Whether this process speaks for all; told without setting anything up."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank() == 0
    return os.environ.get("RANK", "0") == "0" or int(os.environ.get("WORLD_SIZE", "1")) < 2


def _set_up(limit: float) -> None:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, timeout=datetime.timedelta(seconds=limit))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"torchrun started {started()} processes, but they cannot be put together ({error}); call "
            "torch.distributed.init_process_group(...) before thalweg is used, or start one process"
        ) from error
    atexit.register(_taken_down)


def _patience() -> float:
    """Seconds that a rank waits for another."""
    asked = os.environ.get("THALWEG_RANKS_TIMEOUT", str(TIMEOUT))
    try:
        seconds = float(asked)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(f"THALWEG_RANKS_TIMEOUT={asked!r}: give seconds, as in THALWEG_RANKS_TIMEOUT=600")
    return seconds


def _taken_down() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _device() -> torch.device:
    """Where numbers have to lie to be sent."""
    cpu = "gloo" in str(distributed.get_backend_config()) if distributed.is_initialized() else True
    return torch.device("cpu") if cpu else torch.device("cuda", torch.cuda.current_device())


def _one_of(new: str, old: str) -> Any:
    """A function of torch.distributed by its present name, or by the one that it had."""
    found = getattr(distributed, new, None) or getattr(distributed, old)

    def call(*arguments: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            found(*arguments)

    return call
