"""The drift mode: one direction that training keeps moving along, beyond what its noise explains.

`drift_test` says whether there is one, `drift_direction` which it is and how long it stays the same, `speeds` how its
speed falls. The method and its measured level and power are in docs/drift.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thalweg.analysis.block_means import block_means
from thalweg.analysis.clock import Clock, clock_of, decay_removed
from thalweg.analysis.drift_ahead import Ahead, look_ahead
from thalweg.analysis.drift_direction import Persistence, find_direction, jackknife, persistence, unbiased_square
from thalweg.analysis.drift_test import FEW_BLOCKS as TEST_FEW_BLOCKS
from thalweg.analysis.drift_test import LEAST_ROWS, Test, check_rows, drift_test
from thalweg.analysis.nulls import holm
from thalweg.analysis.speeds import BLOCKS, FEW_BLOCKS, FEW_ROWS, LEAST_CONSTANTS, WIDEST, ModelName, Speeds, speeds
from thalweg.directions import Directions
from thalweg.problem import Problem
from thalweg.recording.record import Window
from thalweg.recording.span import TrajectoryRows
from thalweg.recording.trajectory import Trajectory
from thalweg.solvers.points import refuse_gaps
from thalweg.tables import Table, Tabular, quantities

LEVEL = 0.05
"""At which a drift counts as found."""

NOTHING = 1e-9
"""Share of the updates' energy that counts as rounding."""

STEPS_AHEAD = (1, 10, 100, 1000)


@dataclass(frozen=True, eq=False)
class Drift(Tabular):
    """What a window of updates says about a drift.

    Attributes:
        direction: one unit direction `(1, P)`, pointing the way the weights move; held over the trajectory.
        p_value: of "no drift", by sign flips of blocks; never below `2^(1 − blocks)`.
        found: whether that is below `level`.
        level: fixed beforehand.
        cosine: estimated cosine of `direction` with the drift, 0 to 1.
        share: of the updates' energy that is drift; the difference of noise from zero can make it negative.
        share_error: its standard error.
        persistence: whether the first and the last third of the window go the same way.
        speed: at the window's end along `direction`, length in weights a step.
        model: "constant", "exponential", "power law", or "undecided" where no law is clearly better; "none" where no
            drift was found.
        speeds: what the laws were fitted to; its clock is Σ η_eff.
        half_life: steps at the window's last step size until the speed is half, where the law is exponential; else
            None.
        half_life_interval: 90 %.
        half_life_word: "told", or why there is none: "no drift", "law" (another law fits better), "unseen" (too few
            time constants), "wide" (the interval is too wide) or "undecided"; `reason` says it in a sentence.
        reason: see there; "" where there is one.
        distance_left: length that an exponential drift still has to go, None likewise.
        curvature: `dᵀHd` at the window's end, None without a problem.
        rate: κ of the exponential a step, fitted; `rate_expected`: `η_eff (dᵀHd + weight decay)`, for SGD only.
        rate_expected: see there.
        loss_gain_left: of the distance left, by slope and curvature; None likewise.
        ahead: losses further along the direction, None without a problem.
        p_value_without_decay: the test where weight decay's part was taken out, None where it is zero or not known.
        test: what was tested.
        clock: step sizes.
        provenance: window, layer, rows, blocks, and what was taken out, as plain values.
    """

    direction: Directions
    p_value: float
    found: bool
    level: float
    cosine: float
    share: float
    share_error: float
    persistence: Persistence
    speed: float
    model: ModelName | str
    speeds: Speeds
    half_life: float | None
    half_life_interval: tuple[float, float] | None
    half_life_word: str
    reason: str
    distance_left: float | None
    curvature: float | None
    rate: float | None
    rate_expected: float | None
    loss_gain_left: float | None
    ahead: Ahead | None
    p_value_without_decay: float | None
    test: Test
    clock: Clock
    provenance: dict[str, Any]

    def to_table(self) -> Table:
        """A row for each figure that is known."""
        known = {
            "found": self.found, "p_value": self.p_value, "share": self.share, "share_error": self.share_error,
            "persistence": self.persistence.cosine, "cosine": self.cosine, "speed": self.speed, "model": self.model,
            "half_life": self.half_life, "reason": self.reason or None, "curvature": self.curvature,
        }  # fmt: skip
        return quantities(**{name: value for name, value in known.items() if value is not None})

    def __repr__(self) -> str:
        word = "found" if self.found else "not found"
        half = f", half-life {self.half_life:.4g} steps" if self.half_life is not None else ""
        return f"Drift({word}, p {self.p_value:.3g}, cosine {self.cosine:.2f}, {self.model}{half})"


def drift(
    t: Trajectory,
    window: Window | None = None,
    layer: str | None = None,
    *,
    problem: Problem | None = None,
    held_out: Problem | None = None,
    blocks: int | None = None,
    level: float = LEVEL,
    ahead: Sequence[int] = STEPS_AHEAD,
    seed: int = 0,
) -> Drift:
    """Test for a drift in a window of training, and say what it is like.

    Args:
        t: the trajectory.
        window: half-open interval of optimizer steps; None for all. It must hold at least 82 rows.
        layer: look at this layer's entries only; the direction is zero elsewhere.
        problem: model, loss and data, for the curvature along the drift and the losses ahead; its weights do not
            matter, the window's last are used.
        held_out: the same model and loss on data that training never saw.
        blocks: of the test; 10, 8 for fewer than 300 rows, or 7 where noise remembers too long.
        level: below which p-value a drift counts as found.
        ahead: steps ahead at which losses are evaluated.
        seed: for the random directions beside them.

    Raises:
        InputError: if the window is too short, nothing moves in it, or the layer is unknown.
    """
    rows, clock, gram, test = tested = window_test(t, window, layer, blocks)
    pace = _speeds(test, clock)
    shape = pace.fit("exponential").amplitude * pace.relative("exponential", _clock_of_blocks(test, clock))
    found = find_direction(test.blocks, shape)
    made = np.asarray(test.innovations.map.T @ found.coefficients)
    length = math.sqrt(max(float(made @ gram @ made), 0.0))
    forward = 1.0 if float(gram.sum(axis=0) @ made) >= 0 else -1.0
    coefficients = torch.zeros(1, len(t), dtype=torch.float64)
    coefficients[0, rows] = torch.as_tensor(forward * made / length)
    is_found = test.p_value < level
    last_rate = clock.rates[-1] / np.median(clock.rates)
    speed = _speed_at_end(found.along, pace, _clock_of_blocks(test, clock), clock)
    speed *= last_rate / clock.steps[-1] / test.innovations.gain
    half = _half_life(pace, clock, is_found, speed)
    direction = Directions(
        TrajectoryRows(t, coefficients, layer),
        label="drift" + (f" of {layer}" if layer else ""),
        provenance={"method": "drift", "window": _window_of(t, rows), "layer": layer, "cosine": found.cosine},
    )
    losses = None
    if problem is not None:
        losses = look_ahead(t, int(t.steps[rows[-1]]), direction, speed, half.distance, problem, held_out, ahead, seed)
    without = _without_decay(t, rows, clock, layer, gram, blocks)
    return Drift(
        direction=direction,
        p_value=test.p_value,
        found=is_found,
        level=level,
        cosine=found.cosine,
        share=tested.share,
        share_error=tested.share_error,
        persistence=persistence(test.blocks),
        speed=speed,
        model=pace.model if is_found else "none",
        speeds=pace,
        half_life=half.steps,
        half_life_interval=half.interval,
        half_life_word=half.word,
        reason=half.reason,
        distance_left=half.distance,
        curvature=None if losses is None else losses.curvature,
        rate=pace.fit("exponential").rate * float(clock.effective[-1]) if is_found else None,
        rate_expected=_expected_rate(clock, losses),
        loss_gain_left=None if losses is None else losses.gain_left,
        ahead=losses,
        p_value_without_decay=without,
        test=test,
        clock=clock,
        provenance={
            "window": _window_of(t, rows),
            "layer": layer,
            "rows": len(rows),
            "rows_left_out": len(t.rows_in(window)) - len(rows),
            "blocks": len(test.blocks),
            "block_length": test.blocks.length,
            "rows_summed": test.innovations.summed,
            "momentum": float(clock.momenta[-1]),
            "autoregression": test.innovations.filter.tolist(),
            "correlation_left": test.innovations.left,
            "metric_share": found.share,
        },
    )


class WindowTest(NamedTuple):
    """The test of one window: its rows, their step sizes, their Gram matrix and the outcome."""

    rows: Tensor
    clock: Clock
    gram: np.ndarray
    test: Test

    @property
    def share(self) -> float:
        """Of the updates' energy that is drift."""
        return unbiased_square(self.test.blocks.means) * self._scale

    @property
    def share_error(self) -> float:
        """Its standard error."""
        return jackknife(self.test.blocks.means) * self._scale

    @property
    def _scale(self) -> float:
        """From an innovation's squared mean to the share: what a drift of one would move in all rows."""
        moved = float(((self.clock.rates / np.median(self.clock.rates)) ** 2).sum())
        return moved / self.test.innovations.gain**2 / float(np.trace(self.gram))


def window_test(
    t: Trajectory, window: Window | None = None, layer: str | None = None, blocks: int | None = None
) -> WindowTest:
    """The test alone, without direction, speeds and losses; arguments and errors as for `drift`."""
    rows = t.rows_in(window)
    rows = rows[t.usable[rows]]
    check_rows(len(rows), blocks)
    refuse_gaps(t, rows, "equal blocks of steps")
    clock = clock_of(t, rows)
    first, last = int(rows[0]), int(rows[-1]) + 1
    gram = t.gram_between(first, last, layer).numpy()[np.ix_(rows.numpy() - first, rows.numpy() - first)]
    return WindowTest(rows, clock, gram, drift_test(gram, clock.rates, clock.momenta, blocks))


def drift_scan(t: Trajectory, windows: int = 8, layer: str | None = None, level: float = LEVEL) -> Table:
    """When a drift sets in: the test in equal windows of training, one after the other.

    Args:
        t: the trajectory.
        windows: how many, or as many as leave each enough rows.
        layer: look at this layer's entries only.
        level: after Holm's correction over all windows.

    Returns:
        A table with the columns start, stop, p_value, p_holm, share (of the updates' energy that is drift), cosine (of
        the window's direction with the last window's, as found) and lasting: true from the first window on from which
        every one holds a drift.

    Raises:
        InputError: if there are too few rows for one window.
    """
    start = max((gap[1] for gap in t.gaps), default=0)
    rows = t.rows_in((start, int(t.steps[-1]) + 1)) if len(t) else t.rows_in()
    check_rows(len(rows))
    count = max(1, min(windows, len(rows) // LEAST_ROWS))
    if len(rows) // count < FEW_ROWS:
        count = min(count, int(level * 2 ** (TEST_FEW_BLOCKS - 1)))  # else no window could pass the correction
    parts = np.array_split(rows.numpy(), count)
    found = [drift(t, (int(t.starts[part[0]]), int(t.steps[part[-1]]) + 1), layer, level=level) for part in parts]
    corrected = holm([one.p_value for one in found])
    hit = [p < level for p in corrected]
    return Table.of(
        [
            {
                "start": one.provenance["window"][0],
                "stop": one.provenance["window"][1],
                "p_value": one.p_value,
                "p_holm": p,
                "share": one.share,
                "cosine": float(one.direction.rows.cross(found[-1].direction.rows)[0, 0]),
                "lasting": all(hit[number:]),
            }
            for number, (one, p) in enumerate(zip(found, corrected, strict=True))
        ]
    )


# -- half-life and rate ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _HalfLife:
    word: str
    reason: str = ""
    steps: float | None = None
    interval: tuple[float, float] | None = None
    distance: float | None = None


def _half_life(pace: Speeds, clock: Clock, is_found: bool, speed: float) -> _HalfLife:
    """The half-life in steps at the last step size, or why there is none."""
    law = pace.fit("exponential")
    span = float(clock.elapsed[-1])
    low, high = law.interval
    if not is_found:
        return _HalfLife("no drift", "no drift was found")
    if pace.model in ("constant", "power law"):
        return _HalfLife("law", f"the speeds follow a {pace.model} better than an exponential, which has no half-life")
    if law.rate * span < LEAST_CONSTANTS:
        return _HalfLife(
            "unseen",
            f"not identifiable: the window holds {max(law.rate, 0) * span:.2g} time constants, fewer than "
            f"{LEAST_CONSTANTS:.0f}",
        )
    if not low > 0 or high / low > WIDEST:
        return _HalfLife(
            "wide",
            f"not identifiable: the 90 % interval of the rate, {low * span:.2g} to {high * span:.2g} time constants a "
            f"window, spans more than a factor of {WIDEST:.0f}",
        )
    if pace.model != "exponential":
        return _HalfLife(
            "undecided", "undecided: a constant or a power law fits the speeds about as well as an exponential"
        )
    per_step = float(clock.effective[-1])
    scale = math.log(2) / per_step
    return _HalfLife("told", "", scale / law.rate, (scale / high, scale / low), speed / (law.rate * per_step))


def _expected_rate(clock: Clock, losses: Ahead | None) -> float | None:
    """`η_eff (dᵀHd + weight decay)` a step; None for optimizers that do not see the plain Hessian."""
    if losses is None or not clock.known or clock.optimizer != "SGD" or clock.weight_decay is None:
        return None
    return float(clock.effective[-1]) * (losses.curvature + clock.weight_decay)


def _speeds(test: Test, clock: Clock) -> Speeds:
    """Speeds from finer blocks than the test's."""
    count = BLOCKS if len(test.innovations) >= FEW_ROWS / test.innovations.summed else FEW_BLOCKS
    fine = block_means(test.innovations.gram, max(min(count, len(test.innovations) // 8), 4))
    return speeds(fine, _middles(len(fine), fine.length, fine.first, test, clock))


def _clock_of_blocks(test: Test, clock: Clock) -> np.ndarray:
    return _middles(len(test.blocks), test.blocks.length, test.blocks.first, test, clock)


def _middles(count: int, length: int, first: int, test: Test, clock: Clock) -> np.ndarray:
    """The clock in the middle of blocks of innovations; the last innovation belongs to the last row."""
    summed = test.innovations.summed
    begin = len(clock.rates) - count * length * summed
    return clock.middle(begin, length, count, summed)


def _speed_at_end(along: np.ndarray, pace: Speeds, middles: np.ndarray, clock: Clock) -> float:
    """The speed at the window's end, in innovations: the mean speed, carried there by the preferred law."""
    end = (clock.before or 0.0) + float(clock.elapsed[-1])
    name: ModelName = pace.model if pace.model != "undecided" else "exponential"
    there = pace.relative(name, middles)
    return float((along * there).sum() / (there**2).sum() * pace.relative(name, np.array([end]))[0])


def _without_decay(
    t: Trajectory, rows: Tensor, clock: Clock, layer: str | None, gram: np.ndarray, blocks: int | None
) -> float | None:
    """The p-value of what weight decay leaves; one where it leaves nothing but rounding."""
    left = decay_removed(t, rows, clock, layer)
    if left is None:
        return None
    if np.trace(left) < NOTHING * np.trace(gram):
        return 1.0
    return drift_test(left, clock.rates, clock.momenta, blocks).p_value


def _window_of(t: Trajectory, rows: Tensor) -> list[int]:
    return [int(t.starts[rows[0]]), int(t.steps[rows[-1]]) + 1]
