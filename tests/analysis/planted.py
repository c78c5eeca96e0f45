"""Updates with and without a planted drift, in noise whose law is known. Nothing of thalweg takes part.

Noise has unit energy a step, so a drift μ a step has `s = T |μ|²`: its sum's energy over that of the sum of the noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SIZE = 800
"""P."""

BURNT = 200
"""Steps before the first that is kept."""


@dataclass(frozen=True, eq=False)
class Planted:
    """A window of updates.

    Attributes:
        updates: `(T, P)`.
        rates: step sizes `(T,)`.
        momenta: what the manifest would say of momentum, `(T,)`.
        drift: the planted unit direction, None where there is none.
    """

    updates: np.ndarray
    rates: np.ndarray
    momenta: np.ndarray
    drift: np.ndarray | None = None

    @property
    def gram(self) -> np.ndarray:
        found: np.ndarray = self.updates @ self.updates.T
        return found


Make = Callable[[np.random.Generator], Planted]


def roots(power: float, size: int = SIZE) -> np.ndarray:
    """Standard deviations whose squares fall as `k^-power` and sum to one."""
    squares = np.arange(1.0, size + 1) ** -power
    found: np.ndarray = np.sqrt(squares / squares.sum())
    return found


def flat(size: int = SIZE) -> np.ndarray:
    """The direction with the least noise."""
    found = np.zeros(size)
    found[-1] = 1.0
    return found


def remembered(steps: np.ndarray, memory: float | np.ndarray) -> np.ndarray:
    """`x_t = a x_{t−1} + e_t`, in place."""
    for t in range(1, len(steps)):
        steps[t] += memory * steps[t - 1]
    return steps


def walk(
    steps: int = 500,
    power: float = 0.0,
    momentum: float = 0.0,
    told: float | None = None,
    memory: float | np.ndarray = 0.0,
    nesterov: bool = False,
    strength: float = 0.0,
    along: np.ndarray | None = None,
    decay: float = 0.0,
    law: Callable[[np.ndarray], np.ndarray] | None = None,
    schedule: Callable[[np.ndarray], np.ndarray] | None = None,
    tails: float | None = None,
    fading: float = 1.0,
) -> Make:
    """SGD on nothing but noise, and perhaps a constant pull.

    Args:
        steps: T.
        power: the noise's energy falls as `k^-power` over directions.
        momentum: β of heavy ball, or of Nesterov.
        told: what is told of it; the truth unless given.
        memory: of the gradient noise itself, from one step to the next; a number, or one for each direction.
        nesterov: see there.
        strength: s of the drift, at its beginning where it decays.
        along: the drift's direction; the least noisy one unless given.
        decay: the drift falls as `e^(−decay · t / T)`.
        law: how its speed goes with t/T, instead.
        schedule: step size over t/T.
        tails: degrees of freedom of Student's t that scales whole steps.
        fading: the noise falls to 1/fading over the window.
    """

    def make(generator: np.random.Generator) -> Planted:
        scale = roots(power)
        time = np.arange(-BURNT, steps) / steps
        noise = generator.standard_normal((steps + BURNT, SIZE)) * scale
        if tails is not None:
            noise *= np.sqrt((tails - 2) / generator.chisquare(tails, (len(noise), 1)))
        noise *= fading ** -np.clip(time, 0, 1)[:, None]
        gradients = remembered(noise, memory)
        direction = flat() if along is None else along
        if strength:
            speed = np.exp(-decay * np.clip(time, 0, 1)) if law is None else law(np.clip(time, 0, 1))
            gradients = gradients + np.sqrt(strength / steps) * speed[:, None] * direction
        rates = np.ones(len(time)) if schedule is None else schedule(np.clip(time, 0, 1))
        moved, average = np.empty_like(gradients), np.zeros(SIZE)
        for t, gradient in enumerate(gradients):
            average = momentum * average + gradient
            moved[t] = rates[t] * (gradient + momentum * average if nesterov else average)
        beta = momentum if told is None else told
        return Planted(moved[BURNT:], rates[BURNT:], np.full(steps, beta), direction if strength else None)

    return make


def well(
    steps: int = 500,
    power: float = 1.5,
    momentum: float = 0.9,
    memory: float = 0.0,
    epoch: int = 0,
    strength: float = 0.0,
    decay: float = 0.0,
    sharpest: float = 0.1,
) -> Make:
    """Heavy ball around the minimum of a quadratic whose curvature and noise fall together; perhaps a flat pull.

    Args:
        steps: T.
        power: the noise's energy falls as `k^-power`, the curvature as `k^(-power/2)`.
        momentum: β.
        memory: of the gradient noise.
        epoch: steps after which noise sums to zero, as when samples are drawn without replacement; 0 for never.
        strength: s of a drift along a direction without curvature or noise.
        decay: instead of no curvature along it, κT of its approach to the minimum.
        sharpest: step size times the largest curvature.
    """

    def make(generator: np.random.Generator) -> Planted:
        scale = roots(power)
        curvature = sharpest * scale / scale[0]
        settle = max(BURNT, int(5 * (1 - momentum) / curvature[-1]) if strength == 0 else 4000)
        settle = min(settle, 6000)
        weights, average = np.zeros(SIZE), np.zeros(SIZE)
        # start in the stationary state of the slow directions, which would take long to reach
        weights = generator.standard_normal(SIZE) * scale / np.sqrt(2 * curvature * (1 - momentum) * (1 + momentum))
        pull = np.sqrt(strength / steps)
        curvature_of_drift = decay * (1 - momentum) / steps
        place = -pull / curvature_of_drift if decay else 0.0
        moved = np.empty((steps, SIZE + 1))
        held, last = 0.0, np.zeros(SIZE)
        block = np.empty((0, SIZE))
        settle = min(settle, 1500)
        for t in range(-settle, steps):
            if epoch:
                if not len(block):
                    block = generator.standard_normal((epoch, SIZE)) * scale
                    block = block - block.mean(axis=0)
                noise, block = block[-1], block[:-1]
            else:
                noise = generator.standard_normal(SIZE) * scale
            last = memory * last + noise
            average = momentum * average - (curvature * weights + last)
            weights = weights + average
            if t < 0:
                held = pull / (1 - momentum) if not decay else -curvature_of_drift * place / (1 - momentum)
                continue
            held = momentum * held + (pull if not decay else -curvature_of_drift * place)
            place += held
            moved[t, :SIZE], moved[t, SIZE] = average, held
        direction = np.zeros(SIZE + 1)
        direction[-1] = 1.0
        return Planted(moved, np.ones(steps), np.full(steps, momentum), direction if strength else None)

    return make


def adam(steps: int = 500, power: float = 1.5, beta: float = 0.9, second: float = 0.99, strength: float = 0.0) -> Make:
    """Adam on noise of which each direction's size is its own; the pull is everywhere in the same proportion to it."""

    def make(generator: np.random.Generator) -> Planted:
        noise = generator.standard_normal((steps + BURNT, SIZE)) * roots(power)
        noise += np.sqrt(strength / steps) * roots(power)
        first, squares = np.zeros(SIZE), np.zeros(SIZE)
        moved = np.empty_like(noise)
        for t, gradient in enumerate(noise):
            first = beta * first + (1 - beta) * gradient
            squares = second * squares + (1 - second) * gradient**2
            moved[t] = first / (1 - beta ** (t + 1)) / (np.sqrt(squares / (1 - second ** (t + 1))) + 1e-8)
        return Planted(
            moved[BURNT:], np.ones(steps), np.full(steps, beta), np.full(SIZE, SIZE**-0.5) if strength else None
        )

    return make


def cosine(time: np.ndarray) -> np.ndarray:
    """From 1 to a tenth."""
    found: np.ndarray = 0.1 + 0.45 * (1 + np.cos(np.pi * time))
    return found


NO_DRIFT: dict[str, Make] = {
    "random walk": walk(),
    "random walk, spectrum k^-1": walk(power=1.0),
    "momentum 0.9, spectrum k^-1.5": walk(power=1.5, momentum=0.9),
    "momentum 0.9, spectrum k^-1": walk(power=1.0, momentum=0.9),
    "momentum 0.98, spectrum k^-1.5": walk(power=1.5, momentum=0.98),
    "Nesterov 0.9": walk(power=1.5, momentum=0.9, nesterov=True),
    "noise falling tenfold, heavy tails": walk(power=1.5, momentum=0.9, tails=4.0, fading=10.0),
    "cosine schedule to a tenth": walk(power=1.5, momentum=0.9, schedule=cosine),
    "Adam": adam(),
    "momentum 0.9, T = 200": walk(steps=200, power=1.5, momentum=0.9),
    "random walk, T = 100": walk(steps=100),
}

UNEXPLAINED: dict[str, Make] = {
    "momentum 0.93 taken for 0.9": walk(power=1.5, momentum=0.93, told=0.9),
    "momentum 0.95 taken for 0.9": walk(power=1.5, momentum=0.95, told=0.9),
    "momentum 0.9 of which nothing is told": walk(power=1.5, momentum=0.9, told=0.0),
    "gradient noise with memory 0.5": walk(power=1.5, momentum=0.9, memory=0.5),
    "gradient noise with memory 0.8": walk(power=1.5, momentum=0.9, memory=0.8),
    "memory from 0 to 0.8, by direction": walk(power=1.0, momentum=0.9, memory=np.linspace(0, 0.8, SIZE)),
    "memory from 0.8 to 0, by direction": walk(power=1.0, momentum=0.9, memory=np.linspace(0.8, 0, SIZE)),
    "gradient noise with memory 0.5, T = 200": walk(steps=200, power=1.5, momentum=0.9, memory=0.5),
    "momentum 0.95 taken for 0.9, T = 200": walk(steps=200, power=1.5, momentum=0.95, told=0.9),
}

STATIONARY: dict[str, Make] = {
    "well": well(),
    "flatter well": well(sharpest=0.01),
    "well, gradient noise with memory 0.5": well(memory=0.5),
    "flatter well, gradient noise with memory 0.8": well(memory=0.8, sharpest=0.01),
    "well, samples without replacement": well(epoch=50),
    "well, T = 200": well(steps=200),
}
