"""Ten largest Hessian eigenpairs: thalweg beside the libraries that people use today, each at its best settings.

    python -m benchmarks.peers [--workload mlp ...] [--peers eigenthings ...] [--batches given] [--repeats 3] [--quick]

Every contestant works in a process of its own, the peers in an environment of their own (`benchmarks/.venv`), on the
same weights and samples. Before anything is timed each peer may choose its batch size by timing its products (unless
--batches given), and is given the basis size, tolerance or number of steps that just reaches the residual; none of
that is charged to it. thalweg runs with its defaults, and what it times for itself is charged. The runs are
interleaved; every pair that comes back is checked by products in float64 that owe nothing to any contestant.

PyHessian makes up to a hundred products for each pair, over an hour on the larger two workloads; there it is left out
unless --peers names it. Writes a section for each workload into benchmarks/RESULTS.md (with --quick only prints them).
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peer_environment import OURS, child, peer_python
from benchmarks.peer_measure import say
from benchmarks.peer_truth import Checked, check
from benchmarks.results import Report, options, through_workloads
from benchmarks.workloads import load
from safetensors.torch import load_file

BUDGETED = "thalweg-budget"
PEERS = ("curvlinops", "eigenthings", "pyhessian")
MORE = ("curvlinops-restarted",)
SLOW = {"pyhessian": ("resnet", "transformer")}
"""On which workloads a peer is left out unless it is asked for."""

COUNTS = {"curvlinops": "ncv", "eigenthings": "max_iter"}
"""The setting that is the number of products, and goes up by one where it turns out one too small."""

LIMIT = 1e-3
NAMES = {
    OURS: "**thalweg**",
    BUDGETED: "thalweg, kept graphs capped at the best peer's peak",
    "curvlinops": "curvlinops + ARPACK, no restart needed",
    "curvlinops-restarted": "curvlinops + ARPACK, its own basis size",
    "eigenthings": "hessian-eigenthings, steps given",
    "pyhessian": "PyHessian, its own settings",
}


@dataclass(frozen=True)
class Run:
    """One timed run with what is true of its pairs.

    Attributes:
        name: of the contestant.
        record: what its process measured.
        checked: by products in float64.
    """

    name: str
    record: dict[str, Any]
    checked: Checked

    @property
    def good(self) -> bool:
        """Whether every pair meets the residual."""
        return float(self.checked.residuals.max()) <= LIMIT


class Round:
    """All contestants on one workload.

    Args:
        folder: of the workload; the processes write there.
        peers: contestants beside thalweg.
        budgeted: also run thalweg with its kept graphs capped at the fastest good peer's peak.
    """

    def __init__(self, folder: Path, peers: Sequence[str], budgeted: bool) -> None:
        self.folder = folder
        self.workload = load(folder)
        self.peers = peers
        self.budgeted = budgeted
        self.runs: list[list[Run]] = []
        self.tuned: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        self.hopeless: set[str] = set()

    def tune(self) -> None:
        """Best settings of every contestant; who fails here is reported and left out."""
        say("  foretelling the number of products")
        known = self._child("reference", OURS, {})
        for name in (OURS, *self.peers):
            say(f"  tuning {name}")
            try:
                self.tuned[name] = self._child("tune", name, known)
            except RuntimeError as error:
                self.failed[name] = str(error).strip().splitlines()[-1]
                say(f"  {error}")

    def repeat(self) -> None:
        """Every contestant once, beginning with another each time; a peer that missed the residual is not repeated."""
        names = [name for name in (OURS, *self.peers) if name in self.tuned and name not in self.hopeless]
        turn = len(self.runs) % len(names)
        runs = [self._run(name) for name in names[turn:] + names[:turn]]
        self.hopeless |= {run.name for run in runs if run.name != OURS and not run.good}
        best = fastest([run for run in runs if run.name != OURS])
        if self.budgeted and best is not None:
            self.tuned[BUDGETED] = {"memory_budget": grown(best)}
            runs.append(self._run(BUDGETED))
        self.runs.append(runs)

    def _run(self, name: str) -> Run:
        """One run; again with more products where the foretold number is a little too small."""
        for _ in range(4):
            run = self._run_once(name)
            if run.good or name not in COUNTS:
                break
            self.tuned[name][COUNTS[name]] += 1
            say(f"  {name} missed the residual by rounding: again with {self.tuned[name][COUNTS[name]]}")
        return run

    def _run_once(self, name: str) -> Run:
        record = self._child("run", name, self.tuned[name])
        tensors = load_file(self.folder / f"run-{name}.safetensors")
        say(f"  {name}: {record['seconds']:.2f} s, {record['products']} products; checking")
        run = Run(name, record, check(self.workload, tensors["values"], tensors["vectors"]))
        say(
            f"  {name}: {in_gradients(run):.0f} gradients, residual {float(run.checked.residuals.max()):.1e}, "
            f"{grown(run) / 2**20:.0f} MiB"
        )
        return run

    def _child(self, mode: str, name: str, settings: dict[str, Any]) -> dict[str, Any]:
        return child("peer_worker", mode, name, self.folder, self.folder / f"{mode}-{name}.json", settings)


def fastest(runs: Sequence[Run]) -> Run | None:
    """The fastest of the runs that met the residual."""
    return min((run for run in runs if run.good), key=lambda run: run.record["seconds"], default=None)


def grown(run: Run) -> int:
    """Bytes by which the process's resident memory peaked above what it held with model and data loaded."""
    return max(0, run.record["bytes_peak"] - run.record["bytes_before"])


def in_gradients(run: Run) -> float:
    """The time in units of one gradient over all samples, measured in the same process."""
    return float(run.record["seconds"]) / float(run.record["gradient_seconds"])


def table(done: Round) -> list[str]:
    """Markdown for one workload: medians over the repeats."""
    head = (
        "| | seconds | products | gradients | gradients a product | peak memory, MiB (process) | "
        "largest residual / λ₁ | orthonormality | λ₁ | λ₁₀ |"
    )
    workload, facts = done.workload, done.workload.facts
    lines = [
        f"P = {facts['parameters']:,}; {facts['training_steps']} training steps, last loss "
        f"{facts['last_training_loss']:.3f}; batches as given: {workload.samples // workload.batch} of "
        f"{workload.batch}. {len(done.runs)} interleaved repeats, medians.",
        "",
        head,
        "|---|" + "---|" * 9,
    ]
    top = max((float(run.checked.quotients.min()) for run in done.runs[0] if run.good), default=0.0)
    for name in (OURS, *done.peers, *[one for one in PEERS if one not in done.peers], BUDGETED):
        runs = [run for repeat in done.runs for run in repeat if run.name == name]
        if runs:
            lines.append(row(name, runs, top))
        elif name in done.failed:
            lines.append(f"| {NAMES[name]} | failed: {done.failed[name][:150]} |" + " |" * 8)
        elif name in PEERS:
            lines.append(f"| {NAMES[name]} | not run (`--peers {name}` does) |" + " |" * 8)
    return [*lines, "", *ratios(done), "", *settings(done)]


def row(name: str, runs: Sequence[Run], top: float) -> str:
    """One contestant's medians.

    Args:
        name: of the contestant.
        runs: its repeats.
        top: the largest tenth eigenvalue that a run with good residuals has come to.
    """

    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    residual = max(float(run.checked.residuals.max()) for run in runs)
    tenth = min(float(run.checked.quotients.min()) for run in runs)
    missed = " (a pair was missed)" if residual <= LIMIT and tenth < top * (1 - LIMIT) else ""
    cells = [
        NAMES[name],
        f"{median([run.record['seconds'] for run in runs]):.3g}",
        f"{median([run.record['products'] for run in runs]):.0f}",
        f"{median([in_gradients(run) for run in runs]):.0f}",
        f"{median([run.record['product_seconds'] / run.record['gradient_seconds'] for run in runs]):.2f}",
        f"{median([grown(run) for run in runs]) / 2**20:.0f} "
        f"({median([run.record['bytes_peak'] for run in runs]) / 2**20:.0f})",
        f"{residual:.1e}" + ("" if residual <= LIMIT else " (not converged)"),
        f"{max(run.checked.orthonormality for run in runs):.0e}",
        f"{median([float(run.checked.quotients.max()) for run in runs]):.5g}",
        f"{tenth:.5g}{missed}",
    ]
    return "| " + " | ".join(cells) + " |"


def ratios(done: Round) -> list[str]:
    """thalweg against the fastest peer that met the residual in the same repeat."""
    lines = []
    for name, label in ((OURS, "thalweg"), (BUDGETED, "With the capped budget")):
        pairs = []
        for repeat in done.runs:
            ours = next((run for run in repeat if run.name == name), None)
            best = fastest([run for run in repeat if not run.name.startswith(OURS)])
            if ours is not None and best is not None:
                pairs.append((ours, best))
        if not pairs:
            continue
        times = [best.record["seconds"] / ours.record["seconds"] for ours, best in pairs]
        memory = [grown(ours) / max(grown(best), 1) for ours, best in pairs]
        met = all(ours.good for ours, _ in pairs)
        peers = ", ".join(sorted({best.name for _, best in pairs}))
        lines.append(
            f"{label} against the best peer of each repeat ({peers}): **{statistics.median(times):.2f}× faster** "
            f"(from {min(times):.2f} to {max(times):.2f}), {statistics.median(memory):.2f}× its peak memory; "
            f"its residuals are {'all' if met else 'NOT all'} within {LIMIT:g}·λ₁.  "
        )
    return lines


def settings(done: Round) -> list[str]:
    """What each contestant was given or chose, and the unit."""
    units = [run.record["gradient_seconds"] for repeat in done.runs for run in repeat]
    lines = [
        f"One gradient: {statistics.median(units):.3g} s ({min(units):.3g} to {max(units):.3g} over all processes)."
    ]
    for run in {run.name: run for repeat in done.runs for run in repeat}.values():
        notes = ", ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in run.record["notes"].items()
        )
        lines.append(f"{run.name}: {notes}.")
    return [" ".join(lines)]


FAIRNESS = """\
*seconds*: from model and data in memory to pairs, the operator's making included. *gradients*: that time over the
time of one gradient of all samples, in the batches as given, measured before and after in the same process. *a
product*: the contestant's own product at its chosen batch size, over the same gradient. *peak memory*: growth of the
process's resident memory over what it held before (in brackets its whole peak, torch included). *residual*: |Hv -
value v| by float64 products on the pooled samples, over λ₁; the worst of all repeats.

Each peer chose its batch size (unless the heading says as given) by timing its products with the batches as given,
with the equal ones nearest to 64 and to 256, and with all samples at once. Its step count or basis size was given so
that it just converges: foretold by a Lanczos run from its own start vector on thalweg's products, and one more where
the check found it missed. It needed no check of determinism, and was not charged for any of that. Evaluation mode for
all; attention through torch's math kernel, which alone has a double backward; for curvlinops, layer norm is written
out in elementary operations, since the forward-mode derivative of torch's fused kernel makes its products wrong.
PyHessian runs with its own limits (at most 100 products a pair, tolerance 1e-3; a peer that misses the residual is
not repeated); where all samples are its fastest batch it keeps its graph. hessian-eigenthings works with its exact
products: its finite differences (two gradients a product) leave residuals of 7e-2·λ₁ and more on the MLP at every
step size tried, from 1e-3 to 1e-1."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = options("peers", __doc__, repeats=3)
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=[*PEERS, *MORE],
        help="beside thalweg; all three on the MLP, curvlinops and eigenthings on the others",
    )
    parser.add_argument(
        "--batches",
        choices=["best", "given"],
        default="best",
        help="whether peers choose their batch size, for free",
    )
    parser.add_argument("--no-budget", action="store_true", help="leave out thalweg with capped memory")
    return parser.parse_args(arguments)


def compare(folder: Path, chosen: argparse.Namespace) -> list[str]:
    """All contestants on one workload, as Markdown.

    Args:
        folder: of the workload.
        chosen: the options.
    """
    name = load(folder).name
    peers = chosen.peers
    if peers is None:
        peers = [peer for peer in PEERS if chosen.quick or name not in SLOW.get(peer, ())]
    done = Round(folder, peers, not chosen.no_budget)
    done.tune()
    for number in range(chosen.repeats):
        say(f"  repeat {number + 1} of {chosen.repeats}")
        done.repeat()
    return table(done)


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = parse(arguments)
    peer_python()
    given = chosen.batches == "given"
    whose = "all with the batches as given" if given else "each at its fastest batch size"
    about = f"## Ten largest eigenpairs at residual {LIMIT:g}·λ₁, beside other libraries, {whose}\n\n{FAIRNESS}"
    report = Report("peers given" if given else "peers", "peers", about, chosen, arguments, peers=True)
    through_workloads(report, chosen, functools.partial(compare, chosen=chosen), given)


if __name__ == "__main__":
    main()
