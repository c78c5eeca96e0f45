"""What a trial stands on: a task at its start, three kinds of data, and where directions come from.

Training batches move the weights. The held-out data is split at random, by samples, into a half on which step sizes
are tuned and a half on which arms are judged; training data among it is found by fingerprints of single samples and
refused.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.analysis.approximation import SOURCES
from thalweg.analysis.drift import drift
from thalweg.analysis.innovations import FEW_ROWS
from thalweg.analysis.layer_ranking import rank_layers
from thalweg.batches import fingerprint, sample_count, to_device
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.losses import model_loss
from thalweg.problem import Problem
from thalweg.recording.anchors import read_anchor
from thalweg.recording.record import Window
from thalweg.recording.trajectory import Trajectory
from thalweg.solvers.lanczos import eigenpairs
from thalweg.solvers.svd import chosen_directions, weight_svd
from thalweg.space import unwrapped
from thalweg.task import Task
from thalweg.trials.samples import Samples, refuse_overlap

LEAST_WINDOW = 3
"""Recorded rows in the last third of a run, at the least, for its components."""


@dataclass(eq=False)
class Ground:
    """A task at the weights where every arm begins.

    Attributes:
        task: model, loss, data and optimizer.
        training: the problem on the training data, at the start.
        tuning: on one half of the held-out data.
        judging: on its other half.
        trajectory: of the run that the start comes from, or None.
        step: of that run after which the arms begin; None for the model's own weights.
        window: steps of the run that components are taken from: the last third before the start.
        state: the optimizer's tensors by parameter and key, where a recorded state is carried on; else empty.
        state_step: the step of the run after which that state stood, at or before the start; None where there is none.
        batch: samples of a training step.
        doubles: share of held-out samples that are training samples as well.
        seed: of the split and of every draw that does not belong to a replicate.
    """

    task: Task
    training: Problem
    tuning: Problem
    judging: Problem
    trajectory: Trajectory | None
    step: int | None
    window: Window | None
    state: Mapping[str, Mapping[str, Tensor]]
    state_step: int | None
    batch: int
    doubles: float
    seed: int
    _bases: dict[tuple[str, int], Directions] = field(default_factory=dict)

    @cached_property
    def start(self) -> Tensor:
        """The weights `(P,)` where every arm begins."""
        return self.training.weights()

    @cached_property
    def gradient(self) -> Tensor:
        """The training loss's gradient there, `(P,)`."""
        return self.training.gradient()

    @cached_property
    def apart(self) -> Ground:
        """The same, which this rank works on by itself; what was found by then is taken along."""
        if self.training.share.ranks.alone:
            return self
        other = copy.copy(self)
        for name in ("training", "tuning", "judging"):
            setattr(other, name, getattr(self, name).undivided())
        return other

    @cached_property
    def samples(self) -> Samples:
        """The training data, to draw batches from."""
        return Samples(self.task.train, self.batch)

    def directions(self, source: str, k: int) -> Directions:
        """k orthonormal directions from a source, found once.

        Args:
            source: one of `BASES`.
            k: how many.

        Raises:
            InputError: for a source that there is not, or that has too few or needs a run.
        """
        key = source, k
        if key not in self._bases:
            if source not in BASES:
                raise InputError(f"there are no directions {source!r}; there are {', '.join(BASES)}")
            refuse_whole_space(source, k, self.training.space.size)  # before they are sought, which would take for ever
            self._bases[key] = orthonormal(BASES[source](self, k))
        return self._bases[key]

    @cached_property
    def layer_orders(self) -> dict[str, tuple[str, ...]]:
        """Names of the layers, by `rank_layers`: `top` to fine-tune first, `cheap` to compress first."""
        table = list(rank_layers(self.training, seed=self.seed))
        columns = {"top": "fine_tuning", "cheap": "compression"}
        return {
            order: tuple(str(row["layer"]) for row in sorted(table, key=lambda row: int(row[column])))
            for order, column in columns.items()
        }

    @cached_property
    def radius(self) -> float:
        """How far a step may go: as far as the weights moved in the window, or a hundredth of their length."""
        if self.trajectory is None or self.window is None:
            return 0.01 * float(self.start.norm())
        return float((self.start - self.trajectory.weights(self.window[0] - 1).to(self.start)).norm())

    def moved(self, weights: Tensor) -> Ground:
        """The same ground at other weights, for directions that are found again there."""
        return replace(self, training=self.training.at(weights), _bases={})

    def loss_of(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean loss of a training batch, as the task's own loop would step on."""
        loss = self.task.loss if self.task.loss is not None else model_loss
        value: Tensor = loss(model, to_device(batch, self.training.device))
        if self.task.reduction == "sum":
            value = value / (self.task.weight(batch) if self.task.weight else sample_count(batch))
        return value

    def prints(self) -> dict[str, str]:
        """What start and data are, in a few letters each."""
        return {
            "start": f"{fingerprint(self.start):08x}",
            "train": _print(self.training.undivided()),
            "tuning": _print(self.tuning.undivided()),
            "judging": _print(self.judging.undivided()),
        }


def make_ground(
    task: Task,
    trajectory: Trajectory | None = None,
    *,
    step: int | None = None,
    batch: int = 64,
    carried: bool = False,
    seed: int = 0,
) -> Ground:
    """The ground of a trial.

    Args:
        task: with held-out data and an optimizer.
        trajectory: a recorded run; the arms begin at its weights, and it is where components and the drift come from.
        step: of the run, the last one unless given.
        batch: samples of a training step, where samples can be told apart.
        carried: whether the optimizer goes on with the moments that the run kept; else it begins afresh.
        seed: of the split of the held-out data.

    Raises:
        InputError: if the task lacks an optimizer or held-out data, that data overlaps with training data or cannot be
            split, the run does not fit the model, or it kept no state to carry on.
    """
    if task.optimizer is None:
        raise InputError("a trial trains, so it needs Task(..., optimizer=lambda model: torch.optim.SGD(...))")
    if task.held_out is None:
        raise InputError("a trial is judged on data that training never saw; give Task(..., held_out=batches)")
    if batch < 1:
        raise InputError(f"batch={batch}: a training step takes at least one sample")
    refuse_closure(task)
    training, held_out = task.problem(), task.problem(held_out=True)
    doubles = refuse_overlap(task.train, task.held_out)
    state: Mapping[str, Mapping[str, Tensor]] = {}
    window = state_step = None
    if trajectory is not None:
        trajectory.space.require_same(training.space, "the task's model")
        step = int(trajectory.steps[-1]) if step is None else step
        buffers, _ = trajectory.buffers(step)
        weights = trajectory.weights(step)
        training, held_out = training.at(weights, buffers), held_out.at(weights, buffers)
        window = last_window(trajectory, step)
        if carried:
            state, state_step = carried_state(trajectory, step)
    elif carried:
        raise InputError("there is no run whose optimizer state could be carried on; use state='fresh'")
    elif step is not None:
        raise InputError(f"step={step} belongs to a run, and none was given")
    else:  # a copy, so that nothing in here touches the user's model
        training, held_out = (problem.at(problem.weights()) for problem in (training, held_out))
    try:
        tuning, judging = held_out.split(seed)
        judging.survey, tuning.survey  # noqa: B018 - each must hold something
    except InputError as error:
        raise InputError(f"the held-out data cannot be split into tuning and judging: {error}") from error
    return Ground(task, training, tuning, judging, trajectory, step, window, state, state_step, batch, doubles, seed)


def refuse_closure(task: Task) -> None:
    """Refuse an optimizer whose step asks for the loss again: it makes many gradients of one step.

    Raises:
        InputError: for one.
    """
    assert task.optimizer is not None
    made = task.optimizer(unwrapped(task.model))
    closure = inspect.signature(type(made).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise InputError(
            f"{type(made).__name__} asks for the loss several times in a step, so steps of arms could not be compared; "
            "give the task another optimizer"
        )


def last_window(trajectory: Trajectory, step: int) -> Window:
    """The last third of the recorded steps up to `step`.

    Raises:
        InputError: if that holds fewer than three rows.
    """
    steps = trajectory.steps[trajectory.steps <= step]
    count = len(steps) // 3
    if count < LEAST_WINDOW:
        raise InputError(f"{len(steps)} recorded rows up to step {step} are too few for components; record longer")
    return int(trajectory.starts[len(steps) - count]), step + 1


def carried_state(trajectory: Trajectory, step: int) -> tuple[Mapping[str, Mapping[str, Tensor]], int]:
    """The optimizer's state that the run kept nearest before a step, and the step after which it stood.

    Raises:
        InputError: if it kept none up to there.
    """
    for segment in reversed(trajectory.segments):
        if segment.before <= step and segment.anchored:
            state = read_anchor(segment).state
            if state:
                return state, segment.before
    raise InputError(f"{trajectory.folder} kept no optimizer state up to step {step}; begin afresh with state='fresh'")


def _print(problem: Problem) -> str:
    code = 0
    for one in problem.survey.prints:
        code = (code * 1_000_003 + one) % 2**32
    return f"{code:08x}"


# -- losses ------------------------------------------------------------------------------------------------


def on_model(problem: Problem, model: nn.Module) -> Problem:
    """The same loss and data on another model of the same kind."""
    other = copy.copy(problem)
    other.model = model
    return other


def loss_on(problem: Problem, model: nn.Module) -> float:
    """The mean loss of a model, infinite where it is not a finite number."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in model.parameters()):
        return math.inf
    try:
        return on_model(problem, model).loss()
    except InputError:  # at the start it was finite, so the weights are what is wrong
        return math.inf


# -- directions --------------------------------------------------------------------------------------------


def _from_run(source: str) -> Callable[[Ground, int], Directions]:
    def find(ground: Ground, k: int) -> Directions:
        if ground.trajectory is None or ground.window is None:
            raise InputError(f"components of {source} come from a recorded run; give one, or use 'eigenvectors'")
        return SOURCES[source](ground.trajectory, k, ground.window)

    return find


def _eigenvectors(ground: Ground, k: int) -> Directions:
    return eigenpairs(ground.training.hessian(), k, seed=ground.seed)


def _singular(ground: Ground, k: int) -> Directions:
    """Those with the largest singular values over their matrix's edge of noise, whatever matrix they belong to."""
    found = weight_svd(ground.training.model, k)
    values = found.values
    assert values is not None
    edges = torch.tensor([max(float(one["edge"] or 0.0), 1e-12) for one in found.provenance["directions"]])
    order = torch.argsort(values / edges, descending=True)[:k].tolist()
    return chosen_directions(found, order)


def _drift(ground: Ground, k: int) -> Directions:
    if k != 1:
        raise InputError(f"the drift is one direction, not {k}; write drift or drift:1")
    if ground.trajectory is None or ground.window is None:
        raise InputError("the drift is found in a recorded run; give one")
    trajectory, stop = ground.trajectory, ground.window[1]
    steps = trajectory.steps[trajectory.steps < stop]
    rows = max(len(steps) // 2, min(FEW_ROWS, len(steps)))
    return drift(trajectory, (int(trajectory.starts[len(steps) - rows]), stop)).direction


def _gradient(ground: Ground, k: int) -> Directions:
    if k != 1:
        raise InputError(f"the gradient is one direction, not {k}; write gradient or gradient:1")
    return Directions(ground.gradient[None], label="gradient", space=ground.training.space)


BASES: dict[str, Callable[[Ground, int], Directions]] = {
    **{source: _from_run(source) for source in SOURCES},
    "eigenvectors": _eigenvectors,
    "singular": _singular,
    "drift": _drift,
    "gradient": _gradient,
}
"""Where directions come from, by name."""


def refuse_whole_space(label: str, k: int, size: int) -> None:
    """Refuse as many directions as there are dimensions.

    Raises:
        InputError: for as many, or more.
    """
    if k >= size:
        raise InputError(f"{k} of {label!r} fill all {size} dimensions, which is training in full; ask for fewer")


def orthonormal(directions: Directions) -> Directions:
    """The same span with orthonormal rows, dense, in the directions' dtype.

    Raises:
        InputError: if they are linearly dependent, or fill the whole space.
    """
    refuse_whole_space(directions.label, *directions.rows.shape)
    vectors = directions.vectors.detach()
    q, r = torch.linalg.qr(vectors.double().T)
    size_of = torch.diagonal(r).abs()
    if bool((size_of <= 1e-6 * vectors.double().norm(dim=1)).any()):
        raise InputError(f"{directions.label!r} are linearly dependent; ask for fewer than {len(directions)}")
    return Directions(
        q.T.contiguous().to(vectors.dtype),
        directions.values,
        label=directions.label,
        space=directions.space,
        provenance=directions.provenance,
    )
