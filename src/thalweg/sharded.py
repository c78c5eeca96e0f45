"""Problems whose model is itself split over ranks (FSDP2, `fully_shard`): no rank ever holds a whole vector.

FSDP2 gathers a layer's weights when it is used and scatters its gradient when it is done, and its hooks belong to one
backward pass: there is no second one to be had through them. So products are central differences of gradients,

    H v ≈ (g(w + h v) − g(w − h v)) / 2h,

whose step is chosen when the operator is built, and whose error is measured there and stated. A product costs two
gradients and sends what two backward passes send.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from thalweg.batches import sample_count, to_device
from thalweg.collectives import Layout, ranks
from thalweg.errors import InputError
from thalweg.evaluation import evaluating
from thalweg.losses import LabelCount, Loss, model_loss
from thalweg.operators.split import ShardedHessian
from thalweg.shares import counted, own_part
from thalweg.space import LayerChoice, ParameterSpace, measure_depths
from thalweg.survey import surveyed


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
