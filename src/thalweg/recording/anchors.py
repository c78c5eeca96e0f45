"""The anchors of a recorded run: everything that makes old weights the old function and the old next step.

Each segment begins with the buffers and the settings of each parameter group (learning rate, weight decay, ...), and
with the exact weights but where rows are long (`Segment.anchored`). The optimizers' state (moments) stands with some
anchors only, see `optimizers.STATE_SHARE`.

```python
for segment in thalweg.open_run("runs/a").trajectory.segments:
    if segment.anchored:
        anchor = read_anchor(segment)
        anchor.step, anchor.groups[0]["lr"], anchor.state.keys()
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from thalweg.errors import InputError, RunError
from thalweg.recording.store import Segment, read_anchor_parts


@dataclass(frozen=True, eq=False)
class Anchor:
    """A training as it stood after one step.

    Attributes:
        step: the last optimizer step before it; -1 before any.
        weights: `(P,)`, exact.
        buffers: of the model, by name.
        groups: settings of each parameter group, as plain values; `optimizer` says which one's it is.
        state: tensors of the optimizers' state by parameter name and then key (`exp_avg`, `momentum_buffer`, ...);
            empty where none was kept.
    """

    step: int
    weights: Tensor
    buffers: Mapping[str, Tensor]
    groups: tuple[Mapping[str, Any], ...]
    state: Mapping[str, Mapping[str, Tensor]]


def read_anchor(segment: Segment) -> Anchor:
    """The anchor of one segment. Segments of older versions hold no more than its weights.

    Raises:
        InputError: if it has none, see `Segment.anchored`.
        RunError: if the file has been removed or changed since it was opened.
    """
    if not segment.anchored:
        raise InputError(f"{segment.path.name} begins without an anchor; the weights are in trajectory.weights(step)")
    try:
        about, buffers, tensors = read_anchor_parts(segment)
        state: dict[str, dict[str, Tensor]] = {}
        for number, (_, name, key) in enumerate(about.get("state", ())):
            state.setdefault(str(name), {})[str(key)] = tensors[str(number)]
        weights = segment.tensor("anchor")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{segment.path} cannot be read any more ({error}); open the run again") from error
    return Anchor(segment.before, weights, buffers, tuple(about.get("groups", ())), state)
