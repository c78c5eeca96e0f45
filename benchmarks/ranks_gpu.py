"""The plan for large sharded models (`thalweg doctor --plan`) against one GPU: memory and time of its largest pairs.

    python -m benchmarks.ranks_gpu [--quick]

A transformer on characters of Python's own standard library, split by `fully_shard` over the one GPU that there is;
what is sent between GPUs is not seen here. Needs CUDA.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed
from benchmarks.peer_measure import say
from benchmarks.results import Report, options
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import thalweg as tw
from thalweg.checkup.ranks import Gpu, Net, plan_ranks

ABOUT = """\
## One measurement on several processes"""
VOCABULARY = 256


@dataclass(frozen=True)
class Size:
    """A net and a search.

    Attributes:
        layers: alike.
        width: of the stream.
        products: of the search.
        k: pairs.
        samples: sequences.
        length: characters of each.
    """

    layers: int
    width: int
    products: int
    k: int = 4
    samples: int = 2
    length: int = 1024


SIZES = (Size(12, 768, 24), Size(24, 1024, 24))
QUICK = (Size(2, 32, 12, 2, 2, 16),)


class Block(nn.Module):
    """One layer of a GPT-2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(width // 64, 1)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.three, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, stream: Tensor) -> Tensor:
        """The stream `(rows, length, width)` with what this layer adds."""
        rows, length, width = stream.shape
        three = self.three(self.first(stream)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = three.permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        stream = stream + self.out(seen.transpose(1, 2).reshape(rows, length, width))
        added: Tensor = stream + self.down(nn.functional.gelu(self.up(self.second(stream))))
        return added


class Transformer(nn.Module):
    """Foretells the next character."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.characters = nn.Embedding(VOCABULARY, size.width)
        self.places = nn.Embedding(size.length, size.width)
        self.blocks = nn.ModuleList([Block(size.width) for _ in range(size.layers)])
        self.last, self.out = nn.LayerNorm(size.width), nn.Linear(size.width, VOCABULARY)

    def forward(self, text: Tensor) -> Tensor:
        """Logits `(rows, length, 256)`."""
        stream = self.characters(text) + self.places.weight[: text.shape[1]]
        for block in self.blocks:
            stream = block(stream)
        logits: Tensor = self.out(self.last(stream))
        return logits


def texts(size: Size) -> list[tuple[Tensor, Tensor]]:
    """Sequences, one to a batch."""
    import argparse
    import inspect

    code = inspect.getsource(argparse).encode("ascii", "ignore")
    whole = torch.tensor(list(code * math.ceil((size.samples * size.length + 1) / len(code))), dtype=torch.int64)
    starts = range(0, size.samples * size.length, size.length)
    return [(whole[s : s + size.length][None], whole[s + 1 : s + size.length + 1][None]) for s in starts]


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Mean over the characters of a batch."""
    return nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def measured(size: Size, device: torch.device, matrix: str) -> dict[str, Any]:
    """The largest pairs of one net: memory, seconds, and the plan for them."""
    torch.set_float32_matmul_precision(matrix)
    torch.manual_seed(0)
    with device:
        model = Transformer(size)
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    _forget_peak(device)
    problem = tw.ShardedProblem(model, loss, texts(size))
    problem.gradient()
    seconds = []
    for _ in range(3):
        _wait(device)
        begun = time.perf_counter()
        problem.gradient()
        _wait(device)
        seconds.append(time.perf_counter() - begun)
    hessian = problem.hessian()
    _forget_peak(device)
    begun = time.perf_counter()
    pairs = tw.eigenpairs(hessian, size.k, tol=1e-12, max_matvecs=size.products, basis="bfloat16")
    _wait(device)
    took = time.perf_counter() - begun
    tokens = size.samples * size.length
    gpu = Gpu(operations=6 * problem.space.size * tokens / min(seconds))
    net = Net(problem.space.size, size.layers, size.width)
    settings = {"k": size.k, "samples": size.samples, "length": size.length, "products": size.products}
    (plan,) = plan_ranks(net, (1,), **settings, gpu=gpu)  # type: ignore[arg-type]
    found = {
        "P": problem.space.size,
        "peak": torch.cuda.max_memory_allocated() if device.type == "cuda" else math.nan,
        "planned": plan["memory_gib"] * 2**30,
        "pass": min(seconds) / size.samples,
        "operations": gpu.operations,
        "product": took / pairs.matvecs,
        "planned_product": plan["product_seconds"],
        "products": pairs.matvecs,
        "values": pairs.values.tolist() if pairs.values is not None else [],
        "residuals": pairs.residuals.tolist() if pairs.residuals is not None else [],
        "error": hessian.product_error,
        "step": hessian.step,
    }
    del model, problem, hessian, pairs
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    chosen = options("ranks_gpu", __doc__, 1).parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not chosen.quick:
        raise SystemExit("benchmarks.ranks_gpu needs a GPU; --quick runs it on a processor and says nothing")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29477")
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", world_size=1, rank=0)
    report = Report("ranks", "ranks_gpu", ABOUT, chosen, arguments)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "processor"
    lines = [
        f"{name}, torch {torch.__version__}. A transformer on characters of the standard library, sequence by "
        "sequence, its basis in bfloat16. *operations*: 6 P a token over the time of a pass, which the plan's time is "
        "made with; TF32 is `torch.set_float32_matmul_precision('high')`.",
        "",
        "| parameters | matrices | operations a second | a product, s | plan | peak memory, GiB | plan | largest "
        "eigenvalue | error of products |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for size in QUICK if chosen.quick else SIZES:
        for matrix, word in (("highest", "float32"), ("high", "TF32"))[: 1 if size.width > 1000 else 2]:
            try:
                found = measured(size, device, matrix)
            except tw.InputError as error:  # products are too rough
                lines.append(f"| {size} | {word} | {error} | | | | | | |")
                say(lines[-1])
                continue
            cells = [
                f"{found['P']:,}", word, f"{found['operations']:.2g}", f"{found['product']:.3f}",
                f"{found['planned_product']:.3f}", f"{found['peak'] / 2**30:.1f}", f"{found['planned'] / 2**30:.1f}",
                f"{found['values'][0]:.5g} ± {found['residuals'][0]:.1g}", f"{found['error']:.1g}",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
            say(lines[-1])
    report.section("gpu", "The plan for sharded models against one GPU", lines)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
