"""A second opinion on the rivals EWC, SI and MAS: avalanche's own classes beside ours, on the same samples and steps.

    python3 -m venv /tmp/avalanche
    /tmp/avalanche/bin/pip install torch==2.6.0 torchvision==0.21.0 avalanche-lib==0.6.0 safetensors lazy-loader
    PYTHONPATH=src:. /tmp/avalanche/bin/python -m benchmarks.second_opinion [--out FILE]

avalanche needs torchvision, which must not get into this repository's environment (docs/decisions/0003). So the script
stands by itself in an environment of its own, and imports the study of forgetting and nothing of the other benchmarks.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer

from thalweg.study.forgetting.lessons import Lesson
from thalweg.study.forgetting.rivals import EWC, MAS, SI, Learner, Penalty
from thalweg.study.forgetting.streams import perceptron

WIDTHS = (64, 16, 10)
SAMPLES = 200
"""Of each task: as many as MAS is measured on, fewer than EWC would take."""

OURS: dict[str, type[Penalty]] = {"EWC": EWC, "MAS": MAS, "SI": SI}
STRENGTHS = {"EWC": 3.0, "MAS": 0.3, "SI": 3.0}
"""λ of `½ λ Σ Ω (w − w*)²`."""

BOUNDED = 300.0
"""λ of SI where both have avalanche's importance, which is not above 0.001."""

BATCHES = {"EWC": 1, "MAS": 1, "SI": 20}
"""avalanche measures EWC's and MAS's importance in the batches that it trains in; SI's does not depend on them."""

RATES = (0.04, 0.02, 0.01)
LENGTH = 8.0
"""Step size times steps: half the step size takes twice the steps."""

ADAPTIVE = 0.001
"""Step size of AdamW, which takes as many steps as plain descent at the last of RATES."""

DAMPING, THEIR_DAMPING = 0.1, 1e-7
"""SI's: ours, which avalanche can be given, and its own."""

CLIPPED = 0.001
"""avalanche's bound on SI's importance."""

DRAWS = 50

ABOUT = f"""\
## A second opinion on EWC, SI and MAS

avalanche's plugins in avalanche's own training loop beside the learners of the study of forgetting: a perceptron of
{" by ".join(map(str, WIDTHS))} without biases, two tasks of {SAMPLES} of scikit-learn's digits (the second's pixels
permuted), the same batches in the same order. *Relative difference*: the norm of the difference by the norm of the
second, over all weights; 1e-6 and less is rounding. *Size*: sum by sum."""

WEIGHTS = """\
Plain descent unless said. *Ω*: importances as each measures them, or avalanche's for both. *Largest pull*: step size
times λ times the largest Ω. *Apart*: avalanche's weights from ours, by the way that ours went in the second task;
*unprotected*: the same of a net learned without any penalty, which is what a penalty without effect would give.
*Smooth*: Softplus for ReLU. A ReLU that opens for some sample in one of the two nets alone parts them by more than
the step size does."""

DIFFERENCES = """\
Where the definitions differ (avalanche/training/plugins, version 0.6.0):

- **λ.** Ours is that of `½ λ Σ Ω (w − w*)²`, and so is that of avalanche's SI (synaptic_intelligence.py:285); its EWC
  (ewc.py:110) and MAS (mas.py:143) have no ½. Here those are given λ/2.
- **The penalty's step.** avalanche adds the penalty to the loss; so does ours under AdamW, while it takes it implicitly
  under plain descent. The two meet as steps get short.
- **EWC's Fisher.** avalanche squares the gradient of a batch's mean loss on the data's labels (ewc.py:163-182): with
  one sample a batch that is the empirical Fisher, with more it is neither and much smaller. Ours is the expectation
  over the net's own labels, sample by sample. avalanche's `online` keeps `decay · old + new` (ewc.py:219), ours the
  sum.
- **MAS's mean.** avalanche takes the absolute gradient of a batch's mean squared output (mas.py:99-113), ours that of
  one sample, as in the paper. From the second task on avalanche mixes, `½ old + ½ new` (mas.py:171-174); ours adds up.
- **SI's bounds.** avalanche cuts importances off above 0.001 (synaptic_intelligence.py:149, 333) but not below 0, where
  a number is pushed away from w*; ours begins at 0 and has no bound above. Its damping is 1e-7 (line 53), ours 0.1.
- **SI's gradient.** From the second task on avalanche's path has the penalty's gradient in it, as it reads gradients
  after the whole loss went back (synaptic_intelligence.py:129, 226); ours is that of the task's loss, as in the paper.
- **SI on a processor.** avalanche keeps weights as `param.detach().cpu().flatten()` (synaptic_intelligence.py:215),
  which on a processor is no copy: old and new are always equal, and every importance is 0. Everywhere else here the
  weights lie by columns, so that `flatten` has to copy, as happens on an accelerator.
- **What is measured on.** avalanche takes all samples of a task; the study's EWC the first 1000, its MAS the first 200.
- **The optimizer.** avalanche keeps its state from task to task, the study begins with a new one; here both keep it."""


@dataclass(frozen=True)
class Row:
    """Two measures of the same weights.

    Attributes:
        method: of OURS.
        one: what the first is.
        other: what the second is.
        first: the first.
        second: the second.
    """

    method: str
    one: str
    other: str
    first: Tensor
    second: Tensor

    def __str__(self) -> str:
        apart = float((self.first - self.second).norm() / self.second.norm())
        correlation = float(torch.corrcoef(torch.stack([self.first, self.second]))[0, 1])
        told = "" if correlation != correlation else f"{correlation:.4f}"
        size = float(self.first.sum() / self.second.sum())
        return f"| {self.method} | {self.one} | {self.other} | {apart:.1e} | {told} | {size:.3g} |"


@dataclass(frozen=True)
class Way:
    """How both are trained.

    Attributes:
        method: of OURS.
        rate: step size.
        adaptive: AdamW in the place of plain descent.
        strength: λ; that of STRENGTHS unless given.
        smooth: Softplus in the place of ReLU.
    """

    method: str
    rate: float = RATES[-1]
    adaptive: bool = False
    strength: float | None = None
    smooth: bool = False

    @property
    def batch(self) -> int:
        """Samples of a step."""
        return BATCHES[self.method]

    @property
    def epochs(self) -> int:
        """Passes over a task."""
        return round(LENGTH * self.batch / ((RATES[-1] if self.adaptive else self.rate) * SAMPLES))

    def optimizer(self, model: nn.Module) -> Optimizer:
        """As the study's."""
        if self.adaptive:
            return AdamW(model.parameters(), lr=self.rate, weight_decay=0.0)
        return SGD(model.parameters(), lr=self.rate)

    def ours(self) -> Penalty:
        """The study's learner."""
        return OURS[self.method](STRENGTHS[self.method] if self.strength is None else self.strength)

    def theirs(self, damping: float = DAMPING) -> Any:
        """avalanche's plugin with the strength that is ours."""
        strength = STRENGTHS[self.method] if self.strength is None else self.strength
        if self.method == "EWC":
            return avalanche("training.plugins", "EWCPlugin")(ewc_lambda=strength / 2)
        if self.method == "MAS":
            return avalanche("training.plugins", "MASPlugin")(lambda_reg=strength / 2)
        return avalanche("training.plugins", "SynapticIntelligencePlugin")(si_lambda=strength, eps=damping)


def avalanche(module: str, name: str) -> Any:
    """Something of avalanche."""
    try:
        return getattr(importlib.import_module(f"avalanche.{module}"), name)
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}; how to install avalanche is told at the top of {__file__}") from error


def flat(tensors: Sequence[Tensor] | None) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors or ()])


def weights(model: nn.Module) -> Tensor:
    return flat(list(model.parameters()))


def digits() -> list[Lesson]:
    """Digits, and other digits with permuted pixels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    draw = torch.Generator().manual_seed(0)
    order, pixels = torch.randperm(len(data.target), generator=draw), torch.randperm(WIDTHS[0], generator=draw)
    inputs = torch.as_tensor(data.data, dtype=torch.float32)[order] / 16
    labels = torch.as_tensor(data.target)[order].long()
    first = (inputs[:SAMPLES], labels[:SAMPLES])
    second = (inputs[SAMPLES : 2 * SAMPLES, pixels], labels[SAMPLES : 2 * SAMPLES])
    return [Lesson(part, part, part) for part in (first, second)]


def net(by_columns: bool = True, smooth: bool = False) -> nn.Sequential:
    """The perceptron; its weights by columns unless told otherwise, for avalanche's SI."""
    model = perceptron(0, WIDTHS)
    assert isinstance(model, nn.Sequential)
    if smooth:
        model[1] = nn.Softplus(beta=5)
    for parameter in model.parameters() if by_columns else ():
        parameter.data = parameter.data.T.contiguous().T
    return model


def held(method: str, plugin: Any) -> list[Tensor]:
    """avalanche's importances after the first task (EWC) or the last one, as vectors."""
    where = {"EWC": lambda: plugin.importances[0], "MAS": lambda: plugin.importance, "SI": lambda: plugin.ewc_data[1]}
    return [one.data.clone().reshape(-1) for one in where[method]().values()]


def unbounded(plugin: Any) -> Tensor:
    """avalanche's importance of SI before its bound."""
    return -flat([one.data for one in plugin.syn_data["cum_trajectory"].values()])


def dataset(inputs: Tensor, labels: Tensor) -> Any:
    """Samples as avalanche takes them."""
    pair = torch.utils.data.TensorDataset(inputs, labels)
    pair.targets = labels.tolist()  # type: ignore[attr-defined]
    return avalanche("benchmarks.utils", "as_classification_dataset")(pair)


def their_training(plugin: Any, model: nn.Module, way: Way) -> Callable[[Lesson], None]:
    """avalanche's training loop: whatever lesson it is called with, it learns as its next task."""
    strategy = avalanche("training.supervised", "Naive")(
        model=model,
        optimizer=way.optimizer(model),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=way.batch,
        train_epochs=way.epochs,
        plugins=[plugin],
        evaluator=avalanche("training.plugins", "EvaluationPlugin")(),
    )
    stream = avalanche("benchmarks.scenarios.dataset_scenario", "benchmark_from_datasets")

    def learn(lesson: Lesson) -> None:
        strategy.train(stream(train=[dataset(*lesson.train)]).streams["train"][0], shuffle=False)

    return learn


def our_training(learner: Learner, model: nn.Module, way: Way) -> Callable[[Lesson], None]:
    """The study's training loop, without its shuffling."""
    optimizer = way.optimizer(model)

    def learn(lesson: Lesson) -> None:
        learner.begin(model, optimizer)
        for _ in range(way.epochs):
            for inputs, labels in zip(*(torch.split(part, way.batch) for part in lesson.train), strict=True):
                optimizer.zero_grad()
                lesson.loss(model, inputs, labels).backward()  # type: ignore[no-untyped-call]
                learner.before_step(model)
                optimizer.step()
                learner.after_step(model, way.rate)
        learner.end(model, lesson, 0)

    return learn


def their_fisher(model: nn.Module, inputs: Tensor, labels: Tensor, criterion: Any, batch: int) -> dict[str, Any]:
    """avalanche's importance of EWC by its own method, under a criterion and in batches of choice."""
    samples, optimizer = dataset(inputs, labels), SGD(model.parameters(), lr=1.0)
    found: dict[str, Any] = (
        Way("EWC").theirs().compute_importances(model, criterion, optimizer, samples, torch.device("cpu"), batch)
    )
    return found


def by_likelihood(outputs: Tensor, labels: Tensor) -> Tensor:
    """A loss whose squared gradients, averaged over a sample with each label, are the expectation over labels."""
    likely = outputs.detach().softmax(1).gather(1, labels[:, None])[:, 0]
    each = functional.cross_entropy(outputs, labels, reduction="none")
    return (each * (likely * outputs.shape[1]).sqrt()).mean()


def their_expectation(model: nn.Module, inputs: Tensor) -> dict[str, Any]:
    """avalanche's importance of EWC, made to take every label for its likelihood."""
    labels = torch.arange(WIDTHS[-1]).repeat(len(inputs))
    return their_fisher(model, inputs.repeat_interleave(WIDTHS[-1], 0), labels, by_likelihood, 1)


def empirical(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The empirical Fisher by its formula, one sample at a time."""
    total = torch.zeros_like(weights(model))
    for one, label in zip(inputs, labels, strict=True):
        likelihood = model(one[None]).log_softmax(1)[0, label]
        total += flat(torch.autograd.grad(likelihood, list(model.parameters()))) ** 2
    return total / len(inputs)


def drawn(model: nn.Sequential, lesson: Lesson) -> Tensor:
    """Ours as for nets that are no chain of linear maps, over many draws of labels."""
    other = nn.Sequential(nn.Identity(), *model)
    total = torch.zeros_like(weights(model))
    for seed in range(DRAWS):
        learner = EWC(1.0)
        learner.end(other, lesson, seed)
        total += flat(learner.importance) / DRAWS
    return total


def ewc_rows(lesson: Lesson) -> list[Row]:
    """Importances after the first task."""
    model, learner = net(), EWC(1.0)
    our_training(learner, model, Way("EWC"))(lesson)
    inputs, labels = lesson.train
    ours = flat(learner.importance)

    def theirs(batch: int) -> Tensor:
        found = their_fisher(model, inputs, labels, nn.CrossEntropyLoss(), batch)
        return flat([one.data for one in found.values()])

    every = flat([one.data for one in their_expectation(model, inputs).values()])
    formula = empirical(model, inputs, labels)
    return [
        Row("EWC", "avalanche, batches of 1", "empirical Fisher by its formula", theirs(1), formula),
        Row("EWC", "avalanche, every label by its likelihood", "ours", every, ours),
        Row("EWC", f"ours for other nets, mean of {DRAWS} draws", "ours", drawn(model, lesson), ours),
        Row("EWC", "avalanche, batches of 1", "ours", theirs(1), ours),
        Row("EWC", "avalanche, batches of 20", "ours", theirs(20), ours),
    ]


def mas_rows(lesson: Lesson) -> list[Row]:
    """Importances after the first task."""
    model, learner = net(), MAS(1.0)
    our_training(learner, model, Way("MAS"))(lesson)
    rows = []
    for batch in (1, 20):
        read_by_the_plugin = SimpleNamespace(
            model=model,
            experience=SimpleNamespace(dataset=dataset(*lesson.train)),
            train_mb_size=batch,
            device=torch.device("cpu"),
            optimizer=SGD(model.parameters(), lr=1.0),
        )
        found = Way("MAS").theirs()._get_importance(read_by_the_plugin)
        theirs = flat([one.data for one in found.values()])
        rows.append(Row("MAS", f"avalanche, batches of {batch}", "ours", theirs, flat(learner.importance)))
    return rows


def si_rows(lesson: Lesson) -> tuple[list[Row], list[str]]:
    """Importances after the first task, each learned in its own loop; and what share of them is out of bounds."""

    def theirs(way: Way, damping: float = DAMPING, by_columns: bool = True) -> Any:
        plugin = way.theirs(damping)
        their_training(plugin, net(by_columns), way)(lesson)
        return plugin

    def ours(way: Way) -> Tensor:
        learner = way.ours()
        our_training(learner, net(), way)(lesson)
        return flat(learner.importance)

    plain, adaptive = Way("SI"), Way("SI", ADAPTIVE, adaptive=True)
    same, small, still, bent = (
        theirs(plain),
        theirs(plain, THEIR_DAMPING),
        theirs(plain, by_columns=False),
        theirs(adaptive),
    )
    own, told = ours(plain), f"avalanche, damping {DAMPING:g}, before its bound"
    rows = [
        Row("SI", told, "ours", unbounded(same), own),
        Row("SI", f"{told}, AdamW", "ours, AdamW", unbounded(bent), ours(adaptive)),
        Row("SI", f"avalanche, damping {DAMPING:g}", "ours", flat(held("SI", same)), own),
        Row("SI", "avalanche as it comes, damping 1e-7", "ours", flat(held("SI", small)), own),
        Row("SI", "avalanche on a processor, weights by rows", "ours", flat(held("SI", still)), own),
    ]
    settings = {"damping 0.1": same, "damping 1e-7": small, "damping 0.1 and AdamW": bent}
    shares = [
        f"With {told}, {float((found > CLIPPED).double().mean()):.0%} of avalanche's importances of SI are above its "
        f"bound and {float((found < 0).double().mean()):.0%} below 0.  "
        for told, found in ((told, unbounded(plugin)) for told, plugin in settings.items())
    ]
    return rows, shares


@dataclass(frozen=True)
class Ended:
    """Two tasks learned by both.

    Attributes:
        line: how far apart the weights are.
        theirs: what avalanche's importance grew by in the second task; SI's without its bound.
        ours: likewise, of ours.
    """

    line: str
    theirs: Tensor
    ours: Tensor


def both(way: Way, tasks: Sequence[Lesson], given: bool = False, whole: bool = False) -> Ended:
    """Two tasks by both.

    Args:
        way: how.
        tasks: the lessons.
        given: whether ours gets avalanche's importance after the first task.
        whole: whether our SI's path gets the penalty's gradient too, as avalanche's does.
    """
    plugin, model = way.theirs(), net(smooth=way.smooth)
    learn = their_training(plugin, model, way)
    learn(tasks[0])
    between = held(way.method, plugin)
    before = unbounded(plugin) if way.method == "SI" else flat(between)
    learn(tasks[1])

    learner, own = way.ours(), net(smooth=way.smooth)
    learn = our_training(learner, own, way)
    learn(tasks[0])
    start = weights(own)
    if given:
        learner.importance = [one.view_as(p) for one, p in zip(between, own.parameters(), strict=True)]
    importance = flat(learner.importance)
    if whole:
        assert isinstance(learner, SI)
        _with_the_whole_gradient(learner)
    learn(tasks[1])

    free = net(smooth=way.smooth)
    learn = our_training(Learner(), free, way)
    for task in tasks:
        learn(task)
    moved = (weights(own) - start).norm()
    apart, unprotected = (float((weights(one) - weights(own)).norm() / moved) for one in (model, free))
    pull = way.rate * learner.strength * float(importance.max())
    name = way.method + (", AdamW" if way.adaptive else "") + (", smooth" if way.smooth else "")
    figures = f"{way.rate:g} | {learner.strength:g} | {pull:.1e} | {apart:.1e} | {unprotected:.2f}"
    after = (
        2 * flat(held("MAS", plugin)) if way.method == "MAS" else unbounded(plugin) if way.method == "SI" else before
    )
    return Ended(
        f"| {name} | {'avalanche' if given else 'own'} | {figures} |",
        after - before,
        flat(learner.importance) - importance,
    )


def _with_the_whole_gradient(learner: SI) -> None:
    former = learner.before_step

    def before_step(model: nn.Module) -> None:
        former(model)
        assert learner.importance is not None
        assert learner.home is not None
        for slope, parameter, home, omega in zip(
            learner._slope, model.parameters(), learner.home, learner.importance, strict=True
        ):
            slope.add_(learner.strength * omega * (parameter.detach() - home))

    learner.before_step = before_step  # type: ignore[method-assign]


def merged_row(tasks: Sequence[Lesson]) -> Row:
    """EWC's two penalties as avalanche keeps them, beside the one that ours makes of them, at some other place."""
    learner, plugin, model = EWC(1.0), Way("EWC", strength=1.0).theirs(), net()
    learn = our_training(learner, model, Way("EWC"))
    for number, task in enumerate(tasks):
        learn(task)
        plugin.update_importances(their_expectation(model, task.train[0]), number)
        plugin.saved_params[number] = avalanche("training.utils", "copy_params_dict")(model)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
    clock = SimpleNamespace(train_exp_counter=len(tasks))
    read_by_the_plugin = SimpleNamespace(clock=clock, device="cpu", model=model, loss=torch.zeros(()))
    plugin.before_backward(read_by_the_plugin)
    theirs = flat(torch.autograd.grad(read_by_the_plugin.loss, list(model.parameters())))
    ours = flat(learner.importance) * (weights(model) - flat(learner.home))
    return Row("EWC", "avalanche, gradient of two penalties", "ours, gradient of one", theirs, ours)


def report() -> str:
    """All tables."""
    tasks = digits()
    head = ["| | one | other | relative difference | correlation | size |", "|---|---|---|---|---|---|"]
    si, shares = si_rows(tasks[0])
    rows = [*ewc_rows(tasks[0]), *mas_rows(tasks[0]), *si]
    lines = [ABOUT, "", "### Importances after the first task", "", *head, *map(str, rows), "", *shares]

    bounded, adaptive = Way("SI", strength=BOUNDED), Way("SI", ADAPTIVE, adaptive=True, strength=BOUNDED)
    mas, small, bent = both(Way("MAS"), tasks), both(bounded, tasks, True), both(adaptive, tasks, True)
    whole, whole_bent = both(bounded, tasks, True, True), both(adaptive, tasks, True, True)
    ended = [
        both(Way("EWC"), tasks),
        mas,
        both(Way("SI"), tasks),
        *(both(Way("EWC", rate), tasks, given=True) for rate in RATES),
        *(both(Way("MAS", rate), tasks, given=True) for rate in RATES),
        *(both(Way("MAS", rate, smooth=True), tasks, given=True) for rate in RATES),
        *(both(Way("SI", rate, strength=BOUNDED), tasks, given=True) for rate in RATES[:-1]),
        small,
        *(both(Way(name, ADAPTIVE, adaptive=True), tasks, given=True) for name in ("EWC", "MAS")),
        bent,
    ]
    told, penalty = "avalanche before its bound", "ours with the penalty's gradient"
    rows = [
        merged_row(tasks),
        Row("MAS", "avalanche, twice the mix", "ours", mas.theirs, mas.ours),
        Row("SI", told, "ours", small.theirs, small.ours),
        Row("SI", told, penalty, whole.theirs, whole.ours),
        Row("SI", f"{told}, AdamW", "ours, AdamW", bent.theirs, bent.ours),
        Row("SI", f"{told}, AdamW", f"{penalty}, AdamW", whole_bent.theirs, whole_bent.ours),
        Row("SI", f"{told}, negative ones 0, AdamW", f"{penalty}, AdamW", whole_bent.theirs.clamp(0), whole_bent.ours),
    ]
    lines += ["", "### What the second task adds", "", *head, *map(str, rows), ""]
    below = [float((one.theirs < 0).double().mean()) for one in (small, bent)]
    lines += [f"Of what it adds to avalanche's SI {below[0]:.1%} is below 0, under AdamW {below[1]:.1%}.", ""]
    lines += ["### Weights after the second task"]
    lines += [
        "",
        WEIGHTS,
        "",
        "| | Ω | step size | λ | largest pull | apart | unprotected |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [one.line for one in ended]
    names = ("avalanche-lib", "torch", "torchvision", "scikit-learn")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    ending = f"`python -m benchmarks.second_opinion`, {datetime.date.today().isoformat()}. {versions}."
    return "\n".join([*lines, "", DIFFERENCES, "", ending])


def main(arguments: Sequence[str] | None = None) -> None:
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_opinion", description=about)
    parser.add_argument("--out", type=Path, default=None, help="Markdown file")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    text = report()
    print(text)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
