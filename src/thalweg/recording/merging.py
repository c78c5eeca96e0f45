"""Making one run of the parts that ranks have recorded of a model that is split over them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thalweg.collectives import put_together
from thalweg.errors import RunError
from thalweg.recording.importing import BLOCK_BYTES, BLOCK_ROWS
from thalweg.recording.manifest import CLOSED, made_aside, now, write_json
from thalweg.recording.opening import open_run
from thalweg.recording.segments import SegmentContent, write_segment
from thalweg.recording.shards import PARTS, part_folders
from thalweg.recording.store import SEGMENTS
from thalweg.recording.trajectory import Trajectory
from thalweg.runs import MANIFEST, Run
from thalweg.space import ParameterSpace


def merge_parts(folder: str | Path, out: str | Path) -> dict[str, Any]:
    """Make an ordinary run of a run's parts, on one machine; the parts stay as they are.

    A row of the new run ends where every part has one: where a rank died, the rows that all have are kept.

    Args:
        folder: where `watch` kept the parts.
        out: the run folder to be made; it may not be there.

    Returns:
        Plain values: `run`, `parts`, `rows`, `steps` of the first and the last, `parameters`, and `left_out`, how many
        rows of each part came after the last common one.

    Raises:
        RunError: if there are no parts, one is missing or of another model, they have no step in common, or `out`
            exists or cannot be written.
    """
    folder, out = Path(folder), Path(out)
    parts = _parts(folder)
    records = [part.trajectory for part in parts]
    steps = sorted(set.intersection(*({-1, *record.steps.tolist()} & _known(record) for record in records)))
    if len(steps) < 2 or steps[0] != -1:
        raise RunError(f"the parts in {folder} have no rows in common, so there is nothing to put together")
    about = parts[0].manifest["part"]
    space = ParameterSpace.from_json(about["space"])
    manifest = {**parts[0].manifest, "run": uuid.uuid4().hex, "space": about["space"], "keep": {"form": "exact"}}
    kinds = {name: kind for part in parts for name, kind in part.manifest["dtypes"].items()}
    manifest |= {"dtypes": {name: kinds[name] for name in space.names}, "budget": None}
    manifest |= {"merged": [str(part.folder.resolve()) for part in parts]}
    del manifest["part"]
    with made_aside(out) as aside:
        write_json(aside / MANIFEST, manifest)
        (aside / SEGMENTS).mkdir()
        for content in _segments(manifest, records, [part.manifest["part"]["spans"] for part in parts], steps):
            write_segment(aside / SEGMENTS, content)
        ended = {"rows": len(steps) - 1, "last_step": steps[-1], "steps_seen": steps[-1] + 1}
        write_json(aside / CLOSED, ended | {"reason": f"merged of {len(parts)} parts", "closed": now()})
    return {
        "run": str(out),
        "parts": len(parts),
        "rows": len(steps) - 1,
        "steps": [steps[1], steps[-1]],
        "parameters": space.size,
        "left_out": [int((record.steps > steps[-1]).sum()) for record in records],
    }


def _parts(folder: Path) -> list[Run[Trajectory]]:
    """The parts in the order of their ranks; all of them, and of one job."""
    found = [open_run(path) for path in part_folders(folder)]
    if not found:
        raise RunError(f"{folder} holds no parts of a run ({PARTS.format(0, 2)} and so on); nothing is to be merged")
    by_rank = {part.manifest["part"]["rank"]: part for part in found}
    count = found[0].manifest["part"]["ranks"]
    missing = [rank for rank in range(count) if rank not in by_rank]
    if missing or len(found) != count:
        lost = PARTS.format(missing[0], count) if missing else f"{len(found)} parts of {count} ranks"
        raise RunError(f"{folder} does not hold one whole run: {lost}; put the parts of one run there, and no others")
    jobs = [by_rank[rank].manifest["part"].get("job") for rank in range(count)]
    if len(set(jobs)) > 1:
        other = next(rank for rank in range(count) if jobs[rank] != jobs[0])
        raise RunError(
            f"{PARTS.format(other, count)} in {folder} belongs to another recording than {PARTS.format(0, count)}; put "
            "the parts of one recording there"
        )
    wholes = [by_rank[rank].manifest["part"]["space"] for rank in range(count)]
    if any(whole != wholes[0] for whole in wholes):
        raise RunError(f"the parts in {folder} are of different models; put the parts of one run there")
    return [by_rank[rank] for rank in range(count)]


def _known(record: Trajectory) -> set[int]:
    return set(record.known_steps.tolist())


def _segments(
    manifest: dict[str, Any], records: Sequence[Trajectory], spans: Sequence[Any], steps: Sequence[int]
) -> Iterator[SegmentContent]:
    size = ParameterSpace.from_json(manifest["space"]).size
    dtype: torch.dtype = getattr(torch, manifest["dtype"])
    height = max(1, min(BLOCK_ROWS, BLOCK_BYTES // (size * dtype.itemsize) - 1))
    first = records[0]
    place = {step: row for row, step in enumerate(first.steps.tolist())}
    for start in range(1, len(steps), height):
        chosen = steps[start : start + height]
        weights = torch.stack(
            [put_together([record.weights(step) for record in records], spans) for step in (steps[start - 1], *chosen)]
        )
        rows = [place[step] for step in chosen]
        buffers, _ = first.buffers(chosen[-1])
        yield SegmentContent(
            run=manifest["run"],
            first_row=start - 1,
            before=steps[start - 1],
            weights=weights.to(dtype),
            steps=np.array(chosen, dtype=np.int64),
            learning_rates=first.learning_rates[rows].numpy(),
            momenta=first.momenta[rows].numpy(),
            times=first.times[rows].numpy(),
            scalars={name: values[rows].numpy() for name, values in first.scalars.items()},
            buffers=buffers,
        )
