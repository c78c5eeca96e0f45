"""The jobs of loss-landscapes, landscaper and WeightWatcher beside the same with thalweg, in time.

    python -m benchmarks.surfaces [--repeats 3] [--quick]

Each contestant has a process of its own; the middle of every plane is held against the loss that thalweg computes.
"""

from __future__ import annotations

import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.peer_environment import HERE, ROOT, child_environment, peer_python
from benchmarks.peer_measure import say
from benchmarks.results import Report, options
from benchmarks.workloads import load, mean_loss, prepare, problem_of

POINTS = 21
REQUIREMENTS, HOME = HERE / "surface_requirements.txt", HERE / ".venv-surfaces"
PLANES = ("thalweg", "loss-landscapes", "landscaper")
SPECTRA = ("thalweg", "WeightWatcher")
ABOUT = f"""\
## Surfaces and spectra of weights

The MLP. *plane*: the loss on all samples at {POINTS} by {POINTS} places of a plane through the weights, spanned by
two random directions. *weights*: all singular values of every weight matrix (thalweg's with the ten leading
directions; WeightWatcher's with its fits of power laws, which thalweg does not make). Each contestant in a process
of its own, medians of the repeats after one run to warm up; imports are not counted."""


def job(name: str, kind: str, folder: Path) -> Callable[[], float | None]:
    """What a contestant does; a plane gives the loss in its middle."""
    workload = load(folder)
    model, data = workload.model, (workload.inputs, workload.targets)
    if (name, kind) == ("thalweg", "plane"):
        return lambda: _own_plane(workload)
    if (name, kind) == ("thalweg", "weights"):
        from thalweg.solvers.svd import weight_svd

        def own() -> None:
            weight_svd(model, k=10)

        return own
    if name == "loss-landscapes":
        import loss_landscapes
        from loss_landscapes.metrics import Loss

        metric = Loss(torch.nn.functional.cross_entropy, *data)

        def plane() -> float:
            with torch.no_grad():
                found = loss_landscapes.random_plane(
                    copy.deepcopy(model), metric, distance=1, steps=POINTS, normalization="model"
                )
            return float(found[POINTS // 2, POINTS // 2])

        return plane
    if name == "landscaper":
        from landscaper.compute import compute_loss_landscape

        def scalar(network: torch.nn.Module, batch: Any) -> float:
            with torch.no_grad():
                return float(mean_loss(network, batch))

        def landscape() -> float:
            draw = torch.Generator().manual_seed(0)
            dirs = [[torch.randn(p.shape, generator=draw) for p in model.parameters()] for _ in range(2)]
            found, _ = compute_loss_landscape(
                copy.deepcopy(model), data, dirs, scalar, steps=POINTS, distance=0.01, dim=2, device="cpu"
            )
            return float(found[POINTS // 2][POINTS // 2])

        return landscape
    import weightwatcher

    def watched() -> None:
        weightwatcher.WeightWatcher(model=model).analyze()

    return watched


def _own_plane(workload: Any) -> float:
    problem = problem_of(workload)
    weights, draw = problem.weights(), torch.Generator().manual_seed(0)
    across, up = (torch.randn(weights.shape, generator=draw) for _ in range(2))
    places = torch.linspace(-0.01, 0.01, POINTS)
    rows = torch.stack([problem.at(weights + y * up).loss_along(across, places) for y in places])
    return float(rows[POINTS // 2, POINTS // 2])


def worker(name: str, kind: str, folder: str, repeats: str, out: str) -> None:
    """Run one contestant and write its times."""
    warnings.simplefilter("ignore")
    work, seconds, value = job(name, kind, Path(folder)), [], None
    for number in range(int(repeats) + 1):
        begun = time.perf_counter()
        value = work()
        if number:
            seconds.append(time.perf_counter() - begun)
    Path(out).write_text(json.dumps({"seconds": seconds, "middle": value}))


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = options("surfaces", __doc__, repeats=3).parse_args(arguments)
    report = Report("surfaces", "surfaces", ABOUT, chosen, arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = prepare("mlp", Path(scratch), chosen.quick)
        truth = problem_of(load(folder)).loss()
        lines = [
            "| job | contestant | seconds | times thalweg's | middle of the plane off by |",
            "|---|---|---|---|---|",
        ]
        for kind, names in (("plane", PLANES), ("weights", SPECTRA)):
            own = None
            for name in names:
                out = Path(scratch) / "out.json"
                python = Path(sys.executable) if name == "thalweg" else peer_python(REQUIREMENTS, HOME)
                command = [str(python), "-m", "benchmarks.surfaces", "--worker", name, kind, str(folder)]
                command += [str(chosen.repeats), str(out)]
                done = subprocess.run(
                    command,
                    cwd=ROOT,
                    env=child_environment(),
                    capture_output=True,
                    text=True,
                )
                if done.returncode:
                    raise RuntimeError(f"{kind} of {name} failed:\n{done.stderr[-3000:]}")
                found = json.loads(out.read_text())
                middle = statistics.median(found["seconds"])
                own = own or middle
                off = "–" if found["middle"] is None else f"{abs(found['middle'] / truth - 1):.0e}"
                lines.append(f"| {kind} | {name} | {middle:.3g} | {middle / own:.2f} | {off} |")
                say(lines[-1])
        report.section("mlp", "The MLP", lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        main()
