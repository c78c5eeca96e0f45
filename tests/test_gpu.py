"""What is done on a GPU, held against the same on the processor. Tests of several processes: `tests/distributed`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import thalweg as tw

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU was found: nothing was tried on one"),
    pytest.mark.xdist_group("gpu"),
]

SETTINGS = tw.Settings(k=3, stages=1, components=(3,), draws=50, noise_draws=1, density_steps=20)


def data(count: int = 3, first: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)
    places = range(100 * first, 100 * (first + count), 100)
    return [(images[place : place + 100], labels[place : place + 100]) for place in places]


def net(device: str = "cuda") -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 10)).to(device)


def loss(model: nn.Module, batch: Any) -> torch.Tensor:
    there = next(model.parameters()).device
    return nn.functional.cross_entropy(model(batch[0].to(there)), batch[1].to(there))


LOSS = tw.Loss(
    lambda model, batch: model(batch[0].to(next(model.parameters()).device)),
    lambda output, batch: nn.functional.cross_entropy(output, batch[1].to(output.device)),
)


def trained(folder: Path, **settings: Any) -> nn.Module:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, **settings)
    with tw.watch(model, optimizer, folder) as recorder:
        for step in range(120):
            optimizer.zero_grad()
            value = loss(model, data(1, step % 10)[0])
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            recorder.log(loss=value.item())
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "run"
    trained(folder)
    return folder


def on(device: str, run: Path) -> tw.Problem:
    model = net(device)
    problem = tw.Problem(model, LOSS, data())
    problem.load_weights(tw.open_run(run).trajectory.weights(119).to(device))
    return problem


def test_an_analysis_is_that_of_the_processor(run: Path) -> None:
    found = {}
    for device in ("cuda", "cpu"):
        problem = tw.Problem(net(device), loss, data())
        found[device] = tw.analyse(run, problem, problem.on(data(2, 12)), settings=SETTINGS)
    here, there = found["cuda"], found["cpu"]
    assert here["verdict"]["word"] == there["verdict"]["word"]
    assert here["loss"] == pytest.approx(there["loss"], rel=1e-4)
    assert here["drift"]["p_value"] == there["drift"]["p_value"]
    values = [one["stages"][0]["spectrum"]["values"] for one in (here, there)]
    assert np.allclose(*values, rtol=1e-3)
    assert [row["layer"] for row in here["layers"]] == [row["layer"] for row in there["layers"]]
    assert all(path.stat().st_size > 10_000 for path in tw.report(run))


def test_operators_and_solvers_give_the_processor_s_numbers(run: Path) -> None:
    here, there = on("cuda", run), on("cpu", run)
    vector = torch.linspace(-1, 1, there.space.size)
    for name in ("hessian", "gauss_newton", "fisher", "gradient_covariance"):
        products = [(getattr(problem, name)() @ vector).cpu() for problem in (here, there)]
        assert float((products[0] - products[1]).norm() / products[1].norm()) < 1e-3, name
    hessian = here.hessian()
    for basis in ("memory", "bfloat16", "disk"):
        pairs = tw.eigenpairs(hessian, 4, basis=basis, certify="complete")  # type: ignore[arg-type]
        assert pairs.provenance["certificate"] == "complete"
        whole = tw.eigenpairs(there.hessian(), 4)
        assert pairs.values is not None
        assert whole.values is not None
        assert torch.allclose(pairs.values, whole.values, rtol=2e-3)
    assert tw.trace(hessian, 40).value == pytest.approx(tw.trace(there.hessian(), 40).value, rel=1e-3)
    spectra = [[row["values"][0] for row in tw.layer_spectra(problem)] for problem in (here, there)]
    assert np.allclose(*spectra, rtol=1e-2)
    densities = [tw.spectral_density(problem.hessian(), probes=2, steps=10).largest for problem in (here, there)]
    assert densities[0] == pytest.approx(densities[1], rel=1e-3)


def test_trials_and_guards_work_there(run: Path, tmp_path: Path) -> None:
    model = net()
    task = tw.Task(model, LOSS, data(), data(3, 12), lambda m: torch.optim.SGD(m.parameters(), lr=0.1))
    found = tw.trial(task, ["eigenvectors:2"], run=run, steps=10, seeds=6, pilot_seeds=2, grid=(0.3, 1.0, 3.0))
    assert set(found.verdict) == {"eigenvectors:2"}
    knowledge = tw.remember(task.problem())
    knowledge.save(tmp_path / "knowledge.safetensors")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    start = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    with tw.guard(optimizer, knowledge):
        for batch in data(3, 5):
            optimizer.zero_grad()
            loss(model, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    moved = torch.cat([p.detach().reshape(-1) for p in model.parameters()]) - start
    assert moved.is_cuda
    assert 0 < float(moved.norm()) < 1e3


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_gradient_scaler_skips_is_no_row(fused: bool, tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    with tw.watch(model, optimizer, tmp_path / "run"):
        for step in range(6):
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype=torch.float16):
                value = loss(model, data(1, step)[0])
            if step == 2:
                value = value * torch.inf
            scaler.scale(value).backward()
            scaler.step(optimizer)
            scaler.update()
    trajectory = tw.open_run(tmp_path / "run").trajectory
    assert len(trajectory) == 5
    assert bool(trajectory.finite.all())
    assert torch.equal(trajectory.weights(4), torch.cat([p.detach().reshape(-1) for p in model.parameters()]).cpu())
