"""How far thalweg's numbers are from independent truths; prints a Markdown table.

The same nets as the tests: dense Hessians from `torch.autograd.functional` on the pooled data in float64, planted
spectra, dense SVDs, and curvlinops as a second opinion in float32.

    python -m benchmarks.accuracy
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tests.conftest import (
    Case,
    adversarial_case,
    attention_case,
    classify,
    recurrent_case,
    relative_error,
    spectrum_operator,
)
from torch import nn

import thalweg as tw

PLANTED = {
    "triple": [10.0, 10, 10, 9, 8, *np.linspace(7, 0, 95)],
    "clustered": [10, 9.9999, 9.9998, *np.linspace(1, 0, 97)],
    "rank 2": [5.0, 3, *[0] * 98],
}


def against_dense(name: str, case: Case) -> Iterator[tuple[str, float]]:
    problem = tw.Problem(case.model, classify, case.batches)
    hessian = problem.hessian()
    product = hessian @ torch.eye(problem.space.size, dtype=torch.float64)
    yield f"{name}: Hessian product against dense, relative", relative_error(product, case.truth.hessian)
    pairs = tw.eigenpairs(hessian, 5, tol=1e-11, certify="complete")
    values, vectors = torch.linalg.eigh(case.truth.hessian)
    assert pairs.values is not None
    yield f"{name}: top 5 eigenvalues against dense, relative", relative_error(pairs.values, values.flip(0)[:5])
    top = vectors.flip(1)[:, :5]
    outside = pairs.vectors.T - top @ (top.T @ pairs.vectors.T)
    yield f"{name}: top 5 eigenvectors outside the dense eigenspace", float(outside.norm(dim=0).max())


def planted() -> Iterator[tuple[str, float]]:
    for name, spectrum in PLANTED.items():
        pairs = tw.eigenpairs(
            spectrum_operator(torch.tensor(spectrum, dtype=torch.float64)), 5, tol=1e-9, certify="complete"
        )
        truth = torch.tensor(sorted(spectrum, reverse=True)[:5], dtype=torch.float64)
        assert pairs.values is not None
        yield f"planted {name}: largest error of 5 values", float((pairs.values - truth).abs().max())
        gram = pairs.vectors @ pairs.vectors.T
        yield f"planted {name}: loss of orthonormality", float((gram - torch.eye(5)).abs().max())


def against_curvlinops(case: Case) -> Iterator[tuple[str, float]]:
    import curvlinops
    from scipy.sparse.linalg import eigsh

    case.model.unused.requires_grad_(False)  # their products fail where a parameter is not used
    model = copy.deepcopy(case.model).float().eval()
    batches = [(inputs.float(), labels) for inputs, labels in case.batches]
    parameters = [tensor for tensor in model.parameters() if tensor.requires_grad]
    theirs = curvlinops.HessianLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, batches, check_deterministic=False
    )
    ours = tw.Problem(model, classify, batches).hessian()
    vectors = torch.randn(ours.shape[0], 8, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([theirs @ column for column in vectors.T], dim=1).detach()
    yield "curvlinops, float32: 8 products, relative", relative_error(ours @ vectors, expected)
    values = tw.eigenpairs(ours, 5, tol=1e-5).values
    found = np.sort(eigsh(theirs.to_scipy(), k=5, which="LA", tol=1e-7)[0])[::-1].copy()
    assert values is not None
    yield "curvlinops and ARPACK, float32: 5 eigenvalues, relative", relative_error(values, torch.as_tensor(found))


def components() -> Iterator[tuple[str, float]]:
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 5))
        inputs, labels = torch.randn(200, 20), torch.randint(0, 5, (200,))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        path = [flat(model)]
        with tw.watch(model, optimizer, Path(folder) / "run"):
            for step in range(120):
                optimizer.zero_grad()
                chosen = slice(step % 5 * 40, step % 5 * 40 + 40)
                nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
                optimizer.step()
                path.append(flat(model))
        t = tw.open_run(Path(folder) / "run").trajectory
        points = np.array(path, dtype=np.float64)
        updates = np.diff(points, axis=0)
        yield "Gram of 120 recorded updates against dense, relative", relative_error(t.gram(), updates @ updates.T)
        for name, matrix, found in (
            ("updates", updates, tw.update_pca(t, 5)),
            ("weights", points, tw.weight_pca(t, 5)),
        ):
            basis = np.linalg.svd(matrix - matrix.mean(axis=0), full_matrices=False)[2][:5]
            captured = tw.overlap(tw.Directions(torch.as_tensor(basis)), found.vectors.double()).mean
            yield f"PCA of {name}, k = 5: 1 − captured fraction of the dense SVD's", 1 - captured


def flat(model: nn.Module) -> np.ndarray:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy().copy()


def main() -> None:
    print("| what | figure |\n|---|---|")
    for rows in (
        against_dense("batch norm, dropout, unused and frozen, batches 9/1/13", adversarial_case()),
        against_dense("attention", attention_case()),
        against_dense("LSTM", recurrent_case()),
        planted(),
        against_curvlinops(adversarial_case()),
        components(),
    ):
        for what, figure in rows:
            print(f"| {what} | {figure:.1e} |")


if __name__ == "__main__":
    main()
