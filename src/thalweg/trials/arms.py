"""Arms: the ways of training that a trial sets against each other, each by a name, with controls of its own.

An arm is written as its maker's name and arguments, `updates:10` or `layers:top:2`. A maker is a function of the
ground, a random generator (its replicate's) and those arguments, and gives a `Way`. To add one:

```python
@tw.arm("quiet")
def quiet(ground, draw, k=10):
    return tw.Way(basis=my_directions(ground, k))
```

An arm with a basis gets these controls, named `ARM/control`: its complement, as many random directions
(`random:k`, shared by all arms with as many), random ones with the same energy in each layer, and random ones that hold
as much of the training gradient's energy. An arm with layers gets as many random layers, the largest, and the last.
What is random is drawn anew for each replicate.
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from thalweg.directions import Directions, layer_matched_directions, random_directions
from thalweg.errors import InputError, nearest
from thalweg.trials.compression import check_compression, compression_of
from thalweg.trials.ground import BASES, Ground, orthonormal, refuse_whole_space

FULL = "full"
"""Training as it is: the incumbent unless another is declared."""

Maker = Callable[..., "Way"]


@dataclass(frozen=True, eq=False)
class Way:
    """How an arm trains. The optimizer steps as it would; then each update is changed.

    Attributes:
        basis: orthonormal directions `(k, P)` that updates are restricted to; None for no restriction.
        outside: restrict to the complement of the basis instead.
        scale: instead of restricting, multiply the part of updates within the basis by this number.
        layers: names of the layers that are trained; the others are frozen. None for all.
        again: the basis found again at other weights, for arms whose basis is refreshed.
        jump: what the weights are moved by before training, `(P,)`, from the ground and the way itself (so that a
            control, whose basis is another, jumps in its own). Updates are then not restricted.
        still: whether nothing is trained after the jump.
    """

    basis: Directions | None = None
    outside: bool = False
    scale: float | None = None
    layers: tuple[str, ...] | None = None
    again: Callable[[Tensor], Directions] | None = None
    jump: Callable[[Ground, Way], Tensor] | None = None
    still: bool = False

    def change(self, update: Tensor) -> Tensor:
        """What becomes of an update `(P,)`."""
        if self.basis is None:
            return update
        basis = self.basis.vectors.to(update)
        inside = (basis @ update) @ basis
        if self.scale is not None:
            return update + (self.scale - 1) * inside
        return update - inside if self.outside else inside

    @property
    def changes(self) -> bool:
        """Whether updates are changed at all."""
        return self.basis is not None and self.jump is None


_MAKERS: dict[str, Maker] = {}


def arm(name: str) -> Callable[[Maker], Maker]:
    """Add an arm under a name, as a decorator of its maker `(ground, draw, *arguments) -> Way`.

    Args:
        name: letters, digits and underscores.

    Raises:
        InputError: if the name cannot be written in an arm, or another maker has it.
    """
    if not name.isidentifier():
        raise InputError(f"{name!r} is no name for an arm; use letters, digits and underscores")

    def add(maker: Maker) -> Maker:
        if name in _MAKERS and _MAKERS[name] is not maker and _MAKERS[name].__module__ != maker.__module__:
            raise InputError(f"there is an arm {name!r} already; choose another name")
        _MAKERS[name] = maker
        return maker

    return add


def make_way(ground: Ground, name: str, draw: torch.Generator) -> Way:
    """The way of an arm or control.

    Args:
        ground: what it stands on.
        name: such as `updates:10`, or `updates:10/random`.
        draw: the replicate's generator.

    Raises:
        InputError: for a name that there is not, or arguments that do not fit.
    """
    base, _, control = name.partition("/")
    if control:
        if control not in CONTROLS:
            raise InputError(f"{name!r}: there is no control {control!r}; there are {', '.join(CONTROLS)}")
        # the arm itself is the same in every replicate, so that what is matched is what was tested
        return CONTROLS[control](ground, make_way(ground, base, _fixed(ground)), draw)
    maker, arguments = parse(base)
    return maker(ground, draw, *arguments)


def parse(name: str) -> tuple[Maker, list[Any]]:
    """The maker and arguments of an arm's name.

    Raises:
        InputError: for a name that there is not, or arguments that do not fit.
    """
    head, *words = name.split(":")
    if head not in _MAKERS:
        raise InputError(f"there is no arm {head!r}; the nearest are {nearest(head, _MAKERS)}")
    arguments = [_value(word) for word in words]
    try:
        inspect.signature(_MAKERS[head]).bind(None, None, *arguments)
    except TypeError as error:
        signature = list(inspect.signature(_MAKERS[head]).parameters)[2:]
        raise InputError(f"arm {name!r}: {error}; write {':'.join([head, *signature])}") from error
    return _MAKERS[head], arguments


def controls_of(ground: Ground, name: str) -> tuple[str, ...]:
    """Names of the controls that are matched to an arm.

    Raises:
        InputError: if there are none, so that nothing could be said of it.
    """
    way = make_way(ground, name, _fixed(ground))
    if way.basis is not None:
        plain = way.changes and way.scale is None and not way.outside
        by_chance = f"random:{len(way.basis)}" if plain and not name.startswith("random:") else f"{name}/random"
        return (by_chance, f"{name}/layer_matched", f"{name}/gradient_matched")
    if way.layers is not None:
        own = set(way.layers)  # a control that does just the same is none
        others = (f"{name}/largest_layers", f"{name}/last_layers")  # but for what the arm itself trains
        different = [other for other in others if set(make_way(ground, other, _fixed(ground)).layers or ()) != own]
        return (f"{name}/random_layers", *different)
    raise InputError(f"arm {name!r} restricts nothing, so it has no matched control; it can be the incumbent")


def complement_of(ground: Ground, name: str) -> str | None:
    """The name of an arm's complement, which is run beside it but is no matched control; None where there is none."""
    way = make_way(ground, name, _fixed(ground))
    return f"{name}/complement" if way.changes and way.scale is None and not way.outside else None


def _fixed(ground: Ground) -> torch.Generator:
    return torch.Generator().manual_seed(ground.seed)


def _value(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


# -- arms --------------------------------------------------------------------------------------------------


@arm(FULL)
def full(ground: Ground, draw: torch.Generator) -> Way:
    """Train everything, as the task's optimizer would."""
    return Way()


@arm("random")
def random(ground: Ground, draw: torch.Generator, k: int = 10) -> Way:
    """Train in k random directions, drawn anew for each replicate."""
    count = _whole(k, "random")
    refuse_whole_space("random", count, ground.training.space.size)
    return Way(random_directions(ground.training.space, count, draw, ground.start.dtype))


def _basis_arm(source: str) -> Maker:
    def maker(ground: Ground, draw: torch.Generator, k: int = 1 if source in ("drift", "gradient") else 10) -> Way:
        again = None
        if source in ("eigenvectors", "singular", "gradient"):

            def again(weights: Tensor) -> Directions:
                return orthonormal(BASES[source](ground.moved(weights), k))

        return Way(ground.directions(source, _whole(k, source)), again=again)

    maker.__doc__ = f"Train in the span of k {source}."
    return maker


for _source in BASES:
    arm(_source)(_basis_arm(_source))


@arm("complement")
def complement(ground: Ground, draw: torch.Generator, source: str, k: int = 10) -> Way:
    """Train in all directions but the span of a source's."""
    return replace(_inner(ground, draw, source, k), outside=True)


@arm("scale")
def scale(ground: Ground, draw: torch.Generator, source: str, k: int = 10, factor: float = 0.1) -> Way:
    """Train everything, with the steps along a source's directions so many times as long.

    Raises:
        InputError: for a factor below zero.
    """
    if not isinstance(factor, (int, float)) or not factor >= 0:
        raise InputError(f"scale: the factor is {factor!r}; give a number that is not negative")
    return replace(_inner(ground, draw, source, k), scale=float(factor))


def _whole(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name}: {value!r} is no number of directions or layers; give a whole number from 1 on")
    return value


def _inner(ground: Ground, draw: torch.Generator, source: str, k: int) -> Way:
    maker, arguments = parse(f"{source}:{k}")
    return maker(ground, draw, *arguments)


@arm("layers")
def layers(ground: Ground, draw: torch.Generator, which: str, k: int = 1) -> Way:
    """Train k layers, in one of `ORDERS` (`top` is the priority for fine-tuning), or those that a glob means.

    Raises:
        InputError: for as many layers as there are, or none.
    """
    which = str(which)  # a layer may be called 0
    names = ordered_layers(ground, which, draw)
    if which not in ORDERS:
        return Way(layers=names)
    if not 1 <= _whole(k, f"layers:{which}") < len(names):
        raise InputError(f"layers:{which}:{k}: the model has {len(names)} layers; train between 1 and all but one")
    return Way(layers=names[:k])


@arm("line")
def line(ground: Ground, draw: torch.Generator, source: str, k: int = 10) -> Way:
    """Take the best step along each of k directions, by slope and curvature, and train no further."""
    return replace(_inner(ground, draw, source, k), jump=best_steps, still=True, again=None)


@arm("extrapolate")
def extrapolate(ground: Ground, draw: torch.Generator, steps: int = 100) -> Way:
    """Move along the drift as far as it went in so many steps of the run, then train everything.

    Raises:
        InputError: without a run, or for no steps.
    """
    if ground.trajectory is None or ground.window is None:
        raise InputError("the drift is extrapolated from a recorded run; give one")
    _whole(steps, "extrapolate")
    start, stop = ground.window
    before = ground.trajectory.weights(start - 1).to(ground.start)
    direction = ground.directions("drift", 1).vectors[0].to(ground.start)
    length = float((ground.start - before) @ direction) * steps / (stop - start)

    def along(ground: Ground, way: Way) -> Tensor:
        assert way.basis is not None
        return length * way.basis.vectors[0].to(ground.start)

    return Way(ground.directions("drift", 1), jump=along)


@arm("compress")
def compress(ground: Ground, draw: torch.Generator, which: str, k: int = 1, to: float = 4) -> Way:
    """Compress k layers, in one of `ORDERS`, and train no further.

    `to` is a number of bits from 2 on, or a share of the rank below 1.

    Raises:
        InputError: for as many layers as there are, or none.
    """

    def jump(ground: Ground, way: Way) -> Tensor:
        assert way.layers is not None
        return compression_of(ground.training, way.layers, to)

    check_compression(to)
    return replace(layers(ground, draw, which, k), jump=jump, still=True)


def best_steps(ground: Ground, way: Way) -> Tensor:
    """`−Σ (gᵀe_i / λ_i) e_i` over the way's directions, each at most as long as the last window's way; (P,).

    Where the curvature λ_i is not above zero the step is as long as allowed.
    """
    assert way.basis is not None
    radius = ground.radius / len(way.basis) ** 0.5
    hessian, out = ground.training.hessian(), torch.zeros_like(ground.start)
    for row in way.basis:
        unit = row.to(ground.start)
        slope, curvature = float(unit @ ground.gradient), float(unit @ (hessian @ unit))
        step = -slope / curvature if curvature > 0 else -math.copysign(radius, slope)
        out += max(-radius, min(radius, step)) * unit
    return out


ORDERS = ("top", "cheap", "last", "first", "largest", "random")
"""In which orders layers may be taken: `top` to fine-tune first, `cheap` to compress first, by `rank_layers`."""


def ordered_layers(ground: Ground, which: str, draw: torch.Generator) -> tuple[str, ...]:
    """All layers in one of `ORDERS`, or those that a glob means."""
    space = ground.training.space
    if which in ("top", "cheap"):
        return ground.layer_orders[which]
    if which in ("first", "last"):
        return tuple(x.name for x in sorted(space.layers, key=lambda x: x.depth, reverse=which == "last"))
    if which == "largest":
        return tuple(x.name for x in sorted(space.layers, key=lambda x: x.size, reverse=True))
    if which == "random":
        return tuple(space.layers[i].name for i in torch.randperm(len(space.layers), generator=draw).tolist())
    return tuple(layer.name for layer in space.chosen(which))


# -- controls ----------------------------------------------------------------------------------------------


def _complement(ground: Ground, way: Way, draw: torch.Generator) -> Way:
    return replace(way, outside=True, again=None)


def _random(ground: Ground, way: Way, draw: torch.Generator) -> Way:
    assert way.basis is not None
    basis = random_directions(ground.training.space, len(way.basis), draw, ground.start.dtype)
    return replace(way, basis=basis, again=None)


def _layer_matched(ground: Ground, way: Way, draw: torch.Generator) -> Way:
    assert way.basis is not None
    return replace(way, basis=orthonormal(layer_matched_directions(way.basis, draw)), again=None)


def _gradient_matched(ground: Ground, way: Way, draw: torch.Generator) -> Way:
    """Random directions, the first turned towards the gradient until as much of its energy is in their span."""
    assert way.basis is not None
    gradient = ground.gradient.double().cpu()
    length = float(gradient.norm())
    k, size = way.basis.rows.shape
    if not length > 0:
        return _random(ground, way, draw)
    unit = gradient / length
    share = min(float(way.basis.rows.inner(unit).square().sum()), 1.0)
    drawn = torch.randn(k, size, generator=draw, dtype=torch.float64)
    drawn -= (drawn @ unit)[:, None] * unit
    rest = torch.linalg.qr(drawn.T).Q.T
    rest[0] = share**0.5 * unit + (1 - share) ** 0.5 * rest[0]
    return replace(
        way,
        basis=Directions(
            rest.to(way.basis.rows.dtype), label=f"gradient-matched to {way.basis.label}", space=way.basis.space
        ),
        again=None,
    )


def _other_layers(which: str) -> Callable[[Ground, Way, torch.Generator], Way]:
    def control(ground: Ground, way: Way, draw: torch.Generator) -> Way:
        assert way.layers is not None
        return replace(way, layers=ordered_layers(ground, which, draw)[: len(way.layers)])

    return control


CONTROLS: dict[str, Callable[[Ground, Way, torch.Generator], Way]] = {
    "complement": _complement,
    "random": _random,
    "layer_matched": _layer_matched,
    "gradient_matched": _gradient_matched,
    "random_layers": _other_layers("random"),
    "largest_layers": _other_layers("largest"),
    "last_layers": _other_layers("last"),
}
"""Controls made from an arm's way."""
