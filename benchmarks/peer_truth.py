"""Checks of returned pairs that owe nothing to any contestant: Hessian products in float64 on the pooled samples."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from benchmarks.workloads import Loaded
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel


@dataclass(frozen=True)
class Checked:
    """What is true of returned pairs.

    Attributes:
        quotients: `(k,)` float64, `v·Hv` of each normalised vector.
        residuals: `(k,)`, `|Hv - value v|` of each normalised vector over the largest quotient.
        orthonormality: largest entry of `|V V^T - I|`, the vectors as returned.
    """

    quotients: Tensor
    residuals: Tensor
    orthonormality: float


def exact_products(workload: Loaded, vectors: Tensor, piece: int = 64) -> Tensor:
    """Products of the Hessian of the mean loss with rows `(k, P)`, in float64.

    The sum of the samples' losses over their number, a piece of the samples at a time: it cannot depend on how the
    samples are batched.

    Args:
        workload: model and data.
        vectors: float64 rows.
        piece: samples at a time.
    """
    model = copy.deepcopy(workload.model).double().eval()
    parameters = list(model.parameters())
    inputs = workload.inputs.double() if workload.inputs.is_floating_point() else workload.inputs
    sizes = [p.numel() for p in parameters]
    total = torch.zeros_like(vectors)
    with sdpa_kernel(SDPBackend.MATH):
        for x, y in zip(inputs.split(piece), workload.targets.split(piece), strict=True):
            scores = model(x)
            loss = functional.cross_entropy(scores.reshape(-1, scores.shape[-1]), y.reshape(-1), reduction="sum")
            gradients = torch.autograd.grad(loss / workload.targets.numel(), parameters, create_graph=True)
            flat = torch.cat([g.reshape(-1) for g in gradients])
            for row, vector in enumerate(vectors):
                products = torch.autograd.grad(flat, parameters, vector, retain_graph=True)
                for part, product in zip(total[row].split(sizes), products, strict=True):
                    part.add_(product.reshape(-1))
    return total


def check(workload: Loaded, values: Tensor, vectors: Tensor) -> Checked:
    """Hold returned pairs against exact products.

    Args:
        workload: model and data.
        values: `(k,)` as returned.
        vectors: `(k, P)` as returned.
    """
    vectors = vectors.double()
    gram = vectors @ vectors.T
    units = vectors / vectors.norm(dim=1, keepdim=True)
    products = exact_products(workload, units)
    quotients = (units * products).sum(dim=1)
    lengths = (products - values.double().unsqueeze(1) * units).norm(dim=1)
    off = float((gram - torch.eye(len(gram), dtype=torch.float64)).abs().max())
    return Checked(quotients, lengths / quotients.max(), off)
