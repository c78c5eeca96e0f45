"""From an analysis and a trial to a decision: a word, three findings with their certainty, and what to do where.

Works on stored results alone and measures nothing. Every rule is a threshold that was fixed beforehand, said below;
a part that is missing from the results leaves out what would have been said of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["undecided", "invest", "keep", "stop"]
"""No trial has judged; an arm won; none did; all raised the held-out loss."""

Certainty = Literal["firm", "fair", "open"]

Word = Literal["invest", "guard", "undecided", "leave"]
WORDS: tuple[Word, ...] = ("invest", "guard", "undecided", "leave")

FIRM_P = 0.001
"""p-value, after correction, up to which a finding is firm; one that is significant at its own level is fair."""

FIRM_RATIO, FAIR_RATIO = 1.25, 2.0
"""How far λ₁ of two halves of the data may lie apart for what is said of other data to be firm or fair."""

SAME_SPACE = 0.5
"""Overlap of two halves' top spaces from which an agreement may be called firm."""

POWER = 0.8
"""Power at the smallest effect worth having from which "no evidence" is more than silence."""

MOST = 0.5
"""Share of a group's directions that must bear a word for the group to bear it."""

GROUPS = (
    ("Hessian eigenvectors", "eigenvectors"),
    ("PCA of updates", "updates"),
    ("PCA of gradients", "gradients"),
    ("PCA of weights", "weights"),
    ("SVD of weights", "singular"),
    ("drift", "drift"),
    ("gradient", "gradient"),
)
"""Labels of directions, and what a trial's arms call their source."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: "trial", "agreement", "held_out", "sampling" or "drift".
        word: what was found of it: a word of the trial or of the verdict; "alike" or "other"; "found", "none",
            "untested".
        certainty: see `Certainty`.
        values: the figures it rests on.
    """

    kind: str
    word: str
    certainty: Certainty
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """A layer or a group of directions, and what to do there.

    Attributes:
        kind: "layer" or "directions".
        name: the layer's, or the group's label.
        word: see `Word`.
        reason: "trial", "compression", "stiff", "drift", "sloppy" or "nothing".
        first: whether it is surely among the first half to fine-tune, so that a trial should begin there.
        values: the figures it rests on.
    """

    kind: Literal["layer", "directions"]
    name: str
    word: Word
    reason: str
    first: bool
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Decision:
    """What the results come to.

    Attributes:
        state: see `State`.
        arms: those that the state speaks of: the winners, the harmful, or all that were tried.
        findings: three at the most.
        places: layers and groups of directions, by word.
        spent: seconds, products and gradients so far.
        following: the next stage, and its seconds where they are known: "trial", "confirm", "full", "held_out" (a trial
            needs held-out data first), "larger" (the trial could hardly have found anything; with the `seeds` that
            would, None where more than a thousand), "done" (all stages were won) or "none".
        unknown: what is not known, by key, with its figures.
    """

    state: State
    arms: tuple[str, ...]
    findings: tuple[Finding, ...]
    places: tuple[Place, ...]
    spent: Mapping[str, float]
    following: Mapping[str, Any]
    unknown: tuple[tuple[str, Mapping[str, Any]], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def decision(analysis: Mapping[str, Any], trial: Mapping[str, Any] | None = None) -> Decision:
    """The decision that stored results lead to.

    Args:
        analysis: what `analyse` stored.
        trial: what `trial` stored, or None.
    """
    trial = trial or analysis.get("trial")
    judged = judged_stage(trial)
    told = {one["arm"]: one["word"] for one in (judged or {}).get("verdicts", ())}
    state, arms = _state(told)
    candidates = (
        _of_trial(trial, judged),
        _of_agreement(analysis),
        _of_held_out(analysis),
        _of_drift(analysis),
        _of_sampling(analysis),
    )
    found = [one for one in candidates if one is not None]
    places = [*_layers(analysis, trial, told), *_groups(analysis, told)]
    return Decision(
        state=state,
        arms=arms,
        findings=tuple(found[:3]),
        places=tuple(sorted(places, key=lambda place: WORDS.index(place.word))),
        spent=_spent(analysis, trial),
        following=_following(analysis, trial, judged),
        unknown=tuple(_unknown(analysis, trial, judged)),
    )


def judged_stage(trial: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The stage of a trial that gave its verdicts; None before one."""
    if not trial:
        return None
    found: Mapping[str, Any] | None = (trial.get("stages") or {}).get(trial.get("stage"))
    return found


def _state(told: Mapping[str, str]) -> tuple[State, tuple[str, ...]]:
    if not told:
        return "undecided", ()
    for word, state in (("invest", "invest"), ("harmful", "stop")):
        arms = tuple(arm for arm, one in told.items() if one == word)
        if arms and (word == "invest" or len(arms) == len(told)):
            return state, arms  # type: ignore[return-value]
    return "keep", tuple(told)


# -- findings ----------------------------------------------------------------------------------------------


def _of_trial(trial: Mapping[str, Any] | None, judged: Mapping[str, Any] | None) -> Finding | None:
    if trial is None or judged is None:
        return None
    verdicts, plan = judged["verdicts"], trial["plan"]
    winners = [one for one in verdicts if one["word"] == "invest"]
    values: dict[str, Any] = {
        "seeds": max(one["seeds"] for one in verdicts),
        "arms": len(plan.get("arms") or verdicts),
        "effect": plan["minimum_effect"],
        "power": _power(trial),
        "p": min(one["p_holm"] for one in verdicts),
        "gain": min(one["gain"]["mean"] for one in winners or verdicts) / judged["start_loss"],
        "question": plan.get("question", "better"),
    }
    if winners:
        return Finding("trial", "invest", "firm" if values["p"] <= FIRM_P else "fair", values)
    word = "harmful" if all(one["word"] == "harmful" for one in verdicts) else "none"
    return Finding("trial", word, "fair" if (values["power"] or 0.0) >= POWER else "open", values)


def _power(trial: Mapping[str, Any]) -> float | None:
    """The least chance that an arm's smallest effect worth having would be found; None where no pilot told it."""
    return min((one["power"] for one in (trial.get("pilot") or {}).get("arms") or ()), default=None)


def _of_agreement(analysis: Mapping[str, Any]) -> Finding | None:
    told = analysis.get("verdict") or {}
    if told.get("captured") is None or told.get("word") not in ("agreement", "mixed", "no agreement"):
        return None
    keys = ("captured", "uniform", "layer_matched", "components", "source", "p_value")
    values = {key: told.get(key) for key in keys} | {"k": (analysis.get("settings") or {}).get("k")}
    overlap = (analysis.get("sampling") or {}).get("subspace_overlap")
    values["overlap"] = overlap
    firm = told["word"] == "agreement" and overlap is not None and overlap >= SAME_SPACE
    firm = firm and _or(told.get("p_value"), 1.0) <= FIRM_P
    certainty: Certainty = "firm" if firm else "open" if told["word"] == "no agreement" else "fair"
    return Finding("agreement", told["word"], certainty, values)


def _of_held_out(analysis: Mapping[str, Any]) -> Finding | None:
    there, stages = analysis.get("held_out") or {}, analysis.get("stages") or [{}]
    own, other = (stages[-1].get("spectrum") or {}).get("values"), there.get("values")
    if not own or not other or there.get("subspace") is None:
        return None
    values = {
        "train": own[0],
        "held_out": other[0],
        "overlap": there["subspace"],
        "by_layer": there.get("subspace_by_layer"),
        "k": len(own),
    }
    return Finding("held_out", _alike(own[0], other[0], there["subspace"]), _by_halves(analysis), values)


def _of_sampling(analysis: Mapping[str, Any]) -> Finding | None:
    sampling = analysis.get("sampling")
    if not sampling:
        return None
    values = {
        "half": sampling["half_values"][0],
        "other": sampling["other_half"][0],
        "overlap": sampling.get("subspace_overlap"),
        "k": len(sampling["half_values"]),
    }
    word = _alike(values["half"], values["other"], values["overlap"])
    return Finding("sampling", word, _by_halves(analysis), values)


def _alike(one: float, other: float, overlap: float | None) -> str:
    """Whether two spectra are "alike", by λ₁ and by the spaces, or "other" ones."""
    close = min(one, other) > 0 and max(one, other) <= FAIR_RATIO * min(one, other)
    return "alike" if close and _or(overlap, 0.0) >= SAME_SPACE else "other"


def _by_halves(analysis: Mapping[str, Any]) -> Certainty:
    """How certain what was measured on these samples is of others."""
    sampling = analysis.get("sampling")
    if not sampling or not sampling["other_half"][0] > 0:
        return "open"
    ratio = sampling["half_values"][0] / sampling["other_half"][0]
    ratio = max(ratio, 1 / ratio) if ratio > 0 else float("inf")
    return "firm" if ratio <= FIRM_RATIO else "fair" if ratio <= FAIR_RATIO else "open"


def _of_drift(analysis: Mapping[str, Any]) -> Finding | None:
    drift = analysis.get("drift") or {}
    if "found" not in drift:
        return Finding("drift", "untested", "open", {}) if drift.get("reason") else None
    p = drift["p_value"]
    values = {
        "p": p,
        "share": drift.get("share"),
        "window": drift.get("window"),
        "half_life": drift.get("half_life"),
        "persistence": (drift.get("persistence") or {}).get("cosine"),
    }
    if not drift["found"]:
        return Finding("drift", "none", "open", values)
    return Finding("drift", "found", "firm" if p <= FIRM_P else "fair", values)


# -- places ------------------------------------------------------------------------------------------------


def _layers(analysis: Mapping[str, Any], trial: Mapping[str, Any] | None, told: Mapping[str, str]) -> list[Place]:
    rows = [row for row in analysis.get("layers") or () if row.get("compression") is not None]
    about = (trial or {}).get("about") or {}
    tried: dict[str, str] = {}
    for arm, said in told.items():
        for layer in (about.get(arm) or {}).get("layers") or ():
            if said == "invest" or layer not in tried:
                tried[layer] = said
    half, places = len(rows) / 2, []
    word: Word
    for row in sorted(rows, key=lambda row: -row["compression"]):
        low, high, tune = (row.get(key) for key in ("compression_low", "compression_high", "fine_tuning_high"))
        many = len(rows) > 1
        first = many and tune is not None and tune <= half
        word = "undecided"
        if many and low is not None and high is not None:  # with one batch of data there is no interval
            word = "guard" if low > half else "leave" if high <= half else "undecided"
        reason = "compression" if word != "undecided" else "nothing"
        if tried.get(row["layer"]) == "invest":
            word, reason = "invest", "trial"
        values = {key: row.get(key) for key in ("compression", "fine_tuning", "noise_cost", "gain", "parameters")}
        values |= {"of": len(rows), "tried": tried.get(row["layer"])}
        places.append(Place("layer", str(row["layer"]), word, reason, first, values))
    return places


def _groups(analysis: Mapping[str, Any], told: Mapping[str, str]) -> list[Place]:
    rows, places = analysis.get("directions") or (), []
    word: Word
    for label, source in GROUPS:
        own = [row for row in rows if row["label"] == label]
        if not own:
            continue
        stiff, sloppy = (sum(name in row["words"].split(", ") for row in own) for name in ("stiff", "sloppy"))
        best = max(own, key=lambda row: _or(row.get("gain"), -math.inf))
        held_out = best.get("gain_held_out")
        word, reason = "undecided", "nothing"
        if stiff >= MOST * len(own):
            word, reason = "guard", "stiff"
        elif sloppy >= MOST * len(own):
            word, reason = "leave", "sloppy"
        elif label == "drift" and held_out is not None and held_out < 0:
            word, reason = "leave", "drift"
        heard = [said for arm, said in told.items() if arm.split(":")[0] == source]
        if "invest" in heard:
            word, reason = "invest", "trial"
        elif heard and set(heard) == {"harmful"}:
            word, reason = "leave", "trial"
        values = {
            "count": len(own), "stiff": stiff, "sloppy": sloppy, "gain": best.get("gain"), "gain_held_out": held_out,
            "tried": heard[0] if heard else None,
        }  # fmt: skip
        places.append(Place("directions", label, word, reason, False, values))
    return places


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


# -- costs, and what is not known --------------------------------------------------------------------------


def _spent(analysis: Mapping[str, Any], trial: Mapping[str, Any] | None) -> dict[str, float]:
    cost = analysis.get("cost") or {}
    spent = {"analysis": (cost.get("seconds") or {}).get("total"), "products": cost.get("products")}
    there = (trial or {}).get("spent") or {}
    spent |= {"trial": there.get("seconds"), "gradients": there.get("gradients")}
    return {key: value for key, value in spent.items() if value is not None}


def _following(
    analysis: Mapping[str, Any], trial: Mapping[str, Any] | None, judged: Mapping[str, Any] | None
) -> dict[str, Any]:
    if not trial:
        tried = (analysis.get("loss") or {}).get("held_out") is not None
        seconds = (analysis.get("cost") or {}).get("trial_seconds")
        return {"stage": "trial" if tried or not analysis.get("loss") else "held_out", "seconds": seconds}
    following = trial.get("next") or {}
    if judged is not None and following.get("go_on") and not following.get("stage"):
        return {"stage": "done", "seconds": None}
    power, invested = _power(trial), any(one["word"] == "invest" for one in (judged or {}).get("verdicts", ()))
    if judged is not None and not invested and power is not None and power < POWER:
        needed = [one.get("seeds_needed") for one in trial["pilot"]["arms"]]
        seeds = max(needed) if all(needed) else None
        return {"stage": "larger", "seconds": None, "seeds": seeds, "power": trial["plan"].get("wanted_power", POWER)}
    stage = following.get("stage") if following.get("go_on") else None
    if judged is None and stage is None:
        return {"stage": "none", "seconds": None}
    return {"stage": stage or "none", "seconds": following.get("seconds") if stage else None}


def _unknown(
    analysis: Mapping[str, Any], trial: Mapping[str, Any] | None, judged: Mapping[str, Any] | None
) -> Sequence[tuple[str, Mapping[str, Any]]]:
    out: list[tuple[str, Mapping[str, Any]]] = []
    if trial is None or judged is None:
        out.append(("pays", {}))
    else:
        steps = trial["plan"]["steps"] * (1 if trial["stage"] == "confirm" else 4)
        out.append(("longer", {"steps": steps}))
        power = _power(trial)
        if power is not None and power < POWER and not any(one["word"] == "invest" for one in judged["verdicts"]):
            out.append(("power", {"power": power, "effect": trial["plan"]["minimum_effect"]}))
    out.append(("other_run", {}))
    if not (analysis.get("loss") or {}).get("held_out"):
        out.append(("held_out", {}))
    sampling = analysis.get("sampling")
    if sampling and _by_halves(analysis) != "firm":
        out.append(("samples", {"half": sampling["half_values"][0], "other": sampling["other_half"][0]}))
    return out
