"""One contestant, one workload, one process: reads plain tensors, times its pairs, writes plain tensors.

    python -m benchmarks.peer_worker tune CONTESTANT WORKLOAD_FOLDER OUT.json [SETTINGS.json]
    python -m benchmarks.peer_worker run CONTESTANT WORKLOAD_FOLDER OUT.json SETTINGS.json
    python -m benchmarks.peer_worker layers eigenthings WORKLOAD_FOLDER OUT.json

`tune` spends as long as it likes to find a contestant's best settings; none of that is charged to it. `run` times one
gradient, then the whole way to ten pairs, from the model and the data on, with these settings.
"""

from __future__ import annotations

import copy
import functools
import json
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
from benchmarks.peer_measure import forget_peak, gradient_seconds, peak, ritz, seconds
from benchmarks.workloads import Batches, Flat, Loaded, load
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

K = 10
LIMIT = 1e-3
AIM = 0.97e-3
"""What a contestant's own estimate is tuned to, since rounding adds a little to the true residual."""

SEED = 0
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

    def tune(self, workload: Loaded) -> Settings:
        """Find the best settings, at no cost to the contestant."""
        ...

    def solve(self, workload: Loaded, settings: Settings) -> Solved:
        """From model and data to pairs."""
        ...


class Thalweg:
    """thalweg with its defaults; `memory_budget` among the settings caps its kept graphs."""

    def tune(self, workload: Loaded) -> Settings:
        """Nothing to tune; the import is not timed, as the peers' are not."""
        import thalweg
        import thalweg.tasks.fashion_mnist  # noqa: F401

        return {}

    def solve(self, workload: Loaded, settings: Settings) -> Solved:
        """`eigenpairs(problem.hessian(), k=10)`."""
        import thalweg as tw
        from thalweg.tasks.fashion_mnist import cross_entropy_of_output, output_of_inputs

        loss = tw.Loss(output_of_inputs, cross_entropy_of_output)
        problem = tw.Problem(workload.model, loss, workload.batches())
        hessian = problem.hessian(**settings)
        pairs = tw.eigenpairs(hessian, k=K, tol=LIMIT, certify="estimate", seed=SEED)
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

    def tune(self, workload: Loaded) -> Settings:
        """Fastest batch size, then basis and tolerance."""
        batch, times = fastest(workload, lambda size: self.operator(workload, size).__matmul__)
        operator = self.operator(workload, batch)
        start = start_vector(operator.shape[0])
        alphas, betas = lanczos(operator.__matmul__, start, K, AIM)
        settings: Settings = {"batch": batch, "batch_seconds": times}
        if self.restarted:
            values, _ = ritz(alphas, betas)
            return self._loosest(workload, operator, settings, AIM * float(values[0] / values[K - 1]))
        return self._smallest(workload, operator, settings, len(alphas))

    def _smallest(self, workload: Loaded, operator: Any, settings: Settings, steps: int) -> Settings:
        """The least basis that does, around the length of a Lanczos run that does; ARPACK begins one product ahead."""
        best, ncv, step = None, steps - 1, -1
        while K + 1 < ncv < steps + 12:
            tried = {**settings, "ncv": ncv, "tol": 0.1}  # it stops at its first look, with a full basis
            good = self._meets(workload, operator, tried)
            if good:
                best = tried
            if good and step > 0:
                return tried
            if not good and step < 0:
                if best is not None:
                    return best
                step = 1
            ncv += step
        raise ArithmeticError(f"ARPACK does not reach the residual with a basis of {ncv}")

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

    def tune(self, workload: Loaded) -> Settings:
        """Fastest batch size, then the number of steps."""
        batch, times = fastest(workload, lambda size: self.operator(workload, size).matvec)
        operator = self.operator(workload, batch)
        steps = len(lanczos(operator.matvec, start_vector(operator.size), K, AIM)[0])
        settings = {"batch": batch, "batch_seconds": times, "max_iter": steps}
        solved = self.solve(workload, settings)
        while residual(operator.matvec, solved) > 0.99 * LIMIT * float(solved.values[0]):
            settings["max_iter"] += 1
            solved = self.solve(workload, settings)
        return settings

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

    def tune(self, workload: Loaded) -> Settings:
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


def start_vector(size: int) -> Tensor:
    """Where Lanczos starts: what hessian-eigenthings draws for this seed."""
    return torch.randn(size, generator=torch.Generator().manual_seed(SEED))


def fastest(workload: Loaded, make: Callable[[int], Callable[[Tensor], object]]) -> tuple[int, dict[int, float]]:
    """The batch size with the fastest product, and the time of each.

    Args:
        workload: model and data.
        make: gives the product for a batch size.
    """
    vector = start_vector(sum(p.numel() for p in workload.parameters()))
    times = {}
    for size in workload.batch_sizes():
        product = make(size)
        times[size] = seconds(lambda: product(vector), repeats=3)  # noqa: B023 - called at once
    return min(times, key=lambda size: times[size]), times


def lanczos(
    product: Callable[[Tensor], Tensor], start: Tensor, k: int, limit: float
) -> tuple[list[float], list[float]]:
    """Diagonal and off-diagonal of the shortest Lanczos run whose k largest Ritz pairs have converged.

    Args:
        product: of a symmetric matrix.
        start: where to begin.
        k: pairs.
        limit: largest residual over the largest value.
    """
    basis = [start / start.norm()]
    alphas: list[float] = []
    betas: list[float] = []
    while True:
        vector = product(basis[-1])
        alphas.append(float(vector.double() @ basis[-1].double()))
        rows = torch.stack(basis)
        for _ in range(2):
            vector = vector - rows.T @ (rows @ vector)
        betas.append(float(vector.norm()))
        basis.append(vector / betas[-1])
        if len(alphas) >= k:
            values, last = ritz(alphas, betas)
            if float(last[:k].abs().max()) <= limit * float(values[0]) or len(alphas) == len(start):
                return alphas, betas
        if len(alphas) >= 1000:
            raise ArithmeticError("1,000 Lanczos steps are not enough")


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


def layers_by_filter(workload: Loaded) -> dict[str, Any]:
    """Each layer's largest eigenvalue by hessian-eigenthings with `param_filter`, layer by layer.

    Its fastest batch size for the whole network, and for each layer the number of steps that just converges; neither is
    charged.
    """
    from hessian_eigenthings import HessianOperator
    from hessian_eigenthings import lanczos as run
    from hessian_eigenthings.loss_fns import supervised_loss

    batch, _ = fastest(workload, lambda size: Eigenthings().operator(workload, size).matvec)
    data = flat_targets(workload.batches(batch))
    model = Flat(workload.model)
    loss = supervised_loss(nn.functional.cross_entropy)
    layers: dict[str, dict[str, float]] = {}
    total, products = 0.0, 0
    for layer in dict.fromkeys(name.rpartition(".")[0] for name, _ in workload.model.named_parameters()):

        def chosen(name: str, _: object, layer: str = layer) -> bool:
            return name.rpartition(".")[0].removeprefix("model").removeprefix(".") == layer

        operator = HessianOperator(model, data, loss, param_filter=chosen)
        steps = len(lanczos(operator.matvec, start_vector(operator.size), 1, AIM)[0])
        start = time.perf_counter()
        operator = HessianOperator(model, data, loss, param_filter=chosen)
        result = run(operator, k=1, max_iter=steps, which="LA", reorthogonalize=True, seed=SEED)
        spent = time.perf_counter() - start
        layers[layer] = {"value": float(result.eigenvalues[0]), "seconds": spent, "products": steps}
        total, products = total + spent, products + steps
    unit = gradient_seconds(workload)
    return {"layers": layers, "seconds": total, "products": products, "batch": batch, "gradient_seconds": unit}


def main(arguments: list[str]) -> None:
    mode, name, folder, out, *more = arguments
    warnings.simplefilter("ignore")
    workload = load(Path(folder))
    settings = json.loads(Path(more[0]).read_text()) if more else {}
    if mode == "layers":
        with attention(name):
            Path(out).write_text(json.dumps(layers_by_filter(workload)))
        return
    if mode == "tune":
        with attention(name):
            Path(out).write_text(json.dumps(CONTESTANTS[name].tune(workload)))
        return
    record, solved = run(name, workload, settings)
    tensors = {"values": solved.values.double(), "vectors": solved.vectors.contiguous()}
    save_file(tensors, Path(out).with_suffix(".safetensors"))
    Path(out).write_text(json.dumps(record))


if __name__ == "__main__":
    main(sys.argv[1:])
