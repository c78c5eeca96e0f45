"""What each process of `benchmarks.ranks` does: `torchrun ... -m benchmarks.ranks_worker PART FORM FOLDER [quick]`."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import thalweg as tw
from thalweg.collectives import ranks

LOSS = tw.Loss(
    lambda model, batch: model(batch[0]), lambda output, batch: nn.functional.cross_entropy(output, batch[1])
)
STEPS, PAIRS = 120, 4
BATCH = 216
"""Samples of a training step, fewer than any batch has: shares of one length, whose means have the batch's mean."""
BASIS = 40
"""Rows of the basis whose memory is measured."""


def small(dtype: torch.dtype = torch.float64) -> nn.Module:
    """The net whose numbers are compared."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10)).to(dtype)


def digits(dtype: torch.dtype = torch.float64, pieces: int = 7) -> list[tuple[Tensor, Tensor]]:
    """scikit-learn's digits, in uneven batches."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = torch.tensor(found.data / 16, dtype=dtype), torch.tensor(found.target)
    sizes = [len(labels) // pieces + 13 * (number - pieces // 2) for number in range(pieces)]
    ends = [sum(sizes[: number + 1]) for number in range(pieces)]
    return [(images[end - size : end], labels[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def same(form: str, folder: Path, quick: bool) -> dict[str, Any]:
    """A net trained, recorded and measured: plain and DDP hold a whole model on each rank, FSDP2 a part."""
    together, batches, model = ranks(), digits(), small()
    wrapped: nn.Module = model
    if form == "fsdp2":
        for layer in (model[0], model[2]):  # type: ignore[index]
            fully_shard(layer)
        fully_shard(model)
    elif form == "ddp":
        wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.3, momentum=0.5)
    run = folder / f"run-{form}-{together.size}"
    with tw.watch(wrapped, optimizer, run, moments=False) as recorder:
        for step in range(STEPS):
            optimizer.zero_grad()
            inputs, labels = batches[step % len(batches)]
            own = slice(0, BATCH) if form == "plain" else slice(together.rank, BATCH, together.size)
            loss = nn.functional.cross_entropy(wrapped(inputs[own]), labels[own])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            recorder.log(loss=loss.item())
    together.wait()
    problem: Any = tw.ShardedProblem(model, LOSS, batches) if form == "fsdp2" else tw.Problem(wrapped, LOSS, batches)
    hessian = problem.hessian()
    together.forget()
    begun = time.perf_counter()
    pairs = tw.eigenpairs(hessian, PAIRS, tol=1e-4)
    seconds = time.perf_counter() - begun
    calls, sent = dict(together.calls), dict(together.bytes)
    trajectory = tw.open_run(run).trajectory
    components = tw.update_pca(trajectory, PAIRS)
    drift = tw.drift(trajectory)
    overlap = tw.overlap(components, pairs)
    layers = {row["layer"]: row["values"][0] for row in tw.layer_spectra(problem, tol=1e-4)}
    return {
        "values": pairs.values.tolist(),  # type: ignore[union-attr]
        "products": pairs.matvecs,
        "seconds": seconds,
        "calls": calls,
        "sent": sent,
        "P": problem.space.size,
        "overlap": overlap.mean,
        "p_value": overlap.p_value,
        "components": components.values.tolist(),  # type: ignore[union-attr]
        "drift": drift.p_value,
        "layers": layers,
        "verdict": {
            "components in top curvature": bool(overlap.p_value < 0.05),
            "drift": drift.found,
            "stiffest layer": max((name for name in layers if name != "(network)"), key=layers.__getitem__),
        },
        "error": getattr(hessian, "product_error", 0.0),
    }


def memory(form: str, folder: Path, quick: bool) -> dict[str, Any]:
    """How far a rank's memory grows in a search whose basis is most of it."""
    ranks()  # fully_shard wants a process group
    width = 200 if quick else 1600
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10))
    if form == "fsdp2":
        for number in (0, 2, 4):
            fully_shard(model[number])
        fully_shard(model)
    batches = [(torch.randn(32, 784), torch.randint(0, 10, (32,))) for _ in range(4)]
    problem: Any = tw.ShardedProblem(model, LOSS, batches) if form == "fsdp2" else tw.Problem(model, LOSS, batches)
    hessian = problem.hessian()
    hessian.part_of_product(hessian.draw(torch.Generator().manual_seed(0)))
    before = _resident()
    space = tw.spectral_density(hessian, probes=2, steps=BASIS)
    return {
        "P": problem.space.size,
        "grown": _peak() - before,
        "before": before,
        "basis": (BASIS + 1) * hessian.width * 4,
        "products": space.matvecs,
    }


def killed(form: str, folder: Path, quick: bool) -> dict[str, Any]:
    """A rank that is killed in a product."""
    model, armed = small(), False

    def loss(net: nn.Module, batch: Any) -> Tensor:
        if armed and ranks().rank == 1:
            (folder / "killed").write_text(str(time.time()))
            os.kill(os.getpid(), 9)
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    hessian = tw.Problem(model, loss, digits()).hessian(memory_budget=0)
    armed = True
    tw.eigenpairs(hessian, 3)
    return {}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak() -> int:
    """The highest resident memory of the process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


PARTS = {"same": same, "memory": memory, "killed": killed}


def main() -> None:
    part, form, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    found = PARTS[part](form, folder, "quick" in sys.argv)
    together = ranks()
    (folder / f"{part}-{form}-{together.size}.{together.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
