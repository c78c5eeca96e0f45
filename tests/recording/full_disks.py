"""Trainings whose disk fills, each in a forked child; run as a script, since it forks and limits file sizes.

Each line of standard input is a folder, the bytes of the largest file that may be written there (0: no limit) and the
way in which updates are kept, with tabs between. For each it prints the steps made, the warnings, and whether the
weights at the end are those of the same training without a recorder.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import warnings

import torch

import thalweg.recording as recording
from tests.recording.kill_writer import DIRECT, WIDTH, by_hand, flat, kept, step, toy

STEPS = 300


def train(folder: str, limit: int, keep: str) -> dict[str, object]:
    model, optimizer = toy(keep)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recorder = recording.watch(
            model, optimizer, folder, segment_rows=8, keep=kept(keep), sketch_width=WIDTH, flush_seconds=0.002
        )
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        for number in range(STEPS):
            step(model, optimizer, number)
        recorder.close()
    return {
        "steps": number + 1,
        "warnings": [str(one.message) for one in caught if "thalweg" in str(one.message)],
        "same": torch.equal(flat(model), by_hand(STEPS, keep)[-1]),
    }


def main() -> None:
    torch.set_num_threads(1)
    step(*toy(), 0)
    for keep in ("exact", DIRECT):
        by_hand(STEPS, keep)
    for line in sys.stdin:
        folder, limit, keep = line.rstrip("\n").split("\t")
        started = os.fork()
        if started == 0:
            try:
                print(json.dumps(train(folder, int(limit), keep)), flush=True)
            finally:
                os._exit(0)
        os.waitpid(started, 0)


if __name__ == "__main__":
    main()
