"""Directions in parameter space: the hub that everything makes or takes.

`Directions` are k vectors of length P with what is known about them (values, residuals, where they came from).
How they are held is a `Rows`: a plain tensor here (`DenseRows`), coefficients over a recorded trajectory lower
down (`thalweg.recording.span`). Inner products are accumulated in float64 whatever the rows' own dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.described import load_described, save_described
from thalweg.errors import InputError
from thalweg.rows import DENSE_LIMIT, DenseRows, Rows
from thalweg.space import ParameterSpace
from thalweg.tables import Table, Tabular

FORM = "thalweg-directions-1"


class Directions(Tabular):
    """k directions of length P with their values and provenance.

    Args:
        vectors: `(k, P)` tensor, or `Rows` that hold them in another way.
        values: `(k,)` what belongs to each direction (an eigenvalue, a variance, a singular value).
        label: a short name that reports and plots show.
        space: the parameter space that the entries stand in; needed for anything about layers.
        residuals: `(k,)` `|H v - value v|` for eigenpairs.
        converged: `(k,)` whether each residual met its tolerance.
        explained: `(k,)` share of the variance for principal components.
        matvecs: products spent.
        provenance: plain JSON values that say how the directions were found.

    Raises:
        InputError: if the shapes do not fit each other or an entry is not finite.
    """

    def __init__(
        self,
        vectors: Tensor | Rows,
        values: Tensor | Any = None,
        *,
        label: str = "directions",
        space: ParameterSpace | None = None,
        residuals: Tensor | None = None,
        converged: Tensor | None = None,
        explained: Tensor | None = None,
        matvecs: int | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(vectors, Tensor):
            rows: Rows = DenseRows(_checked(vectors, space), space)
        else:
            rows = vectors
        self.rows = rows
        self.label = label
        self.space = rows.space
        self.values = _column(values, "values", len(self))
        self.residuals = _column(residuals, "residuals", len(self))
        self.explained = _column(explained, "explained", len(self))
        self.converged = converged
        self.matvecs = matvecs
        self.provenance: dict[str, Any] = dict(provenance or {})

    def __len__(self) -> int:
        return self.rows.shape[0]

    def __repr__(self) -> str:
        k, size = self.rows.shape
        spread = "" if self.values is None else f", values {self.values[0]:.4g} … {self.values[-1]:.4g}"
        return f"Directions({self.label!r}, k={k}, P={size:,}{spread})"

    def __iter__(self) -> Iterator[Tensor]:
        return (self.rows.dense(i) for i in range(len(self)))

    def to_table(self) -> Table:
        """A row for each direction: index, and of value, residual, converged and explained what is known."""
        columns = {
            "value": self.values,
            "residual": self.residuals,
            "converged": self.converged,
            "explained": self.explained,
        }
        known = {name: column.tolist() for name, column in columns.items() if column is not None}
        return Table.of([{"index": i, **{name: known[name][i] for name in known}} for i in range(len(self))])

    @property
    def size(self) -> int:
        """P."""
        return self.rows.shape[1]

    @property
    def vectors(self) -> Tensor:
        """All directions as a dense tensor `(k, P)`.

        Raises:
            InputError: if that copy would exceed `DENSE_LIMIT` bytes.
        """
        if isinstance(self.rows, DenseRows):
            return self.rows.tensor
        k, size = self.rows.shape
        need = k * size * self.rows.dtype.itemsize
        if need > DENSE_LIMIT:
            raise InputError(
                f"{k} dense directions of length {size:,} take {need / 2**30:.1f} GiB, more than the limit of "
                f"{DENSE_LIMIT / 2**30:.0f} GiB; use directions.rows.inner / .combine, or one at a time "
                "with directions.rows.dense(i)"
            )
        return self.rows.combine(torch.eye(k, dtype=torch.float64))

    def named(self, index: int) -> dict[str, Tensor]:
        """Direction `index` as named tensors of the parameters' shapes."""
        return self.parameter_space().unflatten(self.rows.dense(index))

    def layer_energy(self) -> Tensor:
        """Share of each direction's squared length in each layer: float64 `(k, layers)`, rows sum to 1."""
        self.parameter_space()
        energy = self.rows.layer_energy()
        return energy / energy.sum(dim=1, keepdim=True)

    def first(self, count: int) -> Directions:
        """The first `count` directions.

        Raises:
            InputError: if there are fewer.
        """
        if not 1 <= count <= len(self):
            raise InputError(f"asked for the first {count} of {len(self)} directions")

        def head(column: Tensor | None) -> Tensor | None:
            return None if column is None else column[:count]

        return Directions(
            self.rows.head(count),
            head(self.values),
            label=self.label,
            residuals=head(self.residuals),
            converged=head(self.converged),
            explained=head(self.explained),
            matvecs=self.matvecs,
            provenance=self.provenance,
        )

    def save(self, path: str | Path) -> None:
        """Write the directions to a safetensors file, what is known about them as JSON in its header.

        Where ranks hold parts of them, each writes its own beside that path, and `load` puts them together anywhere.
        """
        part = self.rows.part()
        tensors = {"vectors": self.vectors if part is None else part[0]}
        for name in ("values", "residuals", "converged", "explained"):
            column = getattr(self, name)
            if column is not None:
                tensors[name] = column
        about = {
            "label": self.label,
            "matvecs": self.matvecs,
            "provenance": self.provenance,
            "space": self.space.to_json() if self.space else None,
        }
        save_described(path, FORM, tensors, about, None if part is None else part[1])

    @classmethod
    def load(cls, path: str | Path) -> Directions:
        """Read what `save` wrote.

        Raises:
            RunError: if the file is no such file, is of another kind, or is damaged.
        """
        tensors, about = load_described(path, FORM, "directions", "compute them again")
        space = ParameterSpace.from_json(about["space"]) if about["space"] else None
        return cls(
            tensors["vectors"],
            tensors.get("values"),
            label=about["label"],
            space=space,
            residuals=tensors.get("residuals"),
            converged=tensors.get("converged"),
            explained=tensors.get("explained"),
            matvecs=about["matvecs"],
            provenance=about["provenance"],
        )

    def parameter_space(self) -> ParameterSpace:
        """The space, for whatever needs layers.

        Raises:
            InputError: if the directions were made without one.
        """
        if self.space is None:
            raise InputError(
                f"{self.label!r} has no parameter space, so nothing is known about its layers; "
                "build it with Directions(..., space=problem.space)"
            )
        return self.space


def random_directions(
    space: ParameterSpace | int, k: int, seed: int | torch.Generator = 0, dtype: torch.dtype = torch.float32
) -> Directions:
    """k random orthonormal directions, uniform over all subspaces of dimension k.

    Args:
        space: the parameter space, or P alone.
        k: how many.
        seed: an integer or a generator.
        dtype: of the result.

    Raises:
        InputError: if k is not between 1 and P.
    """
    size = space if isinstance(space, int) else space.size
    check_count(k, size)
    draw = torch.randn(k, size, generator=as_generator(seed), dtype=torch.float64)
    basis = torch.linalg.qr(draw.T).Q.T.contiguous()
    return Directions(
        basis.to(dtype), label="random", space=None if isinstance(space, int) else space, provenance={"null": "uniform"}
    )


def layer_matched_directions(directions: Directions, seed: int | torch.Generator = 0) -> Directions:
    """Random unit directions that spread over the layers exactly as the given ones do.

    Within each layer a row points anywhere with equal probability; between layers its squared length is split as
    the given direction's is. The rows are drawn independently, so they are orthogonal only on average.
    """
    energy = directions.layer_energy()
    space = directions.parameter_space()
    generator = as_generator(seed)
    out = torch.zeros(len(directions), space.size, dtype=torch.float64)
    for position, layer in enumerate(space.layers):
        draw = torch.randn(len(directions), layer.size, generator=generator, dtype=torch.float64)
        draw /= draw.norm(dim=1, keepdim=True)
        out[:, layer.span] = draw * energy[:, position : position + 1].sqrt()
    return Directions(
        out.to(directions.rows.dtype),
        label=f"layer-matched to {directions.label}",
        space=space,
        provenance={"null": "layer-matched"},
    )


def as_generator(seed: int | torch.Generator) -> torch.Generator:
    """A CPU generator of its own for an integer seed; a generator as it is."""
    return seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(int(seed))


def as_numpy_generator(seed: int | np.random.Generator) -> np.random.Generator:
    """The same for NumPy."""
    return seed if isinstance(seed, np.random.Generator) else np.random.default_rng(int(seed))


def check_count(k: int, size: int, what: str = "directions") -> None:
    """Raise an InputError unless `1 <= k <= size`."""
    if not 1 <= k <= size:
        raise InputError(f"k={k} {what} were asked for in a space of dimension {size}; use 1 <= k <= {size}")


def _checked(vectors: Tensor, space: ParameterSpace | None) -> Tensor:
    if vectors.ndim == 1:
        vectors = vectors.unsqueeze(0)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise InputError(f"directions are a tensor of shape (k, P), got {tuple(vectors.shape)}")
    if not vectors.is_floating_point():
        raise InputError(f"directions are floating point numbers, got {vectors.dtype}; call .float() first")
    if space is not None and vectors.shape[1] != space.size:
        raise InputError(f"directions have length {vectors.shape[1]}, but the parameter space has {space.size}")
    finite = torch.isfinite(vectors).all(dim=1)
    if not bool(finite.all()):
        raise InputError(f"direction {int((~finite).nonzero()[0])} holds values that are not finite")
    return vectors.detach()


def _column(values: Any, name: str, count: int) -> Tensor | None:
    if values is None:
        return None
    column = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    if tuple(column.shape) != (count,):
        raise InputError(f"{name} has shape {tuple(column.shape)} for {count} directions")
    return column
