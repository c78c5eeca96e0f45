"""The Hessian of a loss, by products.

`H v = d/dw (g(w)·v)`: reverse over reverse (Pearlmutter 1994). The gradient's graph of each batch is built once
and kept, so that a product costs one backward pass through it, about two gradients; batches that do not fit the
memory budget are built anew for every product, which costs about three gradients more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from thalweg.operators.base import BatchLosses, Term
from thalweg.operators.chunking import Chunking
from thalweg.operators.graphs import GraphOperator, Inputs, KeptGraphs
from thalweg.space import LayerChoice, ParameterSpace


@dataclass(frozen=True)
class GradientGraph:
    """One batch's gradient graph.

    Attributes:
        coefficient: the batch's share.
        edges: where the graph of the gradient ends, for each parameter in which the gradient is not constant. Edges and
            not tensors, since the gradient's values (P numbers for each batch) are of no use.
    """

    coefficient: float
    edges: Mapping[str, GradientEdge]


class GradientKind:
    """Gradient graphs, for products of the Hessian."""

    maker = "problem.hessian()"

    def build(self, term: Term, inputs: Inputs) -> GradientGraph:
        """The gradient of one batch's loss with its graph."""
        loss = term.loss()
        if not loss.requires_grad:
            return GradientGraph(term.coefficient, {})
        gradients = torch.autograd.grad(loss, list(inputs.values()), create_graph=True, allow_unused=True)
        named = zip(inputs, gradients, strict=True)
        edges = {name: get_gradient_edge(g) for name, g in named if g is not None and g.requires_grad}
        return GradientGraph(term.coefficient, edges)

    def add(self, total: Tensor, graph: GradientGraph, vectors: Tensor, part: ParameterSpace, inputs: Inputs) -> None:
        """`coefficient * H_b v` by one backward pass through the gradient's graph for each row."""
        used = [parameter for parameter in part.parameters if parameter.name in graph.edges]
        if not used:
            return  # the loss is linear in this block, or does not use it
        wanted = [inputs[parameter.name] for parameter in part.parameters]
        edges = [graph.edges[parameter.name] for parameter in used]
        for row, into in zip(vectors, total, strict=True):
            weights = [row[p.span].view(p.shape).to(inputs[p.name].dtype) for p in used]
            products = torch.autograd.grad(edges, wanted, weights, retain_graph=True, allow_unused=True)
            for parameter, product in zip(part.parameters, products, strict=True):
                if product is not None:
                    into[parameter.span].add_(product.detach().reshape(-1), alpha=graph.coefficient)

    def own_bytes(self, graph: GradientGraph) -> int:
        """Nothing: autograd holds it all."""
        return 0


GradientGraphs = KeptGraphs[GradientGraph]
"""Gradient graphs of all batches; operators on several layer blocks share them."""


def gradient_graphs(
    losses: BatchLosses,
    memory_budget: int | None = None,
    layers: LayerChoice | None = None,
    chunking: Chunking | None = None,
) -> GradientGraphs:
    """Gradient graphs of batch losses; arguments as for `KeptGraphs`."""
    return KeptGraphs(losses, GradientKind(), memory_budget, layers, chunking)


class HessianOperator(GraphOperator[GradientGraph]):
    """The Hessian of the weighted mean loss, or its diagonal block on some layers."""

    name = "hessian"
