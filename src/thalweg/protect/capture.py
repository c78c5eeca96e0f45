"""What single layers take in, and what their outputs' gradients are: the raw material of what is remembered.

Gradients are those of the model's own predictions where the loss is a `tw.Loss` whose criterion is a cross entropy or a
squared error: their second moment is the Fisher information (Martens 2020, JMLR 21(146)). Otherwise they are those of
the data's labels, the empirical Fisher, which fades where the data are fitted perfectly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from thalweg.batches import take
from thalweg.errors import InputError
from thalweg.losses import Loss
from thalweg.operators.base import Term
from thalweg.operators.fisher import recognised
from thalweg.operators.gauss_newton import checked_output
from thalweg.problem import Problem
from thalweg.space import ROOT, Layer, plain_name

EXACT = 16
"""Classes up to which the expectation over labels is exact; beyond, labels are drawn."""

DRAWS = 4
"""Labels, or Gaussian residuals, drawn for each prediction."""

Source = Literal["fisher", "empirical"]


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

    def rows(self, inputs: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs `(samples, places, in)` and gradients `(samples, places, out)`."""
        if isinstance(self.module, nn.Conv2d):
            inputs = _patches(self.module, inputs)
            gradient = gradient.flatten(2).transpose(1, 2)
        else:
            inputs = inputs.reshape(len(inputs), -1, inputs.shape[-1])
            gradient = gradient.reshape(len(gradient), -1, gradient.shape[-1])
        if self.bias:
            inputs = torch.cat([inputs, torch.ones_like(inputs[..., :1])], dim=-1)
        return inputs, gradient


def sites(problem: Problem, layers: Sequence[Layer]) -> list[Site]:
    """Those of the layers that are linear maps: `nn.Linear`, `nn.Conv2d` without groups, transformers' `Conv1D`."""
    modules = {plain_name(name + ".").rstrip(".") or ROOT: module for name, module in problem.model.named_modules()}
    known = {p.name: p for p in problem.space.parameters}
    found = []
    for layer in layers:
        module = modules.get(layer.name)
        transposed = type(module).__name__ == "Conv1D" and not isinstance(module, nn.Conv1d)
        plain = isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"
        if module is None or not (isinstance(module, nn.Linear) or plain or transposed):
            continue
        own = {name: f"{layer.name}.{name}" if layer.name != ROOT else name for name in ("weight", "bias")}
        if own["weight"] not in known or not isinstance(getattr(module, "weight", None), Tensor):
            continue
        bias = own["bias"] if own["bias"] in known else ""
        found.append(Site(layer.name, module, own["weight"], bias, transposed))
    return found


def source_of(problem: Problem) -> Source:
    """Whose labels the gradients belong to."""
    loss = problem._loss
    if not isinstance(loss, Loss):
        return "empirical"
    with problem.evaluating(), torch.no_grad():
        batch = problem._prepared(next(iter(problem.data)), problem.device)
        output = checked_output(loss.output(problem.model, batch))
    try:
        recognised(output, lambda here: loss.criterion(here, batch), problem.reduction == "mean", -1)
    except InputError:
        return "empirical"
    return "fisher"


def captured(
    problem: Problem, places: Sequence[Site], samples: int, source: Source, generator: torch.Generator
) -> Iterator[list[tuple[Tensor, list[Tensor]]]]:
    """For each batch, of every site the inputs and the gradients: one for each label that is taken or drawn.

    Args:
        problem: the old task.
        places: where to read.
        samples: how many samples are read, at the most.
        source: whose labels.
        generator: draws them.
    """
    seen: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def hook(place: int) -> Callable[[nn.Module, Any, Any], Any]:
        def remember(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            seen.setdefault(place, []).append((arguments[0].detach(), output))
            return output.clone()  # what is done in place behind it must not reach what was seen

        return remember

    handles = [site.module.register_forward_hook(hook(place)) for place, site in enumerate(places)]
    try:
        with problem.evaluating():
            for scalars in _scalars(problem, samples, source, generator, seen):
                gradients: list[list[Tensor]] = [[] for _ in places]
                inputs: list[Tensor] = [torch.empty(0)] * len(places)
                for scalar in scalars:  # the first one runs the model, whose hooks fill what was seen
                    outputs = [output for place in range(len(places)) for _, output in seen.get(place, ())]
                    pulled = iter(torch.autograd.grad(scalar, outputs, retain_graph=True, allow_unused=True))
                    for place, site in enumerate(places):
                        calls = seen.get(place, [])
                        slopes = [next(pulled) for _ in calls]
                        pairs = [
                            site.rows(a, torch.zeros_like(o) if g is None else g)
                            for (a, o), g in zip(calls, slopes, strict=True)
                        ]
                        if pairs:
                            inputs[place] = torch.cat([a for a, _ in pairs], dim=1)
                            gradients[place].append(torch.cat([g for _, g in pairs], dim=1).detach())
                yield list(zip(inputs, gradients, strict=True))
    finally:
        for handle in handles:
            handle.remove()


def squared_gradients(
    problem: Problem, names: Sequence[str], samples: int, source: Source, generator: torch.Generator
) -> dict[str, Tensor]:
    """The mean squared gradient of single samples, for parameters that no site holds: one backward pass each."""
    tensors = dict(zip(problem.space.names, problem.parameters(), strict=True))
    wanted = [tensors[name] for name in names]
    total = [torch.zeros_like(tensor) for tensor in wanted]
    count = 0
    with problem.evaluating():
        for term in problem.terms():
            for place in range(min(term.samples, samples - count)):
                single = problem.on([take(term.batch, [place], term.samples)])
                for scalars in _scalars(single, 1, source, generator, {}):
                    for scalar in scalars:
                        found = torch.autograd.grad(scalar, wanted, retain_graph=True, allow_unused=True)
                        for into, gradient in zip(total, found, strict=True):
                            if gradient is not None:
                                into.addcmul_(gradient, gradient)
                count += 1
            if count >= samples:
                break
    return {name: into / max(count, 1) for name, into in zip(names, total, strict=True)}


def _scalars(
    problem: Problem, samples: int, source: Source, generator: torch.Generator, seen: dict[int, Any]
) -> Iterator[Iterator[Tensor]]:
    """For each batch, scalars whose gradients are those of single samples' log-likelihoods, side by side."""
    left = samples
    for term in problem.terms():
        if left <= 0:
            return
        seen.clear()
        left -= term.samples
        yield _of_batch(problem, term, source, generator)


def _of_batch(problem: Problem, term: Term, source: Source, generator: torch.Generator) -> Iterator[Tensor]:
    loss, batch = problem._loss, problem._prepared(term.batch, problem.device)
    if source == "empirical" or not isinstance(loss, Loss):
        scale = term.samples if problem.reduction == "mean" else 1
        yield loss(problem.model, batch) * scale
        return
    output = checked_output(loss.output(problem.model, batch))
    kind = recognised(output, lambda here: loss.criterion(here, batch), problem.reduction == "mean", -1)
    if kind == "gaussian":
        for _ in range(DRAWS):
            noise = torch.randn(output.shape, generator=generator).to(output)
            yield (output * noise).sum() / math.sqrt(DRAWS)
        return
    log = functional.log_softmax(output, dim=-1)
    likely = log.detach().exp()
    if output.shape[-1] <= EXACT:
        for label in range(output.shape[-1]):
            yield (log[..., label] * likely[..., label].sqrt()).sum()
        return
    for _ in range(DRAWS):
        flat = torch.multinomial(likely.reshape(-1, output.shape[-1]).cpu(), 1, generator=generator)
        labels = flat.to(output.device).reshape(*output.shape[:-1], 1)
        yield log.gather(-1, labels).sum() / math.sqrt(DRAWS)


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
