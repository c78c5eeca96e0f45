"""Tensors in a file with what is known of them: safetensors, the rest as JSON in the header. No pickle is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from thalweg.errors import RunError


def save_described(path: str | Path, form: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write the tensors, from whatever device, and what is known of them.

    Args:
        path: the file.
        form: the kind of file and its version, which `load_described` asks for.
        tensors: by name.
        about: plain JSON values.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(kept, str(path), metadata={"format": form, "about": json.dumps(about)})


def load_described(path: str | Path, form: str, what: str, mend: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_described` wrote.

    Args:
        path: the file.
        form: as it was written.
        what: what the file should hold, for messages.
        mend: what to do where it does not, likewise.

    Raises:
        RunError: if it is no such file, is of another kind, or is damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != form:
                raise ValueError(f"its format is {metadata.get('format')!r}, expected {form!r}")
            about = json.loads(metadata["about"])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} holds no {what} that can be read ({error}); {mend}") from error
