"""How far two sets of directions agree, held against both nulls.

The captured energy of a unit direction a in a subspace is the squared length of its projection, between 0 and 1.
The mean over an orthonormal basis does not depend on the basis: it is the mean squared cosine of the principal
angles between the two subspaces (times what the dimensions allow).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from thalweg.analysis.nulls import Null, layer_matched_null, uniform_null
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.rows import Rows
from thalweg.tables import Table, Tabular

NullName = Literal["uniform", "layer_matched"]


@dataclass(frozen=True, eq=False)
class Overlap(Tabular):
    """How far the directions `a` lie in the span of the directions `b`.

    Attributes:
        captured: float64 `(ka,)`, energy of each a_i in span(b).
        angles: float64 `(min(ka, kb),)` principal angles between the two spans, ascending, in radians.
        matrix: float64 `(ka, kb)`, squared inner products of unit vectors.
        uniform: the null of a random subspace.
        layer_matched: the null of directions random within layers, or None where no layers are known.
        null: which of the two `expected`, `p_value` and `log10_p` speak of.
        labels: names of a and b.
    """

    captured: Tensor
    angles: Tensor
    matrix: Tensor
    uniform: Null
    layer_matched: Null | None
    null: NullName
    labels: tuple[str, str]

    @property
    def mean(self) -> float:
        """Mean captured energy of an orthonormal basis of span(a)."""
        return float((torch.cos(self.angles) ** 2).sum() / self.captured.shape[0])

    @property
    def _chosen(self) -> Null:
        if self.null == "uniform":
            return self.uniform
        if self.layer_matched is None:
            raise InputError("no layers are known here; build both sides with space=problem.space")
        return self.layer_matched

    @property
    def expected(self) -> float:
        """What the mean would be under the chosen null."""
        return self._chosen.expected

    @property
    def p_value(self) -> float:
        """Probability of at least the measured mean under the chosen null."""
        return self._chosen.p_value

    @property
    def log10_p(self) -> float:
        """The same as a decimal logarithm."""
        return self._chosen.log10_p

    def to_table(self) -> Table:
        """A row for each direction of a with its captured energy, and one for their mean, beside both nulls."""
        matched = None if self.layer_matched is None else self.layer_matched
        rows = [
            {"direction": i, "captured": float(c), "uniform": None, "layer_matched": None, "p_uniform": None,
             "p_layer_matched": None}
            for i, c in enumerate(self.captured)
        ]  # fmt: skip
        mean = {
            "direction": "mean",
            "captured": self.mean,
            "uniform": self.uniform.expected,
            "layer_matched": None if matched is None else matched.expected,
            "p_uniform": self.uniform.p_value,
            "p_layer_matched": None if matched is None else matched.p_value,
        }
        return Table.of([*rows, mean])

    def __repr__(self) -> str:
        layers = "" if self.layer_matched is None else f", layer-matched {self.layer_matched.expected:.3g}"
        return (
            f"Overlap({self.labels[0]!r} in {self.labels[1]!r}: {self.mean:.4g}; "
            f"by chance {self.uniform.expected:.3g}{layers}; log10 p {self.log10_p:.1f})"
        )


def overlap(
    a: Directions | Tensor,
    b: Directions | Tensor,
    null: NullName = "uniform",
    *,
    draws: int = 2000,
    seed: int = 0,
    cross: Tensor | None = None,
) -> Overlap:
    """How much of `a` lies in the span of `b`.

    Args:
        a: the directions that are captured, `(ka, P)`.
        b: the directions that capture, `(kb, P)`; neither side need be orthonormal.
        null: "uniform" or "layer_matched"; which one `.p_value` speaks of. Both are always computed.
        draws: samples for the layer-matched null.
        seed: for those samples.
        cross: inner products `(ka, kb)` of the directions as they are, where they are known already.

    Returns:
        An `Overlap`; the layer-matched null is None where neither side knows its layers.

    Raises:
        InputError: if the lengths differ, a set is linearly dependent, or the null's name is unknown.
    """
    if null not in ("uniform", "layer_matched"):
        raise InputError(f"null={null!r} is unknown; use 'uniform' or 'layer_matched'")
    a, b = _directions(a, "a"), _directions(b, "b")
    if a.size != b.size:
        raise InputError(f"a has length {a.size:,} and b {b.size:,}; both have to live in one parameter space")
    known = a.rows.cross(b.rows) if cross is None else cross
    if tuple(known.shape) != (len(a), len(b)):
        raise InputError(f"cross has shape {tuple(known.shape)}, expected ({len(a)}, {len(b)})")
    products = known.double().cpu().numpy()
    grams_a, grams_b = a.rows.grams().numpy(), b.rows.grams().numpy()
    root_a, root_b = _orthonormaliser(grams_a.sum(axis=0), a), _orthonormaliser(grams_b.sum(axis=0), b)
    lengths_a = np.sqrt(np.diagonal(grams_a.sum(axis=0)))
    lengths_b = np.sqrt(np.diagonal(grams_b.sum(axis=0)))
    projected = products @ root_b
    captured = (projected**2).sum(axis=1) / lengths_a**2
    cosines = np.clip(np.linalg.svd(root_a.T @ projected, compute_uv=False), 0.0, 1.0)
    mean = float((cosines**2).sum() / len(a))
    inside = root_b.T @ grams_b @ root_b
    return Overlap(
        captured=torch.as_tensor(np.minimum(captured, 1.0)),
        angles=torch.as_tensor(np.arccos(cosines)),
        matrix=torch.as_tensor((products / lengths_a[:, None] / lengths_b) ** 2),
        uniform=uniform_null(mean, len(a), len(b), _uniform_size(a, b, inside)),
        layer_matched=_layer_null(mean, a, b, inside, draws, seed),
        null=null,
        labels=(a.label, b.label),
    )


def _uniform_size(a: Directions, b: Directions, inside: np.ndarray) -> int:
    """P; under a sketch the size of the space in which a random direction would be captured as much.

    Its energy is P_l / P in layer l, where an inner product with a unit vector is `1/d_l` on average, squared.
    """
    freedom = _freedom(a, b)
    if freedom is None or a.space is None:
        return a.size
    shares = np.array([layer.size for layer in a.space.layers]) / a.size
    captured = float((shares * np.trace(inside, axis1=1, axis2=2) / freedom).sum()) / len(b)
    return max(round(1 / captured), 1)


def _freedom(a: Directions, b: Directions) -> np.ndarray | None:
    """Numbers that stand for each layer where one side is known by its sketch only; None where neither is."""
    known = [np.array(side.rows.freedom) for side in (a, b) if side.rows.freedom is not None]
    return np.minimum.reduce(known) if known else None


def _layer_null(mean: float, a: Directions, b: Directions, inside: np.ndarray, draws: int, seed: int) -> Null | None:
    """The layer-matched null, where both sides know their layers; `inside` is the Gram of b's basis in each layer."""
    if a.space is None or b.space is None:
        return None
    a.space.require_same(b.space, "the other set of directions")
    energy = a.layer_energy().numpy()
    freedom = _freedom(a, b)
    sizes = np.array([layer.size for layer in a.space.layers]) if freedom is None else freedom
    return layer_matched_null(mean, energy, inside, sizes, draws, seed)


def _orthonormaliser(gram: np.ndarray, directions: Directions) -> np.ndarray:
    """C with orthonormal rows `C^T X` for rows X of that Gram: float64 `(k, k)`."""
    scale = np.sqrt(np.diagonal(gram))
    if not (scale > 0).all():
        raise InputError(f"{directions.label!r} holds a direction of length zero (number {int(np.argmin(scale))})")
    values, vectors = np.linalg.eigh(gram / scale[:, None] / scale)
    if values[0] < 1e-9 * values[-1]:
        raise InputError(
            f"the {len(directions)} directions of {directions.label!r} are linearly dependent "
            f"(smallest eigenvalue of their Gram {values[0]:.1e}); leave the doubles out"
        )
    root: np.ndarray = (vectors / np.sqrt(values)) / scale[:, None]
    return root


def _directions(value: Directions | Tensor | Rows, name: str) -> Directions:
    return value if isinstance(value, Directions) else Directions(value, label=name)
