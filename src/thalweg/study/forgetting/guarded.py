"""What this library does against forgetting, and the directions that it is held against."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from thalweg.directions import Directions, layer_matched_directions, random_directions
from thalweg.protect.guard import Guard, guard
from thalweg.protect.knowledge import Knowledge
from thalweg.protect.remember import Method, remember
from thalweg.solvers.lanczos import eigenpairs
from thalweg.study.forgetting.lessons import Lesson
from thalweg.study.forgetting.rivals import Learner


class Guarded(Learner):
    """`remember` and `guard`: what this library does."""

    def __init__(
        self, strength: float, hard: float = 0.9, method: Method = "kronecker", rank: int | None = None
    ) -> None:
        self.strength, self.hard, self.method, self.rank = strength, hard, method, rank
        self.known: Knowledge | None = None
        self._guard: Guard | None = None

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Guard the optimizer by what is known."""
        self._guard = None if self.known is None else guard(optimizer, self.known, strength=self.strength)

    def end(self, model: nn.Module, lesson: Lesson, seed: int) -> None:
        """Remember this task with those before."""
        if self._guard is not None:
            self._guard.remove()
        problem = lesson.problem(model)
        self.known = remember(
            problem,
            method=self.method,
            hard=self.hard,
            rank=self.rank,
            samples=lesson.samples,
            earlier=self.known,
            seed=seed,
        )

    @property
    def nbytes(self) -> int:
        """The knowledge."""
        return 0 if self.known is None else self.known.nbytes


class AlongDirections(Guarded):
    """Off k directions of each old task: top Hessian eigenvectors, or random ones as many."""

    def __init__(self, k: int, which: str) -> None:
        super().__init__(strength=0.0)
        self.k, self.which = k, which

    def end(self, model: nn.Module, lesson: Lesson, seed: int) -> None:
        """Find them and put them to those before."""
        if self._guard is not None:
            self._guard.remove()
        problem = lesson.problem(model)
        if self.which == "random":
            found: Directions = random_directions(problem.space, self.k, seed)
        else:
            found = eigenpairs(problem.hessian(), self.k, tol=1e-2, seed=seed)
            if self.which == "layer_matched":
                found = layer_matched_directions(found, seed)
        plain = Directions(found.vectors, label=self.which, space=problem.space)
        held = None if self.known is None else self.known.shields[0].tensors()["vectors"]
        if held is not None:
            basis = torch.linalg.qr(torch.cat([held, plain.vectors]).T)[0].T.contiguous()
            plain = Directions(basis, label=self.which, space=problem.space)
        self.known = remember(problem, directions=plain, samples=lesson.samples)
