"""One call of `analyse`: what its parts share, and how to measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from thalweg.analysis.approximation import SOURCES
from thalweg.costs import Costs
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.problem import Problem
from thalweg.recording.record import Window
from thalweg.recording.trajectory import Trajectory
from thalweg.runs import Run
from thalweg.solvers.lanczos import Certificate

COMPONENTS = (10, 20, 50)
"""Numbers of principal components whose captured share is reported."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """How `analyse` measures; kept with the result.

    Attributes:
        k: eigenpairs.
        stages: how many points of training the Hessian is measured at; the last is the end.
        components: numbers of principal components.
        tol: relative residual of the eigenpairs.
        certificate: of the eigenpairs.
        seed: of every random draw.
        draws: samples for each layer-matched null.
        noise_draws: of noise on inputs and labels; 0 leaves that out.
        density_steps: Lanczos steps for each probe of the spectral density; 0 leaves that out.
        density_probes: random vectors for it, at least 2.
    """

    k: int = 10
    stages: int = 3
    components: tuple[int, ...] = COMPONENTS
    tol: float = 1e-3
    certificate: Certificate = "complete"
    seed: int = 0
    draws: int = 1000
    noise_draws: int = 3
    density_steps: int = 32
    density_probes: int = 3


@dataclass(eq=False)
class Measurement:
    """What the parts share.

    Attributes:
        run: that is analysed.
        trajectory: its steps.
        problem: model, loss and training data.
        held_out: on other data, or None.
        settings: how to measure.
        memory_budget: bytes for kept gradient graphs.
        costs: seconds and products so far.
        say: called with a line for each part as it begins.
        progress: whether the eigenpairs show theirs.
        gradient_seconds: of one gradient, once it was timed.
        trial_seconds: that a trial takes, about, once its parts were timed; None without held-out data.
    """

    run: Run[Trajectory]
    trajectory: Trajectory
    problem: Problem
    held_out: Problem | None
    settings: Settings
    memory_budget: int | None
    costs: Costs
    say: Say
    progress: bool
    gradient_seconds: float = 0.0
    trial_seconds: float | None = None
    _components: dict[tuple[str, Window], Directions | str] = field(default_factory=dict)

    def found(self, source: str, window: Window) -> Directions | str:
        """The components of a source in a window, as many as are wanted and there are; or why there are none."""
        key = source, window
        if key not in self._components:
            rows = len(self.trajectory.rows_in(window))
            count = min(max(self.settings.components), rows - 1, self.trajectory.space.size)
            try:
                self._components[key] = SOURCES[source](self.trajectory, count, window)
            except InputError as error:
                self._components[key] = str(error)
        return self._components[key]

    @property
    def moves_along(self) -> bool:
        """Whether directions in the trajectory's span can be made as vectors; from a sketch only their products can."""
        return self.trajectory.sketch is None
