"""What the largest eigenpairs of a model that is split over many GPUs would take: memory, traffic, time.

With P parameters of b bytes on n ranks, a basis of m rows of c bytes, B batches of t tokens in all:

- held by each rank: its rows of the weights, their copy, two gradients (4 b P / n), the basis (m + 1) c P / n, the k
  pairs k b P / n; for a pass the largest layer's weights and gradient, whole (2 b P / layers), and the activations of
  one batch, 34 s h bytes for a token in each layer at 16 bits (Korthikanti et al. 2022, arXiv 2205.05198, without
  attention's own, which fused kernels do not keep), twice that at 32;
- sent by each rank for a pass: the weights gathered forward and backward, the gradient scattered, 3 b P (n − 1) / n.
  A product by differences is two passes over the rank's batches. Orthogonalising sends m + 2 numbers of 8 bytes twice;
- reckoned: 6 P operations for a token in a pass, and what the basis is read for: four times m rows / 2 on average.

Source of 6 P: Kaplan et al. 2020, arXiv 2001.08361. Tests hold the traffic against what real jobs count. On one H100
(benchmarks/RESULTS.md) memory came out within 4 % of the plan, and a product took 1.4 to 1.6 times as long as planned
with the operations that a pass there reached; what is sent between GPUs was not timed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.errors import InputError
from thalweg.tables import Table

BYTES_OF_A_SUM = 8
"""Sums over ranks are in float64."""

PRODUCTS = 60
"""For ten pairs at a residual of 0.001 of the largest: 26 to 55 were needed on the nets that were measured, more where
eigenvalues lie close."""


@dataclass(frozen=True)
class Net:
    """A transformer, as far as its costs go.

    Attributes:
        parameters: P.
        layers: how many alike.
        width: of the stream; read off P and the layers unless given, P = 12 · layers · width².
    """

    parameters: float
    layers: int = 32
    width: float = 0.0

    @property
    def stream(self) -> float:
        """The width."""
        return self.width or math.sqrt(self.parameters / (12 * self.layers))


@dataclass(frozen=True)
class Gpu:
    """One rank's machine; what is given here is about an H100's, in float32 on its matrix units.

    Attributes:
        memory: bytes.
        operations: a second, that a training reaches.
        link: bytes a second to the other ranks.
        reading: bytes a second from its own memory.
    """

    memory: float = 80e9
    operations: float = 1.5e13
    link: float = 5e10
    reading: float = 1.7e11


def traffic(parameters: int, ranks: int, products: int, steps: int, itemsize: int = 4) -> dict[str, int]:
    """Bytes that a search with a whole model on every rank gives to each operation, on one rank.

    Args:
        parameters: P.
        ranks: n.
        products: all of them.
        steps: those by which the basis grew.
        itemsize: b.

    Returns:
        "all_gather" and "reduce_scatter", which together are one all-reduce of P numbers a product, and "sums", two a
        step, of the inner products with all rows and the squared length.
    """
    padded = -(-parameters // ranks) * ranks
    moved = padded * itemsize * products
    sums = sum(2 * BYTES_OF_A_SUM * (rows + 1) for rows in range(1, steps + 1))
    return {"all_gather": moved, "reduce_scatter": moved, "sums": sums}


def passing(parameters: int, itemsize: int = 4, outermost: int = 0) -> dict[str, int]:
    """Bytes that one pass of a model split by `fully_shard` gives to each operation, on any rank, without padding.

    Args:
        parameters: P.
        itemsize: b.
        outermost: of P those of the outermost module itself, which stay whole from forward to backward.
    """
    return {"all_gather": (2 * parameters - outermost) * itemsize, "reduce_scatter": parameters * itemsize}


def plan_ranks(
    net: Net,
    ranks: Sequence[int] = (8, 16, 32, 64),
    *,
    k: int = 10,
    samples: int = 1024,
    length: int = 2048,
    batch: int = 1,
    products: int = PRODUCTS,
    gpu: Gpu | None = None,
    itemsize: int = 4,
    basis_itemsize: int = 2,
) -> Table:
    """A row for each number of ranks: memory of each, what it sends, how long the k largest pairs take.

    Args:
        net: the model.
        ranks: numbers of GPUs.
        k: pairs.
        samples: sequences that are measured on.
        length: tokens of each.
        batch: sequences of one pass of a rank.
        products: of the whole search; the basis has as many rows.
        gpu: each rank's machine.
        itemsize: bytes of a weight.
        basis_itemsize: bytes of an entry of the basis; 2 for `basis="bfloat16"`.

    Returns:
        Columns `ranks`, `memory_gib` of each rank and of it `basis_gib` and `activations_gib`, `fits`, `sent_gib` by a
        rank for a product, `product_seconds` and of them `sending_seconds`, and `hours` in all.

    Raises:
        InputError: if a number is not positive.
    """
    numbers = {
        "parameters": net.parameters, "layers": net.layers, "k": k, "samples": samples, "length": length,
        "batch": batch, "products": products, "itemsize": itemsize, "basis_itemsize": basis_itemsize,
        "ranks": min(ranks, default=0),
    }  # fmt: skip
    for name, number in numbers.items():
        if not number > 0:
            raise InputError(f"{name}={number:g} of a plan; give a positive number")
    gpu = gpu or Gpu()
    records = []
    for n in ranks:
        own = net.parameters / n
        basis = (products + 1) * basis_itemsize * own
        activations = 34 * (itemsize / 2) * batch * length * net.stream * net.layers
        layer = 2 * itemsize * net.parameters / net.layers
        memory = 4 * itemsize * own + basis + k * itemsize * own + layer + activations
        passes = 2 * math.ceil(samples / (batch * n))
        sent = passes * sum(passing(int(net.parameters), itemsize).values()) * (n - 1) / n
        reckoned = passes * batch * length * 6 * net.parameters / gpu.operations
        read = 4 * (products / 2) * basis_itemsize * own / gpu.reading
        seconds = max(reckoned, sent / gpu.link) + read
        records.append(
            {
                "ranks": n,
                "memory_gib": memory / 2**30,
                "basis_gib": basis / 2**30,
                "activations_gib": activations / 2**30,
                "fits": memory < 0.9 * gpu.memory,
                "sent_gib": sent / 2**30,
                "product_seconds": seconds,
                "sending_seconds": sent / gpu.link,
                "hours": products * seconds / 3600,
            }
        )
    return Table.of(records)
