"""`remember`: what must be kept of a task, measured at the weights that solve it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from thalweg.directions import Directions
from thalweg.errors import InputError
from thalweg.problem import Problem
from thalweg.protect.capture import Site, Source, captured, limited, sites, source_of, squared_gradients
from thalweg.protect.knowledge import Knowledge, prints_of
from thalweg.protect.shields import DiagonalShield, DirectionShield, KroneckerShield, Shield, leading
from thalweg.space import LayerChoice, ParameterSpace
from thalweg.trials.ground import orthonormal, refuse_whole_space

Method = Literal["kronecker", "inputs", "diagonal"]

LARGEST = 4096
"""Inputs of a layer up to which their moment is kept; beyond, the layer's numbers are taken one by one."""

TURNED = 1024
"""Outputs of a layer up to which they are turned into the eigenvectors of their gradients' moment."""

AT_ONCE = 2**23
"""Numbers of single samples' gradients that are held at once."""

SINGLES = 200
"""Samples on which parameters outside of linear maps are measured, one backward pass for each."""


def remember(
    problem: Problem,
    path: str | Path | None = None,
    *,
    method: Method = "kronecker",
    directions: Directions | None = None,
    diagonal: bool = False,
    layers: LayerChoice | None = None,
    hard: float = 0.9,
    rank: int | None = None,
    samples: int = 1000,
    earlier: Knowledge | str | Path | None = None,
    seed: int = 0,
) -> Knowledge:
    """Measure what must be kept of a task that a model has learned, for `guard` to protect while it learns another.

    No sample is kept: only second moments of inputs and of gradients, turned into their eigenvectors.

    Args:
        problem: the old task, at the weights that solve it, on its training data.
        path: a safetensors file to write; none unless given.
        method: "kronecker", in each linear map the inputs' leading part hard and the rest soft (see
            `thalweg.protect.shields`); "inputs", the hard part alone (GPM); "diagonal", every number by itself (EWC).
            What is no linear map of its own weights, called with samples along the first axis (norms, embeddings, tied
            weights, layers of more than 4,096 inputs), is taken number by number.
        directions: across layers, such as top Hessian eigenvectors or principal components, in the place of `method`:
            softly along their `values` where they have some, else hard.
        diagonal: beside directions with values: what each number has beyond them, so that the penalty is that of a
            diagonal and a low rank together.
        layers: which layers are protected; all unless given. A head that the new task replaces is left out here.
        hard: share of the inputs' energy whose leading part is projected off; 0 for none.
        rank: input directions kept for each layer, at the most.
        samples: read for the moments, at the most.
        earlier: what is known of tasks before, which is merged with this one in the space of one.
        seed: of drawn labels, where they are drawn.

    Returns:
        The knowledge; `print(knowledge.to_table())` says what it holds and what it takes.

    Raises:
        InputError: if an argument cannot be worked with, or the earlier knowledge is of another model or method.
        RunError: if the earlier knowledge cannot be read.
    """
    if method not in get_args(Method):
        raise InputError(f"method={method!r} is unknown; choose from {', '.join(get_args(Method))}")
    if not 0 <= hard <= 1:
        raise InputError(f"hard={hard} is no share; give a number from 0 to 1")
    if samples < 1 or (rank is not None and rank < 1):
        raise InputError(f"samples={samples}, rank={rank}: give positive numbers")
    space, read = problem.space.select(layers), limited(problem, samples)
    if directions is not None:
        shields: list[Shield] = [direction_shield(directions, space)]
        about = {"method": "directions", "label": directions.label, "k": len(directions)}
        if diagonal:
            source = source_of(read)
            each = _measured(read, space, layers, "diagonal", hard, rank, source, seed)
            shields = [_beyond(direction_shield(directions, space), each)]
            about |= {"method": "directions and diagonal", "gradients": source}
    else:
        source = source_of(read)
        shields = _measured(read, space, layers, method, hard, rank, source, seed)
        about = {"method": method, "gradients": source, "hard": hard}
    tensors = dict(zip(problem.space.names, problem.parameters(), strict=True))
    prints = prints_of(space.names, [tensors[name] for name in space.names])
    _warn_of_statistics(problem)
    told = {**about, "samples": read.describe()["samples"], "tasks": 1}
    found = Knowledge(space, tuple(shield.cpu() for shield in shields), prints, told)
    if earlier is not None:
        before = earlier if isinstance(earlier, Knowledge) else Knowledge.load(earlier)
        found = before.merged(found)
    if path is not None and problem.share.ranks.rank == 0:
        found.save(path)
    return found


def _warn_of_statistics(problem: Problem) -> None:
    """Running statistics are buffers, which no guard reaches."""
    moving = [
        name
        for name, module in problem.model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    if moving:
        logging.getLogger("thalweg").warning(
            "running statistics of %d batch norms (%s, ...) are not protected: keep those layers in evaluation mode "
            "while the new task is learned, or the old answers change although the weights do not",
            len(moving), moving[0],
        )  # fmt: skip


def direction_shield(directions: Directions, space: ParameterSpace) -> DirectionShield:
    """Directions as a shield: soft along the values they have, else hard.

    Raises:
        InputError: if they are of another size, fill the whole space, or none of them is curved upwards.
    """
    if directions.size != space.size:
        raise InputError(
            f"{directions.label!r} has {directions.size:,} entries, the protected parameters are {space.size:,}; these "
            "are directions of another model or of other layers"
        )
    if directions.space is not None:
        space.require_same(directions.space, repr(directions.label))
    values = directions.values
    if values is None:
        straight = orthonormal(directions).vectors.float().cpu()
        return DirectionShield(space.parameters, straight, torch.full((len(straight),), math.inf), torch.empty(0))
    curved = values > 0
    if not bool(curved.any()):
        raise InputError(f"{directions.label!r} has no positive value; along none of them the old loss rises")
    refuse_whole_space(directions.label, *directions.rows.shape)
    scaled = directions.vectors.cpu()[curved].double() * values[curved].double().sqrt().unsqueeze(1)
    _, sizes, rows = torch.linalg.svd(scaled, full_matrices=False)  # the same penalty along orthonormal directions
    known = sizes > 1e-6 * sizes[0]
    return DirectionShield(space.parameters, rows[known].float(), (sizes[known] ** 2).float(), torch.empty(0))


def _beyond(shield: DirectionShield, each: Sequence[Shield]) -> DirectionShield:
    """With what each number's own curvature has beyond the directions, which is not counted twice.

    Raises:
        InputError: if the directions have no values.
    """
    if bool(torch.isinf(shield.values).any()):
        raise InputError("diagonal=True goes with directions that have values; hard ones hold all there is along them")
    flat = torch.cat([one.tensors()["curvature"].reshape(-1).cpu() for one in each])
    held = shield.values @ shield.vectors.square()
    return replace(shield, diagonal=(flat - held).clamp(min=0.0))


def _measured(
    problem: Problem,
    space: ParameterSpace,
    layers: LayerChoice | None,
    method: Method,
    hard: float,
    rank: int | None,
    source: Source,
    seed: int,
) -> list[Shield]:
    places = [site for site in sites(problem, problem.space.chosen(layers)) if site.sizes[0] <= LARGEST]
    shields: dict[str, Shield] = {}
    if places:
        if method == "diagonal":
            for site in _diagonals(problem, places, source, seed):
                shields[site.name] = site
        else:
            for one in _kronecker(problem, places, method, hard, rank, source, seed):
                shields[one.weight] = one
    held = {name for shield in shields.values() for name in shield.names}
    rest = [name for name in space.names if name not in held]
    if rest and method != "inputs":
        generator = torch.Generator().manual_seed(seed)
        found = squared_gradients(limited(problem, SINGLES), rest, source, generator)
        shields |= {name: DiagonalShield(name, curvature) for name, curvature in found.items()}
    if not shields:
        raise InputError(
            "method='inputs' protects linear maps, and the chosen layers hold none that it can read; use 'kronecker'"
        )
    order = {name: place for place, name in enumerate(space.names)}
    return sorted(shields.values(), key=lambda shield: order[shield.names[0]])


def _kronecker(
    problem: Problem, places: Sequence[Site], method: Method, hard: float, rank: int | None,
    source: Source, seed: int,
) -> list[KroneckerShield]:  # fmt: skip
    inner, outer, count = _moments(problem, places, source, seed)
    bases = [leading(moment / count, rank or len(moment)) for moment in inner]
    ends = [leading(moment / count) if moment.ndim == 2 else (None, (moment / count).float()) for moment in outer]
    turned = [vectors for vectors, _ in ends]
    soft = method == "kronecker"
    squares = _squares(problem, places, [q for q, _ in bases], turned, source, seed) if soft else None
    out = []
    for place, site in enumerate(places):
        inputs, energies = bases[place]
        vectors = turned[place]
        curvature = squares[place] if squares is not None else torch.zeros(site.sizes[1], inputs.shape[1])
        out.append(
            KroneckerShield(
                site.weight, site.bias, "transposed" if site.transposed else "linear", inputs, energies,
                float(torch.trace(inner[place])) / count, vectors if vectors is not None else torch.empty(0, 0),
                ends[place][1], curvature.float(), hard,
            )
        )  # fmt: skip
    return out


def _moments(
    problem: Problem, places: Sequence[Site], source: Source, seed: int
) -> tuple[list[Tensor], list[Tensor], int]:
    """Sums of `a aᵀ` and of `g gᵀ` (of `g²` for many outputs), in float64, and the number of samples."""
    device = problem.device
    inner = [torch.zeros(site.sizes[0], site.sizes[0], dtype=torch.float64, device=device) for site in places]
    outer = [
        torch.zeros((size, size) if size <= TURNED else (size,), dtype=torch.float64, device=device)
        for _, size in (site.sizes for site in places)
    ]
    count = 0
    for samples, batch in captured(problem, places, source, torch.Generator().manual_seed(seed)):
        count += samples
        for place, (inputs, gradients) in enumerate(batch):
            flat = inputs.reshape(-1, inputs.shape[-1]).double()
            if not len(gradients):
                continue
            inner[place] += flat.T @ flat
            for gradient in gradients:
                rows = gradient.reshape(-1, gradient.shape[-1]).double()
                outer[place] += rows.T @ rows if outer[place].ndim == 2 else (rows**2).sum(0)
    added = problem.share.added
    every = int(added(torch.tensor(count)))
    return [added(moment) for moment in inner], [added(moment) for moment in outer], every


def _squares(
    problem: Problem, places: Sequence[Site], inputs: Sequence[Tensor], outputs: Sequence[Tensor | None],
    source: Source, seed: int,
) -> list[Tensor]:  # fmt: skip
    """Mean squares of single samples' gradients `(out, r)` in the bases given."""
    total = [torch.zeros(site.sizes[1], q.shape[1], device=q.device) for site, q in zip(places, inputs, strict=True)]
    count = 0
    for samples, batch in captured(problem, places, source, torch.Generator().manual_seed(seed)):
        count += samples
        for place, (entering, gradients) in enumerate(batch):
            if not len(gradients):
                continue
            across = entering.to(inputs[place].dtype) @ inputs[place]
            turn = outputs[place]
            for gradient in gradients:
                rows = gradient.to(across.dtype) if turn is None else gradient.to(across.dtype) @ turn
                total[place] += _sum_of_squares(rows, across)
    every = int(problem.share.added(torch.tensor(count)))
    return [problem.share.added(into) / every for into in total]


def _sum_of_squares(gradients: Tensor, inputs: Tensor) -> Tensor:
    """`Σ_n (Σ_t g_nt a_ntᵀ)²`, entry by entry; `(out, in)`."""
    if gradients.shape[1] == 1:
        return (gradients[:, 0] ** 2).T @ (inputs[:, 0] ** 2)
    out = gradients.new_zeros(gradients.shape[-1], inputs.shape[-1])
    size = max(1, AT_ONCE // out.numel())
    for start in range(0, len(inputs), size):
        chosen = slice(start, start + size)
        out += torch.bmm(gradients[chosen].transpose(1, 2), inputs[chosen]).square_().sum(0)
    return out


def _diagonals(problem: Problem, places: Sequence[Site], source: Source, seed: int) -> list[DiagonalShield]:
    units = [torch.eye(site.sizes[0], device=problem.device) for site in places]
    found = _squares(problem, places, units, [None] * len(places), source, seed)
    shields = []
    for site, squares in zip(places, found, strict=True):
        weight = site.module.weight
        assert isinstance(weight, Tensor)
        own = squares[:, :-1] if site.bias else squares
        shields.append(DiagonalShield(site.weight, (own.T if site.transposed else own).reshape(weight.shape).clone()))
        if site.bias:
            shields.append(DiagonalShield(site.bias, squares[:, -1].clone()))
    return shields
