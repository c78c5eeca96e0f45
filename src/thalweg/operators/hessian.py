"""The Hessian of a loss, by products.

`H v = d/dw (g(w)·v)`: reverse over reverse (Pearlmutter 1994). The gradient's graph of each batch is built once
and kept, so that a product costs one backward pass through it, about two gradients; batches that do not fit the
memory budget are built anew for every product, which costs about three gradients more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.memory import NODE
from thalweg.operators.base import BatchLosses, Term
from thalweg.operators.chunking import Chunking
from thalweg.operators.graphs import GraphOperator, Inputs, KeptGraphs
from thalweg.operators.light import light_operations
from thalweg.operators.seeds import Seeds
from thalweg.shares import Share
from thalweg.space import LayerChoice, ParameterSpace


@dataclass(frozen=True)
class GradientGraph:
    """One batch's gradient graph.

    Attributes:
        coefficient: the batch's share.
        seeds: where the graph of the gradient ends, for each parameter in which the gradient is not constant. The
            gradient's values (P numbers for each batch) are not kept.
    """

    coefficient: float
    seeds: Seeds


class GradientKind:
    """Gradient graphs, for products of the Hessian."""

    maker = "problem.hessian()"

    def head(self, term: Term) -> Tensor:
        """The batch's loss."""
        return term.loss()

    def build(self, term: Term, inputs: Inputs) -> GradientGraph:
        """The gradient of one batch's loss with its graph."""
        with light_operations():
            loss = term.loss()
        if not loss.requires_grad:
            return GradientGraph(term.coefficient, Seeds({}))
        gradients = torch.autograd.grad(loss, list(inputs.values()), create_graph=True, allow_unused=True)
        return GradientGraph(term.coefficient, Seeds(dict(zip(inputs, gradients, strict=True))))

    def add(self, total: Tensor, graph: GradientGraph, vectors: Tensor, part: ParameterSpace, inputs: Inputs) -> None:
        """`coefficient * H_b v` by one backward pass through the gradient's graph for each row."""
        used = [parameter for parameter in part.parameters if parameter.name in graph.seeds]
        if not used:
            return  # the loss is linear in this block, or does not use it
        wanted = [inputs[parameter.name] for parameter in part.parameters]
        for row, into in zip(vectors, total, strict=True):
            weights = {p.name: row[p.span].view(p.shape).to(inputs[p.name].dtype) for p in used}
            products = graph.seeds.pull(weights, wanted)
            for parameter, product in zip(part.parameters, products, strict=True):
                if product is not None:
                    into[parameter.span].add_(product.detach().reshape(-1), alpha=graph.coefficient)

    def own_bytes(self, graph: GradientGraph) -> int:
        """The graph's nodes."""
        return NODE * graph.seeds.nodes


GradientGraphs = KeptGraphs[GradientGraph]
"""Gradient graphs of all batches; operators on several layer blocks share them."""


def gradient_graphs(
    losses: BatchLosses,
    memory_budget: int | None = None,
    layers: LayerChoice | None = None,
    chunking: Chunking | None = None,
    share: Share | None = None,
) -> GradientGraphs:
    """Gradient graphs of batch losses; arguments as for `KeptGraphs`."""
    return KeptGraphs(losses, GradientKind(), memory_budget, layers, chunking, share)


class HessianOperator(GraphOperator[GradientGraph]):
    """The Hessian of the weighted mean loss, or its diagonal block on some layers."""

    name = "hessian"
