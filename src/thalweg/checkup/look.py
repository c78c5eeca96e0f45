"""Is a task fit to be measured? What works, what does not and how to mend it, and what an analysis will cost.

Everything is tried on the task itself: its loss twice, products with its Hessian (where custom functions are in it,
against differences of gradients as well), its data sample by sample. Costs are measured on the first batch and scaled
up by samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thalweg.batches import map_batch
from thalweg.checkup.costs import reckoned
from thalweg.checkup.result import Check, Checkup, State
from thalweg.errors import InputError, NoSecondDerivativeError, NotDeterministicError, told
from thalweg.operators.twice import custom_functions
from thalweg.problem import Problem
from thalweg.space import ParameterSpace, unwrapped
from thalweg.task import Task
from thalweg.trials.ground import refuse_closure
from thalweg.trials.price import ONE_ARM, usual_seconds
from thalweg.trials.samples import FEW_DOUBLES, doubled

SAMPLES = 64
"""On which products are tried."""

PATIENCE = 20.0
"""Seconds that a pass over the data may take, by its first batch, to be made whole."""

SYMMETRIC = 1e-3


def doctor(
    task: Task | Callable[[], Task],
    *,
    k: int = 10,
    stages: int = 3,
    address: str = "TASK",
    run: str | Path | None = None,
    seed: int = 0,
) -> Checkup:
    """Look a task over before anything long is run on it.

    Args:
        task: the task, or a function that makes it, whose failure is then one of the findings.
        k: eigenpairs of the analysis that is reckoned for.
        stages: points of training of that analysis.
        address: of the task on the command line, for the command that comes next.
        run: a recorded run of it, likewise.
        seed: of the vectors that products are tried with.
    """
    look = _Look(k, stages, seed)
    following = look.over(task)
    if following is None:
        following = _next(address, run)
    return Checkup(tuple(look.checks), look.costs, following)


class _Look:
    """Goes over a task, from what everything needs to what only some things need."""

    def __init__(self, k: int, stages: int, seed: int) -> None:
        self.k, self.stages, self.seed = k, stages, seed
        self.checks: list[Check] = []
        self.costs: dict[str, float] = {}

    def say(self, name: str, state: State, found: str, mend: str = "") -> None:
        self.checks.append(Check(name, state, found, mend))

    def over(self, task: Task | Callable[[], Task]) -> str | None:
        """Make all checks; what to do next where one of them ends it."""
        try:
            found = task if isinstance(task, Task) else task()
            self._model(found.model)
            problem = found.problem()
        except Exception as error:
            self._failed("loss" if self.checks else "task", error)
            return "mend that, then run doctor again"
        self.say("deterministic", "good", "the same batch gives the same loss twice")
        try:
            self._data(problem)
            self._loss(problem)
            self._products(problem)
        except Exception as error:
            self._failed("loss", error)
            return "mend that, then run doctor again"
        self._held_out(problem, found)
        self._optimizer(found)
        self._measures(found, problem)
        self.checks += reckoned(problem, self.costs, self.k, self.stages)
        return None if all(check.state != "bad" for check in self.checks) else "mend that, then run doctor again"

    def _failed(self, name: str, error: Exception) -> None:
        if isinstance(error, NotDeterministicError):
            name = "deterministic"
        elif isinstance(error, NoSecondDerivativeError):
            name = "products"
        what, mend = told(error)
        self.say(name, "bad", what, mend)

    def _model(self, model: nn.Module) -> None:
        model = unwrapped(model)
        space = ParameterSpace.of(model)
        frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
        dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.requires_grad})
        device = next(p for p in model.parameters()).device
        told = f"{type(model).__name__}, {space.size:,} parameters in {len(space.layers)} layers, {', '.join(dtypes)}"
        told += f" on {device}" + (f"; {frozen:,} frozen ones are left out" if frozen else "")
        self.say("model", "good", told)
        modes = sorted(
            {
                type(module).__name__
                for module in model.modules()
                if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd))
            }
        )
        if modes:
            self.say(
                "mode", "note", f"{', '.join(modes)}: everything is measured in evaluation mode, not as in training"
            )

    def _data(self, problem: Problem) -> None:
        survey = problem.survey
        sizes, weights = survey.samples, survey.weights
        told = f"{sum(sizes):,} samples in {len(sizes)} batches of {min(sizes):,} to {max(sizes):,}"
        if len(set(sizes)) == 1:
            told = f"{sum(sizes):,} samples in {len(sizes)} batches of {sizes[0]:,}"
        by_samples = all(w == s for w, s in zip(weights, sizes, strict=True))
        if not by_samples:
            told += f", weighed by {math.fsum(weights):,.0f} in all (labels, tokens or your own weights)"
        elif len(set(sizes)) > 1:
            told += ", weighed by their samples"
        self.say("data", "good", told)

    def _loss(self, problem: Problem) -> None:
        first, rest = _timed(lambda: problem.on(list(islice(problem.data, 1))).loss())
        share = sum(problem.survey.samples) / max(problem.survey.samples[0], 1)
        whole = rest * share <= PATIENCE
        value, spent = _timed(problem.loss) if whole else (first, rest * share)
        self.costs["loss_seconds"] = spent
        over = "all data" if whole else "the first batch"
        self.say("loss", "good", f"{value:.4g} on {over}, finite")

    def _products(self, problem: Problem) -> None:
        """Does H v exist, is it symmetric, is it what differences of gradients say?"""
        first = problem.on(list(islice(problem.data, 1)))
        small = first.sampled(SAMPLES) or first
        slope, spent = _timed(first.gradient)
        length = float(slope.norm())
        share = sum(problem.survey.samples) / max(problem.survey.samples[0], 1)
        self.costs["gradient_seconds"] = spent * share
        if not math.isfinite(length):
            raise InputError("the gradient is not finite; look for log(0), sqrt(0) or a division by zero in the loss")
        unused = [parameter.name for parameter in problem.space.parameters if not bool(slope[parameter.span].any())]
        told = f"|g| = {length:.3g} on the first batch"
        if unused:
            shown = ", ".join(unused[:3]) + (f" and {len(unused) - 3} more" if len(unused) > 3 else "")
            self.say("gradient", "note", f"{told}; it is zero in {shown}", "freeze what the loss does not use")
        else:
            self.say("gradient", "good", told)
        self._exact(small)
        hessian = first.hessian()
        vector = torch.randn(problem.space.size, generator=torch.Generator().manual_seed(self.seed)).to(slope)
        hessian.matvec(vector)  # builds what is kept
        _, spent = _timed(lambda: hessian.matvec(vector))
        self.costs["product_seconds"] = spent * share
        graphs = getattr(hessian, "graphs", None)
        if graphs is not None:
            held = graphs.chunking.size or problem.survey.samples[0]  # samples of the graph that was measured
            self.costs["graph_bytes"] = float(graphs.bytes_each * sum(problem.survey.samples) / max(held, 1))

    def _exact(self, small: Problem) -> None:
        hessian = small.hessian()
        generator = torch.Generator().manual_seed(self.seed)
        one, other = (
            torch.randn(small.space.size, generator=generator).to(hessian.device, hessian.dtype) for _ in range(2)
        )
        first, second = hessian.matvec(one).double(), hessian.matvec(other).double()
        if not bool(torch.isfinite(first).all()):
            raise InputError("a product with the Hessian is not finite; an operation has an infinite second derivative")
        skew = abs(float(other.double() @ first) - float(one.double() @ second))
        skew /= max(float(first.norm()) * float(other.double().norm()), 1e-30)
        told = f"exact, symmetric to {skew:.0e} on {sum(small.survey.samples)} samples"
        if skew > SYMMETRIC:
            self.say(
                "products", "bad", f"Hessian products are not symmetric: off by {skew:.1%}",
                "a custom backward pass or a stateful module gives wrong second derivatives",
            )  # fmt: skip
            return
        names = custom_functions(small)  # torch's own second derivatives are taken for right
        if names:
            told += f", with custom functions ({', '.join(names)})"
            check = _in_double(small).check_hessian(seed=self.seed)
            if check.agrees is False:
                self.say(
                    "products", "bad",
                    f"products differ from differences of gradients by {check.difference:.1%}",
                    f"the backward pass of {', '.join(names)} has another function's graph; mend it, or measure by "
                    "differences: problem.hessian(finite_differences=True)",
                )  # fmt: skip
                return
            if check.agrees:
                told += f", as differences of gradients say ({check.difference:.0e})"
        self.say("products", "good", told)

    def _held_out(self, problem: Problem, task: Task) -> None:
        if task.held_out is None:
            self.say(
                "held-out", "note", "none, so over-fitting cannot be seen and no trial can be run",
                "give Task(..., held_out=batches)",
            )  # fmt: skip
            return
        try:
            held_out = task.problem(held_out=True)
            seconds, value = usual_seconds(problem, held_out, ONE_ARM)
            if task.optimizer is not None:
                self.costs["trial_seconds"] = seconds
            both, count = doubled(task.train, task.held_out)
        except Exception as error:
            self._failed("held-out", error)
            return
        told = f"{sum(held_out.survey.samples):,} samples, loss {value:.4g}"
        if both > FEW_DOUBLES * count:
            self.say(
                "held-out", "bad", f"{both} of {count} held-out samples (or batches) are training data as well",
                "split the data again; nothing can be judged on what training saw",
            )  # fmt: skip
        elif both:
            self.say("held-out", "note", f"{told}; {both} of {count} stand in the training data as well")
        else:
            self.say("held-out", "good", f"{told}; none of them is training data")

    def _optimizer(self, task: Task) -> None:
        if task.optimizer is None:
            self.say("optimizer", "note", "none, so no trial can be run", "give Task(..., optimizer=lambda model: ...)")
            return
        try:
            made = task.optimizer(unwrapped(task.model))
            rates = ", ".join(f"{group['lr']:g}" for group in made.param_groups)
            refuse_closure(task)
        except Exception as error:
            self._failed("optimizer", error)
            return
        self.say("optimizer", "good", f"{type(made).__name__}, lr {rates}")

    def _measures(self, task: Task, problem: Problem) -> None:
        """The user's own measures, as a trial takes them: in evaluation mode."""
        if task.evaluate is None:
            return
        try:
            with problem.evaluating():
                found = {name: float(value) for name, value in task.evaluate(problem.model).items()}
        except Exception as error:
            self._failed("measures", error)
            return
        self.say("measures", "good", ", ".join(f"{name} {value:.4g}" for name, value in found.items()) or "none")


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    value = work()
    return value, time.perf_counter() - start


def _in_double(problem: Problem) -> Problem:
    """The problem in float64, where differences of gradients are sharp; the problem itself where that cannot be."""

    def wide(leaf: Any) -> Any:
        return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

    try:
        other = problem.at(problem.weights())
        other.model = other.model.double()
        other = other.on([map_batch(wide, batch) for batch in problem.data])
        other.loss()
    except Exception:  # a dtype that is fixed somewhere in the user's code
        return problem
    return other


def _next(address: str, run: str | Path | None) -> str:
    if run is not None:
        return f"thalweg analyse {run} --task {address}"
    return (
        'record a training, recorder = thalweg.watch(model, optimizer, "runs/a"), then: '
        f"thalweg analyse runs/a --task {address}"
    )
