"""Which tensors are protected: of a model, or told from the optimizers alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.space import Parameter, ParameterSpace, owner, plain_name, unwrapped


def tensors_of(space: ParameterSpace, optimizers: Sequence[Optimizer], model: nn.Module | None) -> dict[str, Tensor]:
    """The tensors of a space by name: of the model, or out of the optimizers by their names or by shapes in order.

    Raises:
        InputError: if they cannot be told, or the optimizers do not train one of them.
    """
    if model is not None:
        every: dict[str, Tensor] = {
            plain_name(n): p for n, p in unwrapped(model).named_parameters(remove_duplicate=False)
        }
        found = {name: every[name] for name in space.names if name in every}
        missing = [name for name in space.names if name not in every]
        if missing:
            raise InputError(
                f"the model has no parameter {missing[0]!r}, which is remembered; this is knowledge of another model"
            )
    else:
        found = _by_optimizer(space, optimizers)
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for name, tensor in found.items():
        if id(tensor) not in held:
            raise InputError(
                f"the optimizer does not train {name!r}, so there is nothing to guard; leave it out with layers="
            )
    return found


def _by_optimizer(space: ParameterSpace, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    named = {
        plain_name(name): tensor
        for group in groups
        for name, tensor in zip(group.get("param_names", ()), group["params"], strict=False)
    }
    if all(name in named for name in space.names):
        return {name: named[name] for name in space.names}
    flat = [tensor for group in groups for tensor in group["params"] if tensor.requires_grad]
    shapes = [parameter.shape for parameter in space.parameters]
    if len(groups) == 1 and [tuple(tensor.shape) for tensor in flat] == shapes:
        return dict(zip(space.names, flat, strict=True))
    raise InputError(
        f"which of the optimizer's {len(flat)} parameters are the {len(shapes)} that are remembered cannot be told "
        "from the optimizer alone; give guard(..., model=model)"
    )


def space_of_directions(
    directions: Directions, optimizers: Sequence[Optimizer], model: nn.Module | None
) -> ParameterSpace:
    """The space that directions stand in: their own, the model's, or that of the optimizers' parameters in order."""
    if directions.space is not None:
        return directions.space
    if model is not None:
        return ParameterSpace.of(unwrapped(model))
    parameters: list[Parameter] = []
    offset = 0
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        for tensor in group["params"]:
            name = f"parameter.{len(parameters)}"
            parameters.append(Parameter(name, tuple(tensor.shape), offset, owner(name)))
            offset += parameters[-1].size
    return ParameterSpace(tuple(parameters))
