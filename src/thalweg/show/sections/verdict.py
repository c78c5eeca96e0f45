"""The verdict in one sentence, how sure it is, and the key figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from thalweg.decision import judged_stage
from thalweg.show.messages import Words
from thalweg.show.numbers import DASH, count, number, p_value, percent
from thalweg.show.sections.base import final, name, span

KEYS = {"agreement": "verdict.agreement", "no agreement": "verdict.no_agreement", "mixed": "verdict.mixed"}

TILE_NAME = 24


@dataclass(frozen=True)
class Tile:
    """A key figure.

    Attributes:
        hue: the palette's name of what it is about.
        value: the figure.
        label: what it is.
        note: its uncertainty or comparison.
    """

    hue: str
    value: str
    label: Markup
    note: Markup


@dataclass(frozen=True)
class Verdict:
    """The head of the report.

    Attributes:
        sentence: the verdict.
        caveat: what a trial has said of each arm; empty before one.
        sure: how sure it is.
        tiles: key figures.
    """

    sentence: Markup
    caveat: Markup
    sure: tuple[Markup, ...]
    tiles: tuple[Tile, ...]


def verdict(analysis: Mapping[str, Any], words: Words) -> Verdict:
    """The head of the report from the stored analysis."""
    told = analysis.get("verdict")
    caveat = _decided(analysis.get("trial"), words) or Markup()
    if not told or told.get("word") not in KEYS:
        return Verdict(words("verdict.none"), caveat, tuple(_sure(analysis, None, words)), _tiles(analysis, words))
    row = _row(analysis, told)
    sentence = words(
        KEYS[told["word"]],
        components=told["components"],
        source=words.plain(f"source.{told['source']}"),
        k=_k(analysis),
        **span(told.get("window") or row.get("window") or final(analysis).get("window")),
        **_shares(told),
    )
    sure = _sure(analysis, row, words)
    best, share = told.get("best_source"), told.get("best_captured")
    if best and best != told["source"] and share is not None and share > told["captured"]:
        source = words.plain(f"source.{best}")
        sure.append(words("verdict.best", components=told["components"], source=source, captured=percent(share)))
    return Verdict(sentence, caveat, tuple(sure), _tiles(analysis, words))


def _decided(trial: Mapping[str, Any] | None, words: Words) -> Markup | None:
    """What a trial has decided; None before one."""
    judged = judged_stage(trial)
    if trial is None or not judged:
        return None
    incumbent = in_words(trial["plan"]["incumbent"], words)
    told = [
        words(f"verdict.word.{one['word']}", arm=in_words(one["arm"], words), incumbent=incumbent)
        for one in judged["verdicts"]
    ]
    seeds = max(one["seeds"] for one in judged["verdicts"])
    return words("verdict.decided", seeds=seeds, told=Markup(" ").join(told))


def in_words(arm: str, words: Words) -> Markup:
    """What an arm trains, for a reader who does not know its name; the name alone where there are no words for it."""
    if arm == "full":
        return words("arm.full")
    head, _, rest = str(arm).partition(":")
    kind, count = (f"{head}.{rest.rpartition(':')[0]}", rest.rpartition(":")[2]) if head == "layers" else (head, rest)
    key = f"arm.{kind}"
    known = count.isdigit() and words.known("arm", kind) != kind
    return words(key if known else "arm.other", k=count, name=name(arm))


def _k(analysis: Mapping[str, Any]) -> object:
    return (analysis.get("settings") or {}).get("k", DASH)


def _shares(told: Mapping[str, Any]) -> dict[str, str]:
    return {part: percent(told.get(part)) for part in ("captured", "uniform", "layer_matched")}


def _row(analysis: Mapping[str, Any], told: Mapping[str, Any]) -> Mapping[str, Any]:
    """The line of the last stage's agreement that the verdict speaks of."""
    rows = [
        row
        for row in final(analysis).get("agreement") or ()
        if (row["source"], row["components"]) == (told["source"], told["components"])
    ]
    return min(rows, key=lambda row: abs(row["captured"] - told["captured"]), default={})


def _sure(analysis: Mapping[str, Any], row: Mapping[str, Any] | None, words: Words) -> list[Markup]:
    told, spectrum = analysis.get("verdict") or {}, final(analysis).get("spectrum")
    sampling, sure = analysis.get("sampling"), []
    nulls = (row or {}).get("nulls") or {}
    if row and nulls.get("uniform") and nulls.get("layer_matched"):
        uniform, matched = nulls["uniform"], nulls["layer_matched"]
        draws = (analysis.get("settings") or {}).get("draws")
        sure.append(
            words(
                "verdict.p",
                uniform=p_value(uniform.get("p_value"), uniform.get("log10_p")),
                layer_matched=p_value(matched.get("p_value"), matched.get("log10_p"), draws),
                holm=p_value(row.get("p_holm")),
            )
        )
    elif told.get("p_value") is not None:
        sure.append(words("verdict.p_single", p=p_value(told["p_value"])))
    if spectrum:
        sure.append(_certificate(analysis, spectrum, words))
    if sampling:
        sure.append(
            words(
                "verdict.sampling",
                k=_k(analysis),
                overlap=percent(sampling.get("subspace_overlap")),
                first=number(sampling["half_values"][0]),
                other=number(sampling["other_half"][0]),
            )
        )
    else:
        sure.append(words("verdict.no_sampling"))
    return sure


def _certificate(analysis: Mapping[str, Any], spectrum: Mapping[str, Any], words: Words) -> Markup:
    values = spectrum["values"]
    residuals = [value for value in spectrum.get("residuals") or () if value is not None]
    converged = spectrum.get("converged")
    kind = str(spectrum.get("certificate"))
    kind = kind if kind in {"complete", "full", "estimate"} else "other"
    return words(
        "verdict.certificate",
        converged=sum(converged) if converged else DASH,
        k=len(values),
        tolerance=number((analysis.get("settings") or {}).get("tol"), 1),
        residual=percent(max(residuals) / abs(values[0]) if residuals and values[0] else None),
        meaning=words(f"certificate.{kind}"),
    )


def _tiles(analysis: Mapping[str, Any], words: Words) -> tuple[Tile, ...]:
    told, spectrum = analysis.get("verdict") or {}, final(analysis).get("spectrum")
    cost = analysis.get("cost") or {}
    tiles = []
    if told.get("captured") is not None:
        source = words.plain(f"source.{told['source']}")
        label = words("tile.captured", k=_k(analysis), components=told["components"], source=source)
        shares = _shares(told)
        note = words("tile.captured_note", uniform=shares["uniform"], layer_matched=shares["layer_matched"])
        tiles.append(Tile(told["source"], shares["captured"], label, note))
    if spectrum:
        tiles.append(_curvature_tile(spectrum, analysis.get("sampling"), words))
    if told.get("holds_layer") and told.get("holds_share") is not None:
        tiles.append(_layer_tile(analysis, told, words))
    if (cost.get("seconds") or {}).get("total") is not None:
        note = words("tile.cost_note", products=count(cost.get("products")))
        tiles.append(Tile("chance", words.duration(cost["seconds"]["total"]), words("tile.cost"), note))
    return tuple(tiles)


def _curvature_tile(spectrum: Mapping[str, Any], sampling: Mapping[str, Any] | None, words: Words) -> Tile:
    residual = number((spectrum.get("residuals") or [None])[0], 2)
    if sampling:
        halves = {"first": number(sampling["half_values"][0]), "other": number(sampling["other_half"][0])}
        note = words("tile.lambda_note", residual=residual, **halves)
    else:
        note = words("tile.lambda_note_alone", residual=residual)
    return Tile("eigenvectors", number(spectrum["values"][0]), words("tile.lambda"), note)


def _layer_tile(analysis: Mapping[str, Any], told: Mapping[str, Any], words: Words) -> Tile:
    layers = analysis.get("layers") or []
    total = sum(layer["parameters"] for layer in layers)
    held = next((layer["parameters"] for layer in layers if layer["layer"] == told["holds_layer"]), None)
    note = words("tile.layer_note", parameters=percent(held / total)) if held else words("tile.layer_note_alone")
    label = words("tile.layer", k=_k(analysis), layer=name(told["holds_layer"], TILE_NAME))
    return Tile("eigenvectors", percent(told["holds_share"]), label, note)
