"""Ways to learn a stream: what is done after each step, and what is kept once a task is learned.

The rivals are small and by themselves, so that nothing of `thalweg.protect` could favour or spoil them; every penalty
is taken implicitly (an explicit one diverges at the strengths that keep most). Sources: EWC, J. Kirkpatrick et al.,
PNAS 114(13), 2017; online EWC, J. Schwarz et al., ICML 2018, arXiv 1805.06370; SI, F. Zenke, B. Poole, S. Ganguli,
ICML 2017, arXiv 1703.04200; MAS, R. Aljundi et al., ECCV 2018, arXiv 1711.09601; OGD, M. Farajtabar et al.,
AISTATS 2020, arXiv 1910.07104; GPM, G. Saha, I. Garg, K. Roy, ICLR 2021, arXiv 2103.09762.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.directions import Directions, layer_matched_directions, random_directions
from thalweg.protect.guard import Guard, guard
from thalweg.protect.knowledge import Knowledge
from thalweg.protect.remember import Method, remember
from thalweg.solvers.lanczos import eigenpairs
from thalweg.study.forgetting.streams import Lesson

SAMPLES = 1000
"""Training samples that a learned task is measured on, unless a method says otherwise."""


class Learner:
    """Plain training: nothing is protected."""

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Before a task."""

    def before_step(self, model: nn.Module) -> None:
        """After the gradients, before the step."""

    def after_step(self, model: nn.Module, rate: float) -> None:
        """After the step."""

    def end(self, model: nn.Module, lesson: Lesson, seed: int) -> None:
        """Once the task is learned."""

    @property
    def nbytes(self) -> int:
        """What is kept between tasks."""
        return 0


def _weights(model: nn.Module) -> list[Tensor]:
    return [p.detach() for p in model.parameters()]


def _sizes(tensors: list[Tensor] | None) -> int:
    return sum(tensor.nbytes for tensor in tensors or ())


class Penalty(Learner):
    """`½ λ Σ Ω (w − w*)²` taken implicitly; what Ω is, the others say."""

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.importance: list[Tensor] | None = None
        self.home: list[Tensor] | None = None

    def after_step(self, model: nn.Module, rate: float) -> None:
        """Shrink the way from w*."""
        if self.importance is None or self.home is None:
            return
        for weight, home, importance in zip(_weights(model), self.home, self.importance, strict=True):
            pull = rate * self.strength * importance
            weight.sub_((weight - home) * (pull / (1 + pull)))

    @property
    def nbytes(self) -> int:
        """Ω; w* is where the weights are between tasks."""
        return _sizes(self.importance)


class L2(Penalty):
    """All numbers alike."""

    def end(self, model: nn.Module, lesson: Lesson, seed: int) -> None:
        """w* is where it is."""
        self.home = [weight.clone() for weight in _weights(model)]
        self.importance = [torch.ones_like(weight) for weight in self.home]

    @property
    def nbytes(self) -> int:
        """Nothing but w*."""
        return 0


def _fisher(model: nn.Module, lesson: Lesson) -> list[Tensor]:
    """The exact diagonal of the Fisher information, the expectation over all labels."""
    inputs = lesson.train[0][:SAMPLES]
    entering, leaving, value = [], [], inputs
    for module in model:  # type: ignore[attr-defined]
        if isinstance(module, nn.Linear):
            entering.append(value.detach())
        value = module(value)
        if isinstance(module, nn.Linear):
            leaving.append(value)
    masked = lesson.outputs(lambda _: value, inputs)  # type: ignore[arg-type]
    log = masked.log_softmax(1)
    likely = log.detach().exp()
    out = [torch.zeros_like(weight) for weight in _weights(model)]
    for label in range(log.shape[1]):
        total = (log[:, label] * likely[:, label].sqrt()).sum()
        slopes = torch.autograd.grad(total, leaving, retain_graph=True)
        for into, slope, given in zip(out, slopes, entering, strict=True):
            into += (slope**2).T @ (given**2) / len(inputs)
    return out


class EWC(Penalty):
    """Elastic weight consolidation: each task's Fisher diagonal around its own weights, added up."""

    def end(self, model: nn.Module, lesson: Lesson, seed: int) -> None:
        """`Σ F_t (w − w_t)²` is `ΣF (w − ΣF w_t / ΣF)²` and a constant."""
        new, here = _fisher(model, lesson), [weight.clone() for weight in _weights(model)]
        if self.importance is None or self.home is None:
            self.importance, self.home = new, here
            return
        total = [old + add for old, add in zip(self.importance, new, strict=True)]
        parts = zip(self.importance, self.home, new, here, total, strict=True)
        self.home = [torch.where(t > 0, (o * h + a * w) / t, w) for o, h, a, w, t in parts]
        self.importance = total

    @property
    def nbytes(self) -> int:
        """Ω and a centre of its own."""
        return super().nbytes + _sizes(self.home)


class OnlineEWC(Penalty):
    """The same around the last task's weights alone."""

    def end(self, model: nn.Module, lesson: Lesson, seed: int) -> None:
        """Add the Fisher diagonal; move w*."""
        new = _fisher(model, lesson)
        self.importance = new if self.importance is None else [a + b for a, b in zip(self.importance, new, strict=True)]
        self.home = [weight.clone() for weight in _weights(model)]


class SI(Penalty):
    """Synaptic intelligence: what each number did for the loss on its way."""

    DAMPING = 0.1

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Start the path."""
        self._start = [weight.clone() for weight in _weights(model)]
        self._path = [torch.zeros_like(weight) for weight in self._start]

    def before_step(self, model: nn.Module) -> None:
        """Keep where it is and the gradient there."""
        self._last = [weight.clone() for weight in _weights(model)]
        self._slope = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]

    def after_step(self, model: nn.Module, rate: float) -> None:
        """Shrink, then add `−g · step`: the path is that of the weights as they went."""
        super().after_step(model, rate)
        for into, slope, weight, last in zip(self._path, self._slope, _weights(model), self._last, strict=True):
            into.sub_(slope * (weight - last))

    def end(self, model: nn.Module, lesson: Lesson, seed: int) -> None:
        """Ω grows by the path over the squared way."""
        here = [weight.clone() for weight in _weights(model)]
        new = [
            path.clamp(min=0) / ((weight - start) ** 2 + self.DAMPING)
            for path, weight, start in zip(self._path, here, self._start, strict=True)
        ]
        self.importance = new if self.importance is None else [a + b for a, b in zip(self.importance, new, strict=True)]
        self.home = here


class MAS(Penalty):
    """Memory aware synapses: how much each number moves the squared output."""

    def end(self, model: nn.Module, lesson: Lesson, seed: int) -> None:
        """`Ω = mean |∂ |f|² / ∂w|`, sample by sample."""
        inputs = lesson.train[0][: SAMPLES // 5]
        classes = list(lesson.classes or range(10))
        new = [torch.zeros_like(weight) for weight in _weights(model)]
        for one in torch.split(inputs, 1):
            found = torch.autograd.grad((model(one)[:, classes] ** 2).sum(), list(model.parameters()))
            for into, gradient in zip(new, found, strict=True):
                into += gradient.abs() / len(inputs)
        self.importance = new if self.importance is None else [a + b for a, b in zip(self.importance, new, strict=True)]
        self.home = [weight.clone() for weight in _weights(model)]


class GPM(Learner):
    """Gradient projection memory: off the leading subspace of each layer's inputs."""

    SAMPLES = 300

    def __init__(self, threshold: float, later: float | None = None, growth: float = 0.003) -> None:
        self.thresholds = (threshold, threshold if later is None else later)
        self.growth, self.learned = growth, 0
        self.bases: list[Tensor] | None = None

    def before_step(self, model: nn.Module) -> None:
        """With plain descent, a projected gradient is a projected step."""
        for parameter, basis in zip(model.parameters(), self.bases or (), strict=False):
            if parameter.grad is not None:
                parameter.grad.sub_((parameter.grad @ basis) @ basis.T)

    def end(self, model: nn.Module, lesson: Lesson, seed: int) -> None:
        """Add what the new inputs have beyond the old subspace, until the threshold's share is held."""
        value = lesson.train[0][: self.SAMPLES]
        bases: list[Tensor] = []
        with torch.no_grad():
            for module in model:  # type: ignore[attr-defined]
                if isinstance(module, nn.Linear):
                    old = self.bases[len(bases)] if self.bases else value.new_zeros(value.shape[1], 0)
                    level = self.thresholds[min(len(bases), 1)] + self.growth * self.learned
                    bases.append(self._grown(value.T, old, min(level, 1 - 1e-6)))
                value = module(value)
        self.bases, self.learned = bases, self.learned + 1

    @staticmethod
    def _grown(inputs: Tensor, old: Tensor, level: float) -> Tensor:
        whole = float((inputs**2).sum())
        rest = inputs - old @ (old.T @ inputs)
        vectors, sizes, _ = torch.linalg.svd(rest, full_matrices=False)
        held = 1 - float((rest**2).sum()) / whole + (sizes**2).cumsum(0) / whole
        room = len(inputs) - old.shape[1]
        already = 1 - float((rest**2).sum()) / whole >= level
        count = 0 if already else min(int((held < level).sum()) + 1, len(sizes), room)
        return torch.linalg.qr(torch.cat([old, vectors[:, :count]], dim=1))[0] if count else old

    @property
    def nbytes(self) -> int:
        """The bases."""
        return _sizes(self.bases)


class OGD(Learner):
    """Orthogonal gradient descent: off the gradients of the right outputs on samples of old tasks."""

    def __init__(self, each: int) -> None:
        self.each = each
        self.basis: Tensor | None = None

    def before_step(self, model: nn.Module) -> None:
        """Project the gradient."""
        if self.basis is None:
            return
        grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in grads])
        flat = flat - (self.basis @ flat) @ self.basis
        for gradient, piece in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
            gradient.copy_(piece.view_as(gradient))

    def end(self, model: nn.Module, lesson: Lesson, seed: int) -> None:
        """Add the gradients of `each` samples' own outputs."""
        inputs, labels = lesson.train[0][: self.each], lesson.train[1][: self.each]
        rows = []
        for one, label in zip(torch.split(inputs, 1), labels, strict=True):
            found = torch.autograd.grad(model(one)[0, int(label)], list(model.parameters()))
            rows.append(torch.cat([gradient.reshape(-1) for gradient in found]))
        both = torch.stack(rows) if self.basis is None else torch.cat([self.basis, torch.stack(rows)])
        self.basis = torch.linalg.qr(both.T)[0].T.contiguous()

    @property
    def nbytes(self) -> int:
        """The basis."""
        return 0 if self.basis is None else self.basis.nbytes


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
        problem = lesson.problem(model, SAMPLES)
        self.known = remember(
            problem, method=self.method, hard=self.hard, rank=self.rank, samples=SAMPLES, earlier=self.known, seed=seed
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
        problem = lesson.problem(model, SAMPLES)
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
        self.known = remember(problem, directions=plain, samples=SAMPLES)


Make = Callable[[Mapping[str, Any]], Learner]

LEARNERS: dict[str, Make] = {
    "none": lambda s: Learner(),
    "l2": lambda s: L2(s["strength"]),
    "ewc": lambda s: EWC(s["strength"]),
    "online_ewc": lambda s: OnlineEWC(s["strength"]),
    "si": lambda s: SI(s["strength"]),
    "mas": lambda s: MAS(s["strength"]),
    "ogd": lambda s: OGD(s["each"]),
    "gpm": lambda s: GPM(s["threshold"], s["later"], s["growth"]),
    "hessian": lambda s: AlongDirections(s["k"], "hessian"),
    "random": lambda s: AlongDirections(s["k"], "random"),
    "layer_matched": lambda s: AlongDirections(s["k"], "layer_matched"),
    "guard": lambda s: Guarded(s["strength"], s["hard"]),
    "guard_small": lambda s: Guarded(s["strength"], s["hard"], rank=s["rank"]),
}
"""Every way by its name, made of its settings."""
