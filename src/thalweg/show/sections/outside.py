"""What stands beside the training curvature: held-out data, noise, and the scale of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from thalweg.show import direction_plots as plots
from thalweg.show.messages import Words
from thalweg.show.numbers import clean, count, number, percent
from thalweg.show.sections.base import Grid, Key, Picture, Section, final, grid, reading


def outside(analysis: Mapping[str, Any], words: Words) -> Section:
    """Spectra on training and held-out data side by side, losses under noise, relative sharpness."""
    train = (final(analysis).get("spectrum") or {}).get("values") or []
    there = analysis.get("held_out") or {}
    noise = analysis.get("robustness") or {}
    rows = noise.get("rows") or []
    lead = [_held_out(train, there, words)]
    lead += _sharpness(analysis["sharpness"], words)
    if rows:
        lead += _under_noise(rows, words)
    elif noise.get("reason"):
        lead.append(words("outside.no_noise", reason=clean(noise["reason"])))
    pictures, legend = [], []
    if there.get("values"):
        pictures.append(_both(train, there["values"], words))
        legend += [
            Key("diamond", "eigenvectors", words("outside.key.train")),
            Key("ring", "eigenvectors", words("outside.key.held_out")),
        ]
    if rows:
        pictures.append(_losses(rows, words))
        legend += [Key("disc", "ink", words("outside.key.inputs")), Key("square", "muted", words("outside.key.labels"))]
    return Section(
        "outside",
        words("outside.title"),
        lead=tuple(lead),
        pictures=tuple(pictures),
        legend=tuple(legend),
        reading=reading(words, "outside"),
        grids=tuple(_noise_table(rows, words)),
    )


def _held_out(train: Sequence[float], there: Mapping[str, Any], words: Words) -> Markup:
    if not there.get("values"):
        return words("outside.absent")
    values = {"held_out": number(there["values"][0]), "train": number(train[0] if train else None)}
    return words(
        "outside.held_out",
        samples=count(there.get("samples")),
        k=count(len(there["values"])),
        overlap=percent(there["subspace"]),
        chance=percent(there["subspace_by_chance"]),
        layer_matched=percent(there["subspace_by_layer"]),
        **values,
    )


def _sharpness(data: Mapping[str, Any], words: Words) -> list[Markup]:
    """The relative sharpnesses that there are."""
    known = {scale: data.get(scale) or {} for scale in ("filter", "entry")}
    reasons = [found["reason"] for found in known.values() if "reason" in found]
    if reasons:
        return [words("outside.no_scale", reason=clean(reasons[0]))]
    values = {scale: number(found.get("value")) for scale, found in known.items()}
    return [words("outside.sharpness", raw=number(data.get("raw")), **values)]


def _strongest(rows: Sequence[Mapping[str, Any]], noise: str) -> Mapping[str, Any] | None:
    found = [row for row in rows if row["noise"] == noise]
    return max(found, key=lambda row: float(row["level"])) if found else None


def _judged(rows: Sequence[Mapping[str, Any]]) -> str:
    """The data whose losses are told: held-out ones if there are any."""
    return "train" if rows[0]["held_out"] is None else "held_out"


def _under_noise(rows: Sequence[Mapping[str, Any]], words: Words) -> list[Markup]:
    data = _judged(rows)
    out = []
    for noise in ("inputs", "labels"):
        worst = _strongest(rows, noise)
        if worst is not None:
            out.append(
                words(
                    f"outside.noise.{noise}",
                    level=percent(worst["level"]),
                    data=words(f"outside.data.{data}"),
                    clean=number(rows[0][data]),
                    noisy=number(worst[data]),
                    largest=number(worst["largest"]),
                    calm=number(rows[0]["largest"]),
                )
            )
    return out


def _both(train: Sequence[float], held_out: Sequence[float], words: Words) -> Picture:
    firsts = {"train": number(train[0] if train else None), "held_out": number(held_out[0])}
    return Picture(
        "outside-spectra",
        words.plain("outside.spectra"),
        words.plain("outside.spectra_alt", **firsts),
        lambda axes: plots.two_spectra(axes, train, held_out, words),
    )


def _losses(rows: Sequence[Mapping[str, Any]], words: Words) -> Picture:
    data = _judged(rows)
    told = []
    for row in rows[1:]:
        noise = words.known("outside.key", row["noise"])
        told.append(f"{noise} {percent(row['level'])}: {number(row[data])}")
    return Picture(
        "outside-noise",
        words.plain("outside.losses", data=words.plain(f"outside.data.{data}")),
        words.plain("outside.losses_alt", clean=number(rows[0][data]), told="; ".join(told)),
        lambda axes: plots.losses_under_noise(axes, rows, data, words),
        left=66,
    )


def _noise_table(rows: Sequence[Mapping[str, Any]], words: Words) -> list[Grid]:
    if not rows:
        return []
    cells = [
        (
            words.known("outside.key", row["noise"]),
            percent(row["level"]),
            _with_error(row, "train", words),
            _with_error(row, "held_out", words),
            number(row["largest"]),
        )
        for row in rows
    ]
    return [grid(words, "outside.table", ["noise", "level", "train", "held_out", "largest"], cells)]


def _with_error(row: Mapping[str, Any], key: str, words: Words) -> str:
    value, error = row[key], row[f"{key}_error"]
    if value is None or error is None:
        return number(value)
    return words.plain("layers.with_error", value=number(value), error=number(error, 2))
