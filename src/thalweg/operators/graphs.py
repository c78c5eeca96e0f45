"""Autograd graphs of a loss's batches, kept for many products as far as a memory budget goes.

What the graph of a batch is (its gradient's for the Hessian, its output's for Gauss-Newton) and how a product runs
through it is a `Kind`; holding, budgeting, rebuilding and noticing changed weights is the same for all.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from thalweg.errors import InputError, StaleOperatorError
from thalweg.memory import free_memory, hand_back, held_memory, saved_bytes
from thalweg.operators.base import BatchLosses, Operator, Term, all_finite
from thalweg.operators.chunking import Chunking
from thalweg.operators.twice import naming_operations
from thalweg.shares import Share
from thalweg.space import LayerChoice, ParameterSpace

G = TypeVar("G")

_WORTH_HANDING_BACK = 8 * 2**20
"""Bytes that the process may have grown by beyond twice what graphs take, before freed memory is handed back."""

Inputs = Mapping[str, Tensor]
"""The live parameters that are differentiated, by name."""


class Kind(Protocol[G]):
    """One sort of graph."""

    @property
    def maker(self) -> str:
        """The call that makes an operator on such graphs, for messages."""
        ...

    def head(self, term: Term) -> Tensor:
        """What is differentiated: a batch's loss or output, with its graph."""
        ...

    def build(self, term: Term, inputs: Inputs) -> G:
        """The graph of one batch."""
        ...

    def add(self, total: Tensor, graph: G, vectors: Tensor, part: ParameterSpace, inputs: Inputs) -> None:
        """Add the batch's share of the products with the rows of `(b, part.size)` to `total`."""
        ...

    def own_bytes(self, graph: G) -> int:
        """Bytes that a graph holds beside what autograd saves."""
        ...


class KeptGraphs(Generic[G]):
    """Graphs of all batches, kept as far as a memory budget goes.

    Operators on several layer blocks share one of these.

    Args:
        losses: the batch losses, at the weights that the model has now.
        kind: what the graph of a batch is.
        memory_budget: bytes for kept graphs; half of what is free unless given. 0 keeps none.
        layers: differentiate with respect to these layers only, so that no graph is built for what lies before them.
        chunking: how the data was cut, for the record.
        share: what these losses count among those of all ranks, over which products are summed; all unless given.

    Attributes:
        space: the parameters that are differentiated.
        bytes_each: measured size of the first batch's graph, parameters not counted.
        predicted_bytes: of all kept graphs, from `bytes_each` and the numbers of samples.
        measured_bytes: what the process (or the device) grew by while they were built.
        kept: how many batches are kept.
        rebuilt: how many are built anew for each product.
    """

    def __init__(
        self,
        losses: BatchLosses,
        kind: Kind[G],
        memory_budget: int | None = None,
        layers: LayerChoice | None = None,
        chunking: Chunking | None = None,
        share: Share | None = None,
    ) -> None:
        self.losses = losses
        self.kind = kind
        self.share = share or Share()
        self.chunking = chunking or Chunking(None, "given", {})
        self.space = losses.space.select(layers)
        self.parameters = losses.parameters()
        self._state = weights_state(self.parameters)
        self.device = self.parameters[0].device
        self.budget = free_memory(self.device) // 2 if memory_budget is None else memory_budget
        self.bytes_each = 0
        self.predicted_bytes = 0
        self.rebuilt = 0
        self._graphs: dict[int, G] = {}
        wanted = set(self.space.names)
        pairs = list(zip(losses.space.names, self.parameters, strict=True))
        self._inputs = {name: tensor for name, tensor in pairs if name in wanted}
        self._others = [tensor for name, tensor in pairs if name not in wanted]
        before = held_memory(self.device)
        self._keep()
        self.measured_bytes = max(0, held_memory(self.device) - before)
        if self.measured_bytes > 2 * self.predicted_bytes + _WORTH_HANDING_BACK:
            hand_back()
            self.measured_bytes = max(0, held_memory(self.device) - before)

    @property
    def kept(self) -> int:
        """How many batches are kept."""
        return len(self._graphs)

    def multiply(self, vectors: Tensor, part: ParameterSpace) -> Tensor:
        """Products of the block of `part` with the rows of `(b, part.size)`, summed over ranks."""
        return self.share.together(self.products(vectors, part))

    def products(self, vectors: Tensor, part: ParameterSpace) -> Tensor:
        """Products of the block of `part` with the rows of `(b, part.size)`, over what this rank works on.

        Args:
            vectors: rows to multiply.
            part: the block's own space; its parameters are among those differentiated.

        Raises:
            StaleOperatorError: if the weights changed since the graphs were built.
            NoSecondDerivativeError: if torch cannot differentiate an operation twice.
            InputError: if a product is not finite.
        """
        self._check_fresh()
        total = torch.zeros_like(vectors)
        # closed on errors too: it may be holding the model in evaluation
        with naming_operations(self.losses), closing(self._all()) as graphs:
            for _, graph in graphs:
                self.kind.add(total, graph, vectors, part, self._inputs)
        if not all_finite(total):
            self._name_the_batch(vectors, part)
        return total

    def _keep(self) -> None:
        with self._building():
            per_sample = 0.0
            for term in self.losses.terms():
                if term.index == 0:
                    self.bytes_each = self._measure(term)
                    per_sample = self.bytes_each / max(term.samples, 1)
                need = math.ceil(per_sample * term.samples)
                if self.predicted_bytes + need > self.budget:
                    self.rebuilt += 1
                    continue
                self.predicted_bytes += need
                self._graphs[term.index] = self.kind.build(term, self._inputs)

    @contextmanager
    def _building(self) -> Iterator[None]:
        """The state in which graphs are built: evaluation, and no graph for parameters that nobody asked for."""
        with naming_operations(self.losses), self.losses.building():
            for tensor in self._others:
                tensor.requires_grad_(False)
            try:
                yield
            finally:
                for tensor in self._others:
                    tensor.requires_grad_(True)

    def _measure(self, term: Term) -> int:
        """Bytes that one batch's graph holds."""
        graph, saved = saved_bytes(lambda: self.kind.build(term, self._inputs), self.parameters)
        return self.kind.own_bytes(graph) + saved

    def _all(self) -> Generator[tuple[int, G], None, None]:
        yield from self._graphs.items()
        if self.rebuilt:
            with self._building():
                for term in self.losses.terms():
                    if term.index not in self._graphs:
                        yield term.index, self.kind.build(term, self._inputs)

    def _name_the_batch(self, vectors: Tensor, part: ParameterSpace) -> None:
        """Go through the batches again to say which one and which parameter are not finite."""
        with closing(self._all()) as graphs:
            for index, graph in graphs:
                alone = torch.zeros_like(vectors)
                self.kind.add(alone, graph, vectors, part, self._inputs)
                bad = [p.name for p in part.parameters if not bool(torch.isfinite(alone[:, p.span]).all())]
                if bad:
                    raise InputError(
                        f"the product of batch {index} is not finite in {bad[0]!r}; look for an operation without a "
                        "finite second derivative there (a norm or a root of zero)"
                    )
        raise InputError("the sum of all batches' products overflows; use float64 weights")

    def _check_fresh(self) -> None:
        now = self.losses.parameters()
        same = all(old is new for old, new in zip(self.parameters, now, strict=True))  # a module may have new ones
        if not same or weights_state(now) != self._state:
            raise StaleOperatorError(f"weights changed since this operator was built; call {self.kind.maker} again")


class GraphOperator(Operator, Generic[G]):
    """An operator whose products run through kept graphs, or its diagonal block on some layers.

    Args:
        graphs: the shared graphs.
        layers: globs, names or a function of the layer's name; all layers of the graphs unless given.
        about: plain JSON values that say more than the name.

    Raises:
        InputError: if the graphs were built for other layers.
    """

    name = "graphs"
    """What it is called in a result."""

    def __init__(self, graphs: KeptGraphs[G], layers: LayerChoice | None = None, **about: Any) -> None:
        self.graphs = graphs
        self.whole = graphs.losses.space
        self.space: ParameterSpace = graphs.space if layers is None else self.whole.select(layers)
        missing = set(self.space.names) - set(graphs.space.names)
        if missing:
            raise InputError(f"these graphs do not hold {min(missing)!r}; build them for all layers")
        self.shape = (self.space.size, self.space.size)
        self.ranks = graphs.share.ranks
        self.device = graphs.device
        self.dtype = graphs.parameters[0].dtype
        for tensor in graphs.parameters:
            self.dtype = torch.promote_types(self.dtype, tensor.dtype)
        self.about = about

    def multiply(self, vectors: Tensor) -> Tensor:
        """Products with the rows of `(b, P)`."""
        return self.graphs.multiply(vectors, self.space)

    def part_of_product(self, part: Tensor) -> Tensor:
        """This rank's entries of the product with a vector of which each rank gives its own."""
        if self.ranks.alone:
            return self.matvec(part)
        vector = self.layout.whole(part.to(dtype=self.dtype, device=self.device))
        return self.graphs.share.scattered(self.graphs.products(vector.unsqueeze(0), self.space)[0])

    def describe(self) -> dict[str, Any]:
        """The layers, the data, how many graphs were kept, and what else is known."""
        layers = None if self.space is self.whole else [layer.name for layer in self.space.layers]
        return {
            "operator": self.name,
            "layers": layers,
            **self.about,
            "graphs_kept": self.graphs.kept,
            "graphs_rebuilt": self.graphs.rebuilt,
            "bytes_predicted": self.graphs.predicted_bytes,
            "bytes_measured": self.graphs.measured_bytes,
            **self.graphs.chunking.describe(),
            **self.graphs.losses.describe(),
        }


def weights_state(parameters: Sequence[Tensor]) -> list[tuple[int, int, float]]:
    """What shows a change of weights: autograd's version, the address, and a checksum (writes through `.data`)."""
    home = parameters[0].device  # one transfer at the end, not one for each tensor
    sums = torch.stack([_checksum(tensor.detach()).to(home) for tensor in parameters]).tolist()
    return [(t._version, t.data_ptr(), value) for t, value in zip(parameters, sums, strict=True)]


def _checksum(tensor: Tensor) -> Tensor:
    """A weighted sum of the entries in which each place counts differently: one read, no second tensor of that size."""
    flat = tensor.reshape(-1)
    width = min(max(flat.numel(), 1), 4096)
    rows, rest = divmod(flat.numel(), width)
    places = _places(max(width, rows), tensor.dtype, tensor.device)
    block = flat[: rows * width].view(rows, width)
    return ((block @ places[:width]) @ places[:rows].flip(0) + flat[rows * width :] @ places[:rest]).double()


@functools.lru_cache(maxsize=32)
def _places(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What each place counts: numbers that hardly ever add up."""
    return torch.cos(torch.arange(count, dtype=torch.float64) ** 1.5 + 0.5).to(dtype=dtype, device=device)
