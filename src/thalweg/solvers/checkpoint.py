"""A search for eigenpairs on disk, so that one that was killed can go on.

One safetensors file holds the basis as it is, the projection T, the state of the generator, and what the operator is
known by: its shape, its dtype and its product with one fixed vector. It is written aside, synced and renamed, so that
it is whole or not there. Nothing in it is executed.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from thalweg.errors import InputError, RunError
from thalweg.runs import replace_synced
from thalweg.solvers.krylov import KrylovSpace
from thalweg.solvers.search import Search
from thalweg.sums import length

_FORMAT = "thalweg-search-1"
_PROBE_SEED = 12358


class Checkpoint:
    """Keeps one search in a file.

    Args:
        path: the file; its folder must exist.
        every: seconds between two writings.
        now: a clock in seconds.

    Raises:
        InputError: if the folder does not exist or the time is not positive.
    """

    def __init__(self, path: str | Path, every: float, now: Callable[[], float] = time.monotonic) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise InputError(f"checkpoint={str(path)!r}: there is no folder {str(self.path.parent)!r}; make it first")
        if not every >= 0:
            raise InputError(f"checkpoint_every={every} is no number of seconds; 60 is usual")
        self._every, self._now = every, now
        self._last = now()
        self._image: Tensor | None = None

    def resume(self, search: Search, space: KrylovSpace) -> int:
        """Put the space where the file left it, if there is one. Costs one product, which knows the operator.

        Returns:
            Products that the search had made when the file was written; 0 without one.

        Raises:
            InputError: if the file belongs to another operator or another search.
            RunError: if it is damaged.
        """
        operator = search.operator
        probe = operator.draw(torch.Generator().manual_seed(_PROBE_SEED))
        search.matvecs += 1
        image = operator.part_of_product(probe / operator.ranks.length(probe))
        self._image = image.cpu()
        if not self.path.exists():
            return 0
        about, tensors = self._read()
        self._check(about, tensors, search, space)
        space.rows.load(tensors["rows"])
        size = int(about["size"])
        projection = tensors["projection"].numpy()
        space.projection[:size, :size] = projection
        if space.rounded:
            side = tensors["gram"].shape[0]
            space.gram[:side, :side] = tensors["gram"].numpy()
        search.generator.set_state(tensors["generator"])
        space.scale, space.matvecs = float(about["scale"]), int(about["matvecs"])
        space.waiting, space.linked = int(about["waiting"]), bool(about["linked"])
        space.edge = (size, float(about["beta"]))
        search.matvecs += int(about["matvecs"])
        search.floor = float(about["floor"])
        return int(about["matvecs"])

    def write_if_due(self, search: Search, space: KrylovSpace) -> None:
        """Write if the last time was long enough ago."""
        if self._now() - self._last >= self._every:
            self.write(search, space)

    def write(self, search: Search, space: KrylovSpace) -> None:
        """Write the search as it stands, whole or not at all."""
        assert self._image is not None
        rows = space.size + max(space.waiting, 0 if space.exhausted else 1)
        tensors = {
            "rows": space.rows.held(rows).contiguous(),
            "projection": torch.as_tensor(space.projection[: space.size, : space.size]).contiguous(),
            "generator": search.generator.get_state(),
            "image": self._image,
        }
        if space.rounded:
            tensors["gram"] = torch.as_tensor(space.gram[:rows, :rows]).contiguous()
        about = {
            **_asked(search),
            "size": space.size,
            "beta": space.beta,
            "scale": space.scale,
            "waiting": space.waiting,
            "linked": space.linked,
            "matvecs": search.matvecs,
            "floor": search.floor,
        }
        aside = self.path.with_name(f".{self.path.name}.tmp{os.getpid()}")
        try:
            save_file(tensors, str(aside), metadata={"format": _FORMAT, "about": json.dumps(about)})
            replace_synced(aside, self.path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        self._last = self._now()

    def remove(self) -> None:
        """Remove the file, and what a kill in the middle of a writing may have left beside it."""
        self.path.unlink(missing_ok=True)
        for aside in self.path.parent.glob(f".{self.path.name}.tmp*"):
            aside.unlink(missing_ok=True)

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            with safe_open(str(self.path), framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise InputError(
                        f"{self.path} is no checkpoint of eigenpairs; name another file, this one is left as it is"
                    )
                about = json.loads(metadata["about"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise RunError(f"{self.path} cannot be read ({error}); remove it to begin anew") from error
        return about, tensors

    def _check(self, about: dict[str, Any], tensors: dict[str, Tensor], search: Search, space: KrylovSpace) -> None:
        for name, asked in _asked(search).items():
            if about.get(name) != asked:
                raise InputError(
                    f"{self.path} holds a search with {name} {about.get(name)!r}, this one has {asked!r}; "
                    "give the same, or another checkpoint, or remove the file to begin anew"
                )
        assert self._image is not None
        before = tensors["image"]
        differs = length(before - self._image) / (length(before) or 1.0)
        allowed = math.sqrt(torch.finfo(before.dtype).eps)
        if not differs <= allowed:
            raise InputError(
                f"{self.path} belongs to another operator: its product with a fixed vector differs by {differs:.1e} of "
                f"its length ({allowed:.0e} would be rounding). Other weights or data? Remove the file to begin anew"
            )
        if tensors["rows"].shape[0] > space.capacity + 1:
            raise InputError(
                f"{self.path} holds a basis of {tensors['rows'].shape[0]} vectors, more than the {space.capacity} that "
                "fit now; raise basis_budget, or remove the file to begin anew"
            )


def _asked(search: Search) -> dict[str, Any]:
    """What has to be the same when a search goes on; JSON values, read back as they were."""
    return {
        "size of the operator": search.operator.shape[0],
        "dtype": str(search.operator.dtype),
        "which": search.wanted.which,
        "basis": search.settings.storage,
    }
