"""What was kept beside the vectors of a run, as JSON lines and as TensorBoard event files."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thalweg.errors import MissingExtraError
from thalweg.recording.trajectory import Trajectory
from thalweg.runs import finite


def scalar_rows(t: Trajectory) -> Iterator[dict[str, Any]]:
    """What was kept beside the vectors, row by row; a scalar that was not logged is not there."""
    scalars = {name: values.tolist() for name, values in t.scalars.items()}
    columns = [t.steps, t.starts, t.times, t.learning_rates, t.momenta]
    for row, (step, start, time, rates, momenta) in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        yield {
            "step": step,
            "start": start,
            "time": time,
            "learning_rates": rates,
            "momenta": momenta,
            "scalars": {name: values[row] for name, values in scalars.items() if not math.isnan(values[row])},
        }


def export_jsonl(t: Trajectory, path: Path) -> dict[str, Any]:
    """JSON lines, one for each row."""
    with path.open("w", encoding="utf-8") as file:
        for row in scalar_rows(t):
            file.write(json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n")
    return {"rows": len(t), "scalars": list(t.scalars)}


def export_tensorboard(t: Trajectory, folder: Path) -> dict[str, Any]:
    """A folder of TensorBoard event files with every scalar and the learning rates.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """
    needed("tensorboard", "tensorboard")
    writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder))
    try:
        for row in scalar_rows(t):
            rates = {f"learning_rate/{group}": rate for group, rate in enumerate(row["learning_rates"])}
            for name, value in {**rates, **row["scalars"]}.items():
                if not math.isnan(value):
                    writer.add_scalar(name, value, row["step"], walltime=row["time"])
    finally:
        writer.close()
    return {"rows": len(t), "scalars": list(t.scalars)}


def needed(package: str, extra: str) -> Any:
    """An optional package.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(f"{package} is not installed; pip install 'thalweg[{extra}]'") from error
