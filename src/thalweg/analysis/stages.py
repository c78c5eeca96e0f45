"""The stages of a training: equal windows of its recorded steps, at whose ends the curvature is measured."""

from __future__ import annotations

import itertools

from thalweg.errors import InputError
from thalweg.recording.record import Window
from thalweg.recording.trajectory import Trajectory


def stage_windows(trajectory: Trajectory, stages: int) -> list[Window]:
    """The recorded steps cut into equal windows of whole rows, after the last gap.

    A window ends where the weights are known: of a sketched run, with the nearest sum.

    Raises:
        InputError: if there are fewer than three rows for each stage, or weights are known at fewer steps than stages.
    """
    start = max((gap[1] for gap in trajectory.gaps if gap[1] <= int(trajectory.steps[-1])), default=0)
    rows = trajectory.rows_in((start, int(trajectory.steps[-1]) + 1))
    if stages < 1 or len(rows) < 3 * stages:
        raise InputError(
            f"stages={stages} of {len(rows)} recorded rows leave fewer than 3 rows for each; "
            f"use --stages {max(1, len(rows) // 3)} or record longer"
        )
    first, last = trajectory.starts[rows], trajectory.steps[rows]
    known = set(trajectory.known_steps.tolist())
    ends = [row + 1 for row, step in enumerate(last.tolist()) if step in known and row >= 2]
    if len(ends) < stages:
        raise InputError(
            f"stages={stages}, but this run keeps a sketch and the weights are known at {len(ends)} steps after its "
            f"first rows; use --stages {max(1, len(ends))} or record longer"
        )
    cuts = [0]
    for stage in range(1, stages + 1):
        open_ = [end for end in ends[: len(ends) - stages + stage] if end > cuts[-1]]
        cuts.append(min(open_, key=lambda end: abs(end - len(rows) * stage // stages)))
    return [(int(first[a]), int(last[b - 1]) + 1) for a, b in itertools.pairwise(cuts)]


def stage_name(number: int, stages: int) -> str:
    """early, middle, late for three stages; numbers otherwise; the last of one is final."""
    if stages == 1:
        return "final"
    return ("early", "middle", "late")[number] if stages == 3 else f"{number + 1} of {stages}"
