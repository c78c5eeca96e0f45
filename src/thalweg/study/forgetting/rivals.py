"""Other ways to learn a stream: what is done in each step, and what is kept once a task is learned.

They are small and by themselves, so that nothing of `thalweg.protect` could favour or spoil them; under
plain descent every penalty is taken implicitly (an explicit one diverges at the strengths that keep most); under an
adaptive optimizer penalties are added to the gradient, as usual, and projections are of the optimizer's own update
(S. Wang et al., CVPR 2021, arXiv 2103.00220). Sources: EWC, J. Kirkpatrick et al.,
PNAS 114(13), 2017; online EWC, J. Schwarz et al., ICML 2018, arXiv 1805.06370; SI, F. Zenke, B. Poole, S. Ganguli,
ICML 2017, arXiv 1703.04200; MAS, R. Aljundi et al., ECCV 2018, arXiv 1711.09601; OGD, M. Farajtabar et al.,
AISTATS 2020, arXiv 1910.07104; GPM, G. Saha, I. Garg, K. Roy, ICLR 2021, arXiv 2103.09762.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Optimizer

from thalweg.study.forgetting.lessons import Lesson

SINGLES = 200
"""Samples that are taken one by one, where a net is no chain of linear maps."""


class Learner:
    """Plain training: nothing is protected."""

    plain = True
    """Whether the optimizer is plain descent, so that a step is its rate times the gradient."""

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Before a task."""
        self.plain = isinstance(optimizer, SGD) and not optimizer.param_groups[0]["momentum"]

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
    """`½ λ Σ Ω (w − w*)²`; what Ω is, the others say."""

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.importance: list[Tensor] | None = None
        self.home: list[Tensor] | None = None

    def before_step(self, model: nn.Module) -> None:
        """Under an adaptive optimizer, add the penalty's gradient."""
        if self.plain or self.importance is None or self.home is None:
            return
        for parameter, home, importance in zip(model.parameters(), self.home, self.importance, strict=True):
            pull = self.strength * importance * (parameter.detach() - home)
            parameter.grad = pull if parameter.grad is None else parameter.grad + pull

    def after_step(self, model: nn.Module, rate: float) -> None:
        """Under plain descent, shrink the way from w*."""
        if not self.plain or self.importance is None or self.home is None:
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


def _fisher(model: nn.Module, lesson: Lesson, seed: int = 0) -> list[Tensor]:
    """The diagonal of the Fisher information: over all labels in a chain of linear maps, else over drawn ones."""
    if isinstance(model, nn.Sequential) and all(isinstance(module, (nn.Linear, nn.ReLU)) for module in model):
        return _exact_fisher(model, lesson)
    draw, inputs = torch.Generator().manual_seed(seed), lesson.measured()[0][:SINGLES]
    out = [torch.zeros_like(weight) for weight in _weights(model)]
    for one in torch.split(inputs, 1):
        log = lesson.outputs(model, one).log_softmax(-1).flatten(0, -2)
        labels = torch.multinomial(log.detach().exp(), 1, generator=draw)
        total = log.gather(1, labels).sum() / len(log) ** 0.5  # predictions of one sample are independent
        for into, slope in zip(out, torch.autograd.grad(total, list(model.parameters())), strict=True):
            into += slope**2 / len(inputs)
    return out


def _exact_fisher(model: nn.Sequential, lesson: Lesson) -> list[Tensor]:
    inputs = lesson.measured()[0]
    entering, leaving, value = [], [], inputs
    for module in model:
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
        new, here = _fisher(model, lesson, seed), [weight.clone() for weight in _weights(model)]
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
        new = _fisher(model, lesson, seed)
        self.importance = new if self.importance is None else [a + b for a, b in zip(self.importance, new, strict=True)]
        self.home = [weight.clone() for weight in _weights(model)]


class SI(Penalty):
    """Synaptic intelligence: what each number did for the loss on its way."""

    DAMPING = 0.1

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Start the path."""
        super().begin(model, optimizer)
        self._start = [weight.clone() for weight in _weights(model)]
        self._path = [torch.zeros_like(weight) for weight in self._start]

    def before_step(self, model: nn.Module) -> None:
        """Keep where it is and the gradient there."""
        self._last = [weight.clone() for weight in _weights(model)]
        self._slope = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
        super().before_step(model)

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
        inputs = lesson.measured()[0][:SINGLES]
        chosen = slice(None) if lesson.classes is None else list(lesson.classes)
        new = [torch.zeros_like(weight) for weight in _weights(model)]
        for one in torch.split(inputs, 1):
            squares = (model(one)[..., chosen] ** 2).sum(-1).mean()
            found = torch.autograd.grad(squares, list(model.parameters()))
            for into, gradient in zip(new, found, strict=True):
                into += gradient.abs() / len(inputs)
        self.importance = new if self.importance is None else [a + b for a, b in zip(self.importance, new, strict=True)]
        self.home = [weight.clone() for weight in _weights(model)]


class Projecting(Learner):
    """Takes a part off the gradients under plain descent, off the optimizer's update otherwise."""

    def before_step(self, model: nn.Module) -> None:
        """With plain descent, a projected gradient is a projected step."""
        if self.plain:
            self._project([p.grad for p in model.parameters() if p.grad is not None])
        else:
            self._last = [weight.clone() for weight in _weights(model)]

    def after_step(self, model: nn.Module, rate: float) -> None:
        """With any other, the update is taken again without that part."""
        if not self.plain:
            steps = [weight - last for weight, last in zip(_weights(model), self._last, strict=True)]
            self._project(steps)
            for weight, last, step in zip(_weights(model), self._last, steps, strict=True):
                weight.copy_(last + step)

    def _project(self, steps: list[Tensor]) -> None:
        """Take the part off each parameter's step, in place."""


class GPM(Projecting):
    """Gradient projection memory: off the leading subspace of each layer's inputs.

    Linear maps and convolutions are protected; where `rest` is 0 everything else stands still after the first task.
    """

    SAMPLES, COLUMNS = 300, 6000

    def __init__(self, threshold: float, later: float | None = None, growth: float = 0.003, rest: float = 1) -> None:
        self.thresholds = (threshold, threshold if later is None else later)
        self.growth, self.rest, self.learned = growth, rest, 0
        self.bases: dict[str, Tensor] = {}

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Note which parameter is where."""
        super().begin(model, optimizer)
        self._names = [name for name, _ in model.named_parameters()]

    def _project(self, steps: list[Tensor]) -> None:
        for name, step in zip(self._names, steps, strict=True):
            basis = self.bases.get(name)
            if basis is not None:
                flat = step.flatten(1)
                step.sub_(((flat @ basis) @ basis.T).view_as(step))
            elif self.bases and not self.rest:
                step.zero_()

    def end(self, model: nn.Module, lesson: Lesson, seed: int) -> None:
        """Add what the new inputs have beyond the old subspace, until the threshold's share is held."""
        entering = inputs_of(model, lesson.measured()[0][: self.SAMPLES])
        for place, (name, rows) in enumerate(entering.items()):
            columns = rows[:: -(-len(rows) // self.COLUMNS)].T
            old = self.bases.get(name, columns.new_zeros(len(columns), 0))
            level = self.thresholds[min(place, 1)] + self.growth * self.learned
            self.bases[name] = self._grown(columns, old, min(level, 1 - 1e-6))
        self.learned += 1

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
        return _sizes(list(self.bases.values()))


def inputs_of(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """What enters each linear map and convolution, as rows `(n, in)`, by the name of its weight."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            value = given[0]
            if isinstance(module, nn.Conv2d):
                size, dilation, padding, stride = module.kernel_size, module.dilation, module.padding, module.stride
                assert not isinstance(padding, str)
                value = functional.unfold(value, size, dilation, padding, stride).transpose(1, 2)
            seen[name] = value.detach().reshape(-1, value.shape[-1])

        return note

    handles = [
        module.register_forward_pre_hook(hook(f"{name}.weight"))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return seen


class OGD(Projecting):
    """Orthogonal gradient descent: off the gradients of the right outputs on samples of old tasks."""

    def __init__(self, each: int) -> None:
        self.each = each
        self.basis: Tensor | None = None

    def _project(self, steps: list[Tensor]) -> None:
        if self.basis is None:
            return
        flat = torch.cat([step.reshape(-1) for step in steps])
        flat = flat - (self.basis @ flat) @ self.basis
        for step, piece in zip(steps, torch.split(flat, [s.numel() for s in steps]), strict=True):
            step.copy_(piece.view_as(step))

    def end(self, model: nn.Module, lesson: Lesson, seed: int) -> None:
        """Add the gradients of `each` samples' own outputs."""
        rows = []
        for one, label in itertools.islice(zip(*lesson.measured(), strict=True), self.each):
            right = model(one.unsqueeze(0))[0].gather(-1, label.unsqueeze(-1)).sum()
            found = torch.autograd.grad(right, list(model.parameters()))
            rows.append(torch.cat([gradient.reshape(-1) for gradient in found]))
        both = torch.stack(rows) if self.basis is None else torch.cat([self.basis, torch.stack(rows)])
        self.basis = torch.linalg.qr(both.T)[0].T.contiguous()

    @property
    def nbytes(self) -> int:
        """The basis."""
        return 0 if self.basis is None else self.basis.nbytes
