"""Graphs are given back: nothing that a product or an operator has built outlives it, whatever the operations are."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

from thalweg import Problem


class Residual(nn.Module):
    """Attention, layer norm and a step around them, as in a transformer."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        x = self.norm(x).unsqueeze(1)
        return (x + self.attention(x, x, x, need_weights=False)[0]).squeeze(1)


MIDDLES = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu by tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "layer norm": lambda: nn.LayerNorm(8),
    "layer norm without weights": lambda: nn.LayerNorm(8, elementwise_affine=False),
    "batch norm": lambda: nn.BatchNorm1d(8),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 2, 3, padding=1), nn.BatchNorm1d(2), nn.Flatten()
    ),
    "attention": Residual,
}


KEEP_THEIR_OUTPUT = ("tanh", "relu")
"""Their derivative is a function of their value: torch keeps that, and not what went in."""


@pytest.fixture
def no_collector():
    """Reference counts alone have to do: the collector cannot see cycles through torch's graphs."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("middle", MIDDLES)
@pytest.mark.parametrize("budget", [0, None], ids=["rebuilt", "kept"])
def test_no_graph_outlives_its_operator(no_collector, middle, budget):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), MIDDLES[middle](), nn.Linear(8, 3)).eval()
    data = [(torch.randn(5, 6), torch.randint(3, (5,))) for _ in range(3)]
    alive = []
    model[0].register_forward_hook(lambda module, inputs, output: alive.append(weakref.ref(output)))
    problem = Problem(model, lambda m, batch: functional.cross_entropy(m(batch[0]), batch[1]), data)
    with torch.enable_grad():
        hessian = problem.hessian() if budget is None else problem.hessian(memory_budget=budget)
    vector = torch.randn(problem.space.size)
    for _ in range(2):
        hessian @ vector
    built = len(alive)
    assert built >= 3
    kept = sum(reference() is not None for reference in alive)
    assert kept == (3 if budget is None and middle not in KEEP_THEIR_OUTPUT else 0)
    del hessian
    assert sum(reference() is not None for reference in alive) == 0
