"""How the updates of a run are kept: exactly, rounded to bfloat16, or as a sketch with sums; and what that costs.

```
form       a row on disk              weights after                      directions
exact      every entry                every row, bit for bit             exact
bfloat16   8 significant bits         every row, to one rounding         to 2^-8
sketch     d numbers for each layer   the ends of sums, to one rounding  from the sums, see `rebuilding`
```

In each form exact anchors stand between the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from thalweg.space import Layer, ParameterSpace

EXACT, BFLOAT16, SKETCH = "exact", "bfloat16", "sketch"
FORMS = (EXACT, BFLOAT16, SKETCH)
WIDTH = 4096
"""Of a sketch, unless said: inner products of unit vectors to about 0.02."""
SUM_ROWS = 64
ANCHOR_SUMS = 16
ANCHOR_ROWS = 16
"""Where a segment holds fewer rows than this because they are long, an anchor stands before so many rows or more."""
PATCHES = 1.02
"""Room for patches (see `differences`), as a share of exact rows."""


@dataclass(frozen=True)
class Columns:
    """What the columns of stored rows are: the entries of a flat vector, or those of its sketch.

    Attributes:
        layers: where each layer's columns are.
        size: how many columns.
    """

    layers: tuple[Layer, ...]
    size: int

    @classmethod
    def of(cls, space: ParameterSpace) -> Columns:
        """Every entry of a flat vector."""
        return cls(space.layers, space.size)


@dataclass(frozen=True)
class Keeping:
    """How updates are kept.

    Attributes:
        form: one of `FORMS`.
        width: d, numbers that a sketch keeps of each larger layer.
        seed: of the sketch.
        sum_rows: rows that one bfloat16 sum of a sketched run holds, at the least.
        anchor_sums: such sums from one exact anchor to the next.
    """

    form: str = EXACT
    width: int = 0
    seed: int = 0
    sum_rows: int = 0
    anchor_sums: int = 0

    @classmethod
    def sketched(cls, width: int = WIDTH, seed: int = 0, sum_rows: int = SUM_ROWS) -> Keeping:
        """A sketch."""
        return cls(SKETCH, width, seed, sum_rows, ANCHOR_SUMS)

    @classmethod
    def read(cls, manifest: Mapping[str, Any]) -> Keeping:
        """How a run is kept, from its manifest.

        Raises:
            ValueError: if the manifest names a form that this version does not know.
        """
        about = dict(manifest.get("keep", {}))
        found = cls(
            str(about.get("form", EXACT)),
            *(int(about.get(name, 0)) for name in ("width", "seed", "sum_rows", "anchor_sums")),
        )
        if found.form not in FORMS or (found.form == SKETCH and found.width < 1):
            raise ValueError(f"updates are kept as {about!r}, which this version does not know")
        return found

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self) if self.form == SKETCH else {"form": self.form}

    def columns(self, space: ParameterSpace) -> Columns:
        """What the columns of stored rows are."""
        if self.form != SKETCH:
            return Columns.of(space)
        layers, start = [], 0
        for layer in space.layers:
            stop = start + min(layer.size, self.width)
            layers.append(Layer(layer.name, layer.depth, start, stop))
            start = stop
        return Columns(tuple(layers), start)

    def row_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Of stored rows, where weights have this dtype."""
        return torch.bfloat16 if self.form == BFLOAT16 else dtype

    def row_bytes(self, space: ParameterSpace, item: int) -> float:
        """Bytes of a row on disk, without what a sketched run keeps in sums; `item` is the bytes of a weight."""
        if self.form == SKETCH:
            return self.columns(space).size * item
        return space.size * (2 if self.form == BFLOAT16 else item * PATCHES)

    def shared_bytes(self, space: ParameterSpace, item: int, rows: int) -> float:
        """Bytes of what stands beside so many rows that follow each other: anchors, and the sums of a sketched run."""
        if self.form == SKETCH:
            return space.size * (2 + item / self.anchor_sums) * rows / self.sum_rows
        return space.size * item

    def lost(self, every: int = 1) -> list[str]:
        """What cannot be had from such a run, one sentence each."""
        found = []
        if every > 1:
            found.append(f"single steps: each row is the exact sum of {every} of them")
        if self.form == BFLOAT16:
            found.append(
                "updates beyond 8 significant bits: each entry is off by up to 0.4 %, and so are the weights between "
                "two exact anchors by that share of one update; errors do not add up"
            )
        if self.form == SKETCH:
            found += [
                f"single updates: a sketch of {self.width} numbers a layer gives inner products of unit updates to "
                f"about {(2 / self.width) ** 0.5:.1g} (smaller layers exactly)",
                f"weights other than every {self.sum_rows} rows; there to one bfloat16 rounding, at anchors exactly",
                f"what oscillates within {self.sum_rows} rows, of the directions: they are rebuilt from sums",
            ]
        return found
