"""Curvature through the model's output, by products: the generalised Gauss-Newton matrix, and what is built like it.

Every operator here is `sum_b J_bᵀ M_b J_b`: J_b is the Jacobian of batch b's output, M_b a symmetric map of output
space. With `M_b = c_b ∇²criterion` it is the generalised Gauss-Newton matrix (Schraudolph 2002; Martens 2020, JMLR
21(146)), the Hessian without the curvature of the model itself.

`J v` is the derivative of `u -> (Jᵀu)·v`, reverse over reverse: the graph of `Jᵀu` is built once for a cotangent u that
stands for any, and is kept. A product is then one backward pass through that graph and one through the output's own:
four forward units, less than a product of the Hessian. Batches that do not fit the memory budget are built anew for
every product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import InputError
from thalweg.memory import NODE
from thalweg.operators.base import Term
from thalweg.operators.graphs import GraphOperator, Inputs, KeptGraphs
from thalweg.operators.light import light_operations
from thalweg.operators.seeds import Seeds
from thalweg.operators.twice import check_custom_functions
from thalweg.space import ParameterSpace

Curvature = Callable[[Tensor], Tensor]
"""A symmetric map of output space; takes and gives a tensor of the output's shape."""

Evaluate = Callable[[Term], tuple[Tensor, Curvature]]
"""A batch's output with its graph, and M there with the batch's share in it."""


@dataclass(frozen=True)
class OutputGraph:
    """One batch's output, and the graph of its Jacobian's transpose.

    Attributes:
        output: with the graph that made it.
        cotangent: u, a leaf of the output's shape; its values do not matter.
        top: the output as the place from which gradients start.
        pulled: where the graph of `Jᵀu` ends, for each parameter that the output uses. The values (P numbers for each
            batch) are not kept.
        curvature: M.
    """

    output: Tensor
    cotangent: Tensor
    top: Seeds
    pulled: Seeds
    curvature: Curvature


@dataclass(frozen=True)
class OutputKind:
    """Output graphs, for products of `sum_b J_bᵀ M_b J_b`.

    Attributes:
        evaluate: a batch's output, and M there.
        maker: the call that makes an operator on such graphs, for messages.
    """

    evaluate: Evaluate
    maker: str = "problem.gauss_newton()"

    def head(self, term: Term) -> Tensor:
        """The batch's output."""
        return self.evaluate(term)[0]

    def build(self, term: Term, inputs: Inputs) -> OutputGraph:
        """The output of one batch, and the graph of its Jacobian's transpose."""
        with light_operations():
            output, curvature = self.evaluate(term)
        cotangent = torch.zeros_like(output, requires_grad=True)
        wanted = list(inputs.values())
        pulled: Sequence[Tensor | None] = [None] * len(wanted)
        if output.requires_grad:
            pulled = torch.autograd.grad((output * cotangent).sum(), wanted, create_graph=True, allow_unused=True)
        return OutputGraph(
            output, cotangent, Seeds({"output": output}), Seeds(dict(zip(inputs, pulled, strict=True))), curvature
        )

    def add(self, total: Tensor, graph: OutputGraph, vectors: Tensor, part: ParameterSpace, inputs: Inputs) -> None:
        """`J_bᵀ M_b J_b v` by two backward passes for each row."""
        used = [parameter for parameter in part.parameters if parameter.name in graph.pulled]
        if not used:
            return  # the output does not use this block
        wanted = [inputs[parameter.name] for parameter in used]
        for row, into in zip(vectors, total, strict=True):
            weights = {p.name: row[p.span].view(p.shape).to(inputs[p.name].dtype) for p in used}
            (moved,) = graph.pulled.pull(weights, [graph.cotangent])
            assert moved is not None  # Jᵀu is linear in u
            bent = graph.curvature(moved).to(graph.output.dtype)
            for parameter, product in zip(used, graph.top.pull({"output": bent}, wanted), strict=True):
                if product is not None:
                    into[parameter.span].add_(product.detach().reshape(-1))

    def own_bytes(self, graph: OutputGraph) -> int:
        """The graph's nodes; output, cotangent, and as much for a curvature in closed form."""
        return NODE * graph.pulled.nodes + 3 * graph.output.nbytes


OutputGraphs = KeptGraphs[OutputGraph]
"""Outputs of all batches with the graphs of their Jacobians; operators on several layer blocks share them."""


class OutputOperator(GraphOperator[OutputGraph]):
    """`sum_b J_bᵀ M_b J_b`, or its diagonal block on some layers."""

    name = "curvature through the output"


class GaussNewtonOperator(OutputOperator):
    """The generalised Gauss-Newton matrix `G = sum_b c_b J_bᵀ (∇² criterion_b) J_b` (Schraudolph 2002).

    J_b is the Jacobian of batch b's output and `∇² criterion_b` the Hessian of the criterion at that output, exact for
    any criterion that is twice differentiable; c_b is the batch's share of the weighted mean loss. G is positive
    semi-definite where the criterion is convex in the output, and is the Hessian where the model is linear.
    """

    name = "gauss-newton"


def criterion_curvature(
    output: Tensor, criterion: Callable[[Tensor], Tensor], coefficient: float, parameters: Sequence[Tensor] = ()
) -> Curvature:
    """`coefficient * ∇² criterion` at an output, by double backward.

    Args:
        output: where the criterion is evaluated.
        criterion: output to scalar.
        coefficient: a factor.
        parameters: what the criterion may not depend on otherwise than by the output.

    Raises:
        InputError: if the criterion gives no scalar, uses parameters directly, or a custom function in it cannot be
            differentiated twice.
    """
    here = output.detach().requires_grad_()
    gradient = criterion_gradient(here, criterion, parameters, create_graph=True)
    if gradient is None or not gradient.requires_grad:
        return torch.zeros_like  # linear in the output

    seeds = Seeds({"gradient": gradient})

    def curvature(moved: Tensor) -> Tensor:
        (bent,) = seeds.pull({"gradient": moved}, [here])
        return torch.zeros_like(moved) if bent is None else bent.detach().mul_(coefficient)

    return curvature


def criterion_gradient(
    here: Tensor, criterion: Callable[[Tensor], Tensor], parameters: Sequence[Tensor] = (), create_graph: bool = False
) -> Tensor | None:
    """The gradient of the criterion at an output that is a leaf; None if it does not depend on it.

    Raises:
        InputError: if the criterion gives no scalar, uses parameters directly, or a custom function in it cannot be
            differentiated twice.
    """
    value = criterion(here)
    if not isinstance(value, Tensor) or value.numel() != 1:
        what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"the criterion returned {what}, expected a tensor with one number")
    if not value.requires_grad:
        return None
    if create_graph:
        check_custom_functions(value, [here])
    live = [parameter for parameter in parameters if parameter.requires_grad]
    direct = torch.autograd.grad(value, live, retain_graph=True, allow_unused=True) if live else ()
    if any(piece is not None for piece in direct):
        raise InputError(
            "the criterion uses parameters of the model directly (a penalty on the weights?); curvature through the "
            "output would leave that part out. Leave it out of tw.Loss, and add its own curvature to the products"
        )
    (gradient,) = torch.autograd.grad(value, here, create_graph=create_graph, allow_unused=True)
    return gradient


def checked_output(output: Any) -> Tensor:
    """The output, if it is a tensor of real numbers.

    Raises:
        InputError: otherwise.
    """
    if not isinstance(output, Tensor):
        raise InputError(
            f"the output of tw.Loss is a {type(output).__name__}, expected one tensor; pick or join what the criterion "
            "needs: output=lambda model, batch: model(batch[0]).logits, say"
        )
    if not output.is_floating_point():
        raise InputError(f"the output of tw.Loss has dtype {output.dtype}, expected real floating-point numbers")
    return output
