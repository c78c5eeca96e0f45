"""LoRA pairs of a peft model, and from a recorded trajectory the change of the weights that each pair stands for.

With peft's names: layer W gets the *delta weight* `ΔW = scaling · B A` of an adapter, where A is `lora_A` and B is
`lora_B`. Training moves A and B; what the network feels is ΔW, in which A → A/c, B → cB changes nothing.
peft is not imported: a pair is known by what its layer offers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from thalweg.errors import InputError, RunError
from thalweg.recording.opening import open_run
from thalweg.recording.trajectory import Trajectory
from thalweg.runs import Run
from thalweg.space import plain_name, unwrapped

RESULT = "lora"
"""The name in the run folder under which a callback keeps the pairs."""


@dataclass(frozen=True)
class LoraPair:
    """The two factors of one adapter of one layer.

    Attributes:
        layer: name of the layer that has the pair.
        adapter: name of the adapter, "default" unless another was given.
        lora_A: name of the parameter A, `(r, in)`, or of a convolution `(r, in, height, width)`.
        lora_B: name of the parameter B, `(out, r)`, or of a convolution `(out, r, 1, 1)`.
        scaling: `lora_alpha / r`, or what the adapter uses instead.
        transposed: whether the layer keeps its weight as `(in, out)`.
    """

    layer: str
    adapter: str
    lora_A: str  # noqa: N815 - peft's name
    lora_B: str  # noqa: N815
    scaling: float
    transposed: bool = False

    @property
    def name(self) -> str:
        """Layer and adapter: `model.layers.0.q_proj.default`."""
        return f"{self.layer}.{self.adapter}"

    def delta_weight(self, weights: Mapping[str, Tensor]) -> Tensor:
        """`scaling · B A` from named weights, in the shape of the layer's weight.

        Raises:
            InputError: if a factor is missing.
        """
        for name in (self.lora_A, self.lora_B):
            if name not in weights:
                raise InputError(f"{name!r} is not among the weights (frozen factors are not recorded); give model=")
        first, second = weights[self.lora_A], weights[self.lora_B]
        product = second.flatten(1) @ first.flatten(1)
        if first.ndim > 2:
            product = product.view(second.shape[0], *first.shape[1:])
        return (product.T if self.transposed else product) * self.scaling


def lora_pairs(model: nn.Module) -> tuple[LoraPair, ...]:
    """The LoRA pairs of a peft model, in the model's order.

    Of the variants, DoRA normalises the sum of weight and delta weight afterwards. Grouped convolutions and layers of
    several experts combine their factors in another way; they are left out with one warning.
    """
    pairs: list[LoraPair] = []
    others: list[str] = []
    for raw_name, module in unwrapped(model).named_modules():
        if not isinstance(getattr(module, "scaling", None), dict) or not hasattr(module, "lora_A"):
            continue
        found = list(_pairs_of(plain_name(raw_name + ".").rstrip("."), module))
        if found and not _is_plain(module):
            others.append(raw_name)
        else:
            pairs += found
    if others:
        warnings.warn(
            f"the delta weights of {others[0]!r} and {len(others) - 1} more layers (grouped convolutions, experts) are "
            "no plain products of their LoRA factors; they are left out",
            RuntimeWarning,
            stacklevel=2,
        )
    return tuple(pairs)


def lora_delta_weights(trajectory: Trajectory, step: int, model: nn.Module | None = None) -> dict[str, Tensor]:
    """The delta weight `scaling · B A` of every LoRA pair after a recorded step.

    Args:
        trajectory: of a run in which a peft model was trained.
        step: an optimizer step that ends a row; -1 is before the first.
        model: the peft model, for its scalings and for factors that were frozen. Not needed where
            `integrations.transformers.ThalwegCallback` recorded, which keeps the scalings.

    Returns:
        `layer.adapter` to a tensor in the shape of the layer's weight, in the run's dtype.

    Raises:
        InputError: if there is no pair, a factor was not recorded, or no row ends with that step.
        RunError: if the run keeps no scalings and no model is given.
    """
    pairs = lora_pairs(model) if model is not None else _kept_pairs(trajectory)
    weights = trajectory.space.unflatten(trajectory.weights(step))
    if model is not None:
        frozen = {
            plain_name(name): parameter.detach().to("cpu", trajectory.dtype)
            for name, parameter in unwrapped(model).named_parameters()
            if not parameter.requires_grad
        }
        weights = {**frozen, **weights}
    if not pairs:
        raise InputError("this model has no LoRA pair (lora_A and lora_B); its weights are in trajectory.weights(step)")
    return {pair.name: pair.delta_weight(weights) for pair in pairs}


def note_lora(model: nn.Module, folder: Path) -> None:
    """Keep the LoRA pairs of a model in a run folder, if it has any.

    Raises:
        RunError: if the folder is no run.
    """
    pairs = lora_pairs(model)
    if pairs:
        open_run(folder).save(RESULT, {"pairs": [asdict(pair) for pair in pairs]})


def _kept_pairs(trajectory: Trajectory) -> tuple[LoraPair, ...]:
    """The pairs that `note_lora` kept. A RunError if there are none, or they are damaged."""
    folder = trajectory.folder
    if not (folder / "results" / f"{RESULT}.json").is_file():
        raise RunError(f"{folder} keeps no scalings of LoRA pairs; give lora_delta_weights(..., model=the peft model)")
    kept = Run(folder, trajectory.manifest, lambda *_: None).load(RESULT)
    try:
        pairs = tuple(_checked(item) for item in kept["pairs"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder} keeps damaged LoRA pairs ({error}); give model=the peft model") from error
    return pairs


def _checked(item: Mapping[str, Any]) -> LoraPair:
    layer, adapter, first, second = (str(item[key]) for key in ("layer", "adapter", "lora_A", "lora_B"))
    scaling = float(item["scaling"])
    if not math.isfinite(scaling):
        raise ValueError(f"scaling {scaling} of {layer!r}")
    return LoraPair(layer, adapter, first, second, scaling, bool(item["transposed"]))


def _pairs_of(name: str, module: Any) -> Iterator[LoraPair]:
    for adapter in module.lora_A:
        first, second = (f"{name}.lora_{letter}.{adapter}.weight".lstrip(".") for letter in "AB")
        transposed = bool(getattr(module, "fan_in_fan_out", False))
        yield LoraPair(name, adapter, first, second, float(module.scaling[adapter]), transposed)
    for adapter in getattr(module, "lora_embedding_A", ()):
        first, second = (f"{name}.lora_embedding_{letter}.{adapter}".lstrip(".") for letter in "AB")
        yield LoraPair(name, adapter, first, second, float(module.scaling[adapter]), transposed=True)


def _is_plain(module: Any) -> bool:
    """Whether the delta weight is B A: not so for grouped convolutions and for several experts."""
    base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
    return getattr(base, "groups", 1) == 1 and getattr(module, "num_experts", 1) in (1, None)
