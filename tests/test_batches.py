from __future__ import annotations

import copy
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thalweg.batches import Half, fingerprint, leaves, map_batch, sample_count, take, to_device
from thalweg.errors import InputError


class Pair(NamedTuple):
    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Record:
    inputs: Tensor
    labels: Tensor
    name: str = "record"


INPUTS, LABELS = torch.arange(12.0).view(4, 3), torch.arange(4)

BATCHES: dict[str, Callable[[], Any]] = {
    "tuple": lambda: (INPUTS, LABELS),
    "list": lambda: [INPUTS, LABELS],
    "dict": lambda: {"inputs": INPUTS, "labels": LABELS},
    "ordered dict": lambda: OrderedDict(inputs=INPUTS, labels=LABELS),
    "user dict": lambda: UserDict({"inputs": INPUTS, "labels": LABELS}),
    "named tuple": lambda: Pair(INPUTS, LABELS),
    "dataclass": lambda: Record(INPUTS, LABELS),
    "nested": lambda: {"x": [INPUTS, (LABELS, None)], "name": "batch", "scale": 2.0},
    "tensor": lambda: INPUTS,
    "default dict": lambda: defaultdict(list, inputs=INPUTS, labels=LABELS),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_structure_is_kept_and_leaves_are_changed(kind: str) -> None:
    batch = BATCHES[kind]()
    doubled = map_batch(lambda leaf: 2 * leaf if isinstance(leaf, Tensor) else leaf, batch)
    if kind != "default dict":  # its constructor takes a factory first; a plain dict serves as well
        assert type(doubled) is type(batch)
    before, after = list(leaves(batch)), list(leaves(doubled))
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        if isinstance(old, Tensor):
            assert torch.equal(new, 2 * old)
        else:
            assert new == old


@pytest.mark.parametrize("kind", BATCHES)
def test_samples_are_counted_taken_and_moved(kind: str) -> None:
    batch = BATCHES[kind]()
    assert sample_count(batch) == 4
    first = next(leaf for leaf in leaves(take(batch, [3, 0], 4)) if isinstance(leaf, Tensor))
    assert torch.equal(first, INPUTS[[3, 0]])
    assert next(iter(leaves(to_device(batch, torch.device("cpu"))))) is INPUTS
    meta = [leaf for leaf in leaves(to_device(batch, torch.device("meta"))) if isinstance(leaf, Tensor)]
    assert all(leaf.device.type == "meta" for leaf in meta)


def test_a_tokenizers_output_is_a_batch() -> None:
    transformers = pytest.importorskip("transformers")
    batch = transformers.BatchEncoding({"input_ids": LABELS.view(2, 2), "labels": torch.tensor([0, 1])})
    half = take(batch, [1], 2)
    assert torch.equal(half["input_ids"], torch.tensor([[2, 3]]))
    assert sample_count(half) == 1
    assert {**half}.keys() == {"input_ids", "labels"}


def test_leaves_of_another_length_are_kept_whole() -> None:
    table = torch.ones(7, 2)
    taken = take({"x": INPUTS, "table": table, "array": np.arange(4), "scalar": torch.tensor(3.0)}, [1], 4)
    assert taken["table"] is table
    assert taken["array"].tolist() == [1]
    assert float(taken["scalar"]) == 3.0


def test_the_count_skips_leaves_without_a_first_axis() -> None:
    assert sample_count((torch.tensor(0.5), "name", np.zeros((6, 2)))) == 6
    with pytest.raises(InputError, match=r"a batch of type dict .* give Problem\(..., weight=lambda batch: number\)"):
        sample_count({"scale": torch.tensor(1.0), "name": "x"})


@pytest.mark.parametrize(
    "changed",
    [
        (INPUTS + 1e-6, LABELS),
        (INPUTS.double(), LABELS),
        (INPUTS.view(3, 4), LABELS),
        (INPUTS, LABELS.flip(0)),
        (INPUTS, LABELS, 1),
    ],
)
def test_the_fingerprint_sees_every_change(changed: Any) -> None:
    assert fingerprint((INPUTS, LABELS)) == fingerprint([INPUTS.clone(), LABELS.clone()])
    assert fingerprint(changed) != fingerprint((INPUTS, LABELS))


def test_every_kind_of_leaf_has_a_fingerprint() -> None:
    batch = (torch.zeros(0), torch.tensor(True), torch.ones(2, dtype=torch.bfloat16), np.arange(3), "x", None, object())
    assert fingerprint(batch) == fingerprint(copy.copy(batch))
    assert fingerprint(np.arange(3)) != fingerprint(np.arange(1, 4))
    assert fingerprint(INPUTS.T) == fingerprint(INPUTS.T.contiguous())
    one = torch.arange(6.0)[4::2]
    assert one.stride() == (2,)
    assert fingerprint(one) == fingerprint(torch.tensor([4.0]))


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 10_000))
def test_the_two_halves_are_disjoint_even_and_cover_everything(sizes: list[int], seed: int) -> None:
    numbers = iter(range(sum(sizes)))
    data = [torch.tensor([next(numbers) for _ in range(size)]) for size in sizes]
    first, second = ([int(i) for batch in Half(data, seed, part) for i in batch] for part in (0, 1))
    assert sorted(first + second) == list(range(sum(sizes)))
    assert abs(len(first) - len(second)) <= 1
    assert first == [int(i) for batch in Half(data, seed, 0) for i in batch]
