"""What a trial will take, before anything of it has run."""

from __future__ import annotations

import time

from thalweg.problem import Problem
from thalweg.trials.plan import ARMS, AROUND, BATCH, GRID, PILOT, STEPS, TUNING, USUAL_SEEDS

ONE_ARM = 6
"""An arm, its complement, three controls, and training in full."""

USUAL_NAMES = 1 + 4 * len(ARMS)
"""Arms and controls of the usual arms, about: each has a complement and two or three controls of its own."""


def usual_seconds(problem: Problem, held_out: Problem, names: int = USUAL_NAMES) -> tuple[float, float]:
    """What pilot and confirmation of a plan as it comes take, about, and the held-out loss that was measured for it.

    One gradient of a batch, and one pass over the held-out data, of which a training is judged by half.

    Args:
        problem: on training data, at the weights where the trial would begin.
        held_out: the same on held-out data.
        names: arms and controls.
    """
    few = problem.sampled(BATCH) or problem
    few.gradient()  # once, so that what is done once is not timed
    start = time.perf_counter()
    few.gradient()
    step = time.perf_counter() - start
    start = time.perf_counter()
    value = held_out.loss()
    judging = (time.perf_counter() - start) / 2
    trainings = names * (len(GRID) * TUNING + (USUAL_SEEDS + PILOT) * (AROUND + 1))
    return trainings * (STEPS * step + 2 * judging), value
