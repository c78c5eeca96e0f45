"""One contestant, one workload, one process: reads plain tensors, times its pairs, writes plain tensors.

    python -m benchmarks.peer_worker reference thalweg WORKLOAD_FOLDER OUT.json SETTINGS.json
    python -m benchmarks.peer_worker tune CONTESTANT WORKLOAD_FOLDER OUT.json REFERENCE.json
    python -m benchmarks.peer_worker run CONTESTANT WORKLOAD_FOLDER OUT.json SETTINGS.json

`reference` foretells how many products are needed (`benchmarks.peer_reference`). `tune` finds a contestant's best
settings; neither is charged to it. `run` times one gradient, then the whole way to ten pairs, from the model and the
data on, with these settings.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from benchmarks.peer_measure import forget_peak, gradient_seconds, once, peak, say, seconds
from benchmarks.peer_reference import AIM, LEFT_TO_SOLVER, SEED, least_basis, reference, ritz, start_vector
from benchmarks.workloads import Batches, Flat, Loaded, load, problem_of
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.solvers.lanczos import eigenpairs

K = 10
LIMIT = 1e-3
SLOW = 1.5
"""A batch size whose first product takes so many times the best so far is not tried again."""

Settings = dict[str, Any]


@dataclass(frozen=True)
class Solved:
    """What a contestant came to.

    Attributes:
        values: `(k,)`.
        vectors: `(k, P)`.
        products: how many it says or was seen to make.
        product: makes one more product, for timing.
        notes: settings and the contestant's own words.
    """

    values: Tensor
    vectors: Tensor
    products: int
    product: Callable[[Tensor], object]
    notes: Settings


class Contestant(Protocol):
    """Best settings, and the solution with them."""

    def tune(self, workload: Loaded, known: Settings) -> Settings:
        """Find the best settings, at no cost to the contestant; `known` is what `reference` found."""
        ...

    def solve(self, workload: Loaded, settings: Settings) -> Solved:
        """From model and data to pairs."""
        ...


class Thalweg:
    """thalweg with its defaults; `memory_budget` among the settings caps its kept graphs."""

    def tune(self, workload: Loaded, known: Settings) -> Settings:
        """Nothing to tune."""
        return {}

    def solve(self, workload: Loaded, settings: Settings) -> Solved:
        """`eigenpairs(problem.hessian(), k=10)`."""
        problem = problem_of(workload)
        hessian = problem.hessian(**settings)
        pairs = eigenpairs(hessian, k=K, tol=LIMIT, certify="estimate", seed=SEED)
        names = [name for name, _ in workload.model.named_parameters()]
        if list(problem.space.names) != names:
            raise ValueError("thalweg's order of parameters is not that of named_parameters")
        kept = ("chunk", "chunk_reason", "graphs_kept", "graphs_rebuilt", "bytes_per_graph", "certificate")
        notes = {key: pairs.provenance[key] for key in kept if key in pairs.provenance}
        converged = pairs.converged is not None and bool(pairs.converged.all())
        return Solved(pairs.values, pairs.vectors, pairs.matvecs, lambda v: hessian @ v, {**notes, "claims": converged})


class Curvlinops:
    """curvlinops' Hessian with SciPy's ARPACK in float32, on layer norms that its products are right for.

    Args:
        restarted: keep ARPACK's own basis size (20 or 2k + 1) and look for the largest tolerance that does; otherwise
            take the least basis that needs no restart, which is a Lanczos run of just the needed length.
    """

    def __init__(self, restarted: bool = False) -> None:
        self.restarted = restarted

    def operator(self, workload: Loaded, batch: int) -> Any:
        """Without its check of determinism, which costs two products and four gradients."""
        from curvlinops import HessianLinearOperator

        model = Flat(written_out_layer_norms(workload.model))
        data = flat_targets(workload.batches(batch))
        return HessianLinearOperator(
            model, nn.CrossEntropyLoss(), list(model.parameters()), data, check_deterministic=False
        )

    def tune(self, workload: Loaded, known: Settings) -> Settings:
        """Fastest batch size, then basis and tolerance."""
        batch, times = fastest(workload, lambda size: self.operator(workload, size).__matmul__)
        settings: Settings = {"batch": batch, "batch_seconds": times}
        tridiagonal = known["alphas"], known["betas"]
        if self.restarted:
            values, _ = ritz(tridiagonal)
            operator = self.operator(workload, batch)
            return self._loosest(workload, operator, settings, AIM * float(values[0] / values[K - 1]))
        return {**settings, "ncv": least_basis(tridiagonal, K), "tol": LEFT_TO_SOLVER}

    def _loosest(self, workload: Loaded, operator: Any, settings: Settings, tol: float) -> Settings:
        """The largest tolerance of a row that does."""
        for _ in range(12):
            tried = {**settings, "ncv": None, "tol": tol}
            if self._meets(workload, operator, tried):
                return tried
            tol *= 0.6
        raise ArithmeticError(f"ARPACK does not reach the residual with tol={tol}")

    def _meets(self, workload: Loaded, operator: Any, settings: Settings) -> bool:
        try:
            solved = self.solve(workload, settings)
        except ArithmeticError:
            return False
        return residual(operator.__matmul__, solved) <= 0.99 * LIMIT * float(solved.values[0])

    def solve(self, workload: Loaded, settings: Settings) -> Solved:
        """`scipy.sparse.linalg.eigsh(operator.to_scipy())`."""
        import numpy as np
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

        operator = self.operator(workload, settings["batch"])
        plain = operator.to_scipy(dtype=np.float32)
        count = 0

        def counted(vector: Any) -> Any:
            nonlocal count
            count += 1
            return plain.matvec(vector)

        start = start_vector(operator.shape[0]).numpy()
        wrapped = LinearOperator(plain.shape, matvec=counted, dtype=np.float32)
        try:
            values, vectors = eigsh(wrapped, K, which="LA", ncv=settings["ncv"], tol=settings["tol"], v0=start)
        except ArpackNoConvergence as error:
            raise ArithmeticError(str(error)) from error
        order = np.argsort(-values)
        return Solved(
            torch.from_numpy(values[order]),
            torch.from_numpy(np.ascontiguousarray(vectors[:, order].T)),
            count,
            operator.__matmul__,
            {key: settings[key] for key in ("batch", "ncv", "tol")},
        )


class Eigenthings:
    """hessian-eigenthings' Lanczos with full reorthogonalisation, given the number of steps that just converges."""

    def operator(self, workload: Loaded, batch: int) -> Any:
        """Batches are equal, so its mean of batch means is the mean over the samples."""
        from hessian_eigenthings import HessianOperator
        from hessian_eigenthings.loss_fns import supervised_loss

        loss = supervised_loss(nn.functional.cross_entropy)
        return HessianOperator(Flat(workload.model), flat_targets(workload.batches(batch)), loss)

    def tune(self, workload: Loaded, known: Settings) -> Settings:
        """Fastest batch size; the number of steps is known."""
        batch, times = fastest(workload, lambda size: self.operator(workload, size).matvec)
        return {"batch": batch, "batch_seconds": times, "max_iter": known["steps"]}

    def solve(self, workload: Loaded, settings: Settings) -> Solved:
        """`lanczos(operator, k=10, max_iter=..., which="LA")`."""
        from hessian_eigenthings import lanczos as run

        operator = self.operator(workload, settings["batch"])
        result = run(operator, k=K, max_iter=settings["max_iter"], which="LA", reorthogonalize=True, seed=SEED)
        notes = {key: settings[key] for key in ("batch", "max_iter")}
        return Solved(result.eigenvalues, result.eigenvectors, result.iterations, operator.matvec, notes)


class PyHessian:
    """PyHessian's power iteration with deflation, its own settings: at most 100 products a pair, tolerance 1e-3."""

    def tool(self, workload: Loaded, batch: int) -> Any:
        """One batch of everything lets it keep its graph; smaller ones are rebuilt for each product."""
        from pyhessian import hessian

        model = Flat(workload.model)
        batches = flat_targets(workload.batches(batch))
        data = {"data": batches[0]} if len(batches) == 1 else {"dataloader": batches}
        return hessian(model, nn.CrossEntropyLoss(), cuda=False, **data)

    def product(self, tool: Any) -> Callable[[Tensor], object]:
        """Its product with a flat vector."""
        from pyhessian.utils import hessian_vector_product

        def multiply(vector: Tensor) -> Tensor:
            parts = vector.split([p.numel() for p in tool.params])
            rows = [part.view_as(p) for part, p in zip(parts, tool.params, strict=True)]
            if tool.full_dataset:
                return tool.dataloader_hv_product(rows)[1]
            return hessian_vector_product(tool.gradsH, tool.params, rows)

        return multiply

    def tune(self, workload: Loaded, known: Settings) -> Settings:
        """Fastest batch size, among them one batch of all samples."""
        batch, times = fastest(workload, lambda size: self.product(self.tool(workload, size)))
        return {"batch": batch, "batch_seconds": times}

    def solve(self, workload: Loaded, settings: Settings) -> Solved:
        """`hessian(...).eigenvalues(top_n=10)`."""
        import pyhessian

        module = sys.modules[pyhessian.hessian.__module__]  # the package's name for it is the class
        torch.manual_seed(SEED)
        tool = self.tool(workload, settings["batch"])
        count = 0

        def counting(inner: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*arguments: Any) -> Any:
                nonlocal count
                count += 1
                return inner(*arguments)

            return counted

        kept = module.hessian_vector_product
        tool.dataloader_hv_product = counting(tool.dataloader_hv_product)
        module.hessian_vector_product = counting(kept)
        values, vectors = tool.eigenvalues(top_n=K)
        module.hessian_vector_product = kept
        del tool.dataloader_hv_product
        flat = torch.stack([torch.cat([part.reshape(-1) for part in vector]) for vector in vectors]).detach()
        return Solved(torch.tensor(values), flat, count, self.product(tool), {"batch": settings["batch"]})


CONTESTANTS: dict[str, Contestant] = {
    "thalweg": Thalweg(),
    "thalweg-budget": Thalweg(),
    "curvlinops": Curvlinops(),
    "curvlinops-restarted": Curvlinops(restarted=True),
    "eigenthings": Eigenthings(),
    "pyhessian": PyHessian(),
}


def written_out_layer_norms(model: nn.Module) -> nn.Module:
    """A copy whose layer norms are sums and products; the model itself where it has none.

    curvlinops differentiates the gradient in forward mode, and there torch 2.13's fused layer norm has a wrong
    derivative with respect to its weight: the product of a small transformer was 4 % off, and 1.6e-7 in this form.
    """
    if not any(isinstance(module, nn.LayerNorm) for module in model.modules()):
        return model
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.forward = functools.partial(_layer_norm, module)
    return model


def _layer_norm(module: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred * (centred.square().mean(dim=-1, keepdim=True) + module.eps).rsqrt() * module.weight + module.bias


def flat_targets(batches: Batches) -> Batches:
    """The batches with targets in one dimension, as `Flat` gives the scores."""
    return [(x, y.reshape(-1)) for x, y in batches]


def fastest(workload: Loaded, make: Callable[[int], Callable[[Tensor], object]]) -> tuple[int, dict[int, float]]:
    """The batch size with the fastest product, and the shortest time of each.

    Two products for each size, or one where that took half as long again as the best so far.

    Args:
        workload: model and data.
        make: gives the product for a batch size.
    """
    vector = start_vector(sum(p.numel() for p in workload.parameters()))
    times: dict[int, float] = {}
    for size in workload.few_batch_sizes():
        product = functools.partial(make(size), vector)
        spent = once(product)
        if spent <= SLOW * min(times.values(), default=math.inf):
            spent = min(spent, once(product))
        times[size] = spent
        say(f"    batches of {size}: {spent:.3g} s a product")
        del product  # and its graph, before the next one's is built
    return min(times, key=lambda size: times[size]), times


def residual(product: Callable[[Tensor], Tensor], solved: Solved) -> float:
    """Largest length of `Hv - value v`, by the contestant's own products."""
    vectors = [v / v.norm() for v in solved.vectors]
    return max(float((product(v) - c * v).norm()) for c, v in zip(solved.values, vectors, strict=True))


def attention(name: str) -> AbstractContextManager[None]:
    """The attention kernel with a double backward, which the peers do not choose by themselves."""
    return nullcontext() if name.startswith("thalweg") else sdpa_kernel(SDPBackend.MATH)


def run(name: str, workload: Loaded, settings: Settings) -> tuple[dict[str, Any], Solved]:
    """One gradient's time, the time to the pairs, and the memory that takes.

    Args:
        name: of the contestant.
        workload: model and data.
        settings: from tuning.
    """
    contestant = CONTESTANTS[name]
    unit = gradient_seconds(workload)
    with attention(name):
        before = forget_peak()
        start = time.perf_counter()
        solved = contestant.solve(workload, settings)
        spent = time.perf_counter() - start
        top = peak()
        vector = start_vector(solved.vectors.shape[1])
        product = seconds(lambda: solved.product(vector), repeats=3)
    unit_after = gradient_seconds(workload)
    record = {
        "seconds": spent,
        "products": solved.products,
        "gradient_seconds": statistics.mean((unit, unit_after)),
        "gradient_seconds_before_and_after": [unit, unit_after],
        "product_seconds": product,
        "bytes_before": before,
        "bytes_peak": top,
        "threads": torch.get_num_threads(),
        "notes": solved.notes,
    }
    return record, solved


def main(arguments: list[str]) -> None:
    mode, name, folder, out, given = arguments
    warnings.simplefilter("ignore")
    workload = load(Path(folder))
    settings = json.loads(Path(given).read_text())
    if mode == "reference":
        Path(out).write_text(json.dumps(reference(workload, K)))
        return
    if mode == "tune":
        with attention(name):
            Path(out).write_text(json.dumps(CONTESTANTS[name].tune(workload, settings)))
        return
    record, solved = run(name, workload, settings)
    tensors = {"values": solved.values.double(), "vectors": solved.vectors.contiguous()}
    save_file(tensors, Path(out).with_suffix(".safetensors"))
    Path(out).write_text(json.dumps(record))


if __name__ == "__main__":
    main(sys.argv[1:])
