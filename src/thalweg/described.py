"""Tensors in a file with what is known of them: safetensors, the rest as JSON in the header. No pickle is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from thalweg.collectives import put_together
from thalweg.errors import RunError


@dataclass(frozen=True)
class Part:
    """Which part a rank has of tensors that are split along their last axis.

    Attributes:
        rank: whose.
        ranks: how many there are.
        split: names of the tensors that are split; the others are whole in each file.
        spans: which entries of the last axis are the rank's, as pairs of start and stop in order.
    """

    rank: int
    ranks: int
    split: Sequence[str]
    spans: Sequence[Sequence[int]]

    def beside(self, path: str | Path) -> Path:
        """The part's own file: `pairs.safetensors` becomes `pairs.0-of-2.safetensors`."""
        whole = Path(path)
        return whole.with_name(f"{whole.stem}.{self.rank}-of-{self.ranks}{whole.suffix}")


def save_described(
    path: str | Path, form: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any], part: Part | None = None
) -> None:
    """Write the tensors, from whatever device, and what is known of them.

    Args:
        path: the file.
        form: the kind of file and its version, which `load_described` asks for.
        tensors: by name.
        about: plain JSON values.
        part: where each rank writes a part of some tensors, into a file of its own beside that path.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    told = {**about, **({} if part is None else {"part": [part.rank, part.ranks, list(part.split), list(part.spans)]})}
    save_file(
        kept, str(path if part is None else part.beside(path)), metadata={"format": form, "about": json.dumps(told)}
    )


def load_described(path: str | Path, form: str, what: str, mend: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_described` wrote; where ranks wrote parts of it, all of them, put together.

    Args:
        path: the file.
        form: as it was written.
        what: what the file should hold, for messages.
        mend: what to do where it does not, likewise.

    Raises:
        RunError: if it is no such file, is of another kind, or is damaged.
    """
    parts = (
        [] if Path(path).exists() else sorted(Path(path).parent.glob(f"{Path(path).stem}.*-of-*{Path(path).suffix}"))
    )
    if not parts:
        return _load(path, form, what, mend)
    found = [_load(one, form, what, mend) for one in parts]
    of, split = found[0][1]["part"][1:3]
    there = {about["part"][0]: tensors for tensors, about in found if about["part"][1] == of}
    spans = {about["part"][0]: about["part"][3] for _, about in found if about["part"][1] == of}
    missing = [rank for rank in range(of) if rank not in there]
    if missing:
        lost = Part(missing[0], of, split, ()).beside(path)
        raise RunError(f"{lost} is missing, a part of the {what} that {of} ranks wrote; put it beside the others")
    tensors = {
        name: put_together([there[rank][name] for rank in range(of)], [spans[rank] for rank in range(of)])
        if name in split
        else tensor
        for name, tensor in there[0].items()
    }
    return tensors, {name: value for name, value in found[0][1].items() if name != "part"}


def _load(path: str | Path, form: str, what: str, mend: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != form:
                raise ValueError(f"its format is {metadata.get('format')!r}, expected {form!r}")
            about = json.loads(metadata["about"])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} holds no {what} that can be read ({error}); {mend}") from error
