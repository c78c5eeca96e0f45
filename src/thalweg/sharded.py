"""Problems whose model is itself split over ranks (FSDP2, `fully_shard`): no rank ever holds a whole vector.

FSDP2 gathers a layer's weights when it is used and scatters its gradient when it is done, and its hooks belong to one
backward pass: there is no second one to be had through them. So products are central differences of gradients,

    H v ≈ (g(w + h v) − g(w − h v)) / 2h,

whose step is chosen when the operator is built, and whose error is measured there and stated. A product costs two
gradients and sends what two backward passes send.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from thalweg.batches import sample_count, to_device
from thalweg.collectives import Layout, ranks
from thalweg.errors import InputError, StaleOperatorError
from thalweg.evaluation import evaluating
from thalweg.losses import LabelCount, Loss, model_loss
from thalweg.operators.base import Operator
from thalweg.shares import counted, own_part
from thalweg.space import LayerChoice, ParameterSpace, measure_depths
from thalweg.survey import surveyed

STEPS = (-4, -3, -2, -1, 0, 1, 2)
"""Powers of four times the usual step that are tried."""

DRAWN = 2**16
"""Entries of a random vector that one generator draws."""

ROUGH = 0.05
"""Relative error of products from which on an operator is refused."""


class ShardedProblem:
    """Model, loss and data, where `fully_shard` has split the model over all ranks: loss, gradient, Hessian.

    Every rank makes the same calls. Vectors are those of `layout`: of each parameter the rows that this rank holds.

    Args:
        model: after `fully_shard(model)`, over all ranks of the job.
        loss: as for `Problem`, the mean over a batch.
        data: as for `Problem`: the same on every rank, or each rank's own share.
        weight: `batch -> number`; as for `Problem`.

    Attributes:
        space: the trainable parameters, with the shapes of the whole ones.
        layout: which entries each rank holds.
        share: what this rank works on of the data.

    Raises:
        InputError: if a parameter is not split by rows over all ranks, or the data are not as `Problem` takes them.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, Any], Tensor] | Loss | None = None,
        data: Iterable[Any] | None = None,
        *,
        weight: Callable[[Any], float] | None = None,
    ) -> None:
        if data is None:
            raise InputError("no data was given; ShardedProblem(model, loss, data) takes any re-iterable of batches")
        self.model = model
        reshard(model)
        self._loss = loss if loss is not None else model_loss
        own_weight = loss.weight if isinstance(loss, Loss) else None
        self._weight = weight or own_weight or (sample_count if loss is not None else LabelCount(model))
        together = ranks()
        self.space = ParameterSpace.of(model)
        self.layout = row_layout(self.space, self._parameters(), together.size)
        found = surveyed(data, self._weight)
        self.data = own_part(data, found, together)
        self._survey = found if self.data is data else surveyed(self.data, self._weight)
        self.share = counted(self._survey, self.data, together)
        self._rounds = max(together.gathered(len(self._survey.prints)))
        with self._evaluating(), torch.no_grad():
            batch = self._batch(next(iter(self.data)))
            self.space = measure_depths(model, self.space, lambda: self._loss(self.model, batch))

    @property
    def device(self) -> torch.device:
        """Where this rank's entries are."""
        return next(self.model.parameters()).device

    def locals(self) -> list[Tensor]:
        """This rank's rows of each parameter: views of what is trained."""
        return [parameter.detach().to_local() for parameter in self._parameters()]

    def weights(self) -> Tensor:
        """This rank's entries of the weights `(layout.width,)`, copied."""
        return torch.cat([tensor.reshape(-1) for tensor in self.locals()])

    def loss(self) -> float:
        """The weighted mean loss over all ranks' batches."""
        own = 0.0
        with self._evaluating(), torch.no_grad():
            for batch, coefficient in self._batches():
                own += coefficient * float(self._loss(self.model, batch))
        return self.share.ranks.add_up([own])[0]

    def gradient(self) -> Tensor:
        """This rank's entries of the gradient `(layout.width,)`."""
        parameters = self._parameters()
        held = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            with self._evaluating():
                for batch, coefficient in self._batches():
                    value = self._loss(self.model, batch)  # FSDP2 takes the mean over ranks
                    (value * (coefficient * self.share.ranks.size)).backward()  # type: ignore[no-untyped-call]
            local: list[Any] = [parameter.grad for parameter in parameters]
            pieces = [
                torch.zeros_like(own) if piece is None else piece.to_local()
                for piece, own in zip(local, self.locals(), strict=True)
            ]
            return torch.cat([piece.detach().reshape(-1) for piece in pieces])
        finally:
            for parameter, gradient in zip(parameters, held, strict=True):
                parameter.grad = gradient

    def hessian(
        self, layers: LayerChoice | None = None, *, seed: int = 0, near: ShardedHessian | None = None
    ) -> ShardedHessian:
        """The Hessian at the present weights, by central differences; for `eigenpairs` and every other solver.

        Args:
            layers: the block of some layers, as for `Problem.hessian`.
            seed: for the vectors that the step is found with.
            near: an operator at the same weights, whose step is taken over where it does as well here: for blocks of
                many layers.

        Raises:
            InputError: if no step gives products that are less than 5 % off, or a layer is unknown.
        """
        return ShardedHessian(self, layers, seed, near)

    def describe(self) -> dict[str, Any]:
        """What was measured on."""
        return {
            "samples": self.share.samples,
            "batches": self.share.batches,
            "weight": self.share.weight,
            "reduction": "mean",
            "mode": "evaluation",
            "parameters": self.space.size,
            "ranks": self.share.ranks.size,
            "sharded": True,
        }

    def _parameters(self) -> list[Any]:
        own = dict(self.model.named_parameters())
        return [parameter for parameter in own.values() if parameter.requires_grad]

    def _batches(self) -> Iterator[tuple[Any, float]]:
        """As many for each rank, since a pass is one of all ranks together; what is added counts nothing."""
        total = self.share.weight
        last: Any = None
        count = 0
        for batch, weight in zip(self.data, self._survey.weights, strict=True):
            last = self._batch(batch)
            yield last, weight / total if self.share.part else 0.0
            count += 1
        for _ in range(self._rounds - count):
            yield last, 0.0

    def _batch(self, batch: Any) -> Any:
        return to_device(batch, self.device)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        try:
            with evaluating(self.model):
                yield
        finally:
            reshard(self.model)


@dataclass(frozen=True)
class _Tried:
    step: float
    product: Tensor


class ShardedHessian(Operator):
    """The Hessian of a `ShardedProblem`, or its block on some layers, by central differences of gradients.

    Attributes:
        step: by how much the parameter that moves most is moved, relative to the length of its weights.
        product_error: how far products at this step are from those at a step four times as long, relatively, or the
            asymmetry if that is larger: an estimate of the error from above.
        asymmetry: `|aᵀHb − bᵀHa| / |Hb|` of two random vectors.
    """

    def __init__(
        self,
        problem: ShardedProblem,
        layers: LayerChoice | None = None,
        seed: int = 0,
        near: ShardedHessian | None = None,
    ) -> None:
        self.problem = problem
        self.space: ParameterSpace = problem.space.select(layers)
        self.layers = None if layers is None else [layer.name for layer in problem.space.chosen(layers)]
        self.shape = (self.space.size, self.space.size)
        self.ranks = problem.share.ranks
        self._home = problem.weights()
        self.dtype, self.device = self._home.dtype, self._home.device
        own = set(self.space.names)
        self._used = [name in own for name in problem.space.names]
        self._sizes = [tensor.numel() for tensor in problem.locals()]
        lengths = self._each_length(self._own(self._home))
        self._lengths = [max(length, 1e-3 * max(lengths)) for length in lengths]
        self.step, self.product_error, self.asymmetry = self._found_step(seed, near)
        if not self.precision < ROUGH:
            raise InputError(
                f"products by differences are {self.precision:.0%} off at every step that was tried; nets with kinks "
                "(ReLU) need float64 weights and data for it, or a smooth activation"
            )

    @cached_property
    def layout(self) -> Layout:
        """Of each parameter the rows that a rank holds."""
        whole = [one for one, used in zip(self.problem.space.parameters, self._used, strict=True) if used]
        moves = [one.offset - entry.offset for one, entry in zip(whole, self.space.parameters, strict=True)]
        every = [
            tuple(
                slice(span.start - move, span.stop - move)
                for span, move in zip(itertools.compress(spans, self._used), moves, strict=True)
            )
            for spans in self.problem.layout.every
        ]
        return Layout(self.space.size, self.ranks, tuple(every))

    @property
    def precision(self) -> float:
        """The error of a product."""
        return max(self.product_error, super().precision)

    def draw(self, generator: torch.Generator) -> Tensor:
        """This rank's entries of a random vector, the same whatever the number of ranks; no rank draws a whole one."""
        seed = int(torch.randint(2**62, (1,), generator=generator))
        pieces = [self._drawn(seed, span) for span in self.layout.own]
        return torch.cat(pieces).to(self.device)

    def _drawn(self, seed: int, span: slice) -> Tensor:
        """Some entries of the vector of a seed: every `DRAWN` of it come from a generator of their own."""
        blocks = range(span.start // DRAWN, -(-span.stop // DRAWN))
        drawn = [
            torch.randn(DRAWN, generator=torch.Generator().manual_seed((seed + block) % 2**63), dtype=self.dtype)
            for block in blocks
        ]
        if not drawn:
            return torch.zeros(0, dtype=self.dtype)
        first = blocks[0] * DRAWN
        return torch.cat(drawn)[span.start - first : span.stop - first]

    def part_of_product(self, part: Tensor) -> Tensor:
        """This rank's entries of the product with a vector of which each rank gives its own.

        Raises:
            StaleOperatorError: if the weights changed since this was built.
        """
        if not torch.equal(self.problem.weights(), self._home):
            raise StaleOperatorError("weights changed since this operator was built; call problem.hessian() again")
        return self._product(part.to(dtype=self.dtype, device=self.device), self.step)

    def multiply(self, vectors: Tensor) -> Tensor:
        """Products with the rows of `(b, P)`, put together on every rank."""
        rows = [self.layout.whole(self.part_of_product(self.layout.take(vector))) for vector in vectors]
        return torch.stack(rows)

    def describe(self) -> dict[str, Any]:
        """The data, and how far the products can be trusted."""
        return {
            "operator": "hessian",
            "layers": self.layers,
            "products": "central differences",
            "step": self.step,
            "product_error": self.product_error,
            "asymmetry": self.asymmetry,
            **self.problem.describe(),
        }

    def _product(self, part: Tensor, step: float) -> Tensor:
        moved = max((one / whole for one, whole in zip(self._each_length(part), self._lengths, strict=True)), default=0)
        if moved == 0:
            return torch.zeros_like(part)
        reach, home = step / moved, self._own(self._home)
        try:
            self._move(home + reach * part)
            ahead = self._own(self.problem.gradient())
            self._move(home - reach * part)
            return (ahead - self._own(self.problem.gradient())) / (2 * reach)
        finally:
            self._move(home)

    def _own(self, entries: Tensor) -> Tensor:
        """Of this rank's entries of a vector over all layers those of this operator's."""
        if all(self._used):
            return entries
        return torch.cat(list(itertools.compress(torch.split(entries, self._sizes), self._used)))

    def _pieces(self, part: Tensor) -> tuple[Tensor, ...]:
        return torch.split(part, list(itertools.compress(self._sizes, self._used)))

    def _move(self, weights: Tensor) -> None:
        with torch.no_grad():
            tensors = itertools.compress(self.problem.locals(), self._used)
            for tensor, value in zip(tensors, self._pieces(weights), strict=True):
                tensor.copy_(value.view_as(tensor))

    def _each_length(self, part: Tensor) -> list[float]:
        """The length of each parameter over all ranks."""
        squares = self.ranks.add_up([float(piece.double().square().sum()) for piece in self._pieces(part)])
        return [math.sqrt(square) for square in squares]

    def _found_step(self, seed: int, near: ShardedHessian | None) -> tuple[float, float, float]:
        """As `_calibrated`, with few products where another operator's step does."""
        if near is not None:
            found = self._calibrated(seed, (near.step, 4 * near.step))
            if found[1] <= 10 * near.product_error:
                return found
        usual = torch.finfo(self.dtype).eps ** (1 / 3)
        return self._calibrated(seed, [usual * 4.0**power for power in STEPS])

    def _calibrated(self, seed: int, steps: Sequence[float]) -> tuple[float, float, float]:
        """The best of some steps, each held against the next, with the error and the asymmetry of its products."""
        generator = torch.Generator().manual_seed(seed)
        one, two = self.draw(generator), self.draw(generator)
        tried = [_Tried(step, self._product(one, step)) for step in steps]
        errors = [
            self.ranks.length(short.product - long.product) / max(self.ranks.length(long.product), 1e-300)
            for short, long in itertools.pairwise(tried)
        ]
        best = min(range(len(errors)), key=errors.__getitem__)
        other = self._product(two, tried[best].step)
        apart = abs(self.ranks.dot(two, tried[best].product) - self.ranks.dot(one, other))
        size = self.ranks.length(other) * self.ranks.length(one)
        asymmetry = apart / size if size else 0.0
        return tried[best].step, max(errors[best], asymmetry), asymmetry


def reshard(model: nn.Module) -> None:
    """Let every rank hold its rows alone again: the outermost module keeps its weights whole after a forward pass."""
    for module in model.modules():
        if hasattr(module, "reshard"):  # of FSDPModule
            cast(Any, module).reshard()


def row_layout(space: ParameterSpace, parameters: list[Any], count: int) -> Layout:
    """Of each parameter the rows that each rank holds, as `fully_shard` deals them out.

    Raises:
        InputError: if a parameter is dealt out otherwise.
    """
    every: list[list[slice]] = [[] for _ in range(count)]
    for entry, parameter in zip(space.parameters, parameters, strict=True):
        placements = tuple(getattr(parameter, "placements", ()))
        if len(placements) != 1 or not placements[0].is_shard(0) or parameter.device_mesh.size() != count:
            raise InputError(
                f"{entry.name!r} is not split by rows over all {count} ranks ({placements or 'a whole tensor'}); call "
                "fully_shard(model) on the model as a whole, without a second dimension of the mesh, or give Problem "
                "a model that is whole on every rank"
            )
        rows = entry.shape[0]
        width, beside = -(-rows // count), entry.size // max(rows, 1)
        for rank in range(count):
            start, stop = min(rank * width, rows), min((rank + 1) * width, rows)
            every[rank].append(slice(entry.offset + start * beside, entry.offset + stop * beside))
    return Layout(space.size, ranks(), tuple(tuple(spans) for spans in every))
