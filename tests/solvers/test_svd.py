"""Singular directions against LAPACK on the dense matrices, and their rows against dense vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import random_vector
from thalweg.errors import InputError
from thalweg.rank_one import Outer, RankOneRows, folded, unfolded
from thalweg.solvers.svd import noise_edge, weight_svd
from thalweg.space import ParameterSpace


class Many(nn.Module):
    """One of each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.conv = nn.Conv2d(3, 4, (2, 3))
        self.attention = nn.MultiheadAttention(8, 2)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)


@pytest.fixture(scope="module")
def model() -> Many:
    torch.manual_seed(0)
    return Many().double()


@pytest.mark.parametrize("unfolding", ["channels", "spatial"])
def test_every_direction_is_one_of_lapack_s(model: Many, unfolding: str) -> None:
    found = weight_svd(model, 3, unfolding=unfolding, heads=False)
    tensors = dict(model.named_parameters())
    for number, (record, value) in enumerate(zip(found.provenance["directions"], found.values.tolist(), strict=True)):
        matrix = unfolded(tensors[record["parameter"]].detach(), unfolding)
        u, s, vt = np.linalg.svd(matrix.numpy(), full_matrices=False)
        assert value == pytest.approx(s[record["index"]], rel=1e-12)
        named = found.named(number)
        true = np.outer(u[:, record["index"]], vt[record["index"]])
        np.testing.assert_allclose(
            np.abs(unfolded(named[record["parameter"]], unfolding).numpy()), np.abs(true), atol=1e-12
        )
        assert all(not bool(t.any()) for name, t in named.items() if name != record["parameter"])
        # moving along it is what changes the singular value
        assert float((unfolded(named[record["parameter"]], unfolding) * matrix).sum()) == pytest.approx(
            value, rel=1e-10
        )
        assert record["above"] == (value > record["edge"])
    layers = {record["layer"] for record in found.provenance["directions"]}
    assert layers == {"embed", "conv", "attention", "attention.out_proj", "head"}


def test_the_two_unfoldings_fold_back() -> None:
    kernel = random_vector(4 * 3 * 2 * 5).view(4, 3, 2, 5)
    for unfolding, shape in (("channels", (4, 30)), ("spatial", (8, 15))):
        matrix = unfolded(kernel, unfolding)
        assert matrix.shape == shape
        assert torch.equal(folded(matrix, kernel.shape, unfolding), kernel)


def test_attention_is_split_into_its_heads(model: Many) -> None:
    found = weight_svd(model, 2, "attention*")
    blocks = {(r["parameter"], r["block"]): r for r in found.provenance["directions"] if r["index"] == 0}
    names = {f"{kind} {head}" for kind in ("query", "key", "value") for head in (0, 1)}
    assert {block for parameter, block in blocks if parameter.endswith("in_proj_weight")} == names
    assert {block for parameter, block in blocks if parameter.endswith("out_proj.weight")} == {"output 0", "output 1"}
    weight = model.attention.in_proj_weight.detach()
    third = weight[8 + 4 : 8 + 8]  # keys of the second head
    place = next(i for i, r in enumerate(found.provenance["directions"]) if r["block"] == "key 1")
    assert float(found.values[place]) == pytest.approx(float(torch.linalg.svdvals(third)[0]), rel=1e-12)
    direction = found.named(place)["attention.in_proj_weight"]
    assert not bool(direction[:12].any())
    assert not bool(direction[16:].any())


def test_named_projections_are_split_too() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.num_key_value_heads = 4, 2
            self.q_proj, self.k_proj, self.o_proj = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 8)

    found = weight_svd(Attention(), 1)
    blocks = [r["block"] for r in found.provenance["directions"]]
    assert blocks == [*(f"query {i}" for i in range(4)), "key 0", "key 1", *(f"output {i}" for i in range(4))]


class Adapted(nn.Module):
    """peft's names of a LoRA pair."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_A = nn.ModuleDict({"default": nn.Linear(7, 3, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(3, 6, bias=False)})


def test_a_lora_pair_moves_its_product_along_the_singular_direction() -> None:
    torch.manual_seed(1)
    model = nn.ModuleDict({"q": Adapted()}).double()
    found = weight_svd(model, 5)
    assert len(found) == 3
    a, b = model["q"].lora_A["default"].weight.detach(), model["q"].lora_B["default"].weight.detach()
    u, s, vt = torch.linalg.svd(b @ a, full_matrices=False)
    for index in range(3):
        named = found.named(index)
        da, db = named["q.lora_A.default.weight"], named["q.lora_B.default.weight"]
        moved = db @ a + b @ da
        true = torch.outer(u[:, index], vt[index])
        along = float((moved * true).sum())
        assert float((moved - along * true).norm()) < 1e-10 * float(moved.norm())
        assert along != 0
        assert float(found.values[index]) == pytest.approx(float(s[index]), rel=1e-10)
        assert float(da.square().sum() + db.square().sum()) == pytest.approx(1.0, rel=1e-12)


def test_rows_are_what_their_dense_vectors_are(model: Many) -> None:
    found = weight_svd(model, 2, heads=True)
    rows = found.rows
    assert isinstance(rows, RankOneRows)
    dense = torch.stack([rows.dense(i) for i in range(len(found))])
    vectors = random_vector(2 * rows.shape[1]).view(2, -1)
    assert torch.allclose(rows.inner(vectors), dense @ vectors.T, atol=1e-12)
    assert torch.allclose(rows.inner(vectors[0]), dense @ vectors[0], atol=1e-12)
    for layer, gram in zip(rows.space.layers, rows.grams(), strict=True):
        part = dense[:, layer.span]
        assert torch.allclose(gram, part @ part.T, atol=1e-12)
    coefficients = random_vector(3 * len(found)).view(3, -1)
    assert torch.allclose(rows.combine(coefficients), coefficients @ dense, atol=1e-12)
    assert rows.numbers < 0.35 * dense.numel()
    assert torch.equal(rows.head(2).dense(1), dense[1])
    assert torch.allclose(found.layer_energy().sum(dim=1), torch.ones(len(found), dtype=torch.float64))


@pytest.mark.parametrize("shape", [(200, 200), (100, 400), (300, 50)])
def test_the_edge_of_pure_noise(shape: tuple[int, int]) -> None:
    matrix = 0.3 * np.random.default_rng(0).standard_normal(shape)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert noise_edge(values, *shape) == pytest.approx(0.3 * (math.sqrt(shape[0]) + math.sqrt(shape[1])), rel=0.03)


def test_planted_values_stand_above_the_edge() -> None:
    generator = np.random.default_rng(1)
    matrix = generator.standard_normal((120, 80))
    for size in (40.0, 30.0):
        left, right = generator.standard_normal(120), generator.standard_normal(80)
        matrix += size * np.outer(left, right) / np.linalg.norm(left) / np.linalg.norm(right)
    layer = nn.Linear(80, 120, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(matrix))
    found = weight_svd(layer, 5)
    assert [record["above"] for record in found.provenance["directions"]] == [True, True, False, False, False]


def test_bad_input(model: Many) -> None:
    with pytest.raises(InputError, match="k=0"):
        weight_svd(model, 0)
    with pytest.raises(InputError, match="no singular directions"):
        weight_svd(model, layers="norm")
    with pytest.raises(InputError, match="hea"):
        weight_svd(model, layers="heads")
    broken = nn.Linear(3, 3)
    with torch.no_grad():
        broken.weight[0, 0] = math.nan
    with pytest.raises(InputError, match="not finite"):
        weight_svd(broken)
    space = ParameterSpace.of(nn.Linear(3, 2))
    with pytest.raises(InputError, match="do not make 'weight'"):
        RankOneRows(space, ((Outer("weight", torch.ones(3), torch.ones(3)),),)).grams()
