"""A task file to begin with, for the user's kind of training: it runs after two edits."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from thalweg.errors import InputError, nearest

KINDS = ("plain", "huggingface", "lightning")


def write_task_file(path: str | Path, kind: str = "plain", overwrite: bool = False) -> list[str]:
    """Write a task file with comments.

    Args:
        path: of the file.
        kind: one of `KINDS`.
        overwrite: whether a file that is there is replaced.

    Returns:
        What to do next, in order.

    Raises:
        InputError: for a kind that there is not, a name that is no Python file's, or a file that is there already.
    """
    path = Path(path)
    if kind not in KINDS:
        raise InputError(f"there is no task file of kind {kind!r}; the nearest are {nearest(kind, KINDS)}")
    if path.suffix != ".py":
        raise InputError(f"{path} is no Python file; give a name that ends in .py")
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already; give another name, or --force to replace it")
    text = resources.files("thalweg.tasks").joinpath(f"templates/{kind}.py.txt").read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("FILE", path.as_posix()), encoding="utf-8")
    edits = [line.split('"""')[1] for line in text.splitlines() if '"""Edit ' in line]
    return [*edits, f"thalweg doctor {path.as_posix()}:task"]
