"""Cells that have been run, in a folder of one file each: what was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from thalweg.errors import RunError
from thalweg.runs import read_json, write_atomically
from thalweg.trials.training import Cell


class CellStore:
    """Cells by a key, on disk where there is a folder.

    Args:
        folder: where they are kept; None keeps them in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._known: dict[str, Cell] = {}
        self.reused = 0

    def get(self, key: tuple[object, ...], run: Callable[[], Cell]) -> Cell:
        """The cell of that key, run if it is not known yet."""
        text = json.dumps(key, default=list)
        if text in self._known:
            return self._known[text]
        path = None if self.folder is None else self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"
        found = None if path is None else self._read(path, text)
        if found is None:
            found = run()
            if path is not None:
                data = json.dumps({"key": text, "cell": found.to_json()}, ensure_ascii=False)
                write_atomically(path, data.encode())
        else:
            self.reused += 1
        self._known[text] = found
        return found

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All that were asked for."""
        return tuple(self._known.values())

    def _read(self, path: Path, text: str) -> Cell | None:
        if not path.is_file():
            return None
        try:
            data = read_json(path)
            return Cell.from_json(data["cell"]) if data.get("key") == text else None
        except (RunError, KeyError, TypeError):
            return None  # damaged: run it again
