"""The run folder: what a recorded training left, and what was found in it.

```
runs/a/
  manifest.json       what the run is: parameters, layers, optimizer, versions
  segments/           the trajectory (written by thalweg.recording)
  results/NAME.json   results by name, and NAME.safetensors for directions; gram.cache.safetensors can be made anew
  report.en.html      the report
```

Everything is read as data: JSON and safetensors, never pickle; nothing stored here is executed. Files appear
whole or not at all: they are written aside, synced and renamed.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from thalweg.directions import Directions
from thalweg.errors import RunError, nearest
from thalweg.space import ParameterSpace

T = TypeVar("T")

FORMAT = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Run(Generic[T]):
    """An opened run folder.

    Attributes:
        folder: where it is.
        manifest: what the run is, as written when recording began.
        read_trajectory: makes the trajectory; `run.trajectory` calls it once.
    """

    folder: Path
    manifest: Mapping[str, Any]
    read_trajectory: Callable[[Path, Mapping[str, Any]], T]

    @cached_property
    def space(self) -> ParameterSpace:
        """The parameter space that was recorded."""
        return ParameterSpace.from_json(self.manifest["space"])

    @cached_property
    def trajectory(self) -> T:
        """The recorded steps."""
        return self.read_trajectory(self.folder, self.manifest)

    def save(self, name: str, value: Mapping[str, Any]) -> Path:
        """Keep a result under a name: plain JSON values; what is not finite becomes None."""
        path = self._path(name, ".json")
        text = json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomically(path, (text + "\n").encode())
        return path

    def load(self, name: str) -> dict[str, Any]:
        """The result of that name.

        Raises:
            RunError: if there is none, or the file is damaged.
        """
        path = self._path(name, ".json")
        if not path.is_file():
            known = sorted(p.stem for p in path.parent.glob("*.json"))
            raise RunError(
                f"{self.folder} has no result {name!r} (there are: {nearest(name, known)}); "
                f"run: thalweg analyse {self.folder} --task TASK"
            )
        return read_json(path)

    def save_directions(self, name: str, directions: Directions) -> Path:
        """Keep directions under a name; where ranks hold parts of them, each writes its own beside the others'."""
        path = self._path(name, ".safetensors")
        path.parent.mkdir(exist_ok=True)
        aside, part = path.with_suffix(f".tmp{os.getpid()}"), directions.rows.part()
        directions.save(aside)
        there = path if part is None else part[1].beside(path)
        replace_synced(aside if part is None else part[1].beside(aside), there)
        ranks = 1 if part is None else part[1].ranks
        for old in (path, *path.parent.glob(f"{path.stem}.*-of-*{path.suffix}")):
            if old != there and not (ranks > 1 and old.stem.endswith(f"-of-{ranks}")):
                old.unlink(missing_ok=True)  # of an earlier result, by another number of ranks
        return there

    def load_directions(self, name: str) -> Directions:
        """The directions of that name."""
        return Directions.load(self._path(name, ".safetensors"))

    def _path(self, name: str, ending: str) -> Path:
        if not _NAME.fullmatch(name):
            raise RunError(f"{name!r} is no name for a result; use small letters, digits, '-' and '_'")
        return self.folder / "results" / (name + ending)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        RunError: if the folder is not a run, or was written by a newer version.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        state = "does not exist" if not folder.exists() else f"has no {MANIFEST}"
        if folder.is_file():
            raise RunError(f"{folder} is a file, not a run; give the folder that thalweg.watch wrote")
        raise RunError(
            f"{folder} is not a run: it {state}; record one with thalweg.watch(model, optimizer, {str(folder)!r})"
        )
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise RunError(f"{folder} has format {manifest.get('format')!r}, this version reads {FORMAT}; update thalweg")
    return manifest


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        RunError: if it cannot be read as one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); it is damaged or no file of thalweg") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} holds {type(value).__name__}, expected an object; it is no file of thalweg")
    return value


def finite(value: Any) -> Any:
    """The same values with None in place of what JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole or not at all, even when the machine stops."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        aside.chmod(0o644)
        replace_synced(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def replace_synced(aside: Path, path: Path) -> None:
    """Give a finished file its name: sync it, rename it, sync the folder."""
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
