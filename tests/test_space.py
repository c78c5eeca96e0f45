from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.conftest import AdversarialNet, AttentionNet, TiedNet, random_vector
from thalweg.errors import InputError
from thalweg.space import ROOT, Parameter, ParameterSpace, measure_depths, owner


def space_of_shapes(shapes: list[tuple[int, ...]]) -> ParameterSpace:
    parameters, offset = [], 0
    for index, shape in enumerate(shapes):
        parameters.append(Parameter(f"layer{index // 2}.tensor{index}", shape, offset, f"layer{index // 2}"))
        offset += math.prod(shape)
    return ParameterSpace(tuple(parameters))


def test_order_names_shapes_and_offsets_are_those_of_the_model() -> None:
    space = ParameterSpace.of(AdversarialNet())
    assert space.names == (
        "unused",
        "first.weight",
        "first.bias",
        "norm.weight",
        "norm.bias",
        "last.weight",
        "last.bias",
    )
    assert [p.shape for p in space.parameters] == [(5,), (8, 6), (8,), (8,), (8,), (4, 7), (4,)]
    assert [p.offset for p in space.parameters] == [0, 5, 53, 61, 69, 77, 105]
    assert space.size == 109
    assert [(layer.name, layer.start, layer.stop) for layer in space.layers] == [
        (ROOT, 0, 5),
        ("first", 5, 61),
        ("norm", 61, 77),
        ("last", 77, 109),
    ]


def test_frozen_parameters_are_listed_and_left_out_and_buffers_never_appear() -> None:
    space = ParameterSpace.of(AdversarialNet())
    assert space.frozen == ("frozen.weight", "frozen.bias")
    assert not any("running" in name or "num_batches" in name for name in (*space.names, *space.frozen))


def test_tied_parameters_count_once() -> None:
    space = ParameterSpace.of(TiedNet())
    assert space.names == ("embedding.weight", "hidden.weight", "hidden.bias")
    assert space.tied == (("decoder.weight", "embedding.weight"),)
    assert space.size == 24 + 16 + 4


def test_depth_is_the_order_of_first_execution() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.registered_first = nn.Linear(3, 2)
            self.registered_last = nn.Linear(3, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.registered_first(self.registered_last(self.registered_last(inputs)))

    model = Backwards()
    registered = ParameterSpace.of(model)
    assert not registered.depth_measured
    assert [layer.depth for layer in registered.layers] == [0, 1]
    measured = measure_depths(model, registered, lambda: model(torch.ones(1, 3)))
    assert measured.depth_measured
    assert {layer.name: layer.depth for layer in measured.layers} == {"registered_first": 1, "registered_last": 0}


def test_a_layer_that_never_runs_itself_has_its_parents_depth() -> None:
    model = AttentionNet()
    space = measure_depths(model, ParameterSpace.of(model), lambda: model(torch.ones(2, 3, 4)))
    depths = {layer.name: layer.depth for layer in space.layers}
    assert depths["attention.out_proj"] == depths["attention"] == 0
    assert (depths["project"], depths["head"]) == (1, 2)


def test_measuring_depths_leaves_no_hook_also_on_error() -> None:
    model = nn.Linear(2, 2)

    def fails() -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        measure_depths(model, ParameterSpace.of(model), fails)
    assert not model._forward_pre_hooks


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=6),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
def test_flat_and_named_are_the_same_numbers(shapes: list[tuple[int, ...]], dtype: torch.dtype, seed: int) -> None:
    space = space_of_shapes(shapes)
    vector = random_vector(space.size, seed).to(dtype)
    named = space.unflatten(vector)
    assert [tuple(tensor.shape) for tensor in named.values()] == shapes
    again = space.flatten(named)
    assert again.dtype == dtype
    assert torch.equal(again, vector)
    assert ParameterSpace.from_json(json.loads(json.dumps(space.to_json()))) == space
    assert sum(layer.size for layer in space.layers) == space.size


def test_the_vector_of_a_model_is_a_copy_and_unflatten_gives_views() -> None:
    model = AdversarialNet()
    space = ParameterSpace.of(model)
    vector = space.vector(model)
    assert torch.equal(space.unflatten(vector)["last.weight"], model.last.weight)
    vector.zero_()
    assert float(model.last.weight.detach().abs().sum()) > 0
    space.unflatten(vector)["last.bias"].fill_(7.0)
    assert float(vector.sum()) == 28.0
    assert not vector.requires_grad


def test_mixed_dtypes_flatten_to_the_wider_one() -> None:
    space = space_of_shapes([(2,), (3,)])
    named = {space.names[0]: torch.ones(2, dtype=torch.bfloat16), space.names[1]: torch.ones(3, dtype=torch.float64)}
    assert space.flatten(named).dtype == torch.float64


def test_json_keeps_depths_frozen_and_tied() -> None:
    model = TiedNet()
    space = measure_depths(model, ParameterSpace.of(model), lambda: model(torch.zeros(1, 2, dtype=torch.long)))
    again = ParameterSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert again.layers == space.layers


def test_compiled_names_are_plain() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    compiled = nn.Sequential(torch.compile(model[0]), model[1])
    assert ParameterSpace.of(compiled).names == ParameterSpace.of(model).names
    assert len(ParameterSpace.of(model).tensors(compiled)) == 4


def test_choosing_layers() -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "body": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))})
    space = ParameterSpace.of(model)
    assert [layer.name for layer in space.chosen("body")] == ["body.0", "body.1"]
    assert [layer.name for layer in space.chosen("body.*")] == ["body.0", "body.1"]
    assert [layer.name for layer in space.chosen(["body.1", "head"])] == ["head", "body.1"]
    assert [layer.name for layer in space.chosen(lambda name: name.endswith("0"))] == ["body.0"]
    assert space.chosen(None) == space.layers
    part = space.select("body.1")
    assert (part.size, part.names) == (9, ("body.1.weight", "body.1.bias"))
    assert part.parameters[0].offset == 0
    assert part.layers[0].depth == space.layer("body.1").depth
    assert torch.equal(space.positions(part), torch.arange(12, 21))
    vector = random_vector(space.size)
    assert torch.equal(part.unflatten(vector[space.positions(part)])["body.1.bias"], vector[18:21])


def test_owner_of_a_root_parameter() -> None:
    assert owner("weight") == ROOT
    assert owner("a.b.weight") == "a.b"


# -- bad input ---------------------------------------------------------------------------------------------


def test_no_trainable_parameter_is_refused() -> None:
    with pytest.raises(InputError, match=r"Linear has no trainable parameter \(2 frozen\); call requires_grad_"):
        ParameterSpace.of(nn.Linear(2, 2).requires_grad_(False))


def test_an_uninitialised_parameter_is_refused() -> None:
    with pytest.raises(InputError, match=r"'weight' has no shape yet; run the model once"):
        ParameterSpace.of(nn.LazyLinear(2))


@pytest.mark.parametrize("shape", [(4,), (1, 5), ()])
def test_a_vector_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected \(5,\)"):
        space_of_shapes([(2,), (3,)]).unflatten(torch.zeros(shape))


def test_missing_and_misshapen_parameters_are_named() -> None:
    space = space_of_shapes([(2,), (3,)])
    with pytest.raises(InputError, match=r"'layer0.tensor1' is missing"):
        space.flatten({"layer0.tensor0": torch.zeros(2)})
    with pytest.raises(InputError, match=r"'layer0.tensor1' has shape \(4,\), expected \(3,\)"):
        space.flatten({"layer0.tensor0": torch.zeros(2), "layer0.tensor1": torch.zeros(4)})


def test_unknown_layers_are_answered_with_the_nearest() -> None:
    space = ParameterSpace.of(AdversarialNet())
    with pytest.raises(InputError, match=r"'frist' matches no layer; the nearest are 'first'"):
        space.select("frist")
    with pytest.raises(InputError, match=r"no layer is called 'norms'; the nearest are 'norm'"):
        space.layer("norms")
    with pytest.raises(InputError, match=r"true for no layer"):
        space.select(lambda name: False)


def test_another_model_is_refused_by_its_first_difference() -> None:
    space = ParameterSpace.of(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
    with pytest.raises(InputError, match=r"the model has '1.weight' of shape \(2, 3\), expected \(1, 3\)"):
        space.tensors(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)))
    with pytest.raises(InputError, match=r"the model lacks the parameter '1.weight' \(1, 3\)"):
        space.tensors(nn.Sequential(nn.Linear(2, 3)))
    wider = ParameterSpace.of(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.Linear(1, 1)))
    with pytest.raises(InputError, match=r"the run has the parameter '2.weight' \(1, 1\), which is not expected"):
        space.require_same(wider, "the run")
    with pytest.raises(InputError, match=r"'2.weight' is no parameter of this space"):
        space.positions(wider)


def test_a_model_with_a_part_frozen_since_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    space = ParameterSpace.of(model)
    model[1].requires_grad_(False)
    with pytest.raises(InputError, match=r"lacks the parameter '1.weight'"):
        space.require_same(ParameterSpace.of(model), "the model")
