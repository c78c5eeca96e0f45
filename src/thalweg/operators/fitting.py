"""Whether the graph of a batch fits into memory, said before it is built; and chunks that fit, where it does not.

The graph of a few samples is built and measured, and its size extrapolated: bytes grow with the samples, on top of what
does not. The same small graph is multiplied with once, and its custom functions are looked at, so that an operation
that torch cannot differentiate twice is named before the large graphs are begun.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from thalweg.errors import InputError, NoSecondDerivativeError
from thalweg.memory import free_memory
from thalweg.operators.base import BatchLosses
from thalweg.operators.chunking import SMALLEST, Choppable, Chunking, choose_chunks, same_loss_and_gradient
from thalweg.operators.graphs import KeptGraphs, Kind
from thalweg.operators.twice import check_custom_functions, naming_operations, watched
from thalweg.space import LayerChoice
from thalweg.survey import Survey

G = TypeVar("G")

PROBE = 4
"""Samples that a graph's size is first judged by."""

HEADROOM = 0.8
"""The share of the free memory that one graph may take: a backward pass through it needs room of its own."""


PARTS = 4
"""A budget is to hold at least so many graphs, so that rebuilding one more adds little to it."""


class Measurable(Choppable, Protocol):
    """Batch losses of which a few samples can be taken."""

    @property
    def survey(self) -> Survey:
        """How many samples each batch has."""
        ...

    def sampled(self, count: int) -> Measurable | None:
        """The first samples of the first batch, at most `count`; None where samples cannot be told apart."""
        ...


@dataclass(frozen=True)
class GraphSize:
    """Bytes of one batch's graph: `fixed + each * samples`."""

    fixed: float
    each: float

    def of(self, samples: int) -> int:
        """Bytes for so many samples."""
        return math.ceil(self.fixed + self.each * samples)

    def samples(self, room: float) -> int:
        """How many samples fit into so many bytes."""
        return max(0, int((room - self.fixed) / max(self.each, 1.0)))


def fitted_chunks(
    losses: Measurable,
    kind: Kind[G],
    size: int | str | None,
    layers: LayerChoice | None = None,
    budget: int | None = None,
) -> tuple[BatchLosses, Chunking]:
    """The losses in chunks whose graphs fit into the free memory; `choose_chunks` where the batches as given do.

    With "auto" and a budget a chunk's graph is no larger than one of `PARTS` parts of it, on trial or rebuilt for each
    product beside those that are kept, as far as that leaves `SMALLEST` samples.

    Args:
        losses: the problem.
        kind: of the graphs that will be built.
        size: samples of a chunk, "auto", or None for the batches as given.
        layers: that the graphs are for.
        budget: bytes for kept graphs, if they were said; 0 keeps none and says nothing of one.

    Raises:
        NoSecondDerivativeError: if torch cannot differentiate an operation twice.
        InputError: if what was asked for does not fit: with the size that does, or why the batches cannot be cut.
    """
    largest = max(losses.survey.samples)
    free = free_memory(losses.parameters()[0].device)
    room = HEADROOM * free
    graph = graph_size(losses, kind, layers, largest, min(room, budget / PARTS) if budget else room)
    most = largest if graph is None else graph.samples(HEADROOM * free)
    asked = largest if size is None else most if isinstance(size, str) else size
    with naming_operations(losses):
        if graph is None:
            return choose_chunks(losses, size)
        if max(largest, asked) <= most:
            cap = min(most, max(graph.samples(budget / PARTS), SMALLEST)) if budget else most
            chosen, chunking = choose_chunks(losses, size, cap)
            if size != "auto" or chunking.size is not None or largest <= cap:
                return chosen, chunking
            cut = losses.chopped(cap)
            if cut is None or not same_loss_and_gradient(losses, cut):
                return chosen, chunking
            return cut, Chunking(cap, "memory", chunking.seconds)
        if asked > most:
            raise InputError(_too_large(graph, asked, most, free, _can_be_cut(losses, most)))
        cut = losses.chopped(asked) if asked else None
        if cut is None or not _can_be_cut(losses, asked):
            raise InputError(_too_large(graph, largest, most, free, possible=False))
        if size == asked:
            return cut, Chunking(asked, "given", {})
        chosen, chunking = choose_chunks(cut, "auto", most)
        return chosen, chunking if chunking.size else Chunking(most, "memory", chunking.seconds)


def graph_size(
    losses: Measurable, kind: Kind[G], layers: LayerChoice | None, largest: int, room: float
) -> GraphSize | None:
    """The size of a batch's graph, from a few samples; None where that cannot be told.

    From twice as many samples also, what does not grow with them is told apart, where it decides whether the largest
    batch fits.

    Raises:
        NoSecondDerivativeError: if torch cannot differentiate an operation twice.
    """
    few = _measured(losses, kind, layers, PROBE)
    if few is None:
        return None
    count, bytes_few = few
    graph = GraphSize(0.0, bytes_few / count)
    if graph.of(largest) > room and largest > count:
        more = _measured(losses, kind, layers, 2 * PROBE)
        if more is not None and more[0] > count:
            each = max(0.0, (more[1] - bytes_few) / (more[0] - count))
            graph = GraphSize(bytes_few - each * count, each)
    return graph


def _measured(losses: Measurable, kind: Kind[G], layers: LayerChoice | None, count: int) -> tuple[int, int] | None:
    """Samples and bytes of a graph of the first samples, which is multiplied with once; None if they cannot be had."""
    try:
        piece = losses.sampled(count)
        if piece is None:
            _check_functions(losses, kind, layers)
            return None
        _check_functions(piece, kind, layers)
        graphs = KeptGraphs(piece, kind, 2**62, layers)
        vector = torch.ones(1, graphs.space.size, dtype=graphs.parameters[0].dtype, device=graphs.device)
        graphs.multiply(vector, graphs.space)
        return sum(piece.survey.samples), graphs.bytes_each
    except NoSecondDerivativeError:
        raise
    except Exception:  # a loss that needs more samples than these, say; the whole batches will tell
        return None


def _check_functions(losses: BatchLosses, kind: Kind[G], layers: LayerChoice | None) -> None:
    """Refuse custom functions without a second derivative, where the layers have need of it."""
    wanted = set(losses.space.select(layers).names)
    pairs = list(zip(losses.space.names, losses.parameters(), strict=True))
    others = [tensor for name, tensor in pairs if name not in wanted]
    with losses.evaluating(), watched(losses) as spans:
        for tensor in others:
            tensor.requires_grad_(False)
        try:
            head = kind.head(next(iter(losses.terms())))
            check_custom_functions(head, [tensor for name, tensor in pairs if name in wanted], spans)
        finally:
            for tensor in others:
                tensor.requires_grad_(True)


def _can_be_cut(losses: Choppable, size: int) -> bool:
    """Whether cutting leaves the loss what it is, judged by one chunk and its halves: the whole does not fit."""
    whole = losses.chopped(size, 1) if size else None
    halves = None if whole is None else whole.chopped(max(size // 2, 1))
    return whole is not None and halves is not None and same_loss_and_gradient(whole, halves)


def _too_large(graph: GraphSize, samples: int, most: int, free: int, possible: bool) -> str:
    if not most:
        remedy = "not even one sample fits; choose some layers with layers=, or a machine with more memory"
    elif possible:
        remedy = f"{most:,} samples fit: use chunk={most}, or chunk='auto'"
    else:
        remedy = (
            f"{most:,} samples fit, but this loss does not let its batches be cut (it couples samples, or a batch "
            f"holds something else than tensors with a row for each sample): give batches of at most {most:,} samples"
        )
    return (
        f"the graph of a batch of {samples:,} samples takes about {_binary(graph.of(samples))}, and {_binary(free)} "
        f"are free, of which it may take {HEADROOM:.0%}; {remedy}"
    )


def _binary(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"
