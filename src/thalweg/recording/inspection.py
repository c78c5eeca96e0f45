"""What is in a run folder, and whether it is whole: figures as plain values, health in words."""

from __future__ import annotations

import json
import math
import os
import socket
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from thalweg.errors import RunError
from thalweg.recording.manifest import CLOSED
from thalweg.recording.opening import open_run
from thalweg.recording.store import SEGMENTS
from thalweg.recording.trajectory import Trajectory
from thalweg.recording.writer import LOCK
from thalweg.runs import finite, read_json


def inspect_run(folder: str | Path) -> dict[str, Any]:
    """Everything about a run but the vectors, with every byte of its segments checked.

    Returns:
        Plain values: `folder`, `run`, `created`, `state`, `versions`, `model`, `optimizer`, `space`, `trajectory`,
        `bytes`, `damaged`, `gaps`, `not_finite` (last steps of such rows), `scalars`, `results`, `imported`, `resumed`,
        `health` (sentences) and `healthy`.

    Raises:
        RunError: if the folder is no run, or its manifest is damaged.
    """
    folder = Path(folder)
    run = open_run(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damage is named below
        t = run.trajectory
    imported = run.manifest.get("imported")  # such a run begins at its first checkpoint: no step before is missing
    about: dict[str, Any] = {
        "folder": str(folder),
        "run": str(run.manifest["run"]),
        "created": run.manifest.get("created"),
        "state": run_state(folder),
        "versions": run.manifest.get("versions"),
        "model": run.manifest.get("model"),
        "optimizer": _optimizer(run.manifest),
        "space": {
            "parameters": run.space.size,
            "tensors": len(run.space.parameters),
            "layers": len(run.space.layers),
            "frozen": len(run.space.frozen),
            "tied": len(run.space.tied),
            "dtype": run.manifest["dtype"],
        },
        "trajectory": _trajectory(t),
        "bytes": sizes(folder),
        "damaged": [{"file": name, "reason": reason} for name, reason in t.damaged],
        "gaps": [list(gap) for gap in t.gaps if not (imported and len(t) and gap == (0, int(t.starts[0])))],
        "not_finite": t.steps[~t.finite].tolist(),
        "scalars": _scalars(t),
        "results": sorted(path.name for path in (folder / "results").glob("*") if not path.name.startswith(".")),
        "imported": imported,
        "resumed": run.manifest.get("resumed", []),
    }
    about["health"] = health(about)
    about["healthy"] = not (about["damaged"] or about["gaps"] or about["not_finite"] or not len(t))
    plain: dict[str, Any] = finite(about)
    return plain


def run_state(folder: Path) -> dict[str, Any]:
    """How the recording stands: `word` is "closed", "recording" or "interrupted", with `reason` or `process`."""
    if (folder / CLOSED).is_file():
        try:
            about = read_json(folder / CLOSED)
            return {"word": "closed", "reason": str(about.get("reason")), "steps_seen": about.get("steps_seen")}
        except RunError:
            return {"word": "interrupted", "reason": f"{CLOSED} is damaged"}
    process = _writer(folder)
    if process is None:
        return {"word": "interrupted", "reason": "the process ended without closing the recording"}
    return {"word": "recording", "process": process}


def _writer(folder: Path) -> int | None:
    """The process that the lock names, if it runs on this machine. The lock itself is not tried: that would hold it."""
    try:
        about = json.loads((folder / LOCK).read_bytes()[:4096])
        process = int(about["pid"])
        if about["host"] != socket.gethostname() or process <= 0:
            return None
        os.kill(process, 0)
    except PermissionError:
        return process
    except (OSError, OverflowError, ValueError, KeyError, TypeError):
        return None
    return process


def sizes(folder: Path) -> dict[str, int]:
    """Bytes on disk: of finished segments, of unfinished ones, and of everything in the folder."""
    found = {"segments": 0, "unfinished": 0, "folder": 0}
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        size = path.stat().st_size
        found["folder"] += size
        if path.parent.name == SEGMENTS:
            found["unfinished" if path.name.startswith(".") else "segments"] += size
    return found


def health(about: Mapping[str, Any]) -> list[str]:
    """What is to be said about the run's health, one sentence each; the first sums it up."""
    found = [f"segment {item['file']} is damaged and left out: {item['reason']}" for item in about["damaged"]]
    found += [
        f"steps {first} to {stop - 1} are missing; windows across them are refused where all are needed"
        for first, stop in about["gaps"]
    ]
    bad = about["not_finite"]
    if bad:
        found.append(f"{len(bad)} rows hold NaN or infinity, the first at step {bad[0]}; training diverged there")
    if not about["trajectory"]["rows"]:
        found.append("no row is there: training made no step, or was killed before the first segment was written")
    state = about["state"]
    if state["word"] == "interrupted":
        found.append(f"the recording is not closed ({state['reason']}); every finished segment is there")
    if state["word"] == "recording":
        found.append(f"process {state['process']} seems to be recording; what is finished now is what is shown")
    if state["word"] == "closed" and state["reason"].startswith(("failed", "budget")):
        found.append(f"the recording ended before training did ({state['reason']})")
    if about["bytes"]["unfinished"] and state["word"] != "recording":
        found.append("a segment was never finished; its file can be removed")
    return found or ["whole: every segment has its checksum, no step is missing, every row is finite"]


def _trajectory(t: Trajectory) -> dict[str, Any]:
    rates = t.learning_rates
    return {
        "rows": len(t),
        "every": t.every,
        "keep": t.keeping.to_json(),
        "lost": t.keeping.lost(t.every),
        "steps_with_weights": len(t.known_steps),
        "segments": len(t.segments),
        "first_step": int(t.starts[0]) if len(t) else None,
        "last_step": int(t.steps[-1]) if len(t) else None,
        "seconds": float(t.times[-1] - t.times[0]) if len(t) else None,
        "learning_rates": [rates[0].tolist(), rates[-1].tolist()] if len(t) else [],
    }


def _optimizer(manifest: Mapping[str, Any]) -> dict[str, Any]:
    about = manifest["optimizer"]
    mappings = [group for group in about["groups"] if isinstance(group, Mapping)]
    groups = [{k: v for k, v in group.items() if k != "parameters"} for group in mappings]
    return {"class": str(about.get("class")), "groups": groups}


def _scalars(t: Trajectory) -> list[dict[str, Any]]:
    rows = []
    for name, values in t.scalars.items():
        kept = values[~torch.isnan(values)]
        first, last = (float(kept[0]), float(kept[-1])) if len(kept) else (math.nan, math.nan)
        rows.append({"name": name, "values": len(kept), "first": first, "last": last})
    return rows


def without_task(folder: str | Path) -> str:
    """What a run can answer without its model, loss and data, in a sentence.

    Args:
        folder: the run.

    Raises:
        RunError: if the folder is no run.
    """
    trajectory = open_run(folder).trajectory
    return (
        "curvature, layers, gains and trials need your task; add --task module:function. Without it the "
        f"{len(trajectory)} recorded rows of {folder} still say how the weights moved: thalweg inspect {folder}, and "
        "in Python, with t = thalweg.open_run(...).trajectory, update_pca(t), weight_pca(t), gradient_pca(t), drift(t) "
        "and drift_scan(t)"
    )
