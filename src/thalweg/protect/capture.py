"""What single layers take in, and what their outputs' gradients are: the raw material of what is remembered.

Gradients are those of the model's own predictions where the loss is a `tw.Loss` whose criterion is a cross entropy or a
squared error, scaled so that their second moment is the loss's own curvature through the output, the Gauss-Newton
matrix (Martens 2020, JMLR 21(146)). Otherwise they are those of the data's labels, the empirical Fisher, which fades
where the data are fitted perfectly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.batches import take
from thalweg.errors import InputError
from thalweg.losses import Loss
from thalweg.operators.base import Term
from thalweg.operators.fisher import Distribution, recognised
from thalweg.operators.gauss_newton import checked_output, criterion_curvature
from thalweg.problem import Problem
from thalweg.space import ROOT, Layer, plain_name

EXACT = 16
"""Classes up to which the expectation over labels is exact; beyond, labels are drawn."""

DRAWS = 4
"""Labels, or Gaussian residuals, drawn for each prediction."""

Source = Literal["fisher", "empirical"]

Seen = dict[int, list[tuple[Tensor, Tensor]]]
"""Inputs and outputs of each site's calls."""


@dataclass(frozen=True)
class Site:
    """A layer whose inputs and outputs' gradients can be read.

    Attributes:
        layer: its name.
        module: its module.
        weight: the weight's name in the space.
        bias: the bias's; "" where there is none, or it is frozen.
        transposed: whether the weight is `(in, out)`.
    """

    layer: str
    module: nn.Module
    weight: str
    bias: str
    transposed: bool

    @property
    def sizes(self) -> tuple[int, int]:
        """Inputs, with one for the bias, and outputs."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        shape = weight.T.shape if self.transposed else weight.reshape(weight.shape[0], -1).shape
        return shape[1] + bool(self.bias), shape[0]

    def entering(self, inputs: Tensor) -> Tensor:
        """Inputs as `(samples, places, in)`, with a one for the bias."""
        if isinstance(self.module, nn.Conv2d):
            rows = _patches(self.module, inputs)
        else:
            rows = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        return torch.cat([rows, torch.ones_like(rows[..., :1])], dim=-1) if self.bias else rows

    def leaving(self, gradient: Tensor) -> Tensor:
        """Gradients of the output as `(samples, places, out)`."""
        if isinstance(self.module, nn.Conv2d):
            return gradient.flatten(2).transpose(1, 2)
        return gradient.reshape(len(gradient), -1, gradient.shape[-1])


def sites(problem: Problem, layers: Sequence[Layer]) -> list[Site]:
    """Those of the layers whose inputs and gradients can be told apart by sample.

    They are linear maps (`nn.Linear`, `nn.Conv2d` without groups, transformers' `Conv1D`) of weights of their own,
    which the first batch calls, with its samples along the first axis.
    """
    modules = {plain_name(name + ".").rstrip(".") or ROOT: module for name, module in problem.model.named_modules()}
    known = {p.name for p in problem.space.parameters}
    shared = {name for pair in problem.space.tied for name in pair}
    found = []
    for layer in layers:
        module = modules.get(layer.name)
        transposed = type(module).__name__ == "Conv1D" and not isinstance(module, nn.Conv1d)
        plain = isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"
        if module is None or not (isinstance(module, nn.Linear) or plain or transposed):
            continue
        own = {name: f"{layer.name}.{name}" if layer.name != ROOT else name for name in ("weight", "bias")}
        if own["weight"] not in known - shared or not isinstance(getattr(module, "weight", None), Tensor):
            continue
        bias = own["bias"] if own["bias"] in known - shared else ""
        found.append(Site(layer.name, module, own["weight"], bias, transposed))
    seen: Seen = {}
    with _watched(found, seen), problem.evaluating(), torch.no_grad():
        term = next(iter(problem.terms()))
        term.loss()
    return [
        site
        for place, site in enumerate(found)
        if seen.get(place) and all(len(entering) == term.samples for entering, _ in seen[place])
    ]


def source_of(problem: Problem) -> Source:
    """Whose labels the gradients belong to."""
    if not isinstance(problem._loss, Loss):
        return "empirical"
    with problem.evaluating(), torch.no_grad():
        batch = problem._prepared(next(iter(problem.data)), problem.device)
        output = checked_output(problem._loss.output(problem.model, batch))
    return "empirical" if _kind(problem, output, batch) is None else "fisher"


def limited(problem: Problem, samples: int) -> Problem:
    """The problem on its first samples, in its own batches."""
    batches: list[Any] = []
    left = -(-samples // problem.share.ranks.size)
    for term in problem.terms():
        batches.append(term.batch if term.samples <= left else take(term.batch, list(range(left)), term.samples))
        left -= term.samples
        if left <= 0:
            break
    return problem.on(batches)


def captured(
    problem: Problem, places: Sequence[Site], source: Source, generator: torch.Generator
) -> Iterator[tuple[int, list[tuple[Tensor, list[Tensor]]]]]:
    """For each batch its samples, and of every site the inputs and the gradients, one for each label taken or drawn.

    Rows that no label's gradient reaches, such as padding, are zero in the inputs too.

    Args:
        problem: the old task.
        places: where to read.
        source: whose labels.
        generator: draws them.
    """
    seen: Seen = {}
    with _watched(places, seen), problem.evaluating():
        for term in problem.terms():
            seen.clear()
            gradients: list[list[Tensor]] = [[] for _ in places]
            inputs: list[Tensor] = [torch.empty(0)] * len(places)
            for scalar in _scalars(problem, term, source, generator):  # the first one runs the model
                outputs = [output for place in range(len(places)) for _, output in seen.get(place, ())]
                pulled = iter(torch.autograd.grad(scalar, outputs, retain_graph=True, allow_unused=True))
                for place, site in enumerate(places):
                    slopes = [(next(pulled), output) for _, output in seen.get(place, ())]
                    own = [site.leaving(torch.zeros_like(o) if slope is None else slope) for slope, o in slopes]
                    if own:
                        gradients[place].append(torch.cat(own, dim=1).detach())
            for place, found in enumerate(gradients):
                if found:
                    rows = torch.cat([places[place].entering(entering) for entering, _ in seen[place]], dim=1)
                    reached = torch.stack([slope.abs().amax(-1) for slope in found]).amax(0) > 0
                    inputs[place] = rows * reached.unsqueeze(-1)
            yield term.samples, list(zip(inputs, gradients, strict=True))


@contextmanager
def _watched(places: Sequence[Site], seen: Seen) -> Iterator[None]:
    """While this is open, every call of a site leaves its input and its output."""

    def hook(place: int) -> Callable[[nn.Module, Any, Any, Any], Any]:
        def remember(module: nn.Module, arguments: Any, named: Mapping[str, Any], output: Tensor) -> Tensor:
            entering = next(t for t in (*arguments, *named.values()) if isinstance(t, Tensor))
            seen.setdefault(place, []).append((entering.detach(), output))
            return output.clone()  # what is done in place behind it must not reach what was seen

        return remember

    handles = [site.module.register_forward_hook(hook(place), with_kwargs=True) for place, site in enumerate(places)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def squared_gradients(
    problem: Problem, names: Sequence[str], source: Source, generator: torch.Generator
) -> dict[str, Tensor]:
    """The mean squared gradient of single samples, for parameters that no site holds: a backward pass for each."""
    tensors = dict(zip(problem.space.names, problem.parameters(), strict=True))
    wanted = [tensors[name] for name in names]
    total = [torch.zeros_like(tensor) for tensor in wanted]
    count = 0
    with problem.evaluating():
        for term in problem.terms():
            for place in range(term.samples):
                single = problem.on([take(term.batch, [place], term.samples)])
                for scalar in _scalars(single, next(iter(single.terms())), source, generator):
                    found = torch.autograd.grad(scalar, wanted, retain_graph=True, allow_unused=True)
                    for into, gradient in zip(total, found, strict=True):
                        if gradient is not None:
                            into.addcmul_(gradient, gradient)
            count += term.samples
    every = problem.share.added(torch.tensor(float(count), dtype=torch.float64))
    sums = [problem.share.added(into) for into in total]
    return {name: into / max(float(every), 1.0) for name, into in zip(names, sums, strict=True)}


def _kind(problem: Problem, output: Tensor, batch: Any) -> tuple[Distribution, int] | None:
    """The distribution whose likelihood the criterion is, and the axis of its classes."""
    loss = problem._loss
    assert isinstance(loss, Loss)
    for axis in dict.fromkeys((-1, 1)) if output.ndim > 2 else (-1,):
        with suppress(InputError):
            return recognised(output, lambda here: loss.criterion(here, batch), problem.reduction == "mean", axis), axis
    return None


def _scalars(problem: Problem, term: Term, source: Source, generator: torch.Generator) -> Iterator[Tensor]:
    """Scalars whose gradients are those of the samples' own losses at labels taken or drawn, side by side.

    For a sample whose loss has the curvature M at its output, the sum over the scalars of the squares of their
    gradients there is M, exactly or in expectation.
    """
    loss, batch = problem._loss, problem._prepared(term.batch, problem.device)
    each = term.samples if problem.reduction == "mean" else 1  # from the batch's loss to a sample's
    found = None
    if source == "fisher" and isinstance(loss, Loss):
        output = checked_output(loss.output(problem.model, batch))
        found = _kind(problem, output, batch)
    if found is None:
        yield loss(problem.model, batch) * each
        return
    assert isinstance(loss, Loss)
    kind, axis = found
    if kind == "gaussian":
        probe = torch.randn(output.shape, generator=generator).to(output)
        bent = criterion_curvature(output.detach(), lambda here: loss.criterion(here, batch), 1.0)(probe)
        factor = float((bent * probe).sum() / probe.square().sum()) * each
        for _ in range(DRAWS):
            noise = torch.randn(output.shape, generator=generator).to(output)
            yield (output * noise).sum() * math.sqrt(max(factor, 0.0) / DRAWS)
        return
    output = output.movedim(axis, -1)
    classes = output.shape[-1]
    share = each * classes / output.numel() if problem.reduction == "mean" else 1.0  # of one prediction in its sample
    log = functional.log_softmax(output, dim=-1)
    likely = log.detach().exp()
    if output.ndim == 2 and classes <= EXACT:
        for label in range(classes):
            yield (log[:, label] * likely[:, label].sqrt()).sum() * math.sqrt(share)
        return
    for _ in range(DRAWS):
        flat = torch.multinomial(likely.reshape(-1, classes).cpu(), 1, generator=generator)
        labels = flat.to(output.device).reshape(*output.shape[:-1], 1)
        yield log.gather(-1, labels).sum() * math.sqrt(share / DRAWS)


def _patches(module: nn.Conv2d, inputs: Tensor) -> Tensor:
    """What each place of a convolution's output is made of: `(samples, places, channels · height · width)`."""
    padding = module.padding
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        sides = [0, 0, 0, 0] if padding == "valid" else [
            reach[1] // 2, reach[1] - reach[1] // 2, reach[0] // 2, reach[0] - reach[0] // 2
        ]  # fmt: skip
        inputs, padding = functional.pad(inputs, sides), (0, 0)
    return functional.unfold(inputs, module.kernel_size, module.dilation, padding, module.stride).transpose(1, 2)
