"""What each rank does in the tests of several processes: `torchrun ... -m tests.distributed.job PARTS FOLDER`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode

import thalweg as tw
from tests.trials import planted
from tests.trials.planted import regression
from thalweg.collectives import Ranks, ranks
from thalweg.trials.training import run_cell

SIZES = (40, 25, 33, 10, 52)
"""Samples of the batches: uneven, and more than there are ranks."""

FEW = (60, 55, 45)
"""Of models that are split, whose passes cost the most here."""

LOSS = tw.Loss(
    lambda model, batch: model(batch[0]), lambda output, batch: nn.functional.cross_entropy(output, batch[1])
)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 4)).double()
    return made.to(place())


def place() -> torch.device:
    """Where this rank works; of several GPUs each takes one, in turn."""
    if "ON_GPU" not in os.environ:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def data(sizes: tuple[int, ...] = SIZES) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(n, 7, generator=draw, dtype=torch.float64), torch.randint(0, 4, (n,), generator=draw))
        for n in sizes
    ]
    return [(inputs.to(place()), labels.to(place())) for inputs, labels in batches]


def measured(problem: tw.Problem, folder: Path) -> dict[str, Any]:
    """Everything that has to come out the same whatever the number of ranks."""
    together = ranks()
    vector = torch.linspace(-1, 1, problem.space.size, dtype=torch.float64)
    hessian = problem.hessian()
    together.forget()
    product = hessian @ vector
    sent = dict(together.bytes)
    together.forget()
    pairs = tw.eigenpairs(hessian, 4, tol=1e-6)
    calls, sent_by_search = dict(together.calls), dict(together.bytes)
    complete = tw.eigenpairs(hessian, 3, certify="complete", basis="bfloat16", which="LM")
    pairs.save(folder / f"pairs{together.size}.safetensors")
    first, second = problem.split(seed=3)
    return {
        "loss": problem.loss(),
        "gradient": problem.gradient().tolist(),
        "hessian": product.tolist(),
        "gauss_newton": (problem.gauss_newton() @ vector).tolist(),
        "fisher": (problem.fisher() @ vector).tolist(),
        "covariance": (problem.gradient_covariance() @ vector).tolist(),
        "differences": (problem.hessian(finite_differences=True) @ vector).tolist(),
        "block": (problem.hessian(layers="2") @ vector[-40:]).tolist(),
        "values": pairs.values.tolist() if pairs.values is not None else None,
        "residuals": pairs.residuals.tolist() if pairs.residuals is not None else None,
        "products": pairs.matvecs,
        "vectors": pairs.vectors.abs().tolist(),
        "layers": pairs.layer_energy().tolist(),
        "largest": complete.values.tolist() if complete.values is not None else None,
        "certificate": complete.provenance["certificate"],
        "trace": tw.trace(hessian, 20).value,
        "density": tw.spectral_density(hessian, probes=2, steps=8).nodes.tolist(),
        "spectra": [list(v) for v in tw.layer_spectra(problem)["values"]],
        "overlap": tw.overlap(pairs, tw.random_directions(problem.space, 3, dtype=torch.float64)).mean,
        "halves": [first.loss(), second.loss()],
        "half_sizes": [half.describe()["samples"] for half in (first, second)],
        "priority": [
            [value for value in list(row.values())[2:] if value is not None] for row in tw.rank_layers(problem, seed=1)
        ],
        "remembered": [
            float(tensor.double().norm())
            for shield in tw.remember(problem, samples=10_000).shields
            for tensor in shield.tensors().values()
        ],
        "line": problem.loss_along(vector, [0.0, 0.1]).tolist(),
        "about": problem.describe(),
        "held": pairs.rows.tensor.shape[1] if hasattr(pairs.rows, "tensor") else None,
        "sent": sent,
        "calls_of_search": calls,
        "sent_by_search": sent_by_search,
    }


def same(folder: Path) -> dict[str, Any]:
    return measured(tw.Problem(net(), LOSS, data()), folder)


def shared(folder: Path) -> dict[str, Any]:
    """Each rank was given its own batches, and the model is wrapped as for training."""
    together = ranks()
    own = data()[together.rank :: together.size]
    model = nn.parallel.DistributedDataParallel(net()) if together.size > 1 else net()
    return measured(tw.Problem(model, LOSS, own), folder)


def few(folder: Path) -> dict[str, Any]:
    """Fewer batches than ranks."""
    problem = tw.Problem(net(), LOSS, data((30,)))
    vector = torch.linspace(-1, 1, problem.space.size, dtype=torch.float64)
    return {"loss": problem.loss(), "hessian": (problem.hessian() @ vector).tolist(), "about": problem.describe()}


def apart(folder: Path) -> dict[str, Any]:
    tw.Problem(net(ranks().rank), LOSS, data())
    return {}


class Failing:
    """A loss that fails, or is killed, on one rank in the middle of a product."""

    def __init__(self, killed: bool) -> None:
        self.killed, self.armed = killed, False

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        if self.armed and ranks().rank == 1:
            if self.killed:
                os.kill(os.getpid(), 9)
            raise ValueError("the second rank's loss gave up")
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


def failing(folder: Path, killed: bool = False) -> dict[str, Any]:
    loss = Failing(killed)
    problem = tw.Problem(net(), loss, data())
    hessian = problem.hessian(memory_budget=0)
    (folder / f"begun{ranks().rank}").write_text(str(time.time()))
    loss.armed = True
    tw.eigenpairs(hessian, 3)
    return {}


def hanging(folder: Path) -> dict[str, Any]:
    """One rank works for longer than others wait, once where they may and once where they may not."""
    if ranks().rank == 1:
        time.sleep(4)
    found = ranks().gathered("here", patient=True)
    (folder / f"patient{ranks().rank}").write_text(" ".join(found))
    if ranks().rank == 1:
        time.sleep(100)
    ranks().add_up([1.0])
    return {}


def killed(folder: Path) -> dict[str, Any]:
    """Killed in a product, with a recording of a sharded training still open."""
    model = net()
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = tw.watch(model, optimizer, folder / "parts", segment_rows=8)
    for step in range(30):
        optimizer.zero_grad()
        inputs, labels = data()[step % 5]
        nn.functional.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    while len(list((recorder.folder / "segments").glob("*.safetensors"))) < 3:
        time.sleep(0.02)
    ranks().wait()
    return failing(folder, killed=True)


def recorded(folder: Path) -> dict[str, Any]:
    """A training with DistributedDataParallel: the run is written once, and opened and analysed by all."""
    together = ranks()
    bare = net()
    model = nn.parallel.DistributedDataParallel(bare) if together.size > 1 else bare
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    batches = data()
    with tw.watch(model, optimizer, folder / f"run{together.size}") as recorder:
        for step in range(30):
            optimizer.zero_grad()
            inputs, labels = batches[step % 5]
            own = slice(together.rank, 10, together.size)  # the mean over ranks is the mean over the ten samples
            loss = nn.functional.cross_entropy(model(inputs[:10][own]), labels[:10][own])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            recorder.log(loss=loss.item())
    together.wait()
    problem = tw.Problem(bare, LOSS, batches)
    settings = tw.Settings(k=3, stages=1, components=(3,), draws=20, noise_draws=1, density_steps=4)
    found = tw.analyse(folder / f"run{together.size}", problem, problem.on(data((20, 21))), settings=settings)
    spectrum = found["stages"][0]["spectrum"]
    return {
        "rows": found["run"]["rows"],
        "weights": problem.weights().tolist(),
        "values": spectrum["values"],
        "held_out": found["loss"]["held_out"],
        "verdict": found["verdict"]["word"],
        "robustness": [row["train"] for row in found["robustness"]["rows"]],
        "kept": [len(tw.open_run(folder / f"run{together.size}").load_directions("eigenvectors"))],
    }


def tried(folder: Path) -> dict[str, Any]:
    """A trial, whose trainings are dealt out over the ranks; and again, when they are all known."""
    together, made = ranks(), []
    task, planted.BASES["x"] = regression(3)
    settings: dict[str, Any] = {"steps": 8, "batch": 10, "seeds": 7, "pilot_seeds": 2, "grid": (0.3, 1.0, 3.0)}

    def counted(ground: Any, name: str, seed: int, *rest: Any) -> Any:
        made.append(f"{name} {seed}")
        return run_cell(ground, name, seed, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thalweg.trials.stages.run_cell", counted)
        arms, out = ["known:x", "eigenvectors:2"], folder / f"trial{together.size}"
        found = tw.trial(task, arms, out=out, **settings)
        count = len(made)
        again = tw.trial(task, arms, out=out, **settings)
    if together.size > 1:  # from a part of the data no arm can be trained
        inputs, targets = next(iter(task.train))
        own = [(inputs[together.rank :: together.size], targets[together.rank :: together.size])]
        bare = tw.Task(task.model, task.loss, own, task.held_out, task.optimizer)
        with pytest.raises(tw.InputError, match="each rank was given data of its own"):
            tw.trial(bare, ["eigenvectors:2"], **settings)
    return {
        "special": [one["special"] for one in found.verdicts],
        "leads": [row["lead"] for row in found.table if "time" not in row["against"]],
        "hash": found.data["hash"],
        "trained": count,
        "seeds": sorted({name.split()[1] for name in made}),
        "cells": len(list((out / "cells").glob("*.json"))),
        "again": [again.data["reused"], len(made) - count],
        "curves": [one["loss"] for one in found.data["stages"]["confirm"]["curves"]],
        "factors": [one["factor"] for one in found.data["stages"]["confirm"]["curves"]],
    }


class Sent(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of what FSDP2 gives to its gathers and scatters."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = {"all_gather": 0, "reduce_scatter": 0}

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        for name, whole in (("allgather_base", 0), ("reduce_scatter_base", 1)):
            if name in str(function):
                tensor = arguments[whole]
                key = "all_gather" if whole == 0 else "reduce_scatter"
                self.bytes[key] += tensor.numel() * tensor.element_size()
        return function(*arguments, **(named or {}))


def sharded(folder: Path) -> dict[str, Any]:
    """A model that is split over the ranks; on one process the exact Hessian of the whole one."""
    together = ranks()
    split = together.size > 1 or "FORCED" in os.environ
    model = net()
    if not split:
        problem: Any = tw.Problem(model, LOSS, data(FEW))
        gradient = problem.gradient().tolist()
    else:
        fully_shard(model[0])  # type: ignore[index]
        fully_shard(model)  # the outermost module holds the last layer's weights, and keeps them after a forward pass
        model(data(FEW)[0][0])
        first: Any = next(model.parameters())
        first.grad = torch.ones_like(first)
        with pytest.raises(tw.InputError, match="fully_shard has split"):
            tw.Problem(model, LOSS, data(FEW))
        problem = tw.ShardedProblem(model, LOSS, data(FEW))
        gradient = problem.layout.whole(problem.gradient()).tolist()
        before = problem.weights()
    hessian = problem.hessian()
    with Sent() as sent:
        problem.gradient()
    kept = not split or bool((first.grad.to_local() == 1).all())
    together.forget()
    pairs = tw.eigenpairs(hessian, 4, certify="complete", tol=1e-4)
    calls = dict(together.calls)
    pairs.save(folder / f"sharded{together.size}.safetensors")
    found = {
        "loss": problem.loss(),
        "gradient": gradient,
        "hessian": (hessian @ torch.linspace(-1, 1, problem.space.size, dtype=torch.float64)).tolist(),
        "values": pairs.values.tolist() if pairs.values is not None else None,
        "vectors": pairs.vectors.abs().tolist(),
        "layers": pairs.layer_energy().tolist(),
        "certificate": pairs.provenance["certificate"],
        "depths": [layer.depth for layer in problem.space.layers],
        "about": {name: problem.describe()[name] for name in ("samples", "batches", "weight", "parameters")},
        "calls": calls,
    }
    if split:
        assert torch.equal(problem.weights(), before)
        first.grad = None
        found["gradient_was_kept"] = kept
        found["sent_by_a_gradient"] = sent.bytes
        found["passes"] = problem._rounds
        found["error"] = hessian.product_error
        found["held"] = pairs.rows.tensor.shape[1]  # type: ignore[attr-defined]
    found["trace"] = tw.trace(hessian, 30).value
    first_layer = problem.hessian("0")  # of which the last of four ranks has no row
    layer_trace = tw.trace(first_layer, 40 if split else 1000)
    found["layer_trace"] = [layer_trace.value, layer_trace.error]
    if together.size < 4:  # processes that share two cores take long to send
        found["diagonal"] = tw.trace(hessian, 1000).value
        found["density"] = tw.spectral_density(hessian, probes=2, steps=12).largest
    table = list(tw.layer_spectra(problem, whole=pairs))
    found["spectra"] = [[row["layer"], *row["values"]] for row in table]
    found["block"] = (problem.hessian(layers="2") @ torch.linspace(-1, 1, 40, dtype=torch.float64)).tolist()
    for name, keep, steps in (("shards", "exact", 25), ("long", "exact", 84), ("sketched", "sketch", 60)):
        for parameter, value in zip(model.parameters(), net().parameters(), strict=True):
            spread = parameter.data.to_local() if split else parameter.data
            span = rows_of(parameter) if split else slice(None)
            spread.copy_(value.data[span])
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        recorder = tw.watch(
            model, optimizer, folder / f"{name}{together.size}", keep=keep, moments=False, sketch_width=16
        )
        with recorder:
            for step in range(steps):
                optimizer.zero_grad()
                inputs, labels = data()[step % 5]
                own = slice(together.rank, 8, together.size)
                loss = nn.functional.cross_entropy(model(inputs[:8][own]), labels[:8][own])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if steps > 25 or step < 20 or together.rank != 1:  # this rank's part ends earlier, as if it had died
                    recorder.log(loss=loss.item())
                elif step == 20:
                    recorder.close()
        together.wait()
    if together.size > 1:
        with pytest.raises(tw.RunError, match="do not hold the same rows"):
            tw.open_run(folder / f"shards{together.size}").trajectory.gram()
    run = tw.open_run(folder / f"long{together.size}").trajectory
    together.forget()
    found["gram"] = run.gram().tolist()
    found["sent_by_gram"] = dict(together.bytes)
    components = tw.update_pca(run, 3)
    components.save(folder / f"components{together.size}.safetensors")
    inside = tw.update_pca(run, 2, layer="2")
    if split:
        with pytest.raises(tw.InputError, match=r"is read in parts.*use method='exact'"):
            tw.update_pca(run, 2, method="randomized")
    drift = tw.drift(run)
    found["movement"] = {
        "layer_gram": run.gram("0").tolist(),
        "values": values_of(components),
        "in_a_layer": [*values_of(inside), *inside.layer_energy().flatten().tolist()],
        "vectors": components.vectors.abs().tolist(),
        "path": tw.weight_path(run, components).abs().tolist(),
        "overlap": tw.overlap(components, pairs).mean,
        "energies": run.energies("2").tolist(),
        "weights": run.weights(60).tolist(),
        "updates": run.updates(3, 5).tolist(),
        "drift": [drift.p_value, drift.share, drift.speed, float(drift.found), drift.p_value_without_decay],
        "finite": int(run.finite.sum()),
    }
    sketched = tw.open_run(folder / f"sketched{together.size}").trajectory
    found["sketched"] = [sketched.gram().tolist(), sketched.gram_error().tolist(), float(len(sketched))]
    if together.size > 1:
        with pytest.raises(tw.InputError, match="but no vectors"):
            _ = tw.update_pca(sketched, 2).vectors
    return found


def rows_of(parameter: Any) -> slice:
    """The rows of a split parameter that this rank holds."""
    width = -(-parameter.shape[0] // ranks().size)
    return slice(ranks().rank * width, (ranks().rank + 1) * width)


def values_of(directions: tw.Directions) -> list[float]:
    assert directions.values is not None
    return directions.values.tolist()


def main() -> None:
    parts, folder = sys.argv[1].split(","), Path(sys.argv[2])
    torch.set_num_threads(1)
    if "ON_GPU" in os.environ:
        torch.cuda.set_device(place())
    if "FORCED" in os.environ:
        force()
    known = {"same": same, "shared": shared, "few": few, "apart": apart, "failing": failing, "killed": killed,
             "hanging": hanging, "recorded": recorded, "sharded": sharded, "tried": tried}  # fmt: skip
    for part in parts:
        found = known[part](folder)
        together = ranks()
        (folder / f"{part}{together.size}.{together.rank}.json").write_text(json.dumps(found))


def force() -> None:
    """One process that goes every way that several go: how NCCL is tried where there is one GPU."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": os.environ["FORCED"]}
    distributed.init_process_group("cpu:gloo,cuda:nccl" if place().type == "cuda" else "gloo")
    Ranks.alone = property(lambda self: False)  # type: ignore[assignment, method-assign]


def results(folder: Path, part: str, count: int) -> Iterator[dict[str, Any]]:
    """What the ranks wrote."""
    for rank in range(count):
        yield json.loads((folder / f"{part}{count}.{rank}.json").read_text())


if __name__ == "__main__":
    main()
