"""How sure eigenpairs are: three levels of certainty, named in every result.

- *estimate*: the residuals `|beta s_mi|` of the recurrence, checked by one product: for random signs c, the vector
  `(H V^T - V^T L) c` is compared with the predicted `q (beta s·c)`, and the length of the difference is added to
  every residual. (Lanczos residuals are all parallel to q, so their lengths alone could cancel.)
- *full*: one product for each pair measures its residual.
- *complete*: as *full*, then Lanczos from a random start in the complement of what was found. A Ritz value beyond
  the last wanted one is a pair that was missed, a copy of a multiple eigenvalue say; it is taken in and the search
  goes on. That a random start hides a direction from view has probability zero, but no finite search proves it.

A result names the level that was *reached*. Below these stands *none*: residuals as the recurrence claims them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from thalweg.solvers.search import Pairs, Search
from thalweg.solvers.wanted import Wanted
from thalweg.sums import times

Certificate = Literal["estimate", "full", "complete"]
Level = Literal["none", "estimate", "full", "complete"]

LOOK_OUTSIDE = 20
"""Least number of products before a search of the complement may say that nothing is there."""


@dataclass(frozen=True)
class Found:
    """What a search ended with, converged or not.

    Attributes:
        pairs: the wanted ones, k or fewer, with the residuals that the recurrence claims or that were measured.
        measured: whether they were measured.
        others: further Ritz values `(n,)`.
        next: q `(P,)`, which the claimed residuals are multiples of.
        last: `beta s_mi` `(k,)`, the multiples.
    """

    pairs: Pairs
    measured: bool
    others: np.ndarray
    next: Tensor
    last: np.ndarray


@dataclass(frozen=True)
class Certified:
    """Pairs with the certainty that was reached.

    Attributes:
        pairs: in the wanted order.
        level: "none", "estimate", "full" or "complete".
        missed: how many the search of the complement found.
    """

    pairs: Pairs
    level: Level
    missed: int = 0


def certified(search: Search, found: Found, wish: Certificate) -> Certified:
    """Check what was found, as far as was wished; an interrupt ends the checking, a second one is raised.

    After an interrupt the check is *estimate*. Where the basis is rounded the recurrence claims too little, and each
    pair is measured whatever was wished.
    """
    reached = Certified(found.pairs, "full" if found.measured else "none")
    if not len(found.pairs.values):
        return reached
    try:
        if reached.level == "none":
            rounded = search.settings.storage == "bfloat16"
            estimate = search.interrupted or (wish == "estimate" and not rounded)
            residuals = found.pairs.residuals + defect(search, found) if estimate else measured(search, found.pairs)
            reached = Certified(replace(found.pairs, residuals=residuals), "estimate" if estimate else "full")
        if wish == "complete" and not search.interrupted:
            for better in complete(search, reached.pairs):
                reached = better  # stays when the next round is interrupted
    except KeyboardInterrupt:
        if search.interrupted:
            raise
        search.interrupted = True
    return reached


def defect(search: Search, found: Found) -> float:
    """How far one random combination of the residuals is from what the recurrence predicts."""
    values, vectors = found.pairs.values, found.pairs.vectors
    signs = (torch.randint(0, 2, (len(values),), generator=search.generator) * 2 - 1).double()
    vector = vectors.T @ signs.to(vectors)
    weights = torch.as_tensor(values).double() * signs
    actual = search.product(vector) - vectors.T @ weights.to(vectors)
    return search.length(actual - found.next * float(np.dot(found.last, signs.numpy())))


def measured(search: Search, pairs: Pairs) -> np.ndarray:
    """`|H v - value v|` of each pair, by a product each."""
    both = zip(pairs.values, pairs.vectors, strict=True)
    return np.array([search.length(search.rest(float(value), vector)) for value, vector in both])


def complete(search: Search, pairs: Pairs) -> Iterator[Certified]:
    """Search the complement, and take in what was missed, until nothing lies beyond the last wanted value.

    Yields what is certain so far: *full* with one more pair taken in each time, at the end *complete* if the products
    sufficed.
    """
    k, missed = len(pairs.values), 0
    while pairs.vectors.shape[0] < search.operator.shape[0]:
        pair, searched = _best_outside(search, Pairs(pairs.values[:k], pairs.vectors, pairs.residuals))
        if pair is None:
            yield Certified(_first(pairs, k), "complete" if searched else "full", missed)
            return
        missed += 1
        values = np.append(pairs.values, pair.values)
        residuals = np.append(pairs.residuals, measured(search, pair))
        ranked = search.wanted.order(values)
        vectors = torch.cat([pairs.vectors, pair.vectors])[torch.as_tensor(ranked.copy(), device=pair.vectors.device)]
        pairs = Pairs(values[ranked], vectors, residuals[ranked])
        yield Certified(_first(pairs, k), "full", missed)
    yield Certified(_first(pairs, k), "complete", missed)


def _first(pairs: Pairs, k: int) -> Pairs:
    return Pairs(pairs.values[:k], pairs.vectors[:k], pairs.residuals[:k])


def _best_outside(search: Search, found: Pairs) -> tuple[Pairs | None, bool]:
    """The best pair of the complement of all vectors if it lies beyond the last wanted value, else None.

    And whether the search went far enough to say that there is none.
    """
    if search.spent:
        return None, False
    scale = float(np.abs(found.values).max())
    margin = max(search.settings.tol * scale, search.floor)
    ends = [(key, float(key(found.values[last : last + 1])[0])) for key, last in search.wanted.ends()]
    order = Wanted(search.wanted.which, len(ends)).order
    space = search.space(len(ends), None, found.vectors, scale)
    while True:
        search.step(space)
        if not (search.due(space) or search.spent) or (space.size < len(ends) and not space.exhausted):
            continue
        ritz = space.ritz(order)
        at = [min(index, space.size - 1) for index in range(len(ends))]
        residuals = ritz.residuals[at]
        ahead = np.array(
            [float(key(ritz.values[i : i + 1])[0]) - last for i, (key, last) in zip(at, ends, strict=True)]
        )
        search.tell("complement", float(residuals[0]) / margin * search.settings.tol if margin else 0.0)
        hits = np.flatnonzero((residuals <= margin) & (ahead > margin))
        if len(hits):
            vector = space.combine(ritz.coefficients[:, [at[hits[0]]]])[0]
            vector = vector - found.vectors.T @ search.operator.ranks.sum(times(found.vectors, vector))
            vector = vector / search.length(vector)
            return Pairs(ritz.values[[at[hits[0]]]], vector.unsqueeze(0), residuals[hits[:1]]), True
        nothing = (residuals <= margin) | ((ahead + residuals <= 0) & (space.size >= LOOK_OUTSIDE))
        if bool(nothing.all()) or space.exhausted or search.spent:
            return None, bool(nothing.all()) or space.exhausted
        search.restart_if_full(space, ritz, len(ends))
