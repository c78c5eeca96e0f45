"""The Hessian of a loss, by products.

`H v = d/dw (g(w)·v)`: reverse over reverse (Pearlmutter 1994). The gradient's graph of each batch is built once
and kept, so that a product costs one backward pass through it, about two gradients; batches that do not fit the
memory budget are built anew for every product, which costs about three gradients more.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import InputError, StaleOperatorError
from thalweg.operators.base import BatchLosses, Operator, Term
from thalweg.space import ParameterSpace


@dataclass(frozen=True)
class GradientGraph:
    """One batch's gradient with the graph that made it."""

    index: int
    coefficient: float
    gradients: tuple[Tensor | None, ...]


class GradientGraphs:
    """Gradients of all batches with their graphs, kept as far as a memory budget goes.

    Operators on several layer blocks share one of these.

    Args:
        losses: the batch losses, at the weights that the model has now.
        memory_budget: bytes for kept graphs; half of what is free unless given. 0 keeps none.

    Attributes:
        bytes_each: measured size of the first batch's graph, parameters not counted.
        kept: how many batches are kept.
        rebuilt: how many are built anew for each product.
    """

    def __init__(self, losses: BatchLosses, memory_budget: int | None = None) -> None:
        self.losses = losses
        self.parameters = losses.parameters()
        self._state = _weights_state(self.parameters)
        self.budget = free_memory(self.parameters[0].device) // 2 if memory_budget is None else memory_budget
        self.bytes_each = 0
        self.rebuilt = 0
        self._graphs: dict[int, GradientGraph] = {}
        self._keep()

    @property
    def kept(self) -> int:
        """How many batches are kept."""
        return len(self._graphs)

    def _keep(self) -> None:
        with self.losses.evaluating():
            spent, per_sample = 0.0, 0.0
            for term in self.losses.terms():
                if term.index == 0:
                    self.bytes_each = self._measure(term)
                    per_sample = self.bytes_each / max(term.samples, 1)
                need = per_sample * term.samples
                if spent + need > self.budget:
                    self.rebuilt += 1
                    continue
                spent += need
                self._graphs[term.index] = self._build(term)

    def _measure(self, term: Term) -> int:
        """Bytes that autograd saves for one batch's gradient graph, each storage once."""
        own = {tensor.untyped_storage().data_ptr() for tensor in self.parameters}
        sizes: dict[int, int] = {}
        held: list[Tensor] = []

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own and storage.data_ptr() not in sizes:
                sizes[storage.data_ptr()] = storage.nbytes()
                held.append(tensor.detach())  # keeps the address from being used twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self._build(term)
        return sum(sizes.values())

    def _build(self, term: Term) -> GradientGraph:
        loss = term.loss()
        gradients = torch.autograd.grad(loss, self.parameters, create_graph=True, allow_unused=True)
        return GradientGraph(term.index, term.coefficient, gradients)

    def multiply(self, vectors: Tensor, part: ParameterSpace, positions: Sequence[int]) -> Tensor:
        """Products of the block of `part` with the rows of `(b, part.size)`.

        Args:
            vectors: rows to multiply.
            part: the block's own space.
            positions: where the block's parameters stand among all parameters.

        Raises:
            StaleOperatorError: if the weights changed since the graphs were built.
            InputError: if a product is not finite.
        """
        self._check_fresh()
        total = torch.zeros_like(vectors)
        for graph in self._graphs.values():
            self._add(total, graph, vectors, part, positions)
        if self.rebuilt:
            with self.losses.evaluating():
                for term in self.losses.terms():
                    if term.index not in self._graphs:
                        self._add(total, self._build(term), vectors, part, positions)
        return total

    def _add(
        self, total: Tensor, graph: GradientGraph, vectors: Tensor, part: ParameterSpace, positions: Sequence[int]
    ) -> None:
        inputs = [self.parameters[i] for i in positions]
        spans = [parameter.span for parameter in part.parameters]
        shapes = [parameter.shape for parameter in part.parameters]
        gradients = [graph.gradients[i] for i in positions]
        used = [i for i, g in enumerate(gradients) if g is not None and g.requires_grad]
        outputs = [g for g in (gradients[i] for i in used) if g is not None]
        if not outputs:
            return  # the loss is linear in this block, or does not use it
        for row in range(vectors.shape[0]):
            weights = [vectors[row, spans[i]].view(shapes[i]).to(g.dtype) for i, g in zip(used, outputs, strict=True)]
            products = torch.autograd.grad(outputs, inputs, weights, retain_graph=True, allow_unused=True)
            for span, product in zip(spans, products, strict=True):
                if product is not None:
                    total[row, span].add_(product.detach().reshape(-1), alpha=graph.coefficient)
        if not bool(torch.isfinite(total).all()):
            bad = [p.name for p in part.parameters if not bool(torch.isfinite(total[:, p.span]).all())]
            raise InputError(
                f"the Hessian product of batch {graph.index} is not finite in {bad[0]!r}; "
                "look for an operation without a second derivative there (a norm or a root of zero)"
            )

    def _check_fresh(self) -> None:
        now = self.losses.parameters()
        same = all(old is new for old, new in zip(self.parameters, now, strict=True))  # a module may have new ones
        if not same or _weights_state(now) != self._state:
            raise StaleOperatorError("weights changed since this operator was built; call problem.hessian() again")


class HessianOperator(Operator):
    """The Hessian of the weighted mean loss, or its diagonal block on some layers.

    Args:
        graphs: the shared gradient graphs.
        layers: globs, names or a function of the layer's name; all layers unless given.
    """

    def __init__(self, graphs: GradientGraphs, layers: Any = None) -> None:
        whole = graphs.losses.space
        self.graphs = graphs
        self.space: ParameterSpace = whole.select(layers)
        self.whole = whole
        self.shape = (self.space.size, self.space.size)
        self.device = graphs.parameters[0].device
        self.dtype = graphs.parameters[0].dtype
        for tensor in graphs.parameters:
            self.dtype = torch.promote_types(self.dtype, tensor.dtype)
        where = {name: position for position, name in enumerate(whole.names)}
        self._positions = [where[name] for name in self.space.names]

    def multiply(self, vectors: Tensor) -> Tensor:
        """Products with the rows of `(b, P)`."""
        return self.graphs.multiply(vectors, self.space, self._positions)

    def describe(self) -> dict[str, Any]:
        """The layers, the data and how many graphs were kept."""
        layers = None if self.space is self.whole else [layer.name for layer in self.space.layers]
        return {
            "operator": "hessian",
            "layers": layers,
            "graphs_kept": self.graphs.kept,
            "graphs_rebuilt": self.graphs.rebuilt,
            "bytes_per_graph": self.graphs.bytes_each,
            **self.graphs.losses.describe(),
        }


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 - a kernel file
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    names = getattr(os, "sysconf_names", {})
    if "SC_AVPHYS_PAGES" in names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 * 2**30  # systems that do not say; a cautious guess


def _weights_state(parameters: Sequence[Tensor]) -> list[tuple[int, int, float]]:
    """What shows a change of weights: autograd's version, the address, and a checksum (writes through `.data`)."""
    home = parameters[0].device  # one transfer at the end, not one for each tensor
    sums = torch.stack([_checksum(tensor.detach()).to(home) for tensor in parameters]).tolist()
    return [(t._version, t.data_ptr(), value) for t, value in zip(parameters, sums, strict=True)]


def _checksum(tensor: Tensor) -> Tensor:
    """A weighted sum of the entries in which each place counts differently, without a second tensor of that size."""
    flat = tensor.reshape(-1)
    width = min(max(flat.numel(), 1), 4096)
    whole = flat.numel() // width * width
    block = flat[:whole].view(-1, width)
    total = flat.new_zeros((), dtype=torch.float64)
    for sums in (block.sum(dim=0, dtype=torch.float64), block.sum(dim=1, dtype=torch.float64), flat[whole:].double()):
        places = torch.arange(sums.numel(), device=flat.device, dtype=torch.float64)
        total = total + sums @ torch.cos(places + 0.5)
    return total
