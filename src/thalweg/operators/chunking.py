"""In how large pieces to work through the data: timed once, and the best kept.

The time of a Hessian product depends on the number of samples that go through the network at once: many small pieces
pay for each operation's start, large ones fall out of the processor's caches. Factors of three were seen. The mean over
the data does not depend on how it is cut, unless the loss couples samples (contrastive losses, batch statistics); so a
cut is used only after loss and gradient have come out as before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from thalweg.errors import InputError
from thalweg.memory import saved_bytes
from thalweg.operators.base import BatchLosses, Term, loss_and_gradient
from thalweg.operators.light import light_operations
from thalweg.operators.seeds import Seeds

SMALLEST = 16
PROBE = 128
"""Samples that the first guess at the time of a gradient is made with."""
TOLERANCE = 1e-5
"""How far loss and gradient may move, relatively, when the data is cut otherwise."""

WORTHWHILE = 0.25
"""Seconds that one gradient has to take before timing other sizes can pay."""

STEADY = 0.2
"""Seconds from which on one timing is enough; shorter ones are taken twice."""

MANY = 1024
"""Samples from which on small batches are joined without being timed."""

WORKING_SET = 12 * 2**20
"""Bytes of saved tensors that such a joined chunk may have: about a processor's last cache. On an MLP (6 kB a sample) a
product took 54 ms in batches of 256 and 45 ms in chunks of 1,920."""

CLEARLY = 0.97
"""A size is taken over another if its time is below this share; a smaller gain could be noise."""

SHARE = 3
"""Chunks of at most this fraction (one over it) of the data are tried, so that the trials stay cheap."""


class Choppable(BatchLosses, Protocol):
    """Batch losses whose data can be cut otherwise."""

    def chopped(self, size: int, pieces: int | None = None) -> Choppable | None:
        """The same samples in chunks of that size, or the first `pieces` of them; None where nothing can be cut."""
        ...


@dataclass(frozen=True)
class Chunking:
    """What was chosen and why.

    Attributes:
        size: samples of a chunk; None keeps the batches as given.
        reason: "timed", "given", "joined" (small batches of many small samples), "small" (nothing to gain),
            "memory" (the batches as given do not fit, or not into a budget), "coupled" (loss or gradient changed),
            "indivisible" or "failed" (a loss that was not finite).
        seconds: time of a product for each sample, by size; size 0 stands for the batches as given.
    """

    size: int | None
    reason: str
    seconds: dict[int, float]

    def describe(self) -> dict[str, Any]:
        """Plain JSON values for a result's provenance."""
        return {"chunk": self.size, "chunk_reason": self.reason}


def choose_chunks(losses: Choppable, size: int | str | None, most: int | None = None) -> tuple[BatchLosses, Chunking]:
    """The losses cut as asked: a size, "auto" for the fastest, None for the batches as given.

    A cut that changes loss or gradient is not used; the result says "coupled". No size above `most` is tried.
    """
    if size is None:
        return losses, Chunking(None, "given", {})
    seconds: dict[int, float] = {}
    try:
        found = _fastest(losses, seconds, most) if size == "auto" else size
        if isinstance(found, str):
            return losses, Chunking(None, found, seconds)
        chopped = losses.chopped(found)
        if chopped is None:
            return losses, Chunking(None, "indivisible", seconds)
        if not same_loss_and_gradient(losses, chopped):
            return losses, Chunking(None, "coupled", seconds)
        reason = "given" if size != "auto" else "timed" if seconds else "joined"
        return chopped, Chunking(found, reason, seconds)
    except InputError:
        return losses, Chunking(None, "failed", seconds)  # the batches as given will say which one is bad


def _fastest(losses: Choppable, seconds: dict[int, float], most: int | None) -> int | str:
    """The size with the shortest product for each sample, or why none was looked for."""
    samples = int(losses.describe()["samples"])
    with losses.evaluating():
        given = next(iter(losses.terms()))
    probe = losses.chopped(min(given.samples, PROBE), 1)
    if probe is None:
        return "indivisible"
    if _gradient_seconds(probe) * samples < WORTHWHILE:
        return _joined(losses, probe, samples, most)
    size, worse = SMALLEST, 0
    largest = samples // SHARE if most is None else min(samples // SHARE, most)
    while size <= largest and worse < 2:
        piece = losses.chopped(size, 1)
        assert piece is not None
        shortest = min((value for tried, value in seconds.items() if tried), default=math.inf)
        with piece.building():
            seconds[size] = _product_seconds(next(iter(piece.terms())), piece.parameters())
        worse = worse + 1 if seconds[size] > shortest else 0
        size *= 2
    if given.samples in seconds:
        seconds[0] = seconds[given.samples]
    elif given.samples <= samples // SHARE and (worse < 2 or given.samples < size // 2):  # else the trend tells
        with losses.building():
            seconds[0] = _product_seconds(given, losses.parameters())
    best = min((tried for tried in seconds if tried), key=lambda tried: seconds[tried], default=0)
    return best if best and seconds[best] < CLEARLY * seconds.get(0, math.inf) else "small"


def _joined(losses: Choppable, probe: BatchLosses, samples: int, most: int | None) -> int | str:
    """For data that is gone through too fast for trials: small batches of small samples are joined, without timing."""
    if samples < MANY:
        return "small"
    parameters = probe.parameters()
    with probe.building():
        term = next(iter(probe.terms()))
        _, saved = saved_bytes(lambda: _gradients_with_graph(term, parameters), parameters)
    size = min(samples if most is None else min(samples, most), WORKING_SET * max(term.samples, 1) // max(saved, 1))
    with losses.evaluating():
        given = next(iter(losses.terms())).samples
    return size if size >= 2 * given else "small"


def _gradient_seconds(losses: BatchLosses) -> float:
    """Seconds of one gradient for each sample of the first batch: the second of two, the first warms up."""
    elapsed = 0.0
    with losses.evaluating():
        term = next(iter(losses.terms()))
        for _ in range(2):
            start = time.perf_counter()
            torch.autograd.grad(term.loss(), losses.parameters(), allow_unused=True)
            elapsed = time.perf_counter() - start
    return elapsed / max(term.samples, 1)


def _gradients_with_graph(term: Term, parameters: list[Tensor]) -> Sequence[Tensor | None]:
    with light_operations():
        loss = term.loss()
    return torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)


def _product_seconds(term: Term, parameters: list[Tensor]) -> float:
    """Seconds of one product with a kept graph, for each sample, after the graph is built."""
    gradients = _gradients_with_graph(term, parameters)
    names = [str(index) for index in range(len(parameters))]
    seeds = Seeds(dict(zip(names, gradients, strict=True)))
    vectors = {name: p.detach() for name, p in zip(names, parameters, strict=True) if name in seeds}
    del gradients
    if not vectors:
        return 0.0
    times = []
    for _ in range(2):
        start = time.perf_counter()
        seeds.pull(vectors, parameters)
        times.append(time.perf_counter() - start)
        if times[0] > STEADY:
            break
    return min(times) / max(term.samples, 1)


def same_loss_and_gradient(losses: BatchLosses, other: BatchLosses) -> bool:
    """Whether loss and gradient agree to `TOLERANCE`, the gradient relative to the size of what was summed."""
    one, two = loss_and_gradient(losses), loss_and_gradient(other)
    apart = [(a - b).double() for a, b in zip(one.gradients, two.gradients, strict=True)]
    close = abs(one.loss - two.loss) <= TOLERANCE * max(abs(one.loss), abs(two.loss))
    return close and float(torch.nn.utils.get_total_norm(apart)) <= TOLERANCE * one.scale
