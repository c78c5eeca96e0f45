"""Whether training keeps moving in one direction, how that slows down, and what lies further along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thalweg.show import direction_plots as plots
from thalweg.show.messages import Words
from thalweg.show.numbers import count, number, p_value, percent
from thalweg.show.sections.base import Grid, Key, Picture, Section, grid, name, reading, span


def drift(analysis: Mapping[str, Any], words: Words) -> Section:
    """The drift late in training."""
    data = analysis["drift"]
    title = words("drift.title")
    if "found" not in data:
        return Section("drift", title, lead=(words("section.absent", reason=data.get("reason", "")),))
    found = data["found"]
    where = span(data.get("window"))
    lead = [
        words("drift.found" if found else "drift.not_found", p=p_value(data["p_value"]), blocks=data["blocks"], **where)
    ]
    if found:
        lead += _about(data, analysis, words)
    lead.append(_onset(data, words))
    if found:
        lead.append(_law(data, words))
        lead += _along(data, words)
    if data.get("p_value_without_decay") is not None:
        lead.append(words("drift.decay", p=p_value(data["p_value_without_decay"])))
    pictures = _pictures(data, words)
    return Section(
        "drift",
        title,
        lead=tuple(lead),
        pictures=pictures,
        legend=_legend(data, words) if pictures else (),
        reading=reading(words, "drift", **where),
        grids=_grids(data, words),
    )


def _about(data: Mapping[str, Any], analysis: Mapping[str, Any], words: Words) -> list[Any]:
    lead = [words("drift.share", share=percent(data["share"]), error=percent(2 * data["share_error"]))]
    steady = data["persistence"]
    if steady["corrected"] is not None and steady["interval"] is not None:
        low, high = steady["interval"]
        lead.append(
            words(
                "drift.persistence",
                cosine=number(min(steady["corrected"], 1.0), 2),
                low=number(low, 2),
                high=number(min(high, 1.0), 2),
                raw=number(steady["cosine"], 2),
            )
        )
    if data.get("in_stiff") is not None:
        k = len((analysis.get("stages") or [{}])[-1].get("spectrum", {}).get("values", ()))
        lead.append(
            words("drift.stiff", k=k, share=percent(data["in_stiff"]), chance=percent(data["in_stiff_by_chance"]))
        )
    return lead


def _onset(data: Mapping[str, Any], words: Words) -> Any:
    scan = data.get("scan") or []
    lasting = [row for row in scan if row["lasting"]]
    if not lasting:
        return words("drift.never", windows=len(scan))
    if len(lasting) == len(scan):
        return words("drift.always", windows=len(scan))
    return words("drift.onset", windows=len(scan), step=count(lasting[0]["start"]))


def _along(data: Mapping[str, Any], words: Words) -> list[Any]:
    """The losses furthest along."""
    rows = data.get("ahead") or []
    if len(rows) < 2:
        return []
    here, there = rows[0], rows[-1]
    values = {"steps": count(there["steps"]), "train": number(here["train"]), "train_there": number(there["train"])}
    if here["held_out"] is None:
        return [words("drift.along_train", **values)]
    values |= {"held_out": number(here["held_out"]), "held_out_there": number(there["held_out"])}
    return [words("drift.along", **values)]


def _law(data: Mapping[str, Any], words: Words) -> Any:
    fits = {fit["name"]: fit for fit in data["speeds"]["fits"]}
    if data["half_life_word"] == "told":
        low, high = data["half_life_interval"]
        return words(
            "drift.half_life",
            half=count(round(data["half_life"])),
            low=count(round(low)),
            high=count(round(high)),
            distance=number(data["distance_left"]),
        )
    if data["model"] == "power law":
        return words("drift.power", exponent=number(fits["power law"]["rate"], 2))
    if data["model"] == "constant":
        return words("drift.constant")
    return words("drift.unidentified" if data["half_life_word"] in ("unseen", "wide") else "drift.undecided")


def _pictures(data: Mapping[str, Any], words: Words) -> tuple[Picture, ...]:
    pictures = []
    if data["found"]:
        laws = "; ".join(
            f"{words.plain('law.' + fit['name'])}: {number(fit['aicc'])}" for fit in data["speeds"]["fits"]
        )
        pictures.append(
            Picture(
                "drift-speeds",
                words.plain("drift.speeds"),
                words.plain("drift.speeds_alt", laws=laws),
                lambda axes: plots.drift_speeds(axes, data["speeds"], words),
            )
        )
    if len(data.get("ahead") or ()) > 1:
        last = data["ahead"][-1]
        alt = words.plain("drift.ahead_alt", steps=count(last["steps"]), train=number(last["train"]),
                          held_out=number(last["held_out"]))  # fmt: skip
        pictures.append(
            Picture(
                "drift-ahead",
                words.plain("drift.ahead"),
                alt,
                lambda axes: plots.losses_ahead(axes, data["ahead"], words),
                left=66,
            )
        )
    return tuple(pictures)


def _legend(data: Mapping[str, Any], words: Words) -> tuple[Key, ...]:
    keys = []
    if data["found"]:
        keys += [
            Key("wedge", "drift", words("drift.key.speed")),
            Key("dots", "muted", words("law.constant")),
            Key("dash", "muted", words("law.exponential")),
            Key("line", "muted", words("law.power law")),
        ]
    if len(data.get("ahead") or ()) > 1:
        keys.append(Key("ring", "drift", words("ahead.train")))
        if data["ahead"][0]["held_out"] is not None:
            keys.append(Key("wedge", "drift", words("ahead.held_out")))
        keys.append(Key("dash", "chance", words("ahead.train_control")))
        if data["ahead"][0]["held_out"] is not None:
            keys.append(Key("dots", "chance", words("ahead.held_out_control")))
    return tuple(keys)


def _grids(data: Mapping[str, Any], words: Words) -> tuple[Grid, ...]:
    grids = []
    scan = [
        (
            f"{count(row['start'])}–{count(row['stop'] - 1)}",
            p_value(row["p_holm"]),
            percent(row["share"]),
            number(row["cosine"], 2),
        )
        for row in data.get("scan") or []
    ]
    if scan:
        grids.append(grid(words, "drift.scan", ["steps", "p", "share", "cosine"], scan))
    layers = [(name(row["layer"]), p_value(row["p_holm"]), percent(row["share"])) for row in data.get("layers") or []]
    if layers:
        grids.append(grid(words, "drift.layers", ["layer", "p", "share"], layers))
    ahead = [
        (
            count(row["steps"]),
            *(number(row[key], 4) for key in ("train", "train_control", "held_out", "held_out_control")),
        )
        for row in data.get("ahead") or []
    ]
    if ahead:
        columns = ["ahead", "train", "train_control", "held_out", "held_out_control"]
        grids.append(grid(words, "drift.losses", columns, ahead))
    return tuple(grids)
