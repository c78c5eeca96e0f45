"""A process that searches eigenpairs with a checkpoint and kills itself: python kill_search.py PATH BASIS WHEN.

WHEN is the product during which it dies, or "writing" for the third time that a checkpoint is about to get its name.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.operators.base import FunctionOperator
from thalweg.solvers import checkpoint
from thalweg.solvers.lanczos import eigenpairs

SIZE = 300
SPECTRUM = torch.cat([torch.tensor([9.0, 8.0, 7.0]), torch.linspace(5, -1, SIZE - 3)]).double()
ROWS = 24


def settings(basis: str) -> dict[str, Any]:
    """A basis of 24 rows, so that it is restarted before it dies."""
    itemsize, tol = (2, 1e-3) if basis == "bfloat16" else (8, 1e-5)
    return {"k": 4, "tol": tol, "seed": 3, "basis": basis, "basis_budget": ROWS * SIZE * itemsize}


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(path: Path, basis: str, when: str) -> None:
    torch.set_num_threads(1)
    count = 0

    def multiply(vector: Tensor) -> Tensor:
        nonlocal count
        count += 1
        if when == str(count):
            die()
        if when == "writing" and count == 4:
            checkpoint.replace_synced = die  # the file is written aside, and never gets its name
        return SPECTRUM * vector

    eigenpairs(FunctionOperator(multiply, SIZE), checkpoint=path, checkpoint_every=0, **settings(basis))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
