"""Cells that have been run, in a folder of one file each: what was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from thalweg.collectives import ALONE, Ranks
from thalweg.errors import RunError
from thalweg.runs import read_json, write_atomically
from thalweg.trials.training import Cell, Split


class Training(NamedTuple):
    """What a cell is the result of; the words of its key.

    Attributes:
        arm: its name.
        seed: of batches and draws.
        factor: of the learning rates.
        split: what it is evaluated on.
        marks: after which steps.
    """

    arm: str
    seed: int
    factor: float
    split: Split
    marks: tuple[int, ...]

    @property
    def key(self) -> str:
        """As text."""
        return json.dumps(self)


class CellStore:
    """Cells by what they are the result of, on disk where there is a folder.

    Args:
        folder: where they are kept; None keeps them in memory.

    Attributes:
        reused: how many were found there.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._known: dict[str, Cell] = {}
        self.reused = 0

    def get(self, training: Training, run: Callable[[Training], Cell]) -> Cell:
        """One cell, run if it is not known yet."""
        self.fill([training], run)
        return self._known[training.key]

    def fill(
        self,
        trainings: Sequence[Training],
        run: Callable[[Training], Cell],
        ranks: Ranks = ALONE,
        tell: Callable[[int, int], None] | None = None,
    ) -> None:
        """Make sure that all are known. Those that no rank has kept are dealt out to the ranks, and all get all.

        Args:
            trainings: what is wanted; those known already cost nothing.
            run: makes one.
            ranks: the processes that work together; each makes the same call.
            tell: called with how many are done and to be done, as this rank guesses from its own.
        """
        wanted = [one for one in dict.fromkeys(trainings) if one.key not in self._known]
        if not wanted:
            return
        own = {place: cell for place, one in enumerate(wanted) if (cell := self._read(one)) is not None}
        kept = set().union(*ranks.gathered(list(own), patient=True))  # here, where all come at once, its group is made
        missing = [place for place in range(len(wanted)) if place not in kept]
        mine = [missing[place] for place in dealt([wanted[place].seed for place in missing], ranks)]
        for number, place in enumerate(mine):
            if tell is not None:
                tell(round(number * len(missing) / len(mine)), len(missing))
            own[place] = run(wanted[place])
            self._write(wanted[place], own[place])
        for found in ranks.gathered(own, patient=True):
            self._known.update({wanted[place].key: cell for place, cell in found.items()})
        self.reused += len(kept)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All that were asked for."""
        return tuple(self._known.values())

    def _path(self, training: Training) -> Path | None:
        name = hashlib.sha256(training.key.encode()).hexdigest()[:20]
        return None if self.folder is None else self.folder / f"{name}.json"

    def _write(self, training: Training, cell: Cell) -> None:
        path = self._path(training)
        if path is not None:
            data = json.dumps({"key": training.key, "cell": cell.to_json()}, ensure_ascii=False)
            write_atomically(path, data.encode())

    def _read(self, training: Training) -> Cell | None:
        path = self._path(training)
        if path is None or not path.is_file():
            return None
        try:
            data = read_json(path)
            return Cell.from_json(data["cell"]) if data.get("key") == training.key else None
        except (RunError, KeyError, TypeError):
            return None  # damaged: run it again


def dealt(seeds: Sequence[int], ranks: Ranks) -> list[int]:
    """The places of the trainings that this rank makes, of trainings with these seeds.

    All of a seed go to one rank, so that arms that are compared took their time on one machine; where there are fewer
    seeds than ranks, trainings are dealt out one by one.
    """
    kinds = list(dict.fromkeys(seeds))
    if len(kinds) < ranks.size:
        return list(range(ranks.rank, len(seeds), ranks.size))
    own = set(kinds[ranks.rank :: ranks.size])
    return [place for place, seed in enumerate(seeds) if seed in own]
