"""The whole way in: train a small network on real data, record it, analyse it, and try what was found."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from thalweg.measurement.base import Say, Settings
from thalweg.recording import open_run, watch
from thalweg.tasks.digits import digits_task, train
from thalweg.trials.run import TrialResult, trial
from thalweg.workflow import analyse

EPOCHS = 40

ARMS = ("eigenvectors:10", "layers:top:1")
STEPS, SEEDS, PILOT_SEEDS = 60, 7, 2
"""Of the trial: short, so that the way in stays under a minute."""


def demo(
    folder: str | Path, seed: int = 0, epochs: int = EPOCHS, say: Say | None = None, progress: bool = False
) -> dict[str, Any]:
    """Train the digits network, recorded, and analyse the run; the result of `analyse`.

    Args:
        folder: the run folder; a run that is there already is replaced.
        seed: for data, weights, order and every draw of the analysis.
        epochs: passes over the training data.
        say: called with a line for each part as it begins.
        progress: show a progress line on standard error.

    Raises:
        MissingExtraError: if scikit-learn is not installed.
        RunError: if the folder cannot be written.
    """
    say = say or (lambda line: None)
    start = time.perf_counter()
    task = digits_task(seed=seed)
    assert task.optimizer is not None
    assert task.evaluate is not None
    optimizer = task.optimizer(task.model)
    say(f"training 64-128-64-10 on 1,437 digits for {epochs} epochs, recorded in {folder}")
    with watch(task.model, optimizer, folder, overwrite=True) as recorder:
        train(task, optimizer, epochs, seed=seed, after_step=lambda step, loss: recorder.log(loss=loss))
    trained = time.perf_counter() - start
    say(f"held-out accuracy {task.evaluate(task.model)['accuracy']:.3f} after {trained:.1f} s")
    command = f"thalweg analyse {folder} --task thalweg.tasks.digits:digits_task --set seed={seed} --seed {seed}"
    run = open_run(folder)
    return analyse(
        run,
        task.problem(),
        task.problem(held_out=True),
        settings=Settings(seed=seed),
        command=command,
        say=say,
        progress=progress,
    )


def try_out(folder: str | Path, seed: int = 0, say: Say | None = None) -> TrialResult:
    """A short trial on the demo's run, kept in its folder: do the stiffest directions, or one layer, pay?

    Args:
        folder: the run that `demo` made.
        seed: as given to `demo`.
        say: called with a line for each part as it begins.

    Raises:
        RunError: if the folder is no run.
    """
    command = (
        f"thalweg trial {folder} --task thalweg.tasks.digits:digits_task --set seed={seed} --seed {seed} "
        f"--arms {','.join(ARMS)} --steps {STEPS} --seeds {SEEDS} --pilot-seeds {PILOT_SEEDS} --yes"
    )
    return trial(
        digits_task(seed=seed),
        ARMS,
        run=folder,
        steps=STEPS,
        seeds=SEEDS,
        pilot_seeds=PILOT_SEEDS,
        seed=seed,
        command=command,
        say=say,
    )
