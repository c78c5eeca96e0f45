"""Shields: what is known of an old task about some parameters, and how a displacement of them is shrunk by it.

With w* the weights that are remembered and A the curvature of the old task's loss there, the penalty
`½ λ (w − w*)ᵀ A (w − w*)` is taken implicitly: after the optimizer's step to w̃ the weights become

    argmin_w  ½ |w − w̃|² + ½ ητλ (w − w*)ᵀ A (w − w*)   =   w* + (1 + τ A)⁻¹ (w̃ − w*),   τ = η λ,

with η the step size, which is stable at any strength; an explicit penalty diverges once τ · max(A) > 2. Where the
penalty is infinite it is a projection: the displacement has no part there.

Sources: J. Kirkpatrick et al., PNAS 114(13), 2017 (diagonal); H. Ritter, A. Botev, D. Barber, NeurIPS 2018,
arXiv 1805.07810 (Kronecker factors); T. George et al., NeurIPS 2018, arXiv 1806.03884 (the second moments in their
eigenbasis); G. Saha, I. Garg, K. Roy, ICLR 2021, arXiv 2103.09762 (projection off the inputs' leading subspace).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.errors import InputError
from thalweg.space import Parameter

Named = Mapping[str, Tensor]
Layout = Literal["linear", "transposed"]

TINY = 1e-30
DIGITS = 2
"""Digits to which τ is rounded where a system is solved for it, so that the solution is kept between steps."""


class Shield(ABC):
    """What is known about some parameters of an old task."""

    kind: str
    names: tuple[str, ...]

    @abstractmethod
    def shrink(self, moved: Named, tau: float) -> dict[str, Tensor]:
        """The displacement `(1 + τ A)⁻¹ moved` of its parameters; new tensors.

        Args:
            moved: displacements from the remembered weights, by name.
            tau: strength times step size; infinity for a projection wherever anything is known.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What has to be kept, by name."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """The rest, as plain JSON values."""

    def to(self, like: Tensor) -> Shield:
        """The same on the device of some weights, in the precision in which their displacement is reckoned."""
        moved = {name: tensor.to(like.device, working(like.dtype)) for name, tensor in self.tensors().items()}
        return replace(self, **moved)  # type: ignore[type-var]

    def cpu(self) -> Shield:
        """The same in main memory, in float32."""
        return replace(self, **{name: tensor.cpu().float() for name, tensor in self.tensors().items()})  # type: ignore[type-var]

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return sum(tensor.nbytes for tensor in self.tensors().values())


@dataclass(frozen=True, eq=False)
class KroneckerShield(Shield):
    """A layer `y = W x + b`: hard on the leading part of its inputs, soft on the rest.

    W and b are one matrix of shape `(out, in + 1)`, its last column for the bias, if there is one. With U and Q the
    eigenvectors of the second moments of output gradients and of inputs, the curvature is `S_ij` along `u_i q_jᵀ`.

    Attributes:
        weight: the parameter's name.
        bias: the other's; "" where there is none.
        layout: "transposed" where the weight is `(in, out)`.
        inputs: Q, float32 `(in, r)` in order of their energy.
        energies: `(r,)`, the inputs' second moments along them.
        total: the inputs' whole second moment, of which `energies` are a part.
        outputs: U `(out, out)`; of shape `(0, 0)` where outputs are taken one by one.
        scales: `(out,)`, the gradients' second moments along U, or of each output.
        curvature: S `(out, r)`.
        hard: share of the inputs' energy whose leading part is projected off.
        tasks: how many tasks are in it.
    """

    weight: str
    bias: str
    layout: Layout
    inputs: Tensor
    energies: Tensor
    total: float
    outputs: Tensor
    scales: Tensor
    curvature: Tensor
    hard: float
    tasks: int = 1
    kind: str = field(default="kronecker", init=False)
    _factors: dict[float, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The weight, and the bias if there is one."""
        return (self.weight, self.bias) if self.bias else (self.weight,)

    @cached_property
    def hard_count(self) -> int:
        """How many input directions are projected off: as few as hold the share `hard` of the energy."""
        if self.hard <= 0:
            return 0
        reached = self.energies.double().cumsum(0) >= self.hard * self.total * (1 - 1e-9)
        return int((~reached).sum()) + 1 if bool(reached.any()) else len(self.energies)

    def shrink(self, moved: Named, tau: float) -> dict[str, Tensor]:
        """Two thin products with Q, and two small ones with U between them; without a penalty only the hard part."""
        weight = moved[self.weight]
        flat = self._matrix(weight, moved[self.bias] if self.bias else None)
        if tau == 0:
            return self._named(torch.addmm(flat, flat @ self._hard, self._hard.T, alpha=-1), weight.shape)
        inside = flat @ self.inputs
        kept, hard = inside.clone(), self.hard_count
        if hard < kept.shape[1]:
            factor, soft = self._factor(tau), inside[:, hard:]
            turned = self.outputs.shape[0] > 0
            kept[:, hard:] = self.outputs @ (factor * (self.outputs.T @ soft)) if turned else factor * soft
        flat = torch.addmm(flat, kept, self.inputs.T, alpha=-1)
        return self._named(flat, weight.shape)

    @cached_property
    def _hard(self) -> Tensor:
        return self.inputs[:, : self.hard_count].contiguous()

    def _factor(self, tau: float) -> Tensor:
        """What the soft part takes away, kept for the τ that was last asked for."""
        if tau not in self._factors:
            self._factors.clear()
            self._factors[tau] = _removed(self.curvature[:, self.hard_count :], tau)
        return self._factors[tau]

    def _matrix(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        flat = weight.T if self.layout == "transposed" else weight.reshape(weight.shape[0], -1)
        return flat if bias is None else torch.cat([flat, bias.unsqueeze(1)], dim=1)

    def _named(self, flat: Tensor, shape: Sequence[int]) -> dict[str, Tensor]:
        weight = flat[:, :-1] if self.bias else flat
        found = {self.weight: (weight.T if self.layout == "transposed" else weight).reshape(shape)}
        return {**found, self.bias: flat[:, -1]} if self.bias else found

    def tensors(self) -> dict[str, Tensor]:
        """Q, its energies, U, its scales and S."""
        names = ("inputs", "energies", "outputs", "scales", "curvature")
        return {name: getattr(self, name) for name in names}

    def about(self) -> dict[str, Any]:
        """Names, layout, the whole energy and the hard share."""
        names = ("weight", "bias", "layout", "total", "hard", "tasks")
        return {name: getattr(self, name) for name in names}

    def merged(self, later: KroneckerShield) -> KroneckerShield:
        """Both tasks' in the space of one: S is added in the basis of both moments.

        Each task's moment of the inputs is taken as shares of its own energy, so that a task of large inputs does not
        take the hard part for itself; after n tasks a moment is the sum of n. The diagonal of a turned diagonal
        operator is exact: `S' = (U'ᵀU)² S ((Q'ᵀQ)²)ᵀ`, squares of entries.
        """
        first, second = max(self.total, TINY) / self.tasks, max(later.total, TINY) / later.tasks
        moment = _gram(self.inputs, self.energies / first) + _gram(later.inputs, later.energies / second)
        inputs, energies = leading(moment, max(self.inputs.shape[1], later.inputs.shape[1]))
        scales = self.scales + later.scales
        outputs = self.outputs
        if outputs.shape[0]:
            both = _gram(self.outputs, self.scales) + _gram(later.outputs, later.scales)
            outputs, scales = leading(both)
        curvature = sum(_turned(one, inputs, outputs) for one in (self, later))
        assert isinstance(curvature, Tensor)
        tasks, hard = self.tasks + later.tasks, max(self.hard, later.hard)
        return replace(
            later, inputs=inputs, energies=energies, total=float(tasks), outputs=outputs, scales=scales,
            curvature=curvature, hard=hard, tasks=tasks,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class DiagonalShield(Shield):
    """Single numbers: the curvature along each.

    Attributes:
        name: the parameter's.
        curvature: of its shape.
    """

    name: str
    curvature: Tensor
    kind: str = field(default="diagonal", init=False)

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Its one parameter."""
        return (self.name,)

    def shrink(self, moved: Named, tau: float) -> dict[str, Tensor]:
        """Entry by entry."""
        return {self.name: moved[self.name] * (1 - _removed(self.curvature, tau))}

    def tensors(self) -> dict[str, Tensor]:
        """The curvature."""
        return {"curvature": self.curvature}

    def about(self) -> dict[str, Any]:
        """The name."""
        return {"name": self.name}

    def merged(self, later: DiagonalShield) -> DiagonalShield:
        """The sum."""
        return replace(later, curvature=self.curvature + later.curvature)


@dataclass(frozen=True, eq=False)
class DirectionShield(Shield):
    """Directions across layers, with a diagonal where one is known: `A = D + Vᵀ Λ V`.

    Attributes:
        parameters: those that the directions run through, in order.
        vectors: V, orthonormal rows `(k, P)`.
        values: Λ `(k,)`, at least 0; infinite where the direction is projected off.
        diagonal: D `(P,)`, or of shape `(0,)`.
    """

    parameters: tuple[Parameter, ...]
    vectors: Tensor
    values: Tensor
    diagonal: Tensor
    kind: str = field(default="directions", init=False)
    _solved: dict[float, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        """In the order of the vectors' entries."""
        return tuple(parameter.name for parameter in self.parameters)

    def shrink(self, moved: Named, tau: float) -> dict[str, Tensor]:
        """By Woodbury's identity: one product with V and one with Vᵀ."""
        flat = torch.cat([moved[name].reshape(-1) for name in self.names])
        scale, inner = self._system(tau)
        flat = flat * scale if len(scale) else flat
        inside = inner @ (self.vectors @ flat)
        back = self.vectors.T @ inside
        flat = flat - (back * scale if len(scale) else back)
        return {p.name: flat[p.span].view(p.shape) for p in self.parameters}

    def _system(self, tau: float) -> tuple[Tensor, Tensor]:
        """`(1 + τD)⁻¹`, and `(Λ⁻¹/τ + V (1 + τD)⁻¹ Vᵀ)⁻¹`, kept for the τ that was last asked for."""
        rounded = tau if math.isinf(tau) else float(f"{tau:.{DIGITS}g}")
        if rounded not in self._solved:
            scale = 1 - _removed(self.diagonal, rounded)
            bent = self.vectors if not len(scale) else self.vectors * scale
            stiff = rounded * self.values.double()
            stiff[torch.isinf(self.values)] = math.inf  # hard at any strength
            root = torch.where(stiff < 1, stiff, torch.ones_like(stiff)).sqrt()
            rest = torch.where(stiff < 1, torch.ones_like(stiff), 1 / stiff)  # neither 0 nor infinity is divided
            small = torch.diag(rest) + root.unsqueeze(1) * (bent.double() @ self.vectors.double().T) * root
            inner = root.unsqueeze(1) * torch.linalg.pinv(small, hermitian=True) * root
            self._solved.clear()
            self._solved[rounded] = scale, inner.to(self.vectors)
        return self._solved[rounded]

    def tensors(self) -> dict[str, Tensor]:
        """V, Λ and D."""
        return {"vectors": self.vectors, "values": self.values, "diagonal": self.diagonal}

    def about(self) -> dict[str, Any]:
        """The parameters."""
        return {"parameters": [{"name": p.name, "shape": list(p.shape)} for p in self.parameters]}

    def stacked(self, other: DirectionShield) -> DirectionShield:
        """Both sets at once, none of them cut."""
        return self._summed(other, None)

    def merged(self, later: DirectionShield) -> DirectionShield:
        """The sum; soft directions are cut to as many as the larger of the two has, hard ones are all kept.

        Raises:
            InputError: if the two run through different parameters.
        """
        return self._summed(later, max(int((~torch.isinf(one.values)).sum()) for one in (self, later)))

    def _summed(self, later: DirectionShield, most: int | None) -> DirectionShield:
        if self.names != later.names:
            raise InputError("directions of different parameters cannot be put together; give them of the same ones")
        values, rows = torch.cat([self.values, later.values]), torch.cat([self.vectors, later.vectors])
        hard = torch.isinf(values)
        firm, _ = _spanned(rows[hard], None)
        soft = rows[~hard] - (rows[~hard] @ firm.T) @ firm  # along what is hard nothing is left to be soft
        bent, sizes = _spanned(soft * values[~hard].sqrt().unsqueeze(1), most)
        diagonal = later.diagonal if not len(self.diagonal) else self.diagonal
        if len(self.diagonal) and len(later.diagonal):
            diagonal = self.diagonal + later.diagonal
        infinite = torch.full((len(firm),), math.inf).to(values)
        vectors, values = torch.cat([firm, bent]), torch.cat([infinite, sizes.square()])
        return replace(later, vectors=vectors, values=values, diagonal=diagonal)


def _spanned(rows: Tensor, most: int | None) -> tuple[Tensor, Tensor]:
    """Orthonormal rows that span the given ones, by size, and their singular values; those of nothing are left out."""
    if not len(rows):
        return rows, rows.new_zeros(0)
    _, sizes, vectors = torch.linalg.svd(rows, full_matrices=False)
    count = int((sizes > 1e-6 * sizes[0]).sum())
    count = count if most is None else min(count, most)
    return vectors[:count].contiguous(), sizes[:count]


def working(dtype: torch.dtype) -> torch.dtype:
    """The precision in which displacements of weights are reckoned: float64 for such weights, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _removed(curvature: Tensor, tau: float) -> Tensor:
    """`τA / (1 + τA)`: the share of a displacement that a penalty takes away; all of it where τA is infinite."""
    if math.isinf(tau):
        return (curvature > 0).to(curvature)
    scaled = tau * curvature
    return torch.where(torch.isinf(scaled), torch.ones_like(scaled), scaled / (1 + scaled))


def _gram(vectors: Tensor, values: Tensor) -> Tensor:
    wide = vectors.double()
    return (wide * values.double()) @ wide.T


def _turned(shield: KroneckerShield, inputs: Tensor, outputs: Tensor) -> Tensor:
    across = (inputs.double().T @ shield.inputs.double()) ** 2
    found = shield.curvature.double() @ across.T
    if outputs.shape[0]:
        found = (outputs.double().T @ shield.outputs.double()) ** 2 @ found
    return found.to(shield.curvature)


def leading(moment: Tensor, most: int | None = None) -> tuple[Tensor, Tensor]:
    """The eigenvectors with the largest values of a moment, float32 `(n, r)`, and those values.

    Args:
        moment: `(n, n)`.
        most: r at the most, and those that hold nothing to rounding are left out; all n unless given.
    """
    values, vectors = torch.linalg.eigh(moment.double())
    values, vectors = values.flip(0).clamp(min=0.0), vectors.flip(1)
    count = len(values) if most is None else max(1, min(most, int((values > 1e-9 * values[0]).sum())))
    return vectors[:, :count].float().contiguous(), values[:count].float()
