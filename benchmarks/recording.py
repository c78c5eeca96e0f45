"""What recording costs a training: paired, interleaved runs with and without it.

    python -m benchmarks.recording [--trainings mlp-17k ...] [--repeats 7] [--seconds 4] [--folder DIR] [--every 1]

Each repeat trains the same model on the same batches twice, plain and recorded, in an order that changes from repeat to
repeat. The batches are random numbers, since their values cost nothing; models and optimizers are those of the built-in
tasks. Memory is that of processes of their own, plain and recorded. Writes a section into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.results import Report, options
from benchmarks.workloads import WORKLOADS
from torch import Tensor, nn
from torch.nn import functional

from thalweg.recording import watch
from thalweg.tasks.characters import CharacterTransformer
from thalweg.tasks.resnet import ResNet

BATCHES = 8
MEMORY_STEPS = 150
ROOT = Path(__file__).parents[1]
ABOUT = """## What recording costs a training

Pairs of the same training, plain and recorded, interleaved. *overhead*: of the median and of the mean time of a step;
in brackets the least and the largest of the pairs. *steps a row*: 1 unless the disk could not follow. *waited*: share
of its time that the training waited for the disk. *more memory*: peak of the process with a recorder over its peak
without one; beside it what `recorder.forecast` allows: blocks of weights, those that wait for the disk included. The
optimizers are SGD with momentum, and AdamW for the transformer."""


@dataclass(frozen=True)
class Training:
    """One thing to train.

    Attributes:
        model: makes it.
        optimizer: makes its optimizer.
        batch: draws inputs and targets.
        limit: the share of a step that recording may cost, as the issue asks.
    """

    model: Callable[[], nn.Module]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    batch: Callable[[torch.Generator], tuple[Tensor, Tensor]]
    limit: float | None


@dataclass(frozen=True)
class Cost:
    """One training of `steps` steps.

    Attributes:
        median: seconds of a step.
        mean: seconds of a step.
        close: seconds that closing took.
        rows: recorded; 0 if plain.
        waited: seconds that the training waited for the disk.
    """

    median: float
    mean: float
    close: float
    rows: int
    waited: float


def mlp(*sizes: int) -> nn.Module:
    """Linear layers with ReLU between.

    Args:
        sizes: inputs, hidden units and outputs.
    """
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def vectors(size: int) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    """64 random vectors of ten classes.

    Args:
        size: of each vector.
    """
    return lambda draw: (torch.randn(64, size, generator=draw), torch.randint(10, (64,), generator=draw))


def pictures(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(64, 1, 28, 28, generator=draw), torch.randint(10, (64,), generator=draw)


def characters(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randint(90, (16, 64), generator=draw), torch.randint(90, (16, 64), generator=draw)


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-4)


TRAININGS = {
    "mlp-17k": Training(lambda: mlp(64, 128, 64, 10), momentum, vectors(64), 0.10),
    "mlp-270k": Training(lambda: mlp(784, 256, 256, 10), momentum, vectors(784), None),
    "mlp-1m": Training(lambda: mlp(784, 784, 512, 10), momentum, vectors(784), None),
    "resnet-20": Training(lambda: ResNet(3, (16, 32, 64)), momentum, pictures, 0.03),
    "transformer": Training(lambda: CharacterTransformer(4, 128, 4, 64), adamw, characters, 0.03),
}


def train(
    training: Training, model: nn.Module, batches: Sequence[Any], steps: int, folder: Path | None, every: int
) -> Cost:
    """Train a copy of the model.

    Args:
        training: which.
        model: where it begins.
        batches: taken in turn.
        steps: how many.
        folder: for the recording; None for none.
        every: steps to a row.
    """
    model = copy.deepcopy(model)
    optimizer = training.optimizer(model.parameters())
    recorder = watch(model, optimizer, folder, every=every) if folder else None
    seconds = []
    with recorder or nullcontext():
        for step in range(steps):
            begun = time.perf_counter()
            inputs, targets = batches[step % len(batches)]
            optimizer.zero_grad()
            scores = model(inputs)
            functional.cross_entropy(scores.reshape(-1, scores.shape[-1]), targets.reshape(-1)).backward()
            optimizer.step()
            seconds.append(time.perf_counter() - begun)
        begun = time.perf_counter()
    close = time.perf_counter() - begun
    about = json.loads((folder / "closed.json").read_text()) if folder else {"rows": 0, "seconds_waited": 0.0}
    warm = seconds[len(seconds) // 20 :]
    return Cost(statistics.median(warm), statistics.fmean(warm), close, int(about["rows"]), about["seconds_waited"])


def start(name: str) -> tuple[nn.Module, list[Any]]:
    """The model of a training and its batches.

    Args:
        name: one of TRAININGS.
    """
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TRAININGS[name].model()
    return model, [TRAININGS[name].batch(draw) for _ in range(BATCHES)]


def peak(name: str, folder: Path | None) -> int:
    """Peak resident bytes of a process that trains.

    Args:
        name: one of TRAININGS.
        folder: for the recording; None for none.
    """
    code = "import sys; from benchmarks.recording import alone; alone(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, name, str(folder or "")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


def alone(name: str, folder: str) -> None:
    """Train a little, and print this process's peak.

    Args:
        name: one of TRAININGS.
        folder: for the recording; empty for none.
    """
    model, batches = start(name)
    train(TRAININGS[name], model, batches, MEMORY_STEPS, Path(folder) if folder else None, 1)
    status = Path("/proc/self/status").read_text()  # getrusage gives the parent's peak where that was higher
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)


def memory(name: str, home: Path) -> dict[str, float]:
    """Memory with a recorder and without, medians of three.

    Args:
        name: one of TRAININGS.
        home: for the recordings.
    """
    plain = [peak(name, None) for _ in range(3)]
    recorded = [peak(name, home / f"{name}-memory-{number}") for number in range(3)]
    model, _ = start(name)
    recorder = watch(model, None, home / f"{name}-forecast")
    recorder.close()
    for folder in home.glob(f"{name}-*"):
        shutil.rmtree(folder)
    return {
        "more_memory": statistics.median(recorded) - statistics.median(plain),
        "allowed_memory": recorder.forecast.memory_bytes,
    }


def measure(name: str, repeats: int, seconds: float, home: Path, every: int) -> dict[str, Any]:
    """Pairs of runs, and what they say.

    Args:
        name: one of TRAININGS.
        repeats: pairs.
        seconds: that one run takes, about.
        home: for the recordings.
        every: steps to a row.
    """
    training = TRAININGS[name]
    model, batches = start(name)
    steps = max(40, int(seconds / train(training, model, batches, 30, None, every).median))
    pairs: list[tuple[Cost, Cost]] = []
    for repeat in range(repeats):
        folder = home / f"{name}-{repeat}"
        order = [None, folder] if repeat % 2 == 0 else [folder, None]
        found = {place: train(training, model, batches, steps, place, every) for place in order}
        shutil.rmtree(folder)
        pairs.append((found[None], found[folder]))
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "workload": name,
        "parameters": parameters,
        "steps": steps,
        "limit": training.limit,
        **memory(name, home),
        **summary(pairs, steps),
    }


def summary(pairs: Sequence[tuple[Cost, Cost]], steps: int) -> dict[str, Any]:
    """Overheads over the pairs: median, smallest and largest.

    Args:
        pairs: plain and recorded.
        steps: of each run.
    """
    out: dict[str, Any] = {}
    for figure in ("median", "mean"):
        shares = sorted(getattr(recorded, figure) / getattr(plain, figure) - 1 for plain, recorded in pairs)
        out[f"{figure}_overhead"] = [statistics.median(shares), shares[0], shares[-1]]
        out[f"{figure}_plain"] = statistics.median(getattr(plain, figure) for plain, _ in pairs)
    out["close"] = statistics.median(recorded.close for _, recorded in pairs)
    out["waited_share"] = statistics.median(recorded.waited / (recorded.mean * steps) for _, recorded in pairs)
    out["steps_per_row"] = statistics.median(steps / recorded.rows for _, recorded in pairs)
    return out


def line(found: dict[str, Any]) -> str:
    """A row of the table.

    Args:
        found: by `measure`.
    """
    shares = [
        f"{100 * middle:+.1f} % ({100 * least:+.1f} to {100 * most:+.1f})"
        for middle, least, most in (found["median_overhead"], found["mean_overhead"])
    ]
    limit = "–" if found["limit"] is None else f"{100 * found['limit']:.0f} %"
    cells = [
        found["workload"],
        f"{found['parameters']:,}",
        f"{1e3 * found['median_plain']:.2f} ms",
        *shares,
        limit,
        f"{found['steps_per_row']:.2f}",
        f"{100 * found['waited_share']:.1f} %",
        f"{found['close']:.2f} s",
        f"{found['more_memory'] / 2**20:.0f} of {found['allowed_memory'] / 2**20:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| training | P | step | overhead of the median step | of the mean step | asked | steps a row | waited | close | "
    "more memory, MiB |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser: argparse.ArgumentParser = options("recording", __doc__, repeats=7)
    parser.add_argument("--trainings", nargs="+", choices=list(TRAININGS), default=list(TRAININGS))
    parser.add_argument("--seconds", type=float, default=4.0, help="of one run, about")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, default=None, help="on the disk to record to; a temporary one unless said"
    )
    chosen = parser.parse_args(arguments)
    if set(chosen.workload) != set(WORKLOADS):
        print("recording has trainings of its own; nothing to do for some workloads")
        return
    report = Report("recording", "recording", ABOUT, chosen, arguments)
    lines = list(HEAD)
    seconds, repeats = (0.2, 1) if chosen.quick else (chosen.seconds, chosen.repeats)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as home:
        for name in chosen.trainings:
            found = measure(name, repeats, seconds, Path(home), chosen.every)
            lines.append(line(found))
            print(lines[-1], flush=True)
    report.section("trainings", f"{repeats} pairs of about {seconds:g} s each", lines)


if __name__ == "__main__":
    main()
