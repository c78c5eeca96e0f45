"""The curvature of the whole network and of its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from thalweg.show import direction_plots, plots, style
from thalweg.show.messages import Words
from thalweg.show.numbers import clean, clip, columns, count, number, percent
from thalweg.show.sections.base import Grid, Key, Picture, Section, final, grid, name, reading

MOST_LAYERS = 40


def eigenvalues(analysis: Mapping[str, Any], words: Words) -> Section:
    """Eigenvalues at the end of training with their certificates, and through training."""
    stage, sampling = final(analysis), analysis.get("sampling")
    spectrum, problem = stage["spectrum"], analysis.get("problem") or {}
    values = spectrum["values"]
    outside = analysis.get("held_out") or {}
    held_out = [value for value in outside.get("curvature") or () if value is not None]
    ends = {"first": number(values[0]), "last": number(values[-1])}
    pictures = [
        Picture(
            "eigenvalues",
            words.plain("eigenvalues.end", step=count(stage["step"])),
            words.plain("eigenvalues.alt", **ends),
            lambda axes: plots.eigenvalues(axes, spectrum, words, sampling, held_out),
        )
    ]
    legend = [Key("diamond", "eigenvectors", words("eigenvalues.mark"))]
    if sampling:
        legend += [
            Key("bar", "chance", words("eigenvalues.half")),
            Key("dot", "chance", words("eigenvalues.other")),
        ]
    lead = [words("eigenvalues.lead", k=len(values), **ends)]
    if held_out:
        legend.append(Key("ring", "ink", words("eigenvalues.outside")))
        shares = {"held_out": number(held_out[0]), "first": ends["first"]}
        lead.append(words("eigenvalues.held_out", samples=count(outside.get("samples")), **shares))
    stages = analysis["stages"]
    if len(stages) > 1:
        pictures.append(_through(stages, words))
        legend += [
            Key("line", "eigenvectors", words("eigenvalues.largest")),
            Key("line", "eigenvectors-3", words("eigenvalues.rest")),
        ]
    tracked = [{"step": stage["step"], **stage["tracking"]} for stage in stages if stage.get("tracking")]
    lead += _moments(tracked, len(values), words)
    if len(tracked) > 1:
        pictures.append(_tracked(tracked, words))
        legend += [
            Key("diamond", "eigenvectors", words("tracking.key.threshold")),
            Key("disc", "muted", words("tracking.key.persistence")),
        ]
    return Section(
        "eigenvalues",
        words("eigenvalues.title"),
        lead=tuple(lead),
        pictures=tuple(pictures),
        legend=tuple(legend),
        reading=reading(
            words,
            "eigenvalues",
            samples=count(problem.get("samples")),
            mode=words.known("mode", str(problem.get("mode", "evaluation"))),
            products=count(spectrum.get("matvecs")),
        ),
        grids=(_spectrum_table(spectrum, sampling, held_out, words), *_tracking_table(tracked, stages, words)),
    )


def _moments(tracked: Sequence[Mapping[str, Any]], k: int, words: Words) -> list[Any]:
    """How near the end is to instability, and how much of the space was there before."""
    last = tracked[-1] if tracked else {}
    out = []
    if last.get("of_threshold") is not None:
        out.append(words("tracking.threshold", share=percent(last["of_threshold"])))
    if last.get("persistence") is not None:
        out.append(words("tracking.persistence", k=count(k), share=percent(last["persistence"])))
    return out


def _tracked(tracked: Sequence[Mapping[str, Any]], words: Words) -> Picture:
    told = {key: ", ".join(percent(row[key]) for row in tracked) for key in ("of_threshold", "persistence")}
    return Picture(
        "eigenvalues-tracking",
        words.plain("tracking.lines"),
        words.plain(
            "tracking.lines_alt",
            steps=", ".join(count(row["step"]) for row in tracked),
            shares=told["of_threshold"],
            persistence=told["persistence"],
        ),
        lambda axes: direction_plots.tracking(axes, tracked, words),
    )


def _tracking_table(
    tracked: Sequence[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]], words: Words
) -> tuple[Grid, ...]:
    if not tracked:
        return ()
    first = {stage["step"]: stage["spectrum"]["values"][0] for stage in stages}
    cells = [
        (
            count(row["step"]),
            number(first[row["step"]]),
            percent(row["of_threshold"]),
            percent(row["persistence"]),
            percent(row["participation"]),
            clean(row["layer"]),
            percent(row["layer_share"]),
        )
        for row in tracked
    ]
    columns = ["step", "value", "of_threshold", "persistence", "participation", "layer", "layer_share"]
    return (grid(words, "tracking.table", columns, cells),)


def _through(stages: Sequence[Mapping[str, Any]], words: Words) -> Picture:
    return Picture(
        "eigenvalues-through",
        words.plain("eigenvalues.through"),
        words.plain(
            "eigenvalues.through_alt",
            steps=", ".join(count(stage["step"]) for stage in stages),
            first=number(stages[0]["spectrum"]["values"][0]),
            last=number(stages[-1]["spectrum"]["values"][0]),
        ),
        lambda axes: plots.spectra(axes, stages, words),
    )


def _spectrum_table(
    spectrum: Mapping[str, Any], sampling: Mapping[str, Any] | None, held_out: Sequence[float], words: Words
) -> Grid:
    size = len(spectrum["values"])
    parts: dict[str, list[str]] = {"number": [str(place + 1) for place in range(size)]}
    parts["value"] = [number(value, 4) for value in spectrum["values"]]
    for column, key in (("residual", "residuals"), ("gap", "gaps"), ("angle", "angles")):
        if spectrum.get(key):
            parts[column] = [number(value, 2) for value in spectrum[key]]
    if spectrum.get("converged"):
        parts["converged"] = [words.plain("yes" if good else "no") for good in spectrum["converged"]]
    for column, key in (("half", "half_values"), ("other", "other_half")):
        if sampling and len(sampling.get(key) or ()) >= size:
            parts[column] = [number(value, 3) for value in sampling[key][:size]]
    if len(held_out) >= size:
        parts["outside"] = [number(value, 3) for value in held_out[:size]]
    return grid(words, "eigenvalues.table", list(parts), list(zip(*parts.values(), strict=True)), leading=0)


def layers(analysis: Mapping[str, Any], words: Words) -> Section:
    """The largest curvature of every layer beside what else it holds."""
    rows = sorted(analysis["layers"], key=lambda layer: layer.get("depth") or 0)
    spectrum = final(analysis).get("spectrum") or {}
    net = (spectrum.get("values") or [None])[0]
    shown = rows
    if len(rows) > MOST_LAYERS:
        kept = sorted(range(len(rows)), key=lambda place: -_first(rows[place]))[:MOST_LAYERS]
        shown = [rows[place] for place in sorted(kept)]
    height = 54 + 25 * len(shown)
    left = 20 + 6.2 * max(columns(clip(layer["layer"], style.NAME_WIDTH)) for layer in shown)
    alt = words.plain(
        "layers.alt",
        values="; ".join(
            words.plain("layers.alt_item", layer=clip(layer["layer"], 40), value=number(_first(layer)))
            for layer in shown
        ),
        net=number(net),
    )
    lead = [_layers_lead(rows, analysis, words)]
    if len(shown) < len(rows):
        lead.append(words("layers.some", shown=len(shown), all=len(rows)))
    return Section(
        "layers",
        words("layers.title"),
        lead=tuple(lead),
        pictures=(
            Picture(
                "layers-curvature",
                words.plain("layers.curvature"),
                alt,
                lambda axes: plots.layer_curvature(axes, shown, words, net),
                height=height,
                left=left,
            ),
            Picture(
                "layers-shares",
                words.plain("layers.shares"),
                words.plain("layers.shares_alt"),
                lambda axes: plots.layer_shares(axes, shown, words),
                height=height,
                left=left,
            ),
            *_costs(shown, words, height, left),
        ),
        legend=(
            Key("diamond", "eigenvectors", words("layers.own")),
            Key("dash", "eigenvectors", words("layers.net")),
            Key("tick", "chance", words("layers.parameters")),
            Key("disc", "updates", words("layers.update_energy")),
            Key("square", "weights", words("layers.weight_energy")),
            Key("diamond", "eigenvectors", words("layers.eigenvector_energy")),
        ),
        reading=reading(words, "layers"),
        grids=(_layers_table(rows, words), *_orders(rows, words)),
    )


def _costs(rows: Sequence[Mapping[str, Any]], words: Words, height: float, left: float) -> tuple[Picture, ...]:
    """What noise in each layer costs, where that was measured."""
    if any(layer.get("noise_cost") is None for layer in rows):
        return ()
    told = "; ".join(
        words.plain(
            "layers.alt_item", layer=clip(layer["layer"], 40), value=_ranged(layer, "noise_cost", words, number)
        )
        for layer in rows
    )
    costs = [{"noise_cost_low": None, "noise_cost_high": None, **layer} for layer in rows]
    return (
        Picture(
            "layers-costs",
            words.plain("layers.costs"),
            words.plain("layers.costs_alt", told=told),
            lambda axes: direction_plots.layer_costs(axes, costs, words),
            height=height,
            left=left,
        ),
    )


def _first(layer: Mapping[str, Any]) -> float:
    values = layer.get("values")
    return float(values[0]) if values and values[0] is not None else float("-inf")


def _layers_lead(rows: Sequence[Mapping[str, Any]], analysis: Mapping[str, Any], words: Words) -> Any:
    stiffest = max(rows, key=_first)
    holds = max(rows, key=lambda layer: layer.get("eigenvector_energy") or 0.0)
    total = sum(layer["parameters"] for layer in rows) or 1
    return words(
        "layers.lead",
        layer=name(stiffest["layer"]),
        share=percent(stiffest.get("share_of_net")),
        holds=name(holds["layer"]),
        energy=percent(holds.get("eigenvector_energy")),
        parameters=percent(holds["parameters"] / total),
        k=(analysis.get("settings") or {}).get("k", len(final(analysis).get("spectrum", {}).get("values", ()))),
    )


def _layers_table(rows: Sequence[Mapping[str, Any]], words: Words) -> Grid:
    heads = ["layer", "depth", "parameters", "value", "residual", "share"]
    heads += ["update_energy", "weight_energy", "eigenvector_energy"]
    cells = [
        (
            clean(layer["layer"]),
            count(layer.get("depth")),
            count(layer["parameters"]),
            number(_first(layer), 4),
            number((layer.get("residuals") or [None])[0], 2),
            percent(layer.get("share_of_net")),
            percent(layer.get("update_energy")),
            percent(layer.get("weight_energy")),
            percent(layer.get("eigenvector_energy")),
        )
        for layer in rows
    ]
    return grid(words, "layers.table", heads, cells)


def _orders(rows: Sequence[Mapping[str, Any]], words: Words) -> tuple[Grid, ...]:
    """In which order to tune and to compress, with intervals over batches."""
    if not all("fine_tuning" in layer for layer in rows):
        return ()
    heads = ["layer", "tuning", "gain", "compressing", "noise_cost", "trace", "drift_share"]
    cells = [
        (
            clean(layer["layer"]),
            _ranged(layer, "fine_tuning", words, count),
            _ranged(layer, "gain", words, number),
            _ranged(layer, "compression", words, count),
            _ranged(layer, "noise_cost", words, number),
            words.plain("layers.with_error", value=number(layer["trace"]), error=number(layer["trace_error"], 2)),
            percent(layer.get("drift_share")),
        )
        for layer in rows
    ]
    return (grid(words, "layers.orders", heads, cells),)


def _ranged(layer: Mapping[str, Any], key: str, words: Words, shown: Callable[[Any], str]) -> str:
    """A value with its interval, where it has one and that is no point."""
    value, low, high = (layer.get(key + ending) for ending in ("", "_low", "_high"))
    if value is None or low is None or low == high:
        return shown(value)
    if high is None:
        return shown(value)
    ends = (round(low), round(high)) if shown is count else (low, high)
    return words.plain("layers.ranged", value=shown(value), low=shown(ends[0]), high=shown(ends[1]))
