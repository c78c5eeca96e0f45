"""The whole spectrum of a symmetric operator, by stochastic Lanczos quadrature.

For a random unit vector v the Lanczos matrix T of m steps gives Gauss quadrature (Golub and Welsch 1969): with the
eigenpairs (θ_j, s_j) of T, `vᵀ f(H) v ≈ Σ_j s_1j² f(θ_j)`, exactly for polynomials up to degree 2m − 1, and the mean
over v of `vᵀ f(H) v` is `tr f(H) / P`, the average of f over all eigenvalues. Every step is orthogonalised against the
whole basis: without that, copies of the outermost eigenvalues appear and take the weight of others.

Sources: S. Ubaru, J. Chen, Y. Saad, SIAM J. Matrix Anal. Appl. 38(4), 2017; B. Ghorbani, S. Krishnan, Y. Xiao, ICML
2019, arXiv 1901.10159; Z. Yao, A. Gholami, K. Keutzer, M. Mahoney, *PyHessian*, 2020, arXiv 1912.07145.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.directions import as_generator
from thalweg.errors import InputError
from thalweg.memory import free_memory
from thalweg.operators.base import Operator
from thalweg.progress import Progress, Tell, shown
from thalweg.solvers.krylov import KrylovSpace
from thalweg.tables import Table, Tabular, quantities

_ROUNDING = 1e-7


@dataclass(frozen=True, eq=False)
class Average:
    """The average of a function over all eigenvalues, with what is not known of it.

    Attributes:
        value: float64 `(n,)` for n points or `()` for one number.
        error: the same shape: the standard error over probes, `sd / √probes`. It holds what the draw of the probes
            leaves open, not what the quadrature smooths over. Two of them hold the truth in some 90 of 100 draws of 8
            probes; in some 80 where a single eigenvalue has most of the average, as the top one of a high moment has.
    """

    value: Tensor
    error: Tensor


@dataclass(frozen=True, eq=False)
class SpectralDensity(Tabular):
    """Where the P eigenvalues lie, as weighted nodes for each probe vector.

    Attributes:
        nodes: float64 `(probes, steps)`, Ritz values, ascending for each probe.
        weights: float64 `(probes, steps)`, summing to 1 for each probe. A probe whose Krylov space ended early is
            filled up with weight 0 at its last node.
        size: P.
        matvecs: products spent.
        provenance: plain JSON values that say how it was found.
    """

    nodes: Tensor
    weights: Tensor
    size: int
    matvecs: int
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        ends = f"from {self.smallest:.4g} to {self.largest:.4g}, P={self.size:,}"
        return f"SpectralDensity({ends}, {len(self.nodes)} probes of {self.nodes.shape[1]} steps)"

    def to_table(self) -> Table:
        """A row for each of its figures."""
        return quantities(
            smallest=self.smallest, largest=self.largest, resolution=self.resolution, size=self.size,
            probes=len(self.nodes), products=self.matvecs,
        )  # fmt: skip

    @property
    def largest(self) -> float:
        """The largest Ritz value: a lower bound of the largest eigenvalue, close to it where that stands apart."""
        return float(self.nodes.max())

    @property
    def smallest(self) -> float:
        """The smallest Ritz value: an upper bound of the smallest (most negative) eigenvalue."""
        return float(self.nodes.min())

    @property
    def resolution(self) -> float:
        """A width, in units of an eigenvalue, below which structure in the bulk is not resolved: `π (b − a) / 2m`.

        It is the distance of m Chebyshev nodes in the middle of the interval from `smallest` to `largest`.
        """
        return math.pi * (self.largest - self.smallest) / (2 * self.nodes.shape[1])

    def average(self, function: Callable[[Tensor], Tensor]) -> Average:
        """The average of a function over the eigenvalues, `tr f(H) / P`.

        Args:
            function: maps nodes `(probes, steps)` to values `(probes, steps)`, or `(n, probes, steps)` for n functions.
        """
        each = (function(self.nodes) * self.weights).sum(dim=-1)
        return Average(each.mean(dim=-1), each.std(dim=-1) / math.sqrt(each.shape[-1]))

    def moment(self, degree: int) -> Average:
        """The average of `λ^degree`; for each probe the quadrature is exact up to degree 2 · steps − 1."""
        return self.average(lambda nodes: nodes**degree)

    def density(self, grid: Tensor, width: float | None = None) -> Average:
        """The density of eigenvalues, smoothed by a Gaussian: `mean of exp(−(x − λ)² / 2w²) / (w √2π)`.

        Args:
            grid: `(n,)` where to evaluate it.
            width: w, the standard deviation, in units of an eigenvalue; `resolution` unless given. Below that, the
                nodes show as peaks of their own.

        Returns:
            Values and standard errors `(n,)`, in units of one over an eigenvalue; the values integrate to 1.

        Raises:
            InputError: if the width is not positive.
        """
        width = self._width(width)
        factor = width * math.sqrt(2 * math.pi)
        return self._on(grid, lambda away: torch.exp(-((away / width) ** 2) / 2) / factor)

    def cumulative(self, grid: Tensor, width: float | None = None) -> Average:
        """The share of eigenvalues up to each point, smoothed by the same Gaussian as `density`.

        Args:
            grid: `(n,)` where to evaluate it.
            width: the standard deviation of the smoothing; `resolution` unless given.

        Raises:
            InputError: if the width is not positive.
        """
        width = self._width(width)
        return self._on(grid, lambda away: torch.special.ndtr(away / width))

    def share_above(self, levels: Tensor) -> tuple[Average, Average, Average]:
        """The share of eigenvalues above each level, and between what it must lie.

        For a level between neighbouring nodes, `θ_j ≤ x < θ_j+1`, the mass above it lies between the weights of the
        nodes beyond θ_j+1 and those from θ_j on (Chebyshev, Markov and Stieltjes; G. Szegő, *Orthogonal Polynomials*,
        1939, §3.41). That holds for each probe. The errors are what the draw of the probes leaves open: of n out of P
        eigenvalues a uniform unit vector holds a share with the variance `2n(P − n) / P²(P + 2)`; three probes would
        tell it badly by their own spread.

        Args:
            levels: `(n,)`.

        Returns:
            The quadrature's own share (weights of the nodes beyond the level), the least and the most it can be, each
            `(n,)`.
        """
        points = torch.as_tensor(levels, dtype=torch.float64, device="cpu").reshape(-1)
        tails = self.weights.flip(-1).cumsum(-1).flip(-1)
        tails = torch.nn.functional.pad(tails, (1, 2))  # from one before the first node to one beyond the last
        tails[:, 0] = 1.0
        first = torch.searchsorted(self.nodes, points.expand(len(self.nodes), -1).contiguous(), right=True)
        found = (torch.gather(tails, 1, first + shift) for shift in (1, 2, 0))
        own, least, most = (self._drawn(one.mean(0)) for one in found)
        return own, least, most

    def _drawn(self, share: Tensor) -> Average:
        """A share with the error that the draw of the probes gives it; that of one eigenvalue at the least."""
        counted = (share * self.size).clamp(1.0, max(self.size - 1.0, 1.0))
        variance = 2 * counted * (self.size - counted) / (self.size**2 * (self.size + 2) * len(self.nodes))
        return Average(share, variance.clamp(min=0.0).sqrt())

    def negative_mass(self, below: float | None = None) -> Average:
        """The share of eigenvalues below a threshold.

        A node stands for all eigenvalues near it, so a bulk that crosses the threshold is counted only to within the
        weight of the node that is nearest.

        Args:
            below: the threshold; by default what is more negative than rounding, −1e-7 times the largest magnitude
                (so that zeros, of which networks have many, are not counted).
        """
        threshold = -_ROUNDING * float(self.nodes.abs().max()) if below is None else below
        return self.average(lambda nodes: (nodes < threshold).double())

    def _width(self, width: float | None) -> float:
        if width is None:
            width = self.resolution or max(abs(self.largest), 1.0) * _ROUNDING
        if not 0 < width < math.inf:
            raise InputError(f"width={width} is not a positive number; leave it out for {self.resolution:.3g}")
        return width

    def _on(self, grid: Tensor, kernel: Callable[[Tensor], Tensor]) -> Average:
        points = torch.as_tensor(grid, dtype=torch.float64, device="cpu").reshape(-1)
        parts = [self.average(lambda nodes, x=x: kernel(x - nodes)) for x in points]  # type: ignore[misc]
        return Average(torch.stack([part.value for part in parts]), torch.stack([part.error for part in parts]))


def spectral_density(
    operator: Operator,
    probes: int = 10,
    steps: int = 80,
    seed: int | torch.Generator = 0,
    progress: Tell | bool = False,
) -> SpectralDensity:
    """Where all eigenvalues of a symmetric operator lie, with error bars.

    Costs `probes · steps` products and holds one basis of `steps + 1` vectors of length P.

    Args:
        operator: `problem.hessian()`, `problem.gauss_newton()`, or any `Operator`.
        probes: random start vectors, uniform on the sphere; the error bars are their spread. The error falls as
            1/√(probes · P).
        steps: Lanczos steps for each; at most P are made.
        seed: for the probes.
        progress: called after every product; True shows a line with the products and the time left.

    Raises:
        InputError: if probes < 2 or steps < 1, the basis does not fit the memory, or the operator is not symmetric or
            not finite.
    """
    size = operator.shape[0]
    if probes < 2:
        raise InputError(f"probes={probes} leave no error bars; use 2 or more, 10 is usual")
    if steps < 1:
        raise InputError(f"steps={steps} is not a positive number; 80 is usual")
    steps = min(steps, size)
    need = (steps + 1) * operator.width * operator.dtype.itemsize
    if need > free_memory(operator.device):
        raise InputError(
            f"a basis of {steps + 1} vectors of {operator.width:,} takes {need / 2**30:.2f} GiB; lower steps"
        )
    generator = as_generator(seed)
    nodes, weights = np.empty((probes, steps)), np.zeros((probes, steps))
    matvecs = 0
    with shown(progress, "spectral density") as tell:
        for probe in range(probes):
            space = KrylovSpace(operator, steps, generator)
            while space.size == 0 or (space.size < steps and space.beta > 0):  # at a breakdown the quadrature is exact
                space.grow()
                if tell is not None:
                    tell(Progress("density", matvecs + space.matvecs, planned=probes * steps))
            found, vectors = np.linalg.eigh(space.projection[: space.size, : space.size])
            nodes[probe, : space.size], nodes[probe, space.size :] = found, found[-1]
            weights[probe, : space.size] = vectors[0] ** 2
            matvecs += space.matvecs
    about = {"method": "stochastic Lanczos quadrature", "seed": seed if isinstance(seed, int) else None}
    return SpectralDensity(
        torch.as_tensor(nodes), torch.as_tensor(weights), size, matvecs, {**about, **operator.describe()}
    )
