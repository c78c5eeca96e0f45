"""The first page, for those who decide, and at the end the sentences that can be said in a meeting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from thalweg.decision import WORDS, Decision, Finding, Place
from thalweg.show.messages import Words
from thalweg.show.numbers import count, number, p_value, percent
from thalweg.show.sections.base import Section, name, span
from thalweg.show.sections.trial import plan_command
from thalweg.show.sections.verdict import in_words

SHOWN = 6
"""Layers on the first page at the most; the section on layers has all."""


@dataclass(frozen=True)
class Told:
    """A finding in words.

    Attributes:
        certainty: "firm", "fair" or "open".
        word: that, in the language.
        text: what was found.
        why: what its certainty rests on.
    """

    certainty: str
    word: str
    text: Markup
    why: Markup


@dataclass(frozen=True)
class Row:
    """A place in words.

    Attributes:
        word: "invest", "guard", "undecided" or "leave".
        where: what it is.
        action: the word in the language.
        why: the reason.
    """

    word: str
    where: Markup
    action: str
    why: Markup


@dataclass(frozen=True)
class Page:
    """The first page.

    Attributes:
        state: of the decision.
        sentence: what it comes to.
        findings: three at the most.
        rows: where to work, and where not.
        meanings: the words of the table with what they mean, those that it uses.
        costs: sentences.
        command: that plans a trial; "" where one has been or cannot be written down.
        unknown: what is not known.
    """

    state: str
    sentence: Markup
    findings: tuple[Told, ...]
    rows: tuple[Row, ...]
    meanings: tuple[tuple[str, str, str], ...]
    costs: tuple[Markup, ...]
    command: str
    unknown: tuple[Markup, ...]


def page(analysis: Mapping[str, Any], found: Decision, words: Words) -> Page:
    """The first page from the stored results and the decision that they lead to."""
    rows = tuple(_row(place, words) for place in _few(found.places))
    used = [word for word in WORDS if any(row.word == word for row in rows)]
    return Page(
        state=found.state,
        sentence=sentence(analysis, found, words),
        findings=tuple(_told(one, analysis, words) for one in found.findings),
        rows=rows,
        meanings=tuple((word, words.plain(f"action.{word}"), words.plain(f"action.{word}.means")) for word in used),
        costs=_costs(found, words),
        command=plan_command(analysis) if found.following["stage"] == "trial" else "",
        unknown=tuple(words(f"unknown.{key}", **_figures(values)) for key, values in found.unknown),
    )


def sentence(analysis: Mapping[str, Any], found: Decision, words: Words) -> Markup:
    """What it comes to, in one sentence."""
    return words(f"decision.{_asked(found)}", **_named(analysis, found, words))


def meeting(analysis: Mapping[str, Any], found: Decision, words: Words) -> Section:
    """The sentences for a meeting, as far as what they need was measured."""
    spent, items = found.spent, []
    parameters = (analysis.get("run") or {}).get("parameters")
    if parameters:
        items.append(words("meeting.purpose", parameters=count(parameters)))
    if "analysis" in spent:
        times = {key: words.duration(spent[key]) for key in ("analysis", "trial") if key in spent}
        items.append(words("meeting.cost_trial" if "trial" in times else "meeting.cost", **times))
    items.append(_outcome(analysis, found, words))
    for word in ("guard", "leave"):
        layers = [place for place in found.places if place.kind == "layer" and place.word == word]
        if layers:  # the last to be compressed comes first
            chosen = layers[0 if word == "guard" else -1]
            items.append(words(f"meeting.{word}", where=words("place.layer", name=name(chosen.name))))
    following = found.following
    if following["stage"] in ("confirm", "full") and following["seconds"]:
        items.append(words("meeting.next", seconds=words.duration(following["seconds"])))
    items.append(words(f"meeting.condition.{_spoken(found)}", **_named(analysis, found, words)))
    return Section("meeting", words("meeting.title"), lead=(words("meeting.lead"),), items=tuple(items))


def _outcome(analysis: Mapping[str, Any], found: Decision, words: Words) -> Markup:
    if found.state == "undecided":
        price = found.following["seconds"] if found.following["stage"] == "trial" else None
        return words("meeting.undecided_cost", seconds=words.duration(price)) if price else words("meeting.undecided")
    values = found.findings[0].values
    told = {"seeds": count(values["seeds"]), "gain": percent(values["gain"])}
    state = _asked(found) if found.state == "invest" else found.state
    return words(f"meeting.{state}", **{**_named(analysis, found, words), **told})


def _spoken(found: Decision) -> str:
    """The state; "keep_open" where a trial that could hardly have found anything is all that there is to go by."""
    return "keep_open" if found.state == "keep" and found.findings[0].certainty == "open" else found.state


def _asked(found: Decision) -> str:
    """The state of an investment, by what the trial had asked: to be better, or as good in less time."""
    if found.state == "invest" and found.findings[0].values["question"] == "as good":
        return "invest_as_good"
    return _spoken(found)


def _named(analysis: Mapping[str, Any], found: Decision, words: Words) -> dict[str, object]:
    """The arms and the incumbent, for those who do not know their names."""
    trial = analysis.get("trial") or {}
    incumbent = str((trial.get("plan") or {}).get("incumbent", "full"))
    arms = Markup(words.plain("trial.comma")).join(in_words(arm, words) for arm in found.arms)
    tried = len((trial.get("plan") or {}).get("arms") or found.arms)
    return {"arms": arms, "count": count(tried), "incumbent": in_words(incumbent, words)}


# -- findings ----------------------------------------------------------------------------------------------


def _told(one: Finding, analysis: Mapping[str, Any], words: Words) -> Told:
    text = words(f"finding.{one.kind}.{one.word}", **_figures(one.values, words))
    return Told(one.certainty, words.plain(f"certainty.{one.certainty}"), text, _why(one, analysis, words))


def _why(one: Finding, analysis: Mapping[str, Any], words: Words) -> Markup:
    values = _figures(one.values, words)
    if one.kind == "trial":
        return words("finding.trial.p" if one.word == "invest" else "finding.trial.power", **values)
    if one.kind == "agreement":
        short = one.values.get("overlap") is None
        return words("finding.agreement.why_short" if short else "finding.agreement.why", **values)
    if one.kind == "drift":
        return words("finding.drift.why", **values, **span(one.values.get("window"))) if one.values else Markup()
    if one.kind == "sampling":
        return words("finding.sampling.why", **values)
    sampling = analysis.get("sampling")
    if not sampling:
        return words("finding.no_halves")
    half, other = number(sampling["half_values"][0]), number(sampling["other_half"][0])
    return words("finding.halves", half=half, other=other)


SHARES = ("captured", "uniform", "layer_matched", "overlap", "by_layer", "share", "effect", "power", "gain")
COUNTS = ("seeds", "arms", "components", "k", "steps", "of", "count", "stiff", "sloppy")


def _figures(values: Mapping[str, Any], words: Words | None = None) -> dict[str, object]:
    """Figures as a person reads them."""
    shown: dict[str, object] = {}
    for key, value in values.items():
        if key in SHARES:
            shown[key] = percent(value)
        elif key in COUNTS:
            shown[key] = count(value)
        elif key == "p":
            shown[key] = p_value(value)
        elif key == "source" and words is not None:
            shown[key] = words.plain(f"source.{value}")
        elif isinstance(value, (int, float)):
            shown[key] = number(value)
    return shown


# -- places ------------------------------------------------------------------------------------------------


def _few(places: tuple[Place, ...]) -> list[Place]:
    """All groups of directions, and layers from both ends where there are many."""
    layers = [place for place in places if place.kind == "layer"]
    half = SHOWN // 2
    kept = layers if len(layers) <= SHOWN else [*layers[:half], *layers[-half:]]
    return [place for place in places if place.kind == "directions" or place in kept]


def _row(place: Place, words: Words) -> Row:
    if place.kind == "layer":
        where = words("place.layer", name=name(place.name, 24))
    else:
        where = words(f"group.{place.name}", count=count(place.values["count"]))
    why = [_reason(place, words)]
    if place.values.get("tried") and place.reason != "trial":
        why.append(words("place.tried", word=words.known("trial.word", place.values["tried"])))
    if place.first and place.word in ("undecided", "leave"):
        why.append(words("place.first"))
    return Row(
        place.word, where, words.plain(f"action.{place.word}"), Markup(words.plain("decision.stop_mark")).join(why)
    )


def _reason(place: Place, words: Words) -> Markup:
    values = place.values
    if place.reason == "trial":
        return words(f"place.trial.{place.word}")
    if place.kind == "layer":
        ranks = {"rank": count(values["compression"]), "of": count(values["of"])}
        key = "place.nothing.layer" if place.reason == "nothing" else f"place.compression.{place.word}"
        return words(key, **ranks)
    if place.reason in ("stiff", "sloppy"):
        if values["count"] == 1:
            return words(f"place.{place.reason}_one")
        return words(f"place.{place.reason}", many=count(values[place.reason]), count=count(values["count"]))
    if place.reason == "drift":
        return words("place.drift", rise=number(-values["gain_held_out"]))
    if values["gain_held_out"] is None or values["gain"] is None:
        return words("place.nothing.directions", gain=number(values["gain"]))
    changes = {key: number(-values[key]) for key in ("gain", "gain_held_out")}
    return words("place.nothing.held_out", **changes)


def _costs(found: Decision, words: Words) -> tuple[Markup, ...]:
    spent, following = found.spent, found.following
    out = []
    if "analysis" in spent:
        products = count(int(spent["products"])) if "products" in spent else "–"
        out.append(words("decision.spent.analysis", seconds=words.duration(spent["analysis"]), products=products))
    if "trial" in spent:
        gradients = count(int(spent.get("gradients", 0)))
        out.append(words("decision.spent.trial", seconds=words.duration(spent["trial"]), gradients=gradients))
    stage, price = following["stage"], following["seconds"]
    if stage == "larger":
        key = "decision.next.larger" if following["seeds"] else "decision.next.far_larger"
        out.append(words(key, seeds=count(following["seeds"]), power=percent(following["power"])))
    elif stage in ("none", "done", "held_out"):
        out.append(words(f"decision.next.{stage}"))
    elif price:
        out.append(words(f"decision.next.{stage}", seconds=words.duration(price)))
    elif stage == "trial":
        out.append(words("decision.next.trial_short"))
    return tuple(out)
