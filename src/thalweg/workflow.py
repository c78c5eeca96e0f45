"""What a run gets, in which order, and where it is kept.

`analyse` measures, keeps everything as plain JSON in `results/analysis.json` (directions as safetensors beside it)
and returns it. The report reads nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from thalweg.analysis.agreement import agreement_row, correct, verdict
from thalweg.analysis.drift import Drift
from thalweg.analysis.drift_record import drift_record
from thalweg.analysis.layer_ranking import PROBES, rank_layers
from thalweg.analysis.layers import layer_spectra
from thalweg.analysis.overlap import overlap
from thalweg.analysis.random_walk import random_walk
from thalweg.analysis.ranking import rank_directions
from thalweg.analysis.sampling import halves
from thalweg.analysis.stages import stage_name, stage_windows
from thalweg.costs import Costs, peak_memory
from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.operators.hessian import GradientGraphs, HessianOperator
from thalweg.problem import Problem
from thalweg.recording.opening import open_run
from thalweg.recording.record import Window
from thalweg.recording.trajectory import Trajectory
from thalweg.runs import Run
from thalweg.solvers.gram import gradient_pca, update_pca, weight_path, weight_pca
from thalweg.solvers.lanczos import Certificate, eigenpairs, pass_on_interrupt
from thalweg.version import __version__

COMPONENTS = (10, 20, 50)
"""Numbers of principal components whose captured share is reported."""

PATH_POINTS = 400
"""Points of the path that are kept for the picture."""

SOURCES: dict[str, Callable[..., Directions]] = {
    "updates": update_pca,
    "weights": weight_pca,
    "gradients": gradient_pca,
}

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
    """

    k: int = 10
    stages: int = 3
    components: tuple[int, ...] = COMPONENTS
    tol: float = 1e-3
    certificate: Certificate = "complete"
    seed: int = 0
    draws: int = 1000


def analyse(
    run: str | Path | Run[Trajectory],
    problem: Problem,
    held_out: Problem | None = None,
    *,
    settings: Settings | None = None,
    memory_budget: int | None = None,
    command: str | None = None,
    say: Say | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Everything that a recorded run gets: spectra, components, overlaps with their nulls, layers, costs.

    Args:
        run: the run folder, or an opened run.
        problem: model, loss and data; its weights do not matter, the recorded ones are used on a copy.
        held_out: the same model and loss on data that training never saw.
        settings: how to measure.
        memory_budget: bytes for kept gradient graphs.
        command: the command that makes this again, for the report.
        say: called with a line for each part as it begins.
        progress: show residual and time left of the eigenpairs on standard error.

    Returns:
        The result as plain JSON values, as kept in the run folder.

    Raises:
        RunError: if the folder is no run.
        InputError: if the problem's parameters are not the ones recorded, or too few steps were.
    """
    settings = settings or Settings()
    run = run if isinstance(run, Run) else open_run(run)
    say = say or (lambda line: None)
    run.space.require_same(problem.space, "the problem's model")
    trajectory = run.trajectory
    if len(trajectory) < 3:
        raise InputError(f"{run.folder} holds {len(trajectory)} recorded rows; at least 3 are needed, train longer")
    costs = Costs()
    with costs.timed("total"):
        measure = _Measurement(run, trajectory, problem, held_out, settings, memory_budget, costs, say, progress)
        result = measure.everything()
    result["command"] = command
    result["cost"] = {
        "seconds": costs.seconds,
        "products": costs.products,
        "gradient_seconds": measure.gradient_seconds,
        "peak_memory_bytes": peak_memory(),
    }
    run.save("analysis", result)
    return run.load("analysis")


class _Measurement:
    """One call of `analyse`: what the parts share."""

    def __init__(
        self,
        run: Run[Trajectory],
        trajectory: Trajectory,
        problem: Problem,
        held_out: Problem | None,
        settings: Settings,
        memory_budget: int | None,
        costs: Costs,
        say: Say,
        progress: bool,
    ) -> None:
        self.run = run
        self.trajectory = trajectory
        self.problem = problem
        self.held_out = held_out
        self.settings = settings
        self.memory_budget = memory_budget
        self.costs = costs
        self.say = say
        self.progress = progress
        self.gradient_seconds = 0.0
        self._components: dict[tuple[str, Window], Directions | str] = {}

    def everything(self) -> dict[str, Any]:
        """All parts, in order."""
        with self.costs.timed("trajectory"):
            self.say("reading the trajectory")
            self.trajectory.gram()
        windows = stage_windows(self.trajectory, self.settings.stages)
        stages = []
        for number, window in enumerate(windows):
            last = number == len(windows) - 1
            there, stage = self._stage(number, window)
            graphs = there.graphs(self.memory_budget)
            pairs = self._spectrum(stage, graphs)
            self._agreement(stage, pairs, window, (windows[0][0], window[1]))
            stages.append(stage)
            if not last:
                del graphs
        correct(stages)
        self.run.save_directions("eigenvectors", pairs)
        loss, held_out = self._losses(there, pairs)
        found, drift = self._drift(pairs)
        layers = self._layers(there, graphs, pairs, found)
        directions = self._directions(there, pairs, windows[-1], found)
        return {
            "format": 1,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "thalweg": __version__,
            "torch": torch.__version__,
            "run": describe_run(self.run),
            "settings": {**vars(self.settings), "components": list(self.settings.components)},
            "problem": there.describe(),
            "loss": loss,
            "held_out": held_out,
            "stages": stages,
            "sampling": self._sampling(there),
            "components": self._explained(windows),
            "path": self._path(windows),
            "heat_map": self._heat_map(pairs, windows[-1]),
            "drift": drift,
            "directions": directions,
            "layers": layers,
            "verdict": verdict(stages[-1], layers),
        }

    # -- parts ---------------------------------------------------------------------------------------------

    def _stage(self, number: int, window: Window) -> tuple[Problem, dict[str, Any]]:
        """The problem at the end of a window, and the head of its record."""
        step = window[1] - 1
        buffers, stood = self.trajectory.buffers(step)
        there = self.problem.at(self.trajectory.weights(step), buffers)
        return there, {
            "name": stage_name(number, self.settings.stages),
            "step": step,
            "window": list(window),
            "exact": not buffers or stood == step,
            "loss": there.loss(),
        }

    def _spectrum(self, stage: dict[str, Any], graphs: GradientGraphs) -> Directions:
        self.say(f"{self.settings.k} eigenpairs after step {stage['step']}")
        with self.costs.timed("spectrum"):
            operator = HessianOperator(graphs)
            pairs = eigenpairs(
                operator,
                self.settings.k,
                tol=self.settings.tol,
                seed=self.settings.seed,
                certify=self.settings.certificate,
                progress=self.progress,
            )
        pass_on_interrupt(pairs)
        self.costs.products += pairs.matvecs or 0
        assert pairs.values is not None
        assert pairs.residuals is not None
        assert pairs.converged is not None
        stage["spectrum"] = {
            "values": pairs.values.tolist(),
            "residuals": pairs.residuals.tolist(),
            "converged": pairs.converged.tolist(),
            "matvecs": pairs.matvecs,
            **{key: pairs.provenance[key] for key in ("gaps", "angles", "certificate", "missed_and_found")},
            "complement_searched": pairs.provenance["complement_searched"],
        }
        return pairs

    def _agreement(self, stage: dict[str, Any], pairs: Directions, window: Window, so_far: Window) -> None:
        """Share of the top eigenspace in the components of each source, over this stage's window and so far."""
        self.say(f"overlaps after step {stage['step']}")
        rows: list[dict[str, Any]] = []
        with self.costs.timed("overlaps"):
            projections = self.trajectory.inner(pairs)
            named = {"this stage": window, "whole run": so_far} if window != so_far else {"whole run": so_far}
            for window_name, span in named.items():
                for source in SOURCES:
                    found = self._found(source, span)
                    if isinstance(found, str):
                        continue
                    possible = [count for count in self.settings.components if count <= len(found)] or [len(found)]
                    for count in possible:
                        head = found.first(count)
                        cross = (head.rows.coefficients @ projections).T  # type: ignore[attr-defined]
                        measured = overlap(pairs, head, draws=self.settings.draws, seed=self.settings.seed, cross=cross)
                        rows.append(agreement_row(source, span, window_name, count, measured))
        stage["agreement"] = rows

    def _found(self, source: str, window: Window) -> Directions | str:
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

    def _losses(self, there: Problem, pairs: Directions) -> tuple[dict[str, Any], dict[str, Any] | None]:
        self.say("loss, gradient and held-out curvature")
        start = time.perf_counter()
        norm = float(there.gradient().double().norm())
        self.gradient_seconds = time.perf_counter() - start
        loss: dict[str, Any] = {"train": there.loss(), "held_out": None, "gradient_norm": norm}
        if self.held_out is None:
            return loss, None
        with self.costs.timed("held out"):
            other = there.on(self.held_out.data)
            loss["held_out"] = other.loss()
            hessian = other.hessian(memory_budget=self.memory_budget)
            curvature = [float((v.double() * (hessian @ v).double()).sum()) for v in pairs.vectors]
            self.costs.products += len(pairs)
        return loss, {"curvature": curvature, **other.describe()}

    def _drift(self, pairs: Directions) -> tuple[Drift | None, dict[str, Any]]:
        self.say("the drift")
        with self.costs.timed("drift"):
            try:
                problem = self.problem if self._moves_along else None
                found, record = drift_record(self.trajectory, pairs, problem, self.held_out, seed=self.settings.seed)
            except InputError as error:
                return None, {"reason": str(error)}
        if found is not None and self._moves_along:
            self.run.save_directions("drift", found.direction)
            self.costs.products += found.ahead.products if found.ahead is not None else 0
        return found, record

    @property
    def _moves_along(self) -> bool:
        """Whether directions in the trajectory's span can be made as vectors; from a sketch only their products can."""
        return self.trajectory.sketch is None

    def _directions(
        self, there: Problem, pairs: Directions, window: Window, found: Drift | None
    ) -> list[dict[str, Any]]:
        """Every direction in one table: eigenvectors, components, drift, gradient."""
        self.say("every direction's gain")
        assert pairs.values is not None
        sets = [pairs]
        for source in ("updates", "weights") if self._moves_along else ():
            components = self._found(source, window)
            if isinstance(components, Directions):
                sets.append(components.first(min(self.settings.k, len(components))))
        if found is not None and self._moves_along:
            sets.append(found.direction)
        gradient = there.gradient()
        if bool(gradient.any()):
            sets.append(Directions(gradient[None], label="gradient", space=there.space))
        with self.costs.timed("directions"):
            table = rank_directions(
                there,
                sets,
                self.held_out,
                trajectory=self.trajectory,
                window=window,
                drift=found,
                top=float(pairs.values[0]),
                memory_budget=self.memory_budget,
            )
        self.costs.products += len(table) * (1 if self.held_out is None else 2)
        return table.to_json()

    def _sampling(self, there: Problem) -> dict[str, Any] | None:
        if sum(there.survey.samples) < 4:
            return None
        self.say("the same on two halves of the data")
        with self.costs.timed("sampling"):
            found = halves(
                there,
                self.settings.k,
                seed=self.settings.seed,
                memory_budget=self.memory_budget,
            )
        self.costs.products += found.matvecs
        return {
            "half_values": found.half_values.tolist(),
            "other_half": found.other_half.tolist(),
            "subspace_overlap": found.subspace.mean,
            "samples": list(found.samples),
            "seed": found.seed,
        }

    def _explained(self, windows: Sequence[Window]) -> dict[str, Any]:
        whole = windows[0][0], windows[-1][1]
        out: dict[str, Any] = {}
        for source in SOURCES:
            found = self._found(source, whole)
            if isinstance(found, str):
                out[source] = {"reason": found}
            else:
                assert found.explained is not None
                out[source] = {"explained": found.explained.tolist(), "window": list(whole)}
        rows = self.trajectory.rows_in(whole)
        walk = random_walk(torch.diagonal(self.trajectory.gram())[rows], max(self.settings.components))
        out["random_walk"] = {
            "explained": walk.weights_explained.tolist(),
            "updates": walk.updates_explained.tolist(),
        }
        return out

    def _path(self, windows: Sequence[Window]) -> dict[str, Any] | None:
        whole = windows[0][0], windows[-1][1]
        found = self._found("weights", whole)
        if isinstance(found, str) or len(found) < 2:
            return None
        points = weight_path(self.trajectory, found.first(2), whole)
        rows = self.trajectory.rows_in(whole)
        walk = random_walk(torch.diagonal(self.trajectory.gram())[rows], 2)
        kept = torch.linspace(0, len(points) - 1, min(len(points), PATH_POINTS)).round().long()
        steps = torch.cat([torch.tensor([whole[0] - 1]), self.trajectory.steps[rows]])
        assert found.explained is not None
        return {
            "steps": steps[kept].tolist(),
            "points": points[kept].tolist(),
            "explained": found.explained[:2].tolist(),
            "random_walk": {
                "points": walk.path[kept].tolist(),
                "explained": walk.weights_explained.tolist(),
            },
        }

    def _heat_map(self, pairs: Directions, window: Window) -> dict[str, Any] | None:
        found = self._found("updates", window)
        if isinstance(found, str):
            return None
        head = found.first(min(len(found), self.settings.k))
        squared = overlap(pairs, head, draws=2).matrix
        return {"rows": "eigenvectors", "columns": "updates", "window": list(window), "squared": squared.tolist()}

    def _layers(
        self, there: Problem, graphs: GradientGraphs, pairs: Directions, found: Drift | None
    ) -> list[dict[str, Any]]:
        self.say("every layer's own curvature")
        with self.costs.timed("layers"):
            table = layer_spectra(there, 1, whole=pairs, tol=self.settings.tol, seed=self.settings.seed, graphs=graphs)
            ranked = rank_layers(there, drift=found, seed=self.settings.seed, memory_budget=self.memory_budget)
        orders = {record["layer"]: record for record in ranked.to_json()}
        self.costs.products += len(orders) + PROBES
        energy = {layer.name: float(self.trajectory.gram(layer.name).trace()) for layer in there.space.layers}
        weights = there.weights().double()
        squares = {layer.name: float((weights[layer.span] ** 2).sum()) for layer in there.space.layers}
        shares = pairs.layer_energy().mean(dim=0)
        stiff = {layer.name: float(share) for layer, share in zip(there.space.layers, shares, strict=True)}
        out = []
        for record in table:
            if record["layer"] == "(network)":
                continue
            self.costs.products += record.pop("matvecs")
            name = record["layer"]
            record["update_energy"] = energy[name] / (sum(energy.values()) or 1.0)
            record["weight_energy"] = squares[name] / (sum(squares.values()) or 1.0)
            record["eigenvector_energy"] = stiff[name]
            record |= {key: value for key, value in orders[name].items() if not key.startswith("update_energy")}
            out.append(record)
        return out


def describe_run(run: Run[Trajectory]) -> dict[str, Any]:
    """What was recorded, as plain values."""
    trajectory = run.trajectory
    optimizer = run.manifest["optimizer"]
    settings = {key: value for key, value in optimizer["groups"][0].items() if key not in ("parameters", "params")}
    return {
        "folder": str(run.folder),
        "model": run.manifest["model"],
        "optimizer": {"class": str(optimizer["class"]).rpartition(".")[2], "settings": settings},
        "steps": [int(trajectory.starts[0]), int(trajectory.steps[-1])],
        "rows": len(trajectory),
        "every": trajectory.every,
        "keep": trajectory.keeping.to_json(),
        "parameters": run.space.size,
        "layers": len(run.space.layers),
        "frozen": len(run.space.frozen),
        "damaged": [list(pair) for pair in trajectory.damaged],
        "gaps": [list(gap) for gap in trajectory.gaps],
    }
